"""How much of a run has passed, by its steps and by its time."""

import pytest

from solver.engine import Engine
from solver.process_group import ProcessGroup
from solver.progress import TrainingProgress
from solver.schedule import lr_multiplier
from solver.settings import TrainSettings


def shares(pace, most=1000):
    """The share that has passed before each step, until the pace says stop."""
    passed = []
    while pace.goes_on(len(passed)) and len(passed) < most:
        passed.append(pace.progress)
    return passed


def test_a_run_without_time_goes_by_its_steps(engine: Engine):
    assert shares(TrainingProgress(4, engine)) == [0, 0.25, 0.5, 0.75]
    assert shares(TrainingProgress(4, engine, until=0.5)) == [0, 0.25]
    assert shares(TrainingProgress(5, engine, until=0.5)) == pytest.approx([0, 0.2, 0.4])


def test_a_run_in_time_goes_by_whichever_is_further(engine: Engine):
    times = iter([0.0, 0.1, 0.2, 0.6, 0.9, 1.0])
    assert shares(TrainingProgress(5, engine, share_of_time=lambda: next(times))) == [
        0,
        0.2,
        0.4,
        0.6,
        0.9,
    ]
    never_back = iter([0.0, 0.5, 0.4, 1.0])
    pace = TrainingProgress(1000, engine, share_of_time=lambda: next(never_back))
    assert shares(pace) == [0, 0.5, 0.5]


@pytest.mark.parametrize("num_steps", [10, 50, 2000])
def test_rates_reach_zero_as_time_ends_however_many_steps_it_was_enough_for(engine, num_steps):
    settings = TrainSettings(num_steps=10**6, warmup_steps=200, schedule="wsd", decay_share=0.3)
    times = iter(n / num_steps for n in range(num_steps + 1))
    passed = shares(
        TrainingProgress(settings.num_steps, engine, share_of_time=lambda: next(times)), 10**4
    )
    assert len(passed) == num_steps
    rates = [lr_multiplier(step, share, settings) for step, share in enumerate(passed, 1)]
    assert rates[-1] == pytest.approx(1 / num_steps / 0.3)
    assert max(rates) <= 1
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_call_goes_one_step_further_and_then_stops_when_told(engine: Engine):
    pace = TrainingProgress(100, engine, should_stop=lambda: True)
    assert shares(pace) == [0]
    assert pace.stopped


def test_checkpoints_are_wanted_as_time_passes(engine: Engine, monkeypatch):
    now = 0.0
    monkeypatch.setattr("solver.pace.time.monotonic", lambda: now)
    pace = TrainingProgress(100, engine, checkpoint_seconds=2.5)
    wanted = []
    for step in range(9):
        pace.goes_on(step)
        wanted.append(pace.wants_checkpoint())
        now += 1
    assert [step for step, want in enumerate(wanted) if want] == [3, 6]


def test_processes_hear_the_leader_and_extrapolate_in_between(engine: Engine, monkeypatch):
    """Agreement costs a message; at a step every 50 ms it comes every ten steps."""
    now, broadcasts = 0.0, []
    monkeypatch.setattr("solver.pace.time.monotonic", lambda: now)

    def sum_(self, tensor):
        broadcasts.append(tensor.tolist())
        return tensor

    monkeypatch.setattr(ProcessGroup, "sum_", sum_)
    engine = Engine(engine.device, engine.dtype, world=ProcessGroup(0, 2))
    pace = TrainingProgress(10**6, engine, share_of_time=lambda: now / 100)
    agreed = []
    for step in range(60):
        before = len(broadcasts)
        assert pace.goes_on(step)
        if len(broadcasts) > before:
            agreed.append(step)
        assert pace.progress == pytest.approx(now / 100, abs=1e-9 if step > 1 else 1e-3)
        now += 0.05
    assert agreed == [0, 1, 11, 21, 31, 41, 51]
