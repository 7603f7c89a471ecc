"""The command ``poise``, also as ``python -m poise``."""

import atexit
import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading

from poise.cli.main import main
from poise.system.interrupts import SIGNALS, end_group, release

PATIENCE = 1.0  # seconds in which the threads of an environment may end by themselves


def run() -> int:
    """The command, and then the end of the process.

    Python's collector would look again and again through all that JAX and MuJoCo make at their start, and
    once more at the end: 0.4 s and 0.5 s of a process. Here it runs after every 100,000 new objects.
    """
    gc.set_threshold(100_000, 20, 100)
    try:
        code = main()
    except SystemExit as end:  # of a verb that says by its exit code what it found
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    finally:
        gc.freeze()
        for number in SIGNALS:  # all is done: what comes now has nothing to stop
            signal.signal(number, signal.SIG_IGN)
    if code > 128:  # interrupted: JAX may still be at work, and does not like to be taken down meanwhile
        for child in multiprocessing.active_children():
            end_group(child.pid)
            child.kill()
        release()
        _leave(code)
    if _left_threads():
        atexit._run_exitfuncs()
        _leave(code)
    return code


def _left_threads() -> bool:
    """Whether an environment has left threads that Python would wait for, for ever."""
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    for thread in others:
        thread.join(PATIENCE / len(others))
    return any(thread.is_alive() for thread in others)


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(run())
