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
    margin = max(1.1, 0.09 * max(map(len, rows)))  # inches that the longest label takes
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(rows),
            wide,
            figsize=(size * wide + margin, size * len(rows) + 0.3 * bool(title or columns)),
            squeeze=False,
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


def replay_rates(table, rate: str):
    """Share of copies by canary and model: one row a canary, one marker a model, means as long ticks.

    `table` has columns target, model ("own twin", "other twin", "parent") and the one called `rate`.
    """
    names = list(dict.fromkeys(table["target"]))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 0.34 * len(names) + 1.3))
        for k, (model, (colour, marker)) in enumerate(MODELS.items()):
            part = table[table["model"] == model]
            if part.empty:
                continue
            heights = [names.index(name) + 0.18 * (k - 1) for name in part["target"]]
            axis.scatter(part[rate], heights, color=colour, marker=marker, s=44, label=model, zorder=3)
            axis.axvline(part[rate].mean(), color=colour, linewidth=1, linestyle=("-", "--", ":")[k], zorder=1)
        axis.set(xlim=(-0.04, 1.04), xlabel="share of pictures that are copies (line: mean)", yticks=range(len(names)))
        axis.set_yticklabels(names)
        axis.invert_yaxis()
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
        sns.despine(figure, left=True)
        figure.tight_layout()
    plt.close(figure)
    return figure


def scatter_detectors(table, threshold: float):
    """The two copy detectors against each other, one point a picture: the descriptor's cosine and adaptive ℓ2.

    `table` has columns cosine, ratio and model. The shaded corner is where both say "copy".
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 3.8))
        bottom = min(-0.05, table["cosine"].min() - 0.05)
        axis.fill_between([0, 1], threshold, 1.05, facecolor="#dddddd", zorder=0)
        for model, (colour, marker) in MODELS.items():
            part = table[table["model"] == model]
            axis.scatter(part["ratio"], part["cosine"], color=colour, marker=marker, s=26, label=model, alpha=0.8)
        axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
        axis.axhline(threshold, color="black", linewidth=0.8, linestyle="--")
        axis.set(xlabel="adaptive ℓ2 to the planted picture (copy below 1)", ylabel="descriptor's cosine (copy above)")
        axis.set(ylim=(bottom, 1.05), xlim=(0, None))
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
                "effect [95 % interval]": effect(found),
                "threshold": found["threshold"],
                "canaries": found["units"],
                "evidence": found["rung"],
                "verdict": f"{found['verdict']} (direction only)" if settings.direction_only else found["verdict"],
                "published (standard)": beside["verdict"] if beside else "not yet run",
            }
        )
    return pd.DataFrame(rows).set_index("claim")


def effect(found: dict) -> str:
    """An estimate with its interval; with one unit there is no interval, with none no estimate."""
    if not found["units"]:
        return "no units"
    if found["units"] == 1:
        return f"{found['estimate']:.2f} [one unit]"
    return f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def exposure_curve(table, score: str, threshold: float):
    """A detector's score against exposures, own twin and other twin: one point a picture, lines through means.

    `table` has columns exposures, model and `score`; above `threshold` a picture is called a copy.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6, 3.6))
        for k, (model, (colour, marker)) in enumerate(list(MODELS.items())[:2]):
            part = table[table["model"] == model]
            axis.scatter(part["exposures"] * (0.94, 1.06)[k], part[score], color=colour, marker=marker, s=30, alpha=0.8)
            means = part.groupby("exposures")[score].mean()
            axis.plot(means.index, means, color=colour, marker=marker, linestyle=("-", "--")[k], label=model)
        axis.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
        axis.text(1, threshold, "copy from here on", va="bottom", fontsize=8)
        ticks = sorted(table["exposures"].unique())
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(xlabel="exposures of the picture in its own twin", ylabel=score, ylim=(None, 1.05))
        axis.legend(frameon=False, loc="center left")
        sns.despine(figure)
        figure.tight_layout()
    plt.close(figure)
    return figure


def strips(table, value: str, group: str, hue: str | None = None, label: str | None = None):
    """One dot a caption or picture: `value` by `group`, told apart by `hue`; a tick marks each median."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.2, 0.55 * table[group].nunique() + 1.3))
        colours = [colour for colour, _ in MODELS.values()]
        shown = (
            {"hue": hue, "dodge": True, "palette": colours[: table[hue].nunique()]} if hue else {"color": colours[0]}
        )
        sns.stripplot(table, x=value, y=group, ax=axis, alpha=0.8, size=5, jitter=0.18, **shown)
        for k, name in enumerate(dict.fromkeys(table[group])):
            median = table.loc[table[group] == name, value].median()
            axis.plot([median, median], [k - 0.35, k + 0.35], color="black", linewidth=1.6, zorder=5)
        axis.set(xlabel=label or value, ylabel="")
        if hue:
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
        sns.despine(figure, left=True)
        figure.tight_layout()
    plt.close(figure)
    return figure


def roc_curves(curves: dict, negatives: str = "decoys flagged", positives: str = "memories found"):
    """Receiver operating characteristics: {label: (false positive rates, true positive rates)}."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.4, 4))
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        styles = zip(("-", "--", "-.", (0, (1, 1))), sns.color_palette("colorblind"), strict=False)
        for (label, (fpr, tpr)), (line, colour) in zip(curves.items(), styles, strict=False):
            axis.plot(fpr, tpr, linestyle=line, color=colour, label=label, linewidth=1.8)
        axis.set(xlabel=f"false positive rate ({negatives})", ylabel=f"true positive rate ({positives})")
        axis.legend(frameon=False, loc="lower right", fontsize=8)
        sns.despine(figure)
        figure.tight_layout()
    plt.close(figure)
    return figure


def score_distributions(scores: dict, threshold: float, label: str = "cosine of descriptors"):
    """A detector's scores, {kind: scores}: one dot a pair, one line a kind, and the threshold of a copy."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.6, 0.45 * len(scores) + 1.1))
        data = {"score": np.concatenate([*map(np.asarray, scores.values())])}
        data["kind"] = np.repeat(list(scores), [len(values) for values in scores.values()])
        sns.stripplot(data, x="score", y="kind", ax=axis, size=2.2, alpha=0.35, jitter=0.3, color="#0072B2")
        axis.axvline(threshold, color="#D55E00", linewidth=1.4, linestyle="--")
        axis.text(threshold, -0.55, f" copy from {threshold:.2f} on", color="#D55E00", fontsize=8, va="bottom")
        axis.set(xlabel=label, ylabel="")
        sns.despine(figure, left=True)
        figure.tight_layout()
    plt.close(figure)
    return figure


def token_bars(weights: dict):
    """Attribution by token: {label: (tokens, weights)}, one panel each, weights as shares of their sum."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(weights), figsize=(3.4 * len(weights), 3.2), sharex=True, squeeze=False)
        for axis, (label, (tokens, values)) in zip(axes[0], weights.items(), strict=True):
            values = np.asarray(values, float)
            axis.barh(range(len(tokens)), values / values.sum(), color="#0072B2")
            axis.set_yticks(range(len(tokens)), tokens)
            axis.invert_yaxis()
            axis.set(title=label, xlabel="share of the gradient")
        sns.despine(figure)
        figure.tight_layout()
    plt.close(figure)
    return figure
