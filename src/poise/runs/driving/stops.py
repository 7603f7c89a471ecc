"""What ends a training before its budget is used up. Such a run is finished like any other."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from poise.checked import ConfigError, checked_value
from poise.runs.setup import Past, Setup, Stopped
from poise.training.iteration import RECENT, Progress
from poise.wording import counted, figure

GREEDY = "evaluation/return"  # in the metrics of a Progress where greedy scores are asked for
LOOKS = 100  # at what steps training to a return, of the budget, where several iterations are one program
LONGEST = 300  # characters of a reason


@dataclass(frozen=True)
class Stop:
    """What ``on_iteration`` returns to end the training.

        def on_iteration(progress):
            if progress.mean_return > 195:
                return poise.Stop("good enough")

    Nothing else that it returns ends the training. A function that only logs often returns something by
    accident; and in the callbacks of other libraries, it is False that stops.

    Attributes:
        reason: a line for ``summary.json``; "" for none.
    """

    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or len(self.reason) > LONGEST or not self.reason.isprintable():
            raise ConfigError(f"reason = {self.reason!r:.100}: must be {LONGEST} characters in one line")


class Left(Stop):
    """A user's own loop was left."""


@dataclass(frozen=True)
class StopAt:
    """Ends a training when its mean return is at least ``target``; for ``on_iteration``, or in an own loop.

        poise.train("CartPole-v1", on_iteration=poise.StopAt(475))

    Where greedy scores are asked for (``eval_every``), the mean is that of such a score. Otherwise it is that
    of the last ``episodes`` episodes of the training, which samples its actions; before as many have ended,
    it does not stop. ``poise.train(stop_at=475)`` is the same for 100 episodes.

    Attributes:
        target: mean return.
        episodes: how many of the training, 1 to 100.
    """

    target: float
    episodes: int = RECENT

    def __post_init__(self) -> None:
        checked_value("target", float, self.target)
        object.__setattr__(self, "episodes", checked_value("episodes", int, self.episodes))
        if not math.isfinite(self.target):
            raise ConfigError(f"target = {self.target}: must be a finite number")
        if not 1 <= self.episodes <= RECENT:
            raise ConfigError(f"episodes = {self.episodes}: must be >= 1 and <= {RECENT}")

    def __call__(self, progress: Progress) -> Stop | None:
        if GREEDY in progress.metrics:
            return self.judge_greedy(progress.metrics[GREEDY])
        return self.judge([episode.episodic_return for episode in progress.recent])

    def judge(self, returns: list[float]) -> Stop | None:
        """``returns``: of the episodes that ended last."""
        if len(returns) < self.episodes:
            return None
        mean = float(np.mean(returns[-self.episodes :]))
        return self._judged(mean, f"the mean return of the last {counted(self.episodes, 'episode')}")

    def judge_greedy(self, mean: float | None) -> Stop | None:
        """``mean``: of a greedy score; None: there was none."""
        return None if mean is None else self._judged(mean, "the mean of the greedy score")

    def _judged(self, mean: float, what: str) -> Stop | None:
        return Stop(f"{what} is {figure(mean)}") if mean >= self.target else None


class Stops:
    """Whether a training has been stopped, and by what.

    Args:
        setup: of the training.
        past: of the training. What had stopped it then still does.
        in_blocks: whether several iterations may be one program.
        seconds: returns those that the training has taken.

    Attributes:
        stopped: by what; None: it goes on.
        at_begin: whether ``stopped`` was so before the first iteration.
    """

    def __init__(self, setup: Setup, past: Past, *, in_blocks: bool, seconds: Callable[[], float]):
        self._setup, self._in_blocks, self._seconds = setup, in_blocks, seconds
        options = setup.options
        self._at = None if options.stop_at is None else StopAt(options.stop_at)
        self._warned = False
        self._mean: float | None = None  # that decides, at the end of the last iteration
        self._ended = 0  # the episodes of which it is the mean
        self.stopped: Stopped | None = past.stopped

    def resume(self, past: Past, greedy: list[tuple[int, float]]) -> None:
        """Decides again at the checkpoint: the process may have been killed before it could say so there.

        ``greedy``: steps and mean of each greedy score.
        """
        if past.steps == 0 or self.stopped is not None:
            return
        metrics: dict[str, Any] = {}
        if self._setup.options.eval_every:
            self._mean = greedy[-1][1] if greedy else None
            metrics[GREEDY] = next((mean for steps, mean in greedy if steps == past.steps), None)
        self._consider(past.steps, metrics, [e.episodic_return for e in past.episodes[-RECENT:]])

    def consider(self, progress: Progress) -> None:
        """Decides after an iteration by the options of the training."""
        self._consider(progress.steps, progress.metrics, [e.episodic_return for e in progress.recent])

    def hear(self, answer: object, steps: int) -> str | None:
        """Takes what ``on_iteration`` has returned after so many steps.

        Returns a sentence if that may be a mistake.
        """
        if answer is Stop:  # without parentheses
            answer = Stop()
        if isinstance(answer, Stop) and self._is_open(steps):
            by = "loop" if isinstance(answer, Left) else "on_iteration"
            self.stopped = Stopped(by, answer.reason or None)
        if isinstance(answer, bool | np.bool_) and not self._warned:
            self._warned = True
            return (
                f"note: on_iteration returned {answer!s}, which does not stop the training; "
                "poise.Stop('why') does"
            )
        return None

    def missed(self) -> str | None:
        """What is said at the end of a training that did not come to its ``--stop-at``; None: nothing."""
        if self._at is None or self.stopped is not None:
            return None
        greedy = bool(self._setup.options.eval_every)
        start = f"--stop-at {self._at.target:g}: not reached"
        if self._mean is None:
            needed = "no greedy score was played" if greedy else self._too_few()
            return f"{start}; {needed}"
        what = "last greedy score" if greedy else f"last {RECENT} episodes"
        if self._mean >= self._at.target:
            start = f"--stop-at {self._at.target:g}: reached when the budget was used up"
        return f"{start}; the mean return of the {what} is {figure(self._mean)}"

    def _too_few(self) -> str:
        return f"{counted(self._ended, 'episode')} ended, the mean of {RECENT} is needed"

    def is_stopped(self) -> bool:
        return self.stopped is not None

    def _is_open(self, steps: int) -> bool:
        """Whether the training would go on after so many steps."""
        return self.stopped is None and steps < self._setup.total_steps

    def _consider(self, steps: int, metrics: Mapping[str, Any], returns: list[float]) -> None:
        self._note_mean(metrics, returns)
        if not self._is_open(steps):
            return
        limit = self._setup.options.max_seconds
        if limit is not None and (seconds := self._seconds()) >= limit:
            self.stopped = Stopped("max_seconds", f"it has trained for {seconds:.0f} s")
        if self._at is None:
            return
        if GREEDY in metrics:
            stop = self._at.judge_greedy(metrics[GREEDY])
        else:
            stop = self._at.judge(returns) if self._is_fixed(steps) else None
        if stop is not None:
            self.stopped = Stopped("stop_at", stop.reason)

    def _note_mean(self, metrics: Mapping[str, Any], returns: list[float]) -> None:
        if self._setup.options.eval_every:
            self._mean = metrics[GREEDY] if metrics.get(GREEDY) is not None else self._mean
        else:
            self._ended = len(returns)
            self._mean = float(np.mean(returns[-RECENT:])) if len(returns) >= RECENT else None

    def _is_fixed(self, steps: int) -> bool:
        """Whether an iteration ends there however fast the machine is: those within a block have no state."""
        if not self._in_blocks:
            return True
        every = look_every(self._setup.total_steps)
        return (steps - self._setup.config.rollout_size) // every < steps // every


def look_every(total_steps: int) -> int:
    """Steps between two looks at the return where several iterations are one program."""
    return max(1, total_steps // LOOKS)
