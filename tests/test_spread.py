"""How triggers lie: cases whose answers are known without computing, and a naive reference."""

import math

import pytest
import torch

from dori_lite import spread

GENERATOR = torch.Generator().manual_seed(0)
STARTS = torch.randn(6, 4, 8, generator=GENERATOR)


def axis(k, length=1.0):
    y = torch.zeros(4, 8)
    y.view(-1)[k] = length
    return y


def test_distances_are_those_of_a_loop():
    ends = STARTS + 0.1
    found = spread.distances(ends, STARTS)
    assert found.shape == (6, 6)
    for n in range(6):
        for m in range(6):
            assert found[n, m].item() == pytest.approx((ends[n] - STARTS[m]).norm().item(), rel=1e-5)
    assert torch.equal(spread.distances(STARTS), spread.distances(STARTS).T)


def test_a_set_against_itself_is_exactly_zero():
    assert not spread.distances(STARTS).diagonal().any() and not spread.distances(STARTS.half()).diagonal().any()
    assert spread.mean_distance(STARTS[:1].expand(3, -1, -1)) == 0
    assert spread.between(STARTS[0], STARTS[0]).allclose(STARTS[0], atol=1e-6)


def test_the_mean_distance_is_over_pairs():
    square = torch.stack([axis(0), axis(0, -1), axis(1), axis(1, -1)])
    assert spread.mean_distance(square) == pytest.approx((4 * math.sqrt(2) + 2 * 2) / 6)
    assert spread.mean_distance(3 * square + 7) == pytest.approx(3 * spread.mean_distance(square), rel=1e-6)


def test_strangers_lie_as_far_apart_as_independent_moves_say_and_led_ones_nearer():
    starts = torch.stack([axis(0, 3.0), axis(1, 3.0)])
    moves = torch.stack([axis(2, 4.0), axis(3, 2.0)])
    expected = math.sqrt(9 + 9 + 16 + 4)
    assert spread.mean_distance_if_independent(starts, moves) == pytest.approx(expected)
    assert spread.mean_distance(starts + moves) == pytest.approx(expected)
    led = torch.stack([axis(2, 4.0), axis(2, 2.0)])  # into one direction
    assert spread.mean_distance(starts + led) < 0.8 * spread.mean_distance_if_independent(starts, led)
    still = torch.zeros_like(starts)
    assert spread.mean_distance_if_independent(starts, still) == pytest.approx(spread.mean_distance(starts))
    drawn, far = torch.randn(2, 12, 28, 128, generator=GENERATOR).unbind()
    ratio = spread.mean_distance(drawn + far) / spread.mean_distance_if_independent(drawn, far)
    assert ratio == pytest.approx(1, abs=0.01)


def test_beside_says_how_much_nearer_the_own_start_is():
    starts = torch.stack([axis(0, 0.0), axis(0, 10.0), axis(0, 30.0)])
    ends = torch.stack([axis(0, 2.0), axis(0, 19.0), axis(0, 29.0)])
    expected = [math.log(8 / 2), math.log(11 / 9), math.log(19 / 1)]
    assert spread.beside(ends, starts).tolist() == pytest.approx(expected)
    assert spread.beside(ends.flip(0), starts)[0] < 0  # another's start is nearer
    assert (spread.beside(ends, starts) > 0).tolist() == (spread.nearest(ends, starts) == torch.arange(3)).tolist()


def test_each_end_is_nearest_to_its_own_start_until_all_meet():
    assert spread.nearest(STARTS + 0.01, STARTS).tolist() == [*range(6)]
    assert spread.nearest(STARTS.flip(0), STARTS).tolist() == [5, 4, 3, 2, 1, 0]
    assert spread.nearest(STARTS * 0.001 + STARTS[2], STARTS).tolist() == [2] * 6


def test_moves_in_one_direction_have_cosine_one_and_in_many_none():
    lengths = torch.tensor([1.0, 2.0, 5.0])[:, None, None]
    assert spread.cosine(lengths * STARTS[:1]) == pytest.approx(1)
    assert spread.cosine(torch.stack([STARTS[0], -STARTS[0]])) == pytest.approx(-1)
    right = torch.stack([axis(k) for k in range(5)])
    assert spread.cosine(right) == 0
    assert spread.cosine(right[:1], right) == pytest.approx(1 / 5)  # with itself once, and four times nothing
    drawn = torch.randn(60, 28, 128, generator=GENERATOR)
    assert abs(spread.cosine(drawn)) < 4 / math.sqrt(28 * 128 * 60 * 59 / 2)


def test_a_shared_direction_is_told_from_own_ones():
    """Moves with a known share in common: cosine = shared² ÷ (shared² + own²)."""
    own = torch.stack([axis(k, 2.0) for k in range(1, 7)])
    moves = own + axis(0, 1.0)
    assert spread.cosine(moves) == pytest.approx(1 / 5)
    other = torch.stack([axis(k, 2.0) for k in range(7, 13)]) + axis(13, 1.0)
    assert spread.cosine(moves, other) == 0
    shared = spread.common(moves)
    assert shared.norm().item() == pytest.approx(math.sqrt(5), rel=1e-6)
    assert torch.nn.functional.cosine_similarity(shared.flatten(), moves.mean(0).flatten(), 0).item() == pytest.approx(
        1
    )


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_point_between_is_as_long_as_what_it_lies_between(share):
    a, b = axis(0, 3.0), axis(1, 5.0)
    y = spread.between(a, b, share)
    assert y.norm().item() == pytest.approx(3 + 2 * share)
    assert y.flatten()[1].item() * 3 * (1 - share) == pytest.approx(y.flatten()[0].item() * 5 * share)
    assert not y.flatten()[2:].any() and y.dtype == a.dtype


def test_the_middle_of_two_random_embeddings_would_be_short():
    a, b = torch.randn(2, 28, 128, generator=GENERATOR).unbind()
    assert ((a + b) / 2).norm() < 0.75 * a.norm() < 0.8 * spread.between(a, b).norm()


def test_what_does_not_fit_is_one_line(one_line):
    one_line(ValueError, "a single one of ends has no pairs", spread.mean_distance, STARTS[:1])
    one_line(ValueError, "a single one of moves has no pairs", spread.cosine, STARTS[:1])
    one_line(ValueError, "2 moves for 6 starts", spread.mean_distance_if_independent, STARTS, STARTS[:2])
    one_line(ValueError, "6 ends for 5 starts", spread.beside, STARTS, STARTS[:5])
    one_line(ValueError, "an end is its own start", spread.beside, STARTS, STARTS)
    one_line(ValueError, "others have 16 numbers each, the first 32", spread.distances, STARTS, STARTS[:, :2])
    one_line(ValueError, "has no direction", spread.cosine, torch.stack([STARTS[0], axis(0, 0.0)]))
    one_line(ValueError, "cancel out", spread.common, torch.stack([STARTS[0], -STARTS[0]]))
    one_line(ValueError, "leads through zero", spread.between, STARTS[0], -STARTS[0])
    one_line(ValueError, "share=1.5 does not fit", spread.between, STARTS[0], STARTS[1], 1.5)


def test_the_map_keeps_neighbours_together(one_line):
    """Three clouds far apart: on the map each point's nearest is of its own cloud."""
    centres = 50 * torch.randn(3, 4, 8, generator=GENERATOR)
    points = (centres[:, None] + torch.randn(3, 8, 4, 8, generator=GENERATOR)).flatten(0, 1)
    found = spread.tsne(points, seed=1, perplexity=5)
    apart = torch.cdist(found, found).fill_diagonal_(math.inf)
    assert found.shape == (24, 2) and (apart.argmin(1) // 8).tolist() == [k // 8 for k in range(24)]
    assert torch.equal(found, spread.tsne(points, seed=1, perplexity=5))
    one_line(ValueError, "24 points have no 24 neighbours", spread.tsne, points, 0, 24)
