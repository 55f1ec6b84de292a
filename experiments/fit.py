"""Fit the rule of `pipeline/scaling.py` on the ends of runs of `make experiment`.

    PYTHONPATH=. python experiments/fit.py --arms arc1-small d64 d256 batch256-lr3x --test 4e13

The ends are lines of runs/experiment/curves.jsonl; those behind the rule are kept beside this
program, in runs.jsonl. First without the runs of the budget that `--test` names and of larger
ones, whose errors are then printed; at the end with all runs, on 200 resamples of runs and outputs,
which are written to pipeline/scaling.json.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from compare import job_of, settings_of

from pipeline.scaling import BATCH, FITTED, WIDTH, Rule

RESAMPLES, ATTEMPTS, SIDE = 200, 2, 12
WEAK = 0.1  # weight of each squared number of the second line: without runs it is zero


class End(NamedTuple):
    """The end of a run."""

    arm: str
    seed: int
    side: int
    flop: float
    dim: int
    batch: int
    presentations: float
    exact: float
    cells_N: np.ndarray
    solved_N: np.ndarray


def read_ends(path: Path, arms: list[str]) -> list[End]:
    """Return the ends of all runs of the arms."""
    ends = []
    for line in map(json.loads, path.read_text().splitlines()):
        if line["arm"] not in arms or "outputs" not in line:
            continue
        settings = settings_of(job_of(line))
        cells, places = zip(*line["outputs"], strict=True)
        solved = [place is not None and place < ATTEMPTS for place in places]
        ends.append(
            End(
                line["arm"], line["seed"], line["side"], line["flop"], settings.model.dim,
                settings.train.global_batch, line["presentations"], line["exact"],
                np.array(cells, float), np.array(solved, float),
            )
        )  # fmt: skip
    return ends


def fit_exact(ends: list[End]) -> np.ndarray:
    """Return ln A, a, ln B, b and g of least squares in ln(-ln(exact)); a, b and g are positive."""
    dim, batch, presentations, exact = torch.tensor(
        [(e.dim, e.batch, e.presentations, e.exact) for e in ends], dtype=torch.float64
    ).T
    wide, small, long = (dim / WIDTH).log(), (BATCH / batch).log(), presentations.log()
    # ln A, ln a, ln B, ln b, ln g
    start = torch.tensor([0.0, -1.5, 2.0, -1.5, -3.0], dtype=torch.float64)
    numbers = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([numbers], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        ln_a, of_width, ln_b, of_length, of_batch = numbers
        first = ln_a - of_width.exp() * wide
        second = ln_b - of_length.exp() * (long + of_batch.exp() * small)
        total = (torch.logaddexp(first, second) - (-exact.log()).log()).square().sum()
        total = total + 1e-4 * (numbers - start).square().sum()  # what no run decides stays put
        total.backward()
        return total

    optimizer.step(loss)
    ln_a, of_width, ln_b, of_length, of_batch = numbers.tolist()
    return np.array([ln_a, np.exp(of_width), ln_b, np.exp(of_length), np.exp(of_batch)])


def fit_solved(ends: list[End], exact: list[float]) -> np.ndarray:
    """Return u, v and w of a logistic regression on all outputs, by Newton's method.

    ``exact``: what is expected of each run.
    """
    features = np.concatenate(
        [np.stack([np.ones_like(e.cells_N), np.full_like(e.cells_N, np.log(x)),
                   np.log(e.cells_N)], 1) for e, x in zip(ends, exact, strict=True)]
    )  # fmt: skip
    solved, numbers = np.concatenate([e.solved_N for e in ends]), np.zeros(3)
    for _ in range(50):
        expected = 1 / (1 + np.exp(-features @ numbers))
        gradient = features.T @ (solved - expected) - WEAK * numbers
        weights = (expected * (1 - expected))[:, None]
        numbers = numbers + np.linalg.solve(
            features.T @ (weights * features) + WEAK * np.eye(3), gradient
        )
    return numbers


def fit(ends: list[End], seed: int = 0) -> Rule:
    """Return the rule fitted on resamples of the runs, and of the outputs alike in all runs."""
    generator = np.random.default_rng(seed)
    exact, solved = [], []
    for _ in range(RESAMPLES):
        chosen = [ends[n] for n in generator.integers(len(ends), size=len(ends))]
        drawn = {n: generator.integers(n, size=n) for n in {len(e.cells_N) for e in ends}}
        resampled = [
            e._replace(cells_N=e.cells_N[drawn[len(e.cells_N)]],
                       solved_N=e.solved_N[drawn[len(e.cells_N)]])
            for e in chosen
        ]  # fmt: skip
        exact_5 = fit_exact([e for e in resampled if e.side == SIDE])
        of_run = Rule(exact_5[None], np.zeros((1, 3)), 0.0)
        shares = [of_run.exact(e.dim, e.presentations, e.batch).item() for e in resampled]
        exact.append(exact_5)
        solved.append(fit_solved(resampled, shares))
    return Rule(np.array(exact), np.array(solved), max(e.flop for e in ends))


def expected(rule: Rule, end: End) -> tuple[np.ndarray, np.ndarray]:
    """Return what is expected exact of a run, and solved, both in %: 5 %, median, 95 %."""
    exact = rule.exact(end.dim, end.presentations, end.batch)
    parts = (exact, rule.solved(exact, end.cells_N))
    return tuple(100 * np.percentile(part, (5, 50, 95)) for part in parts)  # type: ignore[return-value]


def show(rule: Rule, ends: list[End]) -> None:
    """Print a table of runs with what the rule expects of each."""
    print("| arm | seed | FLOP | presentations | exact, % | expected | solved, % | expected |")
    print("|---|---|---|---|---|---|---|---|")
    for e in sorted(ends, key=lambda e: (e.flop, e.arm, e.seed)):
        (low, middle, high), (least, about, most) = expected(rule, e)
        print(
            f"| {e.arm} | {e.seed} | {e.flop:.1e} | {e.presentations:.0f} "
            f"| {100 * e.exact:.1f} | {middle:.1f} ({low:.1f} .. {high:.1f}) "
            f"| {100 * e.solved_N.mean():.1f} | {about:.1f} ({least:.1f} .. {most:.1f}) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=Path, default=Path(__file__).with_name("runs.jsonl"))
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument(
        "--test", type=float, default=0.0, help="not used at first, from this budget on"
    )
    options = parser.parse_args()
    ends = read_ends(options.curves, options.arms)
    is_tested = [0 < options.test < 1.1 * e.flop for e in ends]
    tested = [e for e, test in zip(ends, is_tested, strict=True) if test]
    if tested:
        rule = fit([e for e, test in zip(ends, is_tested, strict=True) if not test])
        print(f"Fitted below {options.test:.0e} FLOP; of the other runs it expected:")
        show(rule, tested)
    rule = fit(ends)
    print("Fitted with all runs:")
    show(rule, ends)
    FITTED.write_text(json.dumps(rule.as_json()) + "\n")


if __name__ == "__main__":
    main()
