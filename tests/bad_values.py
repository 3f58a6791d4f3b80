"""Bad values by the kind of argument, and what a call with one of them comes to. `test_bad_input` has the table.

line   an error that this package raises itself, or the system's about a file: one line
bare   an internal error, of Python or of a library: right only where the table says so
fine   a value, where the table says that the input is valid, and how the value is known to be right
wrong  a value where there should be an error
"""

import ast
import importlib
import inspect
import linecache
import math
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from types import GeneratorType, SimpleNamespace

import numpy as np
import pandas as pd
import torch

import dori_lite

PACKAGE = str(Path(dori_lite.__file__).parent)
NAN, INF = math.nan, math.inf
NOTHING = {"None": None}
OBJECTS = {**NOTHING, "dict": {}, "a number": 3, "text": "x"}
NUMBERS = {**NOTHING, "NaN": NAN, "infinite": INF, "-infinite": -INF, "text": "1", "truth": True, "complex": 1j}
NUMBERS |= {"a list": [1]}
COUNTS = {**NOTHING, "-1": -1, "0": 0, "fraction": 1.5, "truth": True, "NaN": NAN, "text": "2", "a list": [2]}
SEEDS = {k: v for k, v in COUNTS.items() if k != "0"} | {"huge": 2**64}
HALF = "\ud83d"
PLAIN = {"None", "dict", "a number", "text", "a list", "array"}  # what is plainly not of the type that is asked for


def spoilt(x, value, place: int = -1):
    """A copy with one entry replaced."""
    x = x.clone()
    x.reshape(-1)[place] = value
    return x


def tensors(x, *_):
    """Of any tensor of numbers that must be finite."""
    x = x.float()
    return {**OBJECTS, "a list": x.tolist(), "NaN": spoilt(x, NAN), "infinite": spoilt(x, INF), "whole": x.long()} | {
        "a scalar": x.sum()
    }


def pictures(x, *_):
    found = tensors(x) | {"one": x[0], "grey": x[:, :1], "bytes": (x * 255).byte(), "0 to 255": x * 255}
    found |= {"negative": x - 0.5, "empty": x[:0], "of no size": x[..., :0, :], "truth": x > 0.5}
    return found | {"array": x.numpy(), "complex": x.to(torch.complex64)}


def paired_pictures(x, *_):
    return pictures(x) | {"another size": x[..., ::2], "another number": torch.cat([x, x])}


def picture(x, *_):
    return {key: value for key, value in pictures(x).items() if key != "one"} | {"several": x[None]}


def latents(x, *_):
    found = tensors(x) | {"one": x[0], "of another model": x[..., ::2], "empty": x[:0], "five axes": x[None]}
    return found | {"fewer channels": x[:, 1:], "array": x.numpy()}


def embeddings(y, *_):
    found = {"NaN": spoilt(y, NAN), "infinite": spoilt(y, INF), "whole": y.long(), "shorter": y[..., 1:, :]}
    return found | {"of another model": y[..., 1:], "a scalar": y.sum(), "four axes": y[None]}


def prompts(given, k, said=True):
    found = {**NOTHING, "a number": 3, "NaN": NAN, "bytes": b"a", "dict": {}, "none": [], "a list of None": [None]}
    found |= {
        "a list of NaN": ["a", NAN],
        "a list of lists": [["a"]],
        "half a character": HALF,
    }
    found |= {"no embeddings": k.y[:0], **{f"embeddings: {key}": value for key, value in embeddings(k.y).items()}}
    return found | ({"empty": "", "blank": ["a", " "]} if said else {})


def seeds(*_):
    found = {f"a list of {key}": [value] for key, value in SEEDS.items()}
    return found | {**NOTHING, "a number": 4, "fraction": 1.5, "text": "12", "bytes": b"1", "dict": {1: 2}, "none": []}


def scores(x, *_):
    """Of numbers in a list or array."""
    x = np.asarray(x, float)
    found = {**OBJECTS, "NaN": np.where(x == x.flat[0], NAN, x), "infinite": np.where(x == x.flat[0], INF, x)}
    found |= {"truth": x > 0.5, "words": ["a"] * len(x), "complex": x + 1j, "empty": x[:0], "another axis": x[None]}
    return found | {"a scalar": 0.5, "ragged": [[1.0], [1.0, 2.0]]}


def masks(mask, k):
    layers = dict(mask.layers)
    name = next(iter(layers))
    make = type(mask)
    found = {key: value for key, value in OBJECTS.items() if value is not None} | {"a tensor": layers[name]}
    found |= {
        "of another model": make(layers, "0" * 16),
        "another shape": make({name: layers[name][:, 1:]}, mask.model),
    }
    return found | {"another layer": make({"mid_block.nothing": layers[name]}, mask.model), "dict of tensors": layers}


def statistics(known, k):
    make, (name, mean) = type(known), next(iter(known.mean.items()))
    found = {**OBJECTS, "of another model": make(known.mean, known.std, "0" * 16), "means alone": known.mean}
    fewer, larger = ({**part.mean, name: mean.new_ones(n)} for part, n in ((known, 15), (known, 17)))
    found |= {"smaller": make(fewer, fewer), "larger": make(larger, larger)}
    return found | {"of other layers": make({"x": mean}, {"x": mean}, known.model)}


def pipes(pipe, k):
    return {**OBJECTS, "a U-Net": pipe.unet, "a folder": Path("data/reef/twin-a")}


def unets(unet, k):
    return {**OBJECTS, "a pipeline": k.pipe, "another part": k.pipe.vae, "a layer": torch.nn.Linear(2, 2)}


def detectors(given, k):
    one = given[0]
    return {
        **OBJECTS,
        "none": [],
        "a single one": one,
        "two of one name": [one, one],
        "a function": len,
        "words": ["x"],
    }


def targets(given, k):
    found = {**OBJECTS, "none": [], "a single one": given[0], "two of one name": [given[0]] * len(given)}
    small = type(given[0])("small", "a fish", torch.zeros(3, 8, 8))
    return found | {"captions": [t.caption for t in given], "of two sizes": [given[0], small]}


def target(given, k):
    return {**OBJECTS, "several": [given]}


def rows(table, k):
    """Of tidy rows: what is no table, an empty one, and one column missing at a time."""
    found = {**OBJECTS, "a list": [{}], "empty": table[:0], "no columns": pd.DataFrame()}
    return found | {f"without {name}": table.drop(columns=name) for name in table.columns}


KINDS = {
    "count": lambda *_: COUNTS,
    "number": lambda *_: NUMBERS,
    "positive": lambda *_: NUMBERS | {"0": 0, "-1": -1.0},
    "not negative": lambda *_: NUMBERS | {"-1": -1.0},
    "share": lambda *_: NUMBERS | {"0": 0, "-1": -1.0, "above 1": 1.1},
    "level": lambda *_: NUMBERS | {"0": 0, "1": 1.0, "-1": -1.0},
    "seed": lambda *_: SEEDS,
    "seeds": seeds,
    "different seeds": lambda *_: seeds() | {"one twice": [0, 0]},
    "pictures": pictures,
    "paired pictures": paired_pictures,
    "picture": picture,
    "latents": latents,
    "tensor": tensors,
    "embeddings": lambda y, k: OBJECTS | embeddings(y),
    "prompts": prompts,
    "prompts, silent": lambda given, k: prompts(given, k, said=False),
    "caption": lambda given, k: prompts(given, k) | {"several": ["a fish", "a rock"]},
    "scores": scores,
    "mask": masks,
    "statistics": statistics,
    "pipe": pipes,
    "unet": unets,
    "network": lambda given, k: {**OBJECTS, "a pipeline": k.pipe},
    "layers": lambda *_: {
        **NOTHING,
        "a number": 3,
        "unknown": ["mid_block.nothing"],
        "numbers": [3],
        "None in it": [None],
    },
    "word": lambda *_: {**NOTHING, "unknown": "nothing", "a number": 3, "dict": {}, "empty": "", "a list": ["x"]},
    "name": lambda *_: {**NOTHING, "empty": "", "a path": "a/b", "up": "../x", "a number": 3, "hidden": ".x"},
    "text": lambda *_: {**NOTHING, "a number": 3, "dict": {}, "bytes": b"a", "NaN": NAN, "a list": ["a"]},
    "path": lambda given, k: {**NOTHING, "missing": k.folder / "missing" / "x", "a number": 3},
    "file": lambda given, k: KINDS["path"](given, k) | {"a folder": k.folder, "damaged": k.damaged},
    "function": lambda *_: {**OBJECTS},
    "detectors": detectors,
    "targets": targets,
    "target": target,
    "rows": rows,
    "object": lambda *_: {**OBJECTS},
    "mapping": lambda *_: {**NOTHING, "a number": 3, "text": "x", "a list": ["x"], "empty": {}},
    "list": lambda *_: {**NOTHING, "a number": 3, "empty": [], "text": "xy"},
}


GOOD = {  # a valid value of each kind
    "count": lambda k: 1,
    "number": lambda k: 3.0,
    "positive": lambda k: 0.5,
    "not negative": lambda k: 0.5,
    "share": lambda k: 0.1,
    "level": lambda k: 0.9,
    "seed": lambda k: 0,
    "seeds": lambda k: [0, 1],
    "different seeds": lambda k: [0, 1],
    "pictures": lambda k: k.images,
    "paired pictures": lambda k: k.images,
    "picture": lambda k: k.images[0],
    "latents": lambda k: k.x,
    "tensor": lambda k: k.x,
    "embeddings": lambda k: k.y,
    "prompts": lambda k: k.captions,
    "prompts, silent": lambda k: k.captions,
    "caption": lambda k: k.captions[0],
    "scores": lambda k: [0.9, 0.2, 0.4, 0.5],
    "mask": lambda k: k.mask,
    "statistics": lambda k: k.statistics,
    "pipe": lambda k: k.pipe,
    "unet": lambda k: k.pipe.unet,
    "network": lambda k: k.pipe.unet,
    "layers": lambda k: [k.to_v],
    "path": lambda k: k.folder / "kept",
    "file": lambda k: k.folder / "kept",
    "text": lambda k: "x",
    "detectors": lambda k: k.detectors,
    "targets": lambda k: k.targets,
    "target": lambda k: k.targets[0],
    "rows": lambda k: k.table,
}


def row(fine=None, bare="", self=None, call=None, **arguments):
    """One function of the table. `arguments` {name: kind, or (kind, valid value)}; without a kind, what is only passed.

    A valid value may be a function of k. `self` gives the object whose method it is, `call` what is called in place of
    the function. `fine` {"argument: label": is it right?} is what is valid after all; at the arguments that `bare`
    names, a plain TypeError or AttributeError is right for what is plainly of another type.
    """
    return SimpleNamespace(fine=fine or {}, bare={*bare.split()}, self=self, call=call, arguments=arguments)


def of(row, name: str, k):
    """The function of a row, and {argument: (kind, valid value)}."""
    module, *path = name.partition(",")[0].split(".")
    if module in ("reef", "figures", "book"):
        module = f"{module}.{path.pop(0)}"
    found = row.self(k) if row.self else importlib.import_module(f"dori_lite.{module}")
    for part in path[-1:] if row.self else path:
        found = getattr(found, part)
    arguments = {}
    for argument, given in row.arguments.items():
        kind, *value = [given] if isinstance(given, str) else given
        value = value[0] if value else GOOD[kind.split(" -")[0]]
        is_made = getattr(value, "__name__", "") == "<lambda>" and [*inspect.signature(value).parameters][:1] == ["k"]
        arguments[argument] = kind, value(k) if is_made else value
    return row.call or found, arguments


def bad_values(kind: str, good, k) -> dict:
    """{label: value} of a kind; "count -None -0" leaves out what is valid there."""
    kind, *left_out = kind.split(" -")
    found = KINDS[kind](good, k) if kind else {}
    assert not (unknown := {*left_out} - {*found}), f"{kind} has no {unknown}"
    return {label: value for label, value in found.items() if label not in left_out}


def cases(row, name: str, k):
    """("", valid call's outcome), and ("argument: label", outcome) of every bad value, each in a call of its own."""
    function, arguments = of(row, name, k)
    yield "", outcome(function, {key: value for key, (_, value) in arguments.items()})
    for argument, (kind, good) in arguments.items():
        for label, bad in bad_values(kind, good, k).items():
            function, fresh = of(row, name, k)
            given = {key: value for key, (_, value) in fresh.items()}
            yield f"{argument}: {label}", outcome(function, {**given, argument: bad})


def verdict(row, case: str, found) -> str:
    """ "line", "fine", "bare", or what is wrong."""
    if case in row.fine:
        return "fine" if found.kind == "value" and row.fine[case](found.value) else f"not fine, {found.said}"
    if found.kind == "value":
        return f"silently wrong, {found.said}"
    argument, _, label = case.partition(": ")
    plain = argument in row.bare and label in PLAIN and found.error in (TypeError, AttributeError)
    return "line" if found.kind == "line" else "bare" if plain else f"no clear line, {found.said}"


def outcome(function, arguments: dict) -> SimpleNamespace:
    """What one call comes to: `kind` ("line", "bare" or "value"), and the value, or what was said."""
    try:
        value = function(**arguments)
        if isinstance(value, GeneratorType):
            value = list(value)
        elif isinstance(value, AbstractContextManager) and hasattr(value, "gen"):
            with value as value:
                pass
    except Exception as error:  # noqa: BLE001 (every kind is counted)
        kind = "line" if is_a_line(error) else "bare"
        return SimpleNamespace(kind=kind, value=None, error=type(error), said=f"{type(error).__name__}: {error}"[:150])
    return SimpleNamespace(kind="value", value=value, error=None, said=repr(value)[:90])


def is_a_line(error: Exception) -> bool:
    """Whether an error is one line that the package itself raises, or the system's about a file."""
    said = str(error).strip()
    if not said or "\n" in said:
        return False
    if isinstance(error, OSError) and error.filename is not None:
        return True
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = frame.filename.startswith(PACKAGE) and isinstance(
        error, ValueError | RuntimeError | OSError | ArithmeticError
    )
    return ours and frame.lineno in raises(frame.filename)


def raises(file: str, known={}) -> set[int]:  # noqa: B006 (a cache)
    """The lines of a module on which a `raise` stands."""
    if file not in known:
        tree = ast.parse("".join(linecache.getlines(file)))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
        known[file] = {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}
    return known[file]
