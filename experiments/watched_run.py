"""A run of ``predict`` whose submission is read and validated all the time."""

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

from machines import USUAL, Machine

from augment.errors import InputError
from augment.task import Task
from pipeline.run import Run
from submission.writer import read_submission

SECONDS_BETWEEN_READS = 0.02


class Command:
    """A running command, whose submission is watched and whose lines are kept."""

    def __init__(self, run: Run, tasks: list[Task], changes: str, processes: int = 1,
                 fault: str = "", file_limit: int = 0,
                 machine: Machine = USUAL) -> None:  # fmt: skip
        """Start ``predict`` in the run's folder's parent."""
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        launch = [*launch, "--max-restarts", "3"] if processes > 1 else []
        module = (
            [str(machine.checkout / "experiments" / "faults.py"), *fault.split()]
            if fault
            else ["-m", "pipeline"]
        )
        stage = ["predict", "--run-name", run.folder.name, "--set", changes]
        limit = (file_limit, resource.RLIM_INFINITY)
        self._run, self._tasks = run, tasks
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [*machine.launch, sys.executable, *launch, *module, *stage],
            cwd=run.folder.parent.parent,
            env=machine.environment(run.folder.name),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
            if file_limit
            else None,
        )
        self.lines: list[str] = []
        self.reads = self.invalid = 0
        self._seen = run.submission.exists()
        self._threads = [threading.Thread(target=t) for t in (self._listen, self._watch)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self.lines.extend(lines)

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._process.poll() is not None
            self._look()
            time.sleep(SECONDS_BETWEEN_READS)

    def _look(self) -> None:
        """Read the submission; it may be missing only before the first one of all."""
        self._seen |= self._run.submission.exists()
        if self._seen:
            self.reads += 1
            try:
                read_submission(self._run.submission, self._tasks)
            except InputError as error:
                self.invalid += 1
                self.lines.append(f"INVALID {error}\n")

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether the command has ended within so many seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self.seconds = time.monotonic() - self.started
        for thread in self._threads:
            thread.join()
        return True

    @property
    def status(self) -> int:
        """The exit status."""
        return self._process.returncode

    @property
    def text(self) -> str:
        """All lines so far."""
        return "".join(self.lines)

    def workers(self) -> list[int]:
        """Return the processes that this one has started."""
        try:
            task = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            return [int(number) for number in task.read_text().split()]
        except OSError:
            return []

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(number)

    def send_all(self, number: int) -> None:
        """Send a signal to the process and all it has started."""
        os.killpg(self._process.pid, number)
