"""What the stand-in for Kaggle keeps and sends: data sets, notebooks, uploads, answers."""

from dataclasses import dataclass, field

USER, KEY = "someone", "not-a-key"
COMPETITIONS = ("arc-prize-2024", "arc-prize-2025", "arc-prize-2026-arc-agi-2")
MACHINES = (None, "NvidiaL4", "NvidiaTeslaT4", "NvidiaTeslaT4Highmem", "TpuV5E8")
LICENCES = {
    "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "PDDL", "ODC-BY-1.0", "ODbL-1.0",
    "DbCL-1.0", "CDLA-Permissive-1.0", "CDLA-Sharing-1.0", "MIT", "apache-2.0", "GPL-2.0",
    "GPL-3.0", "LGPL-3.0", "AGPL-3.0", "FDL-1.3", "copyright-authors", "other", "unknown",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What is sent back. As a fault it takes the place of the answer to one call.

    A dict is sent as JSON, text as an error ``{"code", "message"}`` in JSON, bytes as they are.
    Status 0 cuts the connection.
    """

    status: int = 200
    body: dict | str | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    done: bool = False  # the call took effect all the same
    kept: int = 0  # bytes of an upload that arrived all the same
    delay: float = 0.0  # seconds before the answer


class RefusalError(Exception):
    """A call that Kaggle would refuse: the status and the message."""


def check(holds: object, message: str, status: int = 400) -> None:
    if not holds:
        raise RefusalError(status, message)


@dataclass(kw_only=True)
class StatusSequence:
    """What goes through ``statuses`` from its latest version on, and stays at the last one."""

    statuses: tuple[str, ...]
    num_looks: int = 0

    @property
    def status(self) -> str:
        return self.statuses[min(self.num_looks, len(self.statuses) - 1)]

    def next_status(self) -> str:
        status = self.status
        self.num_looks += 1
        return status


@dataclass(kw_only=True)
class Dataset(StatusSequence):
    """A data set: the content of each version's files."""

    title: str = ""
    licence: str = ""
    is_private: bool = True
    versions: list[dict[str, bytes]] = field(default_factory=list)
    statuses: tuple[str, ...] = ("BLOBS_RECEIVED", "READY")


@dataclass(kw_only=True)
class Notebook(StatusSequence):
    """A notebook: what each save sent, and what a run leaves behind."""

    saved: list[dict] = field(default_factory=list)
    statuses: tuple[str, ...] = ("QUEUED", "RUNNING", "COMPLETE")
    failure: str = ""
    output: dict[str, bytes] = field(default_factory=dict)
    log: str = ""


@dataclass
class Upload:
    """A file on its way."""

    name: str
    length: int
    content: bytes = b""
