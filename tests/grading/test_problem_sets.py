"""The course's own problem sets: the model answers earn full marks, the bare release nothing.

The whole cast, every mistake and other style included, is graded by `make grade`.
"""

import pytest

from flowcourse.grading.release import Path, topics
from flowcourse.grading.sample_class import grade_class

REPOSITORY = Path(__file__).parents[2]
TOPICS = topics(REPOSITORY)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    course = tmp_path_factory.mktemp("class") / "course"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH")  # the small course's
        return grade_class(TOPICS, course, REPOSITORY, 2, ["perfect", "blank"])


@pytest.mark.parametrize("topic", TOPICS)
def test_model_answers_earn_full_marks(topic, rows):
    mine = [row for row in rows if (row.topic, row.student) == (topic, "perfect")]
    assert len(mine) >= 4
    assert [row.exercise for row in mine if row.points != row.max_points] == []


@pytest.mark.parametrize("topic", TOPICS)
def test_the_bare_release_earns_nothing(topic, rows):
    mine = [row for row in rows if (row.topic, row.student) == (topic, "blank")]
    assert len(mine) >= 4
    assert [row.exercise for row in mine if row.points != 0] == []
