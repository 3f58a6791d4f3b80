"""Sampling: diffusers' own numbers, one picture a seed whatever the batch, and clear errors."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline

from dori_lite.models import embed, encode
from dori_lite.sampling import generate, initial_noise

CAPTIONS = ["a red fish over sand", "a striped blue fish and one other fish", "a large fish at dusk"]
SEEDS, STEPS = [11, 5, 2**40], 6


def by_diffusers(pipe, guidance, output_type, **conditions):
    """The same pictures by `StableDiffusionPipeline.__call__`, one generator a seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    options = {"num_inference_steps": STEPS, "guidance_scale": guidance, "output_type": output_type}
    return pipe(generator=generators, **conditions, **options).images


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
    latents = generate(pipe, embeddings=y, **options, output="latents")
    silent = embed(pipe, "").expand_as(y) if guidance > 1 else None
    close(latents, by_diffusers(pipe, guidance, "latent", prompt_embeds=y, negative_prompt_embeds=silent))


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
    close(generate(pipe, embeddings=y, seeds=SEEDS, **options), full)
    close(generate(pipe, embeddings=y[0], seeds=SEEDS, **options), full)  # [L, D]
    close(generate(pipe, CAPTIONS[0], seeds=(seed for seed in SEEDS), **options), full)

    full = generate(pipe, CAPTIONS, seeds=[9] * 3, **options)
    for seeds in (9, [9]):
        close(generate(pipe, CAPTIONS, seeds=seeds, **options), full)
    close(generate(pipe, CAPTIONS, latents=initial_noise(pipe, [9]), **options), full)
    close(generate(pipe, embeddings=embed(pipe, CAPTIONS), seeds=9, **options), full)
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
    wrong("caption 1 is empty", [CAPTIONS[0], None])
    wrong("give either prompts or embeddings")
    wrong("give either prompts or embeddings", CAPTIONS, embeddings=y)
    wrong("3 prompts and 2 seeds do not pair up", CAPTIONS, seeds=[1, 2])
    wrong("2 prompts and 3 seeds do not pair up", CAPTIONS[:2], latents=x)
    wrong("do not pair up", embeddings=y, seeds=[1, 2])
    wrong(r"latents have shape \[3, 4, 16, 8\]; this model takes \[B, 4, 16, 16\]", CAPTIONS, latents=x[..., :8])
    wrong(r"latents have shape \[4, 16, 16\]", CAPTIONS, latents=x[0])
    wrong(
        "latents hold NaN",
        CAPTIONS,
        latents=torch.where(x > 3, torch.nan, x.clone().index_fill_(3, torch.tensor(2), 4)),
    )
    wrong("latents hold NaN or infinite", CAPTIONS, latents=x / 0)
    wrong(r"embeddings have shape \[3, 28, 15\]; this model takes \[B, 28, 16\]", embeddings=y[..., :15])
    wrong(r"embeddings have shape \[3, 27, 16\]", embeddings=y[:, 1:])
    wrong(r"embeddings have shape \[1, 3, 28, 16\]", embeddings=y[None])
    wrong(r"embeddings have shape \[16\]", embeddings=y[0, 0])
    wrong("output 'picture' is unknown; choose 'images' or 'latents'", CAPTIONS, output="picture")
    wrong("tokens and the model reads 28; shorten it", "a very " + "very " * 40 + "red fish")
    assert torch.isfinite(generate(pipe, embeddings=embed(pipe, ""), steps=1)).all()  # what the first message advises


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
