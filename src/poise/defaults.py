"""What an option becomes that is not given: from the budget and the time limit, never from a name.

docs/defaults.md says why, and what was tried.
"""

import math

ROLLOUTS = 36  # wanted in a budget
FEWEST_ROWS, MOST_ROWS = 256, 2048  # of a rollout
FEWEST_STEPS, MOST_ENVS = 64, 16

MINIBATCH = 128  # rows, where a rollout has as many

GAMMA_UNLIMITED = 0.99  # where episodes have no time limit

RATE, RATE_BUDGET = 1e-3, 100_000  # this learning rate at this budget
LOWEST_RATE, HIGHEST_RATE = 3e-4, 3e-3


def shape(total_steps: int, num_steps: int | None, num_envs: int | None) -> tuple[int, int]:
    """Steps T and environments N of a rollout; what is given stays.

    Its rows, T N, are the power of two nearest to one 36th of the budget, within 256 to 2048, and never
    more than the budget. N is 16, or as many as leave each 64 steps.
    """
    rows = 2 ** round(math.log2(max(1.0, total_steps / ROLLOUTS)))
    rows = min(max(rows, FEWEST_ROWS), MOST_ROWS, total_steps)
    if num_envs is None:
        steps = FEWEST_STEPS if num_steps is None else num_steps
        num_envs = min(MOST_ENVS, max(1, rows // steps))
    return max(1, rows // num_envs) if num_steps is None else num_steps, num_envs


def gamma(time_limit: int | None) -> float:
    """1 - 1 / (3 sqrt(limit)): a horizon that grows with the root of the episode's length (steps)."""
    return GAMMA_UNLIMITED if time_limit is None else 1 - 1 / (3 * math.sqrt(time_limit))


def std_init(action_size: int) -> float:
    """1 / sqrt(A): the noise of all A dimensions together has length 1 (root mean square)."""
    return 1 / math.sqrt(max(1, action_size))


def learning_rate(total_steps: int) -> float:
    """1e-3 at 100,000 steps, inversely to the root of the budget, within 3e-4 to 3e-3."""
    return min(max(RATE * math.sqrt(RATE_BUDGET / total_steps), LOWEST_RATE), HIGHEST_RATE)
