"""The progress of a run by its steps and by its time, and when it stops."""

import pytest

from solver.process_group import ProcessGroup
from solver.progress import TrainingProgress
from solver.schedule import lr_multiplier
from solver.settings import TrainSettings

ALONE = ProcessGroup()


class Clock:
    """A clock that shows the given shares one after another."""

    def __init__(self, shares=(), stops=False):
        self.shares, self.stops = iter(shares), stops

    def progress(self):
        return next(self.shares, 0.0)

    def should_stop(self):
        return self.stops


def shares(progress, most=1000):
    """The progress before each step, until the run is over."""
    taken = []
    progress.advance(0)
    while not progress.is_over and len(taken) < most:
        taken.append(progress.share)
        progress.advance(len(taken))
    return taken


def test_a_run_without_time_goes_by_its_steps():
    assert shares(TrainingProgress(4, ALONE)) == [0, 0.25, 0.5, 0.75]
    assert shares(TrainingProgress(4, ALONE, until=0.5)) == [0, 0.25]
    assert shares(TrainingProgress(5, ALONE, until=0.5)) == pytest.approx([0, 0.2, 0.4])


def test_a_run_in_time_goes_by_whichever_is_further():
    clock = Clock([0.0, 0.1, 0.2, 0.6, 0.9, 1.0])
    assert shares(TrainingProgress(5, ALONE, clock)) == [0, 0.2, 0.4, 0.6, 0.9]
    never_back = TrainingProgress(1000, ALONE, Clock([0.0, 0.5, 0.4, 1.0]))
    assert shares(never_back) == [0, 0.5, 0.5]


@pytest.mark.parametrize("num_steps", [10, 50, 2000])
def test_rates_reach_zero_as_time_ends_however_many_steps_it_was_enough_for(num_steps):
    settings = TrainSettings(num_steps=10**6, warmup_steps=200, schedule="wsd", decay_share=0.3)
    clock = Clock(n / num_steps for n in range(num_steps + 1))
    taken = shares(TrainingProgress(settings.num_steps, ALONE, clock), 10**4)
    assert len(taken) == num_steps
    rates = [lr_multiplier(step, share, settings) for step, share in enumerate(taken, 1)]
    assert rates[-1] == pytest.approx(1 / num_steps / 0.3)
    assert max(rates) <= 1
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_call_goes_one_step_further_and_then_stops_when_the_clock_says_so():
    progress = TrainingProgress(100, ALONE, Clock(stops=True))
    assert shares(progress) == [0]
    assert progress.was_stopped


def test_checkpoints_are_due_as_time_passes(monkeypatch):
    now = 0.0
    monkeypatch.setattr("solver.progress.time.monotonic", lambda: now)
    progress = TrainingProgress(100, ALONE, checkpoint_seconds=2.5)
    due = []
    for step in range(9):
        progress.advance(step)
        due.append(progress.takes_checkpoint())
        now += 1
    assert [step for step, is_due in enumerate(due) if is_due] == [3, 6]


def test_processes_agree_now_and_then_and_extrapolate_in_between(monkeypatch):
    """Agreement costs a message; at a step every 50 ms it comes every ten steps."""
    now, messages = 0.0, []
    monkeypatch.setattr("solver.progress.time.monotonic", lambda: now)

    def all_reduce(self, tensor):
        messages.append(tensor.tolist())
        return tensor

    class Hundred(Clock):
        def progress(self):
            return now / 100

    monkeypatch.setattr(ProcessGroup, "all_reduce", all_reduce)
    progress = TrainingProgress(10**6, ProcessGroup(0, 2), Hundred())
    agreed = []
    for step in range(60):
        before = len(messages)
        progress.advance(step)
        assert not progress.is_over
        if len(messages) > before:
            agreed.append(step)
        assert progress.share == pytest.approx(now / 100, abs=1e-9 if step > 1 else 1e-3)
        now += 0.05
    assert agreed == [0, 1, 11, 21, 31, 41, 51]


class Watch:
    """Time that passes by a number of seconds between two looks."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds = 100.0, seconds
        monkeypatch.setattr("solver.progress.time.monotonic", self.look)

    def look(self):
        self.now += self.seconds(self.now)
        return self.now


def test_a_run_that_ends_in_time_takes_as_many_steps_as_that_allows(monkeypatch):
    """The first steps compile, and later ones are slower than those before."""
    Watch(monkeypatch, lambda now: 20.0 if now < 220 else 0.1 if now < 240 else 0.2)
    settings = TrainSettings(num_steps=10**6, warmup_steps=10, schedule="wsd", decay_share=0.3)
    progress = TrainingProgress(settings.num_steps, ALONE, ends_in_seconds=120)
    taken = shares(progress)
    assert 380 < len(taken) < 410  # three of 20 s, then 20 s of ten and 40 s of five a second
    assert taken == sorted(taken)
    rates = [lr_multiplier(step, share, settings) for step, share in enumerate(taken, 1)]
    assert rates[10:200] == [1.0] * 190
    assert rates[-1] < 0.02


def test_a_run_whose_time_is_over_takes_one_step_and_one_of_few_steps_takes_these(monkeypatch):
    Watch(monkeypatch, lambda now: 5.0)
    assert len(shares(TrainingProgress(10**6, ALONE, ends_in_seconds=1))) <= 1
    Watch(monkeypatch, lambda now: 0.001)
    assert len(shares(TrainingProgress(30, ALONE, ends_in_seconds=1000))) == 30
