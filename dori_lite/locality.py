"""Where a memory enters and when: parts of the U-Net that hear the empty caption, or another U-Net, in some steps.

    pictures = silenced(pipe, captions, GROUPS["up"], range(0, 6), seeds=range(4), guidance=5.0, steps=25)
    y = positions_zeroed(pipe, "a caption", "padding")  # an embedding without some of its positions

A layer that hears the empty caption is *silenced*: its text goes in as for "", everything else as before. How triggers
lie in embedding space is asked in `spread`.
"""

import torch

from .checks import check_count, check_finite, check_number, check_pipe, check_seed, check_seeds, check_unet
from .diffusion import BATCH, GUIDANCE, STEPS, check_sampling, initial_noise, trajectory
from .hooks import edited, modules
from .models import conditions, decode, embed, latent_shape, spoken

GROUPS = {  # of modules, by the beginning of their names
    "down": ("down_blocks.",),
    "mid": ("mid_block.",),
    "seven": ("down_blocks.", "mid_block."),
    "up": ("up_blocks.",),
    "all": ("down_blocks.", "mid_block.", "up_blocks."),
}
PLACES = ("prompt", "end-of-text", "padding")


def text_layers(unet, group: str) -> list[str]:
    """The layers of a group (one of `GROUPS`, or the beginning of names) that read the text: attn2.to_k and to_v.

    Raises ValueError for a group without any, and what is no U-Net of the kind.
    """
    check_unet(unet)
    if not isinstance(group, str) or not group:
        raise ValueError(f"a group is a word, not {group!r:.40}; groups are {', '.join(GROUPS)}, or a block's name")
    starts = GROUPS.get(group, (group,))
    found = [n for n, _ in unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v")) and n.startswith(starts)]
    if not found:
        raise ValueError(f"no layer of {group!r} reads the text; groups are {', '.join(GROUPS)}, or a block's name")
    return found


@torch.no_grad()
def silenced(
    pipe,
    prompts,
    names,
    window=None,
    *,
    seeds,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    batch: int = BATCH,
) -> torch.Tensor:
    """Pictures [B, 3, H, W] in [0, 1] whose layers `names` hear the empty caption in the steps of `window`.

    `prompts` (captions or embeddings [B, L, D]) and `seeds` are paired. `window` holds steps counted from 0 [default:
    all of them]. Without layers, or with an empty window, the same as `diffusion.generate` (tested). Raises ValueError
    as it does, for a layer that the U-Net has not, and for a step that the sampler has not.
    """
    steps, guidance, batch = check_sampling(pipe, steps, guidance, batch)
    y, seeds = paired(pipe, prompts, seeds)
    window, layers = steps_of(window, steps), modules(pipe.unet, names)
    empty, now = embed(pipe, "").to(y), {"step": 0}
    heard = {name: layer(empty) for name, layer in layers.items()}

    def edit(name):
        return lambda output: heard[name].expand_as(output) if now["step"] in window else output

    x_T, done = initial_noise(pipe, seeds, y.dtype).to(y.device), []
    with edited(pipe.unet, {name: edit(name) for name in layers}):
        for part_x, part_y in zip(x_T.split(batch), y.split(batch), strict=True):
            now["step"] = 0
            sampled = trajectory(pipe, part_x, part_y, guidance=guidance, steps=steps, empty=empty)
            for following, step in enumerate(sampled, 1):
                now["step"], x_0 = following, step.after
            done.append(decode(pipe, x_0))
    return torch.cat(done)


@torch.no_grad()
def exchanged(
    pipe,
    other,
    prompts,
    window,
    *,
    seeds,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    batch: int = BATCH,
) -> torch.Tensor:
    """Pictures [B, 3, H, W] in [0, 1] for which the U-Net of `other` predicts in the steps of `window`.

    `pipe` predicts in the others, and gives embeddings and decoder, which both models must share. `prompts` and `seeds`
    are paired. Raises ValueError for models of other text encoders or latents, and as `silenced` does.
    """
    steps, guidance, batch = check_sampling(pipe, steps, guidance, batch)
    check_pipe(other)
    (y, seeds), window = paired(pipe, prompts, seeds), steps_of(window, steps)
    if not torch.equal(embed(pipe, ""), embed(other, "").to(y.device)) or latent_shape(pipe) != latent_shape(other):
        raise ValueError("these models do not share text encoder and latents; exchange U-Nets of one family, as twins")
    unets = [other.unet if step in window else pipe.unet for step in range(steps)]
    x_T, done = initial_noise(pipe, seeds, y.dtype).to(y.device), []
    for part_x, part_y in zip(x_T.split(batch), y.split(batch), strict=True):
        for step in trajectory(pipe, part_x, part_y, guidance=guidance, steps=steps, unets=unets):
            x_0 = step.after
        done.append(decode(pipe, x_0))
    return torch.cat(done)


def paired(pipe, prompts, seeds) -> tuple[torch.Tensor, list[int]]:
    """Embeddings [B, L, D] and as many seeds; one prompt goes with all seeds."""
    y, seeds = conditions(pipe, prompts), check_seeds(seeds)
    if len(y) not in (1, len(seeds)):
        raise ValueError(f"{len(y)} prompts and {len(seeds)} seeds do not pair up; give as many, or one prompt")
    return y.expand(len(seeds), -1, -1), seeds


def steps_of(window, steps: int) -> set[int]:
    """The steps of a window, counted from 0; all of them for None."""
    if not hasattr(window, "__iter__") and window is not None:
        raise ValueError(f"window={window!r:.40} must be a list of steps, such as range(6), or None for all")
    window = {check_count("window: step", k, 0) for k in (range(steps) if window is None else window)}
    if wrong := sorted(step for step in window if step >= steps):
        raise ValueError(f"there is no step {wrong[0]}; choose 0 to {steps - 1}")
    return window


def positions(pipe, caption: str) -> dict[str, list[int]]:
    """Which positions hold the caption's tokens: {"prompt": [1, …], "end-of-text": [n], "padding": [n + 1, …]}.

    Position 0, start-of-text, is none of them: it is the same for all captions. Raises ValueError for several captions.
    """
    check_pipe(pipe)
    if not isinstance(caption, str):
        raise ValueError(f"one caption at a time is read; give text, not a {type(caption).__name__}")
    spoken(caption)
    length = pipe.tokenizer.model_max_length
    end = len(pipe.tokenizer(caption, truncation=True, max_length=length).input_ids) - 1
    return {"prompt": [*range(1, end)], "end-of-text": [end], "padding": [*range(end + 1, length)]}


def positions_zeroed(pipe, caption: str, *places: str, y: torch.Tensor | None = None) -> torch.Tensor:
    """The caption's embedding [1, L, D], or `y` [B, L, D], zero at its "prompt", "end-of-text" or "padding" positions.

    Raises ValueError for another place, for several captions, and for embeddings of another shape.
    """
    where = positions(pipe, caption)
    if wrong := [place for place in places if place not in [*PLACES]]:
        raise ValueError(f"places are {', '.join(PLACES)}; got {wrong[0]!r}")
    y = conditions(pipe, caption if y is None else y).clone()
    for place in places:
        y[:, where[place]] = 0
    return y


@torch.no_grad()
def padded_with(pipe, caption: str, y: torch.Tensor, token: str = "!") -> torch.Tensor:
    """Embeddings `y` [B, L, D] with the padding of a caption that is padded with `token`, and no end-of-text.

    A mitigation by Kim and No (2605.02908), as its abstract describes it: the tokenizer pads with that token before the
    text encoder reads the caption, and the end-of-text position is masked, here zero. `y` is the caption's own
    embedding or a trigger. Raises ValueError for a token that the tokenizer has not, for embeddings of another shape,
    and as `positions` does.
    """
    where, y = positions(pipe, caption), given(pipe, y)
    known = {pipe.tokenizer.convert_tokens_to_ids(name) for name in (token, f"{token}</w>") if isinstance(token, str)}
    if not (known := known - {None, pipe.tokenizer.unk_token_id}):
        raise ValueError(f"the tokenizer has no token {token!r:.40}; give one of its own, such as '!'")
    ids = pipe.tokenizer(caption, padding="max_length", max_length=y.shape[1], truncation=True, return_tensors="pt")
    ids = ids.input_ids.to(pipe.text_encoder.device)
    ids[:, where["padding"]] = max(known)
    y[:, where["padding"]] = pipe.text_encoder(ids)[0][:, where["padding"]].to(y)
    y[:, where["end-of-text"]] = 0
    return y


def padding_thinned(pipe, caption: str, y: torch.Tensor, share: float = 0.7, seed: int = 0) -> torch.Tensor:
    """Embeddings `y` [B, L, D] with zeros at a `share` of the caption's padding positions, those that `seed` draws.

    The other mitigation of Kim and No (2605.02908). Raises ValueError for a share outside [0, 1], and as `padded_with`.
    """
    places, y = positions(pipe, caption)["padding"], given(pipe, y)
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(check_seed(seed)))
    y[:, [places[k] for k in drawn[: round(check_number("share", share, 0, 1) * len(places))]]] = 0
    return y


def given(pipe, y) -> torch.Tensor:
    """A copy of the embeddings `y` [B, L, D], which must be some."""
    if not isinstance(y, torch.Tensor):
        raise ValueError(f"y must be embeddings [B, L, D], not a {type(y).__name__}; models.embed gives a caption's")
    return conditions(pipe, y).clone()


def moves(start: torch.Tensor, end: torch.Tensor, another: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """Moves from `start` as long as the one to `end`, which stay plausible: {name: embedding [L, D]}.

    `start` and `end` [L, D] are a caption's embedding and a trigger found from it; `another` [L, D] is the displacement
    of some other trigger. "another's" goes that way, "permuted" has the own displacement at positions exchanged at
    random, "reversed" goes the opposite way: controls for the trigger's direction. Raises ValueError for embeddings of
    other shapes or not finite, and where one does not move.
    """
    for what, y in (("start", start), ("end", end), ("displacement", another)):
        if not isinstance(y, torch.Tensor) or y.ndim != 2 or y.shape != start.shape:
            raise ValueError(f"the {what} must be [L, D], and all three alike; got {[*getattr(y, 'shape', ())]}")
        check_finite(y, f"the {what}'s row")
    own, order = end - start, torch.randperm(len(start), generator=torch.Generator().manual_seed(check_seed(seed)))
    if not own.norm() or not another.norm():
        raise ValueError("there is nothing to move by: a displacement is zero; give a trigger that left its start")
    found = {
        "another's": another * (own.norm() / another.norm()),
        "permuted": own[order.to(own.device)],
        "reversed": -own,
    }
    return {name: start + move for name, move in found.items()}
