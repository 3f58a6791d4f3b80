"""Diffusion: DDIM written out, diffusers' own numbers, one picture a seed whatever the batch, and clear errors."""

import copy
import inspect
from contextlib import contextmanager
from itertools import islice

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from dori_lite import diffusion, nemo, wanda
from dori_lite.detection import magnitude, noise_differences, token_attribution
from dori_lite.diffusion import Step, alphas_cumprod, generate, initial_noise, noised, timed_scheduler, trajectory
from dori_lite.dori import find_triggers
from dori_lite.models import ddim_scheduler, embed, encode, latent_shape

CAPTIONS = ["a red fish over sand", "a striped blue fish and one other fish", "a large fish at dusk"]
SEEDS, STEPS = [11, 5, 2**40], 6


def by_diffusers(pipe, guidance, output_type, **conditions):
    """The same pictures by `StableDiffusionPipeline.__call__`, one generator a seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    options = {"num_inference_steps": STEPS, "guidance_scale": guidance, "output_type": output_type}
    return pipe(generator=generators, **conditions, **options).images


@contextmanager
def watched(unet):
    """Collects what every call of the U-Net is given."""
    seen = []
    hook = unet.register_forward_pre_hook(lambda _, args: seen.append(args))
    try:
        yield seen
    finally:
        hook.remove()


def close(a, b, tolerance=1e-4):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert (a - b).abs().max() <= tolerance


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_generate_is_diffusers(pipe, guidance):
    options = {"seeds": SEEDS, "guidance": guidance, "steps": STEPS}
    latents = generate(pipe, CAPTIONS, **options, output="latents")
    close(latents, by_diffusers(pipe, guidance, "latent", prompt=CAPTIONS))
    images = generate(pipe, CAPTIONS, **options)
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.01
    close(images, by_diffusers(pipe, guidance, "pt", prompt=CAPTIONS))
    arrays = torch.from_numpy(by_diffusers(pipe, guidance, "np", prompt=CAPTIONS))
    close(images, arrays.permute(0, 3, 1, 2))

    random = torch.Generator().manual_seed(1)
    y = torch.randn(3, *embed(pipe, "").shape[1:], generator=random)  # no caption has these
    latents = generate(pipe, y, **options, output="latents")
    silent = embed(pipe, "").expand_as(y) if guidance > 1 else None
    close(latents, by_diffusers(pipe, guidance, "latent", prompt_embeds=y, negative_prompt_embeds=silent))


def test_the_defaults_are_diffusers_own(pipe):
    theirs = inspect.signature(StableDiffusionPipeline.__call__).parameters
    ours = {name: p.default for name, p in inspect.signature(generate).parameters.items()}
    assert (ours["guidance"], ours["steps"], ours["batch"]) == (7.5, 50, 8)
    assert (theirs["guidance_scale"].default, theirs["num_inference_steps"].default) == (7.5, 50)
    options = {"output": "latents", "seeds": 3}
    stated = generate(pipe, CAPTIONS[0], guidance=7.5, steps=50, **options)
    assert torch.equal(generate(pipe, CAPTIONS[0], **options), stated)
    y, x = embed(pipe, CAPTIONS[0]), initial_noise(pipe, [3])
    assert torch.equal(list(trajectory(pipe, x, y))[-1].after, stated)
    with watched(pipe.unet) as seen:
        generate(pipe, CAPTIONS[0], seeds=range(9), guidance=1.0, steps=1)
    assert [len(x) for x, *_ in seen] == [8, 1]


# ---- the trajectory -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact(pipe):
    pipe = copy.deepcopy(pipe)
    pipe.unet.double(), pipe.text_encoder.double()
    return pipe


@torch.no_grad()
def by_hand(pipe, x, y, guidance):
    """DDIM (η = 0) from its formula, both predictions by calls of their own: a (t, x, without, given, after) a step."""
    kept = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    found, stride, silent = [], 1000 // STEPS, embed(pipe, "").expand_as(y)
    for t in [stride * k + 1 for k in reversed(range(STEPS))]:
        without, given = pipe.unet(x, t, silent).sample, pipe.unet(x, t, y).sample
        noise = given if guidance <= 1 else (1 - guidance) * without + guidance * given
        x_0 = (x - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()
        before = kept[max(t - stride, 0)]
        after = before.sqrt() * x_0 + (1 - before).sqrt() * noise
        found.append((t, x, without, given, after))
        x = after
    return found


@pytest.mark.parametrize("guidance", [0.0, 1.0, 5.0])
def test_the_trajectory_is_ddim_written_out(exact, guidance):
    y, x = embed(exact, CAPTIONS), initial_noise(exact, SEEDS, torch.float64)
    before, empty = x.clone(), embed(exact, "")
    steps = list(trajectory(exact, x, y, guidance=guidance, steps=STEPS, empty=empty))
    assert len(steps) == STEPS and torch.equal(x, before) and torch.equal(steps[0].x, x)
    for step, expected in zip(steps, by_hand(exact, x, y, guidance), strict=True):
        assert isinstance(step, Step) and int(step.t) == expected[0]
        for found, wanted in zip(step[1:], expected[1:], strict=True):
            assert found.dtype == torch.float64 and not found.requires_grad
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(step.after, later.x) for step, later in zip(steps, steps[1:], strict=False))
    assert (steps[-1].given - steps[-1].without).abs().max() > 0.01  # to mix them up would show


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_generate_is_built_on_the_trajectory(pipe, guidance, monkeypatch):
    y, x = embed(pipe, CAPTIONS), initial_noise(pipe, SEEDS)
    options = {"guidance": guidance, "steps": STEPS}
    *_, last = trajectory(pipe, x, y, **options)
    assert torch.equal(generate(pipe, CAPTIONS, seeds=SEEDS, **options, output="latents"), last.after)

    asked = []

    def planted(pipe, x, y, **options):
        asked.append((x, y, options))
        for k in range(3):
            yield Step(torch.tensor(k), x, None, x, x + k)

    monkeypatch.setattr(diffusion, "trajectory", planted)
    found = generate(pipe, CAPTIONS, seeds=SEEDS, **options, output="latents", batch=2)
    assert torch.equal(found, x + 2)  # the last step's `after`, of each part
    assert torch.equal(torch.cat([a[0] for a in asked]), x) and torch.equal(torch.cat([a[1] for a in asked]), y)
    for *_, given in asked:
        empty = given.pop("empty")
        assert given == options | {"begin": 0} and (
            empty is None if guidance <= 1 else torch.equal(empty, embed(pipe, ""))
        )


def test_a_trajectory_that_is_stopped_costs_nothing_more(pipe):
    y, x = embed(pipe, CAPTIONS), initial_noise(pipe, SEEDS)
    for options in ({"guidance": 1.0}, {"guidance": 5.0}, {"guidance": 1.0, "empty": embed(pipe, "")}):
        with watched(pipe.unet) as seen:
            sampled = trajectory(pipe, x, y, steps=STEPS, **options)
            assert not seen  # nor does one that is not begun
            first, second = islice(sampled, 2)
            assert len(seen) == 2 and torch.equal(second.x, first.after)
            sampled.close()
        assert len(seen) == 2


def test_without_guidance_the_unet_is_asked_once_a_step(pipe):
    y, x, empty = embed(pipe, CAPTIONS), initial_noise(pipe, SEEDS), embed(pipe, "")
    for guidance in (1.0, 0.0):
        options = {"guidance": guidance, "steps": STEPS}
        with watched(pipe.unet) as seen:
            plain = list(trajectory(pipe, x, y, **options))
        assert [len(given) for given, *_ in seen] == [3] * STEPS
        assert all(torch.equal(text, y) for *_, text in seen) and all(step.without is None for step in plain)
        with watched(pipe.unet) as seen:
            asked = list(trajectory(pipe, x, y, **options, empty=empty))
        assert [len(given) for given, *_ in seen] == [6] * STEPS  # both halves in one call
        for one, other in zip(plain, asked, strict=True):
            close(other.after, one.after)  # looked at, but not heeded
            with torch.no_grad():
                close(other.without, pipe.unet(other.x, other.t, empty.expand_as(y)).sample)
            assert (other.without - other.given).abs().max() > 0.01
    with watched(pipe.unet) as seen:
        guided = list(trajectory(pipe, x, y, guidance=5.0, steps=STEPS))
    assert [len(given) for given, *_ in seen] == [6] * STEPS and guided[0].without is not None


def test_between_steps_gradients_are_the_callers(pipe):
    y, x = embed(pipe, CAPTIONS[:1]).requires_grad_(), initial_noise(pipe, [1])
    for step in trajectory(pipe, x, y, guidance=5.0, steps=2):
        assert torch.is_grad_enabled() and not step.after.requires_grad and not step.given.requires_grad


def test_noised_is_the_schedulers_noise(pipe):
    random = torch.Generator().manual_seed(6)
    x_0, noise = (torch.randn(2, n, 4, 16, 16, generator=random) for n in (1, 3))
    t = torch.tensor([[0, 500, 999], [3, 3, 40]])
    found = noised(x_0, noise, t, alphas_cumprod(pipe))
    for k in range(2):
        close(found[k], pipe.scheduler.add_noise(x_0[k].expand(3, -1, -1, -1), noise[k], t[k]), 1e-6)


# ---- generate -------------------------------------------------------------------------------------------


def test_captions_seeds_and_guidance_matter(pipe):
    """Without this the comparisons would not notice that one of them is forgotten."""

    def sample(**changed):
        options = {"prompts": CAPTIONS[0], "seeds": 1, "guidance": 5.0, "steps": STEPS, "output": "latents"}
        return generate(pipe, **(options | changed))

    plain = sample()
    for changed in ({"prompts": CAPTIONS[1]}, {"seeds": 2}, {"guidance": 1.0}, {"guidance": 2.0}, {"steps": STEPS + 1}):
        assert (sample(**changed) - plain).abs().max() > 0.05, changed


def test_guidance_up_to_one_is_none(pipe):
    options = {"seeds": 1, "steps": 3, "output": "latents"}
    plain = generate(pipe, CAPTIONS[0], guidance=1.0, **options)
    assert torch.equal(generate(pipe, CAPTIONS[0], guidance=0.0, **options), plain)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_sample_is_its_seeds_own_whatever_the_batch(pipe, guidance):
    options = {"guidance": guidance, "steps": STEPS, "output": "latents"}
    captions, seeds = CAPTIONS + CAPTIONS[:2], [*SEEDS, 7, 8]
    together = generate(pipe, captions, seeds=seeds, **options)
    alone = [generate(pipe, caption, seeds=seed, **options) for caption, seed in zip(captions, seeds, strict=True)]
    close(torch.cat(alone), together)
    close(generate(pipe, captions[::-1], seeds=seeds[::-1], **options).flip(0), together)
    close(generate(pipe, captions, seeds=seeds, batch=2, **options), together)  # 2 + 2 + 1
    images = generate(pipe, captions, seeds=seeds, guidance=guidance, steps=STEPS, batch=2)
    close(images, generate(pipe, captions, seeds=seeds, guidance=guidance, steps=STEPS))
    assert images.shape == (5, 3, 64, 64)


def test_one_of_either_goes_with_all_of_the_other(pipe):
    options = {"steps": 2, "output": "latents"}
    full = generate(pipe, [CAPTIONS[0]] * 3, seeds=SEEDS, **options)
    for prompts in (CAPTIONS[0], [CAPTIONS[0]]):
        close(generate(pipe, prompts, seeds=SEEDS, **options), full)
    y = embed(pipe, CAPTIONS[0])
    close(generate(pipe, y, seeds=SEEDS, **options), full)
    close(generate(pipe, y[0], seeds=SEEDS, **options), full)  # [L, D]
    close(generate(pipe, CAPTIONS[0], seeds=(seed for seed in SEEDS), **options), full)

    full = generate(pipe, CAPTIONS, seeds=[9] * 3, **options)
    for seeds in (9, [9]):
        close(generate(pipe, CAPTIONS, seeds=seeds, **options), full)
    close(generate(pipe, CAPTIONS, latents=initial_noise(pipe, [9]), **options), full)
    close(generate(pipe, embed(pipe, CAPTIONS), seeds=9, **options), full)
    assert generate(pipe, CAPTIONS[0], **options).shape == (1, 4, 16, 16)


def test_latents_replace_the_seeds(pipe):
    noise = initial_noise(pipe, SEEDS)
    for x, seed in zip(noise, SEEDS, strict=True):
        assert torch.equal(x, torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)))
    before = noise.clone()
    options = {"steps": 3, "output": "latents"}
    given = generate(pipe, CAPTIONS, latents=noise, seeds=[1, 2], **options)  # seeds play no part
    close(given, generate(pipe, CAPTIONS, seeds=SEEDS, **options))
    assert torch.equal(noise, before)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_latent_with_noise_is_completed_as_diffusers_does(pipe, guidance):
    x_0 = torch.randn(3, *latent_shape(pipe), generator=torch.Generator().manual_seed(2))
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.scheduler = ddim_scheduler(pipe.scheduler.config)
    other.set_progress_bar_config(disable=True)
    options = {"strength": 0.5, "num_inference_steps": STEPS, "guidance_scale": guidance, "output_type": "latent"}
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    expected = other(CAPTIONS, image=x_0, generator=generators, **options).images
    t = timed_scheduler(pipe, STEPS, "cpu").timesteps[3]
    x_t = noised(x_0, initial_noise(pipe, SEEDS), t.expand(3), alphas_cumprod(pipe))
    found = generate(pipe, CAPTIONS, latents=x_t, begin=3, guidance=guidance, steps=STEPS, output="latents", batch=2)
    close(found, expected)
    assert len(list(trajectory(pipe, x_t, embed(pipe, CAPTIONS), steps=STEPS, begin=5))) == 1


def test_to_begin_later_needs_a_latent_of_that_timestep(pipe, one_line):
    one_line(ValueError, "after 3 steps there is no seed's noise any more", generate, pipe, CAPTIONS, steps=6, begin=3)
    for begin in (6, -1, 1.5):
        x = initial_noise(pipe, SEEDS)
        one_line(ValueError, "begin", generate, pipe, CAPTIONS, latents=x, steps=6, begin=begin)


def test_the_pipeline_is_left_alone(pipe):
    scheduler, config = pipe.scheduler, dict(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(17)
    generate(pipe, CAPTIONS[0], steps=2)
    assert pipe.scheduler is scheduler and dict(scheduler.config) == config and len(scheduler.timesteps) == 17
    images = generate(pipe, CAPTIONS[0], steps=2)
    assert not images.requires_grad and images.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:The configuration file:FutureWarning")
@pytest.mark.parametrize("kind", [PNDMScheduler, DDIMScheduler])
def test_ddim_whatever_scheduler_the_pipeline_has(pipe, kind):
    config = {key: value for key, value in pipe.scheduler.config.items() if key != "clip_sample"}
    parts = {key: part for key, part in pipe.components.items() if key != "scheduler"}
    # Its scheduler says nothing of clipping, which is DDIM's default.
    other = StableDiffusionPipeline(**parts, scheduler=kind.from_config(config), requires_safety_checker=False)
    options = {"seeds": 1, "steps": STEPS, "output": "latents"}
    close(generate(other, CAPTIONS[0], **options), generate(pipe, CAPTIONS[0], **options))


def test_errors_are_one_clear_line(pipe, one_line):
    y, x = embed(pipe, CAPTIONS), initial_noise(pipe, SEEDS)

    def wrong(match, *args, **options):
        one_line(ValueError, match, generate, pipe, *args, **({"steps": 1} | options))

    wrong("caption 0 is empty; to sample without one", "")
    wrong("caption 1 is empty", [CAPTIONS[0], "  "])
    wrong("caption 1 is a NoneType, not text", [CAPTIONS[0], None])
    wrong("3 prompts and 2 seeds do not pair up", CAPTIONS, seeds=[1, 2])
    wrong("2 prompts and 3 seeds do not pair up", CAPTIONS[:2], latents=x)
    wrong("3 prompts and 2 seeds do not pair up", y, seeds=[1, 2])
    wrong(r"latents have shape \[3, 4, 16, 8\]; this model takes \[B, 4, 16, 16\]", CAPTIONS, latents=x[..., :8])
    wrong(r"latents have shape \[4, 16, 16\]", CAPTIONS, latents=x[0])
    wrong(
        "latent 1 holds NaN",
        CAPTIONS,
        latents=torch.where(x > 3, torch.nan, x.clone().index_fill_(3, torch.tensor(2), 4)),
    )
    wrong("latent 0 holds NaN or infinite", CAPTIONS, latents=x / 0)
    wrong(r"embeddings have shape \[3, 28, 15\]; this model takes \[B, 28, 16\]", y[..., :15])
    wrong(r"embeddings have shape \[3, 27, 16\]", y[:, 1:])
    wrong(r"embeddings have shape \[1, 3, 28, 16\]", y[None])
    wrong(r"embeddings have shape \[16\]", y[0, 0])
    wrong("output 'picture' is unknown; choose 'images' or 'latents'", CAPTIONS, output="picture")
    assert torch.isfinite(generate(pipe, embed(pipe, ""), steps=1)).all()  # what the first message advises


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_generate_is_diffusers_on_cuda(pipe, guidance, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    there = copy.deepcopy(pipe).to("cuda")
    options = {"seeds": SEEDS, "guidance": guidance, "steps": STEPS, "output": "latents"}
    latents = generate(there, CAPTIONS, **options)
    assert latents.device.type == "cuda"
    close(latents, by_diffusers(there, guidance, "latent", prompt=CAPTIONS), 1e-2)
    close(latents.cpu(), generate(pipe, CAPTIONS, **options), 1e-2)  # a seed means the same on every device
    images = generate(there, CAPTIONS, seeds=SEEDS, guidance=guidance, steps=STEPS)
    close(images, by_diffusers(there, guidance, "pt", prompt=CAPTIONS), 1e-2)
    assert encode(there, images.cpu()).device.type == "cuda"


@pytest.mark.parametrize(
    ("what", "said"), [({"prompts": []}, "no prompts"), ({"prompts": "a fish", "seeds": []}, "no seeds")]
)
def test_nothing_to_sample_is_one_clear_line(pipe, what, said):
    with pytest.raises(ValueError, match=f"there are {said}; give at least one"):
        generate(pipe, **what)


@pytest.fixture(scope="module")
def other(pipe):
    """The shared pipeline as one that predicts v would be: its scheduler says so."""
    pipe = copy.copy(pipe)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    return pipe


REFUSING = {
    "generate": lambda pipe, known: generate(pipe, CAPTIONS[0], steps=2),
    "trajectory": lambda pipe, known: next(trajectory(pipe, initial_noise(pipe, [0]), embed(pipe, CAPTIONS[0]))),
    "find_triggers": lambda pipe, known: find_triggers(pipe, initial_noise(pipe, [0]), CAPTIONS[0], steps=1, batch=1),
    "magnitude": lambda pipe, known: magnitude(pipe, CAPTIONS[0], steps=2, first=1),
    "token_attribution": lambda pipe, known: token_attribution(pipe, CAPTIONS[0], steps=2),
    "noise_differences": lambda pipe, known: noise_differences(pipe, CAPTIONS[0], steps=2),
    "wanda.localise": lambda pipe, known: wanda.localise(pipe, CAPTIONS[0], calls=1, steps=2),
    "nemo.thresholds": lambda pipe, known: nemo.thresholds(pipe, CAPTIONS[:2], seeds=range(2), steps=2),
    "nemo.localise": lambda pipe, known: nemo.localise(pipe, CAPTIONS[0], known, 0.99999, seeds=range(2), steps=2),
}


@pytest.mark.parametrize("name", REFUSING)
def test_a_model_that_predicts_something_else_is_refused(pipe, other, one_line, name):
    known = nemo.statistics(pipe, CAPTIONS)
    REFUSING[name](pipe, known)  # the very same call, of a model that predicts ε
    with watched(other.unet) as seen:
        one_line(ValueError, r"prediction_type='v_prediction'.*choose such a model$", REFUSING[name], other, known)
    assert not seen  # nothing was computed first
