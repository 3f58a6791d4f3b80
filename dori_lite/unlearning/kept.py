"""What unlearning made, in one file: the weights of a U-Net, and what is said of them.

    save(unlearned, "mine/unet.safetensors", base=pipe, method="mine")
    unlearned, about = load("mine/unet.safetensors", base=pipe)

Weights are kept in fp16, as the models that are shipped. A file holds the fingerprints of the model it was made from
and of its own weights: with another model, or damaged, it is refused.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .. import files
from ..models import fingerprint
from .methods import copied


@torch.no_grad()
def save(pipe, path, *, base, **about) -> dict:
    """Write the U-Net of `pipe`, which was made from the model `base`, and return what the file says of it.

    `about` are values that JSON can hold. `load` gives the model as it is kept, in fp16. Raises ValueError for a
    U-Net of another shape than the base's or with weights that are not finite.
    """
    weights = {name: value.detach().half().contiguous().cpu() for name, value in pipe.unet.state_dict().items()}
    own = base.unet.state_dict()
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in own.items()}:
        raise ValueError("this U-Net has other weights than the model it was made from; give the base it belongs to")
    if strange := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{strange[0]} of the U-Net is not finite in fp16; nothing was kept: train at a lower rate")
    about = files.plain(about) | {"base": fingerprint(base), "weights": digest(weights)}
    with files.whole(path) as partial:
        save_file(weights, partial, {"about": json.dumps(about, sort_keys=True)})
    return about


@torch.no_grad()
def load(path, *, base):
    """A pipeline with the U-Net in `path`, all else shared with the model `base`; and what the file says of it.

    Raises FileNotFoundError without the file; ValueError for one that is damaged, something else, or of another base.
    """
    about, weights = read(path)
    if about["weights"] != digest(weights):
        raise ValueError(f"{path} is damaged (its weights are not those that were kept); remove it, and make it again")
    if about["base"] != fingerprint(base):
        raise ValueError(
            f"{path} was made from another model than this one; give the base that it says: {about['base']}"
        )
    new = copied(base)
    new.unet.load_state_dict({name: value.to(base.unet.dtype) for name, value in weights.items()})
    return new, about


def about(path) -> dict:
    """What a file that `save` wrote says of its weights; raises as `load` does, and does not check them."""
    return read(path, weights=False)[0]


def read(path, weights: bool = True) -> tuple[dict, dict]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no unlearned U-Net {path}; make it with `dori-lite unlearn`")
    try:
        with safe_open(path, "pt") as file:
            said = json.loads((file.metadata() or {})["about"])
            names = file.keys() if weights else ()
            found = {name: file.get_tensor(name) for name in names}
            said["base"], said["weights"]  # a file of ours has both
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"{path} is no unlearned U-Net ({reason}); remove it, and make it again") from None
    return said, found


def digest(weights: dict) -> str:
    """A SHA-256 over names, shapes and bytes of fp16 weights."""
    known = hashlib.sha256()
    for name, value in sorted(weights.items()):
        known.update(f"{name} {[*value.shape]} ".encode() + value.view(torch.int16).numpy().tobytes())
    return known.hexdigest()
