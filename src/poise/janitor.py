"""A program that waits until the process that started it is done with a local Ray, or is gone.

Then it ends what is left of that Ray and removes its folder. So nothing stays where the process was killed,
which could not clear up behind itself. It is given the folder, in which all processes of that Ray write
their logs; when its standard input closes, the time has come.
"""

import os
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

PATIENCE = 5.0  # seconds for processes to be gone


def at_work_in(folder: str) -> list[int]:
    """Processes of this user that write a file there; none where the system does not show it."""
    found = []
    for files in Path("/proc").glob("[0-9]*/fd"):
        try:
            own = files.stat().st_uid == os.getuid()
            if own and any(_is_written(file, folder) for file in files.iterdir()):
                found.append(int(files.parent.name))
        except OSError:  # another user's, or one that has just ended
            continue
    return found


def _is_written(file: Path, folder: str) -> bool:
    """Whether an open file lies there, and is not only read."""
    return os.readlink(file).startswith(folder + "/") and bool(file.lstat().st_mode & stat.S_IWUSR)


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
