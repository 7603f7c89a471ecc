"""Only one process at a time trains into a run folder."""

import contextlib
import importlib.util
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from poise.errors import PoiseError
from poise.store.files import FileError, is_full, open_plain

LOCK = ".lock"
LOOK = 1.0  # seconds: whoever only looks (``is_claimed``) has the lock file for less


class ClaimError(PoiseError):
    """Another process is training the run, or the run cannot be claimed."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """While the context is open, no other process can claim ``folder``. The claim ends with the process.

    The claim is a lock on a file that only processes with write access to the folder can open. Up to version
    0.1 it was a lock on the folder itself, which every process with read access can take. So the lock on the
    folder counts only if the file does not exist yet: a process of that version may be training there. This
    process takes both locks, so that a process of that version does not start beside it.

    On systems without such locks (Windows, some network disks) nothing is done.

    Raises:
        ClaimError: another process has the claim, or the lock file cannot be opened.
        OSError: the disk is full.
    """
    if not importlib.util.find_spec("fcntl"):  # on Windows
        yield
        return
    with contextlib.ExitStack() as stack:
        has_file = (folder / LOCK).exists()
        if not _locked(_opened(folder, stack)) and not has_file:
            raise ClaimError(f"{folder}: another process is training it")
        opened, until = _opened(folder / LOCK, stack), time.monotonic() + LOOK
        while not _locked(opened):
            if time.monotonic() > until:
                raise ClaimError(f"{folder}: another process is training it")
            time.sleep(LOOK / 20)
        yield


def is_claimed(folder: Path) -> bool:
    """Whether a process has claimed the folder, as far as this one can see. Writes nothing."""
    if not importlib.util.find_spec("fcntl"):  # on Windows
        return False
    with contextlib.ExitStack() as stack:
        try:
            opened = open_plain(folder / LOCK, os.O_RDONLY)
        except (FileError, OSError):  # there is none, or it cannot be read
            return False
        stack.callback(os.close, opened)
        return not _locked(opened, exclusive=False)  # others may look at the same time
    raise AssertionError


def _locked(opened: int, *, exclusive: bool = True) -> bool:
    """Takes the lock if it is free, alone or beside others that do not take it alone. Whether it was."""
    import fcntl

    try:
        fcntl.flock(opened, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the disk does not support locks
        pass
    return True


def _opened(path: Path, stack: contextlib.ExitStack) -> int:
    """Opens the folder, or the lock file in it, until ``stack`` closes."""
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
    """Lets everybody open the lock file who can write the folder: they may train in it."""
    allowed = stat.S_IMODE(folder.stat().st_mode)
    mode = 0o600 | (0o060 if allowed & 0o020 else 0) | (0o006 if allowed & 0o002 else 0)
    with contextlib.suppress(OSError):  # the file belongs to another user
        os.fchmod(opened, mode)
