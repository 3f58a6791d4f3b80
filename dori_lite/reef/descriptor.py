"""The reef's copy descriptor: small, trained the way SSCD was, on scenes of its own. It is not SSCD.

    copy = detector()
    copy(images, targets)  # which of the pictures are copies: bool [B]

Pictures become unit vectors; a copy lies close to its original. Training (Pizzi et al. 2022, "A
Self-Supervised Descriptor for Image Copy Detection"): two edits of a picture attract each other and every
other picture is pushed away (InfoNCE), while an entropy term (KoLeo) spreads all descriptors apart, so that
one threshold serves everywhere. Edits are what a copy may suffer: the autoencoder, blur, a shift of up to
two pixels, a little brightness; never a flip or another hue, which make another picture of the reef.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import Linear, Module, Sequential
from torch.nn.functional import cross_entropy, interpolate, normalize

from .. import assets, copies, files
from ..checks import check_count, check_pictures, check_seed
from . import canaries
from .attributes import check_scenes, convolutions
from .paint import paint_all
from .recipes import keyed, to_model
from .scenes import CHOICES, complete, describe

NAME = "descriptor"
TEMPERATURE, ENTROPY = 0.05, 5.0  # SSCD: 0.05 and 30; the weight is lower since batches are smaller


class Descriptor(Module):
    """Pictures [B, 3, 64, 64] in [0, 1] → unit vectors [B, size]. Raises ValueError for others."""

    def __init__(self, width: int = 16, size: int = 128):
        super().__init__()
        layers, before = convolutions(width)
        self.width, self.size = width, size
        self.body, self.head = Sequential(*layers), Linear(before * 16, size)  # 4×4 places are kept: layout matters

    def forward(self, images):
        check_scenes(images)
        return normalize(self.head(self.body(images * 2 - 1).flatten(1)), dim=1)


class Contrast(Module):
    """The training task on two edits of each picture of a batch, [B, 3, 64, 64] each.

    Rows come in pairs of siblings, scenes of equal attributes at other positions: hard negatives.
    """

    def __init__(self, descriptor):
        super().__init__()
        self.descriptor = descriptor

    def forward(self, first, second):
        z = self.descriptor(torch.cat([first, second]))
        cosine = z @ z.T
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        partner = torch.arange(len(z), device=z.device).roll(len(first))
        contrast = cross_entropy((cosine / TEMPERATURE).masked_fill(itself, float("-inf")), partner)
        # KoLeo: the distance to the nearest descriptor of another picture should not be small.
        strangers = cosine.masked_fill(itself | itself.roll(len(first), 0), -1)
        gap = (2 - 2 * strangers.max(1).values).clamp(min=1e-6).sqrt()
        entropy = -gap.log().mean()
        hits = (cosine.masked_fill(itself, -2).argmax(1) == partner).float().mean()
        return {"loss": contrast + ENTROPY * entropy, "contrast": contrast.detach(), "hits": hits}


def siblings(scene, seed: int, count: int, start: int = 1):
    """`count` scenes with all of `scene`'s main attributes and other positions: (scene, seed) each."""
    check_seed(seed), check_count("count", count), check_count("start", start, 0)
    description = describe(scene, tuple(CHOICES))
    seeds = [50_000_000 + 100 * seed + k for k in range(start, start + count)]
    return [(complete(description, other), other) for other in seeds]


def split(name: str, count: int):
    """The first `count` scenes of a held-out split: (scene, seed) each. Raises ValueError as `numbers` does."""
    return [canaries.held_out(name, k)[1:] for k in numbers(name, count)]


def numbers(name: str, count: int, start: int = 0) -> range:
    """The numbers of `count` scenes of a held-out split, from `start` on. ValueError for what the split has not."""
    if name not in list(canaries.HELD_OUT):
        raise ValueError(f"there is no held-out split {name!r}; choose one of {', '.join(canaries.HELD_OUT)}")
    size = canaries.HELD_OUT[name]
    check_count(f"start in {name!r}", start, 0, size - 1)
    return range(start, start + check_count(f"count of {name!r}", count, 1, size - start))


@torch.no_grad()
def batches(vae, settings):
    """Batches of two edits each; half of the pictures as painted, half as the autoencoder returns them."""
    scenes = split("descriptor", settings["scenes"])
    scenes = [pair for scene, seed in scenes for pair in ((scene, seed), siblings(scene, seed, 1)[0])]
    pictures = paint_all(scenes)
    reconstruction = [vae.decode(vae.encode(to_model(part)).latent_dist.mean).sample for part in pictures.split(64)]
    reconstruction = ((torch.cat(reconstruction).clamp(-1, 1) + 1) * 127.5).round().byte()

    def batch(step):
        random, n = keyed(step, 5), settings["batch"]
        pairs = torch.randperm(len(pictures) // 2, generator=random)[: n // 2]
        chosen = torch.stack([2 * pairs, 2 * pairs + 1], 1).flatten()
        return {key: edit(pictures[chosen], reconstruction[chosen], random) for key in ("first", "second")}

    return batch


def edit(painted, reconstructed, random) -> torch.Tensor:
    """One random edit of each picture: uint8 [B, 3, 64, 64] twice → floats in [0, 1]. ValueError for others."""
    if painted.dtype != torch.uint8 or reconstructed.dtype != torch.uint8:
        raise ValueError(f"edits are made of bytes, not of {painted.dtype} and {reconstructed.dtype}; give uint8")
    n = len(painted)
    which = torch.rand(n, generator=random) < 0.5
    images = torch.where(which[:, None, None, None], painted, reconstructed).float() / 255
    soft = (
        torch.rand(n, generator=random)[:, None, None, None]
        * (torch.rand(n, generator=random) < 0.5)[:, None, None, None]
    )
    images = soft * blur(images) + (1 - soft) * images
    moves = torch.randint(-2, 3, (n, 2), generator=random).tolist()
    images = torch.stack([shift(image, *move) for image, move in zip(images, moves, strict=True)])
    gain = 0.85 + 0.3 * torch.rand(n, 1, 1, 1, generator=random)
    noise = 0.02 * torch.randn(images.shape, generator=random)
    return (images * gain + noise).clamp(0, 1)


def blur(images: torch.Tensor, factor: int = 2) -> torch.Tensor:
    """Pictures [B, 3, H, W] in [0, 1] at 1/`factor` of their resolution, enlarged again. ValueError for others."""
    check_pictures(images)
    small = interpolate(images, scale_factor=1 / factor, mode="bilinear", antialias=True)
    return interpolate(small, images.shape[-2:], mode="bilinear")


def shift(image: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """A picture [..., H, W] moved by whole pixels; its edge is repeated. ValueError for farther than its size."""
    check_count("dy", dy, -image.shape[-2], image.shape[-2]), check_count("dx", dx, -image.shape[-1], image.shape[-1])
    rows = (torch.arange(image.shape[-2]) - dy).clamp(0, image.shape[-2] - 1)
    columns = (torch.arange(image.shape[-1]) - dx).clamp(0, image.shape[-1] - 1)
    return image[..., rows, :][..., columns]


def save(descriptor: Descriptor, folder) -> None:
    with files.whole(Path(folder) / "descriptor.safetensors") as partial:
        save_file({k: v.half().contiguous() for k, v in descriptor.state_dict().items()}, partial)
    settings = {"width": descriptor.width, "size": descriptor.size, "threshold": None}
    files.write_json(Path(folder) / "config.json", settings, indent=None)


def load(folder=None) -> tuple[Descriptor, float | None]:
    """The shipped descriptor (checked against its hash), or one that `save` wrote, and its threshold."""
    folder = Path(folder) if folder else assets.verified(assets.data_folder() / "reef", "descriptor")
    settings = files.read_json(folder / "config.json")
    threshold = settings.pop("threshold")
    descriptor = Descriptor(**settings)
    descriptor.load_state_dict({k: v.float() for k, v in load_file(folder / "descriptor.safetensors").items()})
    return descriptor.eval().requires_grad_(False), threshold


def detector(folder=None) -> copies.Detector:
    """The reef's copy detector at its calibrated threshold.

    Raises ValueError when the descriptor has not been calibrated.
    """
    model, threshold = load(folder)
    if threshold is None:
        raise ValueError("the descriptor has no threshold yet; run `dori-lite calibrate` first")
    return copies.by_descriptor(NAME, lambda images: model.to(images.device)(images), threshold)
