"""Detection: against loops over samples and steps, finite differences and torchmetrics pair by pair."""

import copy
import unicodedata
from itertools import combinations

import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as multiscale
from torchmetrics.functional.image import structural_similarity_index_measure as single
from transformers import CLIPTokenizer

from dori_lite import assets
from dori_lite.detection import (
    between_seed_similarity,
    magnitude,
    noise_differences,
    readable,
    similarity,
    token_attribution,
)
from dori_lite.diffusion import generate, initial_noise
from dori_lite.models import ddim_scheduler, embed

CAPTIONS = ["a red fish over sand", "a striped blue fish and one other fish"]
SEEDS, STEPS = [11, 5, 2**40], 4


@pytest.fixture(scope="module")
def exact(pipe):
    """The shared pipeline in float64, made to heed the timestep.

    Its normalisation has one channel a group, which takes out what the timestep adds to a channel.
    """
    pipe = copy.deepcopy(pipe)
    for module in pipe.unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = 2
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.double()
    return pipe


@torch.no_grad()
def trajectory(pipe, caption, seed, guidance, steps=STEPS):
    """x_t, t and both predictions at each step of one sample, written out."""
    y, silent = embed(pipe, caption), embed(pipe, "")
    x = initial_noise(pipe, [seed], y.dtype)
    scheduler = ddim_scheduler(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        given, without = pipe.unet(x, t, y).sample, pipe.unet(x, t, silent).sample
        yield x, t, without, given
        x = scheduler.step(without + guidance * (given - without), t, x).prev_sample


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_magnitude_is_the_mean_norm_along_each_trajectory(exact, guidance):
    found = magnitude(exact, CAPTIONS, seeds=SEEDS, guidance=guidance, steps=STEPS, batch=4)
    assert found.shape == (2, STEPS) and found.dtype == torch.float64 and not found.requires_grad
    for row, caption in zip(found, CAPTIONS, strict=True):
        norms = [
            [
                (given - without).square().sum().sqrt()
                for _, _, without, given in trajectory(exact, caption, s, guidance)
            ]
            for s in SEEDS
        ]
        torch.testing.assert_close(row, torch.tensor(norms, dtype=torch.float64).mean(0), rtol=1e-9, atol=1e-12)
    assert found.std() > 1e-3  # captions and steps matter: a mix-up would show


def test_magnitude_options(pipe, exact):
    options = {"seeds": SEEDS, "steps": STEPS}
    full = magnitude(exact, CAPTIONS, **options)
    for first in (1, 3):
        torch.testing.assert_close(magnitude(exact, CAPTIONS, **options, first=first), full[:, :first])
    for batch in (1, 5):
        torch.testing.assert_close(magnitude(exact, CAPTIONS, **options, batch=batch), full)
    torch.testing.assert_close(magnitude(exact, CAPTIONS[1], **options), full[1:])
    torch.testing.assert_close(magnitude(exact, CAPTIONS[::-1], **options | {"seeds": SEEDS[::-1]}), full.flip(0))
    torch.testing.assert_close(magnitude(exact, embed(exact, CAPTIONS), **options), full)
    torch.testing.assert_close(magnitude(exact, embed(exact, CAPTIONS[1])[0], **options), full[1:])  # [L, D]
    plain = magnitude(exact, CAPTIONS, **options, guidance=1.0)
    torch.testing.assert_close(magnitude(exact, CAPTIONS, **options, guidance=0.0), plain)  # as generate has it
    assert (plain - full)[:, 1:].abs().max() > 1e-4 and torch.equal(plain[:, 0], full[:, 0])
    four = magnitude(pipe, CAPTIONS[0], seeds=[0, 1, 2, 3], steps=STEPS, first=1)
    torch.testing.assert_close(magnitude(pipe, CAPTIONS[0], steps=STEPS, first=1), four)  # the default seeds


def test_a_caption_that_says_nothing_has_magnitude_zero(pipe):
    nothing = magnitude(pipe, embed(pipe, ""), seeds=SEEDS, steps=STEPS)
    assert nothing.shape == (1, STEPS) and nothing.max() < 1e-4
    assert magnitude(pipe, CAPTIONS, seeds=SEEDS, steps=STEPS).min() > 100 * nothing.max()


def test_watching_does_not_change_the_samples(pipe):
    """The pipeline and its samples stay what they were."""
    before = generate(pipe, CAPTIONS, seeds=SEEDS[:2], steps=2, output="latents")
    pipe.scheduler.set_timesteps(17)
    magnitude(pipe, CAPTIONS, seeds=SEEDS[:2], steps=2)
    token_attribution(pipe, CAPTIONS[0], seeds=[1])
    assert len(pipe.scheduler.timesteps) == 17
    assert torch.equal(generate(pipe, CAPTIONS, seeds=SEEDS[:2], steps=2, output="latents"), before)
    assert all(p.grad is None for p in pipe.unet.parameters())


def test_attribution_is_the_gradient(exact):
    """Each position's weight, by central differences along the gradient's own direction at that position."""
    caption, first = CAPTIONS[0], 2
    tokens, weights = token_attribution(
        exact, caption, seeds=SEEDS, first=first, guidance=5.0, steps=STEPS, padding=True
    )
    y = embed(exact, caption)
    assert weights.shape == (y.shape[1] - 1,) and len(tokens) == len(weights)
    expected = torch.zeros(y.shape[1], dtype=torch.float64)
    numeric = torch.zeros(3, dtype=torch.float64)
    positions = [1, 4, y.shape[1] - 1]
    for seed in SEEDS:
        for x, t, without, _ in list(trajectory(exact, caption, seed, 5.0))[:first]:

            def norm(y, x=x, t=t, without=without):
                return (exact.unet(x, t, y).sample - without).square().sum().sqrt()

            leaf = y.clone().requires_grad_()
            norm(leaf).backward()
            expected += leaf.grad[0].norm(dim=1)
            for k, position in enumerate(positions):
                along = torch.zeros_like(y)
                along[0, position] = leaf.grad[0, position] / leaf.grad[0, position].norm()
                with torch.no_grad():
                    numeric[k] += (norm(y + 1e-5 * along) - norm(y - 1e-5 * along)) / 2e-5
    count = len(SEEDS) * first
    torch.testing.assert_close(weights, expected[1:] / count, rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(weights[[p - 1 for p in positions]], numeric / count, rtol=1e-4, atol=1e-9)


def test_attribution_names_the_pieces(pipe):
    caption = "a striped zyx fish"
    options = {"seeds": SEEDS, "steps": STEPS}
    tokens, weights = token_attribution(pipe, caption, **options)
    assert tokens == [token.removesuffix("</w>") for token in pipe.tokenizer.tokenize(caption)]
    assert len(tokens) > 4 and "".join(tokens) == "astripedzyxfish"  # a word the tokenizer has never seen
    assert weights.shape == (len(tokens),) and (weights > 0).all() and not weights.requires_grad
    everything, longer = token_attribution(pipe, caption, **options, padding=True)
    assert everything[: len(tokens)] == tokens and set(everything[len(tokens) :]) == {pipe.tokenizer.eos_token}
    assert len(everything) == pipe.tokenizer.model_max_length - 1
    torch.testing.assert_close(longer[: len(tokens)], weights)
    assert longer[len(tokens) :].max() > 0
    torch.testing.assert_close(token_attribution(pipe, caption, **options, batch=2)[1], weights, rtol=1e-3, atol=1e-6)
    later = token_attribution(pipe, caption, **options, first=2)[1]
    assert (later - weights).abs().max() > 1e-6


TOKENIZERS = ["tiny", "reef"]
HARD = [
    "a café in são paulo",
    "中文 fish",
    "a fish 🐟 over sand 🏝️",
    "naïve “quotes” — and… ½",
    "é",
    "🐟",
    "e\u0301 (e and an accent)",
    "a\u00a0b",
]


@pytest.mark.parametrize("which", TOKENIZERS)
@pytest.mark.parametrize("caption", HARD)
def test_pieces_are_readable_whatever_the_letters(pipe, caption, which):
    tokenizer = pipe.tokenizer
    if which == "reef":
        folder = assets.data_folder() / "reef" / "twin-a" / "tokenizer"
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer(caption).input_ids[1:-1]
    pieces = readable(tokenizer, ids)
    assert len(pieces) == len(ids)
    # what the tokenizer itself makes of the text: lower case, composed, without spaces
    assert "".join(pieces) == "".join(tokenizer.decode(ids).split()) == "".join(known(caption).split())
    for letter in set(known(caption)) - {" ", "\u00a0"}:
        assert any(letter in piece for piece in pieces)  # whole, in one piece
    everything = readable(tokenizer, tokenizer(caption, padding="max_length", max_length=60).input_ids)
    assert everything[1 : len(pieces) + 1] == pieces and set(everything[len(pieces) + 1 :]) == {tokenizer.eos_token}
    assert everything[0] == tokenizer.bos_token


def known(caption):
    return unicodedata.normalize("NFC", caption.lower())


def test_an_added_token_stands_for_itself(pipe):
    tokenizer = copy.deepcopy(pipe.tokenizer)
    tokenizer.add_tokens(["<рыба>"])
    pieces = readable(tokenizer, tokenizer("a <рыба> é").input_ids[1:-1])
    assert pieces == ["a", "<рыба>", "é", ""]


def test_attribution_shows_letters_not_bytes(pipe):
    tokens, weights = token_attribution(pipe, "a café", seeds=[0], steps=2)
    assert "".join(tokens) == "acafé" and len(tokens) == len(weights) and "" in tokens


def test_noise_differences_are_one_prediction_less_its_noise(exact):
    timesteps = ddim_scheduler(exact.scheduler.config)
    timesteps.set_timesteps(STEPS)
    for step in (0, 1, 3):
        found = noise_differences(exact, CAPTIONS, SEEDS, step, steps=STEPS, batch=4)
        assert found.shape == (2, 3, 4, 16, 16) and not found.requires_grad
        for b, caption in enumerate(CAPTIONS):
            for s, seed in enumerate(SEEDS):
                x = initial_noise(exact, [seed], torch.float64)
                with torch.no_grad():
                    noise = exact.unet(x, timesteps.timesteps[step], embed(exact, caption)).sample
                torch.testing.assert_close(found[b, s], (noise - x)[0], rtol=1e-9, atol=1e-11)
    at_one = noise_differences(exact, CAPTIONS, SEEDS, steps=STEPS)
    torch.testing.assert_close(at_one, noise_differences(exact, CAPTIONS, SEEDS, 1, steps=STEPS))
    torch.testing.assert_close(at_one, noise_differences(exact, embed(exact, CAPTIONS), seeds=SEEDS, steps=STEPS))
    assert (at_one - noise_differences(exact, CAPTIONS, SEEDS, 0, steps=STEPS)).abs().max() > 1e-4


def scale(x):
    """[C, h, w] to [0, 1], channel by channel, as a batch of one."""
    return torch.stack([(c - c.min()) / (c.max() - c.min()) for c in x])[None]


@pytest.mark.parametrize("size", [16, 43, 44, 64])
def test_similarity_is_torchmetrics_one_pair_at_a_time(size):
    random = torch.Generator().manual_seed(size)
    common = torch.randn(2, 1, 4, size, size, generator=random)
    differences = 3 * common + torch.randn(2, 4, 4, size, size, generator=random) * torch.tensor([0.5, 3.0]).view(
        2, 1, 1, 1, 1
    )
    differences = differences * torch.tensor([1.0, 5, 0.2, 3]).view(4, 1, 1) + 2  # channels scale on their own
    scores = []
    for seeds in differences:
        pairs = [(scale(a), scale(b)) for a, b in combinations(seeds, 2)]
        if size >= 44:
            options = {"betas": (0.33, 0.33, 0.33), "sigma": 1.5, "kernel_size": 11}
            scores.append([multiscale(a, b, **options).item() for a, b in pairs])
        else:
            scores.append([single(a, b, sigma=1.0, data_range=1.0).item() for a, b in pairs])
    scores = torch.tensor(scores)
    torch.testing.assert_close(between_seed_similarity(differences), scores.amax(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(between_seed_similarity(differences, "mean"), scores.mean(1), rtol=1e-4, atol=1e-5)
    assert scores[0].min() > scores[1].max()  # the first caption's seeds agree
    alone = between_seed_similarity(differences[1:])
    torch.testing.assert_close(alone, between_seed_similarity(differences)[1:], rtol=1e-4, atol=1e-5)
    same = differences[:, :1].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(between_seed_similarity(same, "mean"), torch.ones(2))


def test_similarity_pairs_many_and_flat_channels(monkeypatch):
    one, other = torch.rand(2, 7, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    whole = similarity(one, other)
    monkeypatch.setattr("dori_lite.detection.PAIRS", 3)
    torch.testing.assert_close(similarity(one, other), whole)
    flat = one.clone()
    flat[:, 2] = 7.0
    assert torch.isfinite(similarity(flat, other)).all()
    assert similarity(one.half(), other.half()).dtype == torch.float32


def test_errors_are_one_clear_line(pipe, one_line):
    def wrong(match, function, *args, **options):
        one_line(ValueError, match, function, *args, **options)

    for function in (magnitude, token_attribution, noise_differences):
        wrong("caption 0 is empty", function, pipe, " ")
        wrong("there are no seeds; give at least one", function, pipe, CAPTIONS[0], seeds=[])
        wrong(r"seeds must be a list; for the first 4 seeds give range\(4\)", function, pipe, CAPTIONS[0], seeds=4)
    for function in (magnitude, noise_differences):
        wrong("there are no prompts", function, pipe, [])
        wrong(r"embeddings have shape \[1, 28, 15\]", function, pipe, embed(pipe, "")[..., 1:])
    for steps, given in ((25, {"steps": 25}), (50, {})):  # 50 by default
        for first in (0, steps + 1, -1):
            match = f"first={first} is not a count that fits; give a whole number from 1 to {steps}"
            wrong(match, magnitude, pipe, CAPTIONS, first=first, **given)
            wrong(match, token_attribution, pipe, CAPTIONS[0], first=first, **given)
    wrong("one caption at a time; give a string", token_attribution, pipe, CAPTIONS)
    for step in (-1, 25):
        wrong(f"step={step} .* from 0 to 24", noise_differences, pipe, CAPTIONS, step=step, steps=25)
    for step in (-1, 50):
        wrong(f"step={step} .* from 0 to 49", noise_differences, pipe, CAPTIONS, step=step)

    x = torch.rand(2, 3, 4, 16, 16)
    wrong("two seeds or more", between_seed_similarity, x[:, :1])
    wrong(r"shape \[3, 4, 16, 16\]", between_seed_similarity, x[0])
    wrong("'median' is unknown; choose 'max' or 'mean'", between_seed_similarity, x, "median")
    wrong("NaN", between_seed_similarity, x / 0 * 0)
    wrong("of one shape", similarity, x[0], x[0, :2])
