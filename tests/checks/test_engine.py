"""The engine: points by part, named mistakes, and messages that fit nbgrader."""

import contextlib
import io
import sys
import warnings

import numpy as np
import pytest
import torch

from flowcourse.checks import at_most, check, close, engine, equal, exercise, get, same_distribution


class Doubler:
    def __init__(self, factor=2.0):
        self.factor = factor

    def double(self, x):
        return self.factor * x

    def half(self, x):
        return x / self.factor


@pytest.fixture
def doubling(monkeypatch):
    monkeypatch.setattr(engine, "_REGISTRY", {})

    class Record:
        reference = Doubler
        parts = {"double": 2, "half": 1}
        mistakes = {
            "it triples": lambda: Doubler(3.0),
            "it negates": lambda: Doubler(-2.0),
            "it does nothing": lambda: Doubler(1.0),
            "it gives NaN": lambda: Doubler(float("nan")),
        }

        def draw(rng):
            return {"x": rng.normal(size=5), "shift": 1.5}

        def probe(make, x, shift):
            thing = make()
            return {"double": thing.double(x + shift), "half": lambda: thing.half(x)}

    return exercise("toy.doubling", read="toy.md#doubling", hint="what is 2 x?")(Record)


def test_the_reference_earns_all(doubling):
    outcome = doubling.evaluate(Doubler)
    assert outcome.points == doubling.points == 3
    assert str(outcome) == "toy.doubling: 3 of 3 points. All correct."


@pytest.mark.parametrize("mistake", ["it triples", "it negates", "it does nothing", "it gives NaN"])
def test_each_mistake_is_named(doubling, mistake):
    outcome = doubling.evaluate(doubling.mistakes[mistake])
    assert outcome.points == 0 and outcome.diagnosis == mistake
    assert mistake in str(outcome) and "toy.md#doubling" in str(outcome)


def test_a_failure_costs_only_its_part(doubling):
    class NoHalf(Doubler):
        def half(self, x):
            raise ZeroDivisionError("no halves here")

    outcome = doubling.evaluate(NoHalf)
    assert outcome.points == 2
    assert "ZeroDivisionError: no halves here" in str(outcome)


@pytest.fixture
def measured(monkeypatch):
    """An exercise whose score is computed from evidence, away from the answer."""
    monkeypatch.setattr(engine, "_REGISTRY", {})

    class Record:
        reference = staticmethod(lambda x: x.mean())
        parts = {"error": 2, "finite": 1}
        compare = {"error": at_most(0.1, "away")}
        mistakes = {
            "it is the sum": lambda x: x.sum(),
            "it is the median": lambda x: x.median(),
            "it is the least": lambda x: x.min(),
            "it is far off": lambda x: x.mean() + 100,
        }

        def draw(rng):
            x = rng.normal(5.0, 1.0, size=8) ** 2
            return {"x": x, "truth": x.mean()}

        def probe(answer, x):
            return {"estimate": lambda: answer(x)}

        def measure(evidence, truth):
            return {
                "error": lambda: (evidence["estimate"] - truth).abs(),
                "finite": lambda: evidence["estimate"].isfinite(),
            }

    return exercise("toy.measured", read="toy.md#measured")(Record)


def test_a_measure_computes_the_parts_from_the_evidence(measured):
    assert measured.evaluate(measured.reference).points == 3
    for name, mistake in measured.mistakes.items():
        outcome = measured.evaluate(mistake, seed=1)
        assert outcome.points == 1 and outcome.diagnosis == name


def test_what_only_the_measure_names_is_never_shown_to_an_answer(measured):
    assert set(measured.shown(measured.inputs(0))) == {"x"}


def test_evidence_that_is_a_failure_is_reported_as_the_failure(measured):
    def broken(x):
        raise ZeroDivisionError("no mean here")

    outcome = measured.evaluate(broken)
    assert outcome.points == 0 and "ZeroDivisionError: no mean here" in str(outcome)
    assert measured.settle({}, measured.inputs(0))["error"].kind == "KeyError"


def test_a_key_asks_the_reference_and_each_mistake_once(measured, monkeypatch):
    asked = []
    gather = engine.gather
    monkeypatch.setattr(engine, "gather", lambda *a: asked.append(a[1]) or gather(*a))
    key = engine.Key(measured, seed=3)
    found = measured.settle(
        gather(measured.probe, lambda x: x.max() * 0, measured.shown(key.inputs), 3), key.inputs
    )
    assert [key.grade(found).points for _ in range(3)] == [1, 1, 1]
    assert len(asked) == 1 + len(measured.mistakes)


def test_evidence_far_larger_than_the_references_is_refused(measured):
    key = engine.Key(measured, seed=3)
    names = list(gather_reference(key))
    found = key.settle({name: np.zeros(10**6, np.float16) for name in names})
    outcome = key.grade(found)
    assert outcome.points < measured.points
    assert any("numbers, got 1000000" in message for message in outcome.messages)
    assert key.grade(key.settle(gather_reference(key))).points == measured.points


def test_what_is_random_in_a_probe_has_a_seed_of_its_own(measured):
    first, second = (engine.Key(measured, seed=3, noise=noise) for noise in (3, 4))
    assert engine.Key(measured, seed=3).noise == 3
    assert all(np.array_equal(first.inputs[name], second.inputs[name]) for name in first.inputs)


def gather_reference(key):
    exercise = key.exercise
    return engine.gather(exercise.probe, exercise.reference, exercise.shown(key.inputs), key.noise)


def test_a_number_that_an_answer_could_claim_is_refused(measured):
    fields = {
        "reference": 0,
        "parts": {"loss": 1},
        "draw": lambda rng: {},
        "probe": lambda answer: {"loss": answer},
        "mistakes": dict.fromkeys("abcd", 1),
        "compare": {"loss": at_most(1.0, "nats")},
    }
    with pytest.raises(TypeError, match="could just claim"):
        exercise("toy.claimed", read="toy.md#claimed")(type("Record", (), fields))


@pytest.mark.parametrize("answer", [..., None])
def test_a_missing_answer_says_so(doubling, answer):
    outcome = doubling.evaluate(answer)
    assert outcome.points == 0 and "not answered yet" in str(outcome)


def test_an_answer_of_the_wrong_kind_does_not_stop_the_check(doubling):
    assert doubling.evaluate(7).points == 0


def test_float32_is_accepted(doubling):
    class Single(Doubler):
        def double(self, x):
            return super().double(x.float())

    assert doubling.evaluate(Single).points == 3


def test_answers_cannot_be_hard_coded(doubling):
    first = doubling.values(Doubler, doubling.inputs(0), 0)["double"]

    class HardCoded(Doubler):
        def double(self, x):
            return torch.from_numpy(first)

    assert doubling.evaluate(HardCoded, seed=0).points == 3
    assert doubling.evaluate(HardCoded, seed=1).points == 1


def test_seeds_make_grades_repeatable(doubling):
    assert doubling.evaluate(7, seed=3) == doubling.evaluate(7, seed=3)


def test_check_prints_and_returns_the_points(doubling, capsys, monkeypatch):
    monkeypatch.setattr(engine, "get", lambda name: doubling)
    assert repr(check("toy.doubling", Doubler)) == "3"
    assert "All correct" in capsys.readouterr().out


def test_noise_from_student_code_stays_out_of_the_cell(doubling, capsys):
    class Noisy(Doubler):
        def double(self, x):
            print("progress", file=sys.stderr)
            warnings.warn("deprecated", stacklevel=1)
            return super().double(x)

    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        assert doubling.evaluate(Noisy).points == 3
    assert stderr.getvalue() == "" and capsys.readouterr().err == ""


def test_lines_are_short_enough_for_validate(doubling):
    class Wordy(Doubler):
        def half(self, x):
            raise ValueError("a long story " * 30)

    assert max(map(len, str(doubling.evaluate(Wordy)).splitlines())) <= 80


def test_the_global_random_state_is_left_alone(doubling):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    doubling.evaluate(Doubler)
    assert torch.equal(torch.rand(1), expected)


def test_a_broken_reference_is_the_authors_error(doubling):
    broken = engine.Exercise(**{**vars(doubling), "reference": 3})
    with pytest.raises(RuntimeError, match="the reference itself fails"):
        broken.evaluate(Doubler)


def test_declarations_are_checked():
    class Empty:
        pass

    with pytest.raises(TypeError, match="lacks draw, mistakes, parts, probe, reference"):
        exercise("toy.empty", read="x")(Empty)
    with pytest.raises(ValueError, match="topic.exercise"):
        exercise("toy", read="x")


def test_unknown_names_are_explained():
    with pytest.raises(KeyError, match="no problem set 'poker'"):
        get("poker.face")
    with pytest.raises(KeyError, match="Known: nice."):
        get("nice.poker")


class TestClose:
    def test_agreement(self):
        assert close()(np.array([1.0, 2e6]), np.array([1.0, 2e6 + 0.1])) is None

    def test_nan_equals_nothing(self):
        nan = np.array([np.nan])
        assert close()(nan, nan) is not None

    def test_equal_infinities_agree(self):
        assert close()(np.array([-np.inf]), np.array([-np.inf])) is None
        assert close()(np.array([np.inf]), np.array([-np.inf])) is not None

    def test_shapes_never_broadcast(self):
        assert "expected shape (3,), got (3, 1)" in close()(np.zeros((3, 1)), np.zeros(3))
        assert close()(np.zeros(()), np.zeros(1)) is not None

    def test_the_largest_error_is_shown(self):
        text = close()(np.array([1.0, 5.0]), np.array([1.0, 2.0]))
        assert "index (1,)" in text and "expected 2, got 5" in text

    def test_double_precision_is_asked_of_doubles_only(self):
        off = np.array([1.0 + 1e-5])
        assert close()(off, np.array([1.0])) is not None
        assert close()(off.astype(np.float32), np.array([1.0])) is None

    def test_strings_are_not_numbers(self):
        assert "expected numbers" in close()(np.array(["a"]), np.array([1.0]))


def test_equal_does_not_reveal_the_answer():
    text = equal(np.array(["A", "B"]), np.array(["B", "A"]))
    assert text == "2 of 2 entries are not right."
    assert equal(np.array(["A"]), np.array(["A"])) is None
    assert equal(np.array([1]), np.array([1.0])) is None
    assert "expected entries like" in equal(np.array([1]), np.array(["A"]))


def test_at_most_names_the_unit():
    assert at_most(2.0, "nats")(np.array(1.9), np.array(0.0)) is None
    assert "at most 2 nats, got 2.1" in at_most(2.0, "nats")(np.array(2.1), np.array(0.0))
    assert at_most(2.0, "nats")(np.array(np.nan), np.array(0.0)) is not None


def test_same_distribution_has_power_and_no_false_alarms():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = rng.normal(size=(500, 3)), rng.normal(size=(500, 3))
        assert same_distribution(a, b) is None
    shifted = rng.normal(size=(2000, 3)) + np.array([0, 0.5, 0])
    assert "coordinate 1" in same_distribution(shifted, rng.normal(size=(2000, 3)))
