"""The files that home and Kaggle exchange."""

from dataclasses import asdict

import pytest

from augment.errors import InputError
from augment.files import write_description
from kernels_kaggle.exchange import MANIFEST, REPORT, Manifest, Report

EXAMPLE = Manifest("predict", "k", "kaggle", ("a.b=1",), "", "CC0-1.0", "abc", {}, {})


def test_manifest_and_report_are_read_as_they_were_written(tmp_path):
    EXAMPLE.write(tmp_path)
    assert Manifest.read(tmp_path) == EXAMPLE
    report = Report("abc", steps=0)
    report.write(tmp_path, {})
    assert Report.read(tmp_path) == report
    assert "outputs" not in (tmp_path / REPORT).read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "sweep"}, r"manifest\.json: stage: .*'predict' or 'pretrain', got 'sweep'$"),
        ({"changes": 3}, r"manifest\.json: changes: .*, got 3$"),
        ({"format": 2}, r"manifest\.json: not a package of format 1$"),
    ],
)
def test_a_manifest_that_is_not_as_expected_is_an_error_of_one_line(tmp_path, change, message):
    write_description(tmp_path / MANIFEST, {"format": 1, **asdict(EXAMPLE), **change})
    with pytest.raises(InputError, match=message):
        Manifest.read(tmp_path)
