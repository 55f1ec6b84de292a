"""The version of the code is its commit or, outside a checkout, that of the package."""

import re
import subprocess

from pipeline import version


def git(*command):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *command], check=True)


def test_the_version_is_the_commit_and_says_whether_files_differ_from_it(run_here, monkeypatch):
    monkeypatch.setattr(version, "ROOT", run_here)
    git("init", "--quiet")
    (run_here / "file").write_text("a")
    git("add", "file")
    git("commit", "--quiet", "--message=first")
    commit = version.code_version()
    assert re.fullmatch("[0-9a-f]{7,40}", commit)
    assert version.wheel_version() == f"{version.RELEASE}+g{commit}"
    (run_here / "file").write_text("b")
    assert version.code_version() == f"{commit}-dirty"
    assert version.wheel_version() == f"{version.RELEASE}+g{commit}.dirty"


def test_without_a_checkout_the_version_is_that_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setattr(version.metadata, "version", lambda name: f"{name} 1.2")
    assert version.code_version() == "arc-trm 1.2"
    assert version.wheel_version() == version.RELEASE

    def is_not_installed(name):
        raise version.metadata.PackageNotFoundError

    monkeypatch.setattr(version.metadata, "version", is_not_installed)
    assert version.code_version() == version.RELEASE
