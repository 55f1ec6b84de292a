"""What `make gpu` leaves for its next call: the newest checkpoint, its figures, and a table."""

import json
import shutil
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

RUN = Path("runs/gpu")
STATE = RUN / "state.json"
SUBMISSION = Path("runs/gpu-score/submission.json")
PART_BYTES, MOST_BYTES = 15_000_000, 60_000_000


def newest_checkpoint() -> Path | None:
    """Return the newest checkpoint of the training."""
    return max((RUN / "checkpoints").glob("step_" + "[0-9]" * 9), default=None)


def newest_step() -> int:
    """Return its step, 0 before the first."""
    newest = newest_checkpoint()
    return int(newest.name.removeprefix("step_")) if newest else 0


def pack(folder: Path) -> None:
    """Write what the next call needs into ``folder``, in parts, unless it is too large."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = RUN / "state.tar"
    names = ("metrics.jsonl", "config.json", "state.json", "rates.json")
    with tarfile.open(whole, "w") as archive:
        for path in (newest_checkpoint(), *(RUN / name for name in names)):
            if path and path.exists():
                archive.add(path)
    for old in folder.glob("state.[0-9][0-9][0-9]"):
        old.unlink()
    if whole.stat().st_size > MOST_BYTES:
        size = whole.stat().st_size / 1e6
        print(f"gpu: {size:.0f} MB of state are too many to carry: only this machine can go on")
    else:
        with whole.open("rb") as file:
            number = 0
            while part := file.read(PART_BYTES):
                (folder / f"state.{number:03}").write_bytes(part)
                number += 1
    whole.unlink()
    for path in (STATE, SUBMISSION):
        if path.exists():
            shutil.copy(path, folder / ("results.json" if path == STATE else path.name))


def unpack(folder: Path) -> None:
    """Bring back what :func:`pack` wrote, unless a training has begun here."""
    parts = sorted(folder.glob("state.[0-9][0-9][0-9]"))
    if not parts or newest_step():
        return
    RUN.mkdir(parents=True, exist_ok=True)
    whole = RUN / "state.tar"
    with whole.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    with tarfile.open(whole) as archive:
        archive.extractall(".", filter="data")
    whole.unlink()


def describe(state: dict[str, Any]) -> str:
    """Return the results as a table."""
    rates = {k: v for k, v in state.get("rates", {}).items() if not isinstance(v, list)}
    legs = state["legs"]
    trained = {name: sum(leg[name] for leg in legs) for name in ("steps", "seconds")}
    rows = [
        ("checks", state.get("checks", "not made")),
        *rates.items(),
        *(("training", f"{k} {v}") for k, v in trained.items() if v),
        *((f"held out, step {x.pop('step')}", json.dumps(x)) for x in map(dict, state["held_out"])),
        ("ARC-AGI-1 evaluation", json.dumps(state.get("score", "not answered yet"))),
        ("seconds of all calls", state["spent_seconds"]),
    ]
    lines = ["| what | figure |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows)]
    return "\n".join(lines) + "\n"


def install(wheels: Path) -> str:
    """Unzip the wheels of packages that are missing here; return the folder, for Python's path."""
    target = RUN / "packages"
    installed = {distribution.name.lower() for distribution in metadata.distributions()}
    for wheel in sorted(wheels.glob("*.whl")):
        if wheel.name.partition("-")[0].replace("_", "-").lower() not in installed:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
    return str(target.resolve())
