"""What may not be published is refused, by name, and stays where it is."""

import json
import zipfile

import pytest
from commands import call
from kaggle_run import CHANGES

from augment.errors import InputError
from augment.task_files import write_solutions
from kernels_kaggle.__main__ import main
from kernels_kaggle.at_home import guard
from kernels_kaggle.at_home.credentials import read_secrets
from kernels_kaggle.at_home.guard import find_secret
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
    assert "(credentials: this machine's in " in capsys.readouterr().err


HEX, WORD = "0123456789" * 4, "Ab3" * 16
SECRETS = {
    "Kaggle": f"KGAT_{WORD[:16]}",
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "GitHub": f"https://ghp_{WORD[:36]}@github.com",
    "GitHub ": f"token github_pat_{WORD[:22]}_{WORD}",
    "AWS": "AKIA" + "ABCD2345" * 2,
    "AWS ": f"aws_secret_access_key = {WORD[:38]}/+",
    "Weights & Biases": f"export WANDB_API_KEY={HEX}",
    "Weights & Biases ": f'wandb.login(key="{HEX}")',
    "Weights & Biases  ": f"machine api.wandb.ai login user password {HEX}",
    "Hugging Face": f"hf_{WORD[:34]}",
    "OpenAI": f"sk-proj-{WORD}",
    "Google": f"AIza{WORD[:35]}",
    "Slack": f"xoxb-1234567890-{WORD}",
}


@pytest.mark.parametrize("service", SECRETS)
def test_credentials_of_services_are_refused_in_files_wheels_and_notebooks(
    server, folder, client, service
):
    secret = SECRETS[service]
    notes = folder.dataset / "notes.txt"
    notes.write_text(f"see {secret}\n")
    with pytest.raises(InputError, match=rf"refused: notes.txt \(credentials: {service.strip()}\)"):
        push(folder, client)
    notes.unlink()
    wheel = folder.dataset / "more.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("more/notes.txt", f"see {secret}\n")
    with pytest.raises(InputError, match=f"credentials: {service.strip()} in more/notes.txt"):
        push(folder, client)
    wheel.unlink()
    path = folder.notebook / "predict.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][-1]["source"] += f"\n# {secret}"
    path.write_text(json.dumps(notebook))
    with pytest.raises(InputError, match=f"predict.ipynb: refused: credentials: {service.strip()}"):
        push(folder, client)
    assert server.requests == []


def test_what_only_resembles_credentials_is_no_secret():
    for text in (f"key={HEX}0", f"commit {HEX}", "sk-learn", "hf_hub", "AKIAB", "key: keyword"):
        assert find_secret(text.encode(), []) is None


def test_a_wheel_that_is_none_is_refused(folder, client):
    (folder.dataset / "more.whl").write_text("no archive")
    with pytest.raises(InputError, match=r"more\.whl \(not a wheel\)"):
        push(folder, client)


def test_outside_of_a_checkout_nothing_says_what_belongs_to_the_program(
    server, folder, client, tmp_path, monkeypatch
):
    monkeypatch.setattr(guard, "ROOT", tmp_path)
    with pytest.raises(InputError, match="packages come from a git checkout only"):
        push(folder, client)
    assert server.requests == []


def test_without_a_home_there_are_no_files_of_credentials(monkeypatch):
    for name in ("HOME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user that this machine does not know
    assert read_secrets() == []
