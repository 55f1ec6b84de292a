"""Fingerprints: digests of all that decides a result, to know what an earlier call has made."""

import hashlib
from collections.abc import Sequence
from functools import cache

import orjson

from augment.task import Task
from pipeline.version import ROOT


def fingerprint(*parts: object) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


@cache
def fingerprint_code() -> str:
    """Return a fingerprint of the code that decides what a model predicts."""
    state = hashlib.sha256()
    for folder in ("augment", "solver"):
        for path in sorted((ROOT / folder).glob("*.py")):
            state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def fingerprint_visible(tasks: Sequence[Task]) -> str:
    """Return a fingerprint of what a solver may see of the tasks."""
    return fingerprint(
        [[t.task_id, t.demonstrations_digest(), [g.tolist() for g in t.test_inputs]] for t in tasks]
    )
