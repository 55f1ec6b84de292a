"""Kaggle's client as a command: patience, and secrets that reach no log."""

import os
import subprocess
import sys

import pytest
from kaggle_objects import KEY, USER, Answer
from kaggle_run import COMPETITION, DATASET, NOTEBOOK, leave_output

from kernels_kaggle.at_home.client import KaggleError
from kernels_kaggle.at_home.push import push
from kernels_kaggle.at_home.status import follow

pytest_plugins = ["kaggle_fixtures"]


def test_a_busy_server_is_asked_again(server, folder, client, pauses):
    server.faults["CreateDataset"] = [Answer(429, "Too many requests", {"Retry-After": "0"})]
    server.faults["SaveKernel"] = [Answer(503, "Service unavailable"), Answer(429, b"")]
    server.faults["GetKernelSessionStatus"] = [Answer(0), Answer(500, b"")]
    push(folder, client)
    leave_output(server, folder)
    follow(folder, client)
    assert len(server.notebooks[NOTEBOOK].saved) == 1
    assert pauses.count(5.0) == 2
    assert pauses.count(15.0) == 2


def test_patience_ends(server, client, pauses):
    server.faults["GetSubmissionLimits"] = [Answer(503, "Service unavailable")] * 9
    with pytest.raises(KaggleError, match="submission-limits: Service unavailable"):
        client.count_submissions_left(COMPETITION)
    assert pauses == [5.0, 15.0, 45.0, 120.0]


REPLIES = [
    "",
    "a warning\n{}",
    "[1]",
    "7",
    "[" * 100_000,
    '{"numAllowedNow":1e999}',
    '{"status":1}',
]


@pytest.mark.parametrize("text", REPLIES)
def test_replies_of_another_form_are_one_line(client, monkeypatch, text):
    done = subprocess.CompletedProcess([], 0, text, "")
    monkeypatch.setattr("kernels_kaggle.at_home.client._call", lambda arguments: done)
    with pytest.raises(KaggleError, match=r"^kaggle datasets status: "):
        client.get_dataset_state(DATASET)
    if "status" not in text:
        with pytest.raises(KaggleError, match=r"^kaggle competitions submission-limits: "):
            client.count_submissions_left(COMPETITION)


def test_secrets_reach_no_log(server, folder, client, capsys, monkeypatch):
    monkeypatch.setenv("VERBOSE", "1")
    monkeypatch.setenv("VERBOSE_OUTPUT", "1")
    server.faults["SaveKernel"] = [Answer(400, f"your key {KEY} is not welcome")]
    with pytest.raises(KaggleError, match=r"your key \*\*\* is not welcome"):
        push(folder, client)
    assert client.find_username() == USER
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err


def test_without_credentials_the_next_step_is_named(server, client, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(KaggleError, match=r"Authentication required.*Next: get a token"):
        client.count_submissions_left(COMPETITION)
    with pytest.raises(KaggleError, match=r"get a token"):
        client.get_dataset_state(DATASET)


def test_a_verbose_client_would_have_shown_the_key(server):
    """Why VERBOSE is taken out of its environment."""
    command = [sys.executable, "-m", "kaggle", "competitions", "submission-limits", COMPETITION]
    environment = {**os.environ, "VERBOSE": "1", "VERBOSE_OUTPUT": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Authorization" in done.stdout + done.stderr
