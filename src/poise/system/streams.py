"""Where text for people goes."""

import contextlib
import ctypes
import io
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
    """A stream that never fails: what cannot be written is lost, and the work goes on.

    Its reader may be gone (``| head``), its disk full, its encoding without the character: that one is
    written as an escape.

    Args:
        stream: the stream itself.
        whole: whether after a failure everything that follows is lost as well, so that what the stream still
            holds does not fail again when the process ends. Only for a stream that belongs to this process.
    """

    def __init__(self, stream: TextOut, *, whole: bool = True):
        self._stream, self._whole = stream, whole
        self.was_written = False

    def write(self, text: str, /) -> int:
        self.was_written = True
        with self._unwritten():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._unwritten():
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _unwritten(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            if not self._whole:
                return
            # what is still in the stream's buffer goes there too
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), cast(Any, self._stream).fileno())


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Makes standard output and standard error last, and keeps the first for what poise prints.

    A training goes on when nobody reads it any more. Nor does anything depend on there being one: a process
    started without (``2>&-``) has None in its place.
    """
    with open(os.devnull, "w") as nowhere, _kept_apart() as stdout:
        out, err = Lasting(stdout or nowhere), Lasting(sys.stderr or nowhere)
        with contextlib.redirect_stdout(cast(Any, out)), contextlib.redirect_stderr(cast(Any, err)):
            try:
                yield
            finally:
                out.flush()
                err.flush()


@contextlib.contextmanager
def _kept_apart() -> Iterator[TextOut | None]:
    """Standard output under another descriptor; what a C library or a child writes to 1 goes to 2.

    Without effect where sys.stdout is not descriptor 1: somebody has put another stream in its place.
    """
    stdout: Any = sys.stdout
    try:
        if stdout.fileno() != 1:
            raise OSError("not descriptor 1")
        stdout.flush()
        own = os.dup(1)
    except (AttributeError, OSError, ValueError):  # also io.UnsupportedOperation
        yield stdout
        return
    encoding = stdout.encoding
    stream = io.TextIOWrapper(os.fdopen(own, "wb"), encoding, "backslashreplace", line_buffering=True)
    try:
        _to_standard_error()
        yield stream
    finally:
        with contextlib.suppress(OSError):
            _flush_c()
            os.dup2(own, 1)
        with contextlib.suppress(OSError):
            stream.close()


def _to_standard_error() -> None:
    try:
        os.dup2(2, 1)
    except OSError:  # there is none
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)


def _flush_c() -> None:
    """What C libraries have printed and still hold goes to where they printed it."""
    with contextlib.suppress(Exception):  # a system whose C library is not found that way
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def quiet_output() -> Iterator[None]:
    """Within, what is printed in Python goes to standard error: environments print, and results go out."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def logged_output(log: TextOut) -> Iterator[None]:
    """Within, what this process prints goes to ``log``, an open file, also from C libraries and children."""
    sys.stdout.flush()
    sys.stderr.flush()
    _flush_c()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    for number, _ in kept:
        os.dup2(cast(Any, log).fileno(), number)
    out: Any = Lasting(log)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            yield
    finally:
        _flush_c()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
