"""Ctrl-C and SIGTERM: what was done is kept, and the process ends in time.

Python runs a signal's handler only when its main thread comes back from what it calls, and one compiled
iteration may take minutes. So a second thread hears of the signal at once. It gives the main thread a few
seconds to unwind; then it saves what the main thread had finished, and ends the process.
"""

import _thread
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
from multiprocessing import util
from multiprocessing.connection import wait
from types import FrameType

GRACE = 2.5  # seconds that the main thread has to unwind
SAVING = 1.5  # seconds in which what was finished has to be saved
RELEASING = 0.3  # seconds in which the system has to get back what is its own
ASKING = 0.1  # seconds after which a main thread that put the signal off is asked again
SIGNALS = (signal.SIGINT, signal.SIGTERM)
UNGUARDED = 78  # exit code of a process that runs a script again only because that script started it


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""

    def __init__(self, number: int):
        super().__init__()
        self.exit_code = 128 + number


class Guard:
    """Knows what to save where the main thread cannot, and whether an interrupt came."""

    def __init__(self) -> None:
        self._saves: list[Callable[[], None]] = []
        self.number: int | None = None  # of the first signal
        self.began = False  # whether there is a run folder, and so something to resume
        self._raised = False  # whether the main thread was told
        self.asked = 0  # signals that this process sent to itself, and has not heard of yet
        self._depth, self._pending = 0, False
        self._handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {}
        self._wakeup = -1

    def handle(self, numbers: Sequence[signal.Signals], wakeup: int) -> None:
        """Has this guard hear of these signals from here on, and ``wakeup``, the descriptor of a socket."""
        self._handlers, self._wakeup = dict.fromkeys(numbers, self.hear), wakeup
        self.restore()

    def restore(self) -> None:
        """Hears of its signals again, where an environment has put a handler of its own in the place."""
        if not self._handlers or threading.current_thread() is not threading.main_thread():
            return
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, the main thread is not interrupted; at the end it is, if it was to be."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._pending and not self._depth and not self._raised:
            self._pending, self._raised = False, True
            raise Interrupted(self.number or signal.SIGINT)

    def done(self) -> None:
        """From here on all is done, and an interrupt has nothing to stop."""
        self._depth += 1
        self._pending = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Of a signal, in the main thread.

        An exception in the midst of JAX can end the process: its compiled parts call Python, and are not
        made to be left that way. There it is put off, and the other thread asks again.

        Raises:
            Interrupted: now, or at the end of what is ``deferred``.
        """
        if self._raised:
            return
        self.number = number
        if self._depth:
            self._pending = True
            return
        if _inside_jax(frame):
            return
        self._raised = True
        raise Interrupted(number)

    def ask_again(self) -> None:
        """Has the main thread hear of the signal once more, where it was put off."""
        if self.number is not None and not self._raised and not self._depth:
            self.asked += 1
            _thread.interrupt_main(signal.Signals(self.number))

    @contextlib.contextmanager
    def saving(self, save: Callable[[], None]) -> Iterator[None]:
        """Within, ``save`` is called (in another thread) where the main thread does not unwind in time."""
        self._saves.append(save)
        try:
            yield
        finally:
            self._saves.remove(save)

    def leave(self, save: bool) -> None:
        """Ends the process at once, and those that it started."""
        if save and self._saves:
            saver = threading.Thread(target=_quietly, args=(self._saves.copy(),), daemon=True)
            saver.start()
            saver.join(SAVING)
        for child in multiprocessing.active_children():
            end_group(child.pid)
            child.kill()
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # the cursor, which a moving line hides
        with contextlib.suppress(OSError):
            os.write(2, b"poise: interrupted\n")  # as the main thread would say
        release()
        os._exit(128 + (self.number or signal.SIGTERM))


def release() -> None:
    """Gives back what Python's own end would: the semaphores of a pool, which it would otherwise complain of.

    For a process that ends without it. What of that hangs is left.
    """
    finalizers = threading.Thread(target=util._run_finalizers, args=(0,), daemon=True)  # pyright: ignore
    finalizers.start()
    finalizers.join(RELEASING)


def leave_with_parent() -> None:
    """Has this process end, even where it hangs, when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent.sentinel,), daemon=True).start()


def _outlive(parent: int) -> None:
    wait([parent])
    if hasattr(os, "getpgrp") and os.getpgrp() == os.getpid():  # what this process started is of its group
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def end_group(pid: int | None) -> None:
    """Ends a process that leads a group of its own (``os.setsid``), and all that it started. Else nothing."""
    if pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(OSError):  # there is no such group
            os.killpg(pid, signal.SIGKILL)


def refuse_imported_script() -> None:
    """Ends a process that runs a script again only because that script, without a main guard, started it.

    The process that started it says what to do. Called before any work: each of N processes would do it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(UNGUARDED)


def _inside_jax(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in ("jax", "jaxlib", "equinox"):
            return True
        frame = frame.f_back
    return False


class Member(Guard):
    """The guard of one of several trainings in a process: that one is done does not end the others."""

    def __init__(self, guard: Guard):
        super().__init__()
        self._of = guard

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        with self._of.deferred():
            yield

    @contextlib.contextmanager
    def saving(self, save: Callable[[], None]) -> Iterator[None]:
        with self._of.saving(save):
            yield

    def restore(self) -> None:
        self._of.restore()

    def done(self) -> None:
        """Of this one alone."""


def _quietly(saves: Sequence[Callable[[], None]]) -> None:
    for save in saves:
        with contextlib.suppress(Exception):
            save()


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

    watcher = threading.Thread(target=_watch, args=(theirs, guard, grace), daemon=True)
    before = {number: signal.getsignal(number) for number in signals}
    woken = signal.set_wakeup_fd(-1)
    guard.handle(signals, ours.fileno())
    watcher.start()
    try:
        yield guard
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        with contextlib.suppress(OSError):
            ours.send(b"\0")  # no signal has this number: the watcher ends
        watcher.join()
        ours.close()
        theirs.close()


def _watch(signals: socket.socket, guard: Guard, grace: float) -> None:
    deadline: float | None = None
    while True:
        left = None if deadline is None else max(0.0, min(ASKING, deadline - time.monotonic()))
        if not select.select([signals], [], [], left)[0]:
            if deadline is not None and time.monotonic() >= deadline:
                guard.leave(save=True)
            guard.ask_again()
            continue
        for number in signals.recv(64):
            if number == 0:
                return
            if number not in SIGNALS:
                continue
            if guard.asked:
                guard.asked -= 1
                continue
            if deadline is not None:
                guard.leave(save=False)
            deadline = time.monotonic() + grace
            guard.number = guard.number or number
