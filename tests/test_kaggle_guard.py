"""What may not be published is refused, by name, and stays where it is."""

import pytest
from commands import call
from kaggle_run import CHANGES

from augment.errors import InputError
from augment.task_files import write_solutions
from kernels_kaggle.__main__ import main
from kernels_kaggle.at_home.push import push
from pipeline.sources import load_source

pytest_plugins = ["kaggle_fixtures"]


UNPUBLISHABLE = {
    "kaggle.json": ('{"username":"a","key":"0123456789abcdef0123456789abcdef"}', "credentials"),
    "notes.txt": ('{"key": "0123456789abcdef0123456789abcdef"}', "credentials"),
    "more.txt": ("anything", "not listed in manifest.json"),
}


@pytest.mark.parametrize("name", UNPUBLISHABLE)
def test_files_that_may_not_be_published_are_refused_by_name_and_stay(
    server, folder, client, name, capsys, monkeypatch
):
    content, reason = UNPUBLISHABLE[name]
    (folder.dataset / name).write_text(content)
    with pytest.raises(InputError, match=rf"refused: {name} \({reason}"):
        push(folder, client)
    monkeypatch.chdir(folder.root.parents[2])
    assert call("package", "--run-name", "k", changes=CHANGES, program=main) == 2
    assert f"{name} ({reason}" in capsys.readouterr().err
    assert (folder.dataset / name).read_text() == content
    assert server.requests == []


def test_solutions_of_scored_tasks_are_refused(server, folder, client):
    tasks = load_source("arc2/evaluation")
    write_solutions(folder.dataset / "arc-agi_evaluation_solutions.json", tasks)
    with pytest.raises(InputError, match="solutions of 120 scored tasks"):
        push(folder, client)
    assert server.requests == []


def test_folders_and_damaged_files_are_refused(server, folder, client):
    (folder.dataset / "more").mkdir()
    with pytest.raises(InputError, match=r"more \(folders are not uploaded\)"):
        push(folder, client)
    (folder.dataset / "more").rmdir()
    with (folder.dataset / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"weights\.safetensors: differs"):
        push(folder, client)


def test_a_secret_in_the_program_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_KEY", "Tiny Recursion Model")  # words of the program
    assert call("package", "--run-name", "k", changes=CHANGES, program=main) == 2
    assert "(credentials in " in capsys.readouterr().err
