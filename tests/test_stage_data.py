"""The stage data prints every source of tasks."""

from conftest import needs_concept

from pipeline.sources import BUNDLED
from pipeline.stages.data import data


@needs_concept
def test_data_prints_every_source(capsys):
    data()
    printed = capsys.readouterr().out
    assert all(name in printed for name in BUNDLED)
