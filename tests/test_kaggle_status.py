"""What a notebook left on Kaggle comes home, or the reason why not."""

import pytest
from kaggle_run import NOTEBOOK, leave_output

from augment.errors import InputError
from kernels_kaggle.at_home.client import KaggleError
from kernels_kaggle.at_home.pushed import PushedState
from kernels_kaggle.at_home.status import follow
from kernels_kaggle.at_home.submit import agree, submit
from kernels_kaggle.exchange import REPORT

pytest_plugins = ["kaggle_fixtures"]


def test_a_notebook_that_failed_shows_its_last_lines(server, done, client, capsys):
    notebook = server.notebooks[NOTEBOOK]
    notebook.statuses, notebook.failure = ("RUNNING", "ERROR"), "Notebook threw"
    leave_output(server, done, "step 1\nstep 2\nValueError: no such thing\n")
    with pytest.raises(KaggleError, match=r"ended with error \(Notebook threw\)"):
        follow(done, client)
    assert "ValueError: no such thing" in capsys.readouterr().out
    with pytest.raises(InputError, match="works is not known"):
        submit(done, client, "", agree)
    assert server.submissions == []


def test_output_of_another_package_or_damaged_on_the_way_is_refused(server, done, client):
    leave_output(server, done, package="something else")
    with pytest.raises(KaggleError, match="another package"):
        follow(done, client)
    leave_output(server, done)
    server.notebooks[NOTEBOOK].output["submission.json"] = b'{"a": []}'
    with pytest.raises(InputError, match=r"submission\.json: differs"):
        follow(done, client)
    del server.notebooks[NOTEBOOK].output[REPORT]
    with pytest.raises(KaggleError, match="not among the output: all is well"):
        follow(done, client)


def test_weights_that_were_trained_are_named_for_the_next_package(server, done, client, capsys):
    PushedState.read(done).pushed(NOTEBOOK, 1, ()).write(done)
    for step in (4, 6):
        name = f"runs/k/checkpoints/step_{step:09d}/checkpoint.json"
        server.notebooks[NOTEBOOK].output[name] = b"{}"
    follow(done, client)
    folder = done.output / "runs" / "k" / "checkpoints" / "step_000000006"
    assert f'make package RUN=NAME SET="weights={folder}"' in capsys.readouterr().out
