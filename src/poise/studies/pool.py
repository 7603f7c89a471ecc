"""Many trainings side by side, each in a process with a core of its own."""

import dataclasses
import multiprocessing
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from poise.checked import ConfigError
from poise.config import Config
from poise.envs.processes import GUARD, UnguardedError
from poise.errors import PoiseError, StorageError, message_of, with_notes
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
from poise.system.interrupts import SIGNALS, UNGUARDED, Guard, guarded, leave_with_parent
from poise.system.streams import Lasting, TextOut, logged_output
from poise.system.terminal import print

MOST_SEEDS = 10_000  # of one setting: each is a training, a folder and a row


def check_count(name: str, seeds: int) -> None:
    """
    Raises:
        ConfigError: the number is not between 1 and ``MOST_SEEDS``.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"{name} = {seeds}: must be >= 1 and <= {MOST_SEEDS}; each is a training")


@runtime_checkable
class Work(Protocol):
    """What one process of a pool does, and the folder that it fills. It is pickled to reach the process."""

    @property
    def folder(self) -> Path: ...

    def run(self, guard: Guard, file: TextOut) -> dict[str, Any]:
        """Starts it, or resumes it, and returns its summary; ``file`` is its log."""
        ...


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Job:
    """One training and the folder that it fills."""

    env: str
    config: Config
    options: Options
    folder: Path

    def run(self, guard: Guard, file: TextOut) -> dict[str, Any]:
        run = execute_or_proceed(self.env, self.config, self.options, self.folder, Conditions(file, guard))
        return run.summary


GRACE = 1.0  # seconds that an interrupted training has to save and end; its parent waits a little longer


class PoolError(PoiseError):
    """A process that trained was killed, or its training raised an unexpected error."""

    exit_code = 1


TICK = 0.5  # seconds between two calls of ``look``


def run_jobs(
    jobs: Sequence[W],
    ray: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    look: Callable[[Sequence[Any]], None] = lambda jobs: None,
) -> Iterator[tuple[W, dict[str, Any] | PoiseError]]:
    """Runs all jobs on all cores and yields each with its summary, or with its error, as it ends.

    What a training prints goes to ``log.txt`` in its folder. A training that was interrupted before resumes
    from its last checkpoint. An interrupt of this process reaches all trainings, and each saves its state.
    Each training has one core and one thread; its result is bit-identical with more.

    Args:
        ray: the cluster whose cores are used (``poise.system.cluster``) in place of this machine's. A
            training whose process or machine is lost resumes elsewhere from its last checkpoint.
        say: shows a line about such a loss, or about a checkpoint that cannot be used.
        look: is called at least every second with the jobs that have not ended.

    Raises:
        PoolError: a process was killed, for example because memory ran out.
        UnguardedError: the script that calls this has no main guard.
        ClusterError: the cluster cannot be joined.
    """
    if not jobs:
        return
    for line in dict.fromkeys(line for job in jobs for line in unusable(job.folder)):
        say(line)
    yield from _run_here(jobs, look) if ray is None else _run_on_cluster(jobs, ray, say, look)


def _run_here(
    jobs: Sequence[W], look: Callable[[Sequence[Any]], None]
) -> Iterator[tuple[W, dict[str, Any] | PoiseError]]:
    """``run_jobs`` on the cores of this machine."""
    context = multiprocessing.get_context("spawn")  # a process that has loaded JAX must not be forked
    cores: Any = context.SimpleQueue()
    workers = min(num_cores(), len(jobs))
    for core in _cores()[:workers]:
        cores.put(core)
    stop = context.Event()  # the executor hands out one job more than it has processes
    with ProcessPoolExecutor(workers, context, initializer=_prepare_process, initargs=(cores, stop)) as pool:
        # an environment may change the working directory of a process, which does several jobs
        futures = {pool.submit(_work, _with_folder(job, job.folder.absolute())): job for job in jobs}
        processes = list(pool._processes.values())  # after the pool broke it has none
        try:
            yield from _completed(futures, look)
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except BrokenProcessPool as error:
            if _any_unguarded(processes):
                raise UnguardedError(GUARD) from None
            raise PoolError("a process that trained was killed; is there enough memory?") from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _any_unguarded(processes: Sequence[Any]) -> bool:
    """Whether one of the processes of a pool that broke has run a script without a main guard."""
    for process in processes:
        process.join(1.0)
    return any(process.exitcode == UNGUARDED for process in processes)


def _completed(
    futures: dict[Future[Any], W], look: Callable[[Sequence[Any]], None]
) -> Iterator[tuple[W, dict[str, Any] | PoiseError]]:
    """Each job with its result as it ends; it is then removed from ``futures``."""
    while futures:
        look(list(futures.values()))
        for future in wait(futures, TICK, FIRST_COMPLETED).done:
            yield futures.pop(future), future.result()


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0] * num_cores()


_stop: Any = None  # in a process of the pool: an event; when set, no further job starts


def _prepare_process(cores: Any, stop: Any) -> None:
    """Runs once in each process of the pool, and takes one of the cores."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent decides
    leave_with_parent()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU's memory is for all of them
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _work(job: Work) -> dict[str, Any] | PoiseError:
    if _stop.is_set():
        return PoolError("not started")
    return _logged(job, (signal.SIGTERM,), alone=True)


def _with_folder(job: Any, folder: Path) -> Any:
    return dataclasses.replace(job, folder=folder)


def _logged(
    job: Work, signals: Sequence[signal.Signals], *, alone: bool = False
) -> dict[str, Any] | PoiseError:
    """Runs the job and returns its summary, or its error; what it prints goes to its log.

    ``alone``: whether this process is the pool's own. Then what the environments print goes to the log, too,
    and not to the terminal.
    """
    try:
        make_folder(job.folder)
        with ExitStack() as stack:
            log = stack.enter_context(append_to(job.folder / LOG))
            guard = stack.enter_context(guarded(GRACE, signals))
            if alone:
                stack.enter_context(logged_output(log))
            return _run_job(job, guard, Lasting(log))
    except FileError as error:  # the log, or the folder
        return error
    except OSError as error:
        kind = StorageError if is_full(error) else PoolError
        return kind(f"{job.folder}: {type(error).__name__}: {error}")
    raise AssertionError


def _run_job(job: Work, guard: Guard, file: TextOut) -> dict[str, Any] | PoiseError:
    """The summary of the job, or its error; only a full disk raises."""
    try:
        return outcome_of(lambda: job.run(guard, file), job.folder, file)
    except KeyboardInterrupt:
        return PoolError("interrupted")


R = TypeVar("R")


def outcome_of(train: Callable[[], R], folder: Path, file: TextOut) -> R | PoiseError:
    """What ``train`` returns, or its error, which is also printed; only an interrupt or a full disk raises.

    ``folder``: of the training, with its log.
    """
    try:
        return train()
    except PoiseError as error:
        print(with_notes(error), file=file)
        return error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a sys.exit of one training must not end the others
        if isinstance(error, OSError) and is_full(error):
            raise
        print("".join(traceback.format_exception(error)), file=file)
        return PoolError(f"its training raised {message_of(error)}; see {folder / LOG}")


def make_folder(folder: Path) -> None:
    """Makes the folder; refuses a link in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    own_folder(folder.parent, folder)


MOST_DEATHS = 5  # lost processes of one job, without a new checkpoint between them
SCARCE = 10.0  # seconds without news after which a line says that the cluster has no free core
PATIENCE = 60.0  # seconds to wait until the process that trained before releases the folder


def _run_on_cluster(
    jobs: Sequence[W], ray: str, say: Callable[[str], None], look: Callable[[Sequence[Any]], None]
) -> Iterator[tuple[W, dict[str, Any] | PoiseError]]:
    """``run_jobs`` on the cores of a Ray cluster."""
    for job in jobs:
        make_folder(job.folder)
    with cluster.joined(ray):
        running = _ClusterJobs(jobs, say)
        try:
            while running.jobs:
                look(list(running.jobs.values()))
                yield from running.completed()
        except BaseException:  # whatever ends this, each training saves its state first
            running.interrupt()
            raise


class _ClusterJobs:
    """The jobs that run on a cluster, or wait there for a core."""

    def __init__(self, jobs: Sequence[Any], say: Callable[[str], None]):
        self._tasks, self._path = cluster.Tasks(_work_on_cluster), cluster.search_path()
        self._say, self._silence = say, _Silence(say)
        self._deaths = {job.folder: _Deaths() for job in jobs}
        self.jobs: dict[Any, Any] = {}  # by the promise of their result
        for job in jobs:
            self._start(job)

    def _start(self, job: Any) -> None:
        self.jobs[self._tasks.ask(job, job.folder.resolve(), self._path)] = job

    def completed(self) -> Iterator[tuple[Any, dict[str, Any] | PoiseError]]:
        """The jobs that ended within a second, each with its result; a job whose process was lost resumes."""
        promises = cluster.ready(list(self.jobs), 1.0)
        self._silence.hear(promises, self.jobs.values())
        for promise in promises:
            job, result = self.jobs.pop(promise), cluster.answer(promise)
            if not isinstance(result, cluster.Lost):
                yield job, result
            elif self._deaths[job.folder].again(job.folder):
                self._say(f"{job.folder}: its process was lost; it resumes from its last checkpoint")
                self._start(job)
            else:
                often = f"its process was lost {MOST_DEATHS} times in a row"
                yield job, PoolError(f"{often}: {result.why}")

    def interrupt(self) -> None:
        """Interrupts all jobs and waits until each has saved its state, for 2 ``GRACE`` seconds at most."""
        cluster.interrupt(list(self.jobs))
        until = time.monotonic() + 2 * GRACE
        while self.jobs and time.monotonic() < until:
            for promise in cluster.ready(list(self.jobs), GRACE / 10):
                del self.jobs[promise]


class _Silence:
    """Says that the cluster has no free core, once in each time without news of any job."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._since, self._wall, self._said = say, time.monotonic(), time.time(), False

    def hear(self, ended: Sequence[Any], jobs: Iterable[Work]) -> None:
        """``ended``: the jobs that ended since the last call; ``jobs``: those that have not ended."""
        if ended:
            self._since, self._wall, self._said = time.monotonic(), time.time(), False
            return
        if self._said or time.monotonic() - self._since < SCARCE:
            return
        self._said = True
        logs = [job.folder / LOG for job in jobs]
        if not any(log.exists() and log.stat().st_mtime > self._wall - 2 * SCARCE for log in logs):
            self._say(f"waiting for a free core: the cluster has {cluster.room()}")


class _Deaths:
    """The lost processes of one job."""

    def __init__(self) -> None:
        self._count, self._steps = 0, 0

    def again(self, folder: Path) -> bool:
        """Counts another loss; whether to start the job again.

        It starts again if it has a new checkpoint since the last loss, or was lost fewer than ``MOST_DEATHS``
        times.
        """
        saved = [checkpoints(run) for run in runs_under(folder)]
        steps = sum(int(newest_first[0].name) for newest_first in saved if newest_first)
        self._count, self._steps = 1 if steps > self._steps else self._count + 1, steps
        return self._count < MOST_DEATHS


def _work_on_cluster(job: Any, folder: Path, path: Sequence[str]) -> dict[str, Any] | PoiseError:
    """``_work`` in a process of a cluster. ``folder``: the job's, by its path on the driver's machine."""
    if not folder.is_dir():
        return PoolError(
            f"{folder}: is not on {platform.node()}; --out must be a folder that all machines share"
        )
    cluster.settle_in(path)
    job, until = _with_folder(job, folder), time.monotonic() + PATIENCE
    while True:
        result = _logged(job, SIGNALS)
        if not isinstance(result, ClaimError) or time.monotonic() > until:
            return result
        time.sleep(0.5)
