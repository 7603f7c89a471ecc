"""Ctrl-C and SIGTERM: what was done is kept, and the process ends in time.

Python runs a signal's handler only when its main thread comes back from what it calls, and one compiled
iteration may take minutes. So a second thread hears of the signal at once. It gives the main thread a few
seconds to unwind; then it saves what the main thread had finished, and ends the process.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

GRACE = 2.5  # seconds that the main thread has to unwind
SAVING = 1.5  # seconds in which what was finished has to be saved
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""

    def __init__(self, number: int):
        super().__init__()
        self.exit_code = 128 + number


class Guard:
    """Knows what to save where the main thread cannot, and whether an interrupt came."""

    def __init__(self) -> None:
        self._save: Callable[[], None] | None = None
        self.number: int | None = None  # of the first signal
        self._raised = False  # whether the main thread was told
        self._depth, self._pending = 0, False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, the main thread is not interrupted; at the end it is, if it was to be."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._pending and not self._depth:
            self._pending = False
            raise Interrupted(self.number or signal.SIGINT)

    def done(self) -> None:
        """From here on all is done, and an interrupt has nothing to stop."""
        self._depth += 1
        self._pending = False

    def hear(self, number: int) -> None:
        """Of the first signal, in the main thread.

        Raises:
            Interrupted: now, or at the end of what is ``deferred``.
        """
        if self._raised:
            return
        self._raised = True
        self.number = number
        if self._depth:
            self._pending = True
            return
        raise Interrupted(number)

    @contextlib.contextmanager
    def saving(self, save: Callable[[], None]) -> Iterator[None]:
        """Within, ``save`` is called (in another thread) where the main thread does not unwind in time."""
        self._save = save
        try:
            yield
        finally:
            self._save = None

    def leave(self, save: bool) -> None:
        """Ends the process at once, and those that it started."""
        if save and (work := self._save) is not None:
            saver = threading.Thread(target=_quietly, args=(work,), daemon=True)
            saver.start()
            saver.join(SAVING)
        for child in multiprocessing.active_children():
            child.kill()
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # the cursor, which a moving line hides
        os._exit(128 + (self.number or signal.SIGTERM))


def _quietly(work: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        work()


@contextlib.contextmanager
def guarded(grace: float = GRACE, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[Guard]:
    """Has these signals raise ``Interrupted`` in the main thread, within, and the process end in time.

    A second one ends it at once. Elsewhere than in the main thread nothing is done.
    """
    guard = Guard()
    if threading.current_thread() is not threading.main_thread():
        yield guard
        return
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)

    def interrupt(number: int, frame: Any) -> None:
        guard.hear(number)

    watcher = threading.Thread(target=_watch, args=(theirs, guard, grace), daemon=True)
    before = {number: signal.signal(number, interrupt) for number in signals}
    woken = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield guard
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            ours.send(b"\0")  # no signal has this number: the watcher ends
        watcher.join()
        ours.close()
        theirs.close()


def _watch(signals: socket.socket, guard: Guard, grace: float) -> None:
    deadline: float | None = None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([signals], [], [], left)[0]:
            guard.leave(save=True)
        for number in signals.recv(64):
            if number == 0:
                return
            if number not in SIGNALS:
                continue
            if deadline is not None:
                guard.leave(save=False)
            deadline = time.monotonic() + grace
            guard.number = guard.number or number
