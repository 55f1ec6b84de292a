"""One submission a day: never by mistake, never twice."""

import json

import pytest
from kaggle_objects import Answer
from kaggle_run import COMPETITION, NOTEBOOK, leave_output, list_calls

from augment.errors import InputError
from kernels_kaggle.at_home.client import KaggleError
from kernels_kaggle.at_home.push import push
from kernels_kaggle.at_home.status import follow
from kernels_kaggle.at_home.submit import agree, submit

pytest_plugins = ["kaggle_fixtures"]


def test_nothing_is_submitted_without_a_yes(server, done, client):
    questions = []
    submit(done, client, "", questions.append)
    assert questions == [f"{COMPETITION}: submit version 1 of {NOTEBOOK}? (1 left today)"]
    assert server.submissions == []


def test_the_first_submission_of_all_is_possible(server, done, client):
    """Who is on no team yet is told that no submission is left."""
    server.faults["GetSubmissionLimits"] = [Answer(200, {})]
    questions = []
    submit(done, client, "", questions.append)
    assert "not known" in questions[0]


@pytest.mark.parametrize("message", ["-h", "--sandbox", "a 'word'\nand $(another)"])
def test_a_message_is_taken_as_it_is(server, done, client, message):
    submit(done, client, message, agree)
    (body,) = list_calls(server, "CreateCodeSubmission")
    assert body["submissionDescription"] == message


def test_only_what_was_seen_to_work_is_submitted(server, folder, client):
    push(folder, client)
    leave_output(server, folder)
    with pytest.raises(InputError, match="make status RUN=k"):
        submit(folder, client, "", agree)
    assert server.submissions == []
    follow(folder, client)
    submit(folder, client, "", agree)
    assert len(server.submissions) == 1


def test_a_newer_package_is_not_mistaken_for_the_pushed_one(server, done, client):
    manifest = done.dataset / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"digest": "0" * 64}))
    with pytest.raises(InputError, match=r"a newer package than version 1 .*make push RUN=k"):
        submit(done, client, "", agree)
    assert server.submissions == []


def test_a_day_without_count_submissions_left(server, done, client):
    server.faults["GetSubmissionLimits"] = [Answer(200, {"numToday": 1, "numTotal": 5})]
    with pytest.raises(KaggleError, match="no submission is left today"):
        submit(done, client, "", agree)
    assert list_calls(server, "CreateCodeSubmission") == []


@pytest.mark.parametrize(
    ("answer", "is_unclear"),
    [
        (Answer(403, "You have used all your submissions today"), False),
        (Answer(403, "You must accept the competition's rules"), False),
        (Answer(503, "Service unavailable"), True),
        (Answer(0, done=True), True),
        (Answer(200, {"message": "Submission not allowed"}), True),
        (Answer(200, {}), True),
    ],
)
def test_a_submission_is_tried_once(server, done, client, answer, is_unclear):
    server.faults["CreateCodeSubmission"] = [answer]
    with pytest.raises(KaggleError) as caught:
        submit(done, client, "", agree)
    assert ("may have arrived" in str(caught.value)) == is_unclear
    if is_unclear:  # and is not tried by mistake either
        with pytest.raises(InputError, match="was submitted, see"):
            submit(done, client, "", agree)
    assert len(list_calls(server, "CreateCodeSubmission")) == 1


def test_no_version_is_submitted_twice(server, done, client):
    server.submissions_allowed = 5
    submit(done, client, "", agree)
    with pytest.raises(InputError, match="version 1 was submitted"):
        submit(done, client, "", agree)
    with pytest.raises(InputError, match="was seen to work; make submit RUN=k"):
        push(done, client)
    assert len(server.submissions) == 1
