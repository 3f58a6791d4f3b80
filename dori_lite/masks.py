"""Which weights to prune, and a pipeline without them for a while.

    mask = wanda.localise(pipe, "a caption")
    with pruned(pipe, mask):
        pictures = diffusion.generate(pipe, "a caption")

On leaving the `with`, every weight is what it was, bit for bit.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import files
from .checks import check_count, check_pipe, check_seed, check_unet, check_weights
from .hooks import modules
from .models import check_same_model, fingerprint


@dataclass(frozen=True, eq=False)
class WeightMask:
    """Layer name → boolean tensor of that layer's weight, True where the weight is to be zero.

    `a | b` prunes what either does, `a & b` what both do; a layer that one of them lacks counts as unpruned.
    Names are those of the U-Net (`models.value_layers`, `models.mlp_layers`). `model` is the `fingerprint` of the
    model it was found in; a mask without one fits any. `about` is what the localiser says of it, kept with it.
    Raises ValueError for a tensor that is not boolean or has fewer than two axes, and for what no file could keep.
    """

    layers: Mapping[str, torch.Tensor]
    model: str | None = None
    about: Mapping = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.layers, Mapping) or not all(isinstance(name, str) for name in self.layers):
            raise ValueError("layers must be a dict {layer name: boolean tensor}; see masks.of_neurons")
        if not (self.model is None or isinstance(self.model, str)) or not isinstance(self.about, Mapping):
            raise ValueError("model must be the fingerprint of one, or None, and about a dict of what is said of it")
        try:
            json.dumps(files.plain(self.about))
        except (TypeError, ValueError) as error:
            raise ValueError(f"about must be what JSON can hold: {' '.join(str(error).split())}") from None
        for name, where in self.layers.items():
            if not isinstance(where, torch.Tensor) or where.dtype != torch.bool or where.ndim < 2:
                raise ValueError(f"the mask of {name} must be a boolean tensor of its weight's shape")

    def __or__(self, other: "WeightMask") -> "WeightMask":
        return combine(self, other, torch.logical_or)

    def __and__(self, other: "WeightMask") -> "WeightMask":
        return combine(self, other, torch.logical_and)

    def __eq__(self, other) -> bool:
        """Whether both prune the same weights."""
        if not isinstance(other, WeightMask):
            return NotImplemented
        other = WeightMask(other.layers)  # of whatever model
        return not any(where.any() for where in combine(self, other, torch.logical_xor).layers.values())

    __hash__ = None

    @property
    def count(self) -> int:
        """How many weights are pruned."""
        return sum(int(where.sum()) for where in self.layers.values())

    @property
    def density(self) -> float:
        """Share of the layers' weights that are pruned; 0 without layers."""
        return self.count / max(1, sum(where.numel() for where in self.layers.values()))

    def densities(self) -> dict[str, float]:
        """The same for each layer: effective densities, whatever share was asked for."""
        return {name: where.float().mean().item() for name, where in self.layers.items()}

    def save(self, path) -> None:
        """Write the mask as safetensors (one byte a weight); the file appears whole or not at all."""
        # clones, since safetensors refuses one tensor under two names
        tensors = {name: where.cpu().clone().contiguous() for name, where in self.layers.items()}
        with files.whole(path) as partial:
            save_file(tensors, partial, {"mask": json.dumps(files.plain({"model": self.model, "about": self.about}))})

    @classmethod
    def load(cls, path) -> "WeightMask":
        """The mask that `save` wrote. Raises FileNotFoundError, or ValueError for a file that is no mask."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no mask in {path}; write one with WeightMask.save")
        try:
            with safe_open(path, "pt") as file:
                kept = json.loads((file.metadata() or {}).get("mask", "{}"))
                return cls({name: file.get_tensor(name) for name in file.keys()}, **kept)  # noqa: SIM118
        except (SafetensorError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a mask that WeightMask.save wrote") from error


def kept(path, make) -> WeightMask:
    """The mask in a file; if it is not there, what `make()` gives, once it is written there."""
    if not Path(path).exists():
        make().save(path)
    return WeightMask.load(path)


def check_mask(mask) -> WeightMask:
    """`mask` if it is one. Raises ValueError."""
    if not isinstance(mask, WeightMask):
        raise ValueError(f"a {type(mask).__name__} is no mask; give a WeightMask, such as masks.of_neurons makes")
    return mask


def combine(one: WeightMask, other: WeightMask, operation) -> WeightMask:
    layers, other = {}, check_mask(other)
    for name in dict.fromkeys([*one.layers, *other.layers]):
        a, b = one.layers.get(name), other.layers.get(name)
        a, b = torch.zeros_like(b) if a is None else a, torch.zeros_like(a) if b is None else b
        if a.shape != b.shape:
            raise ValueError(f"the masks of {name} have shapes {[*a.shape]} and {[*b.shape]}: of different models?")
        layers[name] = operation(a, b.to(a.device))
    if None not in (one.model, other.model) and one.model != other.model:
        raise ValueError("these masks were found in different models; masks of one model combine")
    return WeightMask(layers, one.model or other.model)


def empty(network: torch.nn.Module, names) -> WeightMask:
    """The mask over the layers `names` that prunes nothing. Raises ValueError for an unknown layer."""
    found = weights(network, names)
    return WeightMask({name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in found.items()})


def weights(network: torch.nn.Module, names) -> dict[str, torch.nn.Parameter]:
    """The weights of the layers `names`. Raises ValueError for an unknown layer, one without a weight, or a dead one.

    What `checks.check_unet` refuses is refused here too: `network` is a U-Net.
    """
    check_unet(network)
    found = modules(network, names)
    for name, layer in found.items():
        if not isinstance(layer._parameters.get("weight"), torch.Tensor):
            raise ValueError(f"{name} has no weight of its own to prune; name a layer inside it")
        check_weights(layer._parameters, name, "network")
    return {name: layer.weight for name, layer in found.items()}


def of_neurons(network: torch.nn.Module, neurons: Mapping) -> WeightMask:
    """The mask that prunes whole neurons: {layer: output features}, each a row of the layer's weight.

    Raises ValueError for an unknown layer or a neuron that it has not.
    """
    if not isinstance(neurons, Mapping):
        raise ValueError(f"neurons are a {type(neurons).__name__}; give a dict {{layer: output features}}")
    mask = empty(network, neurons)
    for name, rows in neurons.items():
        if isinstance(rows, Mapping) or not hasattr(rows, "__iter__"):
            raise ValueError(f"the neurons of {name} are a {type(rows).__name__}; give a list of output features")
        size, rows = len(mask.layers[name]), [*(rows.tolist() if hasattr(rows, "tolist") else rows)]
        for row in rows:
            check_count(f"a neuron of {name}", row, 0, size - 1)
        mask.layers[name][rows] = True
    return mask


def random_like(mask: WeightMask, seed: int, *, rows: bool = False) -> WeightMask:
    """A random mask with as many pruned weights in each layer: the control for any mask.

    `rows=True` draws whole neurons, for a mask of whole neurons. Raises ValueError if `mask` is not one.
    """
    layers = {}
    random = torch.Generator().manual_seed(check_seed(seed))
    for name, where in check_mask(mask).layers.items():
        flat = where.flatten(1)
        if rows and not torch.equal(flat.any(1), flat.all(1)):
            raise ValueError(f"the mask of {name} does not prune whole neurons; use rows=False")
        units = flat.all(1) if rows else where.flatten()
        drawn = torch.zeros(len(units), dtype=torch.bool)
        drawn[torch.randperm(len(units), generator=random)[: int(units.sum())]] = True
        layers[name] = (drawn[:, None].expand_as(flat) if rows else drawn).reshape(where.shape).to(where.device)
    return WeightMask(layers, mask.model)


def resized(mask: WeightMask, like: WeightMask, seed: int) -> WeightMask:
    """`mask` with as many pruned weights in each layer as `like`: thinned or filled up at random.

    For a control by another caption's mask: what it chose, at equal density. Raises ValueError for other layers.
    """
    layers, random = {}, torch.Generator().manual_seed(check_seed(seed))
    for name, wanted in check_mask(like).layers.items():
        where = check_mask(mask).layers.get(name)
        if where is None or where.shape != wanted.shape:
            raise ValueError(f"the masks are not of the same layers ({name}); find both with the same settings")
        order = torch.rand(where.numel(), generator=random) + (~where.flatten().cpu())  # the mask's own come first
        chosen = torch.zeros(where.numel(), dtype=torch.bool)
        chosen[order.argsort()[: int(wanted.sum())]] = True
        layers[name] = chosen.reshape(where.shape).to(where.device)
    return WeightMask(layers, mask.model)


@contextmanager
def pruned(pipe, mask: WeightMask | None, *, transfer: bool = False):
    """`pipe` with the mask's weights at zero while the body runs; yields the pipeline.

    On leaving, also by an exception, the weights come back bit for bit; those outside the mask are never touched.
    None, or a mask of nothing, prunes nothing. Contexts nest. If the U-Net's precision is changed inside, they come
    back in the new one, with a warning; on another device they are the same. Raises ValueError for a mask that was
    found in another model, unless `transfer`, for a layer that the U-Net has not, a mask of another shape, or a
    pipeline that `checks.check_pipe` refuses, before anything changes.
    """
    check_pipe(pipe)
    wanted = {} if mask is None else dict(check_mask(mask).layers)
    layers = weights(pipe.unet, wanted)
    for name, weight in layers.items():
        if weight.shape != wanted[name].shape:
            shapes = f"{[*wanted[name].shape]}, the weight {[*weight.shape]}"
            raise ValueError(f"the mask of {name} has shape {shapes}: it is another model's")
    if mask is not None:
        check_same_model(pipe, mask.model, "this mask was", transfer, unpruned=True)
    before = getattr(pipe.unet, "unpruned", None)
    saved = {}
    try:
        if mask is not None:
            pipe.unet.unpruned = before or fingerprint(pipe)
        with torch.no_grad():
            for name, weight in layers.items():
                where = wanted[name].to(weight.device)
                saved[name] = where, weight[where]
                weight[where] = 0
        yield pipe
    finally:
        with torch.no_grad():
            for name, (where, values) in saved.items():
                weight = pipe.unet.get_submodule(name).weight  # as it is now: it may have been converted or moved
                weight[where.to(weight.device)] = values.to(weight)
        if saved and weight.dtype != values.dtype:
            cure = "the pruned weights came back in its precision; convert before or after"
            warnings.warn(f"the U-Net became {str(weight.dtype)[6:]} inside `pruned`: {cure}", stacklevel=3)
        pipe.unet.__dict__.pop("unpruned", None)
        if before:
            pipe.unet.unpruned = before
