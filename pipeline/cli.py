"""What the command lines of the pipeline and of Kaggle share: options, settings and errors."""

import io
import os
import shlex
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from augment.errors import InputError
from augment.grid import shorten
from pipeline.console import configure_log, fail
from pipeline.recipes import RECIPES, demo, load_recipe
from pipeline.run import Run
from pipeline.settings import LogSettings, Settings, describe_settings
from pipeline.training_log import require_packages

SETTINGS_HELP = "\b\nSettings (values of the recipe demo):\n" + "\n".join(
    f"  {name}={value}  {meaning}" for name, value, meaning in describe_settings(demo())
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


Recipe = Annotated[str, typer.Option(help=f"One of: {', '.join(RECIPES)}.")]


RunName = Annotated[
    str, typer.Option("--run-name", help="Folder below runs/; the recipe's name if empty.")
]


Changes = Annotated[
    str,
    typer.Option("--set", help='Changed settings, such as "train.lr=3e-4 predict.num_views=64".'),
]


def open_run(recipe: str, run: str, changes: str) -> tuple[Settings, Run]:
    """Return the settings and the run that the options of a command name."""
    settings = load_recipe(recipe, split_changes(changes))
    configure_log(settings.log)
    require_packages(settings.log)
    return settings, Run.named(run or recipe)


def split_changes(changes: str) -> list[str]:
    """Return the changes of settings in the value of ``--set``."""
    try:
        return shlex.split(changes)
    except ValueError as error:
        raise InputError(f"settings {shorten(changes)}: {error}") from None


def report_errors(command: Callable[[], object]) -> None:
    """Run a command line; an error in its input or of the machine becomes a line and status 2."""
    _open_streams()
    configure_log(LogSettings())
    try:
        command()
    except (InputError, FloatingPointError) as error:
        reason = str(error)
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        reason = f"{path}{error.strerror or error}"
    else:
        return
    fail(reason)
    sys.exit(2)


def let_memory_segments_grow() -> None:
    """Let torch, which is imported later, grow its segments of GPU memory as sizes change.

    Otherwise segments too small for the next batch add up, and memory runs out early.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # since torch 2.9, and before
    if not any(name in os.environ for name in names):
        os.environ.update(dict.fromkeys(names, "expandable_segments:True"))


def _open_streams() -> None:
    """Lose what cannot be printed, to closed streams or in other encodings, and go on."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
