"""NeMo's statistics: what each value neuron's activation is for captions that are not memorized.

    known = nemo.statistics(pipe, captions)
    save(known, "statistics.safetensors")
    known = load("statistics.safetensors")

They carry the fingerprint of their model, and are refused in another.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import files


@dataclass(frozen=True)
class Statistics:
    """μ and σ (unbiased) of each neuron's activation over captions that are not memorized: {layer: [out]}.

    `model` is the `fingerprint` of the model they were taken in; without one they fit any. ValueError unless finite.
    """

    mean: Mapping[str, torch.Tensor]
    std: Mapping[str, torch.Tensor]
    model: str | None = None

    def __post_init__(self):
        if not isinstance(self.mean, Mapping) or not isinstance(self.std, Mapping) or {*self.mean} != {*self.std}:
            raise ValueError("statistics are two dicts {layer: [out]} of the same layers, mean and std")
        for name, mean in self.mean.items():
            if mean.shape != (std := self.std[name]).shape or not (mean.isfinite().all() and std.isfinite().all()):
                raise ValueError(f"the statistics of {name} are not as many finite means and deviations; redo them")

    def of(self, names) -> "Statistics":
        """The same for some of the layers only. Raises ValueError for one there are none of."""
        if unknown := [name for name in names if name not in self.mean]:
            raise ValueError(f"there are no statistics of {unknown[0]!r}; there are: {', '.join(self.mean)}")
        return Statistics({k: self.mean[k] for k in names}, {k: self.std[k] for k in names}, self.model)


def save(statistics: Statistics, path) -> None:
    """Write statistics as safetensors, with the model's fingerprint; the file appears whole or not at all."""
    if not isinstance(statistics, Statistics):
        raise ValueError(f"a {type(statistics).__name__} is no statistics; give what nemo.statistics makes")
    parts = {"mean": statistics.mean, "std": statistics.std}
    tensors = {f"{part}/{k}": v.cpu().clone() for part, values in parts.items() for k, v in values.items()}
    with files.whole(path) as partial:
        save_file(tensors, partial, {"statistics": json.dumps({"model": statistics.model})})


def load(path) -> Statistics:
    """The statistics that `save` wrote. Raises FileNotFoundError, or ValueError for a file that holds none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there are no statistics in {path}; write them with nemo_statistics.save")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["statistics"])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of statistics that nemo_statistics.save wrote") from error
    parts = ({n.removeprefix(part): v for n, v in found.items() if n.startswith(part)} for part in ("mean/", "std/"))
    return Statistics(*parts, about["model"])
