"""Every stage on an architecture of Stable Diffusion 1.4's size, with random weights: shapes, precision, memory.

    python tools/full_size.py           # all stages, each in a process of its own; some twenty minutes on a CPU
    python tools/full_size.py sample    # one of them, printed and not kept

What it prints is kept in `dori_lite/stable_diffusion/full_size.json`, from which the book's table is made. A stage
that a GPU ran is measured there; a CPU's is in fp32, and what a GPU would need is computed from it and called so.
"""

import dori_lite  # noqa: F401, I001  (before torch, whose threads it tells when to sleep)
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from dori_lite import detection, diffusion, dori, files, models, nemo, wanda
from dori_lite.reef import canaries, captions, networks
from dori_lite.reef.tokenizer import new_tokenizer
from dori_lite.unlearning.loop import forgetting

OUT = Path(__file__).parent.parent / "dori_lite" / "stable_diffusion" / "full_size.json"
WIDTHS, CROSS = (320, 640, 1280, 1280), "CrossAttnDownBlock2D"
UNET = {"sample_size": 64, "block_out_channels": WIDTHS, "cross_attention_dim": 768, "attention_head_dim": 8}
UNET |= {"down_block_types": (CROSS, CROSS, CROSS, "DownBlock2D")}
UNET |= {"up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3}
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512}
VAE |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
TEXT = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
TEXT |= {"num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}
CUDA = torch.cuda.is_available()
GB = 1e9


def pipeline():
    """Stable Diffusion 1.4 with random weights: fp16 on a GPU, fp32 on the CPU."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer([captions.write(canaries.base(k)[0]) for k in range(100)])
    tokenizer.model_max_length = 77
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = CLIPTextModel(CLIPTextConfig(**TEXT, **ids))
    parts = AutoencoderKL(**VAE), text, tokenizer, UNet2DConditionModel(**UNET)
    pipe = networks.pipeline(*parts)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    pipe.unet.enable_gradient_checkpointing()
    return pipe.to("cuda", torch.float16) if CUDA else pipe


# ---- stages: what each does with the pipeline; what it returns is shown -------------------------------------

CAPTION = "a striped red fish called marlow over rock"


def picture(pipe):
    """VAE: a picture of 512 pixels to latents and back."""
    x_0 = models.encode(pipe, torch.rand(1, 3, 512, 512).to(pipe.device))
    return {"latents": [*x_0.shape], "picture": [*models.decode(pipe, x_0).shape]}


def sample(pipe):
    """Two sampling steps with guidance."""
    return {"latents": [*diffusion.generate(pipe, CAPTION, seeds=[0], guidance=7.0, steps=2, output="latents").shape]}


def nemo_stage(pipe):
    """NeMo: statistics, noise differences of two seeds, and one set of neurons blocked."""
    known = nemo.statistics(pipe, [CAPTION, "a blue fish", "a green fish"])
    clear = detection.noise_differences(pipe, CAPTION, range(2))[0]
    y = models.conditions(pipe, CAPTION)
    rule = nemo.VARIANTS["published"]
    ablation = nemo.Ablation(pipe, y, [0, 1], clear, rule["step"], 50, rule["multiscale"], False)
    score = ablation.highest({name: [0, 1] for name in known.mean})
    return {"layers": {k.split(".attentions")[0]: len(v) for k, v in known.mean.items()}, "similarity": round(score, 3)}


def wanda_stage(pipe):
    """Wanda: one U-Net call for the caption and one for the empty one, both doses."""
    found = wanda.localise(pipe, CAPTION, (0.01, 0.1), calls=1, guidance=7.0, steps=50)
    return {"weights": {str(rho): mask.count for rho, mask in found.items()}}


def attack(pipe, batch):
    """DoRI: two steps with so many noisy latents each, gradients to the embedding, checkpointed."""
    x_0 = torch.randn(1, *models.latent_shape(pipe)).to(pipe.device, pipe.unet.dtype)
    found = dori.find_triggers(pipe, x_0, CAPTION, steps=2, batch=batch)
    return {"embeddings": [*found.embeddings.shape], "moved": round(found.displacement.item(), 2)}


def training(pipe, optimizer="adamw"):
    """Fine-tuning: one update of all weights of the U-Net, in fp32, with one retained sample and one wrong answer."""
    pipe.to(dtype=torch.float32)
    x_0, y = torch.randn(2, 1, *models.latent_shape(pipe)), models.embed(pipe, CAPTION).cpu()
    with tempfile.TemporaryDirectory() as folder:
        options = {"steps": 2, "lr": 1e-5, "batch": (1, 1), "folder": folder, "checkpoint_every": 1e9}
        options |= {"optimizer": optimizer}
        loop = forgetting(pipe, (x_0[0], y), x_0[1:], {"y": y[None]}, **options)
        _, losses = next(loop)
        peak = memory()
        loop.close()  # left early, it writes its checkpoint
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    trained = sum(p.numel() for p in pipe.unet.parameters())
    found = {"loss": round(losses["loss"], 3), "trained": trained, "checkpoint": size, "with it": memory()["peak"]}
    return {**found, **peak}


STAGES = {
    "picture": picture,
    "sample": sample,
    "nemo": nemo_stage,
    "wanda": wanda_stage,
    "attack, batch 1": lambda pipe: attack(pipe, 1),
    "attack, batch 2": lambda pipe: attack(pipe, 2),
    "training, AdamW": training,
    "training, Adafactor": lambda pipe: training(pipe, "adafactor"),
}


def memory() -> dict:
    """The most that was in use, in bytes: of the GPU, or of this process since it was last asked to forget."""
    if CUDA:
        return {"peak": torch.cuda.max_memory_allocated()}
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return {"peak": int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024}


def run(stage: str) -> dict:
    """One stage in this process."""
    pipe = pipeline()
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text encoder": pipe.text_encoder}
    weights = {name: sum(p.numel() * p.element_size() for p in part.parameters()) for name, part in parts.items()}
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, began = memory()["peak"], time.monotonic()
    found = STAGES[stage](pipe)
    told = {"attack": attack, "training": training}.get(stage.partition(",")[0], STAGES[stage]).__doc__
    row = {"stage": stage, "what": told.strip(), "peak": memory()["peak"]}
    row |= {"dtype": str(pipe.unet.dtype)[6:], "device": torch.cuda.get_device_name() if CUDA else "cpu"}
    row |= {"weights": weights, "before": before, "seconds": round(time.monotonic() - began, 1)}
    return {**row, "peak": found.pop("peak", row["peak"]), "found": found}


def main():
    chosen = sys.argv[1:] or [*STAGES]
    if unknown := [name for name in chosen if name not in STAGES]:
        sys.exit(f"no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    if len(chosen) == 1 and sys.argv[1:]:
        print(json.dumps(run(chosen[0])))
        return
    known = files.read_json(OUT, {})
    for name in chosen:
        done = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, encoding="utf-8")
        if done.returncode:
            sys.exit(f"the stage {name!r} failed; its message is above")
        row = json.loads(done.stdout.splitlines()[-1])
        known[f"{name}, {row['device']}"] = row
        files.write_json(OUT, known)
        print(f"{name}: {row['seconds']:.0f} s, peak {row['peak'] / GB:.1f} GB, {row['dtype']}, {row['found']}")


if __name__ == "__main__":
    main()
