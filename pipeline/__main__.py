"""``python -m pipeline STAGE``: one command per stage; errors are one line, without a traceback."""

import io
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from augment.errors import InputError
from pipeline import prediction, recipes, stages
from pipeline.clock import end_with_torchrun
from pipeline.console import choose_form, fail
from pipeline.metrics import require_packages
from pipeline.runs import Run

_SETTINGS_HELP = "\b\nSettings (values of the recipe demo):\n" + "\n".join(
    f"  {name}={value}  {meaning}"
    for name, value, meaning in recipes.describe_settings(recipes.demo())
)


def new_app(purpose: str) -> typer.Typer:
    """Return a command line without commands yet, whose help opens with ``purpose``."""
    return typer.Typer(
        help=purpose,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


app = new_app("From ARC tasks to a scored submission.json with the Tiny Recursion Model.")

Recipe = Annotated[str, typer.Option(help=f"One of: {', '.join(recipes.RECIPES)}.")]
RunName = Annotated[
    str, typer.Option("--run-name", help="Folder below runs/; the recipe's name if empty.")
]
Changes = Annotated[
    str,
    typer.Option("--set", help='Changed settings, such as "train.lr=3e-4 predict.num_views=64".'),
]


def open_run(recipe: str, run: str, changes: str) -> tuple[recipes.Settings, Run]:
    """Return the settings and the run that the options of a command name."""
    settings = recipes.load_recipe(recipe, split_changes(changes))
    choose_form(settings.log)
    require_packages(settings.log)
    return settings, Run.named(run or recipe)


def split_changes(changes: str) -> list[str]:
    """Return the changes of settings in the value of ``--set``."""
    try:
        return shlex.split(changes)
    except ValueError as error:
        raise InputError(f"settings {changes!r}: {error}") from None


def _numbers(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise InputError(f"{text!r}: expected numbers such as 1,8,32")
    return [int(number) for number in numbers]


@app.command()
def data(
    source: Annotated[
        list[str] | None, typer.Argument(help="Sources; all bundled ones if none.")
    ] = None,
) -> None:
    """Print what each source of tasks holds; fetch what is missing."""
    stages.data(source) if source else stages.data()


@app.command(epilog=_SETTINGS_HELP)
def build(recipe: Recipe = "demo", run: RunName = "", changes: Changes = "") -> None:
    """Write the data set: tasks and the plan of their views."""
    stages.build(*open_run(recipe, run, changes))


@app.command(epilog=_SETTINGS_HELP)
def pretrain(recipe: Recipe = "demo", run: RunName = "", changes: Changes = "") -> None:
    """Train; the same command goes on where it stopped."""
    stages.pretrain(*open_run(recipe, run, changes))


@app.command(epilog=_SETTINGS_HELP)
def predict(recipe: Recipe = "demo", run: RunName = "", changes: Changes = "") -> None:
    """Answer the tasks: submission.json, and the score where answers are known."""
    prediction.predict(*open_run(recipe, run, changes))


@app.command("plan", epilog=_SETTINGS_HELP)
def plan_(
    recipe: Recipe = "demo",
    changes: Changes = "",
    gpu: Annotated[
        str, typer.Option(help="h100, h200, l4, t4, 4090, or several such as l4x4; or cpu.")
    ] = "h100",
) -> None:
    """Print the memory, speed and minutes that a recipe is expected to take on a card."""
    from pipeline.plan import plan

    settings = recipes.load_recipe(recipe, split_changes(changes))
    choose_form(settings.log)
    plan(settings, gpu)


@app.command("sweep", epilog=_SETTINGS_HELP)
def sweep_(
    recipe: Recipe = "demo",
    run: RunName = "",
    changes: Changes = "",
    views: Annotated[str, typer.Option(help="Numbers of views.")] = "1,8,32,128",
    steps: Annotated[str, typer.Option(help="Numbers of supervision steps.")] = "1,2,4,8,16",
) -> None:
    """Score by number of views and supervision steps: sweep.json."""
    from pipeline.sweep import sweep

    sweep(*open_run(recipe, run, changes), _numbers(views), _numbers(steps))


@app.command()
def export(
    to: Annotated[Path, typer.Option(help="Folder to write; it may not exist yet.")],
    run: RunName = "demo",
) -> None:
    """Copy what prediction needs of a run's newest checkpoint into a folder of its own."""
    stages.export(Run.named(run), to)


@app.command()
def score(
    run: RunName = "",
    submission: Annotated[Path | None, typer.Option(help="Instead of the run's.")] = None,
    challenges: Annotated[Path | None, typer.Option(help="Instead of the run's.")] = None,
    solutions: Annotated[Path | None, typer.Option(help="Instead of the run's.")] = None,
    votes: Annotated[Path | None, typer.Option(help="Folder, instead of the run's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print pass@1, pass@2 and, from the votes, the oracle's pass@k and every ranking's score."""
    from pipeline.results import ResultFiles
    from pipeline.results import score as print_score

    if run:
        of_run = ResultFiles.of_run(Run.named(run))
        files = replace(
            of_run,
            submission=submission or of_run.submission,
            challenges=challenges or of_run.challenges,
            solutions=solutions or of_run.solutions,
            votes=votes or (None if submission else of_run.votes),
        )
    elif submission and challenges and solutions:
        files = ResultFiles(submission, challenges, solutions, votes)
    else:
        raise InputError("score needs --run-name, or --submission, --challenges and --solutions")
    print_score(files, as_json=json)


@app.command("report")
def report_(
    run: RunName = "demo",
    beside: Annotated[
        str, typer.Option(help='Runs whose curves of training are drawn too: "first second".')
    ] = "",
) -> None:
    """Write the page of a run: report/index.html."""
    from pipeline.results import report

    report(Run.named(run), [Run.named(name) for name in beside.split()])


@app.command("show")
def show_(
    task: Annotated[str, typer.Option(help="Id of the task, such as 00576224.")],
    run: RunName = "",
) -> None:
    """Draw a task, of a run with its attempts, in the terminal."""
    from pipeline.show import show

    show(task, Run.named(run) if run else None)


@app.command()
def settings(recipe: Recipe = "demo", changes: Changes = "") -> None:
    """Print every setting of a recipe: name, value, meaning."""
    for name, value, meaning in recipes.describe_settings(
        recipes.load_recipe(recipe, split_changes(changes))
    ):
        print(f"{name}={value}  {meaning}")


def main() -> None:
    """Run the command line."""
    end_with_torchrun()
    _let_segments_grow()
    report_errors(app)


def report_errors(command: Callable[[], object]) -> None:
    """Run a command line; errors of the person or the machine become one line and status 2."""
    _open_streams()
    choose_form(recipes.LogSettings())
    try:
        command()
    except (InputError, FloatingPointError) as error:
        reason = str(error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = f"{place}{error.strerror or error}"
    else:
        return
    fail(reason)
    sys.exit(2)


def _let_segments_grow() -> None:
    """Have torch, once it is imported, extend a GPU's memory in place as sizes change each step.

    Otherwise pieces too small for the next batch add up, and memory runs out early.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # since torch 2.9, and before
    if not any(name in os.environ for name in names):
        os.environ.update(dict.fromkeys(names, "expandable_segments:True"))


def _open_streams() -> None:
    """Let whatever is printed be lost rather than end the work: closed streams, other encodings."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        # With torch loaded, the interpreter's own end takes a second that a deadline may not have.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0)
