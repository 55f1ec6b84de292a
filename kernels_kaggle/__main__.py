"""``python -m kernels_kaggle``: from a run to Kaggle in four deliberate commands."""

from typing import Annotated

import typer

from kernels_kaggle.at_home.client import Client
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.at_home.package import package as write_package
from kernels_kaggle.at_home.push import push as push_notebook
from kernels_kaggle.at_home.status import follow
from kernels_kaggle.at_home.submit import agree, ask
from kernels_kaggle.at_home.submit import submit as submit_notebook
from kernels_kaggle.exchange import Stage
from pipeline.cli import Changes, Recipe, RunName, new_app, open_run, report_errors, split_changes
from pipeline.run import Run

app = new_app("From a run to a scored submission on Kaggle.")


@app.command()
def package(
    recipe: Recipe = "kaggle",
    run: RunName = "",
    changes: Changes = "",
    notebook: Annotated[Stage, typer.Option(help="What the notebook does.")] = "predict",
) -> None:
    """Write the data set and the notebook of a run: runs/RUN/kaggle."""
    settings, opened = open_run(recipe, run, changes)
    owner = settings.kaggle.owner or Client().find_username()
    write_package(notebook, recipe, split_changes(changes), settings, opened, owner)


@app.command()
def push(run: RunName = "kaggle") -> None:
    """Upload the data set, wait until it is ready, and push the notebook, which then runs."""
    push_notebook(PackageFolder(Run.named(run)), Client())


@app.command()
def status(run: RunName = "kaggle") -> None:
    """Follow the notebook until it has ended; fetch its log and output."""
    follow(PackageFolder(Run.named(run)), Client())


@app.command()
def submit(
    run: RunName = "kaggle",
    message: Annotated[str, typer.Option(help="Shown beside the score on Kaggle.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Submit the pushed version: it takes one of the day's submissions."""
    submit_notebook(PackageFolder(Run.named(run)), Client(), message, agree if yes else ask)


def main() -> None:
    """Run the command line."""
    report_errors(app)


if __name__ == "__main__":
    main()
