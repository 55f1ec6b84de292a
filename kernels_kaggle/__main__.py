"""``python -m kernels_kaggle``: from a run to Kaggle in four deliberate commands."""

from typing import Annotated, Literal

import typer

from kernels_kaggle import stages
from kernels_kaggle.client import Client
from kernels_kaggle.package import Place, package
from pipeline.__main__ import (
    Changes,
    Recipe,
    RunName,
    new_app,
    open_run,
    report_errors,
    split_changes,
)
from pipeline.runs import Run

app = new_app("From a run to a scored submission on Kaggle.")


@app.command("package")
def package_(
    recipe: Recipe = "kaggle",
    run: RunName = "",
    changes: Changes = "",
    notebook: Annotated[
        Literal["predict", "pretrain"], typer.Option(help="What the notebook does.")
    ] = "predict",
) -> None:
    """Write the data set and the notebook of a run: runs/RUN/kaggle."""
    settings, place = open_run(recipe, run, changes)
    owner = settings.kaggle.owner or Client().username()
    package(notebook, recipe, split_changes(changes), settings, place, owner)


@app.command()
def push(run: RunName = "kaggle") -> None:
    """Upload the data set, wait until it is ready, and push the notebook, which then runs."""
    stages.push(Place.of(Run.named(run)), Client())


@app.command()
def status(run: RunName = "kaggle") -> None:
    """Follow the notebook until it has ended; fetch its log and output."""
    stages.status(Place.of(Run.named(run)), Client())


@app.command()
def submit(
    run: RunName = "kaggle",
    message: Annotated[str, typer.Option(help="Shown beside the score on Kaggle.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Submit the pushed version: it takes one of the day's submissions."""
    confirm = stages.agree if yes else stages.ask
    stages.submit(Place.of(Run.named(run)), Client(), message, confirm)


def main() -> None:
    """Run the command line."""
    report_errors(app)


if __name__ == "__main__":
    main()
