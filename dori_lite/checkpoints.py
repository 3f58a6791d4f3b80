"""Checkpoints of `fit`: everything that a training needs to go on, in one file of tensors and text, without pickle.

    save(path, numbers, trained, optimizer, rates, ema, state)
    numbers = resume(path, settings, trained, optimizer, rates, ema, state)  # {} without a file

The file appears whole or not at all.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import files

CHECKPOINT = "checkpoint.safetensors"


def kinds_of(state: dict) -> dict[str, str]:
    """Dtype and shape of each tensor, as text for settings and errors. ValueError for what is no tensor."""
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"state[{name!r}] is a {type(value).__name__}: make it a tensor, to go into checkpoints")
    return {name: f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}" for name, value in state.items()}


def save(path: Path, numbers: dict, trained, optimizer, rates, ema, state: dict) -> None:
    """Write everything that resuming needs to one file, which appears whole or not at all."""
    tensors = {f"weight.{i}": p.detach() for i, p in enumerate(trained)}
    for i, p in enumerate(trained):
        tensors |= {f"adam.{i}.{key}": value for key, value in optimizer.state[p].items()}
    tensors |= {f"ema.{i}": p for i, p in enumerate(ema.shadow_params if ema else ())}
    tensors |= {f"state.{name}": value for name, value in state.items()}
    rates = {key: value for key, value in rates.state_dict().items() if isinstance(value, int | float | list)}
    numbers = numbers | {"schedule": rates} | ({"ema_step": ema.optimization_step} if ema else {})
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in numbers.items()}
    with files.whole(path) as partial:
        save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, partial, texts)


def resume(path: Path, settings: str, trained, optimizer, rates, ema, state: dict) -> dict:
    """Put the checkpoint at `path`, if there is one, in place; the numbers it holds, or nothing."""
    if not path.exists():
        return {}
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata()
            if texts["settings"] == settings:
                return put_in_place(file, texts, trained, optimizer, rates, ema, state)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"{path} is damaged ({reason}); remove it, and training begins anew") from None
    raise ValueError(f"{path} was made with other settings: remove it, or choose another folder")


def kept_of(optimizer, weight) -> tuple[str, ...]:
    """What an optimizer keeps of a weight."""
    if not isinstance(optimizer, torch.optim.Adafactor):
        return "step", "exp_avg", "exp_avg_sq"
    return ("step", "row_var", "col_var") if weight.ndim > 1 else ("step", "variance")


def put_in_place(file, texts: dict, trained, optimizer, rates, ema, state: dict) -> dict:
    numbers = {key: json.loads(text) for key, text in texts.items() if key != "settings"}
    with torch.no_grad():
        for i, p in enumerate(trained):
            p.copy_(file.get_tensor(f"weight.{i}"))
            if ema:
                ema.shadow_params[i].copy_(file.get_tensor(f"ema.{i}"))
            adam = {key: file.get_tensor(f"adam.{i}.{key}") for key in kept_of(optimizer, p)}
            optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in adam.items()}
        for name, value in state.items():
            value.copy_(file.get_tensor(f"state.{name}"))
    rates.load_state_dict(numbers.pop("schedule"))
    for group, rate in zip(optimizer.param_groups, rates.get_last_lr(), strict=True):
        group["lr"] = rate
    if ema:
        ema.optimization_step = numbers.pop("ema_step")
    return {"last": numbers["losses"]} | numbers  # older checkpoints know the means alone
