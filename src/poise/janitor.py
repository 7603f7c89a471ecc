"""A program that waits until the process that started it is done with a local Ray, or is gone.

Then it ends what is left of that Ray and removes its folder. So nothing stays where the process was killed,
which could not clear up behind itself. It is given the folder, in which all processes of that Ray have their
logs open; when its standard input closes, the time has come.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

PATIENCE = 5.0  # seconds for processes to be gone


def at_work_in(folder: str) -> list[int]:
    """Processes of this user that have a file open there; none where the system does not show it."""
    found = []
    for files in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(file).startswith(folder) for file in files.iterdir()):
                found.append(int(files.parent.name))
        except OSError:  # another user's, or one that has just ended
            continue
    return found


def main() -> None:
    folder, parent = sys.argv[1], os.getppid()
    sys.stdin.read()
    until = time.monotonic() + PATIENCE
    while (left := set(at_work_in(folder)) - {parent}) and time.monotonic() < until:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
