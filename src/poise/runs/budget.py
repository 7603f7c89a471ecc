"""What the scores at the end of a training may cost: by default about a quarter of the training.

Steps decide and not the clock: the number of episodes of a score, and the choice of the best agent, follow
from the configuration and the lengths of the episodes. The limit in seconds is for slow environments; if it
is reached, the summary says so (``stopped``).
"""

from dataclasses import dataclass

from poise.agents.evaluation import LONGEST, Limits
from poise.runs.options import Options
from poise.spec import IN_JAX, Spec

QUARTER = 4  # steps of the training for each step of the scores
SHARES = {"score": 0.4, "choice": 0.2, "best": 0.4}  # of the budget; choice: all rivals together
USUAL = {True: (100_000, 32_000), False: (50_000, 8_000)}  # steps that a score and a rival may always use:
# on poise's own engines, which need a second or two for 100 episodes of 1,000 steps, and on others
LEAST, LEAST_RIVAL = 2_000, 200  # steps, if the training is shorter than its score
FEWEST = 10  # episodes of a score if the environment's time limit is missing or beyond LONGEST
PATIENCE = 60.0  # seconds that the scores may always take


@dataclass(frozen=True)
class Budget:
    """Steps and seconds of the score, of the choice among the rivals, and of the best agent's score."""

    score_steps: int
    rival_steps: int
    longest: int  # steps after which an episode is cut off
    seconds: float | None  # of all together
    rivals: int

    @property
    def score(self) -> Limits:
        return self._limits(self.score_steps, SHARES["score"])

    @property
    def rival(self) -> Limits:
        return self._limits(self.rival_steps, SHARES["choice"] / self.rivals)

    @property
    def best(self) -> Limits:
        """The limits of the best agent, which plays the same episodes as the last."""
        return self._limits(self.score_steps, SHARES["best"])

    def _limits(self, steps: int, share: float) -> Limits:
        seconds = None if self.seconds is None else share * self.seconds
        return Limits(steps, self.longest, seconds)

    def total_steps(self) -> int:
        """Steps of all scores together; the last episode of each may exceed it."""
        return 2 * self.score_steps + self.rivals * self.rival_steps


def make_budget(
    spec: Spec,
    backend: str,
    total_steps: int,
    options: Options,
    *,
    rivals: int,
    trained_longest: int,
    trained_seconds: float,
) -> Budget:
    """What the scores at the end of a training may cost.

    Args:
        spec: of the environment.
        backend: what steps the environment.
        total_steps: of the training.
        options: of the training; ``eval_max_steps`` and ``eval_max_seconds`` are used.
        rivals: the number of agents from which the best is chosen.
        trained_longest: steps of the longest episode that ended while training; 0: no episode ended.
        trained_seconds: of the training.
    """
    usual = (spec.time_limit or trained_longest) * 100  # 100 episodes like those of the training
    most, most_rival = USUAL[backend in ("mujoco", *IN_JAX)]
    if options.eval_max_steps is None:
        whole = total_steps // QUARTER
        score = max(LEAST, int(SHARES["score"] * whole), min(most, usual))
        rival = max(LEAST_RIVAL, int(SHARES["choice"] * whole) // rivals, min(most_rival, usual))
    else:
        score = max(1, int(SHARES["score"] * options.eval_max_steps))
        rival = max(1, int(SHARES["choice"] * options.eval_max_steps) // rivals)
    seconds = options.eval_max_seconds
    if seconds is None and options.eval_max_steps is None:
        seconds = max(PATIENCE, trained_seconds / QUARTER)
    return Budget(score, rival, _longest(spec, score, trained_longest), seconds, rivals)


def _longest(spec: Spec, score: int, trained_longest: int) -> int:
    """Steps after which an episode is cut: the time limit; if it is beyond LONGEST, a share of the score."""
    if spec.time_limit is not None and spec.time_limit <= LONGEST:
        return spec.time_limit
    return min(LONGEST, max(trained_longest, score // FEWEST))
