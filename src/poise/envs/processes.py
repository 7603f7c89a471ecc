"""Environments in processes of their own: how the processes start and end, and what their exit codes mean."""

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
from poise.envs.naming import not_registered_in
from poise.envs.vector import EnvError
from poise.errors import PoiseError
from poise.system.interrupts import UNGUARDED, end_group, leave_with_parent

PATIENCE = 10.0  # seconds that environments have for their close()
UNKNOWN = 79  # exit code of a process in which the environment is not registered
_FILES, _OTHER_FILES = 4, 32  # open files in this process: for each environment, and for everything else
GUARD = (
    "this script runs again in each process that it starts, and would train there as well; put the call "
    'under if __name__ == "__main__":'
)


class UnguardedError(PoiseError):
    """A script trains with processes and has no main guard."""


def start_env_process() -> None:
    """The first call in a process that steps an environment."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent decides
    if hasattr(os, "setsid"):
        with suppress(OSError):  # processes of the environment are in this group and end with it
            os.setsid()
    leave_with_parent()


class Processes(AsyncVectorEnv):
    """Gymnasium's ``AsyncVectorEnv``, spawned; every process is ended, and a failed start is explained."""

    def __init__(self, id: str, makers: Sequence[Callable[[], gym.Env]]):
        self.processes, self.parent_pipes, self.closed = [], [], False
        _check_files(id, len(makers))
        try:
            super().__init__(makers, autoreset_mode=AutoresetMode.DISABLED, context="spawn")
        except (EOFError, ConnectionError, OSError) as error:
            raise self._explain_failed_start(id, error) from None
        except BaseException:
            self.end(0.0)
            raise

    def _explain_failed_start(self, id: str, error: Exception) -> PoiseError:
        """The reason why one of the processes did not start."""
        wait([process.sentinel for process in self.processes], PATIENCE)
        codes = set()
        for process in self.processes:
            process.join(0.1)
            codes.add(process.exitcode)
        self.end(0.0)
        if UNGUARDED in codes:
            return UnguardedError(GUARD)
        if UNKNOWN in codes:
            return EnvError(not_registered_in(id, "backend gymnasium-async"))
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return EnvError(_too_many_files(id, len(self.env_fns)))
        if isinstance(error, EOFError | ConnectionError):
            return EnvFault(f"{id}: a process ended while its environment was made")
        return EnvFault(f"{id}: a process cannot be started: {error}")

    def end(self, patience: float) -> None:
        """Close every environment and end its processes, also if another one failed, died or hangs.

        Args:
            patience: seconds that they have for their ``close``, all together.

        Gymnasium's own ``close`` would wait forever for an environment that is gone.
        """
        for pipe in self.parent_pipes:
            if pipe is not None and not pipe.closed:
                with suppress(OSError):
                    pipe.send(("close", None))
        until = time.monotonic() + patience
        for process in self.processes:
            wait([process.sentinel], max(0.0, until - time.monotonic()))
            end_group(process.pid)  # before join: until then no other process can get this process id
            process.kill()
            process.join()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()
        self.closed = True


def _check_files(id: str, count: int) -> None:
    limit = _max_files()
    if limit is not None and count * _FILES + _OTHER_FILES > limit:
        raise EnvError(_too_many_files(id, count))


def _max_files() -> int | None:
    """Limit of open files of this process; None if there is none, or if the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _too_many_files(id: str, count: int) -> str:
    needed = count * _FILES + 2 * _OTHER_FILES
    return (
        f"{id}: {count} environments in processes of their own need about {needed} open files, but this "
        f"process may have {_max_files()}; raise the limit with ulimit -n {needed}, or reduce --num-envs"
    )
