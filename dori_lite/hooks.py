"""Read, edit and replay what the modules of a network compute; on leaving the `with` nothing is left behind.

    with trace(pipe.unet, ["mid_block"]) as seen:
        pipe.unet(x, t, y)
    seen["mid_block"]  # its output at each call

`network` is any `torch.nn.Module`, for instance `pipe.unet`, and is not changed: hooks go away on every way
out, an exception among them. Contexts nest: an inner one sees what an outer one made of an output. A module that
is there but does nothing, as under fused attention, is refused.
"""

from contextlib import ExitStack, contextmanager
from difflib import get_close_matches

import torch

from .checks import check_live


@contextmanager
def trace(network: torch.nn.Module, names, *, inputs: bool = False):
    """Keep what the modules `names` return while the body runs: yields {name: [output of each call]}.

    `inputs=True` keeps each call's first positional input instead, None if there is none. Tensors are kept as
    they are, with their graph if there is one. Under classifier-free guidance a call's batch holds both halves,
    the unconditional first. Raises ValueError for a name there is no module of.
    """
    found = {name: [] for name in listed(names)}
    with ExitStack() as stack:
        for name, module in modules(network, found).items():

            def keep(_, given, output, kept=found[name]):
                kept.append((given[0] if given else None) if inputs else output)

            stack.callback(module.register_forward_hook(keep).remove)
        yield found


@contextmanager
def edited(network: torch.nn.Module, edits: dict):
    """Let `edits`, {name: function}, change what modules return: output → new output of the same shape.

    A tuple stays a tuple of the same shapes.

    Raises ValueError for a name there is no module of, and, when the module is called, for an edit that
    returns another shape.
    """
    with ExitStack() as stack:
        for name, module in modules(network, edits).items():

            def change(_, given, output, name=name):
                new = edits[name](output)
                if shape(new) != shape(output):
                    raise ValueError(f"the edit of {name} must return {shape(output)}, as given; got {shape(new)}")
                return new

            stack.callback(module.register_forward_hook(change).remove)
        yield


@contextmanager
def replayed(network: torch.nn.Module, outputs: dict):
    """Let modules return `outputs`, {name: output}, without computing anything: what came before an edit is reused.

    Hooks of the modules still run. Raises ValueError for a name there is no module of.
    """
    with ExitStack() as stack:
        for name, module in modules(network, outputs).items():
            # An instance's own `forward` hides its class's; what was there before comes back.
            before = module.__dict__.get("forward")
            module.forward = lambda *_, _output=outputs[name], **__: _output
            stack.callback(forget if before is None else restore, module, before)
        yield


def shape(output):
    """The shape of a module's output: a list, or for a tuple of outputs a list of such."""
    return list(map(shape, output)) if isinstance(output, tuple) else list(getattr(output, "shape", []))


def forget(module, _):
    del module.forward


def restore(module, before):
    module.forward = before


def modules(network: torch.nn.Module, names) -> dict[str, torch.nn.Module]:
    """The modules called `names`. Raises ValueError for one there is none of, naming the nearest, or that is dead."""
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"a {type(network).__name__} is no network; give a torch.nn.Module, such as pipe.unet")
    known, found, names = dict(network.named_modules()), {}, listed(names)
    check_live(network, {name: known[name] for name in names if name in known})
    for name in names:
        if name not in known:
            near = ", ".join(get_close_matches(name, known, 3)) or "none with a similar name"
            raise ValueError(f"the network has no module {name!r}; there are: {near}")
        found[name] = known[name]
    return found


def listed(names) -> list[str]:
    """One name or several as a list. Raises ValueError for what are no names."""
    found = [names] if isinstance(names, str) else [*names] if hasattr(names, "__iter__") else [names]
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise ValueError(f"a module is asked for by its name, not by {wrong[0]!r:.40}; give a list of names")
    return found
