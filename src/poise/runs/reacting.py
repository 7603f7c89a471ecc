"""The loop that records and shows each iteration. However it ends, finished iterations are saved."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.agents.evaluation import Evaluation
from poise.envs.checking import EnvFault
from poise.runs.budget import Budget
from poise.runs.crash import write_crash
from poise.runs.curve import read_curve
from poise.runs.driving.stops import Stops
from poise.runs.live import Live, live
from poise.runs.recorder import Recorder
from poise.runs.scoring import EVALUATION_EPISODES
from poise.runs.setup import Conditions
from poise.runs.starting.repeating import resume_command
from poise.system import cluster
from poise.system.interrupts import Guard
from poise.system.notebook import card
from poise.system.peers import LostPeer
from poise.system.terminal import typed
from poise.training.iteration import Progress
from poise.wording import between, counted, figure


@dataclass(frozen=True, repr=False)
class Run:
    """A finished training.

    Attributes:
        folder: with everything about it (docs/reading.md).
        summary: the content of ``summary.json``.
        evaluation: the score at its end; None without one.
    """

    folder: Path
    summary: dict[str, Any]
    evaluation: Evaluation | None

    def __repr__(self) -> str:
        return f"Run({self.folder}: {self.summary['env']}, {', '.join(self._facts())})"

    def _facts(self) -> list[str]:
        """Score, steps and status."""
        score, steps = self.summary["evaluation"], counted(self.summary["steps"], "step")
        facts = [steps, self.summary["status"]]
        if score is None:
            return facts
        has_interval = score["low"] is not None and score["low"] < score["high"]
        bounds = f" ({between(score['low'], score['high'])})" if has_interval else ""
        return [f"greedy return {figure(score['mean'])}{bounds}", *facts]

    def _repr_html_(self) -> str:
        facts = ", ".join(self._facts())
        return card(self.summary["env"], [facts, f"folder: {self.folder}"], picture=read_curve(self.folder))


# It yields None as ``settled_iterations`` does. It is sent what ``on_iteration`` returns.
Session = Generator[Progress | None, object, Run]


class CallerError(Exception):
    """Stands for an error of the code that drives a session: not one of the disk or of the environment."""


def end_by(session: Session, error: BaseException) -> None:
    """Ends a session by an error of the code that drives it, or by its own. The caller raises it again."""
    told = CallerError() if isinstance(error, Exception) else error
    try:
        session.throw(told)
    except BaseException as raised:
        if raised is not told:
            raise


def react(
    training: Iterator[Progress | None],
    recorder: Recorder,
    stops: Stops,
    conditions: Conditions,
    begin: Callable[[], None],
) -> Session:
    """Records and shows each iteration and yields it. Then completes the run folder.

    It yields None where a program has several trainings and the others have to come to the same place.

    Args:
        training: ends after the iteration with which ``stops`` says so.
        recorder: of the run folder.
        stops: hears what is sent.
        conditions: of the training.
        begin: is called where an interrupt is handled from then on; it raises one that came before.
    """
    setup = recorder.setup
    with live(setup.total_steps, conditions.file, setup.spec.dimensions) as view:
        recorder.show_on(view)
        try:
            begin()
            summary = yield from _to_the_end(training, recorder, stops, view, conditions)
        except BaseException as error:
            conditions.guard.done()
            view.close()
            _keep(error, recorder, view, conditions)
            raise
        view.close()
    return Run(recorder.shown, summary, recorder.evaluation)


def _to_the_end(
    training: Iterator[Progress | None],
    recorder: Recorder,
    stops: Stops,
    view: Live,
    conditions: Conditions,
) -> Generator[Progress | None, object, dict[str, Any]]:
    """Every iteration, and what follows the last. Returns the summary."""
    guard = conditions.guard

    def leave() -> None:
        """Is called in another thread if the main thread does not come back: compiling takes long."""
        recorder.save_at_once()
        view.close()
        view.say(_how_to_resume(recorder, conditions, "interrupted"))

    with guard.saving(leave):
        if recorder.past.steps:
            view.catch_up(recorder.past.steps, recorder.past.episodes)
        for progress in training:
            if progress is None:
                yield None
                continue
            recorded = recorder.record(progress)
            guard.restore()  # an environment may have installed signal handlers of its own
            stops.consider(recorded)
            if (note := stops.hear((yield recorded), recorded.steps)) is not None:
                view.say(note)
            if stops.stopped is not None:
                recorder.stop(stops.stopped)
        if stops.stopped is not None:
            recorder.stop(stops.stopped)  # if it was so before the first iteration
            view.say(f"stopped at step {recorder.steps:,} by {stops.stopped.describe()}")
        elif (line := stops.missed()) is not None:
            view.say(line)
        _complete(recorder, view, guard)
        return recorder.finish("finished")


def _complete(recorder: Recorder, view: Live, guard: Guard) -> None:
    """What follows the last iteration: its checkpoint, the scores and the film."""
    view.phase("writing the last checkpoint")
    recorder.save()
    if recorder.setup.options.evaluate:
        view.say(_announcement(recorder.budget()))
        view.phase("making the environments of the score")
        recorder.evaluate()
        guard.restore()
    if recorder.setup.options.video:
        view.phase("making the video")
        recorder.film(view.say)
        guard.restore()


def _announcement(budget: Budget) -> str:
    """What the scores may cost: shown before they begin."""
    most = f"{budget.total_steps():,} steps" if budget.seconds is None else f"about {budget.seconds:.0f} s"
    agents = counted(budget.rivals, "saved agent")
    choice = f", with the choice of the best of {agents}" if budget.rivals > 1 else ""
    return f"score: up to {EVALUATION_EPISODES} episodes{choice}; {most} at most"


def _keep(error: BaseException, recorder: Recorder, view: Live, conditions: Conditions) -> None:
    """Saves what there is of a training that ended with ``error``."""
    if isinstance(error, EnvFault) and error.crash is not None:
        path = recorder.shown / write_crash(recorder.folder, error.crash).name
        error.add_note(f"{typed('poise', 'check', path)} plays the episode that failed again")
    if isinstance(error, OSError):
        with contextlib.suppress(OSError):
            recorder.close()
        return
    with _second_to(error, view):
        recorder.save()
        if isinstance(error, KeyboardInterrupt | cluster.LostCluster | LostPeer):
            view.say(_how_to_resume(recorder, conditions, _ending(error)))
        recorder.finish(_ending(error))


def _how_to_resume(recorder: Recorder, conditions: Conditions, ending: str) -> str:
    """Where a training ended before its end, and the command that resumes it."""
    setup = recorder.setup
    resume = resume_command(recorder.shown, setup.task.id, setup.config, conditions.ray)
    score = recorder.evaluation
    scored = f"; greedy return {score.mean:.2f} over {len(score.length)} episodes so far" if score else ""
    return f"{ending} at step {recorder.steps:,}{scored}; to resume: {resume}{conditions.peer_options}"


@contextlib.contextmanager
def _second_to(error: BaseException, view: Live) -> Iterator[None]:
    """Prints a failure in its context, so that it does not hide ``error``, which ended the training.

    When memory or disk run out, one failure is followed by others. If ``error`` is an interrupt and not a
    failure, the failure in the context is raised.
    """
    try:
        yield
    except Exception as failure:
        if not isinstance(error, Exception):
            raise
        view.say(f"the run folder is not complete: {type(failure).__name__}: {failure}")


def _ending(error: BaseException) -> str:
    """The status of a run that ended with ``error``."""
    if isinstance(error, GeneratorExit):  # the session was closed between two iterations
        return "stopped"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
