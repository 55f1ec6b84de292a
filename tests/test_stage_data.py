"""The stage data prints every source of tasks."""

from conftest import needs_concept

from pipeline import stages
from pipeline.sources import BUNDLED


@needs_concept
def test_data_prints_every_source(capsys):
    stages.data()
    printed = capsys.readouterr().out
    assert all(name in printed for name in BUNDLED)
