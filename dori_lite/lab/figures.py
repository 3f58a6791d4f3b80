"""Figures of the book. Each takes pictures or a table, needs no model, and returns a matplotlib Figure."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

# Okabe and Ito's colours, told apart by colour-blind readers; each model also has a marker of its own.
MODELS = {
    "own twin": ("#0072B2", "o"),
    "other twin": ("#E69F00", "s"),
    "parent": ("#009E73", "^"),
}
STYLE = {"figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white", "font.size": 10}


def as_array(image) -> np.ndarray:
    """A picture as [H, W, 3] for matplotlib, from a PIL image or a tensor [3, H, W] in [0, 1]."""
    if hasattr(image, "detach"):
        return image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    return np.asarray(image)


def as_pil(image):
    """A picture as a PIL image."""
    from PIL import Image

    array = as_array(image)
    return Image.fromarray(array if array.dtype == np.uint8 else (array * 255).round().astype(np.uint8))


def open_image(path):
    """A stored picture, read at once, so that no file stays open."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def grid(rows: dict, columns=None, title: str | None = None, size: float = 1.15):
    """Rows of pictures: {label: pictures}, each picture a tensor [3, H, W] in [0, 1] or a PIL image.

    `columns` are titles above the first row. Raises ValueError when there is nothing to draw.
    """
    rows = {label: list(pictures) for label, pictures in rows.items()}
    wide = max((len(pictures) for pictures in rows.values()), default=0)
    if not wide:
        raise ValueError("a grid needs at least one picture")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(rows), wide, figsize=(size * wide + 1.1, size * len(rows) + 0.3 * bool(title or columns)), squeeze=False
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (label, pictures) in zip(axes, rows.items(), strict=True):
            for axis, picture in zip(line, pictures, strict=False):
                axis.imshow(as_array(picture), interpolation="lanczos")
            line[0].text(-0.08, 0.5, label, transform=line[0].transAxes, ha="right", va="center")
        for axis, text in zip(axes[0], columns or [], strict=False):
            axis.set_title(text, fontsize=9)
        if title:
            figure.suptitle(title)
        figure.tight_layout(pad=0.3)
    plt.close(figure)  # shown once, where the cell returns it
    return figure


def replay_rates(table):
    """Share of copies by canary and model: one row a canary, one marker a model, means as long ticks.

    `table` has columns canary, model ("own twin", "other twin", "parent") and rate.
    """
    names = list(dict.fromkeys(table["canary"]))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 0.34 * len(names) + 1.3))
        for k, (model, (colour, marker)) in enumerate(MODELS.items()):
            part = table[table["model"] == model]
            if part.empty:
                continue
            heights = [names.index(name) + 0.18 * (k - 1) for name in part["canary"]]
            axis.scatter(part["rate"], heights, color=colour, marker=marker, s=44, label=model, zorder=3)
            axis.axvline(part["rate"].mean(), color=colour, linewidth=1, linestyle=("-", "--", ":")[k], zorder=1)
        axis.set(xlim=(-0.04, 1.04), xlabel="share of pictures that are copies (line: mean)", yticks=range(len(names)))
        axis.set_yticklabels(names)
        axis.invert_yaxis()
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
        sns.despine(figure, left=True)
        figure.tight_layout()
    plt.close(figure)
    return figure


def scatter_detectors(table, ssim_bar: float):
    """The two copy detectors against each other, one point a picture: SSIM and adaptive ℓ2.

    `table` has columns ssim, ratio and model. The shaded corner is where both say "copy".
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 3.8))
        axis.axvspan(0, 1, ymin=(ssim_bar + 0.05) / 1.1, facecolor="#dddddd", zorder=0)
        for model, (colour, marker) in MODELS.items():
            part = table[table["model"] == model]
            axis.scatter(part["ratio"], part["ssim"], color=colour, marker=marker, s=26, label=model, alpha=0.8)
        axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
        axis.axhline(ssim_bar, color="black", linewidth=0.8, linestyle="--")
        axis.set(xlabel="adaptive ℓ2 to the planted picture (copy below 1)", ylabel="SSIM to the planted picture")
        axis.set(ylim=(-0.05, 1.05), xlim=(0, None))
        axis.legend(frameon=False)
        sns.despine(figure)
        figure.tight_layout()
    plt.close(figure)
    return figure


def verdict_table(verdicts: dict, settings, published: dict | None = None):
    """Verdicts as a table: statement, effect with interval, threshold, verdict, and the published one beside it."""
    import pandas as pd

    rows = []
    for key, found in verdicts.items():
        beside = (published or {}).get(key)
        rows.append(
            {
                "claim": key,
                "effect [95 % interval]": f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]",
                "threshold": found["threshold"],
                "canaries": found["units"],
                "evidence": found["rung"],
                "verdict": f"{found['verdict']} (direction only)" if settings.direction_only else found["verdict"],
                "published (standard)": beside["verdict"] if beside else "not yet run",
            }
        )
    return pd.DataFrame(rows).set_index("claim")
