"""What `check` says of an answer. The exercises themselves are in tests/test_exercises.py."""

import random
from fractions import Fraction

import numpy as np
import pytest
import torch

from promptlab.course.exercises import alike, brief, check, verdict

CASES = [((3.0,), 4.0, {"Minus.": 2.0, "Not a list.": TypeError})]


def blank(x): ...


def undone(x):
    return None


def forgotten(x):
    x + 1


@pytest.mark.parametrize("answer, said", [
    (blank, "not yet"),
    (undone, "not yet"),
    (forgotten, "Your function returns nothing: is a `return` missing?"),
    (lambda x: x + 1, "Right."),
    (lambda x: torch.tensor(x + 1), "Right."),
    (lambda x: np.float32(x + 1), "Right."),
    (lambda x: x - 1, "Minus."),
    (lambda x: x[0], "Not a list."),
    (lambda x: x / 0, "Your function could not be run or read (ZeroDivisionError: float division by zero)."),
    (lambda x: [1, 2], "Return one number, not [1, 2]."),
    (lambda x: x, "Not this. For 3 it is 4, you say 3."),
    (lambda x: float("nan"), "Not this. For 3 it is 4, you say nan."),
])  # fmt: skip
def test_what_is_said(answer, said):
    assert verdict(answer, CASES) == said


def test_a_generator_is_the_list_it_makes():
    assert verdict(lambda n: (i for i in range(n)), [((3,), [0, 1, 2])]) == "Right."
    assert verdict(lambda n: map(str, range(n)), [((3,), [0, 1, 2])]).startswith("Not this")


def test_a_hint_that_fits_by_chance_is_not_said():
    cases = [((n,), 2 * n, {"The square.": n * n}) for n in range(10)]  # 0 and 2 have the same double and square, 3 is 3 + 0
    assert verdict(lambda n: n * n, cases) == "The square."
    assert verdict(lambda n: n * n if n < 4 else 99, cases).startswith("Not this. For 4")


def test_only_the_first_trial_prints_and_leaving_python_stops_nothing(capsys):
    assert verdict(lambda n: print(n), [((n,), n) for n in range(5)]) == "Your function returns nothing: is a `return` missing?"
    assert capsys.readouterr().out == "0\n"
    assert "SystemExit" in verdict(lambda: exit(), [((), 1)])


def test_an_answer_drawn_anew_is_luck():
    assert "drawn anew is luck" in verdict(lambda x: random.random(), CASES)


def test_all_cases_must_be_right_and_what_most_of_them_say_is_said(capsys):
    words = lambda n: lambda got: f"Right: {n}." if got else f"Wrong: {n}."  # noqa: E731
    check(lambda right: right, [((True,), words(1)), ((True,), words(2))])
    check(lambda right: right, [((True,), words(1)), ((False,), words(2)), ((True,), words(3))])
    check(lambda right: right, [((False,), words(1)), ((False,), words(2)), ((False,), words(2))])
    assert capsys.readouterr().out == "Right: 2.\nWrong: 2.\nWrong: 2.\n"


def test_the_function_gets_copies():
    rows = [[1, 2]]
    assert verdict(lambda rows: rows.pop(), [((rows,), [1, 2])]) == "Right." and rows == [[1, 2]]


@pytest.mark.parametrize("one, other, same", [
    ((1, 2.0), torch.tensor([1, 2]), True),
    (Fraction(1, 2), 0.5, True),
    (np.array([0.5]), 0.5, True),
    ((1, 2.0), np.array([1, 2]), True),
    (torch.tensor([1.0, 2], requires_grad=True), torch.tensor([1, 2.0], dtype=torch.float64), True),
    (torch.ones(2), torch.ones(2, 1), False),
    ([[1], [2]], [1, 2], False),
    (["a", "b"], ("a", "b"), True),
    (["a", "b"], "ab", False),
    ("1", 1, False),
    (True, np.True_, True),
    (0.30000001, 0.3, True),
    (0.301, 0.3, False),
])  # fmt: skip
def test_alike(one, other, same):
    assert alike(one, other) is same and alike(other, one) is same


def test_brief_is_one_short_line():
    assert brief({"a": torch.tensor([1.23456, 2]), "b": "x"}) == "{a: [1.235, 2], b: 'x'}"
    assert len(brief(list(range(1000)))) == 200
