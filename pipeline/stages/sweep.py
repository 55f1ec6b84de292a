"""The stage sweep: how the score depends on the number of views and of supervision steps."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import orjson

from augment.errors import InputError
from augment.files import write_atomic
from augment.prediction import Prediction
from augment.task import Task
from pipeline.console import ProgressBar, say_anywhere, say_table, warn
from pipeline.deadline import Deadline, Leg
from pipeline.inputs import choose_predicted_tasks, choose_weights, split_tasks
from pipeline.prediction_run import adapted_weights
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.training_run import TrainingRun, open_test_time_training
from solver.engine import open_engine
from solver.predict import Predictor
from solver.process_group import leave_process_group
from solver.queries import Plan, list_queries
from solver.weights import Weights
from submission.score import score_submission
from submission.vote import count_votes
from submission.writer import build_submission

_COLUMNS = {
    "views": "",
    "steps": "",
    "pass@1 task": ".2%",
    "pass@1 output": ".2%",
    "pass@2 task": ".2%",
    "pass@2 output": ".2%",
    "by votes": "",
    "FLOP": ".2g",
    "seconds": ".2g",
}


def sweep(settings: Settings, run: Run, views: Sequence[int], steps: Sequence[int]) -> None:
    """Score the tasks of ``settings`` with every number of views and of supervision steps.

    Each number of steps is predicted once, with the most views; fewer views are a part of these,
    so their FLOP and seconds are the same part of what was counted and measured. The first number
    of steps has the start-up in its seconds. Candidates are ranked by count.
    """
    with run.lock():
        engine = open_engine(settings.engine, say_anywhere)
        tasks = choose_predicted_tasks(settings)
        if any(task.solutions is None for task in tasks):
            raise InputError("sweep scores, and the solutions of some of these tasks are not known")
        weights = choose_weights(settings, run, tasks, engine)
        start = time.monotonic()
        ready, to_adapt = split_tasks(tasks, weights, settings)
        parts: list[tuple[Sequence[Task], Weights]] = [(ready, weights)] if ready else []
        if to_adapt:
            training_run = open_test_time_training(settings, run, engine, to_adapt, weights)
            if settings.adapt.num_steps:
                training_run.plan_memory()
                _train(training_run, settings.adapt.time_limit_seconds)
            parts.append((to_adapt, adapted_weights(training_run, weights)))
        prepared_in = time.monotonic() - start
        most = max((int(w.index.num_views.max()) for _, w in parts), default=1)
        views = sorted({min(number, most) for number in views})
        lines: list[dict[str, float]] = []
        stops = settings.predict.stop_when_halted
        with ProgressBar("sweep", "setting", len(steps), settings.log) as bar:
            for num_steps in steps:
                predictions: list[Prediction] = []
                flop, start = 0.0, time.monotonic()
                for part, of_part in parts:
                    queries = list_queries(of_part, part, max(views))
                    plan = Plan.of(of_part.model.settings, num_steps, part, queries)
                    predictor = Predictor(of_part, plan, engine, stop_when_halted=stops)
                    while not predictor.is_finished:
                        flop += sum(map(predictor.submit, predictor.chunks)) + predictor.join()
                    predictions += filter(None, predictor.predictions())
                flop, seconds = engine.group.sum(flop), time.monotonic() - start
                for num_views in views:
                    counted = [p for p in predictions if p.view < num_views]
                    share = len(counted) / max(1, len(predictions))
                    lines.append({
                        "views": num_views,
                        "steps": num_steps,
                        **_score_votes(tasks, counted),
                        "flop": flop * share,
                        "seconds": seconds * share,
                    })  # fmt: skip
                bar.update()
        if engine.group.is_rank0:
            content = {
                "tasks": len(tasks),
                "outputs": sum(len(task.test_inputs) for task in tasks),
                "weights": weights.source,
                "prepared_in_seconds": prepared_in,
                "settings": asdict(replace(settings, model=weights.model.settings)),
                "scores": lines,
            }
            json = orjson.dumps(content, option=orjson.OPT_INDENT_2)
            write_atomic(run.folder / "sweep.json", json)
        say_table("sweep", _COLUMNS, [list(line.values()) for line in lines])
        engine.group.barrier()
        leave_process_group()


def _train(training_run: TrainingRun, limit_seconds: float) -> None:
    """Train to the end, in what earlier calls left of the time; 0 = no limit."""
    begin = training_run.training.progress if limit_seconds else 0.0
    seconds = limit_seconds * (1 - begin)
    try:
        training_run.train(Leg(Deadline(), bool(limit_seconds), seconds, begin))
    except FloatingPointError as error:
        warn(f"adapt: given up after {training_run.step} steps: {error}")


def _score_votes(tasks: Sequence[Task], predictions: Iterable[Prediction]) -> dict[str, float]:
    """Return both metrics of the submission that the predictions vote for."""
    candidates = count_votes(predictions).candidates
    score = score_submission(build_submission(tasks, candidates)[0], tasks, candidates)
    metrics: dict[str, float] = {}
    for k in (1, 2):
        per_task, per_output = score.pass_at(k)
        metrics |= {f"pass@{k} per task": per_task, f"pass@{k} per output": per_output}
    return metrics | {"solved by votes": score.num_solved_by_votes}
