"""Where text for people goes."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, Protocol, cast, runtime_checkable


@runtime_checkable
class TextOut(Protocol):
    """What is needed of a stream to show progress on: sys.stdout has it, and a notebook's, and StringIO."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


class Lasting:
    """A stream that loses what is printed once its reader is gone (``| head``), and nothing else."""

    def __init__(self, stream: TextOut):
        self._stream = stream

    def write(self, text: str, /) -> int:
        with self._unread():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._unread():
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _unread(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # what is still in the stream's buffer goes there too
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), cast(Any, self._stream).fileno())


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Makes standard output and standard error last: a training goes on when nobody reads it any more.

    Nor does anything depend on there being one: a process started without (``2>&-``) has None in its place.
    """
    with open(os.devnull, "w") as nowhere:
        out, err = Lasting(sys.stdout or nowhere), Lasting(sys.stderr or nowhere)
        with contextlib.redirect_stdout(cast(Any, out)), contextlib.redirect_stderr(cast(Any, err)):
            try:
                yield
            finally:
                out.flush()
                err.flush()
