"""The stage report: write the page of a run."""

from collections.abc import Sequence

from pipeline.page import write_page
from pipeline.run import Run


def report(run: Run, others: Sequence[Run] = ()) -> None:
    """Write the page of a run, its curves of training beside those of ``others``."""
    write_page(run, others)
