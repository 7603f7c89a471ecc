"""Many trainings side by side, each in a process with a core of its own."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from poise.config import Config
from poise.cores import num_cores
from poise.errors import PoiseError
from poise.interrupts import Guard, guarded, leave_with_parent
from poise.options import Options
from poise.streams import TextOut


@runtime_checkable
class Work(Protocol):
    """What a process does by itself, and the folder that it fills. Sent to the process whole."""

    @property
    def folder(self) -> Path: ...

    def run(self, guard: Guard, file: TextOut) -> dict[str, Any]:
        """Does what is not done of it yet, and returns its summary; ``file`` is its log."""
        ...


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Job:
    """One training and the folder that it is to fill."""

    env: str
    config: Config
    options: Options
    folder: Path

    def run(self, guard: Guard, file: TextOut) -> dict[str, Any]:
        from poise.run import execute_or_proceed

        done = execute_or_proceed(
            self.env, self.config, self.options, folder=self.folder, guard=guard, file=file
        )
        return done.summary


GRACE = 1.0  # seconds that an interrupted training has to unwind; its parent waits a little longer


class PoolError(PoiseError):
    """A process that trained ended without a word."""

    exit_code = 1


def run_jobs(jobs: Sequence[W]) -> Iterator[tuple[W, dict[str, Any] | PoiseError]]:
    """Runs all jobs on all cores and yields each with its summary, or with what went wrong, as it ends.

    What a training prints goes to ``log.txt`` in its folder. One that was interrupted there goes on from its
    last checkpoint. An interrupt of this process reaches all: each saves what it has done. On a core of its
    own a training steps and learns with one thread; its result is the same bits as with more.

    Raises:
        PoolError: a process was killed, by a lack of memory for example.
    """
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")  # a process that has loaded JAX must not be forked
    cores: Any = context.SimpleQueue()
    workers = min(num_cores(), len(jobs))
    for core in _cores()[:workers]:
        cores.put(core)
    stop = context.Event()  # the pool hands out one job more than it has processes
    with ProcessPoolExecutor(workers, context, initializer=_settle, initargs=(cores, stop)) as pool:
        futures = {pool.submit(_work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except BrokenProcessPool as error:
            raise PoolError("a process that trained was killed; is there enough memory?") from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0] * num_cores()


_stop: Any = None  # of the process: whether what has not begun is not to begin any more


def _settle(cores: Any, stop: Any) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent decides
    leave_with_parent()
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _work(job: Work) -> dict[str, Any] | PoiseError:
    if _stop.is_set():
        return PoolError("not begun")
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / "log.txt").open("a") as file, guarded(GRACE, (signal.SIGTERM,)) as guard:
        try:
            return job.run(guard, file)
        except PoiseError as error:
            print(error, file=file)
            return error
        except KeyboardInterrupt:
            return PoolError("interrupted")
