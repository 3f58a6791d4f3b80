"""Figures of chapters 3 and 4: doses, conditions, attacks over steps, and the poster. No model is needed."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from .figures import STYLE, as_array
from .statistics import bootstrap

# Colour, marker and line differ together, so that no reader needs the colour.
CONDITIONS = {
    "remembers": ("#0072B2", "o", "-"),
    "pruned by NeMo": ("#CC79A7", "D", "-."),
    "pruned by Wanda": ("#D55E00", "v", "--"),
    "never saw it": ("#E69F00", "s", ":"),
    "never saw it, pruned": ("#8C6D1F", "P", (0, (3, 1, 1, 1))),
    "parent": ("#009E73", "^", (0, (5, 2))),
    "held-out": ("#555555", "X", (0, (1, 3))),
    "held-out, pruned": ("#999999", "*", (0, (2, 4))),
}


def by_condition(table, value: str, by: str = "condition", label: str | None = None, limits=(-0.04, 1.04)):
    """One dot a canary, one row a condition, in the table's order; a diamond and a bar for mean and 95 % interval.

    Canaries of both twins of the pair are in a row.
    """
    names = list(dict.fromkeys(table[by]))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.6, 0.42 * len(names) + 1))
        random = np.random.default_rng(0)
        for k, name in enumerate(names):
            values = table.loc[table[by] == name, value].to_numpy(float)
            axis.scatter(
                values, k + random.uniform(-0.16, 0.16, len(values)), s=16, color="#0072B2", alpha=0.5, zorder=2
            )
            mean, low, high = bootstrap(values, 0)
            axis.plot([low, high], [k, k], color="black", linewidth=2, zorder=3)
            axis.scatter([mean], [k], marker="D", s=40, color="black", zorder=4)
        axis.set(xlabel=label or value, yticks=range(len(names)), xlim=limits)
        axis.set_yticklabels(names)
        axis.invert_yaxis()
        sns.despine(figure, left=True)
        figure.tight_layout()
    plt.close(figure)
    return figure


def dose_response(table, value: str = "rate", label: str = "share of pictures that are copies"):
    """`value` over ρ, means and 95 % intervals over canaries, a line for each of two masks; columns rho, mask, twin.

    Twins are panels: model pairs are never pooled into one line.
    """
    twins = sorted(table["twin"].unique())
    first, second = dict.fromkeys(table["mask"])
    styles = {first: ("#D55E00", "v", "--"), second: ("#555555", "X", ":")}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(twins), figsize=(3.5 * len(twins), 3.3), sharey=True, squeeze=False)
        for axis, twin in zip(axes[0], twins, strict=True):
            for mask, (colour, marker, line) in styles.items():
                part = table[(table["twin"] == twin) & (table["mask"] == mask)].groupby("rho")[value]
                means = part.apply(lambda v: bootstrap(v.to_numpy(float), 0))
                at = np.arange(len(means)) + 0.06 * (list(styles).index(mask) - 0.5)
                mean, low, high = np.array([*means]).T
                axis.errorbar(
                    at, mean, bars(mean, low, high), color=colour, marker=marker, linestyle=line, label=mask, capsize=3
                )
            doses = sorted(table["rho"].unique())
            axis.set_xticks(range(len(doses)), [f"{100 * dose:g}" for dose in doses])
            axis.set(title=twin, xlabel="ρ: share of each row, in %", ylim=(-0.04, 1.04))
        axes[0, 0].set_ylabel(label)
        legend_above(figure, 2)
        sns.despine(figure)
        figure.tight_layout()
    plt.close(figure)
    return figure


def bars(mean, low, high):
    """Lengths below and above the mean for matplotlib's error bars; none where there is no interval."""
    return np.nan_to_num(np.array([mean - low, high - mean])).clip(min=0)


def legend_above(figure, columns: int) -> None:
    """One legend over all panels, of what the first shows."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 0.97), ncols=columns, frameon=False)


def rate_curves(table, rate: str = "rate", panels: str = "start", threshold: float | None = None, label=None):
    """`rate` over attack steps, one line a condition of `CONDITIONS`, means and 95 % intervals over targets.

    `table` has one row a target, condition, panel and number of steps. The axis is stretched near 0. Raises
    ValueError for a condition that is not in `CONDITIONS`.
    """
    if strange := sorted(set(table["condition"]) - set(CONDITIONS)):
        raise ValueError(f"no line is known for {', '.join(strange)}; there are: {', '.join(CONDITIONS)}")
    sides = list(dict.fromkeys(table[panels]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(sides), figsize=(4.4 * len(sides), 3.9), sharey=True, squeeze=False)
        for axis, side in zip(axes[0], sides, strict=True):
            part = table[table[panels] == side]
            for name, (colour, marker, line) in CONDITIONS.items():
                own = part[part["condition"] == name]
                if own.empty:
                    continue
                found = own.groupby("steps")[rate].apply(lambda v: bootstrap(v.to_numpy(float), 0))
                mean, low, high = np.array([*found]).T
                axis.fill_between(found.index, low, high, color=colour, alpha=0.13, linewidth=0)
                axis.plot(found.index, mean, color=colour, marker=marker, linestyle=line, label=name, ms=5)
            steps = sorted(part["steps"].unique())
            axis.set_xscale("symlog", linthresh=5, linscale=0.5)
            axis.set_xticks(steps, [str(s) for s in steps])
            axis.minorticks_off()
            axis.set(title=side, xlabel="attack steps")
            if threshold is not None:
                axis.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
        axes[0, 0].set_ylabel(label or "share of pictures that are copies")
        legend_above(figure, 3)
        sns.despine(figure)
        figure.tight_layout()
    plt.close(figure)
    return figure


def poster(rows: dict, steps, target, threshold: float, title: str = "", caption: str = ""):
    """The signature figure: one row a condition, one column a number of attack steps, same target, same noise.

    `rows` is {label: [(picture, score), …]}, a pair for each of `steps`; scores of `threshold` or more are copies and
    framed, with a tick beside the score. `target` stands at the left of the first row. Raises ValueError for a row
    of another length.
    """
    if wrong := [label for label, pairs in rows.items() if len(pairs) != len(steps)]:
        raise ValueError(f"{', '.join(wrong)}: give one picture for each of the {len(steps)} numbers of steps")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(rows), len(steps) + 1, figsize=(1.35 * (len(steps) + 1) + 1.7, 1.62 * len(rows) + 0.75), squeeze=False
        )
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for k, (line, (label, pairs)) in enumerate(zip(axes, rows.items(), strict=True)):
            if k == 0:
                line[0].imshow(as_array(target), interpolation="lanczos")
                line[0].set_title("the picture", fontsize=10)
            line[0].text(-0.12, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=11)
            for axis, step, (picture, score) in zip(line[1:], steps, pairs, strict=True):
                copy = score >= threshold
                axis.imshow(as_array(picture), interpolation="lanczos")
                if copy:
                    axis.spines[:].set(visible=True, color="#D55E00", linewidth=3)
                axis.set_xlabel(f"{'✓ copy ' if copy else ''}{score:.2f}", fontsize=8, labelpad=3)
                if k == 0:
                    axis.set_title(f"{step} step{'s' * (step != 1)}", fontsize=10)
        if title:
            figure.suptitle(title, fontsize=13)
        if caption:
            figure.text(0.5, 0.005, caption, ha="center", va="bottom", fontsize=8.5, style="italic")
        figure.tight_layout(pad=0.5, rect=(0, 0.03 if caption else 0, 1, 1))
    plt.close(figure)
    return figure
