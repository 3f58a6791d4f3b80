"""The one training loop: AdamW, one-cycle, EMA, gradient clipping, checkpoints that resume.

What is trained is a `torch.nn.Module` whose forward takes a batch and returns its losses by name;
"loss" is the one that is minimised, the others are shown. A batch is a function of its step alone
(noise and timesteps included), so resuming needs no generator state: on the same machine, versions and
thread count an interrupted run in fp32 ends in the very same weights.
"""

import json
import math
import os
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

CHECKPOINT = "checkpoint.safetensors"


def autocast_precision() -> str:
    """Mixed precision for this machine: bf16 on a GPU that computes it, fp16 on older ones, else none."""
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"


def fit(
    task: torch.nn.Module,
    batch,
    *,
    steps: int,
    lr: float,
    folder,
    ema_decay: float = 0.999,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 1e-4,
    clip: float = 1.0,
    warmup: float = 0.05,
    checkpoint_every: float = 180.0,
    stop_at: int | None = None,
    label: str = "training",
    about: str = "",
) -> dict:
    """Train `task` for `steps` optimiser steps and leave it holding the EMA weights.

    `batch(step)` returns a dict of tensors whose first axis is the sample; with several processes
    (`accelerate launch`) each takes its share of it. Parameters with `requires_grad` are trained.
    A checkpoint in `folder` is continued; one made with other settings is an error, and so is one with
    another `about`, which names what else the weights come from, such as a foundation's hash. `stop_at` ends
    early, with a checkpoint, as an interruption would. Returns {"steps", "seconds", "losses"} and whether
    this is the "main" process, the one that should write the result.

    Raises ValueError when `folder` holds a checkpoint of other settings, FloatingPointError when the
    loss is no longer finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(0)  # only for what a module might draw by itself; the recipes' batches do not need it
    accelerator = Accelerator(mixed_precision=autocast_precision(), cpu=not torch.cuda.is_available())
    trained = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr, betas=betas, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=warmup, cycle_momentum=False)
    ema = EMAModel(trained, decay=ema_decay)
    ema.to(accelerator.device)
    settings = json.dumps(
        [steps, lr, ema_decay, betas, weight_decay, clip, warmup, [list(p.shape) for p in trained], about]
    )

    model = accelerator.prepare(task)
    start, seconds, shown = resume(folder / CHECKPOINT, settings, trained, optimizer, schedule, ema)
    optimizer = accelerator.prepare(optimizer)
    rank, world = accelerator.process_index, accelerator.num_processes
    end = steps if stop_at is None else min(steps, stop_at)
    began = saved = time.monotonic()
    bar = tqdm(total=steps, initial=start, desc=label, disable=not accelerator.is_main_process, mininterval=2)
    for step in range(start, end):
        share = {key: value[rank::world].to(accelerator.device) for key, value in batch(step).items()}
        losses = model(**share)
        accelerator.backward(losses["loss"])
        accelerator.clip_grad_norm_(trained, clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(trained)
        for key, value in losses.items():
            value = value.item()
            if math.isfinite(value):  # NaN for a kind of sample that is missing from one batch
                shown[key] = 0.98 * shown.get(key, value) + 0.02 * value
            elif key == "loss":
                raise FloatingPointError(f"{label}: the loss is not finite at step {step}; use a lower lr")
        bar.update()
        bar.set_postfix({key: f"{value:.4f}" for key, value in shown.items()}, refresh=False)
        if accelerator.is_main_process and time.monotonic() - saved > checkpoint_every:
            saved = time.monotonic()
            save(
                folder / CHECKPOINT,
                settings,
                step + 1,
                seconds + saved - began,
                shown,
                trained,
                optimizer,
                schedule,
                ema,
            )
    bar.close()
    seconds += time.monotonic() - began
    if accelerator.is_main_process and end > start:
        save(folder / CHECKPOINT, settings, end, seconds, shown, trained, optimizer, schedule, ema)
    if end == steps:
        ema.copy_to(trained)
    losses = {key: round(value, 5) for key, value in shown.items()}
    return {"steps": end, "seconds": round(seconds, 1), "losses": losses, "main": accelerator.is_main_process}


def save(path: Path, settings, step, seconds, losses, trained, optimizer, schedule, ema) -> None:
    """Write everything that resuming needs to one file, which appears whole or not at all."""
    tensors = {f"weight.{i}": p.detach() for i, p in enumerate(trained)}
    tensors |= {f"ema.{i}": p for i, p in enumerate(ema.shadow_params)}
    for i, p in enumerate(trained):
        tensors |= {f"adam.{i}.{key}": value for key, value in optimizer.state[p].items()}
    numbers = {
        "settings": settings,
        "step": str(step),
        "seconds": repr(seconds),
        "losses": json.dumps(losses),
        "ema_step": str(ema.optimization_step),
        "schedule": json.dumps({k: v for k, v in schedule.state_dict().items() if isinstance(v, int | float | list)}),
    }
    partial = path.with_suffix(".partial")
    save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, partial, numbers)
    os.replace(partial, path)


def resume(path: Path, settings, trained, optimizer, schedule, ema) -> tuple[int, float, dict]:
    """Continue from the checkpoint at `path`, if there is one: next step, seconds spent, losses shown."""
    if not path.exists():
        return 0, 0.0, {}
    with safe_open(path, "pt") as file:
        numbers = file.metadata()
        if numbers["settings"] != settings:
            raise ValueError(f"{path} was made with other settings: remove it, or choose another folder")
        with torch.no_grad():
            for i, p in enumerate(trained):
                p.copy_(file.get_tensor(f"weight.{i}"))
                ema.shadow_params[i].copy_(file.get_tensor(f"ema.{i}"))
                state = {key: file.get_tensor(f"adam.{i}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
                optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
    ema.optimization_step = int(numbers["ema_step"])
    schedule.load_state_dict(json.loads(numbers["schedule"]))
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    return int(numbers["step"]), float(numbers["seconds"]), json.loads(numbers["losses"])
