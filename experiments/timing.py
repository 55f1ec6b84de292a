"""Seconds of programs that take turns, and the figures that come of them."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

from solver.engine import Engine


def take_turns(
    sides: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of every side in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            seconds[name].append(time_of(run, device))
    return seconds


def time_of(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Report:
    """The figures, printed as they come and written as JSON."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        name = torch.cuda.get_device_name() if engine.device.type == "cuda" else processor()
        self.figures: dict[str, object] = {
            "machine": name,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "dtype": str(engine.dtype),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "date": date.today().isoformat(),
        }
        print(", ".join(f"{key} {value}" for key, value in self.figures.items()), flush=True)

    def add(self, name: str, values: Sequence[float] | float, unit: str = "") -> None:
        values = values if isinstance(values, Sequence) else [values]
        middle = statistics.median(values)
        self.figures[name] = round(middle, 4)
        line = f"{name:44} {middle:12,.3f} {unit}"
        if len(values) > 1:
            self.figures[f"{name}_spread"] = [round(min(values), 4), round(max(values), 4)]
            line += f"  ({min(values):,.3f} .. {max(values):,.3f}, n {len(values)})"
        print(line, flush=True)

    def ratio(self, name: str, slow: Sequence[float], fast: Sequence[float]) -> None:
        self.add(name, [a / b for a, b in zip(slow, fast, strict=True)], "x")

    def rates(
        self,
        what: str,
        name: str,
        count: int,
        flop: float,
        real_flop: float,
        seconds: Sequence[float],
        rate: float,
    ) -> None:
        """Add examples per second, and the shares of ``rate`` that all and real cells get."""
        self.add(f"{what}_per_second_{name}", [count / s for s in seconds])
        self.add(f"{what}_share_of_peak_{name}", [flop / s / rate for s in seconds])
        self.add(f"{what}_share_on_real_cells_{name}", [real_flop / s / rate for s in seconds])

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.figures, indent=2) + "\n")
        print(f"{self.path}")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
