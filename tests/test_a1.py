"""Assignment 1: each check takes right answers and refuses wrong ones with the hint that fits; so do the judges."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dori_lite import detection, models
from dori_lite.assignments import a1, submission
from dori_lite.assignments.parts import Key, drawn
from dori_lite.book import checks
from dori_lite.reef import canaries
from dori_lite.reef import world as reef

NOTEBOOK = Path(__file__).parents[1] / "book" / "assignments" / "solutions" / "a1_catch_the_copy.ipynb"
PARTS = {part.name: part for part in a1.PARTS}
ASKS = [drawn(a1.CHOICES, f"a seed, {k}", a1.PRACTICE, a1.WITHOUT) for k in range(60)]
VARIANTS = [a1.PRACTICE, *ASKS[:8]]


@pytest.fixture(scope="module")
def solved():
    """What is graded of the solution notebook, by its names."""
    return submission.defined(NOTEBOOK, ask=a1.PRACTICE)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No check has failed yet."""
    monkeypatch.setattr(checks, "FAILED", {})


# ---- right answers, written otherwise and for any variant ------------------------------------------------


def tiling(ask, images, reference):
    """With pooling, and no tiles cut."""
    apart = (images - reference).abs() ** ask["norm"]
    each = torch.nn.functional.avg_pool2d(apart.mean(1), ask["tile"]) ** (1 / ask["norm"])
    each = each.flatten(1)
    return each.max(1).values if ask["reduce"] == "max" else each.mean(1)


def pushing(ask, with_text, without):
    """With loops, as a list."""
    found = []
    for given, empty in zip(with_text, without, strict=True):
        lengths = [torch.linalg.vector_norm(g - e, ask["push_norm"]) for g, e in zip(given, empty, strict=True)]
        some = {"first 5": slice(5), "last 5": slice(-5, None)}.get(ask["over"], slice(None))
        found.append(max(lengths) if ask["over"] == "max" else sum(lengths[some]) / len(lengths[some]))
    return found


OTHERWISE = {"tile_distance": tiling, "magnitude": pushing}


def graded(name, function, key, student="ada"):
    given = PARTS[name].given(key, student)
    return PARTS[name].judge(key, student, given, PARTS[name].call(function, given))


def test_the_solution_passes_and_gets_all_points(solved, capsys):
    for name in OTHERWISE:
        assert a1.check(name, solved[name], a1.PRACTICE) is True
        assert graded(name, solved[name], Key("a1", a1.PRACTICE, "2026", "secret"))[0] == 1
    assert a1.check("answer", solved["answer"], a1.PRACTICE, "practice", "practice") is True
    assert graded("answer", solved["answer"], Key("a1", a1.PRACTICE), "practice")[0] == 1
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [f"A1 {name}: right" for name in PARTS]
    assert said[3].endswith(f"answer = {solved['answer']}") and len(said) == 4
    assert sum(part.points for part in a1.PARTS) == 100


@pytest.mark.parametrize("ask", VARIANTS, ids=lambda ask: "-".join(map(str, ask.values())))
def test_right_answers_of_any_variant_pass_and_get_all_points(ask, solved):
    key = Key("a1", ask, "2026", "secret")
    for name, function in OTHERWISE.items():
        assert a1.check(name, partial(function, ask), ask) is True
        assert graded(name, partial(function, ask), key) == (1, "right for all hidden inputs")
    if ask != a1.PRACTICE:  # the practice variant's solution is no other's
        shares = [graded(name, solved[name], key)[0] for name in OTHERWISE]
        passed = [a1.check(name, solved[name], ask) for name in OTHERWISE]
        same = {"tile_distance": ("tile", "norm", "reduce"), "magnitude": ("push_norm", "over")}
        for share, right, names in zip(shares, passed, same.values(), strict=True):
            assert right is (share == 1) is all(ask[each] == a1.PRACTICE[each] for each in names)


def test_every_question_is_drawn_some_time_and_told(capsys):
    for name, values in a1.CHOICES.items():
        assert {ask[name] for ask in ASKS} == set(values)
    different = {json.dumps(ask, sort_keys=True) for ask in ASKS}
    assert len({a1.asked(ask) for ask in ASKS}) == len(different)
    assert "16 x 16 pixels" in a1.asked(a1.PRACTICE) and "mean over all steps" in a1.asked(a1.PRACTICE)


# ---- wrong ones -------------------------------------------------------------------------------------------


def tiles(images, reference, n=16, within=lambda x: x.square().mean((1, 4, 5)).sqrt()):
    return within((images - reference).unfold(2, n, n).unfold(3, n, n)).flatten(1)


def strips(images, reference):
    return (images - reference).reshape(len(images), 3, -1, 16 * 16).square().mean((1, 3)).sqrt().amax(1)


def square_only(images, reference):
    squares = (images - reference).reshape(len(images), 3, images.shape[2] // 16, 16, images.shape[2] // 16, 16)
    return squares.square().mean((1, 3, 5)).sqrt().amax((1, 2))


def in_place(images, reference):
    images -= reference
    return tiles(images, torch.zeros_like(images)).amax(1)


WRONG_DISTANCES = {
    "one number": (lambda i, r: tiles(i, r).amax(), "three pictures have three distances"),
    "a sum": (
        lambda i, r: tiles(i, r, within=lambda x: x.square().sum((1, 4, 5)).sqrt()).amax(1),
        "take means, not sums",
    ),
    "no root": (
        lambda i, r: tiles(i, r, within=lambda x: x.square().mean((1, 4, 5))).amax(1),
        "where all numbers differ",
    ),
    "a sign": (lambda i, r: tiles(i, r, within=lambda x: x.mean((1, 4, 5))).amax(1), "distances have no sign"),
    "absolute": (lambda i, r: tiles(i, r, within=lambda x: x.abs().mean((1, 4, 5))).amax(1), "then the root: 0.42"),
    "each colour": (
        lambda i, r: tiles(i, r, within=lambda x: x.square().mean((4, 5)).sqrt()).amax(1),
        "joins its colours",
    ),
    "mean of tiles": (lambda i, r: tiles(i, r).mean(1), "the worst tile counts: 0.8"),
    "whole": (lambda i, r: (i - r).square().mean((1, 2, 3)).sqrt(), "the worst tile counts: 0.8"),
    "strips": (strips, "reshape alone cuts strips"),
    "smaller tiles": (lambda i, r: tiles(i, r, 8).amax(1), "tiles have 16 x 16 pixels"),
    "overlapping": (
        lambda i, r: (i - r).unfold(2, 16, 8).unfold(3, 16, 8).square().mean((1, 4, 5)).sqrt().amax((1, 2)),
        "stand side by side",
    ),
    "one reference": (lambda i, r: tiles(i, r[:1].expand_as(r)).amax(1), "goes with its own reference"),
    "square only": (square_only, r"stopped with RuntimeError(.|\n)*it was given float32 \[3, 3, 32, 16\]"),
    "in place": (in_place, "it changes its inputs"),
}


def lengths(with_text, without):
    return (with_text - without).flatten(2).norm(dim=2)


WRONG_PUSHES = {
    "each step": (lengths, "four samples have four numbers"),
    "one number": (lambda w, o: lengths(w, o).mean(), "four samples have four numbers"),
    "caption alone": (lambda w, o: (w + 1).flatten(2).norm(dim=2).mean(1), "where the caption changes nothing"),
    "of lengths": (
        lambda w, o: (w.flatten(2).norm(dim=2) - o.flatten(2).norm(dim=2)).mean(1),
        "difference of the lengths",
    ),
    "a mean": (
        lambda w, o: (w - o).flatten(2).square().mean(2).sqrt().mean(1),
        "its length is 5, the root of the sum of squares",
    ),
    "squared": (lambda w, o: lengths(w, o).square().mean(1), "its length is 5, the root of the sum of squares"),
    "absolute": (
        lambda w, o: (w - o).flatten(2).abs().sum(2).mean(1),
        "its length is 5, the root of the sum of squares",
    ),
    "over steps first": (lambda w, o: (w - o).mean(1).flatten(1).norm(dim=1), "opposite pushes do not cancel"),
    "largest": (lambda w, o: lengths(w, o).amax(1), "the mean over all steps counts: here 6.5"),
    "first five": (lambda w, o: lengths(w, o)[:, :5].mean(1), "the mean over all steps counts: here 6.5"),
    "one channel": (
        lambda w, o: (w - o)[:, :, :1].flatten(2).norm(dim=2).mean(1),
        "its length is 5, the root of the sum of squares",
    ),
    "fixed size": (lambda w, o: (w - o).reshape(-1, 12, 144).norm(dim=2).mean(1), "stopped with RuntimeError"),
}
WRONG = [("tile_distance", *found) for found in WRONG_DISTANCES.values()]
WRONG += [("magnitude", *found) for found in WRONG_PUSHES.values()]


@pytest.mark.parametrize(("name", "function", "hint"), WRONG, ids=[*WRONG_DISTANCES, *WRONG_PUSHES])
def test_wrong_measures_get_the_hint_that_fits_and_fewer_points(name, function, hint, capsys):
    told = ""
    for _ in range(2):  # the second hint may be the one that fits
        assert a1.check(name, function, a1.PRACTICE) is False
        told += capsys.readouterr().out
    assert re.search(hint, told), told
    if function is not in_place:  # a grader gives each function inputs of its own
        given = PARTS[name].given(Key("a1", a1.PRACTICE, "2026", "secret"), "ada")
        try:
            returned = PARTS[name].call(function, given)
        except Exception:
            return
        share, reason = PARTS[name].judge(Key("a1", a1.PRACTICE, "2026", "secret"), "ada", given, returned)
        assert share < 1 and reason.startswith("wrong for hidden inputs of these kinds: "), reason


def test_what_is_right_for_some_inputs_gets_some_points(capsys):
    key = Key("a1", a1.PRACTICE, "2026", "secret")
    assert graded("tile_distance", square_only, key) == (0.5, "wrong for hidden inputs of these kinds: wide, tall")


@pytest.mark.parametrize("ask", VARIANTS[1:], ids=lambda ask: "-".join(map(str, ask.values())))
def test_each_other_variant_refuses_three_wrong_measures(ask, capsys):
    n, other = ask["tile"], {"max": "mean", "mean": "max"}[ask["reduce"]]
    sums = {"tile_distance": lambda i, r: tiling(ask, i, r) * n * n, "magnitude": lambda w, o: 0 * w[:, 0, 0, 0, 0]}
    wrong = [("tile_distance", sums["tile_distance"], "take means"), ("magnitude", sums["magnitude"], "length")]
    wrong += [("tile_distance", partial(tiling, {**ask, "reduce": other}), "one tile of four differs")]
    norm = {1: "then their mean: 0.3", 2: "then the root: 0.42"}[ask["norm"]]
    wrong += [("tile_distance", partial(tiling, {**ask, "norm": 3 - ask["norm"]}), norm)]
    wrong += [("tile_distance", partial(tiling, {**ask, "tile": n // 2}), f"tiles have {n} x {n} pixels")]
    length = {1: "7, the sum", 2: "5, the root"}[ask["push_norm"]]
    wrong += [("magnitude", partial(pushing, {**ask, "push_norm": 3 - ask["push_norm"]}), length)]
    for over in {*a1.CHOICES["over"]} - {ask["over"]}:
        wrong += [("magnitude", partial(pushing, {**ask, "over": over}), "the lengths of the steps are 4, 1, 6")]
    for name, function, hint in wrong:
        checks.FAILED.clear()
        assert a1.check(name, function, ask) is False
        assert hint in capsys.readouterr().out
        assert graded(name, function, Key("a1", ask, "2026", "secret"))[0] < 1


def test_stubs_and_failing_functions(capsys):
    for name in OTHERWISE:
        assert a1.check(name, lambda *given: ..., a1.PRACTICE) is None
        assert a1.check(name, lambda *given: given[0].no_such_thing, a1.PRACTICE) is False
        with pytest.raises(AttributeError):
            graded(name, lambda *given: given[0].no_such_thing, Key("a1", a1.PRACTICE))
    assert a1.check("answer", ..., a1.PRACTICE, "practice", "practice") is None
    assert capsys.readouterr().out.count("not attempted") == 3


@pytest.mark.parametrize("name", OTHERWISE)
def test_the_judge_trusts_nothing_of_what_comes_back(name):
    key = Key("a1", a1.PRACTICE, "2026", "secret")
    given = PARTS[name].given(key, "ada")
    right = PARTS[name].call(partial(OTHERWISE[name], a1.PRACTICE), given)
    assert PARTS[name].judge(key, "ada", given, right)[0] == 1
    for odd in (np.array("x"), np.zeros((2, 2)), np.array([1j]), np.full(1, np.nan), 3.0, None, np.zeros(0)):
        assert PARTS[name].judge(key, "ada", given, {**right, "single": odd})[0] == 0.75
    assert PARTS[name].judge(key, "ada", given, {})[0] == 0
    assert PARTS[name].judge(key, "ada", given, {**right, "more": np.zeros(9)})[0] == 1


def test_hidden_inputs_hang_on_key_and_student_alone():
    key = Key("a1", a1.PRACTICE, "2026", "secret")
    for name in OTHERWISE:
        one, again = (PARTS[name].given(key, "ada") for _ in range(2))
        assert one.keys() == again.keys() and all(np.array_equal(one[each], again[each]) for each in one)
        for other in (PARTS[name].given(key, "bo"), PARTS[name].given(Key("a1", a1.PRACTICE, "2026", "s"), "ada")):
            assert not any(np.array_equal(one[each], other[each]) for each in one)
        assert sum(array.nbytes for array in one.values()) < 5e6
    assert all(array.min() >= 0 and array.max() <= 1 for array in PARTS["tile_distance"].given(key, "ada").values())


# ---- the answer -----------------------------------------------------------------------------------------------


def test_captions_are_six_of_either_kind_in_an_order_of_the_student_s_own():
    known = {item.caption: item for item in canaries.planted()}
    sets, orders = set(), set()
    for student in ("practice", "ada", "bo", "eve"):
        mine = a1.captions(student, "2026")
        assert mine == a1.captions(f" {student} ", "2026") != a1.captions(student, "2027")
        truth = a1.in_twin_a(mine)
        assert len({*mine}) == 12 and sum(truth) == 6
        assert truth == [known[caption].home == "a" for caption in mine]
        assert {(known[c].role, known[c].split) for c in mine} == {("canary", "reporting")}
        sets.add(frozenset(mine)), orders.add(tuple(truth))
    assert len(sets) == len(orders) == 4


def judged(answer, student="ada", salt="2026"):
    return graded("answer", answer, Key("a1", a1.PRACTICE, salt, "secret"), student)


def test_the_answer_s_grade_is_balanced_accuracy_beyond_chance():
    truth = a1.in_twin_a(a1.captions("ada", "2026"))
    assert (
        judged(truth)
        == judged(tuple(truth))
        == (1, "6 of 6 memorized captions found, 0 of 6 others taken for memorized")
    )
    for wrong, share in ((1, 5 / 6), (2, 4 / 6)):
        missed = [said and k not in [k for k in range(12) if truth[k]][:wrong] for k, said in enumerate(truth)]
        alarm = [said or k in [k for k in range(12) if not truth[k]][:wrong] for k, said in enumerate(truth)]
        assert judged(missed)[0] == judged(alarm)[0] == pytest.approx(share)
    assert judged([True] * 12)[0] == judged([False] * 12)[0] == judged([not each for each in truth])[0] == 0
    assert judged(truth, "bo")[0] < 1  # another student's


@pytest.mark.parametrize("answer", [[], [True] * 11, [1] * 12, ["True"] * 12, [...] * 12, "yes", {}, 7, [[True] * 12]])
def test_an_answer_of_another_form_gets_nothing_and_a_hint(answer, capsys):
    assert judged(answer) == (0, "no list of 12 times True or False")
    assert a1.check("answer", answer, a1.PRACTICE) is False
    assert re.search("give a list of 12|True or False: no text in quotes", capsys.readouterr().out)


@pytest.mark.parametrize("odd", [None, np.full(12, 2), np.zeros((12, 1)), np.full(12, np.nan), np.array("x")])
def test_the_judge_of_answers_trusts_nothing_either(odd):
    key = Key("a1", a1.PRACTICE, "2026", "secret")
    assert PARTS["answer"].judge(key, "ada", {}, {"answer": odd})[0] == 0
    assert PARTS["answer"].judge(key, "ada", {}, {})[0] == 0


def test_the_check_of_answers_knows_the_practice_variant_alone(capsys):
    truth = a1.in_twin_a(a1.captions("ada", "practice"))
    missed = [said and k != truth.index(True) for k, said in enumerate(truth)]
    alarm = [said or k == truth.index(False) for k, said in enumerate(truth)]
    hints = {"one picture, whatever the noise": missed, "another picture from each noise": alarm}
    hints |= {"not all are alike": [True] * 12, "give a list of 12": truth[:11]}
    for hint, answer in hints.items():
        assert a1.check("answer", answer, a1.PRACTICE, "ada", "practice") is False
        assert hint in capsys.readouterr().out
    assert a1.check("answer", truth, a1.PRACTICE, "ada", "practice") is True
    assert capsys.readouterr().out.startswith("A1 answer: right\n  so it has to stand in the cell: answer = [")
    for answer in (truth, missed):
        assert a1.check("answer", answer, a1.PRACTICE, "ada", "2026") is True
        assert capsys.readouterr().out.startswith("A1 answer, its form alone: right\n  so it has to stand")


def test_unknown_parts_and_questions_are_named():
    with pytest.raises(ValueError, match="no part 'distance' in this assignment; there are: tile_distance"):
        a1.check("distance", len, a1.PRACTICE)
    for ask in ({}, {**a1.PRACTICE, "norm": 3}):
        with pytest.raises(ValueError, match="run the cell with the questions as it was"):
            a1.asked(ask)


def test_recorded_predictions_give_the_package_s_magnitudes(monkeypatch):
    monkeypatch.setitem(reef.SAMPLING, "steps", 3)
    monkeypatch.setitem(reef.SAMPLING, "batch", 3)  # so that there are two parts
    pipe, mine = models.load("reef/twin-a"), a1.captions("practice", "practice")[:2]
    with_text, without = a1.recorded(pipe, mine, seeds=[3, 4])
    assert with_text.shape == without.shape == (4, 3, 4, 16, 16)
    ours = pushing(a1.PRACTICE, with_text, without)
    package = detection.magnitude(pipe, mine, seeds=[3, 4], **reef.SAMPLING).mean(1)
    assert torch.allclose(torch.stack(ours).unflatten(0, (2, 2)).mean(1), package, rtol=1e-3)


# ---- the notebook ------------------------------------------------------------------------------------------------


def test_the_notebook_does_not_tell_the_answer():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    solutions = [cell for cell in cells if "solution" in cell["metadata"].get("tags", [])]
    assert all("stub" in cell["metadata"] for cell in solutions)
    shown = "".join("".join(cell["source"]) for cell in cells if cell not in solutions)
    shown += json.dumps([cell["metadata"] for cell in cells])
    names = {item.name for item in canaries.planted()}
    assert not names & set(re.findall(r"\w+", shown)) and not re.search(r"((True|False),\s+){3}", shown)
    [answer] = [cell for cell in solutions if "".join(cell["source"]).startswith("answer =")]
    assert answer["metadata"]["stub"].startswith("answer = ...")
