"""Neurons ranked by the loss: shares that sum to the rise, each against differences. The highest: by hand."""

import copy

import pytest
import torch

from dori_lite import masks, models, nemo, neurons
from dori_lite.diffusion import alphas_cumprod, denoising_loss, draw

CAPTION, SEVEN_ALONE = "a red fish over sand", {"which": "seven", "batches": 1}


@pytest.fixture(scope="module")
def x_0(pipe):
    return torch.randn(1, *models.latent_shape(pipe), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def shares(pipe, x_0):
    return neurons.loss_rises(pipe, x_0, CAPTION, stream="fish")


def loss(pipe, x_0, batches=4, seed=0, stream="fish"):
    """The picture's loss on keyed draws: step by step, eight noises each, all timesteps."""
    y, alphas, found = models.embed(pipe, CAPTION).to(x_0), alphas_cumprod(pipe).to(x_0), []
    for step in range(batches):
        noise, t = draw([stream], seed, step, 8, x_0, 0, 1000)
        with torch.no_grad():
            found.append(denoising_loss(pipe.unet, x_0, y, noise, t, alphas).item())
    return sum(found) / batches


def rise(pipe, x_0, names, **options):
    """Of the loss, with all neurons of these layers blocked."""
    rows = {name: range(pipe.unet.get_submodule(name).out_features) for name in names}
    with masks.pruned(pipe, masks.of_neurons(pipe.unet, rows)):
        blocked = loss(pipe, x_0, **options)
    return blocked - loss(pipe, x_0, **options)


def total(shares):
    return sum(share.double().sum().item() for share in shares.values())


# ---- by the loss ----------------------------------------------------------------------------------------


def test_shares_of_all_sixteen_layers_sum_to_the_rise_of_the_loss(pipe, x_0, shares):
    assert shares.keys() == nemo.layers(pipe.unet, "sixteen").keys() and len(shares) == 16
    assert all(share.shape == (16,) and share.isfinite().all() for share in shares.values())
    whole = rise(pipe, x_0, shares)
    assert sum(share.abs().sum().item() for share in shares.values()) > 10 * abs(whole)  # of either sign
    assert total(shares) == pytest.approx(whole, rel=0.02)  # the midpoint rule's error is 0.5 %


def test_seven_layers_are_searched_alone(pipe, x_0, shares):
    """Gates of the other nine stay open, so that the shares are others, and sum to the seven's own rise."""
    found = neurons.loss_rises(pipe, x_0, CAPTION, stream="fish", **SEVEN_ALONE)
    assert found.keys() == models.value_layers(pipe.unet).keys() and len(found) == 7
    assert total(found) == pytest.approx(rise(pipe, x_0, found, batches=1), rel=0.02)
    assert not any(torch.allclose(share, shares[name], rtol=1e-3) for name, share in found.items())


def double(pipe, scale):
    """In float64, with value layers that say more: the loss is then far from linear in the gates."""
    pipe = copy.deepcopy(pipe)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    for layer in nemo.layers(pipe.unet, "sixteen").values():
        layer.weight *= scale
    return pipe


def test_a_share_is_the_mean_slope_on_the_way(pipe, x_0):
    """By central differences in the weights: a row times its gate is the neuron's output times it."""
    pipe, x_0, points, h = double(pipe, 10), x_0.double(), (0.9, 0.7, 0.5, 0.3, 0.1), 1e-4
    found = neurons.loss_rises(pipe, x_0, CAPTION, batches=1, seed=3, stream="fish")
    assert all(share.dtype == torch.float64 for share in found.values())
    searched = nemo.layers(pipe.unet, "sixteen")
    weights = {name: layer.weight.clone() for name, layer in searched.items()}
    names = [*searched]
    for name, neuron in ((names[0], 3), (names[6], 15), (names[-1], 0)):
        slopes = []
        for point in points:
            for layer_name, layer in searched.items():
                layer.weight.copy_(point * weights[layer_name])
            ends = []
            for gate in (point + h, point - h):
                searched[name].weight[neuron] = gate * weights[name][neuron]
                ends.append(loss(pipe, x_0, batches=1, seed=3))
            slopes.append((ends[0] - ends[1]) / (2 * h))
        assert found[name][neuron].item() == pytest.approx(-sum(slopes) / 5, rel=1e-5)
        assert max(slopes) - min(slopes) > 0.1 * abs(sum(slopes) / 5)  # one point would not do


def test_draws_are_keyed(pipe, x_0):
    def found(**options):
        return neurons.loss_rises(pipe, x_0, CAPTION, **SEVEN_ALONE | {"seed": 2, "stream": "fish"} | options)

    first = found()
    torch.manual_seed(99)  # what was drawn before changes nothing
    for again in (found(), neurons.loss_rises(pipe, x_0, models.embed(pipe, CAPTION), seed=2, stream="fish",
                                              **SEVEN_ALONE)):  # fmt: skip
        assert all(torch.equal(share, again[name]) for name, share in first.items())
    for other in (found(seed=3), found(stream="hare")):
        assert not any(torch.allclose(share, other[name], rtol=1e-3) for name, share in first.items())


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(pipe, x_0, fails, monkeypatch):
    """Also of a model that is being trained, and where gradients are off; an error in between leaves nothing either."""
    pipe = copy.deepcopy(pipe)
    pipe.unet.requires_grad_(True)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    x = x_0.clone().requires_grad_()
    if fails:
        monkeypatch.setattr(neurons, "denoising_loss", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            neurons.loss_rises(pipe, x, CAPTION, **SEVEN_ALONE)
    else:
        with torch.no_grad():
            found = neurons.loss_rises(pipe, x, CAPTION, **SEVEN_ALONE)
        assert all(share.any() and not share.requires_grad for share in found.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.unet.modules())
    assert all(p.grad is None and p.requires_grad for p in pipe.unet.parameters()) and x.grad is None
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.unet.state_dict().items())


def test_one_picture_and_one_caption_are_ranked_at_a_time(pipe, x_0, one_line):
    for n in (0, 2):
        match = f"the neurons of one picture are ranked at a time; got {n} latents$"
        one_line(ValueError, match, neurons.loss_rises, pipe, x_0.expand(2, -1, -1, -1)[:n], CAPTION)
    one_line(ValueError, "caption", neurons.loss_rises, pipe, x_0, [CAPTION] * 2)
    one_line(ValueError, "layers are 'seven' or 'sixteen'; got 'nine'", neurons.loss_rises, pipe, x_0, CAPTION,
             which="nine")  # fmt: skip
    one_line(ValueError, "batches=0 is not a count", neurons.loss_rises, pipe, x_0, CAPTION, batches=0)


# ---- the highest ----------------------------------------------------------------------------------------

SCORES = {"late": torch.tensor([1.0, 3.0, -2.0]), "early": torch.tensor([3.0, 5.0])}


@pytest.mark.parametrize("count, late, early", [
    (0, [], []),
    (1, [], [1]),
    (2, [1], [1]),  # of two that are equal, the one of the layer that comes first in the dict
    (3, [1], [0, 1]),
    (4, [0, 1], [0, 1]),
    (5, [0, 1, 2], [0, 1]),
])  # fmt: skip
def test_the_highest_of_all_layers_together(count, late, early):
    found = neurons.highest(SCORES, count)
    assert found == {"late": late, "early": early} and [*found] == ["late", "early"]


def test_of_equal_scores_the_earlier_come_first():
    ties = {"a": torch.zeros(3000), "b": torch.zeros(3000)}
    assert neurons.highest(ties, 4000) == {"a": [*range(3000)], "b": [*range(1000)]}
    near = {"a": torch.tensor([1.0], dtype=torch.float64), "b": torch.tensor([1.0 + 1e-12], dtype=torch.float64)}
    assert neurons.highest(near, 1) == {"a": [], "b": [0]}  # not rounded to ties
    mixed = {"a": torch.tensor([0.5, -torch.inf], requires_grad=True), "b": torch.tensor([1], dtype=torch.int64)}
    assert neurons.highest(mixed, 1) == {"a": [], "b": [0]}
    assert neurons.highest({"a": torch.tensor([1.0, torch.inf])}, 1) == {"a": [1]}


def test_the_highest_prune_whole_rows(pipe, shares):
    mask = masks.of_neurons(pipe.unet, neurons.highest(shares, 10))
    bound = torch.cat([*shares.values()]).sort(descending=True).values[9]
    assert all(torch.equal(where.all(1), shares[name] >= bound) for name, where in mask.layers.items())
    assert mask.count == 10 * 16  # each row has sixteen weights


def test_what_cannot_be_ranked_is_one_line(one_line):
    for wrong in (None, {}, [torch.ones(2)], torch.ones(2), {"a": [1.0]}, {"a": torch.ones(2), "b": None}):
        one_line(ValueError, r"^scores are a dict \{layer: tensor \[out\]\}; nemo.z_scores", neurons.highest, wrong, 1)
    one_line(ValueError, "^some scores are NaN; rank", neurons.highest, {**SCORES, "x": torch.tensor([torch.nan])}, 1)
    for count in (6, -1, 1.5, True, None):
        one_line(ValueError, f"^count={count} is not a count that fits; give a whole number from 0 to 5$",
                 neurons.highest, SCORES, count)  # fmt: skip
