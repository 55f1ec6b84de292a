"""A stand-in for Kaggle's server, on this machine, for the unmodified ``kaggle`` client.

It keeps what it is sent, refuses what Kaggle would refuse and says why, and goes wrong where a
test tells it to::

    with KaggleServer(tmp_path) as server:
        server.faults["PUT"] = [Answer(503, kept=4)]
        subprocess.run(["kaggle", "datasets", "create", "-p", "here"], env=server.environment())
        assert server.datasets["someone/weights"].versions[-1]["model.bin"] == content
"""

import base64
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

USER, KEY = "someone", "not-a-key"
COMPETITIONS = ("arc-prize-2024", "arc-prize-2025", "arc-prize-2026-arc-agi-2")
LICENCES = """
    CC0-1.0 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-BY-NC-4.0 CC-BY-NC-SA-4.0
    CC-BY-ND-4.0 CC-BY-NC-ND-4.0 MIT apache-2.0 GPL-2.0 GPL-3.0 LGPL-3.0 AGPL-3.0 FDL-1.3 PDDL
    ODbL-1.0 DbCL-1.0 ODC-BY-1.0 CDLA-Permissive-1.0 CDLA-Sharing-1.0 copyright-authors other
    unknown
""".split()
MACHINES = (None, "NvidiaL4", "NvidiaTeslaT4", "NvidiaTeslaT4Highmem", "TpuV5E8")


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
    delay: float = 0.0  # seconds until the answer


class RefusalError(Exception):
    """A call that Kaggle would refuse: status and message."""


@dataclass
class Dataset:
    """A data set; ``statuses`` are told in turn after each version, the last one for ever."""

    title: str = ""
    licence: str = ""
    is_private: bool = True
    versions: list[dict[str, bytes]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    statuses: tuple[str, ...] = ("BLOBS_RECEIVED", "READY")
    times_asked: int = 0


@dataclass
class Notebook:
    """A notebook; ``statuses`` are told in turn after each save, the last one for ever."""

    saved: list[dict] = field(default_factory=list)
    statuses: tuple[str, ...] = ("QUEUED", "RUNNING", "COMPLETE")
    failure: str = ""
    output: dict[str, bytes] = field(default_factory=dict)
    log: str = ""
    times_asked: int = 0

    @property
    def status(self) -> str:
        return self.statuses[min(self.times_asked, len(self.statuses) - 1)]


@dataclass
class Upload:
    """A file on its way."""

    name: str
    length: int
    content: bytes = b""


METHODS = {}


def api_method(service, **fields):
    """Answer this method of the service; the fields are those the body must hold, of these types.

    The client leaves out fields that are empty, zero or False, except where it sends None.
    """

    def register(function):
        name = function.__name__.title().replace("_", "")
        METHODS[f"/api/v1/{service}/{name}"] = name, function, fields
        return function

    return register


def check(holds: object, message: str, status: int = 400) -> None:
    if not holds:
        raise RefusalError(status, message)


@dataclass
class KaggleServer:
    """The stand-in; a context manager. A data set or notebook without versions does not exist."""

    folder: Path
    datasets: dict[str, Dataset] = field(default_factory=dict)
    notebooks: dict[str, Notebook] = field(default_factory=dict)
    submissions: list[dict] = field(default_factory=list)
    submissions_allowed: int = 1
    submission_result: dict = field(default_factory=lambda: {"status": "PENDING"})
    requests: list[tuple[str, dict]] = field(default_factory=list)
    faults: dict[str, list[Answer]] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def __enter__(self):
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.http.stand_in = self
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def environment(self) -> dict[str, str]:
        """The environment in which the client talks to this server, and to no other."""
        folders = {
            name: str(self.folder / name.lower()) for name in ("HOME", "KAGGLE_CONFIG_DIR", "TMPDIR")
        }
        for folder in folders.values():
            Path(folder).mkdir(parents=True, exist_ok=True)
        foreign = re.compile(r"KAGGLE_|VERBOSE|.*_PROXY$", re.IGNORECASE)
        kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        access = {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}
        return kept | folders | access | {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": self.address,
        }

    def methods(self, *names: str) -> list[str]:
        """The names of the calls so far, in order; with names, only these."""
        return [name for name, _ in self.requests if not names or name in names]

    def call(self, path: str, authorization: str, body: dict) -> Answer:
        """Answer one call of the API."""
        _, function, fields = METHODS[path]
        expected = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        check(authorization == expected, "Unauthenticated", 401)
        for name, kind in fields.items():
            fits = isinstance(body.get(name), kind)
            check(fits, f"{name} is {body.get(name)!r} and should be {kind}")
        owner = body.get("ownerSlug", USER)
        check(owner == USER, f"Permission denied for {owner}", 403)
        return Answer(200, function(self, body))

    @api_method("datasets.DatasetApiService", ownerSlug=str, datasetSlug=str)
    def get_dataset_status(self, body):
        dataset = self._dataset(body)
        dataset.times_asked += 1
        return {"status": dataset.statuses[min(dataset.times_asked, len(dataset.statuses)) - 1]}

    @api_method("datasets.DatasetApiService", ownerSlug=str, datasetSlug=str)
    def get_dataset(self, body):
        dataset = self._dataset(body)
        return {"title": dataset.title, "currentVersionNumber": len(dataset.versions)}

    @api_method(
        "datasets.DatasetApiService",
        ownerSlug=str, slug=str, title=str, licenseName=str, isPrivate=bool | None, files=list,
    )  # fmt: skip
    def create_dataset(self, body):
        ref = f"{body['ownerSlug']}/{body['slug']}"
        dataset = self.datasets.setdefault(ref, Dataset())
        if dataset.versions:
            return {"status": "error", "error": f"The data set {ref} exists already."}
        check(body["licenseName"] in LICENCES, f"Unknown licence {body['licenseName']!r}")
        check(re.fullmatch(r"[a-z0-9-]{6,50}", body["slug"]), f"Bad slug {body['slug']!r}")
        check(6 <= len(body["title"]) <= 50, "The title has 6 to 50 characters")
        dataset.title, dataset.licence = body["title"], body["licenseName"]
        dataset.is_private = body.get("isPrivate", False)
        return self._add_version(ref, body["files"], "")

    @api_method("datasets.DatasetApiService", ownerSlug=str, datasetSlug=str, body=dict)
    def create_dataset_version(self, body):
        self._dataset(body)
        inner = body["body"]
        check(isinstance(inner.get("versionNotes"), str), "No versionNotes")
        check(isinstance(inner.get("files"), list), "No files")
        ref = f"{body['ownerSlug']}/{body['datasetSlug']}"
        return self._add_version(ref, inner["files"], inner["versionNotes"])

    @api_method("blobs.BlobApiService", type=str, name=str, contentLength=int | None)
    def start_blob_upload(self, body):
        check(body["type"] == "DATASET", f"Unknown type {body['type']!r}")
        token = f"token-{len(self.uploads)}"
        self.uploads[token] = Upload(body["name"], body.get("contentLength", 0))
        return {"token": token, "createUrl": f"{self.address}/upload/{token}"}

    @api_method(
        "kernels.KernelsApiService",
        slug=str, newTitle=str, text=str, language=str, kernelType=str, isPrivate=bool,
        enableGpu=bool, enableInternet=bool, datasetDataSources=list | None,
        competitionDataSources=list | None, kernelDataSources=list | None,
    )  # fmt: skip
    def save_kernel(self, body):
        owner, _, slug = body["slug"].partition("/")
        check(owner == USER, f"Permission denied for {owner}", 403)
        title = re.sub("[^a-z0-9]+", "-", body["newTitle"].lower()).strip("-")
        check(len(title) >= 5 and title == slug, f"The title gives the slug {title}, not {slug}")
        check(body["language"] == "python", f"Unknown language {body['language']!r}")
        check(body["kernelType"] in ("notebook", "script"), f"No type {body['kernelType']!r}")
        check(body.get("machineShape") in MACHINES, f"No machine {body.get('machineShape')!r}")
        if body["kernelType"] == "notebook":
            _check_notebook(body["text"])
        existing = {
            "Dataset": [ref for ref, dataset in self.datasets.items() if dataset.versions],
            "Competition": COMPETITIONS,
            "Kernel": [ref for ref, notebook in self.notebooks.items() if notebook.saved],
        }
        invalid = {
            f"invalid{kind}Sources": [
                source
                for source in body.get(f"{kind.lower()}DataSources", [])
                if "/".join(source.split("/")[:2]) not in known
            ]
            for kind, known in existing.items()
        }
        notebook = self.notebooks.setdefault(body["slug"], Notebook())
        notebook.saved.append(body)
        notebook.times_asked = 0
        url = f"http://localhost/code/{body['slug']}"
        return {"ref": url, "url": url, "versionNumber": len(notebook.saved), **invalid}

    @api_method("kernels.KernelsApiService", userName=str, kernelSlug=str)
    def get_kernel_session_status(self, body):
        notebook = self._notebook(body["userName"], body["kernelSlug"])
        status = notebook.status
        notebook.times_asked += 1
        return {"status": status, "failureMessage": notebook.failure if status == "ERROR" else ""}

    @api_method(
        "kernels.KernelsApiService",
        userName=str, kernelSlug=str, pageSize=int | None, pageToken=str | None,
    )  # fmt: skip
    def list_kernel_session_output(self, body):
        notebook = self._notebook(body["userName"], body["kernelSlug"])
        start = int(body.get("pageToken") or 0)
        end = start + body.get("pageSize", 20)
        place = f"{self.address}/output/{body['userName']}/{body['kernelSlug']}"
        names = list(notebook.output)
        files = [{"fileName": name, "url": f"{place}/{quote(name)}"} for name in names[start:end]]
        token = str(end) if end < len(names) else ""
        return {"files": files, "log": notebook.log, "nextPageToken": token}

    @api_method("competitions.CompetitionApiService", competitionName=str)
    def get_submission_limits(self, body):
        self._check_competition(body)
        today = len(self.submissions)
        allowed = max(0, self.submissions_allowed - today)
        return {"numToday": today, "numTotal": today, "numAllowedNow": allowed}

    @api_method(
        "competitions.CompetitionApiService",
        competitionName=str, kernelOwner=str, kernelSlug=str, kernelVersion=int, fileName=str,
        submissionDescription=str,
    )  # fmt: skip
    def create_code_submission(self, body):
        self._check_competition(body)
        notebook = self._notebook(body["kernelOwner"], body["kernelSlug"])
        version, name = body["kernelVersion"], body["fileName"]
        check(1 <= version <= len(notebook.saved), f"No version {version}")
        check(notebook.status == "COMPLETE", f"Version {version} is {notebook.status}")
        check(name in notebook.output, f"Version {version} has no output {name!r}")
        used_up = len(self.submissions) >= self.submissions_allowed
        check(not used_up, "You have used all your submissions today", 403)
        self.submissions.append(body)
        message = f"Successfully submitted to {body['competitionName']}"
        return {"message": message, "ref": len(self.submissions)}

    @api_method("competitions.CompetitionApiService", competitionName=str)
    def list_submissions(self, body):
        self._check_competition(body)
        listed = [
            {
                "ref": number,
                "date": f"2026-01-{number:02}T12:00:00.000Z",
                "description": submission["submissionDescription"],
                "fileName": submission["fileName"],
                **self.submission_result,
            }
            for number, submission in enumerate(self.submissions, start=1)
        ]
        return {"submissions": listed[::-1]}

    def put(self, token: str, content_range: str | None, data: bytes) -> Answer:
        """Take what arrives of a file, or tell how much has arrived."""
        check(token in self.uploads, f"Unknown upload {token}", 404)
        upload = self.uploads[token]
        size = len(upload.content)
        if content_range == f"bytes */{upload.length}" and size < upload.length:
            return Answer(308, b"", {"Range": f"bytes=0-{size - 1}"} if size else {})
        if content_range is None:
            size, upload.content = 0, b""
        rest = f"bytes {size}-{upload.length - 1}/{upload.length}"
        check(content_range in (None, rest), f"{content_range!r} should be {rest!r}")
        check(size + len(data) == upload.length, f"{len(data)} bytes came for {rest!r}")
        upload.content += data
        return Answer(200)

    def get(self, path: str) -> Answer:
        """A file of a notebook's output."""
        _, _, owner, slug, name = path.split("/", 4)
        return Answer(200, self._notebook(owner, slug).output[unquote(name)])

    def _dataset(self, body: dict) -> Dataset:
        ref = f"{body['ownerSlug']}/{body['datasetSlug']}"
        check(ref in self.datasets and self.datasets[ref].versions, f"No data set {ref}", 404)
        return self.datasets[ref]

    def _notebook(self, owner: str, slug: str) -> Notebook:
        ref = f"{owner}/{slug}"
        check(ref in self.notebooks and self.notebooks[ref].saved, f"No notebook {ref}", 404)
        return self.notebooks[ref]

    def _check_competition(self, body: dict) -> None:
        check(body["competitionName"] in COMPETITIONS, "No such competition", 404)

    def _add_version(self, ref: str, files: list[dict], notes: str) -> dict:
        tokens = [file.get("token") for file in files]
        check(tokens, "A data set needs a file")
        for token in tokens:
            check(token in self.uploads, f"Unknown token {token!r}")
            upload = self.uploads[token]
            check(len(upload.content) == upload.length, f"{upload.name} has not arrived in full")
        version = {self.uploads[token].name: self.uploads[token].content for token in tokens}
        check(len(version) == len(tokens), "Two files have the same name")
        dataset = self.datasets[ref]
        dataset.versions.append(version)
        dataset.notes.append(notes)
        dataset.times_asked = 0
        url = f"http://localhost/datasets/{ref}"
        return {"ref": ref, "url": url, "status": "ok", "error": ""}


def _check_notebook(text: str) -> None:
    try:
        notebook = json.loads(text)
        check(notebook["nbformat"] == 4, "The notebook's format is not 4")
        for number, cell in enumerate(notebook["cells"]):
            check(isinstance(cell["source"], str), f"The source of cell {number} is not text")
            check(not cell.get("outputs"), f"Cell {number} has outputs")
    except (ValueError, LookupError, TypeError) as error:
        raise RefusalError(400, f"Not a notebook: {error!r}") from error


class _Handler(BaseHTTPRequestHandler):
    """Takes the calls, one after the other."""

    def do_POST(self):  # noqa: N802
        path, body = urlsplit(self.path).path, json.loads(self._content())
        known = path in METHODS
        name = METHODS[path][0] if known else path
        authorization = self.headers.get("Authorization", "")
        self._work(name, body, lambda _: self.server.stand_in.call(path, authorization, body))

    def do_PUT(self):  # noqa: N802
        token, data = self.path.rpartition("/")[2], self._content()
        content_range = self.headers.get("Content-Range")
        ...

    def log_message(self, *_):
        pass
