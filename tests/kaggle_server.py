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
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

from kaggle_http import Handler
from kaggle_objects import (
    COMPETITIONS,
    KEY,
    LICENCES,
    MACHINES,
    USER,
    Answer,
    Dataset,
    Notebook,
    RefusalError,
    Upload,
    check,
)

METHODS = {}
"""The methods of the API by their path: the function, and the type of each field."""


def api_method(service: str, texts: str = "", flags: str = ""):
    """Make the function answer the method of its name; the body must hold these fields."""

    def register(function):
        name = function.__name__.title().replace("_", "")
        kinds = dict.fromkeys(texts.split(), str) | dict.fromkeys(flags.split(), bool)
        METHODS[f"/api/v1/{service}/{name}"] = function, kinds
        return function

    return register


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
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.stand_in = self
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def environment(self) -> dict[str, str]:
        """The environment in which the client talks to this server and to no other."""
        foreign = re.compile(r"KAGGLE_|VERBOSE|.*_PROXY$", re.IGNORECASE)
        variables = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        for name in ("HOME", "KAGGLE_CONFIG_DIR", "TMPDIR"):
            folder = self.folder.absolute() / name.lower()
            folder.mkdir(parents=True, exist_ok=True)
            variables[name] = str(folder)
        variables |= {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": self.address}
        return variables | {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}

    def call(self, path: str, authorization: str, body: dict) -> Answer:
        """Answer one call of the API."""
        check(path in METHODS, f"No method {path}", 404)
        function, kinds = METHODS[path]
        login = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        check(authorization == f"Basic {login}", "Unauthenticated", 401)
        for name, kind in kinds.items():
            value = body.get(name)
            check(type(value) is kind, f"{name} should be {kind.__name__} and is {value!r}")
        owner = body.get("ownerSlug", USER)
        check(owner == USER, f"Permission denied for {owner}", 403)
        check(body.get("competitionName", COMPETITIONS[0]) in COMPETITIONS, "No competition", 404)
        return Answer(200, function(self, body))

    @api_method("datasets.DatasetApiService", "ownerSlug datasetSlug")
    def get_dataset_status(self, body):
        return {"status": self._dataset(body).next_status()}

    @api_method("datasets.DatasetApiService", "ownerSlug datasetSlug")
    def get_dataset(self, body):
        dataset = self._dataset(body)
        return {"title": dataset.title, "currentVersionNumber": len(dataset.versions)}

    @api_method("datasets.DatasetApiService", "ownerSlug slug title licenseName")
    def create_dataset(self, body):
        ref = f"{body['ownerSlug']}/{body['slug']}"
        dataset = self.datasets.get(ref, Dataset())
        if dataset.versions:
            return {"status": "error", "error": f"The data set {ref} exists already."}
        check(body["licenseName"] in LICENCES, f"Unknown licence {body['licenseName']!r}")
        check(re.fullmatch(r"[a-z0-9-]{6,50}", body["slug"]), f"Bad slug {body['slug']!r}")
        check(6 <= len(body["title"]) <= 50, "The title should have 6 to 50 characters")
        dataset.title, dataset.licence = body["title"], body["licenseName"]
        dataset.is_private = body.get("isPrivate", False)
        return self._add_version(ref, dataset, body)

    @api_method("datasets.DatasetApiService", "ownerSlug datasetSlug")
    def create_dataset_version(self, body):
        version = body.get("body", {})
        check(version.get("versionNotes"), "versionNotes is missing")
        ref = f"{body['ownerSlug']}/{body['datasetSlug']}"
        return self._add_version(ref, self._dataset(body), version)

    @api_method("blobs.BlobApiService", "type name")
    def start_blob_upload(self, body):
        check(body["type"] == "DATASET", f"Unknown type {body['type']!r}")
        token = f"token-{len(self.uploads)}"
        self.uploads[token] = Upload(body["name"], body.get("contentLength", 0))
        return {"token": token, "createUrl": f"{self.address}/upload/{token}"}

    @api_method(
        "kernels.KernelsApiService",
        texts="slug newTitle text language kernelType",
        flags="isPrivate enableGpu enableInternet",
    )
    def save_kernel(self, body):
        owner, _, slug = body["slug"].partition("/")
        title_slug = re.sub("[^a-z0-9]+", "-", body["newTitle"].lower()).strip("-")
        check(owner == USER, f"Permission denied for {owner}", 403)
        check(slug == title_slug and len(slug) >= 5, f"Slug {slug!r}, but title {title_slug!r}")
        check(body["language"] == "python", f"Unknown language {body['language']!r}")
        check(body.get("machineShape") in MACHINES, f"Unknown {body.get('machineShape')!r}")
        check(body["kernelType"] in ("notebook", "script"), f"Unknown {body['kernelType']!r}")
        if body["kernelType"] == "notebook":
            check_notebook(body["text"])
        existing = {
            "Dataset": [ref for ref, dataset in self.datasets.items() if dataset.versions],
            "Competition": COMPETITIONS,
            "Kernel": [ref for ref, notebook in self.notebooks.items() if notebook.saved],
        }
        invalid = {}
        for kind, refs in existing.items():
            sources = body.get(f"{kind.lower()}DataSources", [])
            invalid[f"invalid{kind}Sources"] = [name for name in sources if name not in refs]
        notebook = self.notebooks.setdefault(body["slug"], Notebook())
        notebook.saved.append(body)
        notebook.num_looks = 0
        url = f"http://localhost/code/{body['slug']}"
        return {"ref": url, "url": url, "versionNumber": len(notebook.saved), **invalid}

    @api_method("kernels.KernelsApiService", "userName kernelSlug")
    def get_kernel_session_status(self, body):
        notebook = self._notebook(body["userName"], body["kernelSlug"])
        status = notebook.next_status()
        return {"status": status, "failureMessage": notebook.failure if status == "ERROR" else ""}

    @api_method("kernels.KernelsApiService", "userName kernelSlug")
    def list_kernel_session_output(self, body):
        owner, slug = body["userName"], body["kernelSlug"]
        notebook = self._notebook(owner, slug)
        start = int(body.get("pageToken") or 0)
        end = start + body.get("pageSize", 20)
        folder = f"{self.address}/output/{owner}/{slug}"
        files = [
            {"fileName": name, "url": f"{folder}/{quote(name, '')}"} for name in notebook.output
        ]
        token = str(end) if end < len(files) else ""
        return {"files": files[start:end], "log": notebook.log, "nextPageToken": token}

    @api_method("competitions.CompetitionApiService", "competitionName")
    def get_submission_limits(self, body):
        today = len(self.submissions)
        allowed = max(0, self.submissions_allowed - today)
        return {"numToday": today, "numTotal": today, "numAllowedNow": allowed}

    @api_method(
        "competitions.CompetitionApiService",
        "competitionName kernelOwner kernelSlug fileName submissionDescription",
    )
    def create_code_submission(self, body):
        notebook = self._notebook(body["kernelOwner"], body["kernelSlug"])
        version, name = body.get("kernelVersion", 0), body["fileName"]
        check(1 <= version <= len(notebook.saved), f"No version {version}")
        check(notebook.status == "COMPLETE", f"Version {version} is {notebook.status}")
        check(name in notebook.output, f"Version {version} has no output {name!r}")
        has_any_left = len(self.submissions) < self.submissions_allowed
        check(has_any_left, "You have used all your submissions today", 403)
        self.submissions.append(body)
        message = f"Successfully submitted to {body['competitionName']}"
        return {"message": message, "ref": len(self.submissions)}

    @api_method("competitions.CompetitionApiService", "competitionName")
    def list_submissions(self, body):
        listed = []
        for number, sent in enumerate(self.submissions, start=1):
            fields = {"description": sent["submissionDescription"], "fileName": sent["fileName"]}
            date = f"2026-01-{number:02}T12:00:00.000Z"
            listed.insert(0, {"ref": number, "date": date, **fields, **self.submission_result})
        return {"submissions": listed}

    def put(self, token: str, span: str | None, data: bytes, kept: int | None) -> Answer:
        """Take ``kept`` of the bytes that come of a file, or tell how many came before."""
        check(token in self.uploads, f"Unknown upload {token}", 404)
        upload = self.uploads[token]
        if span is None:
            upload.content = b""
        size, length = len(upload.content), upload.length
        if span == f"bytes */{length}":
            so_far = {"Range": f"bytes=0-{size - 1}"} if size else {}
            return Answer(308, headers=so_far) if size < length else Answer()
        rest = f"bytes {size}-{length - 1}/{length}"
        check(span in (None, rest) and size + len(data) == length, f"{len(data)} for {rest}")
        upload.content += data[:kept]
        return Answer()

    def get(self, path: str) -> Answer:
        """Answer with a file of a notebook's output."""
        _, _, owner, slug, name = unquote(path).split("/", 4)
        output = self._notebook(owner, slug).output
        check(name in output, f"No output {name!r}", 404)
        return Answer(200, output[name])

    def _dataset(self, body: dict) -> Dataset:
        ref = f"{body['ownerSlug']}/{body['datasetSlug']}"
        check(ref in self.datasets and self.datasets[ref].versions, f"No data set {ref}", 404)
        return self.datasets[ref]

    def _notebook(self, owner: str, slug: str) -> Notebook:
        ref = f"{owner}/{slug}"
        check(ref in self.notebooks and self.notebooks[ref].saved, f"No notebook {ref}", 404)
        return self.notebooks[ref]

    def _add_version(self, ref: str, dataset: Dataset, body: dict) -> dict:
        check(body.get("files"), "A data set needs a file")
        version = {}
        for file in body["files"]:
            upload = self.uploads.get(file.get("token"))
            check(upload, f"Unknown token {file.get('token')!r}")
            check(len(upload.content) == upload.length, f"{upload.name} has not come in full")
            check(upload.name not in version, f"Two files are called {upload.name}")
            version[upload.name] = upload.content
        dataset.versions.append(version)
        dataset.num_looks = 0
        self.datasets[ref] = dataset
        return {"ref": ref, "url": f"http://localhost/datasets/{ref}", "status": "ok", "error": ""}


def check_notebook(text: str) -> None:
    try:
        notebook = json.loads(text)
        check(notebook["nbformat"] == 4, "The notebook's format is not 4")
        for number, cell in enumerate(notebook["cells"]):
            check(isinstance(cell["source"], str), f"The source of cell {number} is not text")
            check(not cell.get("outputs"), f"Cell {number} has outputs")
    except (ValueError, LookupError, TypeError) as error:
        raise RefusalError(400, f"Not a notebook: {error!r}") from error
