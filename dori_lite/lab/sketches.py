"""Small drawings of chapter 0: curves over one axis, and latents as little maps."""

import matplotlib.pyplot as plt
import seaborn as sns

from .figures import STYLE

# Colour, line and marker differ together, so that no reader needs the colour.
LINES = (("#0072B2", "-", "o"), ("#E69F00", "--", "s"), ("#009E73", ":", "^"), ("#CC79A7", "-.", "D"))


def curves(x, heights: dict, across: str, up: str, log: bool = False):
    """Up to four curves {label: heights} over one `x`; `across` and `up` name the axes, and `log`
    makes the upright one logarithmic.

    Raises ValueError when there is no curve, more than four, or one of another length than `x`.
    """
    x, heights = list(x), {label: [float(value) for value in values] for label, values in heights.items()}
    if not 1 <= len(heights) <= len(LINES):
        raise ValueError(f"{len(heights)} curves; this draws one to {len(LINES)}")
    if wrong := [label for label, values in heights.items() if len(values) != len(x)]:
        raise ValueError(f"{', '.join(wrong)}: give one height for each of the {len(x)} places on the axis")
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.4))
        for (label, values), (colour, line, marker) in zip(heights.items(), LINES, strict=False):
            every = max(1, len(x) // 10)
            axis.plot(x, values, color=colour, linestyle=line, marker=marker, markevery=every, label=label, ms=5)
        axis.set(xlabel=across, ylabel=up, yscale="log" if log else "linear")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(len(heights), 3), frameon=False)
        sns.despine(figure)
        figure.tight_layout()
    plt.close(figure)
    return figure


def maps(values: dict, size: float = 1.6):
    """Maps of signed numbers in one row, {label: [h, w]}: dark is negative, light positive, one scale for all.

    Raises ValueError when there is nothing to draw.
    """
    if not values:
        raise ValueError("give at least one map")
    most = max(float(abs(value).max()) for value in values.values())
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(values), figsize=(size * len(values) + 0.9, size + 0.4), squeeze=False, layout="constrained"
        )
        for axis, (label, value) in zip(axes[0], values.items(), strict=True):
            value = value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
            drawn = axis.imshow(value, cmap="gray", vmin=-most, vmax=most, interpolation="nearest")
            axis.set_title(label, fontsize=9)
            axis.set(xticks=[], yticks=[])
        figure.colorbar(drawn, ax=list(axes[0]), shrink=0.85)
    plt.close(figure)
    return figure
