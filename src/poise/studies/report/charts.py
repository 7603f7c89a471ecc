"""Charts as SVG inside a page: drawn by Matplotlib, colored by the page's own style, light or dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

from poise.studies.figures import COLORS, Line, keep_readable
from poise.wording import figure

# the colors that Matplotlib draws with, and the variable of the page's style that replaces each
STAND_INS = {"#010101": "--ink", "#020202": "--faint", "#030303": "--line", "#040404": "--healthy"}
SERIES = tuple(f"#05050{i}" for i in range(1, len(COLORS) + 1))
STAND_INS |= {color: f"--series-{i}" for i, color in enumerate(SERIES, start=1)}
INK, FAINT, LINE, HEALTHY = list(STAND_INS)[:4]

WIDE, NARROW, SMALL = (7.6, 3.3), (3.7, 2.9), (2.9, 1.75)  # inches; the page scales them
HALF = (4.2, 2.7)
MOST_DOTS = 500  # of a chart; of more episodes only so many are drawn, evenly spaced


class Charts:
    """Makes the charts of one page. The ids in each are unique in the page."""

    def __init__(self) -> None:
        self._count = 0

    def both(self, draw: Callable[[Any], None], label: str) -> Markup:
        """A chart in two sizes; the style shows the one that suits the width of the window."""
        wide, narrow = (self.one(draw, label, size) for size in (WIDE, NARROW))
        return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)

    def one(self, draw: Callable[[Any], None], label: str, size: tuple[float, float] = SMALL) -> Markup:
        """A chart. ``draw`` draws on the axes; ``label`` describes the chart for a screen reader."""
        import matplotlib
        from matplotlib.figure import Figure

        self._count += 1
        style: dict[Any, Any] = {
            "svg.fonttype": "none",
            "svg.hashsalt": f"chart {self._count}",
            "font.size": 9,
            "text.parse_math": False,  # a name may hold a dollar sign
        }
        with matplotlib.rc_context(style):
            figure = Figure(figsize=size, layout="constrained")
            figure.patch.set_alpha(0)
            axes = figure.add_subplot()
            axes.patch.set_alpha(0)
            _dress(axes)
            draw(axes)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return Markup(_themed(buffer.getvalue(), label))  # Matplotlib escapes its text


def _dress(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _steps(x)))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelcolor=FAINT, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.margins(x=0)


def _steps(x: float) -> str:
    return f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e3 else f"{x:g}"


def _themed(svg: str, label: str) -> str:
    """The picture with the page's colors and font, without what only a separate file needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)  # it would apply to the whole page
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: _rounded(found[0]), svg)
    svg = re.sub(r'(<svg [^>]*?) ?width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) ?height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'font: (?:[a-z0-9]+ )*?([\d.]+px) [^;"]*', r"font: \1 var(--font)", svg)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for stand_in, variable in STAND_INS.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def _rounded(attribute: str) -> str:
    """Rounds to hundredths of a point: more digits are invisible, and would double the size of the page."""
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", attribute)


def _legend(axes: Any) -> None:
    """A legend below the chart, where it hides nothing: in one row, or in one column if names are long."""
    labels = axes.get_legend_handles_labels()[1]
    in_a_row = sum(len(label) + 6 for label in labels) <= 48
    axes.legend(
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        loc="upper left",
        bbox_to_anchor=(0, -0.14),
        borderaxespad=0,
        ncols=len(labels) if in_a_row else 1,
    )


def draw_lines(
    lines: Sequence[Line],
    title: str,
    *,
    until: float,
    dots: tuple[np.ndarray, np.ndarray] | None = None,
    level: tuple[str, float, float, float] | None = None,
) -> Callable[[Any], None]:
    """Lines with their bands, from step 0 to step ``until``; a legend if there is more than one line.

    ``dots``: steps and values of single episodes. ``level``: name, value and bounds of a score, drawn as
    a horizontal line.
    """

    def draw(axes: Any) -> None:
        if dots is not None:
            few = np.linspace(0, len(dots[0]) - 1, min(len(dots[0]), MOST_DOTS)).astype(int)
            style = {"color": SERIES[0], "alpha": 0.4, "markersize": 3.6, "markeredgewidth": 0}
            axes.plot(dots[0][few], dots[1][few], ".", label="an episode", **style)
        if level is not None:
            name, value, low, high = level
            axes.axhline(value, color=SERIES[1], linewidth=1.1, linestyle=(0, (5, 3)), label=name)
            if np.isfinite(low):
                axes.axhspan(low, high, color=SERIES[1], alpha=0.15, linewidth=0)
        for i, line in enumerate(lines):
            color = SERIES[i % len(SERIES)]
            if np.isfinite(line.low).any():
                axes.fill_between(line.steps, line.low, line.high, color=color, alpha=0.18, linewidth=0)
            style = {"marker": "o", "markersize": 3.5} if line.dashed else {}
            axes.plot(line.steps, line.value, color=color, linewidth=1.7, label=line.label, **style)
        if dots is None and level is None:
            keep_readable(axes, lines)
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)
        axes.set_xlim(0, until)
        if len(lines) > 1 or dots is not None or level is not None:
            _legend(axes)

    return draw


def draw_metric(
    curves: Sequence[tuple[int, Any, Any]], title: str, low: float | None, high: float | None
) -> Callable[[Any], None]:
    """A metric of several runs, each with the number of its color; the healthy range is shaded."""

    def draw(axes: Any) -> None:
        for color, steps, values in curves:
            axes.plot(steps, values, color=SERIES[color % len(SERIES)], linewidth=1.2)
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)
        bottom, top = axes.get_ylim()
        if low is not None and high is not None:
            axes.axhspan(low, high, color=HEALTHY, linewidth=0, zorder=0)
            axes.set_ylim(bottom, top)

    return draw


def draw_histogram(values: Float[np.ndarray, " n"], title: str) -> Callable[[Any], None]:
    """A histogram of values, with their mean."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator, ScalarFormatter

        axes.hist(values, bins=20, color=SERIES[0], alpha=0.75, rwidth=0.9)
        mean = float(np.mean(values))
        axes.axvline(mean, color=SERIES[1], linewidth=1.4, label=f"mean {figure(mean)}")
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)
        _legend(axes)

    return draw


def draw_history(
    numbers: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    stopped: Float[np.ndarray, " m"],
    title: str,
) -> Callable[[Any], None]:
    """Scores by trial number, and the best score so far; a cross below for each stopped trial."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        style = {"markersize": 5.5, "markeredgewidth": 0, "alpha": 0.85}
        axes.plot(numbers, scores, "o", color=SERIES[0], label="a trial", **style)
        steps = np.append(numbers, max([*numbers, *stopped]))
        best = np.maximum.accumulate(np.append(scores, scores[-1:]))
        axes.plot(steps, best, color=SERIES[1], linewidth=1.5, drawstyle="steps-post", label="best so far")
        if len(stopped):
            below = {"transform": axes.get_xaxis_transform(), "markersize": 4.5, "markeredgewidth": 1.2}
            axes.plot(stopped, np.full(len(stopped), 0.03), "x", color=FAINT, label="stopped", **below)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.margins(x=0.03, y=0.1)
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)
        _legend(axes)

    return draw


def draw_bars(shares: Sequence[tuple[str, float]], title: str) -> Callable[[Any], None]:
    """A bar for each name, the first on top."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import PercentFormatter

        names, values = zip(*reversed(shares), strict=True)
        axes.barh(names, values, color=SERIES[0], alpha=0.85, height=0.62)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, max(*values, 0.01) * 1.05)
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)

    return draw


def draw_values(
    points: Sequence[tuple[Any, float]],
    title: str,
    *,
    marked: Any,
    usual: Any,
    scale: str,
    order: Sequence[str] = (),
) -> Callable[[Any], None]:
    """Scores over the values of an option; ``marked``: the winner's value; ``usual``: the default.

    ``scale``: "choice": names side by side, in ``order``; "log", "horizon" and "linear": numbers.
    """

    def draw(axes: Any) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

        names: list[Any] = list(dict.fromkeys([*order, *(value for value, _ in points)]))
        places = {value: value for value in names}
        if scale == "choice":
            places = {value: float(i) for i, value in enumerate(names)}
        elif scale == "horizon":
            places = {value: 1 / (1 - value) for value in names}
        style = {"markersize": 4.5, "markeredgewidth": 0, "alpha": 0.8}
        for color, chosen in ((SERIES[0], False), (SERIES[1], True)):
            dots = [(places[v], score) for v, score in points if (v == marked) == chosen]
            axes.plot(*np.array(dots, float).reshape(-1, 2).T, "o", color=color, **style)
        if scale in ("log", "horizon"):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        elif scale == "choice":
            axes.set_xticks(range(len(names)), [str(name) for name in names])
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        if usual in places:  # as the value of trial 0, or as a choice
            axes.axvline(places[usual], color=FAINT, linewidth=1, linestyle=(0, (2, 3)))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.12)
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)

    return draw


def draw_rungs(
    lines: Sequence[tuple[str, np.ndarray, np.ndarray]], title: str, until: float
) -> Callable[[Any], None]:
    """The score of each trial over its steps; its kind is "finished", "stopped" or "winner"."""
    styles = {
        "finished": (SERIES[0], 0.45, 1.1, "finished"),
        "stopped": (FAINT, 0.7, 1.0, "stopped"),
        "winner": (SERIES[1], 1.0, 2.0, "the best setting drawn"),
    }

    def draw(axes: Any) -> None:
        named: set[str] = set()
        for kind, steps, values in sorted(lines, key=lambda line: list(styles).index(line[0])):
            color, alpha, width, label = styles[kind]
            end = "x" if kind == "stopped" else "None"
            axes.plot(
                steps,
                values,
                color=color,
                alpha=alpha,
                linewidth=width,
                label=None if kind in named else label,
                marker=end,
                markevery=[-1],
                markersize=4.5,
            )
            named.add(kind)
        axes.set_xlim(0, until)
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)
        _legend(axes)

    return draw
