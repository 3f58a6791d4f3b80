"""The one training loop: AdamW, a one-cycle or constant rate, EMA, gradient clipping, checkpoints that resume.

What is trained is a `torch.nn.Module` whose forward takes a batch and returns its losses by name;
"loss" is the one that is minimised, the others are shown. To train to the end:

    done = fit(task, batch, steps=20_000, lr=1e-3, folder="runs/parent")

To look at the model after each step, with batches that depend on what it is by then:

    state = {"triggers": triggers.clone()}  # goes into the checkpoints; `batch` reads it
    options = {"schedule": "constant", "ema_decay": None, "state": state}
    for step, losses in training(task, batch, steps=200, lr=1e-5, folder="runs/unlearned", **options):
        if step % 5 == 4:
            state["triggers"] = attack(task, start=state["triggers"])
        if forgotten(task):
            break

A batch is a function of its step, the model and `state` (noise and timesteps included), so resuming needs
no generator state: on the same machine, versions and thread count an interrupted run in fp32 ends in the
very same weights.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from numbers import Real

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from . import files, locks
from .checkpoints import CHECKPOINT, kinds_of, resume, save
from .ranges import check_count, check_list, check_number

PRECISIONS = (None, "no", "bf16", "fp16")
SCHEDULES = ("one-cycle", "constant")
OPTIMIZERS = ("adamw", "adafactor")


def autocast_precision() -> str:
    """Mixed precision for this machine: bf16 on a GPU that computes it, fp16 on older ones, else none."""
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"


def fit(task: torch.nn.Module, batch: Callable[[int], dict], **options) -> dict:
    """Train `task` to the end and leave it holding the EMA weights. The options, and the errors, of `training`.

    Returns {"steps", "seconds", "losses" (running means)} and whether this is the "main" process, the one that
    should write the result.
    """
    loop = training(task, batch, **options)
    while True:
        try:
            next(loop)
        except StopIteration as end:
            return end.value


def training(
    task: torch.nn.Module,
    batch: Callable[[int], dict],
    *,
    steps: int,
    lr: float,
    folder,
    schedule: str = "one-cycle",
    ema_decay: float | None = 0.999,
    optimizer: str = "adamw",
    state: dict[str, torch.Tensor] | None = None,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 1e-4,
    clip: float = 1.0,
    warmup: float = 0.05,
    precision: str | None = None,
    checkpoint_every: float = 180.0,
    stop_at: int | None = None,
    label: str = "training",
    about: str = "",
    alone: bool = False,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Train `task` for `steps` optimiser steps; after each, yield its number (from 0) and its losses by name.

    `batch(step)` returns a dict of tensors whose first axis is the sample; with several processes
    (`accelerate launch`) each takes its share of it, yields that share's losses and runs the loop's body; `alone`, a
    process that shares something else trains by itself.
    Parameters with `requires_grad` are trained, at the rate `lr` (constant) or up to it and down again
    (one-cycle; `warmup` is the share of the steps on the way up). Gradients are cut to the norm `clip`.

    `optimizer` "adafactor" keeps two vectors for a matrix where Adam keeps two matrices, for a model whose Adam has no
    room (torch's factors the last two axes alone: of a convolution it keeps more, of Stable Diffusion's U-Net half the
    weights' size). Its `lr` counts in units of each weight's size, and `betas` are not looked at.

    `precision` is accelerate's word for it, "no" for fp32 everywhere [default: `autocast_precision`].

    The body of the loop may look at `task`, which holds the current weights, and change `state`: tensors of any
    shape, in place or new ones of the same shape and dtype. `batch` may do so, too. After the last step `task` is
    given the EMA weights (with `ema_decay=None` it keeps the last ones), and the result of `fit` is returned.

    A checkpoint is written to `folder` every `checkpoint_every` seconds, after the last step and when the loop is
    left early, by `break` or by an exception in its body (a loop kept in a variable needs its `close()` for that).
    The same call goes on from there: the tensors of `state` are overwritten with what they were, and the last step
    is yielded again, because its body may have been cut short; a loop that ended by `break` so ends there again.
    A checkpoint made with other settings is an error, and so is one with another `about`, which names what else
    the weights come from, such as a foundation's hash. `stop_at` ends after so many steps, with a checkpoint, as
    an interruption would.

    Raises ValueError for an unknown `schedule` or `optimizer`, a number out of its range, a `task` without parameters
    to train, a `state` that holds something else than tensors or whose names, shapes or dtypes change, a batch or
    losses of another kind, and a damaged checkpoint or one of other settings; OSError if `folder` cannot be written to;
    FloatingPointError when the loss is no longer finite. An error in a step or in `batch` leaves the last checkpoint.
    """
    check_options(steps, lr, weight_decay, clip, warmup, stop_at, betas)
    if not (isinstance(checkpoint_every, Real) and checkpoint_every >= 0) or isinstance(checkpoint_every, bool):
        raise ValueError(f"checkpoint_every={checkpoint_every!r} is no number of seconds; give one, 0 for every step")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: choose one of {', '.join(map(repr, PRECISIONS))}")
    for what, word, known in (("schedule", schedule, SCHEDULES), ("optimizer", optimizer, OPTIMIZERS)):
        if word not in known:
            raise ValueError(f"{what} is {word!r}: choose one of {', '.join(known)}")
    if ema_decay is not None and not (isinstance(ema_decay, Real) and 0 < ema_decay < 1):
        raise ValueError(f"ema_decay is {ema_decay}: give a number between 0 and 1, or None for no EMA")
    state = {} if state is None else state
    kinds = kinds_of(state)
    trained = [p for p in task.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing would be trained: no parameter of the task has requires_grad; set it where it should")
    folder = files.check_writable(folder)
    set_seed(0)  # only for what a module might draw by itself; the recipes' batches do not need it
    with locks.alone() if alone else nullcontext():
        accelerator = Accelerator(mixed_precision=precision or autocast_precision(), cpu=not torch.cuda.is_available())
    plain = optimizer == "adamw"
    new = partial(torch.optim.AdamW, betas=betas) if plain else torch.optim.Adafactor
    optimizer = new(trained, lr, weight_decay=weight_decay)
    rates = new_schedule(schedule, optimizer, lr, steps, warmup)
    ema = EMAModel(trained, decay=ema_decay) if ema_decay else None
    if ema:
        ema.to(accelerator.device)
    settings = [steps, lr, ema_decay, betas, weight_decay, clip, warmup, [list(p.shape) for p in trained], about]
    if schedule != "one-cycle" or kinds:  # left out where they say nothing, as in the checkpoints before they existed
        settings.append({"schedule": schedule, "state": kinds})
    settings += [] if plain else ["adafactor"]

    model = accelerator.prepare(task)
    path, parts = folder / CHECKPOINT, (trained, optimizer, rates, ema)
    numbers = {"settings": json.dumps(settings, sort_keys=True), "step": 0, "seconds": 0.0, "losses": {}, "last": {}}
    numbers |= resume(path, numbers["settings"], *parts, state)
    start, before, shown = numbers["step"], numbers["seconds"], numbers["losses"]
    optimizer = accelerator.prepare(optimizer)
    rank, world, main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    for torn in folder.glob("checkpoint*.partial") if main else ():  # of a process that was killed while it wrote
        torn.unlink(missing_ok=True)
    end = steps if stop_at is None else min(steps, stop_at)
    began = saved = time.monotonic()
    with tqdm(total=steps, initial=start, desc=label, disable=not main, mininterval=2) as bar:
        if start:
            yield start - 1, numbers["last"]
        for step in range(start, end):
            whole = check_batch(batch(step), f"{label}: batch({step})")
            share = {key: value[rank::world].to(accelerator.device) for key, value in whole.items()}
            optimizer.zero_grad()  # what the loop's body or `batch` left in the gradients
            losses = check_losses(model(**share), f"{label}: the losses of step {step}")
            accelerator.backward(losses["loss"])
            accelerator.clip_grad_norm_(trained, clip)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()  # free their memory for the loop's body
            if ema:
                ema.step(trained)
            losses = {key: value.item() for key, value in losses.items()}
            for key, value in losses.items():
                if math.isfinite(value):  # NaN for a kind of sample that is missing from one batch
                    shown[key] = 0.98 * shown.get(key, value) + 0.02 * value
                elif key == "loss":
                    raise FloatingPointError(f"{label}: the loss is not finite at step {step}; use a lower lr")
            bar.update()
            bar.set_postfix({key: f"{value:.4f}" for key, value in shown.items()}, refresh=False)

            if kinds_of(state) != kinds:
                raise ValueError(f"state was {kinds} and has become {kinds_of(state)}: keep names, shapes and dtypes")
            now = time.monotonic()
            numbers |= {"step": step + 1, "seconds": before + now - began, "losses": shown, "last": losses}
            held = {name: value.detach().clone() for name, value in state.items()}  # the body will be done again
            due = main and (step + 1 == end or now - saved > checkpoint_every)
            if due:
                saved = now
                save(path, numbers, *parts, held)
            try:
                yield step, dict(losses)
            except GeneratorExit:  # the loop was left
                if main and not due:
                    save(path, numbers, *parts, held)
                raise
    if end == steps and ema:
        ema.copy_to(trained)
    seconds, losses = before + time.monotonic() - began, {key: round(value, 5) for key, value in shown.items()}
    return {"steps": end, "seconds": round(seconds, 1), "losses": losses, "main": main}


def check_options(steps, lr, weight_decay, clip, warmup, stop_at, betas) -> None:
    """Raise ValueError for a number that trains nothing, or anything but what was meant."""
    check_count("steps", steps)
    if not check_number("lr", lr, 0):
        raise ValueError("lr=0 trains nothing; give a rate above 0")
    for name, value, most in (
        ("weight_decay", weight_decay, math.inf),
        ("clip", clip, math.inf),
        ("warmup", warmup, 1),
    ):
        check_number(name, value, 0, most)
    if stop_at is not None:
        check_count("stop_at", stop_at, 0)
    if len(check_list("betas", betas, "two numbers")) != 2 or not all(
        isinstance(b, Real) and 0 <= b < 1 for b in betas
    ):
        raise ValueError(f"betas={betas!r:.40} are not two numbers from 0 on and below 1; give AdamW's two")


def check_batch(batch, what: str) -> dict:
    """`batch` if it is a dict of tensors with a first axis."""
    if not isinstance(batch, Mapping) or not batch:
        raise ValueError(f"{what} is {batch!r:.40}; return a dict of tensors, whose first axis is the sample")
    for key, value in batch.items():
        if not isinstance(value, torch.Tensor) or not value.ndim:
            raise ValueError(f"{what} has {value!r:.40} as {key!r}; make it a tensor, whose first axis is the sample")
    return batch


def is_number(value) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1


def check_losses(losses, what: str) -> dict:
    """`losses` if they are a dict of numbers, in tensors, with a "loss" that gradients can be taken of."""
    if not isinstance(losses, Mapping) or not all(is_number(value) for value in losses.values()):
        raise ValueError(f"{what} are no dict of tensors with one number each; return that from the task's forward")
    if not getattr(losses.get("loss"), "requires_grad", False):
        raise ValueError(f'{what} have no "loss" that depends on the weights; return one from the task\'s forward')
    return losses


def new_schedule(name: str, optimizer, lr: float, steps: int, warmup: float):
    """The learning rate as a function of the step: torch's scheduler called `name`, one of SCHEDULES."""
    if name == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=warmup, cycle_momentum=False)
