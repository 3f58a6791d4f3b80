"""Wanda: against the specification written out in loops over calls, halves, tokens, rows and sorted scores."""

import copy

import pytest
import torch
from diffusers import PNDMScheduler

from dori_lite import wanda
from dori_lite.diffusion import trajectory
from dori_lite.masks import WeightMask
from dori_lite.models import ddim_scheduler, embed, fingerprint
from dori_lite.wanda import activation_norms, layers, localise

CAPTIONS = ["a red fish over sand", "a striped blue fish and one other fish"]
OPTIONS = {"calls": 3, "steps": 4, "seed": 5, "guidance": 7.5}
SEVEN = [f"down_blocks.{k}.attentions.{i}" for k in range(3) for i in range(2)] + ["mid_block.attentions.0"]
RHOS = (0.05, 0.12, 0.3)  # 3.2, 7.7 and 19.2 weights of a row of 64


@pytest.fixture(scope="module")
def exact(pipe):
    """The shared pipeline in float64, made to heed the timestep: with one channel a group it would not."""
    pipe = copy.deepcopy(pipe)
    for module in pipe.unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = 2
    pipe.unet.double(), pipe.text_encoder.double()
    return pipe


@torch.no_grad()
def naive_norms(pipe, captions, halves=(0, 1), guidance=7.5):
    """{layer: [call, feature]} by one U-Net call a caption and half, watching what leaves the GEGLU."""
    gates = {n.replace("net.0", "net.2"): m for n, m in pipe.unet.named_modules() if n.endswith("ff.net.0")}
    norms, seen, hooks = {name: torch.zeros(3, 64).double() for name in sorted(gates)}, {}, []
    for name, gate in gates.items():
        hooks.append(gate.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out[0]})))
    for caption in captions:
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        scheduler = ddim_scheduler(pipe.scheduler.config)
        scheduler.set_timesteps(4)
        for call, t in enumerate(scheduler.timesteps[:3]):
            noises = []
            for half, text in enumerate(("", caption)):
                noises.append(pipe.unet(x, t, embed(pipe, text)).sample)
                for name in norms if half in halves else ():
                    for token in seen[name]:
                        token = token / token.square().sum().sqrt()
                        norms[name][call] = (norms[name][call] ** 2 + token**2).sqrt()
            x = scheduler.step(noises[0] + guidance * (noises[1] - noises[0]), t, x).prev_sample
    for hook in hooks:
        hook.remove()
    return norms


def naive_mask(pipe, target, base, rho, calls=range(3), compare=True):
    masks = {name: torch.zeros(16, 64, dtype=torch.bool) for name in target}
    for name, mask in masks.items():
        for call in calls:
            sizes = pipe.unet.get_submodule(name).weight.abs()
            scores, base_scores = ((sizes * norms[name][call]).tolist() for norms in (target, base))
            for i, row in enumerate(scores):
                for j in sorted(range(64), key=row.__getitem__, reverse=True)[: int(rho * 64)]:
                    mask[i, j] |= row[j] > base_scores[i][j] or not compare
    return WeightMask(masks)


@pytest.fixture(scope="module")
def naive(exact):
    return naive_norms(exact, CAPTIONS), naive_norms(exact, ["", ""])


def close(a, b):
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-10, atol=1e-12)


def test_norms_are_the_specification(exact, naive):
    target, base = naive
    for batch in (1, 2, 32):
        close(activation_norms(exact, CAPTIONS, batch=batch, **OPTIONS), target)
    close(activation_norms(exact, embed(exact, ["", ""]), **OPTIONS), base)
    unguided = naive_norms(exact, CAPTIONS[:1], guidance=1.0)
    for guidance in (1.0, 0.0):  # both halves are still looked at
        close(activation_norms(exact, CAPTIONS[:1], **OPTIONS | {"guidance": guidance}), unguided)
    for name, norms in target.items():
        assert (norms[0] - norms[1]).abs().max() > 1e-6, name  # calls differ: a mix-up would show
    names = list(target)[3:1:-1]
    close(activation_norms(exact, CAPTIONS, names=iter(names), **OPTIONS), {name: target[name] for name in names})


def test_masks_are_the_specification(exact, naive):
    found = localise(exact, CAPTIONS, RHOS, **OPTIONS)
    conditional = [naive_norms(exact, captions, halves=[1]) for captions in (CAPTIONS, ["", ""])]
    assert list(found) == list(RHOS)
    for rho, mask in found.items():
        assert mask == naive_mask(exact, *naive, rho) and list(mask.layers) == sorted(naive[0])
        assert min(mask.densities().values()) > 0
        # Each part of the specification matters here: leaving it out would show.
        assert naive_mask(exact, *conditional, rho) != mask != naive_mask(exact, *naive, rho, compare=False)
        assert all(naive_mask(exact, *naive, rho, calls=[call]) != mask for call in range(3))


def test_options_of_localise(exact, naive):
    found = {rho: naive_mask(exact, *naive, rho) for rho in (0.12, 0.3)}
    assert localise(exact, CAPTIONS, (0.3,), **OPTIONS) == {0.3: found[0.3]}
    assert localise(exact, CAPTIONS[::-1], 0.12, batch=1, **OPTIONS) == found[0.12]
    assert localise(exact, embed(exact, CAPTIONS), rho=0.12, **OPTIONS) == found[0.12]
    one, other = (localise(exact, caption, 0.12, **OPTIONS) for caption in CAPTIONS)
    assert found[0.12] not in (one, other, one | other, one & other)  # jointly is something else
    assert localise(exact, embed(exact, CAPTIONS[0])[0], rho=0.12, **OPTIONS) == one
    seven = localise(exact, CAPTIONS, 0.12, which="seven", **OPTIONS).layers
    assert list(seven) == list(layers(exact.unet, "seven")) == [f"{p}.transformer_blocks.0.ff.net.2" for p in SEVEN]
    assert all(torch.equal(where, found[0.12].layers[name]) for name, where in seven.items())
    base = naive_norms(exact, ["a large fish at dusk"])
    against = localise(exact, CAPTIONS, 0.12, base=base, **OPTIONS)
    twice = {name: norms * 2**0.5 for name, norms in base.items()}  # for two prompts, as if sampled twice
    assert naive_mask(exact, naive[0], base, 0.12) != against == naive_mask(exact, naive[0], twice, 0.12) != found[0.12]
    assert localise(exact, CAPTIONS[0], 0.12, base=base, **OPTIONS) == naive_mask(
        exact, naive_norms(exact, CAPTIONS[:1]), base, 0.12
    )
    everything = localise(exact, CAPTIONS, 1.0, **OPTIONS)
    assert everything == everything | found[0.3] and everything.density < 1
    assert localise(exact, CAPTIONS, 0.015, **OPTIONS).count == 0  # 0.96 weights of a row, rounded down


def test_one_empty_caption_serves_for_any_number_of_prompts(exact):
    """The norms of one are enough: those of B are √B times as large, so that base may be kept and used again."""
    captions = [*CAPTIONS, "a large fish at dusk"]
    base = activation_norms(exact, "", **OPTIONS)
    for count in (1, 2, 3):
        many = activation_norms(exact, embed(exact, [""] * count), **OPTIONS)
        close({name: norms * count**0.5 for name, norms in base.items()}, many)
        target = naive_norms(exact, captions[:count])
        expected = naive_mask(exact, target, naive_norms(exact, [""] * count), 0.12)
        given = {name: norms.clone() for name, norms in base.items()}
        assert localise(exact, captions[:count], 0.12, base=given, **OPTIONS) == expected
        assert localise(exact, captions[:count], 0.12, **OPTIONS) == expected  # as when it is computed there
        assert all(torch.equal(given[name], norms) for name, norms in base.items())
        if count > 1:  # forgetting the scale would show, and so would another one
            for scale in (1, count):
                wrong = {name: norms * scale for name, norms in base.items()}
                assert naive_mask(exact, target, wrong, 0.12) != expected


def test_the_base_is_sampled_once(exact):
    asked = []
    hook = exact.unet.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    base = activation_norms(exact, "", **OPTIONS)
    try:
        asked.clear()
        localise(exact, CAPTIONS, 0.12, **OPTIONS)
        assert asked == [4] * 3 + [2] * 3  # both halves of two captions, then of one
        asked.clear()
        localise(exact, CAPTIONS, 0.12, base=base, **OPTIONS)
        assert asked == [4] * 3
    finally:
        hook.remove()


def test_masks_know_their_model_and_share(exact):
    for rho, mask in localise(exact, CAPTIONS, (0.05, 0.3), **OPTIONS).items():
        assert mask.model == fingerprint(exact) and mask.about == {"rho": rho}
    assert localise(exact, CAPTIONS[0], 0.05, **OPTIONS).about == {"rho": 0.05}


def test_defaults_are_the_codes(pipe):
    default, stated = {}, {"calls": 10, "seed": 0, "guidance": 7.5, "steps": 50}
    for options in ({}, *({key: 1 + value} for key, value in stated.items())):
        found = activation_norms(pipe, CAPTIONS[0], **stated | options)
        default = default or activation_norms(pipe, CAPTIONS[0])
        assert all(torch.equal(found[n], default[n]) for n in found) == (not options), options


def test_rows_of_halves_are_scaled_in_single_precision(exact):
    """Every row has length 1, so that the squares of a layer's norms sum to its number of rows."""
    coarse = copy.deepcopy(exact)
    coarse.unet.bfloat16(), coarse.text_encoder.bfloat16()
    norms = activation_norms(coarse, CAPTIONS, calls=1, steps=1)
    for place, tokens in ((SEVEN[0], 256), (SEVEN[-1], 4)):
        found = norms[f"{place}.transformer_blocks.0.ff.net.2"]
        assert found.dtype == torch.float32 and found.square().sum().item() == pytest.approx(4 * tokens, rel=1e-5)
    mask = localise(coarse, CAPTIONS, 0.12, calls=1, steps=1)
    assert mask.count > 0 and not any(where.sum(1).max() > 7 for where in mask.layers.values())


def test_the_pipeline_is_left_alone_and_a_row_of_zeros_stays_zero(exact):
    dead, name = copy.deepcopy(exact), "mid_block.attentions.0.transformer_blocks.0.ff.net"
    for weight in dead.unet.get_submodule(f"{name}.0").parameters():
        weight.zero_()
    dead.scheduler.set_timesteps(17)
    before = copy.deepcopy(dead.unet.state_dict())
    assert torch.equal(activation_norms(dead, CAPTIONS, **OPTIONS)[f"{name}.2"], torch.zeros(3, 64).double())
    assert not localise(dead, CAPTIONS, 0.3, **OPTIONS).layers[f"{name}.2"].any()
    assert all(torch.equal(weight, before[key]) for key, weight in dead.unet.state_dict().items())
    assert len(dead.scheduler.timesteps) == 17 and not any(module._forward_hooks for module in dead.unet.modules())


def test_errors_are_one_clear_line(pipe, one_line):
    def wrong(match, function, *args, **options):
        one_line(ValueError, match, function, pipe, *args, **options)

    for rho in (0, 0.0, (0.1, 0.0)):
        wrong("ρ=0 prunes nothing; give the share of each row to prune", localise, CAPTIONS, rho)
    for rho in (-0.1, 1.01, 10, float("nan"), float("inf"), "0.1", None, True, [0.1], (0.1, 2)):
        wrong("ρ=.* does not fit; give a finite number, at least 0, at most 1", localise, CAPTIONS, rho)
    wrong("there is no ρ; give one number, or a tuple", localise, CAPTIONS, ())
    few = activation_norms(pipe, "", calls=1, steps=2)
    wrong(
        r"base has no norms \[2, 64\] of .*; compute it with the same", localise, CAPTIONS, base=few, calls=2, steps=2
    )
    wrong("base has no norms", localise, CAPTIONS, base={}, calls=1, steps=2)
    wrong("layers are 'sixteen' or 'seven'; got 'eight'", localise, CAPTIONS, 0.1, which="eight")
    wrong("caption 0 is empty", localise, "")
    wrong("caption 1 is empty", activation_norms, [CAPTIONS[0], ""])
    for function in (localise, activation_norms):
        wrong("caption 1 is empty", function, [CAPTIONS[0], " "])
        wrong("there are no prompts", function, [])
        wrong(r"embeddings have shape \[1, 28, 15\]", function, embed(pipe, "")[..., 1:])
        wrong("calls=51 is not a count that fits; give a whole number from 1 to 50", function, CAPTIONS, calls=51)
        wrong("seed=-1 is not a count that fits", function, CAPTIONS, seed=-1)
        for calls, steps in ((0, 25), (26, 25), (5, 4), (1.5, 4), (True, 4)):
            match = f"calls={calls} is not a count that fits; give a whole number from 1 to {steps}"
            wrong(match, function, CAPTIONS, calls=calls, steps=steps)


# ---- the reference's sampler -----------------------------------------------------------------------------------


@torch.no_grad()
def test_pndm_is_diffusers_own(exact):
    """The trajectory under the reference's scheduler is that of the pipeline with it: the same latents."""
    scheduler = wanda.pndm(exact, 6, "cpu")
    assert len(scheduler.timesteps) == 7 and scheduler.timesteps[1] == scheduler.timesteps[2]  # asked twice
    theirs = copy.copy(exact)
    theirs.scheduler = PNDMScheduler.from_config(exact.scheduler.config, skip_prk_steps=True)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = embed(exact, CAPTIONS)
    options = {"prompt_embeds": y, "negative_prompt_embeds": embed(exact, "").expand_as(y), "guidance_scale": 7.0}
    wanted = theirs(latents=x, num_inference_steps=6, output_type="latent", **options).images
    *_, last = trajectory(exact, x, y, guidance=7.0, steps=6, scheduler=scheduler)
    torch.testing.assert_close(last.after, wanted, rtol=1e-9, atol=1e-9)


def test_norms_under_pndm_are_those_of_its_calls(exact):
    """The second and third call are at one timestep; the first is DDIM's first."""
    ours = activation_norms(exact, CAPTIONS, **OPTIONS, sampler="pndm")
    ddim = activation_norms(exact, CAPTIONS, **OPTIONS)
    for name in ours:
        torch.testing.assert_close(ours[name][0], ddim[name][0], rtol=1e-10, atol=1e-12)
        assert not torch.allclose(ours[name][2], ddim[name][2], rtol=1e-4)
    one, other = (localise(exact, CAPTIONS[0], 0.3, **OPTIONS, sampler=sampler) for sampler in ("pndm", "ddim"))
    assert one != other and (one & other).count > 0.5 * (one | other).count


def test_another_sampler_is_refused(exact, one_line):
    match = "sampler is 'ddim' or 'pndm', the reference's; got 'plms'"
    one_line(ValueError, match, activation_norms, exact, "a fish", sampler="plms")
