"""Rates, spreads, alignment with the caption and quality of generated pictures.

    rates = memorization_rate(scores, threshold=0.7)  # scores [captions, seeds]
    distance, spread = kid(true, generated, features)

    floor = alignment_chance(images, prompts)  # beside `alignment_text_image(images, prompts)`

Pictures are tensors [B, 3, H, W] in [0, 1]; all raise ValueError for others.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torchmetrics.image.kid import KernelInceptionDistance
from transformers import AutoTokenizer, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .checks import check_captions, check_count, check_number, check_pictures, check_seed, check_seeds
from .copies import check_given, ssim

CLIP = "openai/clip-vit-base-patch32"  # NeMo's; its cosines are not comparable with another CLIP's


def memorization_rate(scores, threshold: float) -> dict:
    """How many of `scores` [captions, seeds] are copies (score ≥ `threshold`; for SSCD, 0.7).

    Sources disagree on what the papers' MR counts (pictures, or captions by their best seed), so all
    three conventions are returned, each as {"count", "n", "rate"}: `per picture`, `per caption, max
    over seeds`, `per caption, mean over seeds`. Quote the one you use by name.

    Raises ValueError for a wrong shape, NaN, truth values, or a threshold that is not a finite number.
    """
    threshold, given = check_number("threshold", threshold), scores
    try:
        scores = torch.as_tensor(scores)
    except (TypeError, ValueError, RuntimeError):  # whatever torch says of text, objects and rows of unequal length
        raise ValueError(f"scores are {given!r:.40}; give numbers [captions, seeds], none missing") from None
    if scores.is_complex():
        raise ValueError("scores are complex; give real numbers")
    if scores.dtype == torch.bool:
        raise ValueError("scores are truth values; give the detector's scores, before any threshold")
    scores = scores if scores.is_floating_point() else scores.double()
    if scores.ndim != 2 or not scores.numel():
        raise ValueError(f"scores have shape {list(scores.shape)}; give [captions, seeds], one of each at least")
    if not torch.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinite values; leave those captions out")
    ways = {
        "per picture": scores.flatten(),
        "per caption, max over seeds": scores.amax(1),
        "per caption, mean over seeds": scores.mean(1),
    }
    counts = {name: (int((values >= threshold).sum()), len(values)) for name, values in ways.items()}
    return {name: {"count": count, "n": n, "rate": count / n} for name, (count, n) in counts.items()}


def check_distinct(seeds) -> list[int]:
    """The seeds of one caption's pictures, each once: a rate would count a picture twice. Raises ValueError.

    torch's generator on the CPU keeps 32 bits of a seed, so that 0 and 2³² are the same.
    """
    seeds = check_seeds(seeds)
    if len({seed % 2**32 for seed in seeds}) < len(seeds):
        raise ValueError(f"a seed comes twice in {seeds}, and its picture would count twice; give different ones")
    return seeds


@torch.no_grad()
def alignment_text_image(images: torch.Tensor, prompts, model: str = CLIP, batch: int = 64) -> torch.Tensor:
    """CLIP's cosine of each picture and its caption: [B, 3, H, W] in [0, 1] and B captions (or one) → [B].

    `model` is a hub id, or a folder that `save_pretrained` wrote with its tokenizer. Pictures, which must
    be square, are resized to CLIP's size without rounding; longer captions are cut to CLIP's length.
    CLIP knows photographs: on the reef's tiny pictures read differences, not levels.

    A picture of one grey can reach what a right picture does: read it beside `alignment_chance`.

    Raises ValueError for a wrong shape or unequal lengths, OSError if the model cannot be had.
    """
    check_pictures(images)
    check_count("batch", batch)
    prompts = captions_of(prompts, len(images))
    if images.shape[2] != images.shape[3]:
        raise ValueError(f"images have shape {[*images.shape]}; give square pictures [B, 3, H, H]")
    tokenizer, network = clip(str(model))
    network.to(images.device)
    longest, size = network.config.text_config.max_position_embeddings, network.config.vision_config.image_size
    mean, std = (images.new_tensor(values).reshape(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    cosines = []
    for k in range(0, len(images), batch):
        options = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        text = tokenizer(prompts[k : k + batch], **options).to(images.device)
        pixels = F.interpolate(images[k : k + batch], (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        pixels = ((pixels - mean) / std).to(network.dtype)
        found = network(input_ids=text.input_ids, attention_mask=text.attention_mask, pixel_values=pixels)
        cosines.append(F.cosine_similarity(found.image_embeds, found.text_embeds))
    return torch.cat(cosines)


def alignment_chance(images: torch.Tensor, prompts, score: Callable = alignment_text_image) -> torch.Tensor:
    """The floor of an alignment: each picture's mean `score` under the *other* pictures' captions, [B, 3, H, W] → [B].

    `prompts` are B captions, `score(images, captions)` gives [B] and is asked B − 1 times. Captions equal to a
    picture's own are left out. Raises ValueError unless every picture has another caption than its own.
    """
    check_pictures(images)
    prompts = captions_of(prompts, len(images))
    found, others = torch.zeros(len(images), dtype=torch.float64), torch.zeros(len(images))
    if len(set(prompts)) < 2:
        raise ValueError("chance asks for other captions than a picture's own; give two or more that differ")
    for shift in range(1, len(images)):
        strange = prompts[shift:] + prompts[:shift]
        differ = torch.tensor([one != other for one, other in zip(prompts, strange, strict=True)])
        scores = check_given(score(images, strange), (len(images),), "alignment")
        found, others = found + scores.cpu().double() * differ, others + differ
    return (found / others).float()


def mean_alignment(alignment: Callable, images: torch.Tensor, target) -> float:
    """The mean over pictures of what `alignment(images, target)` says, [B] numbers. Raises ValueError for others."""
    return check_given(alignment(images, target), (len(images),), "alignment").float().mean().item()


def captions_of(prompts, count: int) -> list[str]:
    """`count` captions: those given, or the one given as often."""
    prompts = [prompts] * count if isinstance(prompts, str) else check_captions(prompts)
    if len(prompts) != count:
        raise ValueError(f"{count} pictures and {len(prompts)} captions do not pair up; give as many, or one caption")
    return prompts


@lru_cache(maxsize=1)
def clip(model: str):
    """A CLIP and its tokenizer, kept for the next call."""
    try:
        return AutoTokenizer.from_pretrained(model), CLIPModel.from_pretrained(model).eval()
    except (OSError, ValueError) as error:  # ValueError: a folder without a tokenizer
        advice = "check the name and the connection to the hub, or give a folder with a saved CLIP"
        raise OSError(f"CLIP {model!r} cannot be loaded; {advice}") from error


@torch.no_grad()
def kid(
    real: torch.Tensor,
    generated: torch.Tensor,
    features,
    *,
    subsets: int = 50,
    subset_size: int | None = None,
    seed: int = 0,
    batch: int = 64,
) -> tuple[float, float]:
    """Kernel distance of two sets of pictures [N, 3, H, W] in the space of `features`: mean, std over subsets.

    `features` maps pictures [B, 3, H, W] to [B, D]. The polynomial MMD (Bińkowski et al. 2018) is
    unbiased, so hundreds of pictures suffice, where FID needs tens of thousands; it can fall below 0.
    With our own features it is no Inception KID: compare it only with itself. `subset_size` pictures
    of either set, half of the smaller one by default, are drawn for each of `subsets`; `seed` fixes the
    draws, and the caller's random state is left alone.

    Raises ValueError for too few pictures, features of a wrong shape, or counts and a seed that do not fit.
    """
    check_pictures(real, "real pictures", least=4)
    check_pictures(generated, "generated pictures", least=4)
    fewest = min(len(real), len(generated))
    subset_size = check_count("subset_size", fewest // 2 if subset_size is None else subset_size, 2, fewest)
    subsets, batch, seed = check_count("subsets", subsets), check_count("batch", batch), check_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save")
        metric = KernelInceptionDistance(torch.nn.Identity(), subsets=subsets, subset_size=subset_size)
    for images, is_real in ((real, True), (generated, False)):
        parts = images.split(batch)
        found = torch.cat([check_given(features(part), (len(part), None), "features").cpu() for part in parts])
        metric.update(found.double(), real=is_real)  # the distance is a small difference of large sums
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
        mean, std = metric.compute()
    return mean.item(), std.item()


def diversity(images: torch.Tensor) -> float:
    """Mean pairwise root mean squared difference of pictures [B, 3, H, W] of one caption; 0 if all are equal.

    Raises ValueError for fewer than two pictures.
    """
    check_pictures(images, least=2)
    return (torch.pdist(images.flatten(1).float()) / images[0].numel() ** 0.5).mean().item()


def between_seed_ssim(images: torch.Tensor) -> float:
    """Mean pairwise SSIM of pictures [B, 3, H, W] of one caption; 1 if all are equal.

    Raises ValueError for fewer than two pictures.
    """
    check_pictures(images, least=2)
    first, second = torch.combinations(torch.arange(len(images))).T
    return ssim(images[first], images[second]).mean().item()
