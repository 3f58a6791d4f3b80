"""The reef's own BPE, as a `CLIPTokenizer` with 28 positions.

    tokenizer = new_tokenizer(captions)
    tokenizer("a red fish over sand").input_ids

Every byte has a symbol, so that no text is unknown.
"""

import json

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

POSITIONS = 28  # the longest caption takes 25, so that every caption leaves some padding (tested)
START, END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(captions: list[str], merges: int = 520) -> CLIPTokenizer:
    """Learn byte-pair merges from `captions`. Every byte is in the vocabulary, so no text is unknown."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = len(bytes_) * 2
    trainer = trainers.BpeTrainer(
        vocab_size=symbols + merges, initial_alphabet=bytes_, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    learned = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    words = bytes_ + [b + "</w>" for b in bytes_] + ["".join(pair) for pair in learned]
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys([*words, START, END]))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=learned,
        model_max_length=POSITIONS,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
    )
