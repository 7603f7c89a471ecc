"""Environments in processes of their own: how such a process begins and ends, and what its end says."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from poise.envs.checking import EnvFault
from poise.envs.vector import EnvError
from poise.errors import PoiseError
from poise.system.interrupts import UNGUARDED, end_group, leave_with_parent

PATIENCE = 10.0  # seconds that environments in processes of their own have for their close()
UNKNOWN = 79  # exit code of a process that does not know its environment
_FILES, _FILES_BESIDE = 4, 32  # open files of each environment's process in this one, and of all else
GUARD = (
    "this script is run again in each process that it starts, and trains there as well; put the call "
    'under if __name__ == "__main__":'
)


class UnguardedError(PoiseError):
    """A script that trains with processes, and has no main guard."""


def begin_elsewhere() -> None:
    """What a process does first that steps an environment."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent decides
    if hasattr(os, "setsid"):
        with suppress(OSError):  # what an environment starts is of this group, and ends with it
            os.setsid()
    leave_with_parent()


class Processes(AsyncVectorEnv):
    """Gymnasium's, spawned, with an end to each process, and a sentence where one cannot begin."""

    def __init__(self, id: str, makers: Sequence[Callable[[], gym.Env]]):
        self.processes, self.parent_pipes, self.closed = [], [], False
        _check_files(id, len(makers))
        try:
            super().__init__(makers, autoreset_mode=AutoresetMode.DISABLED, context="spawn")
        except (EOFError, ConnectionError, OSError) as error:
            raise self._unmade(id, error) from None
        except BaseException:  # raised again
            self.end(0.0)
            raise

    def _unmade(self, id: str, error: Exception) -> PoiseError:
        """Why one of them did not begin."""
        wait([process.sentinel for process in self.processes], PATIENCE)
        codes = set()
        for process in self.processes:
            process.join(0.1)
            codes.add(process.exitcode)
        self.end(0.0)
        if UNGUARDED in codes:
            return UnguardedError(GUARD)
        if UNKNOWN in codes:
            return EnvError(_unknown_there(id))
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return EnvError(_too_many_files(id, len(self.env_fns)))
        if isinstance(error, EOFError | ConnectionError):
            return EnvFault(f"{id}: a process ended while its environment was made")
        return EnvFault(f"{id}: a process cannot be started: {error}")

    def end(self, patience: float) -> None:
        """Closes every environment, also where another one failed, died or hangs, and what they started.

        Gymnasium's own would wait for ever for the answer of one that is gone.
        """
        for pipe in self.parent_pipes:
            if pipe is not None and not pipe.closed:
                with suppress(OSError):
                    pipe.send(("close", None))
        until = time.monotonic() + patience
        for process in self.processes:
            wait([process.sentinel], max(0.0, until - time.monotonic()))
            end_group(process.pid)  # before the process is waited for: its number is its own until then
            process.kill()
            process.join()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()
        self.closed = True


def _unknown_there(id: str) -> str:
    return (
        f"{id}: is registered here, and not in the process of its own that each environment has on backend "
        "gymnasium-async: a spawned process runs neither a notebook nor what stands under the main guard. "
        f"Put its class and gymnasium.register(...) into a module, my_envs.py, and name it my_envs:{id}"
    )


def _check_files(id: str, count: int) -> None:
    limit = _most_files()
    if limit is not None and count * _FILES + _FILES_BESIDE > limit:
        raise EnvError(_too_many_files(id, count))


def _most_files() -> int | None:
    """Open files that this process may have; None where nobody says."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _too_many_files(id: str, count: int) -> str:
    needed = count * _FILES + 2 * _FILES_BESIDE
    return (
        f"{id}: {count} environments in processes of their own need about {needed} open files, and this "
        f"process may have {_most_files()}: ulimit -n {needed}, or fewer with --num-envs"
    )
