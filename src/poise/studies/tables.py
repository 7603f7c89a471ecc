"""From run folders to tables of many runs, and from tables to curves."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.runs.journal import read_episodes, read_metrics
from poise.store.files import read_cells, write_text

QUANTITIES = ("return", "value_loss", "policy_loss")
CURVE_COLUMNS = ("variant", "seed", "steps", *QUANTITIES)
EPISODE_COLUMNS = ("variant", "seed", "step", "return")

Row = Mapping[str, Any]  # as read from a table: text


@dataclass(frozen=True)
class Curves:
    """The curves of one setting, one for each seed. NaN in an iteration in which no episode ended."""

    steps: Float[np.ndarray, " iterations"]
    values: Mapping[str, Float[np.ndarray, "seeds iterations"]]  # of each of QUANTITIES


Dots = Mapping[str, tuple[np.ndarray, np.ndarray]]  # of each setting: steps and returns of its episodes


def curve_rows(variant: str, seed: int, run: Path) -> list[Sequence[Any]]:
    """A row of CURVE_COLUMNS for each iteration of a run."""
    names = ("episode/return", "value/loss", "policy/loss")
    return [
        (variant, seed, r["steps"], *("" if r.get(n) is None else f"{r[n]:.5g}" for n in names))
        for r in read_metrics(run)
    ]


def episode_rows(variant: str, seed: int, run: Path) -> list[Sequence[Any]]:
    """A row of EPISODE_COLUMNS for each training episode of a run."""
    return [(variant, seed, e.step, f"{e.episodic_return:.4g}") for e in read_episodes(run)]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    write_text(path, text.getvalue())


def read_table(path: Path) -> list[Row]:
    """Reads a table that ``write_table`` wrote, as text.

    Raises:
        FileError: the file is missing or damaged.
    """
    names, *rows = read_cells(path)
    return [dict(zip(names, row, strict=True)) for row in rows]


def as_curves(rows: Iterable[Row]) -> dict[str, Curves]:
    """The curves by setting, from rows of CURVE_COLUMNS. All seeds of a setting have the same iterations."""
    settings: dict[str, dict[str, list[list[float]]]] = {}
    for row in rows:
        seeds = settings.setdefault(row["variant"], {})
        point = [float(row[name] or "nan") for name in ("steps", *QUANTITIES)]
        seeds.setdefault(row["seed"], []).append(point)
    curves = {}
    for variant, seeds in settings.items():
        points = np.array(list(seeds.values()))  # [seeds, iterations, 4]
        values = {name: points[:, :, i] for i, name in enumerate(QUANTITIES, start=1)}
        curves[variant] = Curves(points[0, :, 0], values)
    return curves


def held(values: Float[np.ndarray, "seeds iterations"]) -> Float[np.ndarray, "seeds iterations"]:
    """Replaces NaN, which stands where no episode ended, by the value of the last iteration that has one."""
    last = np.where(np.isnan(values), 0, np.arange(values.shape[1])[None])
    return np.take_along_axis(values, np.maximum.accumulate(last, axis=1), axis=1)


def as_dots(rows: Iterable[Row]) -> Dots:
    """Steps and returns of the episodes by setting, from rows of EPISODE_COLUMNS."""
    settings: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        settings.setdefault(row["variant"], []).append((float(row["step"]), float(row["return"])))
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in settings.items()}
