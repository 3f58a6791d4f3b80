"""What NeMo's authors published of Stable Diffusion 1.4: statistics, and the neurons they found.

    known = published_statistics(pipe, "statistics_additional_laion_prompts_v1_4.pt")
    found = nemo.localise(pipe, caption, known, **nemo.PUBLISHED)

With published neurons a model can be attacked without a search.
"""

import json
from pathlib import Path

import torch

from .checks import check_count, check_pipe
from .masks import WeightMask, of_neurons
from .models import fingerprint, value_layers
from .nemo_statistics import Statistics

CAPTION, NEURONS = "Caption", "Refined Neurons"  # columns of the published results


def published_statistics(pipe, path) -> Statistics:
    """NeMo's published μ and σ, two lists of seven tensors, as those of `pipe`: of this model alone from then on.

    Nothing in the file says which model it was made with: that it is this one is for the reader to know. Raises
    FileNotFoundError, or ValueError for a file of another content or of layers of another size.
    """
    check_pipe(pipe)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there; it is published with NeMo's code, below statistics/")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (torch and what it reads with raise all kinds)
        raise ValueError(f"{path} holds no plain tensors; give the published file") from error
    layers = value_layers(pipe.unet)
    sizes = [layer.out_features for layer in layers.values()]
    pairs = isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(p, list | tuple) for p in found)
    if not pairs or any([getattr(v, "shape", None) for v in part] != [(size,) for size in sizes] for part in found):
        raise ValueError(f"{path} is not two lists of seven tensors of {', '.join(map(str, sizes))} numbers")
    mean, std = (dict(zip(layers, part, strict=True)) for part in found)
    return Statistics(mean, std, fingerprint(pipe))


def published_neurons(pipe, path) -> dict[str, WeightMask]:
    """The masks of a published result, {caption: mask}, as those of `pipe`. A caption without neurons prunes nothing.

    The file is NeMo's: a table separated by `;`, with seven lists of neurons for each caption, a neuron twice at times.
    Raises FileNotFoundError, or ValueError, with the line, for another content or a neuron that the model has not.
    """
    import pandas as pd

    check_pipe(pipe)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there; it is what NeMo's third script writes")
    try:
        rows = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False, encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{path} is no table separated by ';' ({' '.join(str(error).split()):.80})") from None
    if missing := {CAPTION, NEURONS} - {*rows.columns}:
        raise ValueError(f"{path} has no column {min(missing)!r}; give what NeMo's third script writes")
    layers, model, masks = value_layers(pipe.unet), fingerprint(pipe), {}
    for line, (caption, said) in enumerate(zip(rows[CAPTION], rows[NEURONS], strict=True), 2):
        try:
            lists = json.loads(said)
            if not isinstance(lists, list) or len(lists) != len(layers):
                raise ValueError(f"there are not {len(layers)} lists")
            for (name, layer), several in zip(layers.items(), lists, strict=True):
                for neuron in several:
                    check_count(f"a neuron of {name}", neuron, 0, layer.out_features - 1)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, row {line}: {NEURONS} cannot be read ({error})") from None
        neurons = {name: sorted(set(several)) for name, several in zip(layers, lists, strict=True)}
        chosen = {name: where.cpu() for name, where in of_neurons(pipe.unet, neurons).layers.items()}  # a GPU is small
        mask = WeightMask(chosen, model, {"neurons": sum(map(len, neurons.values()))})
        if caption in masks and masks[caption] != mask:
            raise ValueError(f"{path}, row {line}: {caption!r:.60} comes twice, with other neurons")
        masks[caption] = mask
    return masks
