"""`make bench`: how fast this is on a CPU, beside what the machine could do at best.

The sides of a ratio take turns in one process, on the same weights and examples, after their
outputs were compared. Medians over the rounds are reported, with the smallest and the largest.
Results are printed and written to runs/bench/cpu.json.
"""

import resource
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench_around import around
from bench_network import check_outputs, compare_prediction, compare_training, measure_width_128
from timing import Report
from workloads import (
    Trainer,
    arc1_mix,
    boxed,
    data_set,
    plan_tests,
    product_rate,
    spread_over_sizes,
)

from augment.examples import ExampleStream
from pipeline.sources import load_source
from solver.engine import Engine, open_engine
from solver.settings import EngineSettings, ModelSettings

# One update of z per cycle instead of four: as many passes without gradient for each with one as
# in the reference (4 to 2, there 10 to 5), so that enough examples are timed in a CPU's minutes.
SHORTER = ModelSettings(num_latent_steps=1)
TINY = ModelSettings(dim=64, num_heads=2, num_cycles=1, num_latent_steps=1)


def peak_memory(canvas: str, engine: Engine, count: int) -> None:
    """Print the most memory one training step takes, in MB, in a process of its own."""
    examples = ExampleStream(data_set(["arc1/training"], []), 0).examples(0, 2048)
    chosen = examples.take(spread_over_sizes(examples.boxes, count))
    trainer = Trainer.of(replace(SHORTER, canvas=canvas), chosen, engine)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def bench_cpu(model: ModelSettings, engine: Engine, report: Report, options: Namespace) -> None:
    """The whole on a CPU: `make bench`."""
    around(report)
    rounds, count = options.rounds, options.examples
    for canvas in ("full", "box"):
        command = [sys.executable, __file__, "memory", "--canvas", canvas, "--examples", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        report.add(f"train_{canvas}_peak_memory_mb", float(done.stdout), "MB")
    rate = product_rate(engine, 4096)
    report.add("product_gflop_per_second", rate / 1e9)
    measure_width_128(engine, report, options, rate)
    examples = arc1_mix(count)
    check_outputs(model, examples, engine)
    train = partial(compare_training, engine=engine, report=report, rounds=rounds, rate=rate)
    train("arc1", model, examples, beside_eager=True)
    arc2 = ExampleStream(data_set([], ["arc2/evaluation"]), 0).examples(0, 8192)
    arc2 = arc2.take(spread_over_sizes(arc2.boxes, count))
    train("arc2_eval", model, arc2, beside_eager=False)
    for name in ("arc1", "arc2"):
        plan = plan_tests(boxed(model), 1, load_source(f"{name}/evaluation"), count)
        compare_prediction(f"{name}_eval", plan, engine, report, rounds, rate)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["cpu", "memory"])
    parser.add_argument("--canvas", choices=["full", "box"], help="of what to take the memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="a small model and little of it")
    options = parser.parse_args()
    started = time.perf_counter()
    compiled = options.what != "memory" and not options.tiny
    engine = open_engine(EngineSettings(device="cpu", compile=str(compiled).lower()), print)
    if options.what == "memory":
        peak_memory(options.canvas, engine, options.examples)
        return
    report = Report(Path("runs/bench/cpu.json"), engine)
    bench_cpu(TINY if options.tiny else SHORTER, engine, report, options)
    report.add("bench_seconds", time.perf_counter() - started, "s")
    report.write()


if __name__ == "__main__":
    main()
