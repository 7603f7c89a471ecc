"""Several seeds of a task in one process, as the lanes of one program. Each has its folder, as alone.

The trainings take turns (``session`` is a generator): each asks for its next iterations and yields, and the
first whose turn comes again starts those of all.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.config import Config
from poise.errors import PoiseError
from poise.placement.lanes import Lanes
from poise.runs.folders import LOG
from poise.runs.options import Options
from poise.runs.session import session
from poise.runs.setup import Conditions
from poise.store.files import FileError, append_to
from poise.studies.pool import Job, PoolError, make_folder, outcome_of
from poise.system.interrupts import Guard, Member
from poise.system.streams import Lasting, TextOut

Outcome = dict[str, Any] | PoiseError


@dataclass(frozen=True)
class Batch:
    """Trainings that differ in their seeds alone, and the folder that has a folder for each seed.

    ``options.together``: the lanes of the program, at least as many as ``seeds``.
    """

    env: str
    config: Config  # its seed is not used
    options: Options
    folder: Path
    seeds: tuple[int, ...]

    @property
    def jobs(self) -> list[Job]:
        """Each training on its own."""
        configs = [dataclasses.replace(self.config, seed=seed) for seed in self.seeds]
        return [Job(self.env, config, self.options, self.folder / str(config.seed)) for config in configs]

    def run(self, guard: Guard, file: TextOut) -> dict[str, Any]:
        """Trains all of them. Returns each summary, or error, in the order of the seeds.

        One that fails does not stop the others. What it prints is in its own log. ``file`` has what the
        process prints: of environments, say.
        """
        lanes = Lanes(self.options.settled().together or 1)
        with contextlib.ExitStack() as stack:
            trainings = [_Lane(job, lanes, guard, stack) for job in self.jobs]
            _take_turns(trainings)
        return {"each": [each.outcome for each in trainings]}


class _Lane:
    """One training of a batch. ``outcome``: None while it has not ended."""

    def __init__(self, job: Job, lanes: Lanes, guard: Guard, stack: contextlib.ExitStack):
        self._job = job
        self.outcome: Outcome | None = None
        try:
            make_folder(job.folder)
            self._file = Lasting(stack.enter_context(append_to(job.folder / LOG)))
        except FileError as error:
            self.outcome = error
            return
        conditions = Conditions(self._file, Member(guard), lanes=lanes)
        self._session = session(job.env, job.config, job.options, job.folder, conditions)
        stack.callback(self._session.close)

    def advance(self) -> None:
        """Trains until it waits for the others, or has recorded some iterations."""
        self.outcome = outcome_of(self._next, self._job.folder, self._file)

    def _next(self) -> dict[str, Any] | None:
        try:
            next(self._session)
        except StopIteration as end:
            return end.value.summary
        return None

    def interrupt(self) -> None:
        if self.outcome is None:
            self.outcome = PoolError("interrupted")
            with contextlib.suppress(BaseException):
                self._session.throw(KeyboardInterrupt())


def _take_turns(trainings: Sequence[_Lane]) -> None:
    """Trains all of them to their ends. After an interrupt, each saves its state."""
    try:
        while running := [each for each in trainings if each.outcome is None]:
            for each in running:
                each.advance()
    except KeyboardInterrupt:
        for each in trainings:
            each.interrupt()


def batches(jobs: Sequence[Job]) -> list[Job | Batch]:
    """The work of a pool: of each task, as many seeds together as its options say."""
    waiting: dict[str, list[Job]] = {}
    for job in jobs:
        waiting.setdefault(job.env, []).append(job)
    works: list[Job | Batch] = []
    for job in jobs:  # in their order
        own, together = waiting[job.env], job.options.together or 1
        if together == 1:
            works.append(job)
        elif own and own[0] is job:
            seeds = tuple(each.config.seed for each in own[:together])
            works.append(Batch(job.env, job.config, job.options, job.folder.parent, seeds))
            del own[:together]
    return works


def jobs_of(works: Sequence[Job | Batch]) -> list[Job]:
    """The trainings of the works."""
    return [job for work in works for job in (work.jobs if isinstance(work, Batch) else [work])]


def each_outcome(work: Job | Batch, outcome: Outcome) -> Iterator[tuple[Job, Outcome]]:
    """Each training of a work, with its summary or error. ``outcome``: of the work."""
    jobs = jobs_of([work])
    if isinstance(work, Batch) and not isinstance(outcome, PoiseError):
        yield from zip(jobs, outcome["each"], strict=True)
    else:
        yield from ((job, outcome) for job in jobs)
