"""A program that starts a local Ray for its parent process, and ends it when the parent is done or gone.

Ray forks to start its processes, which a process that computes with JAX must not do; and a process that is
killed cannot clean up. So this program does both. Its arguments are a folder, in which all processes of that
Ray write their logs, the number of cores, and the bytes of shared memory. It prints the address, or an error;
later, if Ray dies, that its raylet ended. When its standard input closes, it ends Ray's processes and removes
the folder.
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

PATIENCE = 5.0  # seconds in which killed processes must end
POLL = 0.1  # seconds between two checks of a process
FOLDER = "POISE_RAY_FOLDER"  # the environment variable by which Ray's processes are known before they write


def start(folder: str, cores: int, memory: int) -> str:
    """Start Ray with the settings of the environment variables. Returns its address."""
    import ray

    ray.init(
        address="local",
        num_cpus=cores,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=memory,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        _temp_dir=f"{folder}/r",  # Ray makes it accessible to everybody, so it is inside a private folder
    )
    return ray.get_runtime_context().gcs_address


def at_work_in(folder: str) -> list[int]:
    """Processes of this user that write a file in the folder or were started for it.

    None if the system does not show them. A process that has just been started does not write yet, and one
    that gave itself another name may have overwritten its environment, so each is looked for in both ways.
    """
    pids = []
    mark = f"{FOLDER}={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            own = process.stat().st_uid == os.getuid()
            if own and (_is_marked(process, mark) or _writes_in(process, folder)):
                pids.append(int(process.name))
        except OSError:  # of another user, or it has just ended
            continue
    return pids


def _is_marked(process: Path, mark: bytes) -> bool:
    """Whether the environment with which a process was started has the variable ``mark``."""
    return mark in (process / "environ").read_bytes().split(b"\0")


def _writes_in(process: Path, folder: str) -> bool:
    """Whether a process has opened a file of the folder for writing."""
    return any(_is_written(file, folder) for file in (process / "fd").iterdir())


def _is_written(file: Path, folder: str) -> bool:
    """Whether an open file is in the folder and open for writing."""
    return os.readlink(file).startswith(folder + "/") and bool(file.lstat().st_mode & stat.S_IWUSR)


def clear(folder: str, spared: set[int]) -> None:
    """Kill the processes that belong to the folder, except ``spared``, and remove it."""
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
    """The process of Ray on which all its others depend."""
    inner: Any = importlib.import_module("ray._private.worker")
    (info,) = inner._global_node.all_processes["raylet"]
    return info.process


def outlives(process: "subprocess.Popen[bytes]") -> bool:
    """Wait for the end of standard input or of the process: whether the process is still alive."""
    while process.poll() is None:
        if select.select([sys.stdin], [], [], POLL)[0]:
            return True
    return False


def main() -> None:
    folder, cores, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    spared = {os.getpid(), os.getppid()}
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray also prints to standard output when its processes die
    os.environ[FOLDER] = folder
    os.environ["RAY_RAYLET_PID"] = str(os.getpid())  # otherwise Ray ends this process with its raylet
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles them
        signal.signal(number, signal.SIG_IGN)
    try:
        print(start(folder, cores, memory), file=output, flush=True)
    except Exception as error:  # any of Ray's processes may fail to start
        print(f"failed: {type(error).__name__}: {' '.join(str(error).split())}", file=output, flush=True)
    else:
        if not outlives(raylet()):
            print("its raylet was killed", file=output, flush=True)
    sys.stdin.read()
    clear(folder, spared)
    os._exit(0)  # a normal exit would wait for Ray to end processes that are gone


if __name__ == "__main__":
    main()
