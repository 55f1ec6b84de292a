"""Solutions that training would give away are found by content, whatever a task is called."""

import pytest
from conftest import needs_concept

from augment.errors import InputError
from augment.leakage import refuse_leaks
from pipeline.recipes import RECIPES
from pipeline.sources import load_source, load_sources


@pytest.mark.parametrize(
    ("trained", "predicted", "count"),
    [
        ("arc2/training", "arc1/evaluation", 376),
        ("arc1/evaluation", "arc2/evaluation", 7),
        ("arc1/training", "arc1/evaluation", 1),
        ("arc2/training", "arc2/evaluation", 0),
        ("arc2/training", "arc2-167/evaluation", 0),
    ],
)
def test_leaks_are_found_by_content(trained, predicted, count):
    """Also the one inside ARC-AGI-1: task 40853293 gives the answer of 070dd51e away."""
    teachers = load_source(trained)
    for chosen in (load_source(predicted), [t.without_solutions() for t in load_source(predicted)]):
        renamed = [
            type(t)(f"r{n}", t.train, t.test_inputs, t.solutions) for n, t in enumerate(chosen)
        ]
        for tasks in (chosen, renamed):
            if count == 0:
                refuse_leaks(teachers, tasks)
                continue
            with pytest.raises(InputError) as caught:
                refuse_leaks(teachers, tasks)
            assert f"solutions of {count} tasks" in str(caught.value)
            assert str(caught.value).count("(") == count


@needs_concept
@pytest.mark.parametrize("recipe", ["arc1", "arc2"])
def test_recipes_of_the_reference_leak_nothing(recipe):
    data = RECIPES[recipe]().data
    kept = [t for t in load_sources(data.trained) if t.task_id not in data.left_out]
    refuse_leaks(kept, load_sources(data.predicted))
