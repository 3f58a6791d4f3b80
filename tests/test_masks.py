"""Masks: sets of weights by hand, whole files or none, and a pipeline that comes back bit for bit."""

import copy
import re
import warnings

import pytest
import torch
from safetensors.torch import save_file

from dori_lite import nemo, wanda
from dori_lite.diffusion import initial_noise
from dori_lite.hooks import edited
from dori_lite.masks import WeightMask, empty, of_neurons, pruned, random_like, resized
from dori_lite.models import embed, fingerprint

PLACES = [f"down_blocks.{k}.attentions.{i}" for k in range(3) for i in range(2)] + ["mid_block.attentions.0"]
NAMES = [f"{place}.transformer_blocks.0.attn2.to_v" for place in PLACES]


def mask(**layers):
    return WeightMask({name: torch.tensor(where, dtype=torch.bool) for name, where in layers.items()})


def drawn(names, share, seed):
    random = torch.Generator().manual_seed(seed)
    return WeightMask({name: torch.rand(16, 16, generator=random) < share for name in names})


@pytest.fixture
def own(pipe):
    """A pipeline of the test's own in float64, with negative zeros among its weights, whose sign must come back."""
    pipe = copy.deepcopy(pipe)
    pipe.unet.double(), pipe.text_encoder.double()
    for name in NAMES:
        pipe.unet.get_submodule(name).weight.data[:, ::3] = -0.0
    return pipe


def same(pipe, before):
    """Bit for bit, as torch.equal alone is not: it takes -0.0 for 0.0."""
    bits = ({k: w.view(torch.int64) for k, w in weights.items()} for weights in (pipe.unet.state_dict(), before))
    return all(torch.equal(a, b) for a, b in zip(*(weights.values() for weights in bits), strict=True))


@torch.no_grad()
def predict(pipe):
    return pipe.unet(initial_noise(pipe, [1], torch.float64), 500, embed(pipe, "a red fish over sand")).sample


def test_sets_of_weights(pipe):
    a, b = mask(p=[[1, 1, 0], [0, 0, 0]], q=[[1, 0]]), mask(p=[[0, 1, 1], [0, 0, 0]], r=[[0, 1]])
    assert (a | b) == (b | a) == mask(p=[[1, 1, 1], [0, 0, 0]], q=[[1, 0]], r=[[0, 1]])
    assert (a & b) == (b & a) == mask(p=[[0, 1, 0], [0, 0, 0]])
    assert list((a | b).layers) == list((a & b).layers) == ["p", "q", "r"]
    assert a == mask(q=[[1, 0]], p=[[1, 1, 0], [0, 0, 0]], z=[[0]]) == a | mask() and mask(p=[[0]]) == mask()
    for other in (b, mask(), mask(p=[[1, 1, 0], [0, 0, 0]]), a | mask(z=[[1]]), None):
        assert a != other and other != a
    c = a | mask(z=[[0, 0], [0, 0]])
    assert c.count == 3 and c.density == 3 / 12 and mask().density == mask().count == 0
    assert c.densities() == pytest.approx({"p": 1 / 3, "q": 1 / 2, "z": 0})
    assert empty(pipe.unet, NAMES).count == 0 and list(empty(pipe.unet, NAMES).layers) == NAMES
    found = of_neurons(pipe.unet, {NAMES[0]: (3, 15), NAMES[1]: []}).layers
    assert [k for k, row in enumerate(found[NAMES[0]]) if row.all()] == [3, 15]
    assert found[NAMES[0]].sum() == 32 and not found[NAMES[1]].any()


def test_a_mask_is_brought_to_anothers_density():
    other = WeightMask({"p": torch.rand(8, 8) < 0.5, "q": torch.rand(4, 4) < 0.1})
    like = WeightMask({"p": torch.rand(8, 8) < 0.2, "q": torch.rand(4, 4) < 0.6}, "a model")
    found, again, third = (resized(other, like, seed) for seed in (0, 0, 1))
    assert found == again != third
    for name, where in found.layers.items():
        assert where.sum() == like.layers[name].sum()
    assert (found.layers["p"] <= other.layers["p"]).all()  # thinned: nothing it had not chosen
    assert (found.layers["q"] >= other.layers["q"]).all()  # filled up: all that it had chosen
    assert resized(like, like, 3) == like


def test_masks_of_other_layers_are_not_resized(one_line):
    one = WeightMask({"p": torch.ones(2, 2) > 0})
    for other in (WeightMask({"q": torch.ones(2, 2) > 0}), WeightMask({"p": torch.ones(2, 3) > 0})):
        one_line(ValueError, r"the masks are not of the same layers \(p\)", resized, other, one, 0)


def test_random_masks(pipe):
    where = drawn(NAMES[:1], 0.3, 0).layers[NAMES[0]]
    cases = (
        (WeightMask({"p": where, "q": where, "odd": torch.tensor([[True, False, True]])}), False),
        (of_neurons(pipe.unet, {NAMES[0]: [0, 3, 15], NAMES[1]: [], NAMES[2]: range(8)}), True),
        (WeightMask({"conv": (torch.arange(32) < 5).view(-1, 1, 1, 1).expand(32, 2, 3, 3)}), True),
    )
    for target, rows in cases:
        one, again, other = (random_like(target, seed, rows=rows) for seed in (0, 0, 1))
        assert one == again != other and target not in (one, other)
        for name, found in one.layers.items():
            assert found.shape == target.layers[name].shape and found.sum() == target.layers[name].sum()
            assert not rows or torch.equal(found.flatten(1).any(1), found.flatten(1).all(1))
    one = random_like(cases[0][0], 0)
    assert not torch.equal(one.layers["p"], one.layers["q"])  # layers are drawn apart
    often = sum(random_like(mask(p=[[1, 0], [0, 0]]), seed).layers["p"].int() for seed in range(400))
    assert often.min() > 60 and often.max() < 140  # every weight has the same chance: 1 in 4


def test_files_are_whole_or_not_there(tmp_path, monkeypatch, one_line):
    path, one = tmp_path / "new" / "folder" / "a.safetensors", drawn(NAMES[:2], 0.2, 0) | mask(z=[[0, 0]])
    one.save(str(path))
    assert WeightMask.load(path) == one and WeightMask.load(path).layers.keys() == one.layers.keys()
    turned = WeightMask({NAMES[0]: one.layers[NAMES[0]].T})  # not contiguous
    turned.save(path)
    assert WeightMask.load(str(path)) == turned != one and [*path.parent.iterdir()] == [path]

    def fail(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr("dori_lite.masks.save_file", fail)
    for target in (path, tmp_path / "b.safetensors"):
        one_line(OSError, "no space left", one.save, target)
    assert WeightMask.load(path) == turned and not (tmp_path / "b.safetensors").exists()


def test_pruned_weights_are_zero_inside_and_come_back(own):
    before, plain = copy.deepcopy(own.unet.state_dict()), predict(own)
    a, b = drawn(NAMES[:3], 0.3, 0), drawn(NAMES[1:], 0.3, 1)
    there = {name: own.unet.get_submodule(name).weight for name in NAMES}
    assert (a & b).count

    def zero(which):
        where = (empty(own.unet, NAMES) | which).layers
        return all(torch.equal(w, before[f"{n}.weight"].masked_fill(where[n], 0)) for n, w in there.items())

    with pytest.raises(InterruptedError), pruned(own, a) as inside:
        assert inside is own and zero(a) and (predict(own) - plain).abs().max() > 1e-6
        with pruned(own, b):
            assert zero(a | b)
        with pytest.raises(KeyError), pruned(own, b):
            raise KeyError
        assert zero(a)
        raise InterruptedError
    assert same(own, before) and all(own.unet.get_submodule(n).weight is w for n, w in there.items())
    with pruned(own, a):
        pass
    assert same(own, before) and torch.equal(predict(own), plain)
    for nothing in (None, mask(), empty(own.unet, NAMES)):
        with pruned(own, nothing) as inside:
            assert inside is own and same(own, before)
    (weight, *_), (where, *_), start = there.values(), a.layers.values(), before[f"{NAMES[0]}.weight"]
    with pruned(own, a):
        weight.data += 1  # as training would
    assert torch.equal(weight, torch.where(where, start, start + 1))  # those outside were never touched


def test_pruned_rows_are_silent_neurons(own):
    silent = {NAMES[0]: [0, 5, 6], NAMES[4]: range(10), NAMES[6]: [15]}
    keep = {name: torch.tensor([float(k not in rows) for k in range(16)]).double() for name, rows in silent.items()}
    with edited(own.unet, {name: lambda v, ones=ones: v * ones for name, ones in keep.items()}):
        expected = predict(own)
    with pruned(own, of_neurons(own.unet, silent)):
        torch.testing.assert_close(predict(own), expected, rtol=1e-12, atol=1e-12)
    assert (predict(own) - expected).abs().max() > 1e-6


def test_errors_are_one_clear_line(own, tmp_path, one_line):
    def wrong(match, function, *args, **options):
        one_line(ValueError, match, function, *args, **options)

    before, good = copy.deepcopy(own.unet.state_dict()), drawn(NAMES[:1], 0.5, 0)
    for name, size, match in (
        (NAMES[1], 8, rf"{NAMES[1]} has shape \[16, 8\], the weight \[16, 16\]"),
        (f"{NAMES[1]}x", 16, rf"no module '{NAMES[1]}x'; there are: .*{NAMES[1]}"),
    ):
        bad = good | WeightMask({name: torch.ones(16, size) > 0})
        wrong(match, pruned(own, bad).__enter__)
        assert same(own, before)
    for bad in (torch.ones(2, 2), torch.ones(2) > 0, torch.ones(2, 2, dtype=torch.uint8), [[True]]):
        wrong("the mask of p must be a boolean tensor of its weight's shape", WeightMask, {"p": bad})
    for combine in (WeightMask.__or__, WeightMask.__and__):
        wrong(r"masks of p have shapes \[1, 2\] and \[2, 1\]", combine, mask(p=[[1, 0]]), mask(p=[[1], [0]]))
    for row in (16, -1):
        match = rf"a neuron of {NAMES[0]}={row} is not a count that fits; give a whole number from 0 to 15"
        wrong(match, of_neurons, own.unet, {NAMES[0]: [3, row]})
    wrong("mid_block has no weight of its own to prune", of_neurons, own.unet, {"mid_block": [0]})
    wrong("mid_block has no weight of its own to prune", pruned(own, mask(mid_block=[[0]])).__enter__)
    wrong("no module 'q'", of_neurons, own.unet, {"q": [0]})
    wrong("mask of p does not prune whole neurons", random_like, mask(a=[[1, 1]], p=[[1, 1], [1, 0]]), 0, rows=True)
    one_line(FileNotFoundError, "there is no mask in .*none; write one", WeightMask.load, tmp_path / "none")
    good.save(tmp_path / "whole")
    for junk in (b"", b"hello", (tmp_path / "whole").read_bytes()[:-1]):
        (tmp_path / "junk").write_bytes(junk)
        wrong("junk is not a mask that WeightMask.save wrote", WeightMask.load, tmp_path / "junk")
    save_file({"p": torch.ones(2, 2)}, tmp_path / "floats")
    wrong("the mask of p must be a boolean tensor", WeightMask.load, tmp_path / "floats")


def test_neurons_may_come_as_a_tensor_and_files_hold_shared_tensors(own, tmp_path):
    rows = torch.tensor([3, 15])
    assert of_neurons(own.unet, {NAMES[0]: rows}) == of_neurons(own.unet, {NAMES[0]: [3, 15]})
    where = torch.ones(2, 2) > 0
    WeightMask({"a": where, "p": where}).save(tmp_path / "shared")
    assert WeightMask.load(tmp_path / "shared").count == 8
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


CONVERTED = {"half": lambda unet: unet.half(), "float": lambda unet: unet.float(), "double": lambda unet: unet.double()}


@pytest.mark.parametrize("how", [*CONVERTED, "another parameter", "there and back"])
def test_no_weight_stays_zero_when_the_unet_is_converted_inside(own, how):
    own.unet.float()
    before, found = copy.deepcopy(own.unet.state_dict()), drawn(NAMES[:3], 0.3, 0)

    def change():
        if how in CONVERTED:
            CONVERTED[how](own.unet)
        elif how == "there and back":
            own.unet.double().float()
        else:  # as conversion to some devices does
            layer = own.unet.get_submodule(NAMES[0])
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone())

    dtype = {"half": torch.float16, "double": torch.float64}.get(how, torch.float32)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pruned(own, found), pruned(own, drawn(NAMES[1:], 0.3, 1)):
            change()
    for name, weight in own.unet.state_dict().items():
        assert weight.dtype == dtype and torch.equal(weight, before[name].to(dtype))
    assert len(said) == (2 if dtype != torch.float32 else 0)
    for warning in said:
        match = f"the U-Net became {str(dtype)[6:]} inside `pruned`: .*; convert before or after"
        assert re.fullmatch(match, str(warning.message)) and warning.filename == __file__
    assert not hasattr(own.unet, "unpruned")


def test_masks_of_strange_content(own, tmp_path, one_line):
    where = torch.ones(2, 2) > 0
    for layers in ([where], None, {3: where}, "p"):
        one_line(ValueError, "layers must be a dict {layer name: boolean tensor}", WeightMask, layers)
    for model in (3, b"x"):
        one_line(ValueError, "model must be the fingerprint of one, or None", WeightMask, {}, model)
    one_line(ValueError, "and about a dict of what is said of it", WeightMask, {}, None, [1])
    one_line(
        ValueError, "about must be what JSON can hold: a object cannot be kept", WeightMask, {}, None, {"x": object()}
    )
    assert WeightMask({}).density == 0
    match = "strange is not a mask that WeightMask.save wrote"
    for said in ("[1, 2]", "3", "null", "{", '{"layers": {}}', '{"model": "x", "more": 1}'):
        save_file({"p": where}, tmp_path / "strange", {"mask": said})
        one_line(ValueError, match, WeightMask.load, tmp_path / "strange")
    for said in ('{"model": 3}', '{"about": [1]}'):
        save_file({"p": where}, tmp_path / "strange", {"mask": said})
        one_line(ValueError, "model must be the fingerprint", WeightMask.load, tmp_path / "strange")
    for given in ({NAMES[0]: torch.ones(16, 16) > 0}, NAMES[0], torch.ones(16, 16) > 0):
        one_line(ValueError, "is no mask; give a WeightMask", pruned(own, given).__enter__)
    for rows in ([1.5], [True], ["1"], torch.tensor([0.5]), torch.tensor([True])):
        one_line(ValueError, "a neuron of .* is not a count that fits", of_neurons, own.unet, {NAMES[0]: rows})
    for seed in (-1, 2**64, 1.5, True):
        one_line(ValueError, "seed=.* is not a count that fits", random_like, WeightMask({"p": where}), seed)


# ---- the model a mask was found in -----------------------------------------------------------------------

ANOTHER = "^this mask was found in another model than this one; if that is meant, say transfer=True$"


@pytest.fixture
def another(own):
    """One weight apart from `own`."""
    another = copy.deepcopy(own)
    another.unet.conv_out.weight.data[0, 0, 0, 0] += 1
    return another


def of_model(names, share, seed, model):
    return WeightMask(drawn(names, share, seed).layers, model)


def test_a_mask_is_of_the_model_it_was_found_in(own, another, one_line):
    before, anothers = (copy.deepcopy(p.unet.state_dict()) for p in (own, another))
    found = of_model(NAMES, 0.3, 0, fingerprint(own))
    one_line(ValueError, ANOTHER, pruned(another, found).__enter__)
    assert same(another, anothers) and not hasattr(another.unet, "unpruned")  # before anything changed
    for pipe, mask, options in (
        (own, found, {}),
        (own, found, {"transfer": True}),
        (another, found, {"transfer": True}),
        (another, WeightMask(found.layers), {}),  # a mask without a model fits any
    ):
        with pruned(pipe, mask, **options):
            for name, where in found.layers.items():
                assert not pipe.unet.get_submodule(name).weight[where].any()
        assert same(own, before) and same(another, anothers)


def test_combined_and_random_masks_keep_the_model(one_line):
    a, b = of_model(NAMES[:2], 0.3, 0, "one"), of_model(NAMES[1:3], 0.3, 1, "one")
    anyones, others = WeightMask(b.layers), WeightMask(b.layers, "two")
    for combined in (a | b, a & b, a | anyones, anyones | a, a & anyones, anyones & a):
        assert combined.model == "one"
    assert (anyones | drawn(NAMES, 0.1, 2)).model is None
    match = "^these masks were found in different models; masks of one model combine$"
    for combine in (WeightMask.__or__, WeightMask.__and__):
        for pair in ((a, others), (others, a)):
            one_line(ValueError, match, combine, *pair)
    assert b == others == anyones and a != others  # whether they prune the same weights is another question
    assert random_like(a, 0).model == "one" and random_like(anyones, 0).model is None
    assert random_like(of_model(NAMES, 0.3, 0, "one"), 0) == random_like(drawn(NAMES, 0.3, 0), 0)
    rows = WeightMask({"p": torch.tensor([[True, True], [False, False]])}, "one")
    assert random_like(rows, 3, rows=True).model == "one"


def test_files_keep_the_model_and_what_is_said_of_it(tmp_path):
    about = {"rho": 0.1, "neurons": {NAMES[0]: [3, 15], NAMES[1]: []}, "memorized": True, "floor": None, "é": "“ü”\n"}
    layers = drawn(NAMES[:2], 0.2, 0).layers
    for found in (WeightMask(layers, "0123456789abcdef", about), WeightMask(layers, "x"), WeightMask({}, "x", about)):
        found.save(tmp_path / "kept")
        again = WeightMask.load(tmp_path / "kept")
        assert again == found and again.model == found.model and again.about == found.about
        assert again.layers.keys() == found.layers.keys()
    assert WeightMask(layers).model is None and WeightMask(layers).about == {}
    odd = WeightMask(layers, "x", {"size": torch.tensor(2.5), "seeds": (1, 2), "worst": float("nan")})
    odd.save(tmp_path / "kept")
    assert WeightMask.load(tmp_path / "kept").about == {"size": 2.5, "seeds": [1, 2], "worst": None}
    save_file({"p": torch.ones(2, 2) > 0}, tmp_path / "old")  # one that says nothing
    assert WeightMask.load(tmp_path / "old").model is None and WeightMask.load(tmp_path / "old").about == {}


def test_contexts_nest_with_masks_of_the_unpruned_model(own, another, one_line):
    before, model = copy.deepcopy(own.unet.state_dict()), fingerprint(own)
    a, b = of_model(NAMES[:3], 0.3, 0, model), of_model(NAMES[1:], 0.3, 1, model)
    foreign = of_model(NAMES, 0.3, 2, fingerprint(another))

    def zero(which):
        where = (empty(own.unet, NAMES) | which).layers
        now = {name: own.unet.get_submodule(name).weight for name in NAMES}
        return all(torch.equal(w, before[f"{n}.weight"].masked_fill(where[n], 0)) for n, w in now.items())

    with pruned(own, a):
        assert own.unet.unpruned == model
        for _ in range(2):
            with pruned(own, b), pruned(own, None), pruned(own, a):
                assert zero(a | b) and own.unet.unpruned == model
            assert zero(a) and own.unet.unpruned == model
            one_line(ValueError, ANOTHER, pruned(own, foreign).__enter__)
            assert zero(a) and own.unet.unpruned == model
        with pytest.raises(KeyError), pruned(own, b):
            raise KeyError
        assert own.unet.unpruned == model
    assert same(own, before) and not hasattr(own.unet, "unpruned") and fingerprint(own) == model


def test_what_was_found_in_a_pruned_model_is_of_that_one(own, one_line):
    caption, model = "a red fish over sand", fingerprint(own)
    first = of_neurons(own.unet, {name: range(4) for name in NAMES})
    captions = [caption, "a large fish at dusk", "two green fish"]
    with pruned(own, first):
        inside = fingerprint(own)
        known = nemo.statistics(own, captions)
        found = wanda.localise(own, caption, 0.1, calls=1, steps=2)
        neurons = nemo.localise(own, caption, known, -1.0, seeds=range(2), steps=2).mask(own.unet)
        for mask in (found, neurons):
            assert mask.model == inside != model
            with pruned(own, mask):
                pass
        nemo.z_scores(own, caption, known)
    for mask in (found, neurons):
        one_line(ValueError, ANOTHER, pruned(own, mask).__enter__)
        with pruned(own, mask, transfer=True):
            pass
    one_line(ValueError, "^these statistics were found in another model", nemo.z_scores, own, caption, known)
    outside = wanda.localise(own, caption, 0.1, calls=1, steps=2)
    assert outside.model == model
    one_line(ValueError, "different models", WeightMask.__or__, outside, found)
    with pruned(own, first), pruned(own, outside):
        pass
