"""Fresh pairs are verified, different, legal, and a function of seed and task alone."""

import signal

import numpy as np
import pytest
from fake_rearc import EVALUATION, FAILING, FEW, GOOD, HANGING, ILLEGAL, LYING

from augment.errors import InputError
from augment.grid import grid_key
from augment.leakage import pair_keys
from pipeline.rearc import collect_scored_keys, load_programs, make_pairs
from pipeline.sources import load_source

pytest_plugins = ["rearc_fixtures"]
ANY = (0.0, 1.0)


def keys_of(made):
    return [grid_key(pair.input) + grid_key(pair.output) for pair in made.pairs]


def make(task_id, num_pairs=6, difficulty=ANY, seed=0, scored=frozenset()):
    return make_pairs(task_id, load_programs()[task_id], num_pairs, difficulty, seed, scored)


@pytest.mark.usefixtures("fake_package")
def test_pairs_are_different_and_the_same_for_a_seed():
    made = make(GOOD, 20)
    assert len(set(keys_of(made))) == 20
    assert all(np.array_equal(pair.input[::-1], pair.output) for pair in made.pairs)
    assert keys_of(make(GOOD, 20)) == keys_of(made)
    assert keys_of(make(GOOD, 10)) == keys_of(made)[:10]
    assert set(keys_of(make(GOOD, 20, seed=1))).isdisjoint(keys_of(made))
    assert max(pair.input.max() for pair in make(GOOD, 20, (0, 0.2)).pairs) == 2


@pytest.mark.usefixtures("fake_package")
def test_bad_pairs_are_dropped_and_others_drawn():
    lying = make(LYING)
    assert len(lying.pairs) == 6
    assert all(np.array_equal(pair.input[::-1], pair.output) for pair in lying.pairs)
    assert lying.dropped["unverified"] > 0
    few = make(FEW)
    assert (len(few.pairs), few.dropped) == (3, {"repeated": 57})
    assert make(ILLEGAL).dropped == {"illegal": 60}
    assert make(FAILING).dropped == {"failed": 60}


@pytest.mark.usefixtures("fake_package")
def test_a_generator_that_hangs_is_given_up():
    def handler(*_):
        raise AssertionError("the alarm of somebody else")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        made = make(HANGING)
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (made.pairs, made.dropped) == ((), {"too slow": 3})


@pytest.mark.usefixtures("fake_package")
def test_pairs_and_inputs_that_are_scored_are_dropped():
    first, second, *others = make(GOOD).pairs
    scored = {pair_keys(first)[0], pair_keys(second)[1]}
    made = make(GOOD, 4, scored=scored)
    assert made.dropped == {"scored": 2}
    assert [pair_keys(pair) for pair in made.pairs] == [pair_keys(pair) for pair in others]


def test_what_is_scored(arc1):
    scored = collect_scored_keys()
    assert scored.issuperset(key for task in arc1 for p in task.test_pairs for key in pair_keys(p))
    for name in ("arc1/evaluation", "arc2/evaluation"):
        pairs = [p for task in load_source(name) for p in (*task.train, *task.test_pairs)]
        assert scored.issuperset(key for pair in pairs for key in pair_keys(pair))
    assert scored.isdisjoint(pair_keys(arc1[0].train[0]))


@pytest.mark.usefixtures("no_package")
def test_a_missing_package_is_named():
    with pytest.raises(InputError, match="pip install --no-deps reasoning-gym"):
        load_programs()


@pytest.mark.usefixtures("real_package")
def test_the_real_package_has_every_training_task_and_no_other(arc1):
    programs = load_programs()
    assert set(programs) == {task.task_id for task in arc1}
    assert EVALUATION not in programs
    for task in arc1[:40:4]:
        assert len(make(task.task_id, 5, (0, 0.2)).pairs) == 5
