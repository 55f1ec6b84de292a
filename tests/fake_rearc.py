"""A package reasoning-gym of a few generators and verifiers, good and bad ones."""

# Ids of ARC-AGI-1 training tasks, and one of an evaluation task.
GOOD, HANGING, LYING, ILLEGAL, FAILING, FEW = (
    "007bbfb7", "00d62c1b", "017c7c7b", "025d127b", "045e512c", "0520fde7",
)  # fmt: skip
EVALUATION = "00576224"
GENERATORS = f"""
import random

def _grid(rng, colors):
    return tuple(tuple(rng.choice(colors) for _ in range(3)) for _ in range(3))

def generate_{GOOD}(rng, diff_lb, diff_ub):
    grid = _grid(rng, range(round(10 * diff_lb), 1 + round(9 * diff_ub)))
    return {{"input": grid, "output": grid[::-1]}}

def generate_{HANGING}(rng, diff_lb, diff_ub):
    while True:
        pass

def generate_{LYING}(rng, diff_lb, diff_ub):
    grid = _grid(rng, range(10))
    return {{"input": grid, "output": grid if rng.random() < 0.5 else grid[::-1]}}

def generate_{ILLEGAL}(rng, diff_lb, diff_ub):
    grid = rng.choice([((10,),), ((1,) * 31,), ((1,), (1, 2)), (), ((True,),)])
    return {{"input": grid, "output": grid[::-1]}}

def generate_{FAILING}(rng, diff_lb, diff_ub):
    return {{"input": _grid(rng, range(10)), "output": 1 / 0}}

def generate_{FEW}(rng, diff_lb, diff_ub):
    grid = ((0,) * rng.randrange(1, 4),)
    return {{"input": grid, "output": grid}}

def generate_{EVALUATION}(rng, diff_lb, diff_ub):
    raise SystemExit("a generator of an evaluation task was used")
"""
VERIFIERS = "".join(
    f"def verify_{name}(grid):\n    return grid[::-1]\n\n"
    for name in (GOOD, HANGING, LYING, ILLEGAL, FAILING, FEW, EVALUATION)
)
