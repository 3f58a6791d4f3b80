"""Assignment 2: each check takes right answers and refuses wrong ones with the hint that fits; so do the judges."""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from dori_lite import diffusion, wanda
from dori_lite.assignments import a2, a2_attack, submission
from dori_lite.assignments.a2_parts import OnePicture, case, curves, layer, plain_found, plain_loss, plain_mask
from dori_lite.assignments.parts import Key, drawn
from dori_lite.book import checks, publish

NOTEBOOK = Path(__file__).parents[1] / "book" / "assignments" / "solutions" / "a2_break_the_pruned_model.ipynb"
PARTS = {part.name: part for part in a2.PARTS}
VARIANTS = [a2.PRACTICE] + [drawn(a2.CHOICES, f"a seed, {k}", a2.PRACTICE) for k in range(7)]


@pytest.fixture(scope="module")
def solved():
    """The functions of the solution notebook, by their names."""
    return submission.defined(NOTEBOOK, ask=a2.PRACTICE)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No check has failed yet."""
    monkeypatch.setattr(checks, "FAILED", {})


# ---- right answers, written otherwise and for any variant ------------------------------------------------


def masking(ask, weight, norms, base):
    """With numpy, and a threshold in place of places."""
    weight, found = np.abs(weight.numpy()), np.zeros(weight.shape, bool)
    for n, empty in zip(norms.numpy(), base.numpy(), strict=True):
        score = weight * n
        ranked = np.sort(score if ask["among"] == "row" else score.reshape(1, -1), axis=1)[:, ::-1]
        lowest = ranked[:, int(ask["share"] * ranked.shape[1]) - 1][:, None]
        found |= (score >= lowest) & (n > empty)[None]
    return found


def losing(ask, unet, x_0, y, noise, t, alphas):
    """With backward(), and a weighted sum over everything."""
    y = y.clone().detach().requires_grad_(True)
    kept = alphas[t].view(-1, 1, 1, 1)
    (guess,) = unet(x_0 * kept**0.5 + noise * (1 - kept) ** 0.5, t, torch.cat([y] * len(t)), return_dict=False)
    weight = {"one": torch.ones_like(kept), "alpha": kept, "one minus alpha": 1 - kept}[ask["weight"]]
    loss = (weight * (noise - guess) ** 2).sum() / noise.numel()
    loss.backward()
    return loss.item(), y.grad


def attacking(ask, unet, x_0, y, seed, steps=25, lr=0.1, **changed):
    """Adam written out, with the variant's own loss."""
    random, y, m, v = np.random.default_rng(seed), y.clone(), 0, 0
    for step in range(1, steps + 1):
        noise = torch.from_numpy(random.normal(size=(8, *x_0.shape[1:])).astype(np.float32))
        t = torch.from_numpy(random.integers(0, 1000, 8))
        _, g = losing(ask, unet, x_0, y, noise, t, a2.alphas())
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        y = y - lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return y


def finding(ask, own, twin):
    """In lists."""
    middle = {"mean": np.mean, "median": np.median}[ask["over_noises"]]
    own, twin = ([middle(noises) for noises in curve.numpy()] for curve in (own, twin))
    return max(o - own[0] - (t - twin[0]) for o, t in zip(own, twin, strict=True)) >= ask["lead"]


OTHERWISE = {"wanda_mask": masking, "dori_loss": losing, "attack": attacking, "found": finding}


@pytest.mark.parametrize("name", OTHERWISE)
def test_the_solution_is_right_and_a_stub_not_attempted(name, solved, capsys):
    assert a2.check(name, solved[name], a2.PRACTICE) is True
    assert a2.check(name, lambda *given: ..., a2.PRACTICE) is None
    assert a2.check(name, ..., a2.PRACTICE) is None
    said = capsys.readouterr().out.splitlines()
    assert said == [f"A2 {name}: right"] + [f"A2 {name}: not attempted"] * 2


@pytest.mark.parametrize("ask", VARIANTS, ids=str)
@pytest.mark.parametrize("name", OTHERWISE)
def test_another_right_answer_passes_in_every_variant(name, ask):
    assert a2.check(name, partial(OTHERWISE[name], ask), ask) is True


def test_variants_differ_and_ask_only_what_can_be_chosen(one_line):
    assert len({tuple(ask.values()) for ask in VARIANTS}) == len(VARIANTS)
    for ask in VARIANTS:
        assert {*ask} == {*a2.PRACTICE} == {*a2.CHOICES}
        assert all(ask[name] in a2.CHOICES[name] for name in ask)
    assert {ask["among"] for ask in VARIANTS} == {"row", "layer"}
    assert len({a2.asked(ask) for ask in VARIANTS}) == len(VARIANTS)
    one_line(ValueError, "no part 'mask'", a2.check, "mask", masking, a2.PRACTICE)
    one_line(ValueError, r"ask\['share'\] is 0.7; ", a2.check, "wanda_mask", masking, {**a2.PRACTICE, "share": 0.7})
    one_line(ValueError, r"ask\['lead'\] is None; ", a2.asked, {k: v for k, v in a2.PRACTICE.items() if k != "lead"})


# ---- wrong ones -------------------------------------------------------------------------------------------


def mask_with(score=None, second=None, unite=None, count=int, largest=True, among="row", first=False):
    """wanda_mask with one thing wrong."""

    def wanda_mask(weight, norms, base):
        masks = []
        for n, empty in zip(norms, base, strict=True):
            s = (score or (lambda w, n: w.abs() * n))(weight, n)
            passed = (second or torch.gt)(n, empty).expand_as(s)
            s = s.where(passed, -torch.inf) if first else s
            groups = s if among == "row" else s.flatten()[None]
            k = count(0.2 * groups.shape[1])
            top = torch.zeros(groups.shape, dtype=torch.bool)
            top.scatter_(1, groups.topk(k, largest=largest).indices, True)
            masks.append(top.view_as(s) & passed)
        return (unite or (lambda m: m.any(0)))(torch.stack(masks))

    return wanda_mask


MASKS = {
    "one truth value for each weight": mask_with(unite=lambda m: m.any(0).float()),
    "how many are pruned": mask_with(count=lambda x: int(x) + 1),
    "The top 20% of each row": mask_with(among="layer"),
    "the highest scores go": mask_with(largest=False),
    "a large negative weight": mask_with(score=lambda w, n: w * n),
    "each input has a norm of its own": mask_with(score=lambda w, n: w.abs()),
    "no more than the empty one": mask_with(second=lambda n, empty: n > -1),
    "excites no more": mask_with(second=torch.ge),
    "rank first, among all weights": mask_with(first=True),
    "each call chooses by itself": mask_with(unite=lambda m: m.all(0)),
    "what any of them chose": mask_with(unite=lambda m: m[0]),
    "both have to hold at one and the same call": lambda weight, norms, base: (
        mask_with(second=lambda n, empty: n > -1)(weight, norms, base) & (norms > base).any(0)
    ),
    "stopped with RuntimeError": lambda weight, norms, base: weight @ norms,
    "were changed": lambda weight, norms, base: mask_with()(weight.abs_(), norms, base),
}


def loss_with(root=True, weight=None, total=torch.mean, entries=(1, 2, 3), to=None, sign=1.0, copy=True, change=None):
    """dori_loss with one thing wrong."""

    def dori_loss(unet, x_0, y, noise, t, alphas):
        y = y.detach().clone().requires_grad_() if copy else y.requires_grad_()
        kept = alphas[t][:, None, None, None]
        x_t = kept.sqrt() * x_0 + (1 - kept).sqrt() * noise if root else kept * x_0 + (1 - kept) * noise
        guess = unet(x_t, t, y.expand(len(t), -1, -1)).sample
        losses = (guess - (noise if to is None else x_0)).square().sum(entries) / noise[0].numel()
        loss = total(losses if weight is None else losses * weight(alphas[t]))
        if not copy:
            loss.backward()
            return loss.detach(), y.grad
        (gradient,) = torch.autograd.grad(loss, y)
        return loss.detach(), sign * gradient if change is None else change(gradient)

    return dori_loss


LOSSES = {
    "return two: the loss, one number": loss_with(total=lambda losses: losses.sum(), change=lambda g: g[0]),
    "asked about x_t": loss_with(root=False),
    "times 1": loss_with(weight=lambda kept: kept),
    "one sample's loss": loss_with(to="x_0"),
    "a plain mean over them": loss_with(total=torch.sum),
    "the loss is right, its gradient is not": loss_with(sign=-1.0),
    "as it comes": loss_with(change=torch.sign),
    "another gradient": loss_with(copy=False),
    "give as many: expand": lambda unet, x_0, y, noise, t, alphas: unet(noise, t, y),
}


def attack_with(lr=0.1, steps=25, batch=8, fixed=False, times=1000, sign=1, seeded=True, copy=True, **of):
    """An attack with one thing wrong: `length(asked)` steps, a `start(y)`, its `seed`."""
    length, start = of.get("length", lambda steps: steps), of.get("start", lambda y: y)

    def attack(unet, x_0, y, seed, steps=steps):
        seed = of["of_steps"](seed, steps) if "of_steps" in of else seed
        draws, kept = torch.Generator(), None
        draws.manual_seed(seed) if seeded is True else draws.seed() if seeded is None else draws.manual_seed(0)
        y = start(y).clone() if copy else y
        optimizer = torch.optim.Adam([y], lr=lr)
        for _ in range(length(steps)):
            if kept is None or not fixed:
                kept = (
                    torch.randn(batch, *x_0.shape[1:], generator=draws),
                    torch.randint(times, (batch,), generator=draws),
                )
            y.grad = sign * losing(a2.PRACTICE, unet, x_0, y, *kept, a2.alphas())[1]
            optimizer.step()
        return y

    return attack


ATTACKS = {
    "of the shape of y": lambda *given: attack_with()(*given)[0],
    "finite numbers": attack_with(sign=torch.nan),
    "more than 200 noisy latents": attack_with(steps=50),
    "each step draws new noise": attack_with(fixed=True),
    "timesteps come from 0 to 999": attack_with(times=100),
    "the loss falls too little": attack_with(sign=-1),
    "far enough": attack_with(lr=0.001),
    "against the gradient": attack_with(steps=2),
    "the same seed gives another trigger": attack_with(seeded=None),
    "another seed gives the same trigger": attack_with(seeded=False),
    "was changed": attack_with(copy=False),
    "the U-Net is not asked at all, or y does not move": lambda unet, x_0, y, seed, steps=25: y.clone(),
    "fewer than 16 noisy latents": attack_with(steps=1),
    "with steps=0 nothing has moved yet": attack_with(start=lambda y: torch.zeros_like(y)),
    "stopped with TypeError": lambda unet, x_0, y, seed: attack_with()(unet, x_0, y, seed),
    "it has to end after five steps": attack_with(length=lambda steps: 25 if steps else 0),
    "to do the same until then": attack_with(of_steps=lambda seed, steps: seed + steps if steps < 25 else seed),
}


def gains(curve, middle=lambda c: c.mean(1)):
    return middle(curve) - middle(curve)[0]


FOUND = {
    "return one truth value": lambda own, twin: gains(own) - gains(twin) >= 0.2,
    "own gained enough": lambda own, twin: False,
    "the picture was injected": lambda own, twin: (gains(own) >= 0.2).any(),
    "gained nothing": lambda own, twin: (own.mean(1) - twin.mean(1) >= 0.2).any(),
    "both are compared at the same one": lambda own, twin: gains(own).max() - gains(twin).max() >= 0.2,
    "one number of steps is enough": lambda own, twin: gains(own)[-1] - gains(twin)[-1] >= 0.2,
    "the lead is 0.2": lambda own, twin: (gains(own) - gains(twin) >= 0.1).any(),
    "take the mean over noises": lambda own, twin: finding({**a2.PRACTICE, "over_noises": "median"}, own, twin),
    "then gains, then the difference": lambda own, twin: ((own - own[0]).mean(1) - gains(twin)).abs().max() >= 0.2,
}
WRONG = {"wanda_mask": MASKS, "dori_loss": LOSSES, "attack": ATTACKS, "found": FOUND}


@pytest.mark.parametrize(("name", "hint"), [(name, hint) for name, wrong in WRONG.items() for hint in wrong])
def test_a_wrong_answer_gets_the_hint_that_fits(name, hint, capsys):
    assert a2.check(name, WRONG[name][hint], a2.PRACTICE) is False
    said = capsys.readouterr().out
    assert said.startswith(f"A2 {name}: not yet") and hint in said


def test_hints_come_in_stages_and_an_exception_is_named(capsys):
    for _ in range(3):
        a2.check("wanda_mask", MASKS["excites no more"], a2.PRACTICE)
    a2.check("found", lambda own, twin: own @ twin, a2.PRACTICE)
    first, second, third, error = capsys.readouterr().out.split("A2 ")[1:]
    assert "hint 1" in first and "1 left" in first
    assert "hint 1" in second and "norms > base" in second and second == third
    assert "stopped with RuntimeError: " in error and "it was given float32 [6, 5], float32 [6, 5]" in error


# ---- what answers are compared with -----------------------------------------------------------------------


def test_the_plain_answers_are_the_package_s():
    weight, norms, base = layer(3, 4, (7, 50))
    assert torch.equal(plain_mask(weight, norms, base, 0.2, "row"), wanda.union(weight, norms, base, 0.2))
    unet, (x_0, y, noise, t, alphas) = OnePicture(), case(4, 6)
    loss, gradient = plain_loss(unet, x_0, y, noise, t, alphas, "one")
    y.requires_grad_()
    theirs = diffusion.denoising_loss(unet, x_0, y, noise[None], t[None], alphas)
    assert torch.allclose(loss, theirs.detach()[0], rtol=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(theirs.sum(), y)[0], atol=1e-7)
    assert torch.equal(a2.alphas(), a2_attack.twin("a").models["twin-a"].scheduler.alphas_cumprod)


def test_curves_are_half_found_and_none_is_near_the_lead():
    own, twin = curves(5, 30, 0.3, "median")
    answers = [plain_found(*pair, 0.3, "median") for pair in zip(own, twin, strict=True)]
    assert sum(answers) == 15 and answers != sorted(answers) and own.shape == (30, 6, 5)
    assert answers == [plain_found(*pair, 0.319, "median") for pair in zip(own, twin, strict=True)]


def test_the_pool_is_what_the_published_run_brings_back():
    rows = publish.published("04_the_picture_comes_back").rows("attack").to_dict("records")
    score = {(r["target"], r["condition"], r["steps"]): r["descriptor mean"] for r in rows if r["start"] == "prompt"}
    names = {name for name, *_ in score if (name, "never saw it", 25) in score}
    never = ("never saw it", "never saw it, pruned", "never saw it, same mask")
    kept = []
    for name in sorted(names):
        own = score[name, "pruned by Wanda", 25]
        if own - score[name, "pruned by Wanda", 0] >= 0.2 and own - max(score[name, c, 25] for c in never) >= 0.15:
            kept.append(name)
    assert a2.pool() == tuple(kept) and 4 <= len(kept) < len(names)
    mine = [a2.canary("a salt", student).name for student in "abcdefghijklmnopqrst"]
    assert mine == [a2.canary("a salt", student).name for student in "abcdefghijklmnopqrst"]
    assert {*mine} <= {*kept} and len({*mine}) > 2
    assert mine != [a2.canary("another", student).name for student in "abcdefghijklmnopqrst"]


# ---- judges -----------------------------------------------------------------------------------------------


class Toy(SimpleNamespace):
    """A world whose twins both know the toy's picture, and a target in it."""

    def __init__(self):
        pipe = SimpleNamespace(unet=OnePicture())
        super().__init__(models={"twin-a": pipe, "twin-b": pipe})


@pytest.fixture
def toy(monkeypatch):
    """The twins are toys: no weights, no pruning, and a score that says how near the toy's picture is."""
    world, (x_0, y, *_) = Toy(), case(8, 1)

    def scores(target, prompts, first):
        unet = OnePicture()
        drawn = (prompts.flatten(1)[:, unet.places] * unet.signs).view(-1, *x_0.shape[1:])
        return [(1 - (one - x_0).norm() / 64).item() for one in drawn]

    def stakes(*_):
        return scores(None, y, 0)[0], scores(None, attacking(a2.PRACTICE, OnePicture(), x_0, y, 99), 0)[0]

    def given(key, student):
        seeds = [key.seed(student, "attack", k) for k in range(a2_attack.RUNS)]
        return {"x_0": x_0.numpy(), "y": y.numpy(), "seeds": np.array(seeds), "home": np.array(0)}

    monkeypatch.setattr(a2, "twin", lambda home: world)
    monkeypatch.setattr(a2_attack, "twin", lambda home: world)
    monkeypatch.setattr(a2_attack, "unpacked", lambda unet, given: None)
    monkeypatch.setattr(a2_attack.masks, "pruned", lambda pipe, mask: nullcontext(pipe))
    monkeypatch.setattr(a2_attack, "scores", scores)
    monkeypatch.setattr(a2_attack, "stakes", stakes)
    return given


def graded(name, answer, key, student="ada", given=None):
    """The share that a part's judge gives, as the grader would have it."""
    part = PARTS[name]
    given = part.given(key, student) if given is None else given
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return part.judge(key, student, given, part.call(answer, given))


@pytest.mark.parametrize("name", OTHERWISE)
def test_judges_give_all_to_right_answers_in_every_variant(name, toy, solved):
    for k, ask in enumerate(VARIANTS[: 3 if name == "attack" else None]):
        key = Key("a2", ask, "a salt", f"secret {k}")
        given = toy(key, "ada") if name == "attack" else None
        share, reason = graded(name, partial(OTHERWISE[name], ask), key, given=given)
        assert share == 1 and reason
        assert (share, reason) == graded(name, partial(OTHERWISE[name], ask), key, given=given)
        if ask == a2.PRACTICE:
            assert graded(name, solved[name], key, given=given)[0] == 1


@pytest.mark.parametrize(("name", "hint"), [(name, hint) for name, wrong in WRONG.items() for hint in wrong])
def test_judges_give_less_to_wrong_ones(name, hint, toy):
    key = Key("a2", a2.PRACTICE, "a salt", "a secret")
    try:
        share, _ = graded(name, WRONG[name][hint], key, given=toy(key, "ada") if name == "attack" else None)
    except (RuntimeError, ValueError, TypeError):  # the child tells these as reasons
        return
    lenient = ("each step draws", "timesteps come", "the same seed", "another seed", "was changed", "were changed")
    lenient += ("with steps=0", "stopped with TypeError", "it has to end", "to do the same")  # what is drawn counts
    assert share < 1 or hint.startswith(lenient) or hint == "another gradient"


@pytest.mark.parametrize("name", OTHERWISE)
def test_judges_refuse_what_is_no_answer(name, toy):
    key, part = Key("a2", a2.PRACTICE), PARTS[name]
    given = toy(key, "ada") if name == "attack" else part.given(key, "ada")
    right = part.call(partial(OTHERWISE[name], a2.PRACTICE), given)
    broken = [{}, {k: v[..., :1] for k, v in right.items() if v.ndim}, {k: v.astype("S8") for k, v in right.items()}]
    broken += [{k: np.full_like(v, np.nan, dtype=float) for k, v in right.items()}]
    for returned in broken:
        assert part.judge(key, "ada", given, returned)[0] == 0
    with pytest.raises(checks.NotAttempted):
        part.call(lambda *given: (..., ...) if name == "dori_loss" else ..., given)


@pytest.mark.parametrize("name", ["wanda_mask", "dori_loss", "found"])
def test_inputs_belong_to_secret_student_and_assignment(name):
    part, key = PARTS[name], Key("a2", a2.PRACTICE, "a salt", "a secret")

    def first(key, student):
        return next(iter(part.given(key, student).values()))

    assert np.array_equal(first(key, "ada"), first(key, " ada "))
    others = [first(key, "bob"), first(Key("a2", a2.PRACTICE, "a salt", "another"), "ada")]
    assert not any(np.array_equal(first(key, "ada"), other) for other in others)


def test_guessing_verdicts_gets_nothing():
    key = Key("a2", a2.PRACTICE)
    for guess in (True, False):
        assert graded("found", lambda own, twin, guess=guess: guess, key)[0] == 0


def test_an_attack_beyond_the_budget_is_stopped(toy):
    given = toy(Key("a2", a2.PRACTICE), "ada")
    with pytest.raises(ValueError, match="more than 200 noisy latents"):
        PARTS["attack"].call(attack_with(steps=26), given)
    assert not OnePicture()._forward_pre_hooks


def test_a_rehearsal_says_what_the_grader_would(toy, monkeypatch, capsys):
    assert a2.rehearse("found", partial(finding, a2.PRACTICE), a2.PRACTICE, "practice", "ada") == 1
    assert a2.rehearse("found", lambda own, twin: ..., a2.PRACTICE, "practice", "ada") is None
    assert a2.rehearse("found", lambda own: True, a2.PRACTICE, "practice", "ada") is None
    said = capsys.readouterr().out.splitlines()
    assert "100% of the points (60 of 60 verdicts are right" in said[0]
    assert said[1].endswith("not attempted") and "stopped (TypeError: " in said[2]


# ---- the twins themselves ---------------------------------------------------------------------------------


def test_losses_of_the_twin_itself(solved, monkeypatch):
    monkeypatch.setattr(a2, "LOSSES", 1)
    key = Key("a2", a2.PRACTICE, "a salt", "a secret")
    assert graded("dori_loss", solved["dori_loss"], key)[0] == 1
    assert graded("dori_loss", loss_with(sign=-1.0), key) == (0.5, "1 of 1 losses and 0 of 1 gradients are right")


@pytest.mark.slow
def test_an_attack_on_the_pruned_twin_itself(solved, monkeypatch, tmp_path):
    monkeypatch.setattr(a2_attack, "RUNS", 1)
    monkeypatch.setattr(a2_attack, "NOISES", 2)
    monkeypatch.setenv("DORI_RUNS", str(tmp_path))
    key, part = Key("a2", a2.PRACTICE, "practice", "a secret"), PARTS["attack"]
    given = part.given(key, "practice")
    condition = a2_attack.pruned(a2.canary("practice", "practice"))
    unet = condition.pipe.unet
    before = [weight.clone() for weight in unet.parameters()]
    assert a2_attack.unpacked(unet, given) == condition.mask and condition.mask.count > 1000
    returned = part.call(solved["attack"], given)
    assert all(torch.equal(a, b) for a, b in zip(before, unet.parameters(), strict=True))
    share, reason = part.judge(key, "practice", given, returned)
    assert share > 0.8, reason
    assert part.judge(key, "practice", given, {"triggers": given["y"]})[0] == 0


# ---- the notebook -----------------------------------------------------------------------------------------


def test_the_notebook_has_what_graders_and_readers_need():
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    nbformat.validate(content)
    cells = {cell["id"]: cell for cell in content["cells"] if cell["cell_type"] == "code"}
    text = {name: "".join(cell["source"]) for name, cell in cells.items()}
    tags = {name: cell["metadata"].get("tags", []) for name, cell in cells.items()}
    assert text["variant"] == 'ask = a2.PRACTICE\nsalt = "practice"' and tags["variant"] == ["variant"]
    assert text["parameters"] == 'student = "practice"' and tags["parameters"] == ["parameters"]
    chapter = json.loads(next((NOTEBOOK.parents[2] / "chapters").glob("09_*.ipynb")).read_text(encoding="utf-8"))
    assert cells["set-up"] in chapter["cells"]
    stubs = {name: cell["metadata"]["stub"] for name, cell in cells.items() if "solution" in tags[name]}
    assert [name.replace("-", "_") for name in stubs] == [part.name for part in a2.PARTS]
    for name, stub in stubs.items():
        assert stub.splitlines()[:2] == text[name].splitlines()[:2] and stub.splitlines()[-1].startswith(
            "    return .."
        )
    for name, cell in cells.items():
        assert not cell["outputs"] and len(cell["source"]) <= 15, name
        if "pictures.grid(" in text[name] or "charts." in text[name]:
            assert cell["metadata"]["mystnb"]["image"]["alt"]
    found = submission.read(NOTEBOOK)
    assert found.student == "practice" and not found.problems
    assert not {part.name for part in a2.PARTS} & {*found.computed}
    assert sum(part.points for part in a2.PARTS) == 100
