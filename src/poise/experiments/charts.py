"""Charts as SVG inside a page: drawn by Matplotlib, colored by the page's own style, light or dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

from poise.experiments.figures import COLORS, Line

# what Matplotlib draws with, and the style's variable that takes its place
STAND_INS = {"#010101": "--ink", "#020202": "--faint", "#030303": "--line", "#040404": "--healthy"}
SERIES = tuple(f"#05050{i}" for i in range(1, len(COLORS) + 1))
STAND_INS |= {color: f"--series-{i}" for i, color in enumerate(SERIES, start=1)}
INK, FAINT, LINE, HEALTHY = list(STAND_INS)[:4]

WIDE, NARROW, SMALL = (7.6, 3.3), (3.7, 2.9), (2.9, 1.75)  # inches, of which a page makes what it likes


class Charts:
    """Makes the charts of one page. Each has ids of its own."""

    def __init__(self) -> None:
        self._count = 0

    def both(self, draw: Callable[[Any], None], label: str) -> Markup:
        """A chart for a wide page and one for a narrow page, of which the style shows one."""
        wide, narrow = (self.one(draw, label, size) for size in (WIDE, NARROW))
        return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)

    def one(self, draw: Callable[[Any], None], label: str, size: tuple[float, float] = SMALL) -> Markup:
        """``draw`` gets the axes. ``label`` says what a reader would see who cannot."""
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
            draw(axes)
            _dress(axes)
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
    legend = axes.get_legend()
    if legend is not None:
        for text in legend.get_texts():
            text.set_color(INK)


def _steps(x: float) -> str:
    return f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e3 else f"{x:g}"


def _themed(svg: str, label: str) -> str:
    """The picture without what only a file of its own needs, and with the page's colors and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(<svg [^>]*?) ?width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) ?height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'font: (?:[a-z0-9]+ )*?([\d.]+px) [^;"]*', r"font: \1 var(--font)", svg)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for stand_in, variable in STAND_INS.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def draw_lines(lines: Sequence[Line], title: str) -> Callable[[Any], None]:
    """Each line with its band; a legend where there are several."""

    def draw(axes: Any) -> None:
        import numpy as np

        for i, line in enumerate(lines):
            color = SERIES[i % len(SERIES)]
            if np.isfinite(line.low).any():
                axes.fill_between(line.steps, line.low, line.high, color=color, alpha=0.18, linewidth=0)
            style = "--" if line.dashed else "-"
            axes.plot(line.steps, line.value, style, color=color, linewidth=1.7, label=line.label)
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8.5, loc="best")

    return draw


def draw_metric(
    curves: Sequence[tuple[int, Any, Any]], title: str, low: float | None, high: float | None
) -> Callable[[Any], None]:
    """A metric of some runs, each with the number of its color; the healthy range shaded where it is near."""

    def draw(axes: Any) -> None:
        for color, steps, values in curves:
            axes.plot(steps, values, color=SERIES[color % len(SERIES)], linewidth=1.2)
        axes.set_title(title, loc="left", color=INK, fontsize=9.5)
        bottom, top = axes.get_ylim()
        if low is not None and high is not None:
            axes.axhspan(low, high, color=HEALTHY, linewidth=0, zorder=0)
            axes.set_ylim(bottom, top)

    return draw
