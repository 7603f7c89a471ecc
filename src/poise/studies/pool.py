"""Many trainings side by side, each in a process with a core of its own."""

import dataclasses
import multiprocessing
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from poise.checked import ConfigError
from poise.config import Config
from poise.errors import PoiseError, StorageError, message_of
from poise.runs.folders import LOG
from poise.runs.options import Options
from poise.runs.resuming import unusable
from poise.runs.session import execute_or_proceed
from poise.runs.setup import Conditions
from poise.store.checkpoint import checkpoints, runs_under
from poise.store.claim import ClaimError
from poise.store.files import FileError, append_to, is_full, own_folder
from poise.system import cluster
from poise.system.cores import num_cores
from poise.system.interrupts import SIGNALS, Guard, guarded, leave_with_parent
from poise.system.streams import Lasting, TextOut, logged_output
from poise.system.terminal import print

MOST_SEEDS = 10_000  # of one setting: each is a training, a folder and a row


def check_count(name: str, seeds: int) -> None:
    """
    Raises:
        ConfigError: so many trainings are not to be had.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"{name} = {seeds}: must be >= 1 and <= {MOST_SEEDS}; each is a training")


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
        done = execute_or_proceed(self.env, self.config, self.options, self.folder, Conditions(file, guard))
        return done.summary


GRACE = 1.0  # seconds that an interrupted training has to unwind; its parent waits a little longer


class PoolError(PoiseError):
    """A process that trained ended without a word."""

    exit_code = 1


TICK = 0.5  # seconds after which ``look`` is called again


def run_jobs(
    jobs: Sequence[W],
    ray: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    look: Callable[[Sequence[Any]], None] = lambda jobs: None,
) -> Iterator[tuple[W, dict[str, Any] | PoiseError]]:
    """Runs all jobs on all cores and yields each with its summary, or with what went wrong, as it ends.

    What a training prints goes to ``log.txt`` in its folder. One that was interrupted there goes on from its
    last checkpoint. An interrupt of this process reaches all: each saves what it has done. On a core of its
    own a training steps and learns with one thread; its result is the same bits as with more.

    ``ray``: the cluster on whose cores they run (``poise.system.cluster``) in place of this machine's. There
    one whose process or machine is lost goes on elsewhere, from its last checkpoint. ``say``: shows a line
    about that, and about a checkpoint that cannot be used. ``look`` is called again and again with the jobs
    that have not ended.

    Raises:
        PoolError: a process was killed, by a lack of memory for example.
        ClusterError: the cluster cannot be joined.
    """
    if not jobs:
        return
    for job in jobs:
        for line in unusable(job.folder):
            say(line)
    if ray is not None:
        yield from _run_on_cluster(jobs, ray, say, look)
        return
    context = multiprocessing.get_context("spawn")  # a process that has loaded JAX must not be forked
    cores: Any = context.SimpleQueue()
    workers = min(num_cores(), len(jobs))
    for core in _cores()[:workers]:
        cores.put(core)
    stop = context.Event()  # the pool hands out one job more than it has processes
    with ProcessPoolExecutor(workers, context, initializer=_settle, initargs=(cores, stop)) as pool:
        # an environment may change the working directory of a process, which does several jobs
        futures = {pool.submit(_work, _placed(job, job.folder.absolute())): job for job in jobs}
        try:
            while futures:
                look(list(futures.values()))
                for future in wait(futures, TICK, FIRST_COMPLETED).done:
                    yield futures.pop(future), future.result()
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
    return _logged(job, (signal.SIGTERM,), alone=True)


def _placed(job: Any, folder: Path) -> Any:
    return dataclasses.replace(job, folder=folder)


def _logged(
    job: Work, signals: Sequence[signal.Signals], *, alone: bool = False
) -> dict[str, Any] | PoiseError:
    """What the job comes to; what it prints goes to its log.

    ``alone``: whether this process is the pool's own, so that all that it prints goes there, too: what the
    environments print is not for the terminal of the whole.
    """
    try:
        _made(job.folder)
        with ExitStack() as stack:
            log = stack.enter_context(append_to(job.folder / LOG))
            guard = stack.enter_context(guarded(GRACE, signals))
            if alone:
                stack.enter_context(logged_output(log))
            return _answered(job, guard, Lasting(log))
    except FileError as error:  # the log, or the folder
        return error
    except OSError as error:
        kind = StorageError if is_full(error) else PoolError
        return kind(f"{job.folder}: {type(error).__name__}: {error}")
    raise AssertionError


def _answered(job: Work, guard: Guard, file: TextOut) -> dict[str, Any] | PoiseError:
    try:
        return job.run(guard, file)
    except PoiseError as error:
        print(error, file=file)
        return error
    except KeyboardInterrupt:
        return PoolError("interrupted")
    except OSError as error:
        if is_full(error):
            raise
        return _failed(job, error, file)
    except BaseException as error:  # raised again, sys.exit would end all of them, with its exit code
        return _failed(job, error, file)


def _failed(job: Work, error: BaseException, file: TextOut) -> PoolError:
    print("".join(traceback.format_exception(error)), file=file)
    return PoolError(f"its training raised {message_of(error)}; see {job.folder / LOG}")


def _made(folder: Path) -> Path:
    """A folder that is there, and is not a link."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return own_folder(folder.parent, folder)


MOST_DEATHS = 5  # of the processes of one job, without a checkpoint between them
SCARCE = 10.0  # seconds after which it is said that a cluster has no core that is free
PATIENCE = 60.0  # seconds in which the process that trained before has to let go of the folder


def _run_on_cluster(
    jobs: Sequence[W], ray: str, say: Callable[[str], None], look: Callable[[Sequence[Any]], None]
) -> Iterator[tuple[W, dict[str, Any] | PoiseError]]:
    for job in jobs:
        _made(job.folder)
    with cluster.joined(ray):
        tasks, path = cluster.Tasks(_work_on_cluster), cluster.search_path()
        waiting = {tasks.ask(job, job.folder.resolve(), path): job for job in jobs}
        deaths = {job.folder: _Deaths() for job in jobs}
        silence = _Silence(say)
        try:
            while waiting:
                look(list(waiting.values()))
                kept = cluster.ready(list(waiting), 1.0)
                silence.hear(kept, waiting.values())
                for promise in kept:
                    job, result = waiting.pop(promise), cluster.answer(promise)
                    if not isinstance(result, cluster.Lost):
                        yield job, result
                    elif deaths[job.folder].again(job.folder):
                        say(f"{job.folder}: its process was lost; it goes on from its last checkpoint")
                        waiting[tasks.ask(job, job.folder.resolve(), path)] = job
                    else:
                        often = f"its process was lost {MOST_DEATHS} times in a row"
                        yield job, PoolError(f"{often}: {result.why}")
        except BaseException:  # raised again: whatever ends this, each saves what it has done
            cluster.interrupt(list(waiting))
            until = time.monotonic() + 2 * GRACE
            while waiting and time.monotonic() < until:
                for promise in cluster.ready(list(waiting), GRACE / 10):
                    del waiting[promise]
            raise


class _Silence:
    """Says once, of each time that nothing is heard, that there is no core for any of the jobs."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._since, self._wall, self._said = say, time.monotonic(), time.time(), False

    def hear(self, kept: Sequence[Any], jobs: Iterable[Work]) -> None:
        """``kept``: what has ended meanwhile; ``jobs``: what is to be trained."""
        if kept:
            self._since, self._wall, self._said = time.monotonic(), time.time(), False
            return
        if self._said or time.monotonic() - self._since < SCARCE:
            return
        self._said = True
        logs = [job.folder / LOG for job in jobs]
        if not any(log.exists() and log.stat().st_mtime > self._wall - 2 * SCARCE for log in logs):
            self._say(f"waiting for a free core: the cluster has {cluster.room()}")


class _Deaths:
    """Of the processes of one job."""

    def __init__(self) -> None:
        self._count, self._steps = 0, 0

    def again(self, folder: Path) -> bool:
        """Whether to begin once more after another one: it has come further since, or they are few."""
        steps = sum(int(kept[0].name) for run in runs_under(folder) if (kept := checkpoints(run)))
        self._count, self._steps = 1 if steps > self._steps else self._count + 1, steps
        return self._count < MOST_DEATHS


def _work_on_cluster(job: Any, folder: Path, path: Sequence[str]) -> dict[str, Any] | PoiseError:
    """``_work`` in a process of a cluster. ``folder``: of the job, as the driver's machine calls it."""
    if not folder.is_dir():
        return PoolError(
            f"{folder}: is not on {platform.node()}; --out must be a folder that all machines share"
        )
    cluster.settle_in(path)
    job, until = _placed(job, folder), time.monotonic() + PATIENCE
    while True:
        result = _logged(job, SIGNALS)
        if not isinstance(result, ClaimError) or time.monotonic() > until:
            return result
        time.sleep(0.5)
