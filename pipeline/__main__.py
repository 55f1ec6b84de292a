"""The command line ``python -m pipeline STAGE``: one command for each stage."""

import os
import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from augment.errors import InputError
from augment.grid import shorten
from augment.view import NUM_VIEWS
from pipeline.cli import (
    SETTINGS_HELP,
    Changes,
    Recipe,
    RunName,
    let_memory_segments_grow,
    new_app,
    open_run,
    report_errors,
    split_changes,
)
from pipeline.console import configure_log, printable
from pipeline.deadline import end_with_torchrun
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.settings import describe_settings
from solver.settings import MAX_DEPTH

# Each command imports its stage late, because torch takes seconds to import.
app = new_app("From ARC tasks to a scored submission.json with the Tiny Recursion Model.")


def _numbers(text: str, most: int) -> list[int]:
    is_list = re.fullmatch("[0-9]{1,9}(,[0-9]{1,9})*", text) is not None
    numbers = [int(number) for number in text.split(",")] if is_list else [0]
    if not all(1 <= number <= most for number in numbers):
        raise InputError(f"{shorten(text)}: expected numbers such as 1,8,32, of 1 to {most}")
    return numbers


def _bounds(text: str) -> tuple[float, float]:
    try:
        lower, upper = map(float, text.split(","))
    except ValueError:
        raise InputError(f"{shorten(text)}: expected two numbers such as 0,0.2") from None
    return lower, upper


@app.command("data")
def data_(
    source: Annotated[
        list[str] | None, typer.Argument(help="Sources; all bundled ones if none.")
    ] = None,
) -> None:
    """Print what each source of tasks holds; fetch what is missing."""
    from pipeline.stages.data import data

    data(source) if source else data()


@app.command("rearc")
def rearc_(
    to: Annotated[Path, typer.Option(help="Folder to write, or that this command wrote.")],
    pairs: Annotated[int, typer.Option(help="Pairs of each task.")] = 100,
    difficulty: Annotated[
        str, typer.Option(help="Part of each range, 0 to 1, that numbers are drawn from.")
    ] = "0,0.2",
    seed: Annotated[int, typer.Option(help="Seed of the pairs.")] = 0,
    tasks: Annotated[
        str, typer.Option(help='ARC-AGI-1 training tasks: "id,id"; all if empty.')
    ] = "",
) -> None:
    """Write fresh pairs of ARC-AGI-1 training tasks as task files; needs reasoning-gym."""
    from pipeline.stages.rearc import rearc

    rearc(to, pairs, _bounds(difficulty), seed, tuple(filter(None, tasks.split(","))))


@app.command("build", epilog=SETTINGS_HELP)
def build_(recipe: Recipe = "demo", run: RunName = "", changes: Changes = "") -> None:
    """Write the data set: tasks and the plan of their views."""
    from pipeline.stages.build import build

    build(*open_run(recipe, run, changes))


@app.command("pretrain", epilog=SETTINGS_HELP)
def pretrain_(recipe: Recipe = "demo", run: RunName = "", changes: Changes = "") -> None:
    """Train; the same command goes on where it stopped."""
    from pipeline.stages.pretrain import pretrain

    pretrain(*open_run(recipe, run, changes))


@app.command("predict", epilog=SETTINGS_HELP)
def predict_(recipe: Recipe = "demo", run: RunName = "", changes: Changes = "") -> None:
    """Predict the tasks: submission.json, and the score where solutions are known."""
    from pipeline.stages.predict import predict

    predict(*open_run(recipe, run, changes))


@app.command("evaluate", epilog=SETTINGS_HELP)
def evaluate_(recipe: Recipe = "sudoku-small", run: RunName = "", changes: Changes = "") -> None:
    """Answer Sudoku puzzles or mazes, and score by supervision steps: evaluation/."""
    from pipeline.stages.evaluate import evaluate

    evaluate(*open_run(recipe, run, changes))


@app.command("plan", epilog=SETTINGS_HELP)
def plan_(
    recipe: Recipe = "demo",
    changes: Changes = "",
    gpu: Annotated[
        str, typer.Option(help="h100, h200, l4, t4, 4090, or several such as l4x4; or cpu.")
    ] = "h100",
    nodes: Annotated[int, typer.Option(help="Machines with such cards.", min=1, max=10_000)] = 1,
    flop: Annotated[
        float,
        typer.Option(help="What to train for so many FLOP; 0: do not choose.", min=0, max=1e30),
    ] = 0,
    hours: Annotated[
        float,
        typer.Option(help="What to train in so many hours; 0: do not choose.", min=0, max=1e6),
    ] = 0,
) -> None:
    """Print the memory, speed and minutes that a recipe is expected to take on a card.

    Given FLOP or hours, also what to train for them, by the rule fitted on `make experiment`.
    """
    from pipeline.stages.plan import plan

    settings = load_recipe(recipe, split_changes(changes))
    configure_log(settings.log)
    plan(settings, gpu, nodes, flop, hours)


@app.command("sweep", epilog=SETTINGS_HELP)
def sweep_(
    recipe: Recipe = "demo",
    run: RunName = "",
    changes: Changes = "",
    views: Annotated[str, typer.Option(help="Numbers of views.")] = "1,8,32,128",
    steps: Annotated[str, typer.Option(help="Numbers of supervision steps.")] = "1,2,4,8,16",
) -> None:
    """Score by number of views and supervision steps: sweep.json."""
    from pipeline.stages.sweep import sweep

    sweep(*open_run(recipe, run, changes), _numbers(views, NUM_VIEWS), _numbers(steps, MAX_DEPTH))


@app.command("export")
def export_(
    to: Annotated[Path, typer.Option(help="Folder to write; it may not exist yet.")],
    run: RunName = "demo",
    precision: Annotated[
        Literal["float32", "float16", "int8"], typer.Option(help="Round the weights to this.")
    ] = "float32",
) -> None:
    """Copy what prediction needs of a run's newest checkpoint into a folder of its own."""
    from pipeline.stages.export import export

    export(Run.named(run), to, precision)


@app.command("score")
def score_(
    run: RunName = "",
    submission: Annotated[str, typer.Option(help="Instead of the run's.")] = "",
    challenges: Annotated[str, typer.Option(help="Instead of the run's.")] = "",
    solutions: Annotated[str, typer.Option(help="Instead of the run's.")] = "",
    votes: Annotated[str, typer.Option(help="Folder, instead of the run's.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print pass@1, pass@2 and, from the votes, the oracle's pass@k and every ranking's score."""
    from pipeline.results import ResultFiles
    from pipeline.stages.score import score

    if run:
        named = Run.named(run)
        of_run = ResultFiles.of_run(named, named.recorded())
        its_votes = None if submission else of_run.votes
        files = replace(
            of_run,
            submission=Path(submission) if submission else of_run.submission,
            challenges=Path(challenges) if challenges else of_run.challenges,
            solutions=Path(solutions) if solutions else of_run.solutions,
            votes=Path(votes) if votes else its_votes,
        )
    else:
        given = {"submission": submission, "challenges": challenges, "solutions": solutions}
        missing = ", ".join(f"--{name}" for name, value in given.items() if not value)
        if missing:
            raise InputError(
                "score needs --run-name, or --submission, --challenges and --solutions; "
                f"not given: {missing}"
            )
        files = ResultFiles(
            Path(submission), Path(challenges), Path(solutions), Path(votes) if votes else None
        )
    score(files, as_json=json)


@app.command("report")
def report_(
    run: RunName = "demo",
    beside: Annotated[
        str, typer.Option(help='Runs whose curves of training are drawn too: "first second".')
    ] = "",
) -> None:
    """Write the page of a run: report/index.html."""
    from pipeline.stages.report import report

    report(Run.named(run), [Run.named(name) for name in beside.split()])


@app.command("show")
def show_(
    task: Annotated[str, typer.Option(help="Id of the task, such as 00576224.")],
    run: RunName = "",
) -> None:
    """Draw a task, of a run with its attempts, in the terminal."""
    from pipeline.stages.show import show

    show(task, Run.named(run) if run else None)


@app.command()
def settings(recipe: Recipe = "demo", changes: Changes = "") -> None:
    """Print every setting of a recipe: name, value, meaning."""
    for name, value, meaning in describe_settings(load_recipe(recipe, split_changes(changes))):
        print(printable(f"{name}={value}  {meaning}"))


def main() -> None:
    """Run the command line."""
    end_with_torchrun()
    let_memory_segments_grow()
    report_errors(app)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        # With torch loaded, the interpreter takes a second to end, which a deadline may not have.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0)
