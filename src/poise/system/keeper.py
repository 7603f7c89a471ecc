"""A program that starts a local Ray for the process that started it, and ends it when that is done or gone.

Ray forks to start its processes, which a process that computes with JAX must not do; and one that is killed
cannot clear up behind itself. So this one does both. It is given a folder, in which all of that Ray's
processes write their logs, how many cores that Ray is to have, and how much memory for what it passes. It
prints the address, or what went wrong; later, if that dies, that its raylet ended. When its standard input
closes, it ends them and removes the folder.
"""

import importlib
import logging
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE = 5.0  # seconds for processes to be gone
POLL = 0.1  # seconds between two looks at a process


def start(folder: str, cores: int, memory: int) -> str:
    """Starts it with what the environment says; the address at which it is joined."""
    import ray

    ray.init(
        address="local",
        num_cpus=cores,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=memory,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        _temp_dir=f"{folder}/r",  # which it opens to everybody
    )
    return ray.get_runtime_context().gcs_address


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


def clear(folder: str, spared: set[int]) -> None:
    """Ends what is at work in the folder, and removes it."""
    until = time.monotonic() + PATIENCE
    while (left := set(at_work_in(folder)) - spared) and time.monotonic() < until:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def raylet() -> "subprocess.Popen[bytes]":
    """The process of Ray that all others of this machine depend on."""
    inner: Any = importlib.import_module("ray._private.worker")
    (found,) = inner._global_node.all_processes["raylet"]
    return found.process


def outlives(process: "subprocess.Popen[bytes]") -> bool:
    """Waits for the end of standard input or of the process: whether the process is still there."""
    while process.poll() is None:
        if select.select([sys.stdin], [], [], POLL)[0]:
            return True
    return False


def main() -> None:
    folder, cores, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    spared = {os.getpid(), os.getppid()}
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints there, too, when its processes die
    os.environ["RAY_RAYLET_PID"] = str(os.getpid())  # or Ray would end this process with its raylet
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the process that started this one
        signal.signal(number, signal.SIG_IGN)
    try:
        print(start(folder, cores, memory), file=said, flush=True)
    except Exception as error:  # whatever of its processes does not come up
        print(f"failed: {type(error).__name__}: {' '.join(str(error).split())}", file=said, flush=True)
    else:
        if not outlives(raylet()):
            print("its raylet was killed", file=said, flush=True)
    sys.stdin.read()
    clear(folder, spared)
    os._exit(0)  # Ray would take its time to end what is gone


if __name__ == "__main__":
    main()
