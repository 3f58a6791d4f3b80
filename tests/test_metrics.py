"""Rates, alignment, KID and spreads, against counting by hand and loops over pictures and pairs."""

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dori_lite.copies import ssim
from dori_lite.metrics import (
    alignment_chance,
    alignment_text_image,
    between_seed_ssim,
    clip,
    diversity,
    kid,
    memorization_rate,
)


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_diversity_is_the_mean_over_pairs(images):
    pairs = [(a - b).square().mean().sqrt().item() for a, b in combinations(images, 2)]
    assert len(pairs) == 6
    assert diversity(images) == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert diversity(images[:2]) == pytest.approx(pairs[0], abs=1e-6)
    assert isinstance(diversity(images), float)


def test_between_seed_ssim_is_the_mean_over_pairs(images):
    pairs = [ssim(a[None], b[None]).item() for a, b in combinations(images, 2)]
    assert between_seed_ssim(images) == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert between_seed_ssim(images[:2]) == pytest.approx(pairs[0], abs=1e-6)
    assert isinstance(between_seed_ssim(images), float)


def test_equal_pictures_do_not_vary(images):
    same = images[:1].repeat(3, 1, 1, 1)
    assert diversity(same) == 0
    assert between_seed_ssim(same) == pytest.approx(1, abs=1e-6)
    assert diversity(images) > 0.1 and between_seed_ssim(images) < 0.5


def test_one_picture_has_no_spread(images, one_line):
    for function in (diversity, between_seed_ssim):
        one_line(ValueError, "there are 1 images; give at least 2", function, images[:1])
        one_line(ValueError, r"images have shape \[0, 3, 16, 16\]", function, images[:0])
        one_line(ValueError, r"images have shape \[3, 16, 16\]", function, images[0])  # not three of one channel
        one_line(ValueError, "not uint8; divide bytes by 255", function, (images * 255).byte())
        one_line(ValueError, r"images must be in \[0, 1\]", function, images * 255)
        one_line(
            ValueError, "images are not all finite: number 2", function, images.index_fill(0, torch.tensor(2), np.nan)
        )


# ---- rates -------------------------------------------------------------------------------------------


def test_memorization_rate_by_hand():
    scores = [[0.9, 0.1, 0.1], [0.7, 0.8, 0.75], [0.0, 0.69, 0.2], [1.0, 0.7, 0.1]]
    expected = {
        "per picture": {"count": 6, "n": 12, "rate": 0.5},
        "per caption, max over seeds": {"count": 3, "n": 4, "rate": 0.75},
        "per caption, mean over seeds": {"count": 1, "n": 4, "rate": 0.25},
    }
    for kind in (list, np.array, torch.tensor):
        assert memorization_rate(kind(scores), 0.7) == expected
    nothing = memorization_rate([[0.2]], 0.7)
    assert all(way == {"count": 0, "n": 1, "rate": 0} for way in nothing.values())


def test_memorization_rate_errors(one_line):
    for bad in ([0.5, 0.6], [[]], [], [[[0.5]]]):
        one_line(ValueError, r"give \[captions, seeds\]", memorization_rate, bad, 0.5)
    one_line(ValueError, "NaN", memorization_rate, [[0.5, float("nan")]], 0.5)
    for threshold in (float("nan"), True, "0.5", None, float("inf")):
        one_line(ValueError, "threshold=.* does not fit; give a finite number", memorization_rate, [[0.5]], threshold)
    one_line(ValueError, "scores are truth values; give the detector's scores", memorization_rate, [[True]], 0.5)
    assert memorization_rate([[1, 0]], 0.5) == memorization_rate([[1.0, 0.0]], 0.5)


# ---- alignment ---------------------------------------------------------------------------------------

CAPTIONS = ["a red fish", "two other fish over sand", "a very large striped blue fish at dusk " * 3]


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """A tiny CLIP with random weights, saved."""
    vocabulary, end = len(pipe.tokenizer), pipe.tokenizer.eos_token_id
    both = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": pipe.tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    text = {"vocab_size": vocabulary, "max_position_embeddings": 20} | marks
    vision = {"image_size": 24, "patch_size": 8}
    torch.manual_seed(1)
    model = CLIPModel(CLIPConfig(text_config=both | text, vision_config=both | vision, projection_dim=12))
    for weights in model.parameters():
        if weights.ndim > 1:  # the usual weights are so small that all texts and pictures look alike
            torch.nn.init.normal_(weights, std=0.5)
    path = tmp_path_factory.mktemp("clip")
    model.save_pretrained(path)
    pipe.tokenizer.save_pretrained(path)
    return path


@torch.no_grad()
def test_alignment_is_clips_cosine(folder, pipe):
    images = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    images = (images * 255).round() / 255  # so that PIL's copies are equal
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    expected = []
    for image, caption in zip(images, CAPTIONS, strict=True):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        pixels = torch.tensor(np.array(processor(picture)["pixel_values"]))
        ids = pipe.tokenizer(caption).input_ids
        ids = ids if len(ids) <= 20 else ids[:19] + ids[-1:]  # cut, and ended
        a = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        b = model.text_projection(model.text_model(torch.tensor([ids])).pooler_output)[0]
        expected.append((a @ b / a.norm() / b.norm()).item())
    found = alignment_text_image(images, CAPTIONS, str(folder))
    assert found.shape == (3,) and found.std() > 0.02
    assert (alignment_text_image(images.flip(0), CAPTIONS, folder) - found).abs().max() > 0.05  # pictures matter
    assert found.tolist() == pytest.approx(expected, abs=5e-3)  # PIL rounds while it resizes
    for batch in (1, 2):
        torch.testing.assert_close(alignment_text_image(images, CAPTIONS, folder, batch=batch), found)
    one = alignment_text_image(images, CAPTIONS[0], folder)
    torch.testing.assert_close(one, alignment_text_image(images, [CAPTIONS[0]] * 3, folder))
    assert (one - found)[1:].abs().min() > 1e-3


def test_alignment_errors(folder, images, one_line, tmp_path, monkeypatch):
    one_line(ValueError, "4 pictures and 3 captions do not pair up", alignment_text_image, images, CAPTIONS, folder)
    for bad in (images[0], images[:, :2], images[:0]):
        one_line(ValueError, "images have shape .*; give one or more pictures", alignment_text_image, bad, "a", folder)
    one_line(ValueError, "give square pictures", alignment_text_image, images[..., :8], "a fish", folder)
    for bad, match in (((images * 255).byte(), "not uint8"), (images * 255, r"must be in"), (images / 0, "finite")):
        one_line(ValueError, match, alignment_text_image, bad, "a fish", folder)
    one_line(ValueError, "caption 1 is a NoneType, not text", alignment_text_image, images[:2], ["a", None], folder)
    one_line(ValueError, "batch=0 is not a count", alignment_text_image, images, "a fish", folder, 0)
    one_line(OSError, "cannot be loaded; check the name and", alignment_text_image, images, "a fish", tmp_path)

    def unreachable(*args, **options):
        raise OSError("We couldn't connect\nto the hub")

    clip.cache_clear()
    monkeypatch.setattr(CLIPModel, "from_pretrained", unreachable)
    one_line(OSError, "connection to the hub, or give a folder", alignment_text_image, images, "a fish", folder)


def test_chance_is_the_mean_over_all_other_captions(images, folder, one_line):
    captions = [*CAPTIONS, "a red fish"]  # the last picture's is the first one's
    table = torch.stack(
        [alignment_text_image(images, caption, folder) for caption in captions], 1
    )  # [picture, caption]
    others = [(1, 2), (0, 2, 3), (0, 1, 3), (1, 2)]
    expected = [table[k, list(some)].mean().item() for k, some in enumerate(others)]
    found = alignment_chance(images, captions, lambda shots, texts: alignment_text_image(shots, texts, folder))
    assert found.shape == (4,) and found.tolist() == pytest.approx(expected, abs=1e-5)
    assert (found - alignment_text_image(images, captions, folder)).abs().max() > 1e-3
    for prompts in ("a fish", ["a fish"] * 4):
        one_line(ValueError, "give two or more that differ", alignment_chance, images, prompts, None)
    one_line(ValueError, "4 pictures and 2 captions do not pair", alignment_chance, images, ["a", "b"], None)
    one_line(ValueError, r"alignment must be \[4\]", alignment_chance, images, captions, lambda *_: torch.ones(3))
    one_line(ValueError, "must be floats", alignment_chance, (255 * images).byte(), captions, None)


# ---- KID ---------------------------------------------------------------------------------------------


def pictures(n, seed, shift=0.0):
    """n pictures [n, 3, 8, 8] and nothing in common between them but their distribution."""
    normal = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) + shift
    return (0.5 + normal / 12).clamp(0, 1)


def features(images):
    """[B, 3, 8, 8] → [B, 12]."""
    return (12 * (images - 0.5)).unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)).flatten(1) * 3


def naive_mmd(x, y):
    """The unbiased polynomial MMD² of x [n, D] and y [n, D], pair by pair."""

    def kernel(a, b):
        return ((a @ b).item() / len(a) + 1) ** 3

    n = len(x)
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within - 2 * sum(kernel(a, b) for a in x for b in y) / n**2


def test_kid_of_the_whole_set_is_the_unbiased_mmd():
    real, generated = pictures(12, 0), pictures(12, 1, 0.3)
    mean, std = kid(real, generated, features, subsets=3, subset_size=12, batch=5)
    assert mean == pytest.approx(naive_mmd(features(real).double(), features(generated).double()), rel=1e-6)
    assert std == pytest.approx(0, abs=1e-9)
    assert isinstance(mean, float) and isinstance(std, float)


def test_kid_tells_a_shift_from_none():
    real = pictures(200, 0)
    same, shifted = kid(real, pictures(200, 1), features), kid(real, pictures(200, 1, 0.5), features)
    assert abs(same[0]) < 0.1 < 0.5 < shifted[0]
    assert 0 < same[1] < 0.2
    # Unbiased: over repeated small draws of one distribution it is as often below 0 as above.
    draws = [kid(pictures(8, 2 * k), pictures(8, 2 * k + 1), features, subsets=1, subset_size=8)[0] for k in range(60)]
    assert 15 < sum(value > 0 for value in draws) < 50
    assert kid(real[:21], pictures(40, 1), features) == kid(real[:21], pictures(40, 1), features, subset_size=10)


def test_kid_draws_its_subsets_by_seed_alone():
    real, generated = pictures(30, 0), pictures(30, 1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = kid(real, generated, features)
    assert torch.equal(torch.rand(3), expected)  # the caller's generator is where it was
    assert kid(real, generated, features) == first != kid(real, generated, features, seed=1)
    assert kid(real, generated, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)))[1] > 0  # a module


@pytest.mark.filterwarnings("error")
def test_kid_is_quiet():
    kid(pictures(4, 0), pictures(4, 1), features, subsets=1)


def test_kid_errors(one_line):
    few, enough = pictures(3, 0), pictures(6, 0)
    one_line(ValueError, "there are 3 real pictures; give at least 4", kid, few, enough, features)
    one_line(ValueError, "there are 3 generated pictures; give at least 4", kid, enough, few, features)
    for size in (1, 7, 2.5, float("nan"), True):
        message = f"subset_size={size} is not a count that fits; give a whole number from 2 to 6"
        one_line(ValueError, message, kid, enough, enough, features, subset_size=size)
    for name, bad in (("subsets", 0), ("subsets", "5"), ("batch", 0), ("seed", 2**64), ("seed", -1), ("seed", 0.5)):
        one_line(ValueError, f"{name}={bad!r} is not a count", kid, enough, enough, features, **{name: bad})
    one_line(ValueError, r"features must be \[6, D\]; got float32 \[6, 3", kid, enough, enough, lambda x: x)
    one_line(ValueError, "features must be finite", kid, enough, enough, lambda x: features(x) / 0)
    held = lambda x: {"tokens": x, "pooler_output": features(x)}  # noqa: E731
    one_line(ValueError, r"not a dict; return a tensor, such as its \.pooler_output", kid, enough, enough, held)
    nan = enough.clone()
    nan[3] = float("nan")
    for bad, match in (((enough * 255).byte(), "must be floats"), (enough * 255, r"in \[0, 1\]"), (nan, "number 3")):
        one_line(ValueError, f"real pictures .*{match}", kid, bad, enough, features)
        one_line(ValueError, f"generated pictures .*{match}", kid, enough, bad, features)
