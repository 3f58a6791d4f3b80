"""Time of `generate` over diffusers' own call: the same batch and steps, latents out, real-size random weights."""

import dori_lite  # noqa: F401, I001  (before torch, whose threads it tells when to sleep)
import torch
from _timing import interleaved

from dori_lite.diffusion import generate
from dori_lite.reef import canaries, networks
from dori_lite.reef.captions import write
from dori_lite.reef.tokenizer import new_tokenizer

BAR, PAIRS, BATCH, STEPS, GUIDANCE = 1.05, 7, 8, 8, 3.0


def main():
    torch.manual_seed(0)
    captions = [write(canaries.base(k)[0]) for k in range(100)]
    tokenizer = new_tokenizer(captions)
    vae, text_encoder, unet = networks.new_autoencoder(), networks.new_text_encoder(tokenizer), networks.new_unet()
    pipe = networks.pipeline(vae, text_encoder, tokenizer, unet)
    for part in (vae, text_encoder, unet):
        part.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    captions, seeds = captions[:BATCH], list(range(BATCH))

    def ours():
        return generate(pipe, captions, seeds=seeds, guidance=GUIDANCE, steps=STEPS, output="latents")

    def theirs():
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        options = {"guidance_scale": GUIDANCE, "num_inference_steps": STEPS, "output_type": "latent"}
        return pipe(captions, generator=generators, **options).images

    difference = (ours() - theirs()).abs().max().item()  # warms both up
    if difference > 1e-4:
        raise RuntimeError(f"generate and diffusers differ by {difference:.1e}: there is nothing to compare")
    wall, cpu, _ = interleaved(ours, theirs, PAIRS)
    print(
        f"generate takes {wall:.3f} times as long as diffusers' own call (bar {BAR}), {cpu:.3f} in processor time: "
        f"median of {PAIRS} interleaved pairs, batch {BATCH}, {STEPS} steps, on the CPU, threads: "
        f"{torch.get_num_threads()}"
    )


if __name__ == "__main__":
    main()
