"""The tables of a run: their names, their lengths at a checkpoint, and what they hold."""

import math
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from jaxtyping import Float, Int

from poise.envs.info import MOST, name_of
from poise.errors import PoiseError
from poise.spec import Episode
from poise.store.files import (
    FileError,
    open_plain,
    open_to_write,
    parse_json,
    read_cells,
    read_lines,
)

METRICS, EPISODES, GREEDY = "metrics.jsonl", "episodes.csv", "greedy.csv"
EVENTS = "events.out.tfevents.poise"  # TensorBoard wants the middle part in the name
EVALUATION = "evaluation.csv"  # written once, at the end
LOGS = (METRICS, EPISODES, GREEDY, EVENTS)
EPISODE_COLUMNS = ("step", "env", "episode", "return", "length", "ended")
MOST_COLUMNS = 256  # of metrics.jsonl
MOST_CELLS = 2**25
MOST_ROWS = 2**24  # of another table
RETURN = "return"  # the column that trainings are judged by, if no other is named
GREEDY_COLUMNS = ("steps", "return", "std", "low", "high", "episodes")


T = TypeVar("T")


class JournalError(PoiseError):
    """A table is missing or damaged, or shorter than when a checkpoint was made."""


def lengths(folder: Path) -> dict[str, int]:
    """Bytes of each table that the system has."""
    return {name: path.stat().st_size for name in LOGS if (path := folder / name).exists()}


def cut(folder: Path, position: Mapping[str, Any], *, check: bool = False) -> None:
    """Cuts the tables back to the lengths in ``position``. With ``check``, only checks that it is possible.

    Raises:
        JournalError: a table is missing, is not a plain file or is too short, or a name is not a table's.
    """
    for name in sorted(position.keys() | {METRICS, EPISODES, EVENTS}):
        size, path = position.get(name), folder / name
        if name not in LOGS or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise JournalError(f"the length of table {name!r:.60} is {size!r:.60}, which is invalid")
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
        for name in LOGS:  # a table that is newer than the checkpoint, or that somebody put there
            if name not in position:
                (folder / name).unlink(missing_ok=True)


class Rows(Sequence[T]):
    """The rows of a table, stored as columns of numbers. A row is made when it is read."""

    def __init__(self, columns: Sequence[array], make: Callable[..., T]):
        self._columns, self._make = columns, make

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, *self._columns)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> "Rows[T]": ...
    def __getitem__(self, at: int | slice) -> "T | Rows[T]":
        if isinstance(at, slice):
            return Rows([column[at] for column in self._columns], self._make)
        return self._make(*(column[at] for column in self._columns))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType] (as of a list)


Metrics = Rows[dict[str, Any]]


def read_metrics(folder: Path) -> Metrics:
    """The rows of ``metrics.jsonl``: number and steps of each iteration, and each metric or None.

    Raises:
        JournalError: the table is missing or damaged.
    """
    path = folder / METRICS
    columns: dict[str, array] = {name: array("d") for name in ("iteration", "steps")}
    integer = dict.fromkeys(columns, True)  # whether all numbers of a column are integers
    for number, row in enumerate(_json_rows(path)):
        for name in row.keys() - columns.keys():
            columns[name], integer[name] = array("d", [math.nan]) * number, True
        if len(columns) > MOST_COLUMNS or (number + 1) * len(columns) > MOST_CELLS:
            raise JournalError(f"{path}: is damaged: {number + 1:,} rows of {len(columns)} columns")
        for name, column in columns.items():
            value = row.get(name)
            column.append(math.nan if value is None else value)
            integer[name] = integer[name] and isinstance(value, int | None)
    names = list(columns)
    kinds = [int if integer[name] else float for name in names]

    def make(*values: float) -> dict[str, Any]:
        row = zip(names, kinds, values, strict=True)
        return {name: None if math.isnan(value) else kind(value) for name, kind, value in row}

    return Rows(list(columns.values()), make)


def _json_rows(path: Path) -> Iterator[dict[str, float | None]]:
    """Each row of ``metrics.jsonl``, checked to contain only numbers and None."""
    try:
        for number, line in enumerate(read_lines(path, None), start=1):
            try:
                yield _checked_row(parse_json(line))
            except ValueError as error:
                raise JournalError(f"{path}: is damaged: line {number:,}: {error!s:.200}") from error
    except FileError as error:
        raise JournalError(str(error)) from error


def _checked_row(row: Any) -> dict[str, float | None]:
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    for name, value in row.items():
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"{name!r:.60} is {value!r:.60}, should be a number")
    for name in ("iteration", "steps"):
        if type(row.get(name)) is not int or not 0 <= row[name] < 2**53:
            raise ValueError(f"{name!r} is {row.get(name)!r:.60}, should be a whole number")
    return row


def read_episodes(folder: Path, *, most: int | None = MOST_ROWS) -> Rows[Episode]:
    """The episodes of a run, in the order of their rows. ``most``: more rows are an error.

    Raises:
        JournalError: the table is missing or damaged.
    """
    path, kinds = folder / EPISODES, (_whole, _whole, _whole, float, _whole, _terminated)
    if _is_empty(path):  # no episode has ended
        return Rows([array("q")], dict)  # pyright: ignore[reportReturnType] (it has no rows)
    names = _info_names(path)
    columns = [array(kind) for kind in "qqqdqb" + "d" * len(names)]
    add = [column.append for column in columns]
    for row in _numbers(path, (*EPISODE_COLUMNS, *names), (*kinds, *[_optional] * len(names)), most):
        for append, value in zip(add, row, strict=True):
            append(math.nan if value is None else value)

    def make(step: int, env: int, index: int, episodic_return: float, length: int, ended: int, *info: float):
        kept = {name: value for name, value in zip(names, info, strict=True) if not math.isnan(value)}
        return Episode(env, index, step, episodic_return, length, bool(ended), kept)

    return Rows(columns, make)


def _is_empty(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and not path.stat().st_size


def _info_names(path: Path) -> tuple[str, ...]:
    """The columns of a table of episodes that hold numbers of the environment's infos.

    Raises:
        JournalError: there are too many.
    """
    header = next(_cells(path))
    names = tuple(name for name in header if name not in EPISODE_COLUMNS and name_of(name) == name)
    if len(names) > MOST:
        raise JournalError(f"{path}: is damaged: it has {len(header):,} columns")
    return names


def _optional(text: str) -> float | None:
    return float(text) if text else None


def read_greedy(folder: Path) -> list[tuple[int, float]]:
    """Steps and mean of each greedy score while training; empty if there are none.

    Raises:
        JournalError: the table is damaged.
    """
    path = folder / GREEDY
    if not os.path.lexists(path):
        return []
    return [(steps, mean) for steps, mean in _numbers(path, ("steps", "return"), (_whole, float))]


def read_evaluation(folder: Path, column: str = "return") -> Float[np.ndarray, " episodes"]:
    """The returns of the greedy episodes of the final score, or another number of those that have it.

    ``column``: ``success_rate``, or a name in infos.

    Raises:
        JournalError: the table is missing or damaged.
    """
    path, columns = folder / EVALUATION, (column,)
    if column == "success_rate":
        columns = ("is_success",) if "is_success" in next(_cells(path)) else ("success",)
    values = np.array([x for (x,) in _numbers(path, columns, (_optional,)) if x is not None])
    if not len(values):
        raise JournalError(f"{path}: is damaged: it has no column {columns[0]!r}, or nothing in it")
    return values


def read_score_episodes(
    folder: Path,
) -> tuple[
    Float[np.ndarray, " episodes"],
    Int[np.ndarray, " episodes"],
    dict[str, Float[np.ndarray, " episodes"]],
]:
    """Returns, lengths and infos of the greedy episodes of the final score, as in ``Evaluation``.

    Raises:
        JournalError: the table is missing or damaged.
    """
    path = folder / EVALUATION
    names = _info_names(path)
    rows = list(_numbers(path, ("return", "length", *names), (float, _whole, *[_optional] * len(names))))
    if not rows:
        raise JournalError(f"{path}: is damaged: it has no returns")
    returns, lengths, *info = zip(*rows, strict=True)
    infos = {name: np.array(column, float) for name, column in zip(names, info, strict=True)}
    return np.array(returns, float), np.array(lengths, np.int64), infos


def _cells(path: Path) -> Iterator[list[str]]:
    """The rows of a table as text, the header first.

    Raises:
        JournalError: it is missing or damaged.
    """
    try:
        yield from read_cells(path, None)
    except FileError as error:
        raise JournalError(str(error)) from error


def _numbers(
    path: Path,
    columns: Sequence[str],
    kinds: Sequence[Callable[[str], float | None]],
    most: int | None = MOST_ROWS,
) -> Iterator[tuple[Any, ...]]:
    """These columns of each row of a table, converted by ``kinds`` to finite numbers. ``most``: rows."""
    places, number = list[int](), 0
    try:
        for number, row in enumerate(read_cells(path, None)):
            if not number:
                places = [row.index(name) for name in columns]
                continue
            values = tuple(kind(row[place]) for kind, place in zip(kinds, places, strict=True))
            if not all(value is None or math.isfinite(value) for value in values):
                raise ValueError("a number is not finite")
            if most is not None and number > most:
                raise ValueError(f"more than {most:,} rows")
            yield values
    except FileError as error:
        raise JournalError(str(error)) from error
    except ValueError as error:
        raise JournalError(f"{path}: is damaged: row {number:,}: {error!s:.200}") from error


def _whole(text: str) -> int:
    value = int(text)
    if not -(2**63) < value < 2**63:
        raise ValueError(f"{text:.30} is an integer beyond 64 bits")
    return value


def _terminated(text: str) -> int:
    if text not in ("terminated", "truncated"):
        raise ValueError(f"{text!r:.60} is neither terminated nor truncated")
    return text == "terminated"
