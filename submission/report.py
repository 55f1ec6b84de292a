"""The page of a run: its score, and every task with its attempts and its votes, to be looked at.

One file that needs no network: :data:`_PAGE` holds style and script, the run's data stands in it
as JSON. Source of the published scores: the papers and the ARC Prize leaderboard of 2025.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import orjson

from augment.drawing import COLORS
from augment.files import read_bytes, write_atomic
from augment.grid import Grid
from augment.predictions import Prediction
from augment.task import Task
from submission.score import TaskScore, score_json, score_submission
from submission.vote import Candidate, Tally, TestKey
from submission.writer import Submission

_PAGE = Path(__file__).with_name("report.html")
_CANDIDATES = 8  # drawn for each test
# Of systems of this kind, pass@2 in percent on all evaluation tasks: ARC-AGI-1, ARC-AGI-2.
_PUBLISHED = (
    ("TRM, 7M parameters (4 H100, 3 days)", "44.6", "7.8"),
    ("TRM, trained again by others", "40 to 43", "3 to 6"),
    ("HRM", "40.3", "5.0"),
    ("mdlARC (one RTX 5090, 2 hours)", "44", "7"),
)


def write_report(
    path: Path,
    name: str,
    tasks: Sequence[Task],
    submission: Submission,
    tally: Tally,
    predictions: Iterable[Prediction],
) -> None:
    """Replace ``path`` by the page of a run called ``name``.

    ``tally`` ranks the candidates as the submission chose them; of ``predictions``, those it was
    made from, the empty ones are counted.
    """
    answered = all(task.answers is not None for task in tasks)
    score = score_submission(submission, tasks, tally.candidates) if answered else None
    of_task: Mapping[str, TaskScore] = {t.task_id: t for t in score.tasks} if score else {}
    empty = Counter((p.task_id, p.test) for p in predictions if p.grid is None)
    data = {
        "name": name,
        "colors": COLORS,
        "score": {k: v for k, v in score_json(score).items() if k != "tasks"} if score else None,
        "published": _PUBLISHED,
        "tasks": [
            {
                "id": task.task_id,
                "train": [[_encode(pair.input), _encode(pair.output)] for pair in task.train],
                "tests": [
                    _describe_test(
                        task, test, submission, tally.candidates, empty, of_task.get(task.task_id)
                    )
                    for test in range(len(task.test_inputs))
                ],
            }
            for task in tasks
        ],
    }
    # No markup can begin in the data, whatever a task is called.
    content = orjson.dumps(data).replace(b"<", b"\\u003c")
    write_atomic(path, read_bytes(_PAGE).replace(b'"DATA"', content))


def _describe_test(
    task: Task,
    test: int,
    submission: Submission,
    candidates: Mapping[TestKey, Sequence[Candidate]],
    empty: Mapping[TestKey, int],
    score: TaskScore | None,
) -> dict[str, object]:
    found = candidates.get((task.task_id, test), ())
    return {
        "input": _encode(task.test_inputs[test]),
        "answer": None if task.answers is None else _encode(task.answers[test]),
        "attempts": [_encode(grid) for grid in submission.attempts[task.task_id][test]],
        "solved_by": None if score is None else score.attempts[test],
        "rank": None if score is None or score.votes is None else score.votes[test],
        "votes": sum(candidate.votes for candidate in found),
        "num_candidates": len(found),
        "empty": empty.get((task.task_id, test), 0),
        "candidates": [
            {
                "grid": _encode(candidate.grid),
                "votes": candidate.votes,
                "q": round(candidate.mean_q, 4),
                "reproduced": round(candidate.mean_reproduced, 4),
            }
            for candidate in found[:_CANDIDATES]
        ],
    }


def _encode(grid: Grid) -> str:
    """Return a grid as its rows of digits, with a bar between them."""
    return "|".join("".join(map(str, row)) for row in grid.tolist())
