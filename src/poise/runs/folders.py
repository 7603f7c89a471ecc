"""The folder of a run: its name, its status, and errors of its disk."""

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from poise.errors import PoiseError, StorageError
from poise.runs.journal import LOGS, METRICS
from poise.store.checkpoint import REPLACED, checkpoints, clear_leftovers
from poise.store.claim import LOCK
from poise.store.files import FileError, check_room, is_full, read_json
from poise.system.terminal import typed

LONGEST_SLUG = 72  # characters
LOG = "log.txt"  # what a training printed that is one of several


class RunError(PoiseError):
    """A run folder cannot be made, or cannot be resumed."""


def new_folder(out: Path, env: str, seeds: str, name: str | None = None) -> Path:
    """Makes ``out/<env>/<date>-<seeds>-<name>``, with a number after it if that exists already."""
    parent = out / slug(env)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{seeds}{f'-{slug(name)}' if name else ''}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
            try:
                (parent / (name + suffix)).mkdir()
            except FileExistsError:
                continue
            return parent / (name + suffix)
    except OSError as error:
        check_room(out, error)
        raise RunError(f"out = {str(out)!r}: no folder can be made there: {error.strerror}") from error
    raise RunError(f"out = {str(out)!r}: no free folder name: 1,000 runs started in this second")


def slug(text: str) -> str:
    """A text as part of a path, at most ``LONGEST_SLUG`` characters."""
    plain = re.sub(r"[^\w.-]+", "-", text).strip("-")
    if len(plain) <= LONGEST_SLUG:
        return plain
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{plain[: LONGEST_SLUG - 9]}-{digest}"


LARGEST_SUMMARY = 2**25  # bytes; a sweep of 10,000 trials needs about 10 MB


def status(run: Path) -> str | None:
    """The status of a run in its summary; None if it has no summary."""
    try:
        return str(read_json(run / "summary.json", LARGEST_SUMMARY)["status"])
    except (FileError, KeyError, TypeError):
        return None


def set_aside(folder: Path) -> Path:
    """Moves a training and its tables into a new folder in ``folder``. The new folder is a run folder."""
    numbers = (folder / f"{REPLACED}{i}" for i in itertools.count(1))
    aside = next(path for path in numbers if not os.path.lexists(path))
    moved = [p for p in folder.iterdir() if p.name not in (LOCK, LOG) and not p.name.startswith(REPLACED)]
    aside.mkdir()
    for path in moved:
        path.rename(aside / path.name)
    return aside


def clear(folder: Path) -> None:
    """Prepares the folder of a new training. Another training in it is set aside.

    Raises:
        RunError: ``checkpoints`` in it is a link.
    """
    clear_leftovers(folder)
    saved = folder / "checkpoints"
    if saved.is_symlink():
        raise RunError(f"{saved}: is a link; put the folder itself in its place, or remove it")
    metrics = folder / METRICS
    if (saved.exists() and any(saved.iterdir())) or (metrics.exists() and metrics.stat().st_size):
        set_aside(folder)
    for name in (*LOGS, "summary.json"):
        (folder / name).unlink(missing_ok=True)
    saved.mkdir(exist_ok=True)


@contextlib.contextmanager
def same_directory() -> Iterator[None]:
    """Restores the working directory at the end: an environment may change it to find its files."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # the working directory was removed
            stack.enter_context(contextlib.chdir(os.getcwd()))
        yield


@contextlib.contextmanager
def disk_errors(place: Path, folder: Path) -> Iterator[None]:
    """Turns errors of the disk into messages. If it is full, the message names the last checkpoint.

    ``folder``: ``place``, as the person named it.

    Raises:
        StorageError: the disk is full.
        RunError: another error of the disk.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise RunError(f"{folder}: {type(error).__name__}: {error}") from error
        folders = checkpoints(place)
        saved = f"the checkpoint of step {int(folders[0].name):,} is whole; " if folders else ""
        command = typed("poise", "resume", folder)
        raise StorageError(
            f"{folder}: the disk is full ({error.strerror}); {saved}make room, then: {command}"
        ) from error
