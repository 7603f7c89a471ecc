"""The Markdown page of a reproduction, written from its tables alone."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from poise import wording
from poise.studies.paper.figures import Figure, Variant
from poise.studies.results import plain
from poise.studies.statistics import mean_estimate

COLUMNS = (
    "setting",
    "the paper",
    "steps",
    "greedy return",
    "95% interval",
    "each seed",
    "last iteration",
    "seconds",
)
Rows = Sequence[Mapping[str, str]]


def markdown(figures: Sequence[Figure], scores: Rows, about: Mapping[str, Any]) -> str:
    """The page. ``scores``: the rows of ``scores.csv``; ``about``: the content of ``about.json``."""
    seeds = len({row["seed"] for row in scores})
    lines = [
        "# Results",
        "",
        f"Made by `{about['command']}` on {about['date']}, on a machine with {about['cores']} cores: "
        f"{wording.counted(seeds, 'seed')} of each setting, one run on each core. "
        "Pictures and page are made from the tables beside them, `figure*.csv` and `scores.csv`.",
        "",
        "Greedy return: mean over the seeds of the agent's score after training, with greedy actions in "
        "100 episodes that training never saw. The interval is that of this mean (95%, Student's t over "
        "the seeds). Last iteration: mean return of the last iteration in which an episode ended, with "
        "sampled actions, as in the figures. Seconds: median of a whole run, including the score.",
    ]
    if about["quick"]:
        lines += ["", "**Quick: a tenth of the steps. These figures only show that everything runs.**"]
    for figure in figures:
        lines += ["", f"## {_heading(figure)}", "", f"![{figure.title}]({figure.name}.png)", ""]
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        distinct = {variant.name: variant for variant in figure.variants}
        lines += [
            _row(variant, [s for s in scores if s["variant"] == name]) for name, variant in distinct.items()
        ]
        if figure.ten_episodes:
            (name,) = distinct
            lines += ["", _ten(figure.ten_episodes, [s for s in scores if s["variant"] == name])]
    return "\n".join(lines) + "\n"


def _heading(figure: Figure) -> str:
    return f"Figure {figure.name.removeprefix('figure')}. {figure.title}"


def _row(variant: Variant, rows: Rows) -> str:
    greedy = np.array([float(row["greedy"]) for row in rows])
    last = np.array([float(row["last"] or "nan") for row in rows])
    seconds = median(float(row["seconds"]) for row in rows)
    cells = [
        variant.label,
        variant.paper,
        f"{int(rows[0]['steps']):,}",
        number(greedy.mean()),
        _interval(greedy),
    ]
    cells += [", ".join(number(g) for g in greedy), number(last.mean()), f"{seconds:.0f}"]
    return f"| {' | '.join(cells)} |"


def _ten(paper: str, rows: Rows) -> str:
    ten = np.array([float(row["greedy_10"]) for row in rows])
    return (
        f"Over the first 10 greedy episodes, as many as the paper's score is over: {number(ten.mean())} "
        f"(95% interval {_interval(ten)}; each seed {', '.join(number(t) for t in ten)}). The paper: {paper}."
    )


def _interval(values: np.ndarray) -> str:
    return wording.interval(plain(mean_estimate(values)))


def number(value: float) -> str:
    """One decimal from 100 on, two below; NaN: no episode ended."""
    return "none ended" if math.isnan(value) else wording.figure(value)
