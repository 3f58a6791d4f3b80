"""What layers make of embeddings: constructed cases with known answers, and loops beside them."""

import math

import numpy as np
import pytest
import torch

from dori_lite import activations, diffusion, spread
from dori_lite.models import embed, value_layers

CAPTIONS = ["a red fish over sand", "a large blue fish at dusk", "a small crab", "a green turtle over rock"]
MID, VALUE = "mid_block", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"


@pytest.fixture(scope="module")
def x_t(pipe):
    return diffusion.initial_noise(pipe, [3])


def test_layers_return_what_the_network_computes_alone(pipe, x_t):
    """Against the network asked one prompt at a time, a hook by hand."""
    names = [MID, VALUE, "down_blocks.0"]
    found = activations.recorded(pipe, CAPTIONS, x_t, 500, names, batch=3)
    assert [*found] == [*names, activations.EPSILON]
    modules = dict(pipe.unet.named_modules())
    for n, caption in enumerate(CAPTIONS):
        seen = {}
        hooks = [modules[k].register_forward_hook(lambda _, __, out, k=k: seen.update({k: out})) for k in names]
        with torch.no_grad():
            seen[activations.EPSILON] = pipe.unet(x_t, 500, embed(pipe, caption)).sample
        for hook in hooks:
            hook.remove()
        for name, out in seen.items():
            out = out[0] if isinstance(out, tuple) else out
            expected = out.flatten(2) if out.ndim == 4 else out
            assert found[name][n].shape == expected[0].shape
            assert torch.allclose(found[name][n], expected[0], atol=1e-5)


def test_a_value_layer_hears_neither_noise_nor_time(pipe, x_t):
    one = activations.recorded(pipe, CAPTIONS, x_t, 500, [VALUE])
    other = activations.recorded(pipe, CAPTIONS, -x_t, 100, [VALUE])
    assert torch.equal(one[VALUE], other[VALUE])
    assert not torch.allclose(one[activations.EPSILON], other[activations.EPSILON])


def rows_of(pipe, sets, x_t, *names, **options):
    rows = activations.discrepancies(pipe, sets, x_t, 500, names, **options)
    return {(row["layer"], row["set"]): row for row in rows}


def test_discrepancies_are_those_of_loops(pipe, x_t):
    y = embed(pipe, CAPTIONS)
    sets = {"two": y[:2] + 0.1, "four": y}
    found = rows_of(pipe, sets, x_t, MID)
    everything = torch.cat([*sets.values()])
    following = torch.cat([part.roll(-1, 0) for part in sets.values()])
    away = spread.strangers(everything, following, 0)
    with torch.no_grad(), activations.trace(pipe.unet, [MID]) as seen:
        for embedding in torch.cat([everything, following, away]):
            pipe.unet(x_t, 500, embedding[None])
    a, b, c = torch.cat(seen[MID]).flatten(1).split(6)
    first = 0
    for name, part in sets.items():
        own = range(first, first + len(part))
        pairs = [(a[i] - a[j]).norm().log().item() for i in own for j in own if i < j]
        excess = [((a[i] - b[i]).norm() / (a[i] - c[i]).norm()).log().item() for i in own]
        assert found[MID, name]["log D"] == pytest.approx(np.mean(pairs), abs=1e-4)
        assert found[MID, name]["excess"] == pytest.approx(np.mean(excess), abs=1e-4)
        first = own.stop


def linear(pipe, weight):
    """The value layer of the mid block with this weight, until it is put back."""
    layer = value_layers(pipe.unet)[VALUE]
    before = layer.weight.data
    layer.weight.data = weight.to(before)
    return lambda: setattr(layer.weight, "data", before)


def test_a_layer_that_keeps_distances_explains_all_and_exceeds_nothing(pipe, x_t):
    width = pipe.unet.config.cross_attention_dim
    layer = value_layers(pipe.unet)[VALUE]
    if layer.weight.shape[0] < width:
        weight = torch.cat([torch.eye(layer.weight.shape[0]), torch.zeros(layer.weight.shape[0], width)], 1)[:, :width]
    else:
        weight = torch.linalg.qr(torch.randn(layer.weight.shape[0], width)).Q
    restore = linear(pipe, 3 * weight)
    heard = weight.T @ weight  # what it hears of an embedding: all of it where it is wide enough
    try:
        y = embed(pipe, CAPTIONS) @ heard
        found = rows_of(pipe, {"captions": y}, x_t, VALUE)[VALUE, "captions"]
    finally:
        restore()
    assert found["R2"] == pytest.approx(1, abs=1e-4)
    expected = math.log(3) + spread.pairs_of(spread.distances(y)).log().mean().item()
    assert found["log D"] == pytest.approx(expected, abs=1e-4)
    lost = math.log(width / min(width, layer.weight.shape[0])) / 2  # of a stranger's way it hears this share
    assert found["excess"] == pytest.approx(lost, abs=0.1)


def test_a_layer_that_is_deaf_to_a_set_s_differences_is_far_below_strangers(pipe, x_t):
    """Two embeddings that differ in one direction, which the layer does not hear; another pair in one it does."""
    layer = value_layers(pipe.unet)[VALUE]
    loud = torch.linalg.svd(layer.weight)[2][0]
    deaf = layer.weight.clone() - (layer.weight @ loud)[:, None] * loud
    restore = linear(pipe, deaf + 1e-6 * layer.weight)
    try:
        y, move = embed(pipe, CAPTIONS[0])[0], torch.linalg.svd(deaf)[2][0]
        sets = {"unheard": torch.stack([y, y + loud]), "heard": torch.stack([y, y + move])}
        found = rows_of(pipe, sets, x_t, VALUE)
    finally:
        restore()
    assert found[VALUE, "unheard"]["excess"] < -5 and found[VALUE, "heard"]["excess"] > 0.3


def test_strangers_are_as_far_away_and_nobody_s_neighbours():
    ends, others = torch.randn(2, 5, 28, 16, generator=torch.Generator().manual_seed(1)).unbind()
    found = spread.strangers(ends, others, 1)
    assert torch.allclose((found - ends).flatten(1).norm(dim=1), (others - ends).flatten(1).norm(dim=1), rtol=1e-5)
    assert abs(spread.cosine(found - ends)) < 0.05 and abs(spread.cosine(found - ends, others - ends)) < 0.05
    assert torch.equal(found, spread.strangers(ends, others, 1))
    assert not torch.equal(found, spread.strangers(ends, others, 2))


def test_participation_counts_who_carries():
    rows = torch.zeros(4, 2, 8)
    rows[0] = 3.0  # all alike
    rows[1, 0, 0] = -5.0  # one
    rows[2, 0, :4] = torch.tensor([1.0, -1, 1, -1])  # four of sixteen
    rows[3, 0, :2] = torch.tensor([3.0, 4.0])
    assert activations.participation(rows).tolist() == pytest.approx([1, 1 / 16, 1 / 4, 25**2 / (16 * (81 + 256))])
    drawn = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    assert activations.participation(drawn).item() == pytest.approx(1 / 3, abs=0.02)  # a normal one: E[a²]² ÷ E[a⁴]


def test_what_does_not_fit_is_one_line(pipe, x_t, one_line):
    one_line(ValueError, "2 latents; give one", activations.recorded, pipe, CAPTIONS, x_t.expand(2, -1, -1, -1), 5, [])
    one_line(ValueError, "t=1000", activations.recorded, pipe, CAPTIONS, x_t, 1000, [])
    one_line(ValueError, "time_embedding returns", activations.recorded, pipe, CAPTIONS, x_t, 5, ["time_embedding"])
    single = {"one": CAPTIONS[:1]}
    one_line(ValueError, "a single one of one has no pairs", activations.discrepancies, pipe, single, x_t, 5, [])
    twice = {"captions": [*CAPTIONS, CAPTIONS[0]]}
    one_line(ValueError, "one of captions is there twice", activations.discrepancies, pipe, twice, x_t, 5, [])
    one_line(ValueError, "zero everywhere", activations.participation, torch.zeros(1, 3))
    one_line(ValueError, "2 others for 3 ends", spread.strangers, torch.ones(3, 2, 2), torch.ones(2, 2, 2))
