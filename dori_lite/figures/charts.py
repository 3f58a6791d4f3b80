"""Charts of tidy rows and of detectors: what a run measured, one row a picture, a caption or a target.

    rows = run.rows("attack")  # a DataFrame with target, condition, start, steps, descriptor rate, …
    charts.rate_curves(rows, "descriptor rate")

Each returns a matplotlib figure. Shares and rates are in [0, 1]; bands and bars are `style.interval`'s, at 95 %, and
left out for fewer than six units. All raise ValueError for rows that lack a column, for none, and for a threshold that
is not a finite number.
"""

import numpy as np
import seaborn as sns

from ..ranges import check_list, check_mapping, check_number, check_positive, check_rows
from ..stats import FEWEST, TOO_FEW
from . import style
from .style import BLUE, COPY, PALETTE, RELATIONS, chart, known_only, legend_above, name_rows, shared_legend, styles

COPIES = "share of pictures that are copies"
STARTS = {"prompt": "from the caption", "random": "from random numbers", "another caption": "from another caption"}
PANELS = {"start": STARTS}
PANELS |= {"home": {"a": "pictures of twin A", "b": "pictures of twin B"}}
OVER = {"steps": "attack steps", "k": "directions in which the embedding may move"}


def bars(mean, low, high):
    """Lengths below and above the mean for matplotlib's error bars, [2, n]; NaN where no bar is to be drawn."""
    return np.array([mean - low, high - mean]).clip(min=0)


def replay_rates(rows, rate: str):
    """Share of copies by target and model: one row a target, one marker a model, upright lines through their means.

    `rows` has columns target, model (no other than "own twin", "other twin", "parent") and the one called `rate`.
    """
    check_rows(rows, "target", "model", rate)
    known_only(rows["model"], RELATIONS)
    names = list(dict.fromkeys(rows["target"]))
    with chart(6.4, 0.34 * len(names) + 1.3, left=False) as (figure, [axis]):
        for k, (model, (colour, marker, line)) in enumerate(styles(RELATIONS).items()):
            part = rows[rows["model"] == model]
            if part.empty:
                continue
            heights = [names.index(name) + 0.18 * (k - 1) for name in part["target"]]
            axis.scatter(part[rate], heights, color=colour, marker=marker, s=44, label=model, zorder=3)
            axis.axvline(part[rate].mean(), color=colour, linewidth=1, linestyle=line, zorder=1)
        axis.set(xlim=(-0.04, 1.04), xlabel=f"{COPIES} (line: mean)")
        name_rows(axis, names)
        legend_above(axis)
    return figure


def exposure_curve(rows, score: str, threshold: float):
    """A detector's score against exposures, own twin and other twin: one point a picture, lines through means.

    `rows` has columns exposures, model and `score`; other models are left out. From `threshold` on it is a copy.
    """
    check_rows(rows, "exposures", "model", score), check_number("threshold", threshold)
    twins = styles(["own twin", "other twin"])
    with chart(6, 3.6) as (figure, [axis]):
        for (model, (colour, marker, line)), aside in zip(twins.items(), (0.94, 1.06), strict=True):
            part = rows[rows["model"] == model]
            axis.scatter(part["exposures"] * aside, part[score], color=colour, marker=marker, s=30, alpha=0.8)
            mean = part.groupby("exposures")[score].mean()
            axis.plot(mean.index, mean, color=colour, marker=marker, linestyle=line, label=model)
        axis.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
        axis.text(rows["exposures"].min(), threshold, "copy from here on", va="bottom", fontsize=8)
        axis.set_xscale("log")
        axis.set_xticks(ticks := sorted(rows["exposures"].unique()), [str(tick) for tick in ticks], rotation=60)
        axis.minorticks_off()
        axis.set(xlabel="exposures of the picture in its own twin", ylabel=score, ylim=(None, 1.05))
        axis.legend(loc="center left")
    return figure


def by_condition(rows, value: str, by: str = "condition", label: str | None = None, limits=(-0.04, 1.04)):
    """One dot a target, one row a condition, in the table's order; a diamond for the mean and a bar for its interval.

    `rows` has the columns `by` and `value`, one row a target and condition; `limits` are the axis's.
    """
    check_rows(rows, by, value)
    names = list(dict.fromkeys(rows[by]))
    with chart(6.6, 0.42 * len(names) + 1, left=False) as (figure, [axis]):
        random = np.random.default_rng(0)
        for k, name in enumerate(names):
            own = rows[rows[by] == name]
            heights = k + random.uniform(-0.16, 0.16, len(own))
            axis.scatter(own[value], heights, s=16, color=BLUE, alpha=0.5, zorder=2)
            mean, low, high = style.interval(own, value)
            axis.plot([low, high], [k, k], color="black", linewidth=2, zorder=3)
            axis.scatter([mean], [k], marker="D", s=40, color="black", zorder=4)
        axis.set(xlabel=label or value, xlim=limits)
        name_rows(axis, names)
    return figure


def dose_response(rows, value: str = "descriptor rate", label: str = COPIES):
    """`value` over the dose ρ, means and intervals over targets, a line for each of two masks: Wanda's, a control.

    `rows` has columns rho (share of each row of weights, in [0, 1]), mask, model and `value`, one row a target, dose
    and mask. Models are panels, never pooled into one line. Raises ValueError for more or fewer than two masks.
    """
    check_rows(rows, "rho", "mask", "model", value)
    models, masks, doses = sorted(rows["model"].unique()), list(rows["mask"].unique()), sorted(rows["rho"].unique())
    if len(masks) != 2:
        raise ValueError(f"{len(masks)} masks ({', '.join(masks)}); this compares two")
    drawn_as = dict(zip(masks, (PALETTE["pruned by Wanda"], PALETTE["held-out"]), strict=True))
    with chart(3.5 * len(models), 3.3, len(models), sharey=True) as (figure, axes):
        for axis, model in zip(axes, models, strict=True):
            for (mask, (colour, marker, line)), aside in zip(drawn_as.items(), (-0.03, 0.03), strict=True):
                part = rows[(rows["model"] == model) & (rows["mask"] == mask)]
                places, mean, low, high = style.means(part, "rho", value)
                at, error = np.searchsorted(doses, places) + aside, bars(mean, low, high)
                axis.errorbar(at, mean, error, color=colour, marker=marker, linestyle=line, label=mask, capsize=3)
            axis.set_xticks(range(len(doses)), [f"{100 * dose:g}" for dose in doses])
            axis.set(title=model, xlabel="ρ: share of each row, in %", ylim=(-0.04, 1.04))
        axes[0].set_ylabel(label)
        shared_legend(figure, 2)
    return figure


def rate_curves(rows, value="descriptor rate", panels="start", threshold=None, label=None, over: str = "steps"):
    """`value` over attack steps, one line a condition of `PALETTE`, means and intervals over targets.

    `rows` has columns target, condition, `over` (what the axis counts, stretched near 0), `panels` (whose values are
    drawn side by side) and `value`; `threshold` is a height to mark. Raises ValueError for an unknown condition.
    """
    check_rows(rows, "condition", over, panels, value)
    threshold = None if threshold is None else check_number("threshold", threshold)
    known_only(rows["condition"], PALETTE)
    sides = list(dict.fromkeys(rows[panels]))
    with chart(4.4 * len(sides), 3.9, len(sides), sharey=True) as (figure, axes):
        for axis, side in zip(axes, sides, strict=True):
            part = rows[rows[panels] == side]
            for name, (colour, marker, line) in PALETTE.items():
                own = part[part["condition"] == name]
                if own.empty:
                    continue
                places, mean, low, high = style.means(own, over, value)
                axis.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
                axis.plot(places, mean, color=colour, marker=marker, linestyle=line, label=name, ms=5)
            steps = sorted(part[over].unique())
            axis.set_xscale("symlog", linthresh=5, linscale=0.5)
            axis.set_xticks(steps, [str(n) for n in steps])
            axis.minorticks_off()
            axis.set(title=PANELS.get(panels, {}).get(side, side), xlabel=OVER.get(over, over))
            if threshold is not None:
                axis.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
        axes[0].set(ylabel=label or COPIES, **({"ylim": (-0.04, 1.04)} if value.endswith("rate") else {}))
        shared_legend(figure)
    return figure


def scatter_detectors(rows, threshold: float, other: float = 1.0):
    """The two copy detectors against each other, one point a picture; the shaded corner is where both say "copy".

    `rows` has columns model (no other than "own twin", "other twin", "parent") and the scores, lists over a row's
    pictures: descriptor (a cosine, with its `threshold`) and adaptive l2 (1 / ratio, with the `other`).
    """
    check_rows(rows, "model", "descriptor", "adaptive l2"), known_only(rows["model"], RELATIONS)
    threshold, bar = check_number("threshold", threshold), 1 / check_positive("other threshold", other)
    points = rows[["model", "descriptor", "adaptive l2"]].explode(["descriptor", "adaptive l2"])
    points = points.astype({"descriptor": float, "adaptive l2": float})
    with chart(5.6, 3.8) as (figure, [axis]):
        axis.fill_between([0, bar], threshold, 1.05, facecolor="#dddddd", zorder=0)
        for model, (colour, marker, _) in styles(RELATIONS).items():
            part = points[points["model"] == model]
            across, up = 1 / part["adaptive l2"], part["descriptor"]
            axis.scatter(across, up, color=colour, marker=marker, s=26, label=model, alpha=0.8)
        axis.axvline(bar, color="black", linewidth=0.8, linestyle="--")
        axis.axhline(threshold, color="black", linewidth=0.8, linestyle="--")
        axis.set(xlabel=f"adaptive ℓ2 to the picture (copy up to {bar:.2f})", ylabel="descriptor's cosine (copy above)")
        axis.set(ylim=(min(-0.05, points["descriptor"].min() - 0.05), 1.05), xlim=(0, None))
        axis.legend()
    return figure


def strips(rows, value: str, group: str, hue: str | None = None, label: str | None = None):
    """One dot a caption or picture: `value` by `group`, told apart by `hue`; a tick marks each median.

    All three name columns of `rows`. Raises ValueError when `hue` has more values than there are colours.
    """
    check_rows(rows, value, group, *([] if hue is None else [hue]))
    with chart(6.2, 0.55 * rows[group].nunique() + 1.3, left=False) as (figure, [axis]):
        palette = {} if hue is None else {name: colour for name, (colour, _, _) in styles(rows[hue]).items()}
        shown = {"color": BLUE} if hue is None else {"hue": hue, "dodge": True, "palette": palette}
        sns.stripplot(rows, x=value, y=group, ax=axis, alpha=0.8, size=5, jitter=0.18, **shown)
        for k, name in enumerate(dict.fromkeys(rows[group])):
            median = rows.loc[rows[group] == name, value].median()
            axis.plot([median, median], [k - 0.35, k + 0.35], color="black", linewidth=1.6, zorder=5)
        name_rows(axis, [text.get_text() for text in axis.get_yticklabels()])
        axis.set(xlabel=label or value, ylabel="")
        axis.locator_params(axis="x", nbins=7)
        if hue is not None:
            legend_above(axis)
    return figure


def roc_curves(curves: dict, negatives: str = "decoys flagged", positives: str = "memories found"):
    """Receiver operating characteristics: {label: (false positive rates, true positive rates)}, up to four.

    One with fewer than six steps on either side is no curve: its label says so. Raises ValueError for more than four.
    """
    check_mapping("curves", curves)
    drawn_as = styles(curves)
    with chart(4.4, 4) as (figure, [axis]):
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        for label, (fpr, tpr) in curves.items():
            colour, _, line = drawn_as[label]
            if min(len(np.unique(fpr)), len(np.unique(tpr))) <= FEWEST:  # steps, and where they begin
                fpr, tpr, label = [], [], f"{label}: {TOO_FEW.format('curve')}"
            axis.plot(fpr, tpr, linestyle=line, color=colour, label=label, linewidth=1.8)
        axis.set(xlabel=f"false positive rate ({negatives})", ylabel=f"true positive rate ({positives})")
        axis.legend(loc="lower right", fontsize=8)
    return figure


def score_distributions(scores: dict, threshold: float, label: str = "cosine of descriptors"):
    """A detector's scores, {kind: scores}: one dot a pair, one row a kind, and the threshold of a copy."""
    check_mapping("scores", scores), check_number("threshold", threshold)
    with chart(6.6, 0.45 * len(scores) + 1.1, left=False) as (figure, [axis]):
        data = {"score": np.concatenate([*map(np.asarray, scores.values())])}
        data["kind"] = np.repeat(list(scores), [len(values) for values in scores.values()])
        sns.stripplot(data, x="score", y="kind", ax=axis, size=2.2, alpha=0.35, jitter=0.3, color=BLUE)
        axis.axvline(threshold, color=COPY, linewidth=1.4, linestyle="--")
        axis.text(threshold, -0.55, f" copy from {threshold:.2f} on", color=COPY, fontsize=8, va="bottom")
        name_rows(axis, [text.get_text() for text in axis.get_yticklabels()])
        axis.set(xlabel=label, ylabel="")
    return figure


def token_bars(weights: dict):
    """Attribution by token: {label: (tokens, weights)}, one panel each, weights as shares of their sum."""
    check_mapping("weights", weights)
    with chart(3.4 * len(weights), 3.2, len(weights), sharex=True) as (figure, axes):
        for axis, (label, (tokens, values)) in zip(axes, weights.items(), strict=True):
            values = np.asarray(values.cpu() if hasattr(values, "cpu") else values, float)
            axis.barh(range(len(tokens)), values / values.sum(), color=BLUE)
            name_rows(axis, tokens, 20)
            axis.set(title=label, xlabel="share of the gradient")
    return figure


def curves(x, heights: dict, across: str, up: str, log: bool = False):
    """Up to four curves {label: heights} over one `x`; `across` and `up` name the axes, `log` makes `up` logarithmic.

    Raises ValueError when there is no curve, more than four, or one of another length than `x`.
    """
    x, _ = check_list("x", x, "places on the axis"), check_mapping("0 curves: heights", heights)
    heights = {label: [float(value) for value in values] for label, values in heights.items()}
    if not 1 <= len(heights) <= 4:
        raise ValueError(f"{len(heights)} curves; this draws one to four")
    if wrong := [label for label, values in heights.items() if len(values) != len(x)]:
        raise ValueError(f"{', '.join(wrong)}: give one height for each of the {len(x)} places on the axis")
    drawn_as, every = styles(heights), max(1, len(x) // 10)
    with chart(6.4, 3.4) as (figure, [axis]):
        for label, values in heights.items():
            colour, marker, line = drawn_as[label]
            axis.plot(x, values, color=colour, linestyle=line, marker=marker, markevery=every, label=label, ms=5)
        axis.set(xlabel=across, ylabel=up, yscale="log" if log else "linear")
        legend_above(axis, min(len(heights), 3))
    return figure
