"""What a recipe computes, drawn from its own tasks: how long its examples and its views are.

Nothing is downloaded: a source that is not on this machine is left out, and named.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from augment.boxes import infer_test_boxes
from augment.dataset import Dataset
from augment.examples import ExampleStream
from augment.puzzle_index import PuzzleIndex
from augment.task import Pair, Task, tasks_by_id
from pipeline.console import say
from pipeline.inputs import choose_fresh_pairs
from pipeline.puzzle_sources import are_puzzles
from pipeline.settings import Settings
from pipeline.sources import load_sources, needs_download, within_side
from solver.settings import AdaptSettings, ModelSettings, TrainSettings

_VIEWS = 7  # of each task beside the original: all its views are spread like these
_EXAMPLES, _MOST_EXAMPLES = 2048, 8192


@dataclass(frozen=True, slots=True, eq=False)
class TrainingWork:
    """A training run: what it trains, how, and positions (N,) of examples as it draws them."""

    settings: TrainSettings
    model: ModelSettings
    num_rows: int
    """Puzzle rows, all views counted as distinct."""
    num_pairs: int
    """Pairs of an epoch."""
    lengths: NDArray[np.int64]

    @property
    def stage(self) -> str:
        """``adapt``, test-time training, which is a part of the stage predict, or ``pretrain``."""
        return "adapt" if isinstance(self.settings, AdaptSettings) else "pretrain"


@dataclass(frozen=True, slots=True, eq=False)
class PredictionWork:
    """Views to predict, known by a few of each test."""

    model: ModelSettings
    num_supervision_steps: int
    num_views: int
    """Views of all tests."""
    views_drawn: int
    """Those whose positions are known."""
    lengths: NDArray[np.int64]
    """Their positions, and those of the demonstrations that check them."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a recipe computes; None where it does not train, or predicts nothing."""

    training: TrainingWork | None
    prediction: PredictionWork | None


def without_absent_sources(settings: Settings) -> Settings:
    """Return the settings without sources that would be downloaded, each of which is named."""
    data = settings.data
    absent = {n for n in (*data.trained, *data.predicted, *data.fresh) if needs_download(n)}
    for name in sorted(absent):
        say(f"plan: source {name} is not on this machine and is left out; make data fetches it")

    def present(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in absent)

    data = replace(
        data,
        trained=present(data.trained),
        predicted=present(data.predicted),
        fresh=present(data.fresh),
    )
    return replace(settings, data=data) if absent else settings


def read_workload(settings: Settings) -> Workload:
    """Return what ``settings`` compute; their sources must be on this machine."""
    trained, predicted = settings.data.trained, settings.data.predicted
    if are_puzzles((*trained, *predicted)):
        return _puzzle_workload(settings)
    tasks = within_side(load_sources(predicted), settings.data.max_side)
    tasks = [task.without_solutions() for task in tasks]
    # A prediction leaves out what the canvas does not hold.
    predicted_tasks = within_side(tasks, settings.model.canvas_side)
    if trains_before(settings):
        known = [t for t in load_sources(trained) if t.task_id not in settings.data.left_out]
        side = settings.data.max_side
        known = [task for task in known if task.longest_side(with_solutions=True) <= side]
        fresh = choose_fresh_pairs(settings.data, known)
        visible = [] if settings.data.unseen else tasks
        training = _training(settings, settings.train, settings.model, known, visible, fresh)
        return Workload(training, _prediction(settings, settings.model, predicted_tasks))
    model = settings.adapt.adapted_model(settings.model)
    training = _training(settings, settings.adapt, model, [], predicted_tasks)
    return Workload(training, _prediction(settings, model, predicted_tasks))


def _puzzle_workload(settings: Settings) -> Workload:
    """Return the work of puzzles, each of which fills the canvas."""
    model, puzzles = settings.model, settings.puzzles
    lengths = np.array([model.length])
    training = TrainingWork(settings.train, model, 2, max(1, puzzles.num_trained), lengths)
    num_answers = max(1, puzzles.num_predicted)
    prediction = PredictionWork(model, puzzles.steps[-1], num_answers, 1, lengths)
    return Workload(training, prediction)


def trains_before(settings: Settings) -> bool:
    """Whether a recipe trains in the stage pretrain, not on the tasks that a prediction is given.

    It does where it names tasks to train on; else where that takes more steps than test-time
    training and the canvas holds all tasks.
    """
    num_steps, data = settings.train.num_steps, settings.data
    holds_all = data.max_side <= settings.model.canvas_side
    more_steps = num_steps > settings.adapt.num_steps
    return num_steps > 0 and (bool(data.trained) or (more_steps and holds_all))


def _training(
    settings: Settings,
    train: TrainSettings,
    model: ModelSettings,
    known: Sequence[Task],
    visible: Sequence[Task],
    fresh: Sequence[Sequence[Pair]] = (),
) -> TrainingWork | None:
    """Return the training on ``known`` tasks with their solutions, and on ``visible`` ones.

    ``fresh`` are further pairs of the known tasks.
    """
    from solver.packing import boxes_for, lengths_of  # loads torch

    tasks = tuple(tasks_by_id([*known, *visible]).values())
    if not tasks or train.num_steps == 0:
        return None
    index = PuzzleIndex.of(
        tasks, _views(settings), settings.data.seed, model.rows_per, settings.data.color_maps
    )
    with_solutions = (True,) * len(known) + (False,) * len(visible)
    dataset = Dataset(tasks, index, with_solutions, model.canvas_side)
    dataset = dataset.with_fresh_pairs([*fresh, *((),) * len(visible)])
    epochs = -(-_EXAMPLES // dataset.num_pairs)  # whole ones, which hold all tasks alike
    num_examples = min(epochs * dataset.num_pairs, _MOST_EXAMPLES)
    boxes = ExampleStream(dataset, train.seed).examples(0, num_examples).boxes
    views = settings.data.views_per_task + 1 if model.rows_per == "view" else 1
    lengths = lengths_of(boxes_for(model, boxes), model)
    return TrainingWork(train, model, 1 + views * len(tasks), dataset.num_pairs, lengths)


def _prediction(
    settings: Settings, model: ModelSettings, tasks: Sequence[Task]
) -> PredictionWork | None:
    if not tasks:
        return None
    lengths = _test_lengths(settings, model, tasks)
    drawn, predict = len(lengths), settings.predict
    if predict.checks_demonstrations:
        from solver.demonstrations import with_demonstrations_as_tests  # loads torch

        lengths = np.append(
            lengths, _test_lengths(settings, model, map(with_demonstrations_as_tests, tasks))
        )
    num_tests = sum(len(task.test_inputs) for task in tasks)
    views = min(predict.num_views, settings.data.views_per_task + 1)
    steps = predict.num_supervision_steps_of(model)
    return PredictionWork(model, steps, views * num_tests, drawn, lengths)


def _test_lengths(
    settings: Settings, model: ModelSettings, tasks: Iterable[Task]
) -> NDArray[np.int64]:
    """Return the positions of every test under a few views, their boxes inferred."""
    from solver.packing import boxes_for, lengths_of  # loads torch

    tasks = list(tasks)
    index = PuzzleIndex.of(
        tasks, _views(settings), settings.data.seed, model.rows_per, settings.data.color_maps
    )
    cells = [
        (number, test, view)
        for number, task in enumerate(tasks)
        for test, view in product(range(len(task.test_inputs)), range(index.num_views[number]))
    ]
    numbers, tests, views = np.array(cells, dtype=np.int64).T
    _, codes = index.rows(numbers, views)
    boxes = infer_test_boxes(tasks, numbers, tests, codes, model.canvas_side)
    return lengths_of(boxes_for(model, boxes), model)


def _views(settings: Settings) -> int:
    return min(_VIEWS, settings.data.views_per_task)
