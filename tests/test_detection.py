"""Detection: against loops over samples and steps, finite differences, torchmetrics pair by pair, and counting."""

import copy
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as multiscale
from torchmetrics.functional.image import structural_similarity_index_measure as single

from dori_lite.detection import (
    auc_interval,
    between_seed_similarity,
    magnitude,
    noise_differences,
    roc,
    similarity,
    token_attribution,
)
from dori_lite.models import ddim_scheduler, embed
from dori_lite.sampling import generate, initial_noise

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
    torch.testing.assert_close(magnitude(exact, embeddings=embed(exact, CAPTIONS), **options), full)
    plain = magnitude(exact, CAPTIONS, **options, guidance=1.0)
    torch.testing.assert_close(magnitude(exact, CAPTIONS, **options, guidance=0.0), plain)  # as generate has it
    assert (plain - full)[:, 1:].abs().max() > 1e-4 and torch.equal(plain[:, 0], full[:, 0])
    four = magnitude(pipe, CAPTIONS[0], seeds=[0, 1, 2, 3], steps=STEPS, first=1)
    torch.testing.assert_close(magnitude(pipe, CAPTIONS[0], steps=STEPS, first=1), four)  # the default seeds


def test_a_caption_that_says_nothing_has_magnitude_zero(pipe):
    nothing = magnitude(pipe, embeddings=embed(pipe, ""), seeds=SEEDS, steps=STEPS)
    assert nothing.shape == (1, STEPS) and nothing.max() < 1e-4
    assert magnitude(pipe, CAPTIONS, seeds=SEEDS, steps=STEPS).min() > 100 * nothing.max()


def test_watching_does_not_change_the_samples(pipe):
    """`magnitude` adds a callback to the sampler: the pipeline and its samples stay what they were."""
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
    torch.testing.assert_close(
        at_one, noise_differences(exact, embeddings=embed(exact, CAPTIONS), seeds=SEEDS, steps=STEPS)
    )
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


def test_roc_by_hand():
    # Pairs won of 4 × 5: 0.9 beats 5; 0.8 beats 4 and ties 1; 0.5 beats 2 and ties 1; 0.2 ties 1 and beats 1.
    positives, negatives = [0.9, 0.8, 0.5, 0.2], [0.8, 0.6, 0.5, 0.2, 0.1]
    found = roc(positives, negatives)
    assert found["auc"] == pytest.approx((5 + 4.5 + 2.5 + 1.5) / 20)
    # Thresholds above all, then 0.9, 0.8, 0.6, 0.5, 0.2, 0.1.
    assert found["fpr"] == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 1])
    assert found["tpr"] == pytest.approx([0, 0.25, 0.5, 0.5, 0.75, 1, 1])
    assert found["tpr at 1% fpr"] == found["tpr at 10% fpr"] == 0.25
    assert auc_interval(positives, negatives, 0, reps=10)[0] == pytest.approx(found["auc"])


def test_roc_at_low_false_positive_rates():
    negatives = np.arange(100.0)
    found = roc([99.5, 98.5, 97.5, 89.5, 88.5], negatives)  # passed by 0, 1, 2, 10 and 11 negatives
    assert found["tpr at 1% fpr"] == pytest.approx(2 / 5)
    assert found["tpr at 10% fpr"] == pytest.approx(4 / 5)
    assert roc([1.0], [1.0])["auc"] == 0.5 and roc([1.0], [1.0])["tpr at 10% fpr"] == 0


def test_auc_is_mann_whitney():
    random = np.random.default_rng(0)
    positives, negatives = random.integers(2, 9, 23) / 4, random.integers(0, 8, 31) / 4  # many ties
    expected = mannwhitneyu(positives, negatives).statistic / (23 * 31)
    assert roc(positives, negatives)["auc"] == pytest.approx(expected)
    assert roc(torch.tensor(positives), list(negatives))["auc"] == pytest.approx(expected)
    assert auc_interval(torch.tensor(positives), negatives, 0)[0] == pytest.approx(expected)


def area(positives, negatives):
    return np.mean((positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives))


def test_auc_interval_is_a_bootstrap_over_captions():
    random = np.random.default_rng(1)
    positives, negatives = np.round(random.normal(0.7, 1, 20), 1), np.round(random.normal(0, 1, 30), 1)
    auc, low, high = auc_interval(positives, negatives, seed=3)
    resampled = [area(random.choice(positives, 20), random.choice(negatives, 30)) for _ in range(4000)]
    assert (low, high) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.02)
    assert 0 < low < auc < high < 1
    assert auc_interval(positives, negatives, seed=3) == (auc, low, high) != auc_interval(positives, negatives, seed=4)
    _, inner_low, inner_high = auc_interval(positives, negatives, seed=3, level=0.5)
    assert low < inner_low < auc < inner_high < high
    resampled = [area(random.choice(positives, 20), negatives) for _ in range(4000)]
    assert np.subtract(*np.quantile(resampled, [0.975, 0.025])) < 0.9 * (high - low)  # the negatives vary as well


def test_auc_interval_covers():
    """Of 200 experiments with a known AUC, the 90 % intervals hold it about as often as they say."""
    from scipy.stats import norm

    random, truth = np.random.default_rng(2), norm.cdf(1 / 2**0.5)
    held = 0
    for k in range(200):
        _, low, high = auc_interval(random.normal(1, 1, 30), random.normal(0, 1, 30), seed=k, reps=300, level=0.9)
        held += low <= truth <= high
    assert 0.82 <= held / 200 <= 0.96


def test_auc_interval_of_degenerate_groups():
    assert auc_interval([2, 3, 4], [0, 1], 0) == (1, 1, 1)
    assert auc_interval([0, 1], [2, 3], 0) == (0, 0, 0)
    assert auc_interval([1, 1], [1, 1, 1], 0) == (0.5, 0.5, 0.5)
    assert auc_interval([1], [0], 0) == (1, 1, 1)


def test_errors_are_one_clear_line(pipe, one_line):
    def wrong(match, function, *args, **options):
        one_line(ValueError, match, function, *args, **options)

    for function in (magnitude, token_attribution, noise_differences):
        wrong("caption 0 is empty", function, pipe, " ")
        wrong("there are no seeds; give at least one", function, pipe, CAPTIONS[0], seeds=[])
        wrong(r"seeds must be a list; for the first 4 seeds give range\(4\)", function, pipe, CAPTIONS[0], seeds=4)
    for function in (magnitude, noise_differences):
        wrong("give either prompts or embeddings", function, pipe)
        wrong("there are no prompts", function, pipe, [])
    for first in (0, 26, -1):
        wrong(f"first={first} is impossible with 25 steps; choose 1 to 25", magnitude, pipe, CAPTIONS, first=first)
        wrong(f"first={first} is impossible", token_attribution, pipe, CAPTIONS[0], first=first)
    wrong("one caption at a time; give a string", token_attribution, pipe, CAPTIONS)
    for step in (-1, 25):
        wrong(f"there is no step {step}; choose 0 to 24", noise_differences, pipe, CAPTIONS, step=step)

    x = torch.rand(2, 3, 4, 16, 16)
    wrong("two seeds or more", between_seed_similarity, x[:, :1])
    wrong(r"shape \[3, 4, 16, 16\]", between_seed_similarity, x[0])
    wrong("'median' is unknown; choose 'max' or 'mean'", between_seed_similarity, x, "median")
    wrong("NaN", between_seed_similarity, x / 0 * 0)
    wrong("of one shape", similarity, x[0], x[0, :2])

    for function, rest in ((roc, ()), (auc_interval, (0,))):
        for bad in ([], [[1.0, 2.0]], 1.0):
            wrong("positives have shape", function, bad, [1.0], *rest)
            wrong("negatives have shape", function, [1.0], bad, *rest)
        for bad in ([np.nan, 1.0], [np.inf], torch.tensor([-torch.inf])):
            wrong("positives hold NaN", function, bad, [1.0], *rest)
            wrong("negatives hold NaN", function, [1.0], bad, *rest)
    for level in (0, 1, 95):
        wrong(f"level {level} is not between 0 and 1", auc_interval, [1.0], [0.0], 0, level=level)
