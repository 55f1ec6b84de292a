"""The traps of the reference implementation; each must be impossible here."""

import json
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from commands import SHORT, call, call_in_processes, write_task_folder
from conftest import SHORT_TRAINING, SMALL_MODEL, make_dataset, make_table, needs_concept
from results import votes_of

from augment.dataset import Dataset
from augment.errors import InputError
from augment.examples import ExampleStream
from augment.prediction import Prediction
from augment.puzzle_index import PuzzleIndex
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.sources import load_source, within_side
from pipeline.stages.build import build
from solver.checkpoint_files import latest_checkpoint
from solver.kinds import new_model
from solver.loader import batches
from solver.process_group import ProcessGroup
from solver.train import start_training, train_step
from solver.weights import load_weights
from submission.vote import count_votes
from submission.writer import build_submission


@pytest.fixture
def two_tests(arc1):
    return next(task for task in arc1 if len(task.test_inputs) == 2)


def test_trap_01_a_test_without_votes_is_answered_in_its_place(two_tests):
    grid = two_tests.solutions[1]
    tally = count_votes([Prediction(two_tests.task_id, 1, grid, 0.5)])
    submission, coverage = build_submission([two_tests], tally.candidates)
    first, second = submission.attempts[two_tests.task_id]
    assert np.array_equal(second[0], grid)
    assert all(attempt.size for attempt in first)
    assert (coverage.model, coverage.fallback) == (1, 1)


def test_trap_02_an_empty_prediction_is_counted_and_never_submitted(two_tests):
    empty = [Prediction(two_tests.task_id, test, None, 0.99) for test in (0, 1)]
    tally = count_votes(empty)
    assert tally.num_empty == 2
    assert not tally.candidates
    submission, _ = build_submission([two_tests], tally.candidates)
    assert all(g.size for pair in submission.attempts[two_tests.task_id] for g in pair)


def test_trap_03_the_second_attempt_does_not_repeat_the_first(two_tests):
    votes = [Prediction(two_tests.task_id, 0, two_tests.solutions[0], 0.5)] * 3
    submission, _ = build_submission([two_tests], count_votes(votes).candidates)
    for first, second in submission.attempts[two_tests.task_id]:
        assert first.shape != second.shape or (first != second).any()


@pytest.fixture
def trained(run_here):
    """A run ``a`` that has been trained and predicted with."""
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a") == 0
    return run_here / "runs" / "a"


ONE_STEP = "predict.num_supervision_steps=1"


def test_trap_04_votes_of_successive_predictions_do_not_pile_up(trained):
    before = votes_of(Run(trained))
    assert call("predict", "--run-name", "a") == 0
    assert votes_of(Run(trained)) == before
    assert all(len(votes) == 3 for votes in before.values())
    # Other settings make other votes, which do not mix with these.
    assert call("predict", "--run-name", "a", changes=[*SHORT, ONE_STEP]) == 0
    other = votes_of(Run(trained))
    assert all(len(votes) == 3 for votes in other.values())
    assert other != before


def test_trap_05_and_10_any_number_of_processes_votes_the_same(trained):
    alone = votes_of(Run(trained)), (trained / "submission.json").read_bytes()
    for count in (2, 4):
        shutil.rmtree(trained / "votes")
        printed = call_in_processes(count, "predict", "--run-name", "a")
        assert f"{count} processes" in printed
        assert "going on" not in printed
        assert (votes_of(Run(trained)), (trained / "submission.json").read_bytes()) == alone


def test_trap_06_a_data_set_smaller_than_the_batch_trains(small_tasks, engine):
    dataset = make_dataset(small_tasks[:1])
    settings = replace(SHORT_TRAINING, global_batch=64, num_steps=3)
    assert dataset.num_pairs < settings.global_batch
    model = new_model(SMALL_MODEL)
    training = start_training(model, make_table(dataset), settings, engine)
    stream = ExampleStream(dataset, 0)
    for batch in batches(stream, settings, SMALL_MODEL, engine.group, 0):
        assert len(batch.min_steps_B) == settings.global_batch
        train_step(training, batch, settings, engine)
    assert training.step == 3


def test_trap_07_rows_are_found_by_task_and_view(trained, capsys):
    """As many other tasks of the same names are not taken for those of the checkpoint."""
    weights = load_weights(latest_checkpoint(trained / "checkpoints"))
    tasks = within_side(load_source("arc1/training"), 4)
    foreign = [
        replace(task, train=other.train) for task, other in zip(tasks, tasks[::-1], strict=True)
    ]
    assert all(weights.index.find(task) is not None for task in tasks)
    assert not any(weights.index.find(task) is not None for task in foreign[: len(tasks) // 2])
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "data.views_per_task=5"]) == 2
    assert "the tasks or views of the data set" in capsys.readouterr().err


def test_trap_08_processes_share_a_batch_without_overlap(small_dataset, engine):
    settings = replace(SHORT_TRAINING, num_steps=5)
    stream = ExampleStream(small_dataset, 0)
    whole, *parts = (
        list(batches(stream, settings, SMALL_MODEL, group, 0))
        for group in (ProcessGroup(), ProcessGroup(0, 2), ProcessGroup(1, 2))
    )
    for batch, *shares in zip(whole, *parts, strict=True):
        assert np.array_equal(batch.min_steps_B, np.concatenate([s.min_steps_B for s in shares]))
        for field in fields(batch.examples):
            whole_column, *columns = (getattr(b.examples, field.name) for b in (batch, *shares))
            assert np.array_equal(whole_column, np.concatenate(columns))


def test_trap_09_a_checkpoint_holds_all_a_run_is(trained):
    """Raw and averaged trunk, rows and optimiser; test_checkpoint shows that it is enough."""
    from safetensors.torch import load_file

    folder = latest_checkpoint(trained / "checkpoints")
    saved = load_file(folder / "training.safetensors")
    average = load_file(folder / "weights.safetensors")
    names = [name for name, _ in load_weights(folder).model.named_parameters()]
    for name in names:
        assert {f"trunk.{name}", f"optimizer.{name}.exp_avg", f"optimizer.{name}.steps"} <= {*saved}
    assert any(not torch.equal(saved[f"trunk.{name}"], average[name]) for name in names)
    assert load_file(folder / "rows.safetensors")["rows"].any()
    assert (folder / "carry_00000.safetensors").exists()


def test_trap_11_an_unknown_solution_is_none_and_never_trained_on(two_tests):
    hidden = two_tests.without_solutions()
    assert hidden.solutions is None
    index = PuzzleIndex.of([hidden], 2, 0, "view")
    dataset = Dataset((hidden,), index, (True,), 30)
    assert dataset.trained_pairs == (two_tests.train,)


def test_trap_12_what_is_not_known_is_refused():
    with pytest.raises(InputError, match="not known; choose from"):
        load_recipe("demo", ["train.halt_max_steps=3"])
    with pytest.raises(InputError, match="not known; choose from"):
        load_source("arc1/evaluaton")


@pytest.mark.parametrize(
    "change",
    [
        "model.canvas=full model.variant=mlp",
        "model.canvas=full",
        "model.rows_per=view",
        "model.num_cycles=3",
        "model.max_supervision_steps=1",
        "model.rotary=grid",
        "model.num_cycles=2 model.gradient_cycles=2",
        "model.dropout=0.5",
        "train.optimizer=normuon train.matrix_lr=1e-3",
        "model.canvas=full model.variant=mlp train.optimizer=normuon",
        "train.schedule=wsd",
        "train.halt_exploration=1",
        "train.halt_exploration=0",
        "train.rows_only_share=1",
        "train.rows_only_share=0.3 train.ema_share=0.1",
        "checkpoint.carry=false",
        "train.ema_rate=0",
        "train.warmup_steps=0",
        "train.weight_decay=0",
        "adapt.rows_only_share=1",
        "adapt.start=scratch predict.adapt=all",
        "adapt.num_cycles=2 adapt.max_supervision_steps=3 predict.adapt=all",
        "predict.ranking=count",
        "predict.ranking=q predict.pool=all predict.adapt=all",
        "predict.num_supervision_steps=1",
        "engine.dtype=bfloat16",
        "engine.dtype=float16",
        "engine.recompute=true",
        "predict.stop_when_halted=true",
    ],
)
def test_trap_13_whatever_can_be_chosen_works(run_here, change):
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, change]) == 0
    assert call("predict", "--run-name", "a", changes=[*SHORT, change]) == 0


def test_trap_14_the_architecture_travels_inside_the_checkpoint(trained):
    before = (trained / "submission.json").read_bytes()
    changes = [*SHORT, "model.num_cycles=3", "model.dim=64", "model.max_supervision_steps=7"]
    assert call("predict", "--run-name", "a", changes=changes) == 0
    assert (trained / "submission.json").read_bytes() == before


def test_trap_15_predictions_are_the_same_without_the_solutions(run_here):
    """Outputs of tests that stand in the task files play no part."""
    tasks = within_side(load_source("arc1/training"), 4)
    for name, shown in (("known", tasks), ("hidden", [t.without_solutions() for t in tasks])):
        write_task_folder(run_here / name, shown)
        changes = [*SHORT, f"data.predicted=folder:{name}"]
        assert call("pretrain", "--run-name", name, changes=changes) == 0
        assert call("predict", "--run-name", name, changes=changes) == 0
    runs = run_here / "runs"
    assert votes_of(Run(runs / "known")) == votes_of(Run(runs / "hidden"))
    for file in ("submission.json", "challenges.json"):
        assert (runs / "known" / file).read_bytes() == (runs / "hidden" / file).read_bytes()
    assert (runs / "known" / "solutions.json").exists()
    assert not (runs / "hidden" / "solutions.json").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on import
def test_trap_16_compiling_does_not_rename_the_weights(engine):
    plain, compiled = new_model(SMALL_MODEL), new_model(SMALL_MODEL)
    replace(engine, compile=True).prepare(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())


@needs_concept
def test_trap_17_a_data_set_is_a_plan_and_not_its_grids(run_here):
    """Seven bytes a view, where a written-out view of the reference takes thousands."""
    dataset = build(load_recipe("arc1", []), Run.named("a"))
    num_bytes = sum(path.stat().st_size for path in Run.named("a").dataset.iterdir())
    assert len(dataset.index.codes) > 870_000
    assert num_bytes < 10 * len(dataset.index.codes)


def test_two_processes_train_as_one(run_here):
    assert call("pretrain", "--run-name", "one") == 0
    call_in_processes(2, "pretrain", "--run-name", "two")
    alone_run, shared_run = (
        list(map(json.loads, (run_here / "runs" / name / "metrics.jsonl").read_text().splitlines()))
        for name in ("one", "two")
    )
    for ours, theirs in zip(alone_run, shared_run, strict=True):
        for key in ("step", "loss", "accuracy", "exact_accuracy", "supervision_steps"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key
    first, second = (
        load_weights(latest_checkpoint(run_here / "runs" / name / "checkpoints"))
        for name in ("one", "two")
    )
    for name, tensor in first.model.state_dict().items():
        assert torch.allclose(tensor, second.model.state_dict()[name], atol=1e-5), name
    # A run of two processes goes on in one: lanes are those of the whole batch.
    longer = [*SHORT, "train.num_steps=8"]
    assert call("pretrain", "--run-name", "two", changes=longer) == 0
