"""Fingerprints: equal for equal values, and changed by every change of the code that predicts."""

import shutil

from pipeline import fingerprint as module
from pipeline.fingerprint import fingerprint, fingerprint_code
from pipeline.version import ROOT


def test_equal_values_have_equal_digests():
    assert fingerprint({"a": 1, "b": 2}, [3]) == fingerprint({"b": 2, "a": 1}, [3])
    digests = {
        fingerprint(),
        fingerprint(1),
        fingerprint("1"),
        fingerprint([1]),
        fingerprint(1, 2),
        fingerprint([1, 2]),
    }
    assert len(digests) == 6


def test_every_change_of_the_code_that_answers_changes_its_digest(tmp_path, monkeypatch):
    for folder in ("augment", "solver"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("pretrained")
        )
    monkeypatch.setattr(module, "ROOT", tmp_path)
    compute = fingerprint_code.__wrapped__
    digests = [compute()]
    assert digests == [fingerprint_code()]
    for name in ("augment/view.py", "solver/model.py"):
        path = tmp_path / name
        path.write_text(path.read_text() + "\n")
        digests.append(compute())
    (tmp_path / "solver" / "new.py").touch()
    digests.append(compute())
    assert len(set(digests)) == 4
