"""Pictures and what is drawn of pictures: grids, maps of latents, the poster. A picture is a PIL image or a tensor
[3, H, W] in [0, 1]; every drawing is a matplotlib figure.

    pictures.grid({"planted": [target.image], "own twin": images}, columns=["noise 0", "noise 1"])
"""

import os

import numpy as np

from ..files import as_pil  # noqa: F401  (one home, for what stores pictures as well)
from ..ranges import check_mapping, check_number
from .style import COPY, frame, literal

TITLE = "What comes back under attack"  # of every poster


def as_array(image) -> np.ndarray:
    """A picture as matplotlib takes it, [H, W, 3]: bytes of a PIL image, floats in [0, 1] of a tensor (clipped).

    Raises ValueError for a tensor of bytes, of another shape or with NaN, and for what is no picture.
    """
    if hasattr(image, "detach"):
        from ..checks import check_pictures  # here, because figures load without torch

        given = image.detach()[None]
        sound = given.is_floating_point() and given.isfinite().all()
        check_pictures(given.clamp(0, 1) if sound else given, "pictures to draw")
        return image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind not in "uf":
        got = f"{type(image).__name__} {[*array.shape]}"
        raise ValueError(f"a picture is a PIL image, a tensor [3, H, W] or an array [H, W, 3], not a {got}; convert it")
    return array


def as_tensor(image):
    """A picture, or a stored one's path, as detectors take it: a float tensor [3, H, W] in [0, 1], on the CPU."""
    import torch

    array = as_array(open_image(image) if isinstance(image, str | os.PathLike) else image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous()
    return tensor / 255 if tensor.dtype == torch.uint8 else tensor


def open_image(path):
    """A stored picture as a PIL image, read at once, so that no file stays open. Raises ValueError for no picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"{path} is damaged, or no picture; store it again") from None


def grid(rows: dict, columns=None, title: str | None = None, size: float = 1.15):
    """Rows of pictures: {label: pictures}, `size` inches each.

    `columns` are titles above the first row. Raises ValueError when there is nothing to draw.
    """
    check_mapping("a grid needs at least one picture: rows", rows)
    rows = [(literal(label, lines=max(2, round(5 * size))), list(pictures)) for label, pictures in rows.items()]
    wide = max((len(pictures) for _, pictures in rows), default=0)
    if not wide:
        raise ValueError("a grid needs at least one picture")
    longest = max(len(line) for label, _ in rows for line in label.split("\n"))
    margin = max(1.1, 0.09 * longest)  # inches that the longest label takes
    inches = size * wide + margin, size * len(rows) + 0.3 * bool(title or columns)
    with frame(len(rows), wide, inches) as (figure, axes):
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (label, pictures) in zip(axes, rows, strict=True):
            for axis, picture in zip(line, pictures, strict=False):
                axis.imshow(as_array(picture), interpolation="lanczos")
            line[0].text(-0.08, 0.5, label, transform=line[0].transAxes, ha="right", va="center")
        for axis, text in zip(axes[0], columns or [], strict=False):
            axis.set_title(literal(text, max(16, round(16 * size)), 3), fontsize=9)
        if title:
            figure.suptitle(literal(title, round(9 * inches[0]), 2))
        figure.tight_layout(pad=0.3)
    return figure


def maps(values: dict, size: float = 1.6):
    """Maps of signed numbers in one row, {label: [h, w]}: dark is negative, light positive, one scale for all.

    Raises ValueError when there is nothing to draw, or what is no map of finite numbers.
    """
    check_mapping("give at least one map: values", values)
    for label, value in values.items():
        if value.ndim != 2 or not (abs(value) < np.inf).all():
            raise ValueError(f"{label}: a map is [h, w] of finite numbers, not {[*value.shape]}; leave out what is not")
    most = max(float(abs(value).max()) for value in values.values())
    with frame(1, len(values), (size * len(values) + 0.9, size + 0.4), layout="constrained") as (figure, [axes]):
        for axis, (label, value) in zip(axes, values.items(), strict=True):
            value = value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
            drawn = axis.imshow(value, cmap="gray", vmin=-most, vmax=most, interpolation="nearest")
            axis.set_title(literal(label, max(16, round(12 * size)), 4), fontsize=9)
            axis.set(xticks=[], yticks=[])
        figure.colorbar(drawn, ax=list(axes), shrink=0.85)
    return figure


def poster(rows: dict, steps, target, threshold: float, title: str = "", caption: str = ""):
    """The signature figure: one row a condition, one column a number of attack steps, same target, same noise.

    `rows` is {label: [(picture, score), …]}, a pair for each of `steps`; scores of `threshold` or more are copies and
    framed, with a tick beside the score. The picture `target` stands at the left of the first row. Raises ValueError
    for a row of another length.
    """
    check_mapping("rows", rows), check_number("threshold", threshold)
    if wrong := [label for label, pairs in rows.items() if len(pairs) != len(steps)]:
        raise ValueError(f"{', '.join(wrong)}: give one picture for each of the {len(steps)} numbers of steps")
    inches = 1.35 * (len(steps) + 1) + 1.7, 1.62 * len(rows) + 0.75
    with frame(len(rows), len(steps) + 1, inches) as (figure, axes):
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0, 0].imshow(as_array(target), interpolation="lanczos")
        for axis, text in zip(axes[0], ("the picture", *(f"{n} step{'s' * (n != 1)}" for n in steps)), strict=True):
            axis.set_title(text, fontsize=10)
        for (left, *line), (label, pairs) in zip(axes, rows.items(), strict=True):
            left.text(-0.12, 0.5, literal(label, 22), transform=left.transAxes, ha="right", va="center", fontsize=11)
            for axis, (picture, score) in zip(line, pairs, strict=True):
                copy = score >= threshold
                axis.imshow(as_array(picture), interpolation="lanczos")
                if copy:
                    axis.spines[:].set(visible=True, color=COPY, linewidth=3)
                axis.set_xlabel(f"{'✓ copy ' if copy else ''}{score:.2f}", fontsize=8, labelpad=3)
        if title:
            figure.suptitle(literal(title, round(8 * inches[0]), 2), fontsize=13)
        if caption:
            figure.text(
                0.5,
                0.005,
                literal(caption, round(14 * inches[0]), 3),
                ha="center",
                va="bottom",
                fontsize=8.5,
                style="italic",
            )
        figure.tight_layout(pad=0.5, rect=(0, 0.03 if caption else 0, 1, 1))
    return figure


def poster_of(run, target, conditions, threshold: float, score: str = "descriptor"):
    """The `poster` of one target under attack from the caption: a row a condition, a column a number of steps.

    `score` is the detector whose `threshold` it is. The steps are those whose pictures the run kept of every one of the
    conditions. Raises ValueError where it has none.
    """
    lines, at = poster_rows(run, target, conditions, score)
    return poster(lines, at, target.image, threshold, TITLE, f"“{target.caption}”")


def poster_rows(run, target, conditions, score: str = "descriptor"):
    """The rows of a `poster` that a run has, {label: [(picture, score), …]}, and the numbers of steps they share.

    Raises ValueError for no conditions, and for one that it has no rows of.
    """
    rows = run.rows("attack")
    rows = rows[(rows["target"] == target.name) & (rows["start"] == "prompt")]
    if strange := [name for name in conditions if name not in set(rows["condition"])] or not len(conditions):
        raise ValueError(f"the run has no rows of {target.name!r} under {strange}; name conditions that it has")
    lines, at = {}, min((sorted(rows[rows["condition"] == name]["steps"]) for name in conditions), key=len)
    for name in conditions:
        scores = rows[rows["condition"] == name].set_index("steps")[score]
        label = name.replace(" ", "\n", 1)
        lines[label] = [(run.image("attack", target, name, "prompt", k), scores[k][0]) for k in at]
    return lines, at
