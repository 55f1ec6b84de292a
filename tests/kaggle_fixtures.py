"""Fixtures for tests of the way to Kaggle: ``pytest_plugins = ["kaggle_fixtures"]``."""

import os
import shutil

import pytest
from kaggle_machine import has_namespaces
from kaggle_objects import Notebook
from kaggle_run import COMPETITION, NOTEBOOK, PRETRAINING, leave_output, make_package
from kaggle_server import KaggleServer

from kernels_kaggle.at_home.client import Client
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.at_home.pushed import PushedState
from kernels_kaggle.exchange import read_digest
from pipeline.run import Run


@pytest.fixture(scope="session")
def namespaces():
    """Fail where no notebook can be given folders and a network of its own."""
    if not has_namespaces():
        pytest.fail("no namespaces can be made here: unshare --net --mount is refused")


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """A folder with the runs k, packed to predict, and p, packed to pretrain; not to be changed."""
    folder = tmp_path_factory.mktemp("packages")
    make_package(folder)
    make_package(folder, "p", "pretrain", PRETRAINING)
    return folder


@pytest.fixture
def folders(packages, tmp_path):
    """The folders of the packages of the runs k and p, to be changed at will."""
    shutil.copytree(packages / "runs", tmp_path / "runs")
    return {name: PackageFolder(Run(tmp_path / "runs" / name)) for name in ("k", "p")}


@pytest.fixture
def folder(folders):
    """The folder of the package of the run k."""
    return folders["k"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Kaggle's stand-in, which the client of this process will call."""
    home = tmp_path / "client"
    home.mkdir()
    with KaggleServer(home) as started:
        environment = started.environment()
        for name in os.environ.keys() - environment.keys():
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def pauses():
    """The seconds that the client waited, in order; it waits in no test."""
    return []


@pytest.fixture
def client(pauses):
    return Client(pauses.append)


@pytest.fixture
def done(server, folder):
    """The folder of a package whose notebook was pushed and has run on Kaggle."""
    server.notebooks[NOTEBOOK] = Notebook(saved=[{}], statuses=("COMPLETE",))
    uploaded = PushedState().uploaded(read_digest(folder.dataset), 1)
    uploaded.pushed(NOTEBOOK, 1, (COMPETITION,)).checked(ended_well=True).write(folder)
    leave_output(server, folder)
    return folder
