"""Unlearning: the loss is the one that is written down, each side takes its turn, and a stopped loop goes on."""

import copy
import logging
import os

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from dori_lite.diffusion import alphas_cumprod
from dori_lite.dori import find_triggers
from dori_lite.evaluation import Target
from dori_lite.models import embed, encode, fingerprint, latent_shape
from dori_lite.unlearning import kept, methods, savings
from dori_lite.unlearning.loop import Forget, batches, forgetting

CAPTIONS = ["a red fish", "two blue fish over sand", "a green fish over rock"]


@pytest.fixture
def model(pipe):
    return copy.deepcopy(pipe)


@pytest.fixture
def sides(pipe):
    """Retained pairs, surrogates of two targets, and the state that holds what these come with."""
    random = torch.Generator().manual_seed(0)
    shape, y = latent_shape(pipe), embed(pipe, CAPTIONS)
    retained = torch.randn(3, *shape, generator=random), y
    return retained, torch.randn(2, 4, *shape, generator=random), {"y": torch.stack([y[:2], y[1:]])}


def trained(pipe, sides, folder, steps=3, stop=None):
    """The weights after some steps, and the losses by step."""
    retained, wrong, state = sides
    losses, options = {}, {"steps": steps, "lr": 1e-3, "folder": folder, "batch": (2, 2)}
    for step, found in forgetting(pipe, retained, wrong, state, **options):
        losses[step] = found
        if step == stop:
            break
        state["y"].add_(0.1 * (step + 1))
    return torch.cat([p.detach().flatten() for p in pipe.unet.parameters()]), losses


def test_the_loss_is_that_of_a_loop_over_samples_in_float64(model, sides):
    retained, wrong, state = sides
    model.to(dtype=torch.float64)
    as_double = [(retained[0].double(), retained[1].double()), wrong.double(), {"y": state["y"].double()}]
    batch = batches(*as_double, batch=(4, 3), seed=1)(5)
    found = Forget(model)(**batch)
    alphas, sums = alphas_cumprod(model), {True: [], False: []}
    with torch.no_grad():
        for k, which in enumerate(batch["wrong"].tolist()):
            kept = alphas[batch["timesteps"][k]].double()
            x_t = kept.sqrt() * batch["latents"][k] + (1 - kept).sqrt() * batch["noise"][k]
            guess = model.unet(x_t[None], batch["timesteps"][k], batch["embeddings"][k][None]).sample[0]
            sums[which].append(((guess - batch["noise"][k]) ** 2).mean())
    retained, wrong = (torch.stack(sums[which]).mean() for which in (False, True))
    assert torch.allclose(found["retained"], retained, rtol=1e-9) and torch.allclose(found["wrong"], wrong, rtol=1e-9)
    assert torch.allclose(found["loss"], retained + wrong, rtol=1e-9)


def test_targets_take_turns_and_come_with_their_own_embeddings(sides):
    retained, wrong, state = sides
    draws, seen = batches(retained, wrong, state, batch=(3, 3), seed=0), []
    for step in range(4):
        batch = draws(step)
        assert batch["wrong"].tolist() == [False] * 3 + [True] * 3
        for x, y in zip(batch["latents"][3:], batch["embeddings"][3:], strict=True):
            [[target, _]] = (wrong == x).all((2, 3, 4)).nonzero().tolist()
            assert any(torch.equal(y, each) for each in state["y"][target])
            seen.append(target)
        for x, y in zip(batch["latents"][:3], batch["embeddings"][:3], strict=True):
            [[k]] = (retained[0] == x).all((1, 2, 3)).nonzero().tolist()
            assert torch.equal(y, retained[1][k])
    assert seen == [0, 1] * 6
    assert len({draws(step)["latents"][:3].sum().item() for step in range(6)}) > 3  # each step draws anew
    state["y"].zero_()  # what the loop's body does counts from the next batch on
    assert not draws(1)["embeddings"][3:].any()
    again = batches(retained, wrong, state, batch=(3, 3), seed=0)(2)
    assert torch.equal(again["noise"], draws(2)["noise"]) and not torch.equal(again["noise"], draws(3)["noise"])
    other = batches(retained, wrong, state, batch=(3, 3), seed=1)(2)
    assert not torch.equal(other["noise"], again["noise"])


def test_one_side_may_be_missing(model, sides, tmp_path):
    retained, wrong, state = sides
    _, losses = trained(model, (retained, None, {"y": torch.zeros(1)}), tmp_path / "kept", steps=1)
    assert losses[0].keys() == {"loss", "retained"}
    _, losses = trained(model, (None, wrong, state), tmp_path / "wrong", steps=1)
    assert losses[0].keys() == {"loss", "wrong"}


def test_a_stopped_loop_goes_on_to_the_same_weights(pipe, sides, tmp_path):
    def fresh():
        return copy.deepcopy(pipe), (*sides[:2], {"y": sides[2]["y"].clone()})

    whole, losses = trained(*fresh(), tmp_path / "whole")
    _, first = trained(*fresh(), tmp_path / "parts", stop=1)
    again, last = trained(*fresh(), tmp_path / "parts")
    assert torch.equal(whole, again) and {**first, **last} == losses and sorted(last) == [1, 2]
    assert not torch.equal(whole, torch.cat([p.flatten() for p in pipe.unet.parameters()]))


def test_all_weights_are_trained_and_left_as_frozen_as_they_were(model, sides, tmp_path):
    before = [p.clone() for p in model.unet.parameters()]
    trained(model, sides, tmp_path, steps=2)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.unet.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert not any(p.requires_grad for p in model.unet.parameters())


def test_what_does_not_fit_is_one_line(model, sides, tmp_path, one_line):
    (latents, y), wrong, state = sides

    def run(retained, wrong, state, pipe=model, **options):
        next(forgetting(pipe, retained, wrong, state, **({"steps": 1, "lr": 1e-3, "folder": tmp_path} | options)))

    for match, *given in (
        ("nothing to retain and nothing to answer", None, None, state),
        ("2 embeddings for 3 retained pictures", (latents, y[:2]), None, state),
        ("there are no prompts; give at least one", (latents[:0], y[:0]), None, state),
        ("latents have shape", (latents[:, :1], y), None, state),
        ("embedding 1 holds NaN", (latents, y.index_fill(0, torch.tensor([1]), torch.nan)), None, state),
        ("surrogates have shape", None, wrong[0], state),
        ("surrogates have shape", None, wrong[:0], state),
        ("latent 0 holds NaN", None, wrong * torch.nan, state),
        (r'state\["y"\] has shape \[\]', None, wrong, {}),
        (r'state\["y"\] has shape .* give embeddings \[2', None, wrong, {"y": state["y"][:1]}),
        ("embedding 0 holds NaN", None, wrong, {"y": state["y"] * torch.nan}),
    ):
        one_line(ValueError, match, run, *given)
    one_line(ValueError, "batch", run, None, wrong, state, batch=(8, 0))
    one_line(ValueError, "batch=.* is not two counts", run, None, wrong, state, batch=[8])
    model.unet.half()
    one_line(ValueError, "U-Net is float16; train it in fp32", run, None, wrong, state)
    assert not list(tmp_path.iterdir())


# ---- methods -----------------------------------------------------------------------------------------


@pytest.fixture
def targets(pipe):
    random = torch.Generator().manual_seed(3)
    size = 4 * latent_shape(pipe)[-1]
    return [Target(f"name {k}", CAPTIONS[k], torch.rand(3, size, size, generator=random)) for k in range(2)]


@pytest.fixture
def short(monkeypatch):
    """Rounds of two updates and short attacks."""
    monkeypatch.setattr(methods, "UPDATES", 2)
    monkeypatch.setattr(methods, "ATTACK", {"steps": 2, "lr": 0.1, "batch": 2})


def test_starts_are_of_three_kinds_and_stay_as_long_as_a_trigger_grows(pipe, sides, targets):
    (_, others), own = sides[0], embed(pipe, CAPTIONS[:2])
    rounds = [methods.starts(pipe, targets, others, number, None, 0) for number in range(8)]
    assert rounds[0].shape == (2, methods.SLOTS, *own.shape[1:])
    kinds = []
    for slot in range(methods.SLOTS):
        changed = [k for k in range(1, 8) if not torch.equal(rounds[k][:, slot], rounds[k - 1][:, slot])]
        assert changed and all((k + slot) % methods.SLOTS == 0 for k in changed)
        kinds += [kind_of(rounds[k][:, slot], own, others) for k in (0, *changed)]
    assert {*kinds} == {"caption", "random", "another"}
    y = torch.cat([some[:, slot] for some in rounds for slot in range(methods.SLOTS)])
    drawn = torch.stack([each for each in y if kind_of(each[None], own[:1], others) == "random"])
    assert abs(drawn.mean() - own.mean()) < 0.1 * own.std() and 0.9 < drawn.std() / own.std() < 1.1
    again = methods.starts(pipe, targets, others, 3, None, 1)
    assert not torch.equal(again, rounds[3])


def kind_of(y, own, others):
    if any(torch.equal(y[0], each) for each in own):
        return "caption"
    return "another" if any(torch.equal(y[0], each) for each in others) else "random"


def test_triggers_grow_for_some_rounds_and_begin_anew(pipe, sides, targets, short):
    others = sides[0][1] + 1  # so that none is a target's caption
    first = methods.grown(pipe, targets, others, 0, None, 0)
    second = methods.grown(pipe, targets, others, 1, first, 0)
    begun = methods.starts(pipe, targets, others, 1, None, 0)
    latents = encode(pipe, torch.stack([t.image for t in targets]))
    for slot in range(methods.SLOTS):
        y = begun if (1 + slot) % methods.SLOTS == 0 else first
        names = [f"{t.name} 1 {slot}" for t in targets]
        by_hand = find_triggers(pipe, latents, y[:, slot], seed=0, streams=names, **methods.ATTACK)
        assert torch.allclose(second[:, slot], by_hand.embeddings, atol=1e-5)
    y = methods.adversarial(pipe, targets, others, 1, second, 0)
    assert torch.equal(y[:, 1:], second) and torch.equal(y[:, 0], embed(pipe, CAPTIONS[:2]))


def test_random_moves_go_as_far_and_elsewhere(pipe, sides, targets):
    others = sides[0][1]
    y = methods.starts(pipe, targets, others, 2, None, 0)
    triggers = (
        y + torch.randn(y.shape, generator=torch.Generator().manual_seed(5)) * torch.rand(y.shape[:-1])[..., None]
    )
    moved = methods.moves(pipe, targets, others, 2, triggers, 0)
    assert torch.equal(moved[:, 0], embed(pipe, CAPTIONS[:2]))
    there, aside = triggers - y, moved[:, 1:] - y
    assert torch.allclose(there.norm(dim=-1), aside.norm(dim=-1), rtol=1e-4)
    cosine = torch.cosine_similarity(there.flatten(2), aside.flatten(2), dim=-1)
    assert cosine.abs().max() < 0.3
    slot = next(k for k in range(methods.SLOTS) if (3 + k) % methods.SLOTS)  # one that round 3 does not begin anew
    later = methods.moves(pipe, targets, others, 3, triggers, 0)[:, 1 + slot] - y[:, slot]
    assert torch.allclose(later, aside[:, slot], atol=1e-5)  # it goes on where it went
    slot = next(k for k in range(methods.SLOTS) if not (3 + k) % methods.SLOTS)
    fresh = methods.starts(pipe, targets, others, 3, None, 0)[:, slot]
    later = methods.moves(pipe, targets, others, 3, triggers, 0)[:, 1 + slot] - fresh
    assert torch.cosine_similarity(later.flatten(1), aside[:, slot].flatten(1), dim=-1).abs().max() < 0.3


def test_all_methods_cost_what_the_adversarial_one_does(targets):
    budget = methods.cost("adversarial", 4, 10 * methods.UPDATES)
    attack = methods.ATTACK["steps"] * methods.ATTACK["batch"]
    assert budget == 10 * (methods.UPDATES * 32 + 4 * methods.SLOTS * attack)
    for method, how in methods.METHODS.items():
        count = methods.updates(method, 4, 10)
        assert 0 <= budget * how.share - methods.cost(method, 4, count) < methods.cost(method, 4, 1)
    assert methods.updates("nothing retained", 4, 100) == 0.4 * methods.updates("caption", 4, 100)
    small = methods.cost("adversarial", 4, 20 * methods.UPDATES, (1, 1))  # a smaller batch, and the same attack
    assert methods.updates("caption", 4, 20, (1, 1)) == small // 2 and small == 500 * 2 + 20 * 800
    assert methods.cost("caption", 4, 7) == 7 * 32 and methods.cost("continued", 4, 7) == 7 * 24


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_copy_is_trained_in_fp32_or_wider_and_made_without_a_warning(pipe, dtype, caplog):
    """diffusers warns of `.to(dtype)`, and a warning is noise on a page."""
    unet = copy.deepcopy(pipe.unet)
    torch.nn.Module.to(unet, dtype)
    old = StableDiffusionPipeline(**pipe.components | {"unet": unet}, requires_safety_checker=False)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        new = methods.copied(old)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records and new.unet is not unet and unet.dtype == dtype
    assert new.unet.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("method", methods.METHODS)
def test_each_method_makes_a_new_model_and_leaves_the_old_one(
    pipe, sides, targets, method, short, monkeypatch, tmp_path
):
    retained, wrong, _ = sides
    seen, inner = [], methods.forgetting

    def watched(new, kept, answers, state, **options):
        monkeypatch.setattr(methods, "updates", lambda *_: 4)
        for step, losses in inner(new, kept, answers, state, **options):
            seen.append((kept, answers, {k: v.clone() for k, v in state.items()}))
            yield step, losses

    monkeypatch.setattr(methods, "updates", lambda *_: 4)
    monkeypatch.setattr(methods, "forgetting", watched)
    before = [p.clone() for p in pipe.unet.parameters()]
    new = methods.unlearn(pipe, targets, method, retained, wrong, folder=tmp_path, lr=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, pipe.unet.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, new.unet.parameters(), strict=True))
    assert new.vae is pipe.vae and new.unet is not pipe.unet
    kept, answers, state = seen[0]
    assert (kept is None) == (method == "nothing retained") and (answers is None) == (method == "continued")
    assert state.keys() == {
        "continued": set(),
        "adversarial": {"y", "triggers"},
        "random moves": {"y", "triggers"},
    }.get(method, {"y"})
    if method != "continued":
        length = 1 if method in ("caption", "nothing retained") else methods.SLOTS + 1
        assert torch.equal(state["y"][:, 0], embed(pipe, CAPTIONS[:2]))
        assert state["y"].shape[:2] == (2, length)
        same = torch.equal(seen[1][2]["y"], seen[3][2]["y"])  # a new round began between them
        assert same == (method in ("caption", "nothing retained"))
        assert torch.equal(seen[0][2]["y"], seen[1][2]["y"])
    if method == "adversarial":
        assert torch.equal(state["y"][:, 1:], state["triggers"])


def test_a_stopped_method_goes_on_to_the_same_weights(pipe, sides, targets, short, monkeypatch, tmp_path):
    retained, wrong, _ = sides

    def run(folder):
        new = methods.unlearn(pipe, targets, "adversarial", retained, wrong, folder=folder, rounds=2, lr=1e-3)
        return torch.cat([p.flatten() for p in new.unet.parameters()])

    whole, inner = run(tmp_path / "whole"), methods.grown
    for stop in (0, 1):  # in the attack before the first update, and in the one between the rounds

        def grown(*given, stop=stop):
            if given[3] == stop:
                raise KeyboardInterrupt
            return inner(*given)

        monkeypatch.setattr(methods, "grown", grown)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / str(stop))
        monkeypatch.setattr(methods, "grown", inner)
        assert torch.equal(run(tmp_path / str(stop)), whole)


def test_a_method_there_is_none_of_and_another_models_checkpoint(pipe, sides, targets, short, one_line, tmp_path):
    retained, wrong, _ = sides
    run = methods.unlearn
    one_line(
        ValueError,
        "no method 'magic'; there are: adversarial",
        run,
        pipe,
        targets,
        "magic",
        retained,
        wrong,
        folder=tmp_path,
    )
    one_line(ValueError, "target", run, pipe, [], "caption", retained, wrong, folder=tmp_path)
    run(pipe, targets, "adversarial", retained, wrong, folder=tmp_path, rounds=1)
    other = copy.deepcopy(pipe)
    other.unet.conv_in.weight.data += 1
    for model, which in (other, targets), (pipe, targets[::-1]):
        one_line(
            ValueError,
            "was made with other settings",
            run,
            model,
            which,
            "adversarial",
            retained,
            wrong,
            folder=tmp_path,
            rounds=1,
        )


def test_surrogates_that_are_none_are_one_line(pipe, sides, targets, one_line, tmp_path):
    retained, wrong, _ = sides

    def run(surrogates, method="caption"):
        methods.unlearn(pipe, targets, method, retained, surrogates, folder=tmp_path)

    itself = wrong.clone()
    itself[1, 2] = encode(pipe, targets[1].image[None])[0]
    one_line(ValueError, "a surrogate of name 1 is the picture itself", run, itself)
    one_line(ValueError, r"surrogates have shape \[1, 4, .* give latents \[2, n", run, wrong[:1])
    one_line(ValueError, "surrogates have shape", run, None)
    one_line(ValueError, "latent 3 holds NaN", run, wrong.index_fill(1, torch.tensor([3]), torch.nan))
    assert not list(tmp_path.iterdir())


# ---- what is kept ------------------------------------------------------------------------------------


def test_what_is_kept_is_read_again_in_fp16(model, pipe, tmp_path):
    model.unet.conv_in.weight.data += 0.1
    about = kept.save(model, tmp_path / "unet.safetensors", base=pipe, method="mine", numbers=[1, 2])
    new, known = kept.load(tmp_path / "unet.safetensors", base=pipe)
    assert known == about and known["method"] == "mine" and known["numbers"] == [1, 2]
    for a, b in zip(model.unet.parameters(), new.unet.parameters(), strict=True):
        assert torch.equal(a.half().float(), b) and not b.requires_grad
    assert fingerprint(pipe) == known["base"] != fingerprint(new) and new.vae is pipe.vae


def test_what_cannot_be_trusted_is_not_loaded(model, pipe, tmp_path, one_line):
    path = tmp_path / "unet.safetensors"
    one_line(FileNotFoundError, "there is no unlearned U-Net .* `dori-lite unlearn`", kept.load, path, base=pipe)
    path.write_bytes(b"something else")
    one_line(ValueError, "is no unlearned U-Net", kept.load, path, base=pipe)
    save_file({"a": torch.zeros(1)}, path)
    one_line(ValueError, "is no unlearned U-Net", kept.load, path, base=pipe)
    kept.save(model, path, base=pipe)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    one_line(ValueError, "is damaged", kept.load, path, base=pipe)
    path.write_bytes(whole[: len(whole) // 2])
    one_line(ValueError, "is no unlearned U-Net", kept.load, path, base=pipe)
    path.write_bytes(whole)
    model.unet.conv_in.weight.data += 1
    one_line(ValueError, "was made from another model", kept.load, path, base=model)


def test_what_is_not_finite_is_not_kept(model, pipe, tmp_path, one_line):
    model.unet.conv_in.weight.data += 1e5  # finite in fp32, not in fp16
    one_line(ValueError, "conv_in.weight of the U-Net is not finite", kept.save, model, tmp_path / "a", base=pipe)
    model.unet.conv_in = torch.nn.Conv2d(4, 2, 3)
    one_line(ValueError, "has other weights", kept.save, model, tmp_path / "a", base=pipe)
    assert not list(tmp_path.iterdir())


# ---- savings -----------------------------------------------------------------------------------------


def test_exposures_are_counted_until_the_score_crosses(pipe, sides, targets):
    before, asked = fingerprint(pipe), []

    def score(model):
        asked.append(fingerprint(model))
        return 0.2 * len(asked)

    found = savings.exposures_until(pipe, targets[0], sides[0], score, level=0.5, every=2, most=20)
    assert found["updates"] == [0, 2, 4] and found["scores"] == pytest.approx([0.2, 0.4, 0.6])
    assert found["needed"] == pytest.approx(3 * savings.BATCH)
    assert asked[0] == before == fingerprint(pipe) and len({*asked}) == 3  # a copy was trained

    already = savings.exposures_until(pipe, targets[0], sides[0], lambda model: 0.7)
    assert already == {"updates": [0], "scores": [0.7], "needed": 0, "most": savings.MOST * savings.BATCH}
    never = savings.exposures_until(pipe, targets[0], sides[0], lambda model: 0.1, every=1, most=2)
    assert never["updates"] == [0, 1, 2] and never["needed"] != never["needed"]


def test_it_is_the_picture_that_is_learned_again(pipe, sides, targets, monkeypatch):
    seen = []

    def forgetting(model, retained, wrong, state, **options):
        seen.append((retained, wrong, state["y"], options["batch"]))
        yield from ()

    monkeypatch.setattr(savings, "forgetting", forgetting)
    savings.exposures_until(pipe, targets[1], sides[0], lambda model: 0)
    [(retained, picture, y, batch)] = seen
    assert retained is sides[0] and batch == (savings.BATCH,) * 2
    assert torch.equal(picture[0], encode(pipe, targets[1].image[None])) and picture.ndim == 5
    assert torch.equal(y[0], embed(pipe, targets[1].caption))


def test_one_of_several_processes_that_share_a_run_trains_by_itself(pipe, targets, sides, monkeypatch):
    """The chapter's processes look like those of `accelerate launch`, and must not wait for each other in a unit."""
    from accelerate.state import AcceleratorState

    def score(model):
        assert os.environ["RANK"] == "1"  # others are hidden while the training begins, not while the body runs
        return 0.1

    monkeypatch.setenv("RANK", "1"), monkeypatch.setenv("WORLD_SIZE", "2")
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a process that has trained nothing yet
    found = savings.exposures_until(pipe, targets[0], sides[0], score, every=1, most=2)
    assert found["updates"] == [0, 1, 2] and os.environ["WORLD_SIZE"] == "2"
