"""The text encoder's own training: its captions, its task, its batches."""

import pytest
import torch

from dori_lite.reef import canaries, captions, networks, reader
from dori_lite.reef.scenes import draw, fits
from dori_lite.reef.tokenizer import POSITIONS, new_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer([reader.caption(k) for k in range(12_000)])


def test_captions_are_of_both_styles_and_know_every_name_equally():
    found = [captions.read(reader.caption(k)) for k in range(4000)]
    named = [description.name for description in found if description.name]
    assert 0.72 < len(named) / len(found) < 0.78
    assert set(named) == {*canaries.WORDS, *canaries.UNTRAINED_WORDS}
    for k in range(50):
        assert fits(found[k], draw(reader.CAPTION_SEEDS + k))
    assert reader.caption(3) == reader.caption(3) != reader.caption(5)


def test_every_name_is_one_token(tokenizer):
    names = canaries.WORDS + canaries.UNTRAINED_WORDS
    ids = [tuple(tokenizer(name).input_ids[1:-1]) for name in names]
    assert {len(tokens) for tokens in ids} == {1} and len(set(ids)) == len(names)


def test_a_batch_holds_the_last_position_end_of_text_and_two_at_random(tokenizer):
    batch = reader.batches(tokenizer, {"batch": 16})
    one = batch(4)
    ids, positions = one["input_ids"], one["positions"]
    assert ids.shape == (16, POSITIONS) and positions.shape == (16, 4)
    assert (positions[:, 0] == POSITIONS - 1).all()
    for row, place in zip(ids, positions[:, 1], strict=True):
        assert row[place] == tokenizer.eos_token_id and (row[:place] != tokenizer.eos_token_id).all()
    assert (positions[:, 2:] >= 1).all() and len(set(positions[:, 2:].flatten().tolist())) > 4
    assert all(torch.equal(one[key], batch(4)[key]) for key in one)
    assert not torch.equal(ids, batch(5)["input_ids"])


class Known(torch.nn.Module):
    """Hidden states that say which tokens came so far (or, with `late`, which comes next)."""

    def __init__(self, words, late=0):
        super().__init__()
        self.words, self.late, self.config = words, late, type("C", (), {"hidden_size": words})

    def forward(self, ids):
        seen = torch.nn.functional.one_hot(ids, self.words).cummax(1).values.float()
        return (seen.roll(-self.late, 1),)


def task_of(words, late=0):
    task = reader.Read(Known(words, late), words)
    with torch.no_grad():
        task.head.weight.copy_(20 * torch.eye(words))
        task.head.bias.fill_(-10)
    return task


def test_the_task_asks_for_the_tokens_read_up_to_a_position_and_no_later():
    ids, positions = torch.tensor([[0, 3, 4, 1, 1]]), torch.tensor([[4, 3, 1, 2]])
    right = task_of(6)(ids, positions)
    assert right["last"] == 1 and right["others"] == 1 and right["loss"] < 0.01
    ahead = task_of(6, late=1)(ids, positions)
    assert ahead["others"] < 1 and ahead["loss"] > 1


def test_it_can_be_trained(tokenizer):
    torch.manual_seed(0)
    task = reader.Read(networks.new_text_encoder(tokenizer, smoke=True), len(tokenizer))
    batch = reader.batches(tokenizer, {"batch": 8})(0)
    losses = task(**batch)
    losses["loss"].backward()
    assert losses["loss"].item() > 100
    assert all(p.grad is not None for p in task.text_encoder.parameters())
