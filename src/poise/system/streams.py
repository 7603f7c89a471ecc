"""Standard output and standard error: streams that never fail, and redirections."""

import contextlib
import ctypes
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any, Protocol, cast, runtime_checkable


@runtime_checkable
class TextOut(Protocol):
    """The methods that a stream for progress needs, as sys.stdout, a notebook's stream and StringIO have."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


class Lasting:
    """A stream that never fails: text that cannot be written is discarded, and the work continues.

    The reader may be gone (``| head``) or the disk full. A character that the encoding does not have is
    written as an escape.

    Args:
        stream: the stream itself.
        whole: whether everything after a failure is discarded as well, so that text in the stream's buffer
            does not fail again when the process ends. Only for a stream that belongs to this process.
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
            # text in the stream's buffer goes there, too
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), cast(Any, self._stream).fileno())


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """While the context is open, standard output and error never fail, and only poise prints to the former.

    So a training continues when nobody reads its output. A process that was started without a stream
    (``2>&-``) has None instead; that works as well.
    """
    with open(os.devnull, "w") as nowhere, _separate_stdout() as stdout:
        out, err = Lasting(stdout or nowhere), Lasting(sys.stderr or nowhere)
        with contextlib.redirect_stdout(cast(Any, out)), contextlib.redirect_stderr(cast(Any, err)):
            try:
                yield
            finally:
                out.flush()
                err.flush()


@contextlib.contextmanager
def _separate_stdout() -> Iterator[TextOut | None]:
    """Standard output as another descriptor; what C libraries and child processes write to 1 goes to 2.

    Without effect if sys.stdout is not descriptor 1, because it was replaced.
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
    except OSError:  # there is no standard error
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)


def _flush_c() -> None:
    """Flush the buffers of C libraries to where they printed."""
    with contextlib.suppress(Exception):  # on some systems the C library is not found this way
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def quiet_output() -> Iterator[None]:
    """While the context is open, Python prints to standard error: environments may print, results go out."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def logged_output(log: TextOut) -> Iterator[None]:
    """While the context is open, all output goes to the file ``log``, also of C libraries and children."""
    sys.stdout.flush()
    sys.stderr.flush()
    _flush_c()
    copies = [(number, os.dup(number)) for number in (1, 2)]
    for number, _ in copies:
        os.dup2(cast(Any, log).fileno(), number)
    out: Any = Lasting(log)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            yield
    finally:
        _flush_c()
        for number, copy in copies:
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def without_noise(noise: bytes, fatal: bytes) -> Iterator[int]:
    """While the context is open, lines of C libraries that match ``noise`` are left out of standard error.

    ``fatal``: nothing of what follows such a line is written. Yields a descriptor of standard error itself,
    for a process that ends at once.
    """
    own, (reader, writer) = os.dup(2), os.pipe()
    numbers = [2] if _number(sys.stdout) == 1 else [2, 1]  # poise itself does not print to 1 (lasting_output)
    before = [os.dup(number) for number in numbers]
    relay = threading.Thread(target=_relay, args=(reader, own, noise, fatal), daemon=True)
    relay.start()
    for number in numbers:
        os.dup2(writer, number)
    os.close(writer)
    try:
        yield own
    finally:
        _flush_c()
        for number, copy in zip(numbers, before, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        relay.join(1.0)  # a child process may still have the pipe


def _number(stream: Any) -> int | None:
    """The descriptor of a stream; None: it has none."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _relay(reader: int, writer: int, noise: bytes, fatal: bytes) -> None:
    """Writes the lines of a pipe that are wanted."""
    silent = False
    with open(reader, "rb") as lines:
        for line in lines:
            silent = silent or re.match(fatal, line) is not None
            wanted = not silent and re.match(noise, line) is None
            with contextlib.suppress(OSError):
                os.write(writer, line if wanted else b"")
