"""Tasks and submissions for ``make fuzz``: real ones, written in every form, and then mutated."""

import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_oracle as oracle
from fuzz_inputs import Files, Input, dump, mutate_bytes, mutate_files, mutate_tree
from fuzz_oracle import Doubts

from augment.task import Task
from augment.task_files import read_challenges, read_task_file
from pipeline.sources import load_source
from submission.score import pass_json, score_submission
from submission.writer import read_submission

CHALLENGES = "arc-agi_training_challenges.json"
SOLUTIONS = "arc-agi_training_solutions.json"
SUBMISSION = "submission.json"


@cache
def real_tasks() -> list[tuple[str, str]]:
    """Return ids of real tasks, each with its JSON."""
    tasks = load_source("arc1/training") + load_source("arc1/evaluation")
    return [(task.task_id, json.dumps(_task_json(task))) for task in tasks]


def _task_json(task: Task) -> dict[str, list[Any]]:
    return {
        part: [{"input": pair.input.tolist(), "output": pair.output.tolist()} for pair in pairs]
        for part, pairs in (("train", task.train), ("test", task.test_pairs))
    }


def draw_tasks(rng: random.Random, most: int) -> dict[str, Any]:
    """Return up to so many real tasks as JSON values by id."""
    drawn = rng.sample(real_tasks(), rng.randint(1, most))
    return {task_id: json.loads(text) for task_id, text in drawn}


def take_solutions(tasks: dict[str, Any]) -> dict[str, Any]:
    """Take the solutions out of tasks, and return them in Kaggle's form."""
    return {
        task_id: [pair.pop("output") for pair in task["test"]] for task_id, task in tasks.items()
    }


def mutate(
    rng: random.Random, trees: dict[str, Any], changed: Sequence[str]
) -> tuple[Files, list[str]]:
    """Return the files of JSON values, those among ``changed`` after mutations, and which."""
    mutations: list[str] = []
    way = rng.random()
    if way < 0.65:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            name = rng.choice(changed)
            holder = {"": trees[name]}  # so that the whole value can be changed too
            value = trees[name]
            mutations.append(mutate_tree(rng, holder if rng.random() < 0.02 else value))
            trees[name] = holder.get("", value) if len(holder) == 1 else value
    files: Files = {name: dump(tree) for name, tree in trees.items()}
    if 0.65 <= way < 0.85:
        name = rng.choice(changed)
        files[name], mutation = mutate_bytes(rng, files[name])
        mutations.append(mutation)
    elif 0.85 <= way < 0.95:
        chosen: Files = {name: files.pop(name) for name in changed}
        mutations.append(mutate_files(rng, chosen))
        files |= chosen
    return files, mutations


def make_tasks(rng: random.Random) -> Input:
    """Return tasks as one file, as a folder or as Kaggle's two files."""
    form = rng.choice(("file", "folder", "kaggle", "kaggle"))
    tasks = draw_tasks(rng, 1 if form == "file" else 3)
    for task in tasks.values():
        if form != "kaggle" and rng.random() < 0.3:
            take_solutions({"": task})
    trees = {f"tasks/{task_id}.json": task for task_id, task in tasks.items()}
    arguments = (form, *trees)[:2] if form == "file" else (form,)
    if form == "kaggle":
        solutions = {
            task_id: [pair["output"] for pair in task["test"]] for task_id, task in tasks.items()
        }
        if rng.random() < 0.7:
            take_solutions(tasks)
        if rng.random() < 0.3:  # in an order of its own
            solutions = dict(reversed(solutions.items()))
        trees = {f"tasks/{CHALLENGES}": tasks, f"tasks/{SOLUTIONS}": solutions}
    files, mutations = mutate(rng, trees, list(trees))
    return Input("tasks", arguments, files, tuple(mutations))


def judge_tasks(folder: Path, arguments: tuple[str, ...], doubts: Doubts) -> list[Any]:
    """Return the tasks that the files must read as."""
    form, *names = arguments
    if form == "file":
        path = folder / names[0]
        return [oracle.task(path.stem, oracle.read_json(path, doubts), doubts)]
    if form == "folder":
        return oracle.task_folder(folder / "tasks", doubts)
    return oracle.kaggle_tasks(folder / "tasks" / CHALLENGES, folder / "tasks" / SOLUTIONS, doubts)


def read_tasks(folder: Path, arguments: tuple[str, ...]) -> list[Any]:
    """Return the tasks that the program reads, as :func:`judge_tasks` does."""
    form, *names = arguments
    if form == "file":
        return [_plain(read_task_file(folder / names[0]))]
    source = "folder" if form == "folder" else "kaggle/training"
    return [_plain(task) for task in load_source(f"{source}:{folder / 'tasks'}")]


def _plain(task: Task) -> tuple[Any, ...]:
    return (
        task.task_id,
        [(pair.input.tolist(), pair.output.tolist()) for pair in task.train],
        [grid.tolist() for grid in task.test_inputs],
        None if task.solutions is None else [grid.tolist() for grid in task.solutions],
    )


def make_submissions(rng: random.Random) -> Input:
    """Return tasks as Kaggle's two files, and a submission with right and wrong attempts."""
    tasks = draw_tasks(rng, 3)
    solutions = take_solutions(tasks)
    submission = {
        task_id: [
            {
                name: rng.choice((solution, tasks[task_id]["train"][0]["output"], [[0]]))
                for name in ("attempt_1", "attempt_2")
            }
            for solution in grids
        ]
        for task_id, grids in solutions.items()
    }
    if rng.random() < 0.3:
        submission = dict(reversed(submission.items()))
    trees = {
        CHALLENGES: tasks,
        SOLUTIONS: solutions,
        SUBMISSION: json.loads(json.dumps(submission)),
    }
    files, mutations = mutate(rng, trees, [SUBMISSION])
    return Input("submissions", (), files, tuple(mutations))


def judge_submissions(folder: Path, arguments: tuple[str, ...], doubts: Doubts) -> Any:
    """Return the attempts that the files must read as, and their score."""
    tasks = oracle.kaggle_tasks(folder / CHALLENGES, folder / SOLUTIONS, doubts)
    attempts = oracle.submission(folder / SUBMISSION, tasks, doubts)
    return attempts, oracle.score(attempts, tasks)


def read_submissions(folder: Path, arguments: tuple[str, ...]) -> Any:
    """Return the attempts and the score that the program reads, as :func:`judge_submissions`."""
    tasks = read_challenges(folder / CHALLENGES, folder / SOLUTIONS)
    read = read_submission(folder / SUBMISSION, tasks)
    attempts = {
        task_id: [[grid.tolist() for grid in pair] for pair in tests]
        for task_id, tests in read.attempts.items()
    }
    score = pass_json(score_submission(read, tasks))
    rounded = {m: {k: round(share, 12) for k, share in of.items()} for m, of in score.items()}
    return attempts, rounded
