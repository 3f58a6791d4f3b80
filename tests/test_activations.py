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
        hooks = [
            modules[k].register_forward_hook(lambda _, __, out, k=k, seen=seen: seen.update({k: out})) for k in names
        ]
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


def rows_of(pipe, pairs, x_t, *names, **options):
    rows = activations.discrepancies(pipe, pairs, x_t, 500, names, **options)
    return {(row["layer"], row["set"]): row for row in rows}


def test_discrepancies_are_those_of_loops(pipe, x_t):
    y = embed(pipe, CAPTIONS)
    pairs = {"two": (y[:2] + 0.1, y[:2] - 0.2), "four": (y, y.roll(1, 0))}
    found = rows_of(pipe, pairs, x_t, MID)
    ends, others = (torch.cat([both[k] for both in pairs.values()]) for k in (0, 1))
    away = spread.strangers(ends, others, 0)
    with torch.no_grad(), activations.trace(pipe.unet, [MID]) as seen:
        for embedding in torch.cat([ends, others, away]):
            pipe.unet(x_t, 500, embedding[None])
    a, b, c = torch.cat(seen[MID]).flatten(1).split(6)
    apart, strange = (np.array([(x - z).norm().log().item() for x, z in zip(a, part, strict=True)]) for part in (b, c))
    wide = np.array([(x - z).norm().log().item() for x, z in zip(ends, others, strict=True)])
    for name, own in {"two": slice(2), "four": slice(2, 6)}.items():
        row = found[MID, name]
        assert row["log d"] == pytest.approx(wide[own].mean(), abs=1e-4)
        assert row["log D"] == pytest.approx(apart[own].mean(), abs=1e-3)
        assert row["excess"] == pytest.approx((apart - strange)[own].mean(), abs=1e-3)
        assert row["R2"] == pytest.approx(np.corrcoef(wide, apart)[0, 1] ** 2, abs=1e-3)


@pytest.fixture
def value_weight(pipe):
    """Put another weight into the mid block's value layer, until the test ends."""
    layer = value_layers(pipe.unet)[VALUE]
    before = layer.weight.data
    yield lambda weight: setattr(layer.weight, "data", weight.to(before))
    layer.weight.data = before


def test_a_layer_that_keeps_distances_explains_all_and_exceeds_nothing(pipe, x_t, value_weight):
    rows, width = value_layers(pipe.unet)[VALUE].weight.shape
    turned = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0))).Q
    weight = 3 * turned[:rows] if rows < width else 3 * torch.linalg.qr(torch.randn(rows, width)).Q
    value_weight(weight)
    heard = weight.T @ weight / 9  # what the layer hears of an embedding
    y = embed(pipe, CAPTIONS) @ heard
    found = rows_of(pipe, {"captions": (y, y.roll(1, 0))}, x_t, VALUE)[VALUE, "captions"]
    assert found["R2"] == pytest.approx(1, abs=1e-4)
    assert found["log D"] == pytest.approx(math.log(3) + found["log d"], abs=1e-4)
    lost = math.log(width / min(rows, width)) / 2  # of a stranger's way it hears this share
    assert found["excess"] == pytest.approx(lost, abs=0.2)


def test_a_layer_that_is_deaf_to_a_set_s_differences_is_far_below_strangers(pipe, x_t, value_weight):
    """Two embeddings that differ in a direction that the layer does not hear; another pair in one that it does."""
    weight = value_layers(pipe.unet)[VALUE].weight.clone()
    loud = torch.linalg.svd(weight)[2][0]
    deaf = weight - (weight @ loud)[:, None] * loud
    value_weight(deaf + 1e-6 * weight)
    y, heard = embed(pipe, CAPTIONS[:1]), torch.linalg.svd(deaf)[2][0]
    found = rows_of(pipe, {"unheard": (y, y + loud), "heard": (y, y + heard)}, x_t, VALUE)
    assert found[VALUE, "unheard"]["excess"] < -5 and found[VALUE, "heard"]["excess"] > 0.3


def test_strangers_are_as_long_and_as_far_away_and_random_otherwise():
    ends, others = torch.randn(2, 5, 28, 16, generator=torch.Generator().manual_seed(1)).unbind()
    others[:, 3:7] = ends[:, 3:7]
    found = spread.strangers(ends, others, 1)
    assert torch.equal(found[:, 3:7], ends[:, 3:7])  # where the two do not differ
    for one, other in ((found, others), (found - ends, others - ends)):
        assert torch.allclose(one.flatten(1).norm(dim=1), other.flatten(1).norm(dim=1), rtol=1e-4)
    axis = torch.nn.functional.normalize((ends * (ends != others)).flatten(1), dim=1)
    off, away = ((y - ends).flatten(1) for y in (others, found))
    off, away = (move - (move * axis).sum(1, keepdim=True) * axis for move in (off, away))
    assert torch.nn.functional.cosine_similarity(off, away).abs().max() < 0.2
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
    y = embed(pipe, CAPTIONS)
    odd = {"one": (y, y[:2])}
    one_line(ValueError, "one must be .ends, others.", activations.discrepancies, pipe, odd, x_t, 5, [])
    same = {"one": (y, y)}
    one_line(ValueError, "an end and its other are the same", activations.discrepancies, pipe, same, x_t, 5, [])
    one_line(ValueError, "zero everywhere", activations.participation, torch.zeros(1, 3))
    one_line(ValueError, "2 others for 3 ends", spread.strangers, torch.ones(3, 2, 2), torch.ones(2, 2, 2))
