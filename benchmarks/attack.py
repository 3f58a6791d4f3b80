"""Time of a step of `find_triggers` over the bare U-Net's forward and backward: same batch, real-size weights."""

import dori_lite  # noqa: F401, I001  (before torch, whose threads it tells when to sleep)
import torch
from _timing import interleaved
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dori_lite.diffusion import draw
from dori_lite.dori import find_triggers
from dori_lite.models import embed
from dori_lite.reef import canaries, networks
from dori_lite.reef.captions import write
from dori_lite.reef.tokenizer import new_tokenizer

BAR, PAIRS, TARGETS, NOISES, STEPS = 1.10, 7, 4, 8, 6


def main():
    torch.manual_seed(0)
    captions = [write(canaries.base(k)[0]) for k in range(100)]
    tokenizer = new_tokenizer(captions)
    vae, text_encoder, unet = networks.new_autoencoder(), networks.new_text_encoder(tokenizer), networks.new_unet()
    pipe = networks.pipeline(vae, text_encoder, tokenizer, unet)
    for part in (vae, text_encoder, unet):
        part.requires_grad_(False).eval()
    size = unet.config.sample_size
    latents, start = torch.randn(TARGETS, unet.config.in_channels, size, size), embed(pipe, captions[:TARGETS])
    prepared = []
    for step in range(STEPS):
        noise, t = draw([str(k) for k in range(TARGETS)], 0, step, NOISES, latents, 0, 1000)
        noise, t = noise.flatten(0, 1), t.flatten()
        x_t = pipe.scheduler.add_noise(latents.repeat_interleave(NOISES, 0), noise, t)
        prepared.append((x_t, t, noise))

    def ours(steps=STEPS):
        return find_triggers(pipe, latents, start, steps=steps, batch=NOISES, samples=TARGETS * NOISES)

    def bare(steps=STEPS):
        y = start.clone().requires_grad_()
        for x_t, t, noise in prepared[:steps]:
            found = unet(x_t, t, y.repeat_interleave(NOISES, 0), return_dict=False)[0]
            (gradient,) = torch.autograd.grad((found - noise).square().mean() * TARGETS, y)
        return gradient

    seen, expected = [], bare(1)
    hook = register_optimizer_step_pre_hook(
        lambda adam, *_: seen.append(adam.param_groups[0]["params"][0].grad.clone())
    )
    ours(1)
    hook.remove()
    difference = ((seen[0] - expected).abs().max() / expected.abs().max()).item()
    if not difference < 1e-4:
        raise RuntimeError(f"the gradients differ by {difference:.1e} of the largest: there is nothing to compare")
    ours(), bare()  # warms both up
    wall, cpu, seconds = interleaved(ours, bare, PAIRS)
    print(
        f"a step of find_triggers takes {wall:.3f} times as long as the bare U-Net's forward and backward pass "
        f"(bar {BAR}), {cpu:.3f} in processor time: median of {PAIRS} interleaved pairs of {STEPS} steps "
        f"({seconds / STEPS:.2f} s each), {TARGETS} targets × {NOISES} noises, {unet.dtype}, "
        f"{type(unet.mid_block.attentions[0].transformer_blocks[0].attn2.processor).__name__}, on the CPU, threads: "
        f"{torch.get_num_threads()}"
    )


if __name__ == "__main__":
    main()
