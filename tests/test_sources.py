"""Sources of tasks are whole, known by their files, and downloaded once."""

import re
import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from commands import write_task_folder
from conftest import needs_concept

from augment.errors import InputError
from augment.files import hash_file
from augment.task_files import write_challenges, write_solutions
from pipeline import sources
from pipeline.sources import _ARC1, BUNDLED, fingerprint_sources, load_source, without_known


def test_the_files_of_every_source_are_known(run_here, arc1):
    write_challenges(run_here / "arc-agi_test_challenges.json", arc1[:1])
    names = [*BUNDLED, "kaggle/test:."]
    before = [fingerprint_sources([name]) for name in names]
    assert before == [fingerprint_sources([name]) for name in names]
    assert len(set(before)) == len(names)
    write_solutions(run_here / "arc-agi_test_solutions.json", arc1[:1])
    assert [fingerprint_sources([name]) for name in names[:-1]] == before[:-1]
    assert fingerprint_sources(names[-1:]) != before[-1]


def test_the_files_of_a_folder_are_those_that_are_read(run_here, arc1):
    write_task_folder(run_here / "elsewhere", arc1[1:2])
    (first,) = write_task_folder(run_here / "tasks", arc1[:1])
    before = fingerprint_sources(["folder:tasks"])
    (run_here / "tasks" / "linked").symlink_to("../elsewhere")
    linked = fingerprint_sources(["folder:tasks"])
    first.rename(first.with_suffix(".JSON"))
    assert len({before, linked, fingerprint_sources(["folder:tasks"])}) == 3
    assert len(load_source("folder:tasks")) == 2


SIZES = {
    "arc1/training": (400, 416),
    "arc1/evaluation": (400, 419),
    "arc2/training": (1000, 1076),
    "arc2/evaluation": (120, 172),
    "arc2-167/training": (1000, 1076),
    "arc2-167/evaluation": (120, 167),
    "arc2-new": (233, 274),
    "concept": (160, 480),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_concept) if n == "concept" else n for n in BUNDLED]
)
def test_sources_are_whole(name):
    tasks = load_source(name)
    num_outputs = sum(len(task.solutions) for task in tasks)
    assert (len(tasks), num_outputs) == SIZES[name]


def test_new_tasks_are_in_arc1_neither_by_id_nor_by_content(arc1):
    """Not even one demonstration among others: it would tell the rule of a known task."""
    known, others = arc1[:5], arc1[5:8]
    renamed = replace(known[0], task_id="renamed")
    changed = replace(known[1], train=(*known[1].train[:1], *others[0].train))
    one_pair = replace(others[1], task_id="one", train=(*others[1].train, known[2].train[0]))
    test_only = replace(others[1], task_id="test", train=known[3].test_pairs)
    tasks = [renamed, changed, one_pair, test_only, *others]
    assert without_known(tasks, known) == others
    ids = {task.task_id for name in _ARC1 for task in load_source(name)}
    assert ids.isdisjoint(task.task_id for task in load_source("arc2-new"))


def test_kaggle_files_with_and_without_solutions(run_here, arc1):
    write_challenges(run_here / "arc-agi_evaluation_challenges.json", arc1[:3])
    tasks = load_source(f"kaggle/evaluation:{run_here}")
    assert [task.task_id for task in tasks] == [task.task_id for task in arc1[:3]]
    assert all(task.solutions is None for task in tasks)
    write_solutions(run_here / "arc-agi_evaluation_solutions.json", arc1[:3])
    assert all(t.solutions is not None for t in load_source(f"kaggle/evaluation:{run_here}"))


@pytest.fixture
def repository(tmp_path, monkeypatch, arc1):
    """A repository with two one-task files on loopback, and the registry of their hashes."""
    served = tmp_path / "served"
    lines = [
        f"corpus/Group/{path.name} sha256:{hash_file(path)}"
        for path in write_task_folder(served / "corpus" / "Group", arc1[:2])
    ]
    (tmp_path / "registry").write_text("\n".join(lines))
    handler = partial(QuietHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(sources, "_CONCEPT_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(sources, "_CONCEPT_REGISTRY", tmp_path / "registry")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv(sources.DATA_DIR_VARIABLE, raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield served
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_concept_is_downloaded_once_and_checked(repository, arc1):
    downloaded = load_source("concept")
    expected = sorted(task.task_id for task in arc1[:2])
    assert [task.task_id for task in downloaded] == expected
    shutil.rmtree(repository / "corpus")
    assert [task.task_id for task in load_source("concept")] == expected


def test_a_changed_or_missing_download_is_refused(repository):
    path = next(repository.rglob("*.json"))
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match="source concept: the download failed"):
        load_source("concept")
    path.unlink()
    with pytest.raises(InputError, match="set ARC_DATA_DIR to a folder"):
        load_source("concept")


def test_the_registry_names_the_whole_corpus():
    lines = sources._CONCEPT_REGISTRY.read_text().splitlines()
    assert len(lines) == SIZES["concept"][0]
    assert all(re.fullmatch(r"corpus/\w+/\w+\.json sha256:[0-9a-f]{64}", line) for line in lines)


def test_without_a_home_downloads_are_kept_in_a_temporary_folder(monkeypatch, tmp_path):
    def find_no_home(_):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("pooch.os_cache", find_no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert sources.downloads_folder().parent == tmp_path
