"""Pictures of many seeds: a curve for each setting, with its 95% interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.agents.intervals import mean_interval
from poise.store.files import fresh_path
from poise.studies.paper.figures import Figure, Panel
from poise.studies.tables import QUANTITIES, Curves, Dots, held

COLORS = ("#14507a", "#c2571a", "#3c8d53", "#8a4f9e", "#b8901c", "#5b6770")
NAMES = {
    "return": "episodic return",
    "value_loss": "value loss (geometric mean)",
    "policy_loss": "policy loss",
}


def draw(path: Path, figure: Figure, curves: Mapping[str, Curves], dots: Dots) -> None:
    """Writes a PNG with 200 dots per inch: a column for each panel, and rows for the losses if wanted."""
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
    caption = f"mean of {seeds} seeds; the band is the 95% interval of the mean" if seeds > 1 else "one seed"
    canvas.suptitle(f"{figure.title}\n{caption}", x=0.01, ha="left", fontsize=11)
    with fresh_path(path) as fresh:
        canvas.savefig(fresh)


@dataclass(frozen=True)
class Line:
    """A curve over seeds: its value and the bounds of its interval at each point."""

    label: str
    steps: Float[np.ndarray, " points"]
    value: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    dashed: bool = False


MOST_COLUMNS = 3


def draw_tasks(path: Path, panels: Mapping[str, Sequence[Line]], num_seeds: int) -> None:
    """Writes a PNG with 200 dots per inch: a panel for each task, at most three in a row."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):  # a name may hold a dollar sign
        _draw_tasks(path, panels, num_seeds)


def _draw_tasks(path: Path, panels: Mapping[str, Sequence[Line]], num_seeds: int) -> None:
    from matplotlib.figure import Figure as Canvas

    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    size = (8.0 if columns == 1 else 4.6 * columns, 1.2 + 3.3 * rows)
    canvas = Canvas(figsize=size, dpi=200, layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    named: dict[str, Any] = {}  # the first line of each label
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_axis_off()
            continue
        task, lines = list(panels.items())[place]
        for i, line in enumerate(lines):
            color = COLORS[i % len(COLORS)]
            style = "--" if line.dashed else "-"
            (drawn,) = axes.plot(line.steps, line.value, style, color=color, linewidth=1.6)
            named.setdefault(line.label, drawn)
            if np.isfinite(line.low).any():
                axes.fill_between(line.steps, line.low, line.high, color=color, alpha=0.15, linewidth=0)
        keep_readable(axes, lines)
        _dress(axes, "return", last=place + columns >= len(panels), first=place % columns == 0)
        axes.set_title(task, loc="left", fontsize=11)
    place = {"loc": "outside lower left", "ncols": columns}
    # Matplotlib leaves out what begins with "_"
    canvas.legend(
        named.values(),
        [f"\u200b{x}" if x.startswith("_") else x for x in named],
        frameon=False,
        fontsize=9,
        **place,
    )
    caption = "one seed"
    if num_seeds > 1:
        caption = f"interquartile mean of {num_seeds} seeds; the band is its 95% interval, where they differ"
    canvas.suptitle(caption, x=0.01, ha="left", fontsize=11)
    with fresh_path(path) as fresh:
        canvas.savefig(fresh)


def keep_readable(axes: Any, lines: Sequence[Line]) -> None:
    """Limits the vertical axis, so that wide bands do not press the curves flat.

    The interval of two seeds is 13 times as wide as their spread, that of three 5 times.
    """
    values = np.concatenate([line.value for line in lines])
    values = values[np.isfinite(values)]
    if len(values) and np.ptp(values) > 0:
        bottom, top = axes.get_ylim()
        room = float(np.ptp(values))
        axes.set_ylim(max(bottom, float(values.min()) - room), min(top, float(values.max()) + room))


def _lines(axes: Any, panel: Panel, quantity: str, curves: Mapping[str, Curves], dots: Dots) -> None:
    """Draws a line and a band for each setting, the first on top."""
    for i, variant in enumerate(panel.variants):
        color = COLORS[i % len(COLORS)]
        if quantity == "return" and variant.name in dots:
            steps, returns = dots[variant.name]
            label = "an episode, sampled actions"
            axes.scatter(steps, returns, s=2, color=color, alpha=0.25, linewidths=0, label=label)
        curve = curves[variant.name]
        mean, low, high = _band(quantity, curve.values[quantity])
        axes.plot(curve.steps, mean, color=color, linewidth=1.6, label=variant.label, zorder=20 - i)
        if np.isfinite(low).any():
            axes.fill_between(curve.steps, low, high, color=color, alpha=0.15, linewidth=0, zorder=10 - i)


def _band(
    quantity: str, values: Float[np.ndarray, "seeds iterations"]
) -> tuple[Float[np.ndarray, " iterations"], ...]:
    """Mean and interval; of the value loss, which spans many powers of ten, those of its logarithm."""
    if quantity == "value_loss":
        return tuple(np.exp(v) for v in mean_interval(np.log(values)))
    return mean_interval(held(values))


def _dress(axes: Any, quantity: str, *, last: bool, first: bool) -> None:
    from matplotlib.ticker import FuncFormatter

    if first:
        axes.set_ylabel(NAMES[quantity])
    if last:
        axes.set_xlabel("environment steps")
    if quantity == "value_loss":
        axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:,.10g}k" if x else "0"))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
