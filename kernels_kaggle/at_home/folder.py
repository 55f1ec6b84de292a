"""The folder ``runs/RUN/kaggle``: where the parts of a package lie at home."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.run import Run


@dataclass(frozen=True, slots=True)
class PackageFolder:
    """The layout of ``runs/RUN/kaggle``."""

    run: Run

    def command(self, stage: str) -> str:
        """Return what a person types to call a stage for this run."""
        return f"make {stage} RUN={self.run.folder.name}"

    @property
    def root(self) -> Path:
        """The folder in which all the others lie."""
        return self.run.folder / "kaggle"

    @property
    def dataset(self) -> Path:
        """The folder that is uploaded as a data set."""
        return self.root / "dataset"

    @property
    def notebook(self) -> Path:
        """The folder that is pushed as a notebook."""
        return self.root / "notebook"

    @property
    def pushed(self) -> Path:
        """The file that remembers what was uploaded, pushed and submitted."""
        return self.root / "pushed.json"

    @property
    def output(self) -> Path:
        """The folder with the output of the last notebook that ended well."""
        return self.root / "output"

    @property
    def failed_output(self) -> Path:
        """The folder with the output of the last notebook that failed."""
        return self.root / "failed"
