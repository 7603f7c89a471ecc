"""A run folder belongs to the one process that trains into it."""

import contextlib
import importlib.util
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from poise.errors import PoiseError
from poise.store.files import FileError, is_full, open_plain

LOCK = ".lock"


class ClaimError(PoiseError):
    """A run that another process is training."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within, no other process can claim ``folder``. The system takes the claim back when a process ends.

    The claim is a lock on a file that nobody can open who cannot write the folder. Up to version 0.1 it was a
    lock on the folder itself, which everybody can hold who may read it. So that lock counts only where there
    is no such file yet: a process of that version may be training there. It is taken as well where it is
    free, so that such a process does not begin beside this one.

    Where there are no such locks (Windows, some network disks), nothing is done.

    Raises:
        ClaimError: another process has it, or it cannot be had.
        OSError: the disk is full.
    """
    if not importlib.util.find_spec("fcntl"):  # on Windows
        yield
        return
    with contextlib.ExitStack() as stack:
        known = (folder / LOCK).exists()
        if not _locked(_opened(folder, stack)) and not known:
            raise ClaimError(f"{folder}: another process is training it")
        if not _locked(_opened(folder / LOCK, stack)):
            raise ClaimError(f"{folder}: another process is training it")
        yield


def _locked(opened: int) -> bool:
    """Whether the lock is ours now."""
    import fcntl

    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk that knows no locks
        pass
    return True


def _opened(path: Path, stack: contextlib.ExitStack) -> int:
    """The folder, or the file in it, which who can write the folder can open, and nobody else."""
    try:
        if path.name != LOCK:
            opened = os.open(path, os.O_RDONLY)
        else:
            opened = open_plain(path, os.O_RDWR | os.O_CREAT, 0o600)
            _open_to_writers(opened, path.parent)
    except FileError as error:
        raise ClaimError(str(error)) from error
    except OSError as error:
        if is_full(error):
            raise
        raise ClaimError(f"{path}: cannot be claimed: {error.strerror}") from error
    stack.callback(os.close, opened)
    return opened


def _open_to_writers(opened: int, folder: Path) -> None:
    """Where a group, or everybody, can write the folder, they can train in it as well."""
    allowed = stat.S_IMODE(folder.stat().st_mode)
    mode = 0o600 | (0o060 if allowed & 0o020 else 0) | (0o006 if allowed & 0o002 else 0)
    with contextlib.suppress(OSError):  # somebody else's
        os.fchmod(opened, mode)
