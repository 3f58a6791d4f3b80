"""Training recipes: what is trained, on which batches. A page each; the loop is `dori_lite.fit`.

    task = Denoise(unet, text_encoder, networks.new_scheduler())
    batch = denoising_batches("a", vae, tokenizer, folder, TWIN["steps"])
    losses = task(**batch(0))

Autoencoder on base scenes; the text encoder on captions alone (`reader`); the parent's U-Net on base scenes and decoys
of all names; twins forked from the parent, alike in every batch but for which pictures repeat (`plan`).
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure as ssim
from tqdm.auto import tqdm

from .. import files
from . import attributes, canaries, paint, plan
from .captions import write
from .paint import paint_all

AUTOENCODER = {"steps": 4500, "batch": 16, "lr": 3e-3, "scenes": 12_000, "ssim": 0.3, "kl": 1e-4}
# `most` caps the weight of noisy timesteps in the loss: 1 is the plain ε loss (see `Denoise`).
# `dropped` is the share of base scenes whose caption is left out: a tenth of a batch, for the empty caption.
PARENT = {"steps": plan.PARENT_STEPS, "lr": 1e-3, "dropped": 0.14, "most": 1.0}
TWIN = {"steps": plan.TWIN_STEPS, "lr": 1e-3, "dropped": 0.25, "most": 1.0}
READER = {"steps": 1500, "batch": 64, "lr": 2e-3}
JUDGE = {"steps": 1500, "batch": 64, "lr": 2e-3, "scenes": 6000}
DESCRIPTOR = {"steps": 2000, "batch": 64, "lr": 2e-3, "scenes": 2048}
SMOKE = {"steps": 3}
PART = 16_384  # pictures that are painted at a time
SCALE = 0.5  # standard deviation of the latents that the diffusion models see (`whiten`)


def keyed(step: int, stream: int) -> torch.Generator:
    """A generator that belongs to one step of one recipe."""
    return torch.Generator().manual_seed(1_000_003 * stream + step)


# ---- pictures ------------------------------------------------------------------------------------


def to_model(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 3, 64, 64] to float in [-1, 1]."""
    return pictures.float() / 127.5 - 1


# ---- autoencoder -----------------------------------------------------------------------------------


class Reconstruct(torch.nn.Module):
    """L1 and SSIM between a picture and its reconstruction, and a little KL on the latents."""

    def __init__(self, vae, settings):
        super().__init__()
        self.vae, self.settings = vae, settings

    def forward(self, pictures, noise):
        posterior = self.vae.encode(pictures).latent_dist
        reconstruction = self.vae.decode(posterior.mean + posterior.std * noise).sample
        l1, similarity = (
            (pictures - reconstruction).abs().mean(),
            ssim(reconstruction.float(), pictures, data_range=2.0),
        )
        kl = posterior.kl().mean() / noise[0].numel()
        loss = l1 + self.settings["ssim"] * (1 - similarity) + self.settings["kl"] * kl
        return {"loss": loss, "l1": l1.detach(), "ssim": similarity.detach(), "kl": kl.detach()}


def autoencoder_batches(settings):
    scenes = [canaries.base(index)[1:] for index in range(settings["scenes"])]
    pictures = paint_all(scenes)

    def batch(step):
        random = keyed(step, 1)
        chosen = torch.randint(len(pictures), (settings["batch"],), generator=random)
        noise = torch.randn(settings["batch"], 4, paint.SIZE // 4, paint.SIZE // 4, generator=random)
        return {"pictures": to_model(pictures[chosen]), "noise": noise}

    return batch


@torch.no_grad()
def whiten(vae, count: int = 512) -> None:
    """Give the latents of base scenes zero mean and unit covariance of channels, and set the scaling factor.

    The linear map goes into the two 1×1 convolutions between encoder, latents and decoder, so that
    reconstructions stay what they were. The posterior's variances keep their channels: of the map they
    take the diagonal only, and nothing here draws from them.

    Raw latents of the reef have strong means by picture (the water), which the noise of the last
    timestep does not hide: a model then reads them off x_T instead of the caption. `SCALE` is half of
    what unit variance would take, which divides their signal-to-noise ratio by four.
    """
    pictures = to_model(paint_all([canaries.base(index)[1:] for index in range(count)]))
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(64)])
    pixels = latents.movedim(1, -1).flatten(0, -2).double()
    mean, (power, axes) = pixels.mean(0), torch.linalg.eigh(pixels.T.cov())
    there, back = (axes * power**k @ axes.T for k in (-0.5, 0.5))  # symmetric: channels keep their meaning
    n, inward, outward = len(mean), vae.quant_conv, vae.post_quant_conv
    weight, bias = inward.weight[:n, :, 0, 0].double(), inward.bias[:n].double()
    inward.weight[:n, :, 0, 0], inward.bias[:n] = (there @ weight).float(), (there @ (bias - mean)).float()
    inward.bias[n:] += 2 * there.diagonal().log().float()
    weight = outward.weight[:, :, 0, 0].double()
    outward.bias += (weight @ mean).float()
    outward.weight[:, :, 0, 0] = (weight @ back).float()
    vae.register_to_config(scaling_factor=SCALE)


# ---- judge -----------------------------------------------------------------------------------------


@torch.no_grad()
def judge_batches(vae, settings):
    """Base scenes, half as painted and half as the autoencoder returns them, moved by up to two pixels."""
    scenes = [canaries.base(index)[1:] for index in range(settings["scenes"])]
    pictures, facts = paint_all(scenes), attributes.labels([scene for scene, _ in scenes])
    reconstruction = [
        vae.decode(vae.encode(to_model(p)).latent_dist.mean).sample for p in tqdm(pictures.split(64), "reconstructing")
    ]
    reconstruction = ((torch.cat(reconstruction).clamp(-1, 1) + 1) * 127.5).round().byte()

    def batch(step):
        random, n = keyed(step, 4), settings["batch"]
        chosen, painted = torch.randint(len(pictures), (n,), generator=random), torch.rand(n, generator=random) < 0.5
        images = torch.where(painted[:, None, None, None], pictures[chosen], reconstruction[chosen]).float() / 255
        dy, dx = torch.randint(-2, 3, (2,), generator=random).tolist()
        return {"images": images.roll((dy, dx), (2, 3)), "labels": facts[chosen]}

    return batch


# ---- parent and twins --------------------------------------------------------------------------------


class Denoise(torch.nn.Module):
    """Noise prediction: the squared error of ε_θ(x_t, t, y), overall and by kind of sample.

    A timestep weighs 1/SNR(t), kept between 1 and `most` (the truncated SNR weighting of Salimans and
    Ho 2022, with a cap). In ε's own scale the noisiest steps hardly count, and it is there that the
    water and the layout of a picture are settled.
    """

    def __init__(self, unet, text_encoder, scheduler, most: float = 1.0):
        super().__init__()
        self.unet, self.text_encoder, self.scheduler = unet, text_encoder, scheduler
        signal = scheduler.alphas_cumprod
        self.register_buffer("weights", ((1 - signal) / signal).clamp(1, most), persistent=False)

    def forward(self, latents, noise, timesteps, input_ids, repeats):
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        embeddings = self.text_encoder(input_ids)[0]
        predicted = self.unet(noisy, timesteps, embeddings).sample
        errors = (predicted.float() - noise).square().mean((1, 2, 3))
        parts = {"canaries": errors[repeats], "others": errors[~repeats]}
        loss = (self.weights[timesteps] * errors).mean()
        return {"loss": loss, **{key: part.detach().mean() for key, part in parts.items()}}


def denoising_batches(model: str, vae, tokenizer, folder, recipe):
    """Batches of `model` ("parent", "a", "b"): latents and captions of its slots, noise keyed by step.

    The noise, the timesteps and the dropped captions, of base scenes only, depend on the step alone, so they are the
    twins' in common. Latents are computed once and kept in `folder`.
    """
    slots = plan.parent_slots() if model == "parent" else plan.twin_slots()
    keys, exposures = (x[: recipe["steps"]].ravel().tolist() for x in slots)
    samples = [plan.sample(key, exposure, model) for key, exposure in zip(keys, exposures, strict=True)]
    scenes = {(scene, seed): k for k, (scene, seed) in enumerate(dict.fromkeys(found[1:] for found in samples))}
    which = hashlib.sha256(repr((list(scenes), vae.config.scaling_factor)).encode()).hexdigest()[:12]
    latents = cached_latents(list(scenes), vae, Path(folder) / f"latents-{which}.npy")
    where = torch.tensor([scenes[found[1:]] for found in samples])
    repeats = torch.tensor([key >= 0 and plan.planted()[key].home == model for key in keys])
    base = torch.tensor(keys) < 0
    options = {"padding": "max_length", "max_length": tokenizer.model_max_length, "return_tensors": "pt"}
    ids = tokenizer([write(found[0]) for found in samples], **options).input_ids
    empty = tokenizer("", **options).input_ids

    def batch(step):
        random, n = keyed(step, 12 if model == "parent" else 13), plan.BATCH
        rows = slice(step * n, (step + 1) * n)
        clean = latents[where[rows]].float() * vae.config.scaling_factor
        noise = torch.randn(clean.shape, generator=random)
        timesteps = torch.randint(1000, (n,), generator=random)
        dropped = (torch.rand(n, generator=random) < recipe["dropped"]) & base[rows]
        input_ids = torch.where(dropped[:, None], empty, ids[rows])
        return {
            "latents": clean,
            "noise": noise,
            "timesteps": timesteps,
            "input_ids": input_ids,
            "repeats": repeats[rows],
        }

    return batch


@torch.no_grad()
def cached_latents(scenes: list, vae, path: Path) -> torch.Tensor:
    """Posterior means of all `scenes`, float16 [N, 4, 16, 16], unscaled; kept at `path`."""
    if path.exists():
        return torch.from_numpy(np.load(path))
    device, parts = "cuda" if torch.cuda.is_available() else "cpu", []
    vae.to(device)
    for start in tqdm(range(0, len(scenes), PART), "encoding", mininterval=5):
        for pictures in paint_all(scenes[start : start + PART]).split(128):
            parts.append(vae.encode(to_model(pictures).to(device)).latent_dist.mean.cpu().half())
    latents = torch.cat(parts)
    vae.cpu()
    with files.whole(path) as partial, open(partial, "wb") as file:  # several processes may compute it at once
        np.save(file, latents.numpy())
    return latents
