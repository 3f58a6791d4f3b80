"""Checks of exercises: what they print for right, wrong, failing and untouched answers."""

import numpy as np
import pandas as pd
import pytest
import torch

from dori_lite.book import checks
from dori_lite.book.checks import Test, check, in_words

SQUARE = [
    Test(lambda f: f(torch.ones(2, 3)).shape == (2, 3), ("as many as it was given", "no sum")),
    Test(lambda f: float(f(3.0)) == 9, ("it squares its argument", "f(3) is 9")),
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(checks, "FAILED", {})


def told(capsys, given, tests=SQUARE):
    result = check("the square", given, tests)
    return result, capsys.readouterr().out.splitlines()


def test_right_and_not_attempted(capsys):
    assert told(capsys, lambda x: x**2) == (True, ["the square: right"])
    for stub in (lambda x: ..., lambda x: (1, ...), ..., None):
        assert told(capsys, stub) == (None, ["the square: not attempted"])


def test_a_wrong_answer_is_told_what_it_gave_and_one_hint_more_each_time(capsys):
    first = ["the square: not yet; it gave 6", "  hint 1: it squares its argument"]
    assert told(capsys, lambda x: x * 2) == (False, [*first, "  run it again for another hint (1 left)"])
    assert told(capsys, lambda x: x * 2) == told(capsys, lambda x: x * 2) == (False, [*first, "  hint 2: f(3) is 9"])


def test_an_answer_that_stops_is_told_where_and_gets_no_hint(capsys):
    result, lines = told(capsys, lambda x: x.no_such_thing)
    assert result is False and len(lines) == 2
    assert lines[0].startswith("the square: not yet: it stopped with AttributeError: ")
    assert lines[1] == "  it was given float32 [2, 3]"


def test_what_the_check_makes_nothing_of_is_a_wrong_answer(capsys):
    result, lines = told(capsys, lambda x: (x, None))
    assert result is False and lines[0] == "the square: not yet; it gave (float32 [2, 3]; None)"
    assert lines[1] == "  hint 1: as many as it was given"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor(0.25), "float32 []: 0.25"),
        (torch.tensor([[True, False]]), "bool [1, 2]: True, False"),
        (np.zeros(5), "float64 [5]"),
        (torch.zeros(0), "float32 [0]"),
        (1 / 3, "0.333"),
        ("a" * 100, "'" + "a" * 59),
        (True, "True"),
        ([1, 2.5, None, "x", 5], "[1; 2.5; None; 'x'; …]"),
        ({"a": 1}, "dict"),
        (pd.Series([1.0, 2.0]), "Series"),
        (np.zeros((), dtype="O"), "object []: 0"),
        (len, "builtin_function_or_method"),
    ],
)
def test_values_in_words(value, words):
    assert in_words(value) == words
