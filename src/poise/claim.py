"""A run folder belongs to the one process that trains into it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from poise.errors import PoiseError


class ClaimError(PoiseError):
    """A run that another process is training."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within, no other process can claim ``folder``. The system takes the claim back when a process ends.

    Where there are no such claims (Windows, some network disks), nothing is done.

    Raises:
        ClaimError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClaimError(f"{folder}: another process is training it") from error
        except OSError:  # a disk that knows no claims
            pass
        yield
    finally:
        os.close(opened)
