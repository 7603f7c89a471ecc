"""The command ``poise``, also as ``python -m poise``."""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys

from poise.cli import main
from poise.interrupts import SIGNALS, end_group


def run() -> int:
    """The command, and then the end of the process.

    Python's collector would look again and again through all that JAX and MuJoCo make at their start, and
    once more at the end: 0.4 s and 0.5 s of a process. Here it runs after every 100,000 new objects.
    """
    gc.set_threshold(100_000, 20, 100)
    try:
        code = main()
    finally:
        gc.freeze()
        for number in SIGNALS:  # all is done: what comes now has nothing to stop
            signal.signal(number, signal.SIG_IGN)
    if code > 128:  # interrupted: JAX may still be at work, and does not like to be taken down meanwhile
        for child in multiprocessing.active_children():
            end_group(child.pid)
            child.kill()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
