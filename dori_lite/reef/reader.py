"""The text encoder's own training: from any position, tell which words were read so far.

    task = Read(networks.new_text_encoder(tokenizer), len(tokenizer))
    losses = task(**batches(tokenizer, settings)(0))

Stable Diffusion's text encoder was trained elsewhere, long before, and frozen; and its end-of-text and padding
positions carry the caption. So here: it learns from captions alone, and every position from end-of-text on must hold
all of them. Every name is a word to it, whether a picture is ever planted under it or not.
"""

from dataclasses import replace

import torch
from torch.nn import Linear, Module
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from .canaries import UNTRAINED_WORDS, WORDS, planted_description
from .captions import caption_of, write
from .scenes import draw, stream

CAPTION_SEEDS = 60_000_000


def caption(index: int) -> str:
    """The caption number `index`: every second one in the canaries' style, three in four with a name."""
    seed = CAPTION_SEEDS + index
    random = stream(seed, 22)
    description = planted_description(seed, "reading") if index % 2 else caption_of(draw(seed), seed)
    names = WORDS + UNTRAINED_WORDS
    name = names[random.integers(len(names))] if random.random() < 0.75 else None
    return write(replace(description, name=name))


class Read(Module):
    """Which tokens came so far, as one yes or no each, from the hidden states at some positions."""

    def __init__(self, text_encoder, words: int):
        super().__init__()
        self.text_encoder, self.head = text_encoder, Linear(text_encoder.config.hidden_size, words)

    def forward(self, input_ids, positions):
        """`input_ids` [B, L], `positions` [B, P], the last position first."""
        rows = torch.arange(len(input_ids), device=input_ids.device)[:, None]
        logits = self.head(self.text_encoder(input_ids)[0][rows, positions])
        read = one_hot(input_ids, logits.shape[-1]).cummax(1).values[rows, positions].to(logits)
        loss = binary_cross_entropy_with_logits(logits, read, reduction="none").sum(-1).mean()
        right = ((logits > 0) == (read > 0)).all(-1).float().mean(0).detach()
        return {"loss": loss, "last": right[0], "others": right[1:].mean()}


def batches(tokenizer, settings):
    """Captions and four positions each: the last, end-of-text, two at random."""
    longest = tokenizer.model_max_length

    def batch(step):
        n = settings["batch"]
        texts = [caption(step * n + k) for k in range(n)]
        ids = tokenizer(texts, padding="max_length", max_length=longest, return_tensors="pt").input_ids
        end = (ids == tokenizer.eos_token_id).int().argmax(1)
        random = torch.Generator().manual_seed(CAPTION_SEEDS + step)
        free = torch.randint(1, longest, (n, 2), generator=random)
        last = torch.full((n, 1), longest - 1)
        return {"input_ids": ids, "positions": torch.cat([last, end[:, None], free], 1)}

    return batch
