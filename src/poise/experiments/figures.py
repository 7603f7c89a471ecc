"""Pictures of many seeds: the mean of each setting, and the 95% interval of that mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.experiments.paper import Figure, Panel
from poise.experiments.tables import QUANTITIES, Curves, Dots
from poise.intervals import mean_interval

COLORS = ("#14507a", "#c2571a", "#3c8d53", "#8a4f9e", "#b8901c", "#5b6770")
NAMES = {
    "return": "episodic return",
    "value_loss": "value loss (geometric mean)",
    "policy_loss": "policy loss",
}


def draw(path: Path, figure: Figure, curves: Mapping[str, Curves], dots: Dots) -> None:
    """Writes a PNG, 200 dots an inch: a column for each panel, and rows for the losses where wanted."""
    from matplotlib.figure import Figure as Canvas

    rows = QUANTITIES if figure.losses else QUANTITIES[:1]
    columns = len(figure.panels)
    entries = max(len(panel.variants) for panel in figure.panels)  # of the longest legend
    width = 8.0 if columns == 1 else 5.2 * columns
    canvas = Canvas(figsize=(width, 1.3 + 0.2 * entries + 3.0 * len(rows)), dpi=200, layout="constrained")
    grid = canvas.subplots(len(rows), columns, squeeze=False, sharey="row" if figure.losses else False)
    for column, panel in enumerate(figure.panels):
        for row, quantity in enumerate(rows):
            axes = grid[row][column]
            _lines(axes, panel, quantity, curves, dots)
            _dress(axes, quantity, last=row == len(rows) - 1, first=column == 0)
        grid[0][column].set_title(panel.title, loc="left", fontsize=11)
        handles = grid[0][column].get_legend_handles_labels()
        below = {"loc": "upper left", "bbox_to_anchor": (0, -0.16), "ncols": 2 if columns == 1 else 1}
        grid[-1][column].legend(*handles, frameon=False, fontsize=8.5, **below)
    for axes, panel in zip(grid[0], figure.panels, strict=True):
        if panel.limits is not None:
            axes.set_ylim(*panel.limits)
    seeds = max(len(c.values["return"]) for c in curves.values())
    said = f"mean of {seeds} seeds; the band is the 95% interval of the mean" if seeds > 1 else "one seed"
    canvas.suptitle(f"{figure.title}\n{said}", x=0.01, ha="left", fontsize=11)
    canvas.savefig(path)


def _lines(axes: Any, panel: Panel, quantity: str, curves: Mapping[str, Curves], dots: Dots) -> None:
    """One line and band for each setting, the first on top."""
    for i, variant in enumerate(panel.variants):
        color = COLORS[i % len(COLORS)]
        if quantity == "return" and variant.name in dots:
            steps, returns = dots[variant.name]
            label = "an episode, sampled actions"
            axes.scatter(steps, returns, s=2, color=color, alpha=0.25, linewidths=0, label=label)
        given = curves[variant.name]
        mean, low, high = _band(quantity, given.values[quantity])
        axes.plot(given.steps, mean, color=color, linewidth=1.6, label=variant.label, zorder=20 - i)
        if np.isfinite(low).any():
            axes.fill_between(given.steps, low, high, color=color, alpha=0.15, linewidth=0, zorder=10 - i)


def _band(
    quantity: str, values: Float[np.ndarray, "seeds iterations"]
) -> tuple[Float[np.ndarray, " iterations"], ...]:
    """Mean and interval. Of a loss that spans many powers of ten, those of its logarithm."""
    if quantity == "value_loss":
        return tuple(np.exp(v) for v in mean_interval(np.log(values)))
    return mean_interval(_held(values))


def _held(values: Float[np.ndarray, "seeds iterations"]) -> Float[np.ndarray, "seeds iterations"]:
    """Where no episode ended in an iteration, the return of the last one that had some stands."""
    known = np.where(np.isnan(values), 0, np.arange(values.shape[1])[None])
    return np.take_along_axis(values, np.maximum.accumulate(known, axis=1), axis=1)


def _dress(axes: Any, quantity: str, *, last: bool, first: bool) -> None:
    from matplotlib.ticker import FuncFormatter

    if first:
        axes.set_ylabel(NAMES[quantity])
    if last:
        axes.set_xlabel("environment steps")
    if quantity == "value_loss":
        axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0"))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
