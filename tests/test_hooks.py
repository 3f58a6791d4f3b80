"""Hooks: against products written out by hand; modules that would spoil everything if they ran; no trace left."""

import copy
from itertools import product

import pytest
import torch

from dori_lite.diffusion import initial_noise
from dori_lite.hooks import edited, replayed, trace
from dori_lite.models import embed

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
VALUE, MIDDLE, BLOCK = f"{ATTENTION}.to_v", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v", "down_blocks.0"


def hooks_on(network):
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(("forward" in vars(m)) + sum(len(vars(m)[table]) for table in tables) for m in network.modules())


@pytest.fixture
def unet(pipe):
    """A copy in float64, which every test must leave as bare as it was."""
    unet = copy.deepcopy(pipe.unet).double()
    yield unet
    assert hooks_on(unet) == 0


@pytest.fixture
def inputs(pipe):
    y = embed(pipe, ["a red fish over sand", "a large fish at dusk"]).double()
    return initial_noise(pipe, [0, 1], torch.float64), torch.tensor(500), y


@torch.no_grad()
def run(unet, inputs):
    return unet(*inputs, return_dict=False)[0]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_trace_keeps_outputs_or_inputs_of_every_call(unet, inputs):
    x, t, y = inputs
    plain, names = run(unet, inputs), [MIDDLE, VALUE]
    weights = {name: unet.get_submodule(name).weight for name in names}
    with trace(unet, iter(names)) as outputs, trace(unet, names, inputs=True) as given:
        assert torch.equal(run(unet, inputs), plain)  # watching changes nothing
        run(unet, (x, t, 2 * y))
    run(unet, inputs)  # and ends in time
    assert list(outputs) == list(given) == names
    for name in names:
        assert len(outputs[name]) == 2 and torch.equal(torch.stack(given[name]), torch.stack([y, 2 * y]))
        close(torch.stack(outputs[name]), torch.stack([y, 2 * y]) @ weights[name].T)
    leaf = y.clone().requires_grad_()
    with trace(unet, names) as found:
        unet(x, t, leaf)
    (gradient,) = torch.autograd.grad(found[VALUE][0].sum(), leaf)
    close(gradient, weights[VALUE].sum(0).expand_as(y))


def test_edits_reach_what_follows_in_the_order_of_the_contexts(unet, inputs):
    plain, v, middle = run(unet, inputs), *(inputs[2] @ unet.get_submodule(n).weight.T for n in (VALUE, MIDDLE))
    add, double = {VALUE: lambda v: v + 1}, {VALUE: lambda v: 2 * v}
    for outer, inner, expected in ((add, double, 2 * (v + 1)), (double, add, 2 * v + 1)):
        with trace(unet, [VALUE]) as before, edited(unet, outer), edited(unet, inner), trace(unet, [VALUE]) as after:
            out = run(unet, inputs)
        close(before[VALUE][0], v)
        close(after[VALUE][0], expected)
        with replayed(unet, {VALUE: expected}):
            close(run(unet, inputs), out)
        assert (out - plain).abs().max() > 1e-6
    with edited(unet, add | {MIDDLE: lambda v: v * 3}), trace(unet, [VALUE, MIDDLE]) as found:
        run(unet, inputs)
    close(found[VALUE][0], v + 1)  # each module has its own edit
    close(found[MIDDLE][0], 3 * middle)


def test_replayed_modules_do_not_run(unet, inputs):
    plain, inside = run(unet, inputs), [VALUE, f"{BLOCK}.resnets.0"]
    with trace(unet, [BLOCK, ATTENTION]) as found:
        run(unet, inputs)
    stored = {name: outputs[0] for name, outputs in found.items()}  # the block's is a tuple
    with edited(unet, {ATTENTION: lambda v: v + 1}):
        expected = run(unet, inputs)
    for weight in [*unet.get_submodule(BLOCK).parameters(), *unet.get_submodule(ATTENTION).parameters()]:
        weight.data.fill_(torch.nan)
    with replayed(unet, stored), trace(unet, [*stored, *inside]) as seen:
        assert torch.equal(run(unet, inputs), plain)
    assert seen[inside[0]] == seen[inside[1]] == []
    assert all(seen[name][0] is output for name, output in stored.items())  # hooks still run
    with edited(unet, {ATTENTION: lambda v: v + 1}), replayed(unet, stored):
        assert torch.equal(run(unet, inputs), expected)
    assert run(unet, inputs).isnan().all()


def test_nested_replays_come_back_one_by_one(unet):
    one, two, module = torch.ones(2), torch.zeros(2), unet.get_submodule(VALUE)
    with replayed(unet, {VALUE: one, MIDDLE: two}):
        assert module(0) is one and unet.get_submodule(MIDDLE)(0) is two
        with pytest.raises(KeyError), replayed(unet, {VALUE: two}):
            assert module(0, any="thing") is two
            raise KeyError
        assert module(0) is one
    own = module.forward = lambda _: two  # a program may have its own, as accelerate does
    with replayed(unet, {VALUE: one}):
        assert module(0) is one
    assert vars(module).pop("forward") is own


def test_nothing_is_left_behind(unet):
    two = dict.fromkeys((VALUE, MIDDLE), torch.relu)
    for outer, inner in product((trace, edited, replayed), repeat=2):
        with outer(unet, two), inner(unet, two):
            pass
        assert hooks_on(unet) == 0
        with pytest.raises(KeyError), outer(unet, two):
            with pytest.raises(KeyError), inner(unet, two):
                raise KeyError
            assert hooks_on(unet) == 2  # the outer one's
            raise KeyError
        assert hooks_on(unet) == 0


def test_errors_are_one_clear_line(unet, inputs, one_line):
    def wrong(match, context):
        def enter():
            with context:
                run(unet, inputs)

        one_line(ValueError, match, enter)
        assert hooks_on(unet) == 0

    for near, name in ((VALUE, f"{ATTENTION}.to_w"), ("none with a similar name", "θ")):
        for context in (trace, edited, replayed):
            match = f"the network has no module '{name}'; there are: .*{near}"
            wrong(match, context(unet, {VALUE: torch.relu, name: torch.relu}))
    for bad in (lambda v: v[:1], lambda v: v.flatten(), lambda v: v[None], lambda v: None):
        match = rf"the edit of {VALUE} must return \[2, 28, 16\], as given"
        wrong(match, edited(unet, {VALUE: bad, MIDDLE: torch.relu}))
