"""The learning curve of one training: its episodes, their running mean, and the final score."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from poise import wording
from poise.agents.evaluation import Evaluation
from poise.spec import Episode
from poise.store.files import FileError, fresh_path, read_plain

CURVE = "curve.png"
LARGEST = 2**22  # bytes of a picture that a notebook shows
WINDOW = 1 / 25  # share of the budget over which returns are averaged


def recent_mean(step: np.ndarray, value: np.ndarray, span: float) -> np.ndarray:
    """For each episode, the mean value of the episodes that ended in the ``span`` steps up to its end."""
    total = np.cumsum(np.concatenate([[0.0], value]))
    begin = np.searchsorted(step, step - span, side="right")
    end = np.searchsorted(step, step, side="right")
    return (total[end] - total[begin]) / (end - begin)


def draw_curve(
    path: Path,
    title: str,
    episodes: Sequence[Episode],
    total_steps: int,
    evaluation: Evaluation | None,
    greedy: list[tuple[int, float]],
) -> None:
    """Writes a PNG of 1600 x 900 pixels: raw episodic return against environment steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(8, 4.5), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    if episodes:
        steps = np.array([e.step for e in episodes])
        returns = np.array([e.episodic_return for e in episodes])
        axes.scatter(steps, returns, s=6, color="#9db4c8", linewidths=0, label="episode, sampled actions")
        mean = recent_mean(steps, returns, WINDOW * total_steps)
        label = f"mean of the last {WINDOW * total_steps:,.0f} steps"
        axes.plot(steps, mean, color="#14507a", linewidth=1.8, label=label)
    else:
        axes.text(0.5, 0.5, "no episode ended", transform=axes.transAxes, ha="center", color="0.4")
    if greedy:
        label = "greedy, while training"
        axes.plot(
            *zip(*greedy, strict=True), color="#c2571a", linewidth=1.2, marker="o", markersize=4, label=label
        )
    if evaluation is not None:
        low, high = evaluation.interval
        count = wording.counted(len(evaluation.length), "episode")
        label = f"greedy, after training: {wording.figure(evaluation.mean)} ({count})"
        axes.axhline(evaluation.mean, color="#c2571a", linewidth=1.2, linestyle="--", label=label, zorder=1)
        if np.isfinite(low):
            axes.axhspan(low, high, color="#c2571a", alpha=0.15, linewidth=0)
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episodic return")
    axes.set_xlim(0, total_steps)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if episodes or greedy or evaluation is not None:
        axes.legend(frameon=False, fontsize=9)
    with fresh_path(path) as fresh:
        figure.savefig(fresh)


def read_curve(folder: Path) -> bytes | None:
    """The picture of the learning curve in a folder; None if there is none, or a very large one."""
    try:
        return read_plain(folder / CURVE, LARGEST)
    except FileError:
        return None
