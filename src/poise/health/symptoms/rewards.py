"""Rules about rewards: constant, sparse, only at the end, of an unusual size."""

from collections.abc import Iterator

import numpy as np

from poise.health.findings import Finding
from poise.health.probing import Play

LARGE, SMALL = 1e6, 1e-6  # a largest reward beyond these is of an unusual size
SPARSE = 0.01  # share of steps with a reward
AT_END = 0.9  # share of the rewards that came with the last step of an episode
LONG_EPISODE = 20  # steps from which on a reward at the end is reported


def check_rewards(play: Play) -> Iterator[Finding]:
    """Rewards differ, are not too rare, and have a usable size."""
    values = np.array([r for episode in play.episodes for r in episode.reward])
    if np.ptp(values) == 0:
        finding = _constant(play, float(values[0]), len(values))
        if finding is not None:
            yield finding
    elif np.median(values) == 0 and (share := float(np.mean(values != 0))) < SPARSE:
        yield Finding(
            "reward-sparse",
            "note",
            f"{share:.2%} of the rewards were not 0",
            "Learning needs many steps before it finds out what is good.",
            "use a larger budget, or reward progress towards the goal",
        )
    elif (share := _share_at_end(play)) is not None:
        yield Finding(
            "reward-at-end",
            "note",
            f"{share:.0%} of the rewards that were not 0 came with the last step of an episode",
            "It takes long to learn which of many actions earned the reward.",
            "use a larger budget, or reward each part of the task",
        )
    largest = float(np.max(np.abs(values)))
    if largest > LARGE or 0 < largest < SMALL:
        yield Finding(
            "reward-size",
            "note",
            f"the largest reward was {largest:.3g} in size",
            "poise scales rewards by the standard deviation of the return. Without that "
            "(--normalize.no-reward) training would fail.",
            "scale rewards to a size of about 1",
        )


def _constant(play: Play, value: float, count: int) -> Finding | None:
    """None if a constant reward for each step can teach something, because episodes differ in length."""
    ended = [episode for episode in play.episodes if episode.ended]
    lengths = {episode.length for episode in ended}
    if value and len(lengths) > 1:
        return None
    # each step costs the same until a goal that random play did not reach
    until_goal = value < 0 and bool(ended) and all(episode.truncated for episode in ended)
    return Finding(
        "reward-constant",
        "note" if until_goal else "warning",
        f"each of {count:,} rewards was {value:g}"
        + (f", in episodes of {lengths.pop():,} steps" if value and lengths else ""),
        "Random play found no action that is better than another. Learning begins only when it finds one.",
        "reward progress towards the goal, or start some episodes near it",
    )


def _share_at_end(play: Play) -> float | None:
    """The share of nonzero rewards in last steps; None if it is small or episodes are short."""
    ended = [episode for episode in play.random_episodes if episode.ended]
    if len(ended) < 3 or np.median([episode.length for episode in ended]) < LONG_EPISODE:
        return None
    nonzero = sum(np.count_nonzero(episode.reward) for episode in ended)
    last = sum(episode.reward[-1] != 0 for episode in ended)
    return last / nonzero if nonzero and last / nonzero >= AT_END else None
