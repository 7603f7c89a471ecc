"""Ctrl-C and SIGTERM: finished work is saved, and the process ends in time.

Python runs a signal handler only when the main thread returns from compiled code, and one compiled iteration
may take minutes. So a second thread is notified of the signal at once. It gives the main thread a few seconds
to unwind; then it saves the finished work and ends the process.
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
SAVING = 1.5  # seconds to save the finished work
RELEASING = 0.3  # seconds to release semaphores and other resources of the system
ASKING = 0.1  # seconds after which a main thread that deferred the signal is interrupted again
SIGNALS = (signal.SIGINT, signal.SIGTERM)
UNGUARDED = 78  # exit code of a child process that runs its parent's script because of a missing main guard


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; ``exit_code`` is 128 plus the number of the signal."""

    def __init__(self, number: int):
        super().__init__()
        self.exit_code = 128 + number


class Guard:
    """Raises ``Interrupted`` in the main thread, and knows what to save if that thread does not unwind."""

    def __init__(self) -> None:
        self._saves: list[Callable[[], None]] = []
        self.number: int | None = None  # of the first signal
        self.began = False  # whether there is a run folder, that is, something to resume
        self._raised = False  # whether the exception was raised in the main thread
        self.asked = 0  # signals that this process sent to itself and has not received yet
        self._depth, self._pending = 0, False
        self._handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {}
        self._wakeup = -1

    def handle(self, numbers: Sequence[signal.Signals], wakeup: int) -> None:
        """Handle these signals from now on; each is also written to ``wakeup``, a socket's descriptor."""
        self._handlers, self._wakeup = dict.fromkeys(numbers, self.hear), wakeup
        self.restore()

    def restore(self) -> None:
        """Set the handlers again, if an environment has replaced them."""
        if not self._handlers or threading.current_thread() is not threading.main_thread():
            return
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While the context is open, signals are deferred; ``Interrupted`` is raised at its end."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._pending and not self._depth and not self._raised:
            self._pending, self._raised = False, True
            raise Interrupted(self.number or signal.SIGINT)

    def done(self) -> None:
        """All work is done: from now on signals are ignored."""
        self._depth += 1
        self._pending = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals, in the main thread.

        An exception inside JAX can end the process: its compiled parts call Python and do not expect it.
        There the signal is deferred, and the other thread interrupts again.

        Raises:
            Interrupted: unless the signal is deferred.
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
        """Interrupt the main thread again, if it deferred the signal."""
        if self.number is not None and not self._raised and not self._depth:
            self.asked += 1
            _thread.interrupt_main(signal.Signals(self.number))

    @contextlib.contextmanager
    def saving(self, save: Callable[[], None]) -> Iterator[None]:
        """While the context is open, another thread calls ``save`` if this one does not unwind in time."""
        self._saves.append(save)
        try:
            yield
        finally:
            self._saves.remove(save)

    def leave(
        self, save: bool, message: str = "poise: interrupted\n", code: int | None = None, errors: int = 2
    ) -> None:
        """End the process at once, and the processes that it started; ``save``: save the work before.

        ``message`` is written to the descriptor ``errors``. ``code``: of the process; None: of a signal.
        """
        if save and self._saves:
            saver = threading.Thread(target=_quietly, args=(self._saves.copy(),), daemon=True)
            saver.start()
            saver.join(SAVING)
        for child in multiprocessing.active_children():
            end_group(child.pid)
            child.kill()
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # show the cursor, which a progress line hides
        with contextlib.suppress(OSError):
            os.write(errors, message.encode())  # as the main thread would
        release()
        os._exit(128 + (self.number or signal.SIGTERM) if code is None else code)


def release() -> None:
    """Run the finalizers that a normal exit of Python runs: they release the semaphores of a process pool.

    For a process that ends by ``os._exit``. Without this, Python's resource tracker prints a warning.
    Finalizers that hang are left.
    """
    finalizers = threading.Thread(target=util._run_finalizers, args=(0,), daemon=True)  # pyright: ignore
    finalizers.start()
    finalizers.join(RELEASING)


def leave_with_parent() -> None:
    """End this process, even if it hangs, when its parent process is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(parent: int) -> None:
    wait([parent])
    if hasattr(os, "getpgrp") and os.getpgrp() == os.getpid():  # its child processes are in its group
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def end_group(pid: int | None) -> None:
    """Kill the process group that ``pid`` leads (``os.setsid``), if it leads one."""
    if pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(OSError):  # there is no such group
            os.killpg(pid, signal.SIGKILL)


def refuse_imported_script() -> None:
    """End a child process that runs the script of its parent because the script has no main guard.

    The parent reports what to do. Call this before any work, which each of the child processes would repeat.
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
    """The guard of one of several trainings in a process: ``done`` has no effect on the others."""

    def __init__(self, guard: Guard):
        super().__init__()
        self._shared = guard

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        with self._shared.deferred():
            yield

    @contextlib.contextmanager
    def saving(self, save: Callable[[], None]) -> Iterator[None]:
        with self._shared.saving(save):
            yield

    def restore(self) -> None:
        self._shared.restore()

    def done(self) -> None:
        """No effect: the other trainings are not done."""


def _quietly(saves: Sequence[Callable[[], None]]) -> None:
    for save in saves:
        with contextlib.suppress(Exception):
            save()


@contextlib.contextmanager
def guarded(grace: float = GRACE, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[Guard]:
    """While the context is open, these signals raise ``Interrupted`` in the main thread.

    If the main thread does not unwind within ``grace`` seconds, its work is saved and the process ends. A
    second signal ends the process at once. In another thread than the main one this has no effect.
    """
    guard = Guard()
    if threading.current_thread() is not threading.main_thread():
        yield guard
        return
    sender, receiver = socket.socketpair()
    sender.setblocking(False)
    receiver.setblocking(False)

    watcher = threading.Thread(target=_watch, args=(receiver, guard, grace), daemon=True)
    handlers = {number: signal.getsignal(number) for number in signals}
    wakeup = signal.set_wakeup_fd(-1)
    guard.handle(signals, sender.fileno())
    watcher.start()
    try:
        yield guard
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        with contextlib.suppress(OSError):
            sender.send(b"\0")  # no signal has this number: it ends the watcher
        watcher.join()
        sender.close()
        receiver.close()


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
