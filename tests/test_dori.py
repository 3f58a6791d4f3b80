"""DoRI's attack: against a loop written out for one target, independence of the batch, every option, clear edges."""

import copy
import inspect
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from dori_lite import dori
from dori_lite.diffusion import generate, generator
from dori_lite.dori import Triggers, find_triggers, stored
from dori_lite.masks import of_neurons, pruned
from dori_lite.models import embed, fingerprint, value_layers
from dori_lite.runs import open_run

CAPTIONS = ["a red fish over sand", "a striped blue fish and one other fish", "a large fish at dusk"]
STREAMS = ["twin-a/3", 7, "b"]
QUICK = {"steps": 3, "batch": 2}


@pytest.fixture(scope="module")
def exact(pipe):
    pipe = copy.deepcopy(pipe)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.double()
    return pipe


@pytest.fixture(scope="module")
def uneven(pipe):
    """A pipeline whose prompt embeddings have neither mean 0 nor deviation 1, and not the same for all prompts."""
    pipe = copy.deepcopy(pipe)
    norm = next(m for name, m in pipe.text_encoder.named_modules() if name.endswith("final_layer_norm"))
    norm.weight.copy_(torch.linspace(0.5, 5, len(norm.weight)))
    norm.bias.copy_(torch.linspace(-1, 3, len(norm.bias)))
    return pipe


@pytest.fixture
def latents():
    """Latents of unequal size, so that one taken for another shows."""
    sizes = torch.tensor([0.5, 1.0, 2.0])[:, None, None, None]
    return sizes * torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(5))


@contextmanager
def watched(unet):
    """Collects (x_t, t, y) of every call of the U-Net."""
    seen = []
    hook = unet.register_forward_pre_hook(lambda _, args: seen.append([a.detach().clone() for a in args]))
    try:
        yield seen
    finally:
        hook.remove()


def close(a, b, tolerance=1e-8):
    assert a.shape == b.shape and a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


# ---- the naive version -------------------------------------------------------------------------------


def naive(pipe, x_0, start, stream, seed=0, steps=3, band=(0, 1000), positions=None, radius=None, resample=True):
    """The attack on one target x_0 [1, C, h, w] from start [1, L, D], Adam written out. (y after each step, losses)"""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    y, first, second, found, losses = start.clone(), 0.0, 0.0, [start], []
    for step in range(steps):
        random = generator(seed, str(stream), step if resample else 0)
        noise = torch.randn(8, *x_0.shape[1:], generator=random).double()
        t = torch.randint(*band, (8,), generator=random)
        leaf = y.clone().requires_grad_()
        x_t = scheduler.add_noise(x_0.expand(8, -1, -1, -1), noise, t)
        loss = torch.nn.functional.mse_loss(pipe.unet(x_t, t, leaf.expand(8, -1, -1)).sample, noise)
        loss.backward()
        gradient = leaf.grad
        if positions is not None:
            for token in range(y.shape[1]):
                if token not in positions:
                    gradient[:, token] = 0
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        y = y - 0.1 * mean / (square.sqrt() + 1e-8)
        if radius is not None and (length := (y - start).norm()) > radius:
            y = start + (y - start) * radius / length
        found.append(y)
        losses.append(loss.detach())
    return torch.cat(found), torch.stack(losses)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 3, "band": (990, 1000), "positions": [5, 0, 27]},
        {"radius": 3.0},  # a step moves y by about 2.1
        {"resample": False, "radius": 1.0, "positions": [1, 2]},
    ],
    ids=["plain", "band, positions", "radius", "all the same"],
)
def test_the_attack_is_the_naive_one(exact, latents, options):
    latents, steps, streams = latents[:2].double(), 3, STREAMS[:2]
    start = embed(exact, CAPTIONS[:2])
    found = find_triggers(
        exact, latents, prompts=CAPTIONS[:2], steps=steps, streams=streams, snapshots=range(steps + 1), **options
    )
    assert found.embeddings.shape == start.shape and found.losses.shape == (2, steps)
    assert found.embeddings.dtype == found.losses.dtype == torch.float64
    for k, stream in enumerate(streams):
        y, losses = naive(exact, latents[k : k + 1], start[k : k + 1], stream, steps=steps, **options)
        close(torch.stack([found.snapshots[step][k] for step in range(steps + 1)]), y)
        close(found.embeddings[k], y[-1])
        close(found.losses[k], losses)


def test_the_papers_settings_are_the_defaults(pipe, latents):
    with watched(pipe.unet) as seen:
        found = find_triggers(pipe, latents[:1], prompts=CAPTIONS[0], steps=2)  # 50 steps take long
    assert dori.STEPS == inspect.signature(find_triggers).parameters["steps"].default == 50
    assert [len(x) for x, _, _ in seen] == [8, 8] and dori.BATCH == 8 and dori.LR == 0.1
    with watched(pipe.unet) as seen:
        find_triggers(pipe, latents, prompts=CAPTIONS[0], steps=1)
    assert [len(x) for x, _, _ in seen] == [8, 8, 8]  # a target at a time, for a small GPU
    slow = find_triggers(pipe, latents[:1], prompts=CAPTIONS[0], steps=2, lr=0.01)
    torch.testing.assert_close(found.displacement / slow.displacement, torch.tensor([10.0]), rtol=0.1, atol=0)


# ---- the batch, seeds and streams --------------------------------------------------------------------


def test_a_target_is_its_streams_own_whatever_the_batch(pipe, exact, latents):
    for model, tolerance in ((exact, 1e-8), (pipe, 1e-3)):
        options = {**QUICK, "seed": 4}
        y = embed(model, CAPTIONS)
        whole = find_triggers(model, latents, y, streams=STREAMS, **options)
        for k in range(3):
            part = slice(k, k + 1)
            alone = find_triggers(model, latents[part], y[part], streams=STREAMS[part], **options)
            close(alone.embeddings, whole.embeddings[part], tolerance)
            close(alone.losses, whole.losses[part], tolerance)
        for samples in (1, 5):
            with watched(model.unet) as seen:
                other = find_triggers(model, latents, y, streams=STREAMS, samples=samples, **options)
            assert max(len(x) for x, _, _ in seen) == max(2, samples // 2 * 2)
            close(other.embeddings, whole.embeddings, tolerance)
            close(other.losses, whole.losses, tolerance)
        turned = find_triggers(model, latents.flip(0), y.flip(0), streams=STREAMS[::-1], **options)
        close(turned.embeddings.flip(0), whole.embeddings, tolerance)


def test_many_starts_of_one_target(exact, latents):
    """The same latent and start as often as one likes: only the streams part them."""
    same, y = latents[:1].double().expand(20, -1, -1, -1), embed(exact, CAPTIONS[0])
    found = find_triggers(exact, same, y, steps=2, batch=1)
    assert found.embeddings.shape == (20, *y.shape[1:]) and found.losses.shape == (20, 2)
    assert torch.pdist(found.embeddings.flatten(1)).min() > 0.1
    close(find_triggers(exact, same[:1], y, steps=2, batch=1, streams=[13]).embeddings[0], found.embeddings[13])
    twice = find_triggers(exact, same[:2], y, steps=2, batch=1, streams=["a", "a"]).embeddings
    close(twice[0], twice[1])


def test_seeds_and_streams_matter(pipe, latents):
    def losses(**options):
        return find_triggers(pipe, latents[:1], prompts=CAPTIONS[0], **QUICK, **options).losses

    plain = losses()
    assert torch.equal(losses(seed=0, streams=["0"]), plain)
    different = [plain, losses(seed=1), losses(streams=[1]), losses(seed=1, streams=[1]), losses(seed=11, streams=[""])]
    assert torch.pdist(torch.cat(different)).min() > 1e-3
    keys = [(0, "1", 2), (0, "2", 1), (1, "0", 2), (0, "12", 0), (1, "2", 0), (0, "1", "start"), (0, "", 12)]
    first = {torch.randint(2**60, (1,), generator=generator(*key)).item() for key in keys}
    assert len(first) == len(keys)


# ---- precision, and what must not change -------------------------------------------------------------


def test_a_half_precision_unet_is_attacked_in_fp32(pipe, latents):
    half = copy.deepcopy(pipe).to(torch.bfloat16)
    states = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: states.extend(optimizer.state.values()))
    found = find_triggers(half, latents, prompts=CAPTIONS, snapshots=[1], **QUICK)
    hook.remove()
    kept = [state[key] for state in states for key in ("exp_avg", "exp_avg_sq")]
    assert len(states) == 3  # one for each step
    for tensor in (found.embeddings, found.start, found.losses, found.displacement, found.snapshots[1], *kept):
        assert tensor.dtype == torch.float32
    full = find_triggers(pipe, latents, embed(half, CAPTIONS).float(), **QUICK)
    torch.testing.assert_close(found.losses, full.losses, rtol=0.02, atol=0)  # the same draws
    rounded = found.embeddings - found.embeddings.bfloat16()
    assert rounded.abs().max() > 1e-4  # y itself has more digits than the U-Net


def test_nothing_but_the_embedding_learns(pipe, latents):
    pipe = copy.deepcopy(pipe)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    for part in parts:
        part.requires_grad_(True)
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    y = embed(pipe, CAPTIONS)
    given, targets = y.clone(), latents.clone()
    scheduler, config = pipe.scheduler, dict(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(17)
    for prompts, start in ((given, None), (CAPTIONS, "prompt"), (given, "random"), (None, None)):
        found = find_triggers(pipe, targets, prompts, start=start, snapshots=[0, 3], **QUICK)
        for tensor in (found.embeddings, found.start, found.losses, *found.snapshots.values()):
            assert not tensor.requires_grad
        assert (found.displacement > 0.1).all()
    for part, state in zip(parts, before, strict=True):
        assert all(p.grad is None and p.requires_grad for p in part.parameters()) and not part.training
        assert part.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in part.state_dict().items())
    assert torch.equal(given, y) and torch.equal(targets, latents)
    assert pipe.scheduler is scheduler and dict(scheduler.config) == config and len(scheduler.timesteps) == 17


# ---- what is returned, and where it starts -----------------------------------------------------------


def test_losses_snapshots_start_and_displacement(pipe, latents):
    options = {"prompts": CAPTIONS, "batch": 2, "streams": STREAMS}
    found = find_triggers(pipe, latents, **options, steps=4, snapshots=[4, 0, 2])
    assert found.losses.shape == (3, 4) and set(found.snapshots) == {0, 2, 4}
    assert torch.equal(found.start, embed(pipe, CAPTIONS))
    assert torch.equal(found.snapshots[0], found.start) and torch.equal(found.snapshots[4], found.embeddings)
    shorter = find_triggers(pipe, latents, **options, steps=2)
    assert shorter.snapshots == {}
    assert torch.equal(shorter.embeddings, found.snapshots[2])
    assert torch.equal(shorter.losses, found.losses[:, :2])
    moved = [(a - b).square().sum().sqrt() for a, b in zip(found.embeddings, found.start, strict=True)]
    torch.testing.assert_close(found.displacement, torch.stack(moved))
    # Adam's first step moves every coordinate by the rate, whatever the gradient (up to ε).
    first = find_triggers(pipe, latents, **options, steps=1)
    assert (first.embeddings - first.start).abs().median().item() == pytest.approx(0.1, rel=1e-2)


def test_starts_from_prompts_and_embeddings(pipe, latents):
    def start(prompts, **options):
        found = find_triggers(pipe, latents, prompts, steps=1, batch=1, **options)
        assert found.embeddings.shape == found.start.shape
        return found.start

    y = embed(pipe, CAPTIONS)
    assert torch.equal(start(CAPTIONS), y) and torch.equal(start(CAPTIONS, start="prompt"), y)
    for one in (CAPTIONS[0], CAPTIONS[:1], y[0]):
        assert torch.equal(start(one), y[:1].expand(3, -1, -1))
    own = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(start(own), own)
    assert torch.equal(start(own[1:2]), own[1:2].expand(3, -1, -1))
    assert torch.equal(start(own.double()), own) and torch.equal(start(own, start="prompt"), own)


@pytest.mark.parametrize("given", [None, "captions", "embeddings"])
def test_random_starts(uneven, latents, given):
    """Exactly, from the draws of (seed, stream, "start"), and as they should be distributed."""
    many, y = latents[:1].expand(64, -1, -1, -1), embed(uneven, CAPTIONS[:2] if given else "")
    prompts = {None: None, "captions": CAPTIONS[:2], "embeddings": y}[given]
    options = {"prompts": prompts, "steps": 1, "batch": 1, "seed": 2}
    normal = find_triggers(uneven, many, start="normal", **options).start
    scaled = find_triggers(uneven, many, start="random", **options).start
    drawn = torch.stack([torch.randn(y.shape[1:], generator=generator(2, str(k), "start")) for k in range(64)])
    assert torch.equal(normal, drawn)
    torch.testing.assert_close(scaled, y.mean() + y.std() * drawn)
    assert y.mean() > 0.5 and y.std() > 2
    for found, mean, std in ((normal, 0.0, 1.0), (scaled, y.mean().item(), y.std().item())):
        error = std / found.numel() ** 0.5
        assert found.mean().item() == pytest.approx(mean, abs=4 * error)
        assert found.std().item() == pytest.approx(std, abs=4 * error)
        assert found.mean(0).std() < 2 * std / 8  # targets start apart, not from one draw
    alone = find_triggers(uneven, many[:1], start="random", **options, streams=["9"]).start
    assert torch.equal(alone, scaled[9:10])
    assert not torch.equal(find_triggers(uneven, many, start="normal", **options | {"seed": 3}).start, normal)


def test_a_picture_is_enough(uneven, latents):
    """Without prompts the start is random, on the scale of the empty caption's embedding; nothing else need be said."""
    found = find_triggers(uneven, latents, steps=3)
    assert inspect.signature(find_triggers).parameters["start"].default is None
    again = find_triggers(uneven, latents, None, start="random", steps=3)
    assert torch.equal(found.start, again.start) and torch.equal(found.embeddings, again.embeddings)
    assert found.start.shape == (3, 28, 16) and torch.pdist(found.start.flatten(1)).min() > 1
    silent = embed(uneven, "")
    assert found.start.mean().item() == pytest.approx(silent.mean().item(), abs=0.5)
    assert found.start.std().item() == pytest.approx(silent.std().item(), rel=0.1)
    assert (found.displacement > 0.1).all() and found.losses.shape == (3, 3)
    assert torch.isfinite(generate(uneven, found.on(uneven), steps=1)).all()


# ---- which model they are of, and keeping them ---------------------------------------------------------


@pytest.fixture(scope="module")
def another(pipe):
    pipe = copy.deepcopy(pipe)
    pipe.unet.conv_out.weight[0, 0, 0, 0] += 1
    return pipe


def test_triggers_are_of_the_model_that_was_attacked(pipe, another, latents, one_line):
    found = find_triggers(pipe, latents, CAPTIONS, snapshots=[1], **QUICK)
    assert found.model == fingerprint(pipe) != fingerprint(another)
    assert torch.equal(found.on(pipe), found.embeddings) and torch.equal(found.on(pipe, 1), found.snapshots[1])
    match = "^these triggers were found in another model than this one; if that is meant, say transfer=True$"
    for step in (None, 1):
        one_line(ValueError, match, found.on, another, step)
    assert torch.equal(found.on(another, transfer=True), found.embeddings)
    assert torch.equal(found.on(another, 1, transfer=True), found.snapshots[1])
    anyones = Triggers(found.embeddings, found.start, found.losses, {})
    assert torch.equal(anyones.on(another), found.embeddings)

    own = copy.deepcopy(pipe)
    mask = of_neurons(own.unet, {next(iter(value_layers(own.unet))): [0, 1]})
    with pruned(own, mask):
        one_line(ValueError, match, found.on, own)  # the pruned model is another one
        assert torch.equal(found.on(own, transfer=True), found.embeddings)
        inside = find_triggers(own, latents, CAPTIONS, **QUICK)
        assert torch.equal(inside.on(own), inside.embeddings)
    assert inside.model != found.model
    one_line(ValueError, match, inside.on, own)
    assert torch.equal(inside.on(own, transfer=True), inside.embeddings)


@pytest.fixture
def kept(pipe, latents):
    """An attack that was looked at after some of its steps, and what is kept of it."""
    found = find_triggers(pipe, latents, CAPTIONS, snapshots=[0, 1, 3], **QUICK)
    return found, found.tensors()


def same(one: Triggers, other: Triggers) -> bool:
    """Bit for bit, snapshots included."""
    parts = ("embeddings", "start", "losses", "displacement")
    pairs = [(getattr(one, part), getattr(other, part)) for part in parts]
    pairs += [(one.snapshots[step], other.snapshots[step]) for step in one.snapshots if step in other.snapshots]
    equal = all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    return equal and one.model == other.model and one.snapshots.keys() == other.snapshots.keys()


def test_triggers_are_kept_as_tensors(kept, tmp_path):
    found, _ = kept
    for known in (found, Triggers(found.embeddings, found.start, found.losses, {})):
        save_file({name: tensor.contiguous() for name, tensor in known.tensors().items()}, tmp_path / "kept")
        for tensors in (known.tensors(), load_file(tmp_path / "kept")):
            again = stored(tensors)
            assert type(again) is Triggers and same(again, known)


def test_what_a_run_kept_is_used_after_any_of_its_steps_and_in_its_model_alone(kept, pipe, another, tmp_path, one_line):
    found, tensors = kept
    run = open_run("c", "quick", 0, base=tmp_path)
    for _ in run.todo("attack", who=["marlow"]):
        run.keep({}, tensors=tensors)
    again = stored(run.tensors("attack", "marlow"))
    assert same(again, found) and [*sorted(again.snapshots)] == [0, 1, 3]
    assert torch.equal(again.on(pipe), found.embeddings)
    for step in (0, 1, 3):
        assert torch.equal(again.on(pipe, step), found.snapshots[step])
    assert torch.equal(again.on(pipe, 0), found.start) and torch.equal(again.on(pipe, 3), found.embeddings)
    assert not torch.equal(again.on(pipe, 1), found.embeddings)  # one snapshot is not another
    one_line(ValueError, "no snapshot was kept after step=2; there are: 0, 1, 3$", again.on, pipe, 2)
    for step in (None, 1):
        one_line(ValueError, "these triggers were found in another model", again.on, another, step)


def test_triggers_that_were_kept_without_snapshots_have_none(kept, pipe, one_line):
    tensors = {name: tensor for name, tensor in kept[1].items() if not name.startswith("after ")}
    assert set(tensors) == {"embeddings", "start", "losses", "model"} and stored(tensors).snapshots == {}
    one_line(ValueError, "no snapshot was kept after step=1; there are: none$", stored(tensors).on, pipe, 1)


# ---- the critics' constraints ------------------------------------------------------------------------


def test_only_the_named_positions_move(pipe, latents):
    free, every = [27, 0, 3], range(QUICK["steps"] + 1)
    options = {"prompts": CAPTIONS, "positions": free, "snapshots": every, **QUICK}
    for found in (find_triggers(pipe, latents, **options), find_triggers(pipe, latents, **options, radius=0.5)):
        fixed = [p for p in range(28) if p not in free]
        for step, y in found.snapshots.items():
            assert torch.equal(y[:, fixed], found.start[:, fixed])
            assert step == 0 or ((y - found.start)[:, free].norm(dim=2) > 0.01).all()


def test_a_subspace_is_searched_by_its_coordinates(exact, latents):
    """Adam written out on the coordinates in directions that are orthonormal and the same for all targets."""
    x_0, start, k = latents[:1].double(), embed(exact, CAPTIONS[:1]), 5
    options = {"prompts": start, "streams": STREAMS[:1], "subspace": k, "steps": 3, "seed": 4, "snapshots": range(4)}
    found = find_triggers(exact, x_0, **options)
    moves = torch.cat([found.snapshots[step] - start for step in (1, 2, 3)]).flatten(1)
    other = find_triggers(exact, latents[1:2].double(), **options | {"streams": ["another"]})
    everything = torch.cat([moves, (other.embeddings - start).flatten(1)])
    basis = dori.directions(start, k, None, 4)
    close(basis @ basis.T, torch.eye(k).double())
    assert torch.linalg.matrix_rank(moves) == 3
    close(everything @ basis.T @ basis, everything)  # nothing lies outside
    assert not torch.allclose(basis, dori.directions(start, k, None, 5))

    scheduler, z, first, second = DDIMScheduler.from_config(exact.scheduler.config), torch.zeros(k).double(), 0.0, 0.0
    for step in range(3):
        random = generator(4, str(STREAMS[0]), step)
        noise = torch.randn(8, *x_0.shape[1:], generator=random).double()
        t = torch.randint(0, 1000, (8,), generator=random)
        leaf = (start + (z @ basis).view_as(start)).requires_grad_()
        x_t = scheduler.add_noise(x_0.expand(8, -1, -1, -1), noise, t)
        torch.nn.functional.mse_loss(exact.unet(x_t, t, leaf.expand(8, -1, -1)).sample, noise).backward()
        gradient = basis @ leaf.grad.flatten()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        z = z - 0.1 * (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        close(found.snapshots[step + 1], start + (z @ basis).view_as(start), 1e-6)


def test_a_subspace_of_some_positions(pipe, latents):
    """Only these move, in no more directions, and with as many as there are it is the search in all of them."""
    options = {"prompts": CAPTIONS, "positions": [5, 20], "snapshots": [1, 2, 3], **QUICK}
    few = find_triggers(pipe, latents, **options, subspace=2)
    fixed = [p for p in range(28) if p not in (5, 20)]
    moves = torch.stack([few.snapshots[step] - few.start for step in (1, 2, 3)])
    assert not moves[:, :, fixed].any() and (moves[:, :, [5, 20]].flatten(3).norm(dim=3) > 0.01).all()
    assert torch.linalg.matrix_rank(moves.flatten(0, 1).flatten(1), atol=1e-4) == 2
    basis = dori.directions(few.start, 32, dori.free_positions(few.start, [5, 20]), 0)
    close(basis @ basis.T, torch.eye(32), 1e-5)
    close((moves.flatten(2) @ basis.T @ basis).view_as(moves), moves, 1e-4)


def test_one_embedding_is_sought_for_two_models(exact, latents):
    """The first step by hand: the slope is the mean of the model's and of the pruned model's."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    mask = of_neurons(exact.unet, {layer: range(8)})
    options = {"prompts": CAPTIONS[:1], "streams": STREAMS[:1], "batch": 2}
    x_0 = latents[:1].double()
    alone = find_triggers(exact, x_0, steps=1, **options)
    with pruned(exact, mask):
        cut = find_triggers(exact, x_0, steps=1, **options)
    both = find_triggers(exact, x_0, steps=1, **options, also=mask)
    close(both.losses, (alone.losses + cut.losses) / 2)
    assert not torch.allclose(alone.losses, cut.losses, rtol=1e-6)
    assert both.model == alone.model != cut.model  # and the model is as it was
    long = find_triggers(exact, x_0, steps=8, **options, also=mask, resample=False)
    assert long.losses[0, -1] < long.losses[0, 0]


def test_a_subspace_within_a_ball(pipe, latents):
    options = {"prompts": CAPTIONS, "subspace": 64, **QUICK}
    plain = find_triggers(pipe, latents, **options)
    assert (plain.displacement > 0.5).all()
    held = find_triggers(pipe, latents, **options, radius=0.3)
    torch.testing.assert_close(held.displacement, torch.full_like(held.displacement, 0.3), rtol=1e-4, atol=0)


def test_the_ball_holds_and_binds(pipe, latents):
    options = {"prompts": CAPTIONS, "snapshots": range(4), **QUICK}
    plain = find_triggers(pipe, latents, **options)
    radius = 1.5
    assert (plain.displacement > 1.5 * radius).all()
    found = find_triggers(pipe, latents, **options, radius=radius)
    for step, y in found.snapshots.items():
        norms = (y - found.start).flatten(1).norm(dim=1)
        assert (norms <= radius * (1 + 1e-5)).all() and (step == 0 or (norms > 0.99 * radius).all())
    between = plain.displacement.median().item()  # holds two of the targets back, at the last step alone
    some = find_triggers(pipe, latents, **options, radius=between)
    assert plain.displacement.max() > between + 1e-3 and plain.displacement.min() < between - 1e-3
    torch.testing.assert_close(some.displacement, plain.displacement.clamp(max=between), rtol=1e-4, atol=0)


def test_timesteps_stay_in_the_band(pipe, latents):
    def timesteps(n, band=None):
        with watched(pipe.unet) as seen:
            find_triggers(pipe, latents[:n], prompts=CAPTIONS[0], steps=2, batch=10, band=band)
        return torch.cat([t for _, t, _ in seen])

    assert set(timesteps(1, (3, 6)).tolist()) == {3, 4, 5}
    assert set(timesteps(1, (999, 1000)).tolist()) == {999} and set(timesteps(1, (0, 1)).tolist()) == {0}
    every = timesteps(3)
    assert every.shape == (60,) and 0 <= every.min() < 100 and 900 < every.max() < 1000
    assert every.float().mean().item() == pytest.approx(499.5, abs=4 * 1000 / (12 * 60) ** 0.5)


@pytest.mark.parametrize("resample", [True, False])
def test_noise_is_fresh_each_step_unless_told(pipe, latents, resample):
    with watched(pipe.unet) as seen:
        find_triggers(pipe, latents, prompts=CAPTIONS, resample=resample, **QUICK)
    for x, t, _ in seen[1:]:
        assert torch.equal(x, seen[0][0]) == torch.equal(t, seen[0][1]) == (not resample)
    assert not torch.equal(seen[1][2], seen[0][2])  # y moves all the same
    assert len({tuple(x.flatten().tolist()) for x in seen[0][0]}) == 6  # noises within a step all differ


def test_the_loss_falls(pipe, latents):
    losses = find_triggers(pipe, latents[:1], prompts=CAPTIONS[0], steps=30, batch=2, resample=False).losses
    assert (losses[:, -1] < losses[:, 0] - 0.03).all()
    assert (losses[:, 1:] < losses[:, :-1] + 1e-3).float().mean() > 0.9


# ---- errors ------------------------------------------------------------------------------------------


def test_errors_are_one_clear_line(pipe, latents, one_line):
    y = embed(pipe, CAPTIONS)

    def wrong(match, *args, **options):
        args = args or (latents,)
        one_line(ValueError, match, find_triggers, pipe, *args, **({"prompts": CAPTIONS, "steps": 1} | options))

    wrong(r"latents have shape \[3, 4, 16, 8\]; this model takes \[B, 4, 16, 16\]", latents[..., :8])
    wrong(r"latents have shape \[4, 16, 16\]", latents[0])
    for bad in (torch.nan, torch.inf):
        wrong("latent 0 holds NaN or infinite", latents.index_fill(2, torch.tensor(3), bad))
        wrong("latent 1 holds NaN or infinite", latents.index_fill(0, torch.tensor(1), bad))
        bad = y.index_fill(2, torch.tensor(3), bad)
        for start in ("prompt", "random", "normal"):
            wrong("embedding 0 holds NaN or infinite", prompts=bad, start=start)
    wrong("embedding 2 holds NaN", prompts=y.index_fill(0, torch.tensor(2), torch.nan))
    huge = y.double() * torch.tensor([1, 1, 1e300], dtype=torch.float64).view(3, 1, 1)
    wrong("starting embedding 2 holds NaN or inf", prompts=huge)  # finite until it is fp32
    wrong("there are no targets; give the latents of at least one", latents[:0])
    wrong("2 prompts for 3 targets; give one for each, or one for all", prompts=CAPTIONS[:2])
    wrong("3 prompts for 2 targets", latents[:2])
    wrong("caption 1 is empty", prompts=[CAPTIONS[0], "", ""])
    wrong("there are no prompts", prompts=[])
    wrong("start='prompt' needs prompts", prompts=None, start="prompt")
    wrong("start is 'prompt', 'random', 'normal'; got 'zeros'", start="zeros")
    wrong("2 starting embeddings for 3 targets", prompts=y[:2])
    wrong(r"embeddings have shape \[3, 28, 15\]; this model takes \[B, 28, 16\]", prompts=y[..., :15])
    wrong(r"embeddings have shape \[3, 27, 16\]", prompts=y[:, 1:])
    for streams in ([1, 2], [1, 2, 3, 4], []):
        wrong(f"{len(streams)} streams for 3 targets; give one for each", streams=streams)
    for positions in ([28], [0, -1], [True], [1.0], ["1"]):
        wrong("a position=.* is not a count that fits; give a whole number from 0 to 27", positions=positions)
    wrong("there are no positions; give at least one from 0 to 27, or None for all", positions=[])
    wrong("positions=3 must be a list of tokens", positions=3)
    for k in (0, -1, 28 * 16 + 1, 2.5, True, "all"):
        wrong("subspace=.* is not a count that fits; give a whole number from 1 to 448", subspace=k)
    wrong("subspace=33 is not a count that fits; give a whole number from 1 to 32", subspace=33, positions=[1, 4])
    for name in ("radius", "lr"):
        for value in (0, -0.1):
            wrong(f"{name} must be above 0; got {name}={value}", **{name: value})
        for value in (torch.nan, torch.inf, "0.1", True):
            wrong(f"{name}={value!r} does not fit; give a finite number", **{name: value})
    wrong("lr=None does not fit", lr=None)
    for band in ((5, 5), (6, 5), (-1, 5), (0, 1001), (1000, 1001), (torch.nan, 5), (0, 5.5)):
        wrong("band's (low|high) end=.* is not a count that fits; give a whole number from", band=band)
    for band in (5, (1, 2, 3), torch.nan):
        wrong(r"band=.* must be two whole numbers \(low, high\)", band=band)
    for name in ("steps", "batch", "samples"):
        for value in (0, -1, 1.5, True, torch.nan):
            wrong(f"{name}={value!r} is not a count that fits; give a whole number from 1 on", **{name: value})
    for seed in (-1, 2**64, 1.5, True, torch.nan, "1"):
        wrong("seed=.* is not a count that fits; give a whole number from 0", seed=seed)
    for after in (2, -1, 0.5):
        wrong(f"a snapshot={after} is not a count that fits; .* from 0 to 1", snapshots=[1, after])


def test_what_is_not_finite_is_said(pipe, latents, one_line):
    broken = copy.deepcopy(pipe)
    broken.unet.conv_out.weight[0, 0] = torch.nan
    match = "the attack's loss is not finite in step {}, for target {}; use a lower lr, or a U-Net in fp32$"
    with watched(broken.unet) as seen:
        one_line(FloatingPointError, match.format(0, 0), find_triggers, broken, latents, prompts=CAPTIONS, **QUICK)
    assert len(seen) == 1  # at once
    y = embed(pipe, CAPTIONS)
    y[1] *= 1e37  # finite, but not what the U-Net makes of it
    options = QUICK | {"streams": STREAMS}
    one_line(FloatingPointError, match.format(0, 7), find_triggers, pipe, latents, y, **options)
    one_line(FloatingPointError, match.format(1, 7), poisoned, pipe, latents, options)


def poisoned(pipe, latents, options):
    """An attack whose second target becomes NaN by its second step."""

    def spoil(optimizer, *_):
        steps.append(1)
        if len(steps) == 2:
            optimizer.param_groups[0]["params"][0].data[1, 3, 2] = torch.nan

    steps = []
    hook = register_optimizer_step_post_hook(spoil)
    try:
        find_triggers(pipe, latents, CAPTIONS, **options)
    finally:
        hook.remove()


@pytest.mark.parametrize("options", [{"lr": 1e-9}, {"radius": 1e-9}], ids=["lr", "radius"])
def test_an_attack_that_moves_nothing_says_so(pipe, latents, options):
    with pytest.warns(
        UserWarning, match="^the attack moved the embedding of target .* by .*: raise lr or radius"
    ) as said:
        find_triggers(pipe, latents, CAPTIONS, **QUICK, streams=STREAMS, **options)
    assert len(said) == 1 and "\n" not in str(said[0].message) and said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_triggers(pipe, latents, CAPTIONS, lr=1e-4, positions=[3], steps=1, batch=1)  # little, but it moves


def test_numpys_numbers_are_numbers(pipe, latents):
    options = {"steps": 2, "batch": 2, "seed": 3, "snapshots": [1], "band": (0, 500), "lr": 0.25, "positions": [4]}
    found = find_triggers(pipe, latents, CAPTIONS, **options)
    same = {"lr": np.float64(0.25), "positions": np.array([4]), "band": np.array([0, 500]), "snapshots": np.array([1])}
    again = find_triggers(pipe, latents, CAPTIONS, **{**options, **same}, samples=np.int64(8))
    assert torch.equal(again.embeddings, found.embeddings)
    whole = find_triggers(
        pipe, latents, CAPTIONS, **options | {k: np.int64(options[k]) for k in ("steps", "batch", "seed")}
    )
    assert torch.equal(whole.embeddings, found.embeddings) and torch.equal(whole.losses, found.losses)


def test_snapshots_and_tensors_that_are_not_there(pipe, latents, one_line):
    found = find_triggers(pipe, latents, CAPTIONS, **QUICK, snapshots=[1, 0])
    one_line(ValueError, "no snapshot was kept after step=2; there are: 0, 1$", found.on, pipe, 2)
    tensors = found.tensors()
    tensors.pop("start")
    one_line(ValueError, "these tensors are no triggers: start is missing", stored, tensors)


def test_given_embeddings_are_taken_as_they_are(pipe, latents):
    """Neither rounded to the U-Net's precision, nor refused for their graph or the caller's grad mode."""
    half = copy.deepcopy(pipe).to(torch.bfloat16)
    own = torch.randn(len(latents), *embed(pipe, "").shape[1:], generator=torch.Generator().manual_seed(5))
    assert torch.equal(find_triggers(half, latents, own, **QUICK).start, own)
    with torch.no_grad():
        found = find_triggers(pipe, latents, own.requires_grad_(), snapshots=iter([1]), **QUICK)
    assert not found.embeddings.requires_grad and list(found.snapshots) == [1]
    assert not torch.equal(found.embeddings, own)
