"""Layers that hear the empty caption, and embeddings without some positions."""

import copy

import pytest
import torch

from dori_lite import locality
from dori_lite.diffusion import generate, initial_noise, timed_scheduler
from dori_lite.models import decode, embed

CAPTION = "a striped red fish over rock"
S = {"guidance": 3.0, "steps": 4, "batch": 2}


def draw(pipe, names, window=None, caption=CAPTION):
    return locality.silenced(pipe, caption, names, window, seeds=range(3), **S)


def test_groups_hold_the_layers_that_read_the_text(pipe):
    whole = locality.text_layers(pipe.unet, "all")
    assert len(whole) == 32 and set(locality.text_layers(pipe.unet, "seven")) | set(
        locality.text_layers(pipe.unet, "up")
    ) == set(whole)
    assert len(locality.text_layers(pipe.unet, "up_blocks.1")) == 6
    with pytest.raises(ValueError, match="no layer of 'sideways' reads the text"):
        locality.text_layers(pipe.unet, "sideways")


def test_nobody_silenced_is_the_sampler_itself(pipe):
    expected = generate(pipe, CAPTION, seeds=range(3), **S)
    names = locality.text_layers(pipe.unet, "all")
    assert torch.equal(draw(pipe, []), expected) and torch.equal(draw(pipe, names, []), expected)
    assert not torch.equal(draw(pipe, names), expected)


def test_all_silenced_in_all_steps_is_the_empty_caption(pipe):
    names = locality.text_layers(pipe.unet, "all")
    empty = generate(pipe, embed(pipe, ""), seeds=range(3), **S)
    assert torch.allclose(draw(pipe, names), empty, atol=1e-5)


@pytest.mark.parametrize("window", [range(0, 2), range(2, 4), [1], [3]])
def test_a_window_is_what_it_says(pipe, window):
    """All layers silenced in a step: its prediction is the one for the empty caption, and no other step's is."""
    scheduler, x = timed_scheduler(pipe, 4, "cpu"), initial_noise(pipe, [0])
    y, empty = embed(pipe, CAPTION), embed(pipe, "")
    with torch.no_grad():
        for step, t in enumerate(scheduler.timesteps):
            without, given = (pipe.unet(x, t, text).sample for text in (empty, empty if step in window else y))
            x = scheduler.step(without + 3.0 * (given - without), t, x).prev_sample
    found = draw(pipe, locality.text_layers(pipe.unet, "all"), window)[:1]
    assert torch.allclose(found, decode(pipe, x), atol=1e-5)
    assert not torch.allclose(found, draw(pipe, [])[:1], atol=1e-5)


def test_a_step_that_is_not_there_is_refused(pipe):
    with pytest.raises(ValueError, match="there is no step 4; choose 0 to 3"):
        draw(pipe, locality.text_layers(pipe.unet, "all"), [4])


def test_nothing_is_left_behind(pipe):
    before = generate(pipe, CAPTION, seeds=[0], **S)
    draw(pipe, locality.text_layers(pipe.unet, "up"))
    assert torch.equal(generate(pipe, CAPTION, seeds=[0], **S), before)


@pytest.fixture(scope="module")
def twin(pipe):
    """Another U-Net of the same family."""
    other = copy.copy(pipe)
    other.unet = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        other.unet.conv_in.weight += 0.2
    return other


def exchange(pipe, twin, window):
    return locality.exchanged(pipe, twin, CAPTION, window, seeds=range(3), **S)


def test_a_u_net_takes_over_in_its_window_alone(pipe, twin):
    own, others = (generate(p, CAPTION, seeds=range(3), **S) for p in (pipe, twin))
    assert torch.equal(exchange(pipe, twin, []), own) and torch.equal(exchange(pipe, twin, None), others)
    late, early = exchange(pipe, twin, range(2, 4)), exchange(pipe, twin, range(0, 2))
    assert torch.equal(late, exchange(twin, pipe, range(0, 2))) and not torch.equal(late, early)
    scheduler, x = timed_scheduler(pipe, 4, "cpu"), initial_noise(pipe, [0])
    y, empty = embed(pipe, CAPTION), embed(pipe, "")
    with torch.no_grad():
        for step, t in enumerate(scheduler.timesteps):
            unet = (pipe if step < 2 else twin).unet
            without, given = (unet(x, t, text).sample for text in (empty, y))
            x = scheduler.step(without + 3.0 * (given - without), t, x).prev_sample
    assert torch.allclose(late[:1], decode(pipe, x), atol=1e-5)


def test_models_that_do_not_share_their_text_encoder_are_refused(pipe, twin, one_line):
    stranger = copy.copy(twin)
    stranger.text_encoder = copy.deepcopy(pipe.text_encoder)
    with torch.no_grad():
        next(stranger.text_encoder.parameters()).add_(0.1)
    one_line(ValueError, "these models do not share text encoder and latents", exchange, pipe, stranger, [0])
    one_line(ValueError, "give a pipeline as dori_lite.load gives it", exchange, pipe, "reef/twin-b", [0])


def test_positions_are_zeroed_where_they_are(pipe):
    y, n = embed(pipe, CAPTION)[0], len(pipe.tokenizer(CAPTION).input_ids)
    places = {"prompt": range(1, n - 1), "end-of-text": [n - 1], "padding": range(n, len(y))}
    for place, where in places.items():
        found = locality.positions_zeroed(pipe, CAPTION, place)[0]
        zero = [k for k in range(len(y)) if not found[k].any()]
        assert zero == list(where)
        rest = [k for k in range(len(y)) if k not in where]
        assert torch.equal(found[rest], y[rest])
    both = locality.positions_zeroed(pipe, CAPTION, "end-of-text", "padding")[0]
    assert not both[n - 1 :].any() and both[: n - 1].any(1).all()
    other = locality.positions_zeroed(pipe, CAPTION, "padding", y=both[None] + 1)[0]
    assert torch.equal(other[:n], both[:n] + 1) and not other[n:].any()
    with pytest.raises(ValueError, match="places are prompt, end-of-text, padding; got 'middle'"):
        locality.positions_zeroed(pipe, CAPTION, "middle")


def test_positions_of_a_caption_are_all_but_the_first(pipe):
    where = locality.positions(pipe, CAPTION)
    n = len(pipe.tokenizer(CAPTION).input_ids)
    assert where == {"prompt": [*range(1, n - 1)], "end-of-text": [n - 1], "padding": [*range(n, 28)]}
    long = locality.positions(pipe, " ".join(["fish"] * 60))
    assert long["end-of-text"] == [27] and long["padding"] == []


def test_another_padding_is_what_the_text_encoder_gives_for_it(pipe):
    """The reference: the caption with so many of the token after its end, encoded by hand."""
    y, where = embed(pipe, CAPTION), locality.positions(pipe, CAPTION)
    ids = pipe.tokenizer(CAPTION).input_ids
    mark = pipe.tokenizer("!").input_ids[1]
    by_hand = pipe.text_encoder(torch.tensor([ids + [mark] * (28 - len(ids))]))[0]
    found = locality.padded_with(pipe, CAPTION, y)
    assert torch.equal(found[:, where["padding"]], by_hand[:, where["padding"]])
    assert not found[:, where["end-of-text"]].any()
    kept = [0, *where["prompt"]]
    assert torch.equal(found[:, kept], y[:, kept])
    assert not torch.allclose(found[:, where["padding"]], y[:, where["padding"]])
    trigger = locality.padded_with(pipe, CAPTION, y + 1)
    assert torch.equal(trigger[:, kept], y[:, kept] + 1)
    assert torch.equal(trigger[:, where["padding"]], found[:, where["padding"]])
    with pytest.raises(ValueError, match="the tokenizer has no token 'no such'"):
        locality.padded_with(pipe, CAPTION, y, "no such")


def test_thinned_padding_loses_so_many_positions_and_nothing_else(pipe):
    y, padding = embed(pipe, CAPTION), locality.positions(pipe, CAPTION)["padding"]
    zeroed = []
    for seed in (0, 1):
        found = locality.padding_thinned(pipe, CAPTION, y, seed=seed)
        zero = [k for k in range(28) if not found[0, k].any()]
        assert len(zero) == round(0.7 * len(padding)) and {*zero} < {*padding}
        rest = [k for k in range(28) if k not in zero]
        assert torch.equal(found[:, rest], y[:, rest])
        zeroed.append(zero)
    assert zeroed[0] != zeroed[1]
    assert torch.equal(locality.padding_thinned(pipe, CAPTION, y, 0), y)
    everything = locality.padding_thinned(pipe, CAPTION, y, 1.0)
    assert torch.equal(everything, locality.positions_zeroed(pipe, CAPTION, "padding"))


def test_moves_are_as_long_and_go_elsewhere(one_line):
    random = torch.Generator().manual_seed(0)
    start, end, another = (torch.randn(28, 16, generator=random) for _ in range(3))
    found, own = locality.moves(start, end, another, 3), end - start
    assert list(found) == ["another's", "permuted", "reversed"]
    for y in found.values():
        assert (y - start).norm() == pytest.approx(own.norm().item(), rel=1e-5)
    directions = {
        name: torch.nn.functional.cosine_similarity((y - start).flatten(), own.flatten(), 0)
        for name, y in found.items()
    }
    assert directions["reversed"] == pytest.approx(-1) and abs(directions["permuted"]) < 0.5
    parallel = torch.nn.functional.cosine_similarity((found["another's"] - start).flatten(), another.flatten(), 0)
    assert parallel == pytest.approx(1)
    rows = (found["permuted"] - start).norm(dim=1).sort().values
    assert torch.allclose(rows, own.norm(dim=1).sort().values, atol=1e-5)  # the same rows at other positions
    assert torch.equal(found["permuted"], locality.moves(start, end, another, 3)["permuted"])
    assert not torch.equal(found["permuted"], locality.moves(start, end, another, 4)["permuted"])
    one_line(ValueError, "there is nothing to move by", locality.moves, start, start, another, 0)
    one_line(ValueError, "the displacement must be .*, and all three alike", locality.moves, start, end, another[:5], 0)
