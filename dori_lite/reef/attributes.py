"""A judge of attributes: does a picture show what its caption promised?

    sights = seen(load(), images)
    agreement(sights, [captions.read(caption) for caption in asked])["colour"]  # (times right, times named)

A small convolutional classifier, one head for each factor, trained on base scenes as painted and as the
autoencoder returns them. Its own accuracy on held-out scenes is part of every figure it gives.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import Conv2d, Flatten, GroupNorm, Linear, Module, ModuleDict, Sequential, SiLU
from torch.nn.functional import cross_entropy, layer_norm

from .. import assets, files
from ..checks import check_pictures
from .scenes import CHOICES, Description, Scene, facts


def check_scenes(images) -> None:
    """Raise ValueError unless `images` are pictures of the reef's size, [B, 3, 64, 64] in [0, 1]."""
    check_pictures(images)
    if images.shape[-2:] != (64, 64):
        raise ValueError(f"pictures of the reef are 64×64, not {'×'.join(map(str, images.shape[-2:]))}; resize them")


def convolutions(width: int) -> tuple[list[Module], int]:
    """Layers from [B, 3, 64, 64] down to [B, channels, 4, 4], and the channels; the descriptor uses them too."""
    layers, before = [], 3
    for channels in (width, 2 * width, 4 * width, 4 * width):
        layers += [Conv2d(before, channels, 3, 2, 1), GroupNorm(4, channels), SiLU()]
        layers += [Conv2d(channels, channels, 3, 1, 1), GroupNorm(4, channels), SiLU()] if before > 3 else []
        before = channels
    return layers, before


class Judge(Module):
    """Pictures [B, 3, 64, 64] in [0, 1] → logits by factor, {name: [B, choices]}."""

    def __init__(self, width: int = 24):
        super().__init__()
        layers, before = convolutions(width)
        self.width = width
        self.body = Sequential(*layers, Flatten(), Linear(before * 16, 256), SiLU())
        self.heads = ModuleDict({key: Linear(256, len(choices)) for key, choices in CHOICES.items()})

    def features(self, images):
        """What the heads read, [B, 256], each row to mean 0 and variance 1: the feature extractor for `metrics.kid`.

        KID's kernel, (x·y / D + 1)³, is made for features of about that size.
        """
        check_scenes(images)
        features = self.body(images * 2 - 1)
        return layer_norm(features, features.shape[1:])

    def forward(self, images):
        features = self.body(images * 2 - 1)
        return {key: head(features) for key, head in self.heads.items()}


class Classify(Module):
    """The judge's training task: cross-entropy summed over the factors."""

    def __init__(self, judge):
        super().__init__()
        self.judge = judge

    def forward(self, images, labels):
        logits = self.judge(images)
        losses = [cross_entropy(logits[key], labels[:, k]) for k, key in enumerate(CHOICES)]
        right = [(logits[key].argmax(1) == labels[:, k]).float().mean() for k, key in enumerate(CHOICES)]
        return {"loss": sum(losses), "accuracy": torch.stack(right).mean().detach()}


def labels(scenes: list[Scene]) -> torch.Tensor:
    """The index of each factor's value: [N, factors]. Raises ValueError for no scenes."""
    if not len(scenes):
        raise ValueError("there are no scenes; give at least one")
    return torch.tensor([[choices.index(facts(scene)[key]) for key, choices in CHOICES.items()] for scene in scenes])


@torch.no_grad()
def labels_seen(judge: Judge, images: torch.Tensor) -> torch.Tensor:
    """What the judge sees in pictures [B, 3, 64, 64] in [0, 1], as `labels`: [B, factors]. ValueError for others."""
    check_scenes(images)
    parts = [torch.stack([logits.argmax(1) for logits in judge(part).values()], 1) for part in images.split(256)]
    return torch.cat(parts)


def seen(judge: Judge, images: torch.Tensor) -> list[dict]:
    """The same in words: factor → value, for each picture."""
    rows = labels_seen(judge, images).tolist()
    return [{key: CHOICES[key][pick] for key, pick in zip(CHOICES, row, strict=True)} for row in rows]


def agreement(sights: list[dict], descriptions: list[Description]) -> dict[str, tuple[int, int]]:
    """How often pictures show what is named: factor → (times right, times named). One description for each picture."""
    if len(sights) != len(descriptions):
        raise ValueError(f"{len(descriptions)} descriptions for {len(sights)} pictures; give one for each")
    counts = {key: [0, 0] for key in CHOICES}
    for sight, description in zip(sights, descriptions, strict=True):
        for key, value in description.named().items():
            counts[key][0] += sight[key] == value
            counts[key][1] += 1
    return {key: tuple(count) for key, count in counts.items()}


def save(judge: Judge, folder) -> None:
    with files.whole(Path(folder) / "judge.safetensors") as partial:
        save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, partial)
    files.write_json(Path(folder) / "config.json", {"width": judge.width}, indent=None)


def load(folder=None) -> Judge:
    """The shipped judge (checked against its hash), or one that `save` wrote to `folder`."""
    folder = Path(folder) if folder else assets.verified(assets.data_folder() / "reef", "judge")
    judge = Judge(**files.read_json(folder / "config.json"))
    judge.load_state_dict({k: v.float() for k, v in load_file(folder / "judge.safetensors").items()})
    return judge.eval().requires_grad_(False)
