"""The stage data: print what each source of tasks holds, and fetch what is missing."""

from collections.abc import Sequence

from augment.errors import InputError
from pipeline.console import say_table
from pipeline.sources import BUNDLED, load_source


def data(names: Sequence[str] = BUNDLED) -> None:
    """Print a line for each source; raise :class:`InputError` for those that cannot be read."""
    rows = []
    failures = []
    for name in names:
        try:
            tasks = load_source(name)
        except InputError as error:
            failures.append(str(error))
            continue
        rows.append((
            name,
            len(tasks),
            sum(len(task.train) for task in tasks),
            sum(len(task.test_inputs) for task in tasks),
            "known" if all(task.solutions is not None for task in tasks) else "hidden",
            max(task.longest_side() for task in tasks),
        ))  # fmt: skip
    columns = ("source", "tasks", "demonstrations", "test outputs", "solutions", "largest side")
    say_table("data", dict.fromkeys(columns, ""), rows)
    if failures:
        raise InputError("; ".join(failures))
