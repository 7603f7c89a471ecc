"""The tables of a run, written iteration by iteration, and cut back to where a checkpoint was made."""

import csv
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.errors import PoiseError
from poise.evaluation import Evaluation
from poise.files import FileError, append_to, open_plain, open_to_write
from poise.logger import EVENTS, TensorBoard
from poise.loop import Progress
from poise.spec import Episode

METRICS, EPISODES, GREEDY = "metrics.jsonl", "episodes.csv", "greedy.csv"
EVALUATION = "evaluation.csv"  # written once, at the end
LOGS = (METRICS, EPISODES, GREEDY, EVENTS)
EPISODE_COLUMNS = ("step", "env", "episode", "return", "length", "ended")
GREEDY_COLUMNS = ("steps", "return", "std", "low", "high", "episodes")


class JournalError(PoiseError):
    """Tables that are not those a checkpoint was made with."""


class Journal:
    """Appends to the tables in ``folder``. ``position`` says how long each is, in bytes.

    Everything is handed to the system after each iteration, and to the disk by ``sync``.
    """

    def __init__(self, folder: Path, *, log_every: int, greedy: bool):
        self._folder = folder
        self._metrics = append_to(folder / METRICS)
        self._tables = {EPISODES: append_to(folder / EPISODES, newline="")}
        if greedy:
            self._tables[GREEDY] = append_to(folder / GREEDY, newline="")
        self._rows = {name: csv.writer(file) for name, file in self._tables.items()}
        for name, columns in ((EPISODES, EPISODE_COLUMNS), (GREEDY, GREEDY_COLUMNS)):
            if name in self._rows and not (folder / name).stat().st_size:
                self._rows[name].writerow(columns)
        self._tensorboard = TensorBoard(folder, log_every=log_every)
        self.flush()

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        """An iteration: its metrics and its episodes, and its greedy score where it has one."""
        row = {"iteration": progress.iteration, "steps": progress.steps, **progress.metrics, **progress.times}
        row["evaluation/return"] = None if greedy is None else greedy.mean
        self._metrics.write(json.dumps(_finite(row)) + "\n")
        for e in progress.episodes:
            ended = "terminated" if e.terminated else "truncated"
            self._rows[EPISODES].writerow([e.step, e.env, e.index, e.episodic_return, e.length, ended])
        self._tensorboard.write(progress)
        if greedy is not None:
            score = greedy.summary()
            columns = [score[name] for name in ("mean", "std", "low", "high", "episodes")]
            self._rows[GREEDY].writerow([progress.steps, *columns])
            self._tensorboard.write_greedy(progress.steps, greedy.mean)

    def flush(self) -> None:
        for file in (self._metrics, *self._tables.values(), self._tensorboard):
            file.flush()

    def position(self) -> dict[str, int]:
        """Bytes of each table that were handed to the system."""
        return {name: path.stat().st_size for name in LOGS if (path := self._folder / name).exists()}

    def sync(self) -> None:
        """Waits until what was handed over is on the disk."""
        for file in (self._metrics, *self._tables.values(), self._tensorboard):
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in (self._metrics, *self._tables.values(), self._tensorboard):
            file.close()


def cut(folder: Path, position: Mapping[str, Any], *, check: bool = False) -> None:
    """Cuts the tables back to ``position``, or with ``check`` only looks whether that can be done.

    Raises:
        JournalError: a table is missing, not a plain file, or shorter than that, or has another name.
    """
    for name in sorted(position.keys() | {METRICS, EPISODES, EVENTS}):
        size, path = position.get(name), folder / name
        if name not in LOGS or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise JournalError(f"its place in {name!r:.60} is {size!r:.60}, which is none")
        try:
            opened = open_plain(path, os.O_RDONLY) if check else open_to_write(path)
        except OSError as error:
            raise JournalError(f"{path}: cannot be read: {error.strerror}") from error
        except FileError as error:
            raise JournalError(str(error)) from error
        try:
            if (length := os.fstat(opened).st_size) < size:
                raise JournalError(f"{path}: has {length:,} bytes, and had {size:,} when it was saved")
            if not check:
                os.truncate(opened, size)
        finally:
            os.close(opened)
    if not check:
        for name in LOGS:  # one that came later, or that somebody put there
            if name not in position:
                (folder / name).unlink(missing_ok=True)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``: of each iteration its number, its steps, and each metric or None.

    Raises:
        JournalError: the table is missing or damaged.
    """
    path = folder / METRICS
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row["iteration"], row["steps"] = int(row["iteration"]), int(row["steps"])
        return rows
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise JournalError(f"{path}: is damaged: {error!r:.200}") from error


def read_episodes(folder: Path) -> list[Episode]:
    """The episodes of a run, as they were written.

    Raises:
        JournalError: the table is damaged.
    """
    path = folder / EPISODES
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_episode(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise JournalError(f"{path}: is damaged: {error!r:.200}") from error


def read_greedy(folder: Path) -> list[tuple[int, float]]:
    """Steps and mean of each greedy score while training; none where there was none.

    Raises:
        JournalError: the table is damaged.
    """
    path = folder / GREEDY
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [(int(row["steps"]), float(row["return"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise JournalError(f"{path}: is damaged: {error!r:.200}") from error


def read_evaluation(folder: Path) -> Float[np.ndarray, " episodes"]:
    """The returns of the greedy episodes of the final score.

    Raises:
        JournalError: the table is missing or damaged.
    """
    path = folder / EVALUATION
    try:
        with path.open(newline="", encoding="utf-8") as file:
            returns = np.array([float(row["return"]) for row in csv.DictReader(file)])
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise JournalError(f"{path}: is damaged: {error!r:.200}") from error
    if not len(returns) or not np.isfinite(returns).all():
        raise JournalError(f"{path}: is damaged: it holds no returns, or one that is no number")
    return returns


def _episode(row: Mapping[str, str]) -> Episode:
    return Episode(
        env=int(row["env"]),
        index=int(row["episode"]),
        step=int(row["step"]),
        episodic_return=float(row["return"]),
        length=int(row["length"]),
        terminated=row["ended"] == "terminated",
    )


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
