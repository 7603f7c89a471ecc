"""The defaults that are derived: from the budget and the time limit, never from the name of a task.

docs/defaults.md explains each and lists the experiments.
"""

import math

ROLLOUTS = 36  # target number of rollouts in a budget
FEWEST_ROWS, MOST_ROWS = 256, 2048  # of a rollout
FEWEST_STEPS, MOST_ENVS = 64, 16
FEWEST_STEPS_OF_MANY = 16  # where the user asks for more environments than MOST_ENVS

MINIBATCH, LONG_MINIBATCH = 128, 64  # rows; the second for a long budget
MOST_MINIBATCHES = 32  # in an epoch, where there are more environments than MOST_ENVS
LONG = 400_000  # steps from which a budget is long; its learning rate is half of RATE or less

GAMMA_UNLIMITED = 0.99  # where episodes have no time limit

RATE, RATE_BUDGET = 1e-3, 100_000  # this learning rate at this budget
LOWEST_RATE, HIGHEST_RATE = 3e-4, 3e-3


def shape(total_steps: int, num_steps: int | None, num_envs: int | None) -> tuple[int, int]:
    """Steps T and environments N of a rollout; a value that is not None stays.

    Its rows, T N, are the power of two nearest to 1/36 of the budget, between 256 and 2,048, and never more
    than the budget. N is 16, or fewer so that each environment has 64 steps. Of more than 16 environments
    each has at least 16 steps, if the budget has them.
    """
    rows = 2 ** round(math.log2(max(1.0, total_steps / ROLLOUTS)))
    rows = min(max(rows, FEWEST_ROWS), MOST_ROWS, total_steps)
    if num_envs is None:
        steps = FEWEST_STEPS if num_steps is None else num_steps
        num_envs = min(MOST_ENVS, max(1, rows // steps))
    if num_steps is None:
        fewest = 1 if num_envs <= MOST_ENVS else min(FEWEST_STEPS_OF_MANY, total_steps // num_envs)
        num_steps = max(1, fewest, rows // num_envs)
    return num_steps, num_envs


def comparable_budget(total_steps: int, num_steps: int, num_envs: int) -> float:
    """Steps with as many iterations, if rollouts of many environments had 2,048 rows and not more.

    What follows from a budget follows from the updates in it, and the number of minibatches has a bound: an
    iteration of many more rows has about as many updates.
    """
    rows = num_steps * num_envs
    return total_steps if num_envs <= MOST_ENVS else total_steps * min(1.0, MOST_ROWS / rows)


def gamma(time_limit: int | None) -> float:
    """1 - 1 / (3 sqrt(limit)): a horizon that grows with the root of the episode's length (steps)."""
    return GAMMA_UNLIMITED if time_limit is None else 1 - 1 / (3 * math.sqrt(time_limit))


def minibatch_size(total_steps: int, num_steps: int, num_envs: int) -> int:
    """About 128 rows, or 64 for a budget of 400,000 steps or more: equal parts of the rollout near that size.

    So an epoch drops fewer rows than it has minibatches, and no row of a rollout of 2,048. Of more than 16
    environments, an epoch has at most 32 minibatches, however large they are.
    """
    target = MINIBATCH if total_steps < LONG else LONG_MINIBATCH
    count = max(1, round(num_steps * num_envs / target))
    if num_envs > MOST_ENVS:
        count = min(count, MOST_MINIBATCHES)
    return num_steps * num_envs // count


def std_rate(total_steps: float) -> float:
    """(100,000 / budget)^(1/4), at least 1: with few updates the deviation must decrease faster."""
    return max(1.0, (RATE_BUDGET / total_steps) ** 0.25)


def std_init(action_size: int) -> float:
    """1 / sqrt(A): the noise of all A dimensions together has length 1 (root mean square)."""
    return 1 / math.sqrt(max(1, action_size))


def learning_rate(total_steps: float) -> float:
    """1e-3 sqrt(100,000 / budget), between 3e-4 and 3e-3."""
    return min(max(RATE * math.sqrt(RATE_BUDGET / total_steps), LOWEST_RATE), HIGHEST_RATE)
