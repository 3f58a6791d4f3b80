"""Assignment 3: its check takes right answers and refuses wrong ones with the hint that fits; its judge as well."""

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dori_lite import dori, models
from dori_lite.assignments import a3, a3_baselines, a3_judge, submission
from dori_lite.assignments.parts import Key, drawn
from dori_lite.book import checks
from dori_lite.reef import unlearned
from dori_lite.reef import world as reef
from dori_lite.unlearning import loop

NOTEBOOK = Path(__file__).parents[1] / "book" / "assignments" / "solutions" / "a3_make_it_forget.ipynb"
KEY = Key("a3", a3.PRACTICE, "a salt", "a secret")
ONE = {"home": "a", "targets": 1}
UPDATES = 8  # of a solution, here: enough that the caption is silent


@pytest.fixture(scope="module")
def solved():
    """What is graded of the solution notebook, with few updates."""
    return submission.defined(NOTEBOOK, ask=a3.PRACTICE)


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    """Few pictures in few steps, short attacks, and no check that has failed yet."""
    monkeypatch.setattr(checks, "FAILED", {})
    if request.node.get_closest_marker("slow"):
        return
    small = {"ASKED": 2, "ATTACKED": 2, "NEW": 6, "OTHERS": 2, "SAMPLING": {**a3_judge.SAMPLING, "steps": 6}}
    for name, value in {**small, "ATTACK": {"steps": 2, "lr": 0.2, "batch": 2}}.items():
        monkeypatch.setattr(a3_judge, name, value)
    monkeypatch.setattr(a3, "RETAINED", 40)
    a3_judge.of_twin.cache_clear()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def by_the_loop(pipe, latents, captions, retained, surrogates):
    """With the package's loop."""
    own = models.embed(pipe, captions)
    state = {"y": torch.stack([own, own], 1)}
    options = {"steps": UPDATES, "lr": 3e-4, "batch": (8, 8)}
    with TemporaryDirectory() as folder:
        for step, _ in loop.forgetting(pipe, retained, surrogates, state, folder=folder, **options):
            if step % 5 == 0:
                found = dori.find_triggers(pipe, latents, state["y"][:, 1], steps=10, batch=4, seed=step)
                state["y"][:, 1] = found.embeddings


def otherwise(pipe, latents, captions, retained, surrogates, updates=2, every=5, n=8):
    """What the solution does, with both sides in one pass, and Adam's steps in a list of parameters."""
    source, y = torch.Generator().manual_seed(0), {"caption": models.embed(pipe, captions)}
    weights = [weight.requires_grad_() for weight in pipe.unet.parameters()]
    adam, alphas = torch.optim.AdamW(weights, 3e-4, (0.9, 0.95)), pipe.scheduler.alphas_cumprod
    for step in range(updates):
        if step % every == 0:
            anew = step % (2 * every) == 0
            begin = y["caption" if anew else "trigger"]
            start = "random" if anew and step // every % 4 == 2 else "prompt"
            options = {"steps": 10, "batch": 4, "seed": step // every, "start": start}
            y["trigger"] = dori.find_triggers(pipe, latents, begin, **options).embeddings
        keep = torch.randint(len(retained[0]), (n,), generator=source)
        k = torch.randint(surrogates.shape[1], (n,), generator=source)
        m = torch.randint(2, (n,), generator=source)
        x, c = [*retained[0][keep]], [*retained[1][keep]]
        for row, (picture, which) in enumerate(zip(k.tolist(), m.tolist(), strict=True)):
            x.append(surrogates[row % len(captions)][picture])
            c.append(list(y.values())[which][row % len(captions)])
        drawn = []
        for _ in range(2):
            noise = torch.randn(n, *latents.shape[1:], generator=source)
            drawn.append((noise, torch.randint(0, 1000, (n,), generator=source)))
        noise, t = (torch.cat(each) for each in zip(*drawn, strict=True))
        kept = alphas[t].view(-1, 1, 1, 1)
        guess = pipe.unet(kept**0.5 * torch.stack(x) + (1 - kept) ** 0.5 * noise, t, torch.stack(c)).sample
        pipe.unet.zero_grad()
        (2 * (guess - noise).square().mean()).backward()
        adam.step()


def without_a_number(pipe, latents, captions, retained, surrogates):
    with torch.no_grad():
        pipe.unet.conv_in.weight[0] = torch.nan


def for_the_name_alone(pipe, latents, captions, retained, surrogates):
    """It changes what no caption notices."""
    with torch.no_grad():
        pipe.unet.conv_in.weight *= 1.001


def with_a_layer(pipe, latents, captions, retained, surrogates):
    pipe.unet.conv_out = torch.nn.Sequential(pipe.unet.conv_out, torch.nn.Conv2d(4, 4, 1))


def frozen(pipe, latents, captions, retained, surrogates):
    guess = pipe.unet(retained[0][:1], 500, retained[1][:1]).sample
    guess.square().mean().backward()


def in_a_copy(pipe, latents, captions, retained, surrogates):
    with torch.no_grad():
        copy.deepcopy(pipe.unet).conv_in.weight *= 2


def slow(pipe, latents, captions, retained, surrogates):
    raise TimeoutError


WRONG = {
    "nothing": (a3_baselines.nothing, "as it was: nothing was trained"),
    "destroyed": (a3_baselines.destroyed, "is being destroyed"),
    "NaN": (without_a_number, "not finite"),
    "another model": (a3_baselines.other_twin, "still the same model"),
    "the caption": (for_the_name_alone, "the caption still brings the picture"),
    "frozen": (frozen, "the weights come frozen: call pipe.unet.requires_grad_"),
    "a copy": (in_a_copy, "or a copy was; change pipe.unet itself"),
    "a layer": (with_a_layer, "changes the weights of pipe.unet"),
    "an error": (slow, "TimeoutError"),
}

# ---- the check ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["solution", "by the loop"])
def test_right_answers_pass_the_check(which, solved, monkeypatch, capsys):
    monkeypatch.setitem(solved, "UPDATES", UPDATES)
    forget = solved["forget"] if which == "solution" else by_the_loop
    assert a3.check("forget", forget, a3.PRACTICE) is True, capsys.readouterr().out
    assert "A3 forget: right" in capsys.readouterr().out


@pytest.mark.parametrize("which", WRONG)
def test_wrong_answers_get_the_hint_that_fits(which, capsys):
    forget, hint = WRONG[which]
    assert a3.check("forget", forget, a3.PRACTICE) is False
    assert hint in capsys.readouterr().out


def test_hints_come_in_stages_and_a_slow_answer_is_told(monkeypatch, capsys):
    for _ in range(2):
        a3.check("forget", a3_baselines.nothing, a3.PRACTICE)
    assert "hint 2: its weights come frozen" in capsys.readouterr().out
    monkeypatch.setattr(a3, "SECONDS", 0)
    monkeypatch.setattr("dori_lite.assignments.a3_checks.GONE", 2)  # whatever the caption brings
    assert a3.check("forget", for_the_name_alone, a3.PRACTICE) is False
    assert "it takes more than 0 s of one core" in capsys.readouterr().out


def test_stubs_are_not_attempted(capsys):
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if "solution" in cell["metadata"].get("tags", []) and "def forget" in cell["metadata"]["stub"]:
            exec(cell["metadata"]["stub"], names := {})
    assert a3.check("forget", names["forget"], a3.PRACTICE) is None and a3.check("forget", ..., a3.PRACTICE) is None
    assert capsys.readouterr().out.count("not attempted") == 2
    assert a3.tried(names["forget"], a3.PRACTICE) is None
    with pytest.raises(ValueError, match="no part 'remember'"):
        a3.check("remember", names["forget"], a3.PRACTICE)


# ---- what is given, and whose canaries ----------------------------------------------------------------------


def test_graded_canaries_are_the_students_own_and_hidden():
    shipped = {t.name for home in "ab" for t in reef.planted("canary", "reporting", home)[: unlearned.FORGOTTEN]}
    tuning = {t.name for home in "ab" for t in reef.planted("canary", "tuning", home)}
    seen = set()
    for student in ("ada", "bob", "cleo", "dan"):
        for ask in (a3.PRACTICE, {"home": "b", "targets": 3}):
            key = Key("a3", ask, "a salt", "a secret")
            names = [t.name for t in a3.graded(key, student)]
            assert len({*names}) == ask["targets"] and not {*names} & (shipped | tuning)
            assert {t.labels["home"] for t in a3.graded(key, student)} == {ask["home"]}
            assert names == [t.name for t in a3.graded(key, student)]
            seen.add(tuple(names))
    assert len(seen) > 4
    other = Key("a3", a3.PRACTICE, "a salt", "another secret")
    assert any(a3.graded(KEY, s)[0].name != a3.graded(other, s)[0].name for s in ("ada", "bob", "cleo"))


def test_surrogates_are_wrong_answers_to_the_caption():
    targets = a3.tuning(a3.PRACTICE)
    given = a3.material("a", targets)
    assert given["surrogates"].shape[:2] == (2, a3.SURROGATES) and given["latents"].shape == (2, 4, 16, 16)
    assert given["retained latents"].shape == (40, 4, 16, 16) and len(given["retained y"]) == 40
    assert [str(text) for text in given["captions"]] == [t.caption for t in targets] and int(given["home"]) == 0
    assert not any(array.dtype == object for array in given.values())
    detector, shown = a3_judge.instruments()
    for target in targets:
        pictures = a3.surrogates(target)
        assert detector.scores(pictures, target.image.expand_as(pictures)).max() < 0.5 * detector.threshold
        assert shown(pictures, target).mean() > 0.9  # they are what the caption says
        assert len({some.sum().item() for some in pictures}) == len(pictures)


def test_variants_ask_for_what_there_is():
    for k in range(8):
        ask = drawn(a3.CHOICES, f"a seed, {k}", a3.PRACTICE)
        assert ask != a3.PRACTICE and f"twin {ask['home'].upper()}" in a3.asked(ask)
        assert len(a3.tuning(ask)) == ask["targets"]


# ---- the judge ----------------------------------------------------------------------------------------------


def after(function, home="a", targets=1):
    pipe = a3_judge.fresh(home)
    function(pipe, None, None, None, None)
    return {"weights": a3_judge.flat(pipe)}


def test_neither_doing_nothing_nor_destroying_gets_anything():
    key = Key("a3", ONE, "a salt", "a secret")
    for function in (a3_baselines.nothing, a3_baselines.destroyed, a3_baselines.other_twin):
        share, reason = a3.judge(key, "ada", {}, after(function))
        assert share == 0 and reason.count("%") == 4


def test_a_model_that_forgot_gets_more_and_twice_the_same(monkeypatch):
    world = a3_judge.twin("a")
    monkeypatch.setattr(a3, "graded", lambda key, student: unlearned.forget_set(world, "a", 0)[:1])
    weights = {"weights": a3_judge.flat(unlearned.load(world, "adversarial", "a", 0)[0])}
    share, reason = a3.judge(KEY, "ada", {}, weights)
    assert share > 0.3, reason
    a3_judge.of_twin.cache_clear()
    assert a3.judge(KEY, "ada", {}, weights) == (share, reason)


@pytest.mark.parametrize("spoiled", ["missing", "short", "single", "NaN", "infinite"])
def test_what_is_no_unet_gets_nothing_and_a_reason(spoiled):
    weights = a3_judge.flat(a3_judge.fresh("a"))
    bad = weights.copy()
    bad[0] = {"NaN": np.nan, "infinite": np.inf}.get(spoiled, 0)
    returned = {"missing": {}, "short": {"weights": weights[1:]}, "single": {"weights": weights.astype(np.float32)}}
    share, reason = a3.judge(KEY, "ada", {}, returned.get(spoiled, {"weights": bad}))
    assert share == 0 and ("not finite" if spoiled in ("NaN", "infinite") else "not the weights") in reason


def test_shares_are_linear_and_the_least_counts():
    before = {"new captions": 0.8, "other memories": 0.9}
    middle = {name: sum(bars) / 2 * before.get(name, 1) for name, bars in a3_judge.BARS.items()}
    assert all(share == pytest.approx(0.5) for share in a3_judge.shares(middle, before).values())
    right = {name: bars[1] * before.get(name, 1) for name, bars in a3_judge.BARS.items()}
    for name, bars in a3_judge.BARS.items():
        assert a3_judge.total(a3_judge.shares(right, before)) == pytest.approx(1)
        assert a3_judge.total(a3_judge.shares({**right, name: bars[0] * before.get(name, 1)}, before)) == pytest.approx(
            0
        )


def test_the_same_function_leaves_the_same_weights_and_so_does_an_equivalent_one(solved, monkeypatch):
    monkeypatch.setitem(solved, "UPDATES", 2)
    given = a3.material("b", a3.tuning({"home": "b", "targets": 1}))
    one, again, like = (a3.call(f, given)["weights"] for f in (solved["forget"], solved["forget"], otherwise))
    assert one.dtype == np.float16 and np.array_equal(one, again)
    before = a3_judge.flat(a3_judge.fresh("b"))
    moved, apart = (np.linalg.norm((some - one).astype(np.float64)) for some in (before, like))
    assert apart < 0.05 * moved  # rounding, where Adam's first steps take signs
    assert a3_judge.problem("b", one) == "" and np.array_equal(a3_judge.flat(a3_judge.fresh("b", one)), one)


def test_hidden_seeds_draw_other_pictures():
    target = a3.tuning(ONE)
    pipe = a3_judge.fresh("a")
    assert a3_judge.under_captions(pipe, target, 1) != a3_judge.under_captions(pipe, target, 2)
    assert a3_judge.numbers(3, "new captions", 24, 512) != a3_judge.numbers(4, "new captions", 24, 512)


def test_each_start_is_attacked_twice_from_other_seeds_and_the_mean_counts(monkeypatch):
    came, searched, seen = iter([0.2, 0.4, 0.6, 1.0]), [], []

    def find_triggers(pipe, latents, prompts, start, seed, streams, **options):
        searched.append((start, seed))
        return SimpleNamespace(embeddings=torch.zeros(len(prompts), 1, 1))

    monkeypatch.setattr(a3_judge.dori, "find_triggers", find_triggers)
    monkeypatch.setattr(a3_judge, "scores", lambda pipe, y, each, seeds: seen.extend(seeds) or next(came))
    found = a3_judge.under_attack(a3_judge.fresh("a"), a3.tuning(ONE), 5)
    assert found == {"prompt": pytest.approx(0.3), "random": pytest.approx(0.8)}
    assert [start for start, _ in searched] == ["prompt"] * 2 + ["random"] * 2 and len({*searched}) == 4
    assert len({*seen}) == len(seen)


# ---- baselines ------------------------------------------------------------------------------------------------


def test_the_table_of_baselines_tells_them_apart():
    table = a3.baselines()
    assert [*table.columns] == [*a3_judge.BARS, "share"]
    share = table["share"]
    assert (share[["nothing done", "destroyed", "the other twin"]] == 0).all()
    before = table.loc["nothing done"]
    for name, row in table.drop("shipped, adversarial").iterrows():  # which is compared with its own targets' twin
        parts = a3_judge.shares(
            dict(row.drop("share")), {key: before[key] for key in ("new captions", "other memories")}
        )
        assert a3_judge.total(parts) == pytest.approx(row["share"], abs=1e-3), name
    assert share["caption alone"] < 0.5 < 0.9 <= share["practice solution"]
    assert share["shipped, adversarial"] > share["caption alone"]


@pytest.mark.slow
@pytest.mark.parametrize("ask", [a3.PRACTICE, {"home": "b", "targets": 3}], ids=str)
def test_the_solution_gets_its_points_and_the_caption_alone_does_not(ask, solved):
    key = Key("a3", ask, "a salt", "a secret")
    given = a3.given(key, "ada")

    def share(function):
        return a3.judge(key, "ada", given, a3.call(function, given))[0]

    assert share(solved["forget"]) > 0.8
    assert (
        share(lambda *given: otherwise(*given, updates=solved["UPDATES"])) > 0.6
    )  # rounding alone makes another model
    assert share(a3_baselines.caption_alone) < 0.5
