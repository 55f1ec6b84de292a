"""Rounds of votes are read as they were written, or refused."""

import shutil

import pytest
from ballots import flat, grid, predictions
from hypothesis import given

from augment.errors import InputError
from augment.prediction import Prediction
from submission.rounds import Round, by_step, read_round, read_votes, write_round
from submission.vote import count_votes


@given(predictions)
def test_written_and_read_votes_are_the_same(tmp_path_factory, votes):
    folder = tmp_path_factory.mktemp("votes") / "round_0001"
    write_round(folder, Round("x", 7, ("a", "b"), 0, 2, True, votes))
    read_back = read_round(folder)
    assert flat(count_votes(read_back.predictions)) == flat(count_votes(votes))
    assert count_votes(read_back.predictions).num_empty == count_votes(votes).num_empty
    assert [p.view for p in read_back.predictions] == [p.view for p in votes]
    assert read_votes(folder.parent).keys() == {7}


@pytest.mark.parametrize("name", ["round.json", "predictions.npz"])
def test_a_damaged_round_is_refused(tmp_path, name):
    folder = tmp_path / "round_0001"
    write_round(folder, Round("x", 0, ("a",), 0, 1, True, [Prediction("a", 0, grid(1), 0.5)]))
    content = bytearray((folder / name).read_bytes())
    for damaged in (
        content[:-1],
        bytearray(b""),
        content[:9] + bytes([content[9] ^ 1]) + content[10:],
    ):
        (folder / name).write_bytes(damaged)
        with pytest.raises(InputError, match=f"{folder}/"):
            read_round(folder)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no rounds of votes"):
        read_votes(tmp_path)


def test_a_view_votes_once_where_rounds_overlap():
    first, second = (
        [Prediction("a", 0, grid(number), 0.5, view) for view in views]
        for number, views in ((1, (0, 1, 2)), (2, (2, 3)))
    )
    rounds = [Round("x", 5, ("a",), 0, 3, False, first), Round("x", 5, ("a",), 2, 4, True, second)]
    read_back = by_step([*rounds, Round("x", 9, ("a",), 0, 1, True, second[:1])])
    assert [(p.view, p.grid[0, 0]) for p in read_back[5]] == [(0, 1), (1, 1), (2, 2), (3, 2)]
    assert len(read_back[9]) == 1
