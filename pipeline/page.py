"""The page of a run: what it predicted, and how it was trained, for a browser."""

from collections.abc import Sequence
from itertools import chain

from augment.errors import InputError
from pipeline.console import say, warn
from pipeline.results import Records, ResultFiles, settings_of_prediction
from pipeline.run import Run
from pipeline.training_log import read_metrics
from submission.report import describe_predictions, describe_training, write_report
from submission.writer import read_submission

_STAGES_WITH_METRICS = ("pretrain", "adapt")
# Sources that are all evaluation tasks of a benchmark, and the number of these.
_BENCHMARKS = {"arc1/evaluation": ("ARC-AGI-1", 400), "arc2/evaluation": ("ARC-AGI-2", 120)}


def write_page(run: Run, others: Sequence[Run] = ()) -> None:
    """Write the page of a run, its curves of training beside those of ``others``."""
    training = []
    for shown in dict.fromkeys((run, *others)):
        paths = {stage: shown.metrics_of(stage) for stage in _STAGES_WITH_METRICS}
        existing = {stage: path for stage, path in paths.items() if path.exists()}
        if not existing and shown != run:
            raise InputError(f"{paths['pretrain']}: no metrics of training")
        for stage, path in existing.items():
            try:
                lines = read_metrics(path)
            except InputError as error:
                warn(f"{error}; not drawn")
                continue
            training.append(describe_training(shown.folder.name, stage, lines))
    records = run.recorded()
    predictions = _describe_predictions(run, records) if run.submission.exists() else None
    if predictions is None and not training:
        raise InputError(f"{run.folder}: nothing to report: no metrics, no predictions")
    versions = {stage: record["code_version"] for stage, record in records.items()}
    write_report(run.report, run.folder.name, versions, predictions, training)
    say(f"{run.report}: {run.report.stat().st_size / 1e3:,.0f} kB, to be opened in a browser")


def _describe_predictions(run: Run, records: Records) -> dict[str, object]:
    files = ResultFiles.of_run(run, records)
    tasks = files.read_tasks()
    by_step, candidates = files.read_votes(tasks)
    canvas_side = settings_of_prediction(records, "model").get("canvas_side")
    return describe_predictions(
        tasks,
        read_submission(files.submission, tasks),
        candidates,
        chain.from_iterable(by_step.values()),
        canvas_side if type(canvas_side) is int else None,
        _benchmark(settings_of_prediction(records, "data").get("predicted"), len(tasks)),
    )


def _benchmark(sources: object, num_tasks: int) -> str | None:
    """Return the benchmark whose evaluation tasks, all of them, were predicted; else None."""
    for source, (name, size) in _BENCHMARKS.items():
        if sources == [source] and num_tasks == size:
            return name
    return None
