"""``poise runs``: every run in a folder, a line each."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from poise.checked import ConfigError
from poise.errors import PoiseError
from poise.runs.folders import RunError
from poise.runs.options import Options
from poise.runs.records import read_summary
from poise.store.checkpoint import checkpoints, read_manifest, runs_under
from poise.store.claim import is_claimed
from poise.wording import figure

WIDEST = 60  # characters of the column of differences

COLUMNS = ("time", "name", "env", "seed", "status", "steps", "score")  # to sort by
Status = Literal["training", "finished", "interrupted", "failed", "stopped", "unfinished", "damaged"]


@dataclass(frozen=True)
class Listed:
    """A run as it is listed.

    Attributes:
        folder: of the run.
        name, tags, note: what was said about it when it began.
        env, seed: what it trains.
        status: ``training``: a process works on it now; ``unfinished``: it was killed; ``damaged``: its files
            cannot be read, and all that follows is empty.
        steps, total_steps: environment steps that are saved, and the budget.
        score: the mean greedy return at the end; None if there is none.
        differs: the options that differ from the defaults for this task and budget, by their dotted names.
        saved: when the newest checkpoint was written, in seconds since 1970.
        stopped_by: what ended it before its budget was used up (``summary.json``).
    """

    folder: str
    name: str | None = None
    tags: tuple[str, ...] = ()
    note: str | None = None
    env: str = ""
    seed: int | None = None
    status: Status = "damaged"
    steps: int = 0
    total_steps: int | None = None
    score: float | None = None
    differs: dict[str, Any] | None = None
    saved: float = 0.0
    stopped_by: str | None = None

    def has(self, word: str) -> bool:
        """Whether the word is in its folder, name, tags, note, environment, status or options."""
        if word.lower() in get_args(Status):  # "finished" is a part of "unfinished"
            return word.lower() == self.status
        texts = [self.folder, self.name, *self.tags, self.note, self.env, self.status, self.differences]
        return any(word.lower() in text.lower() for text in texts if text)

    @property
    def differences(self) -> str:
        """``differs`` in a line."""
        return ", ".join(f"{name} {_brief(value)}" for name, value in (self.differs or {}).items())

    @property
    def progress(self) -> str:
        """The steps; with those of the budget where they are not all done."""
        if self.total_steps is None:
            return ""
        whole = self.status == "finished" and self.stopped_by is None
        return f"{self.steps:,}" if whole else f"{self.steps:,} of {self.total_steps:,}"

    def row(self) -> tuple[str, ...]:
        """The cells of its line."""
        score = "" if self.score is None else figure(self.score)
        seed = "" if self.seed is None else str(self.seed)
        named = " ".join([self.name or "", *(f"#{tag}" for tag in self.tags)]).strip()
        differs = textwrap.shorten(self.differences, WIDEST, placeholder=" ...")
        return named, self.env, seed, self.status, self.progress, score, differs, self.folder

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def lines(runs: Sequence[Listed]) -> list[str]:
    """A table of them, with the notes under it. A column without a cell is left out."""
    rows = [run.row() for run in runs]
    used = [i for i in range(len(TITLES)) if any(row[i] for row in rows)]
    widths = [max(len(row[i]) for row in (TITLES, *rows)) for i in used]
    table = [
        "  ".join(_cell(row[i], w, i) for i, w in zip(used, widths, strict=True)) for row in (TITLES, *rows)
    ]
    return [*map(str.rstrip, table), *(f"{run.folder}: {run.note}" for run in runs if run.note)]


def _cell(text: str, width: int, column: int) -> str:
    return text.rjust(width) if TITLES[column] in ("seed", "steps", "score") else text.ljust(width)


TITLES = ("name", "environment", "seed", "status", "steps", "score", "differs from the defaults", "folder")


def list_runs(
    place: Path, words: Sequence[str] = (), *, sort: str = "time", reverse: bool = False
) -> list[Listed]:
    """The runs in a folder that have every one of the ``words``, those of experiments and sweeps included.

    Sorted by a column; those without a value come last. Nothing in them is executed.

    Raises:
        RunError: there is no such folder.
        ConfigError: there is no such column.
    """
    if sort not in COLUMNS:
        raise ConfigError(f"sort = {sort!r}: must be one of: {', '.join(COLUMNS)}")
    if not place.is_dir():
        raise RunError(f"{place}: no such folder")
    listed = [_listed(run) for run in runs_under(place)]
    return _sorted([run for run in listed if all(map(run.has, words))], sort, reverse=reverse)


def _sorted(runs: Iterable[Listed], sort: str, *, reverse: bool) -> list[Listed]:
    def value(run: Listed) -> Any:
        return run.saved if sort == "time" else getattr(run, sort)

    runs = sorted(runs, key=lambda run: run.saved)
    known = [run for run in runs if value(run) not in (None, "")]
    known.sort(key=value, reverse=reverse)
    return known + [run for run in runs if value(run) in (None, "")]


def _listed(run: Path) -> Listed:
    try:
        saved = checkpoints(run)[0]
        manifest, summary = read_manifest(saved), read_summary(run)
        options = Options.from_dict(manifest.notes.get("options", {}))
        score = summary.get("evaluation")
        return Listed(
            folder=str(run),
            name=options.name,
            tags=options.tag,
            note=options.note,
            env=manifest.env,
            seed=manifest.config.seed,
            status=_status(run, summary.get("status")),
            steps=manifest.steps,
            total_steps=manifest.config.total_steps,
            score=score and score["mean"],
            differs=manifest.config.changes(manifest.spec),
            saved=saved.stat().st_mtime,
            stopped_by=summary.get("stopped_by"),
        )
    except (PoiseError, OSError, LookupError, TypeError, ValueError, AttributeError):
        return Listed(str(run))


def _status(run: Path, written: str | None) -> Status:
    """What ``summary.json`` says, unless a process has the folder now."""
    if written != "finished" and is_claimed(run):
        return "training"
    return written if written in get_args(Status) else "unfinished"  # pyright: ignore[reportReturnType]


def _brief(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
