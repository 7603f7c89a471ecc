"""Rules about actions: their range, whether they have an effect, and which size they need."""

from collections.abc import Iterator

import numpy as np

from poise.health.findings import Finding
from poise.health.probing import STICKY_STEPS, Play, PlayedEpisode, first_difference, rewards_differ
from poise.health.symptoms.observations import list_places
from poise.spec import Part, Spec

COMPARED = 200  # steps without any difference from which on actions count as ignored
COMPARED_FOR_REWARD = 1000  # steps without another reward from which on rewards count as independent
ENOUGH_COMPARED = 10_000
CHOICES = 16  # of a discrete action that are held, at most
# sizes of unbounded actions: those that a policy begins with, and those that it hardly finds
USUAL, FAR = 3.0, 30.0
SIZES = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)
PROBES, PROBE_STEPS = 8, 20


def check_action_bounds(play: Play) -> Iterator[Finding]:
    """Each dimension of the action has a range, and each choice has two values."""
    ranges = [low < high for low, high in zip(play.spec.action_low, play.spec.action_high, strict=True)]
    if not any(ranges) and not play.spec.choices:
        severity, meaning = "error", "The agent has no choice there. It cannot do anything at all."
    else:
        severity, meaning = "warning", "The agent has no choice there."
    for part in play.spec.action:
        if (seen := _without_range(part)) and (part.is_box or play.spec.dimensions > 1):
            yield Finding(
                "action-range-empty",
                severity,
                seen,
                meaning,
                "set low below high in the action space; in an MJCF file give the actuator a ctrlrange, for "
                'example ctrlrange="-1 1"'
                if part.is_box
                else "leave this choice out of the action space",
            )


def _without_range(part: Part) -> str:
    """Which dimensions or choices of a part leave nothing to choose; empty if there are none."""
    low, high = np.array(part.low), np.array(part.high)
    empty = np.flatnonzero(~(low < high) if part.is_box else np.array(part.sizes) == 1)
    if not len(empty):
        return ""
    where = f" in {part.name!r}" if part.path else ""
    seen = f"action {list_places(empty)} of {part.num_columns}{where} has "
    if not part.is_box:
        return seen + "a single value"
    return seen + f"no range: low = {low[empty[0]]:g}, high = {high[empty[0]]:g}"


def check_action_effect(play: Play) -> Iterator[Finding]:
    """Actions have an effect: somewhere another action leads to something else."""
    if not play.repeatable or not np.all(np.array(play.spec.action_low) < play.spec.action_high):
        return  # differences then have another cause
    compared, for_reward, whole, obs_differ = 0, 0, 0, False
    with play.limit_time(play.seconds):
        for first, second in _pairs(play):
            step = first_difference(first, second)
            obs_differ |= step is not None
            if rewards_differ(first, second):
                return
            both = min(first.length, second.length)
            compared += both
            whole += first.ended and second.ended
            if step is not None and np.ptp(first.reward[step:both] or [0.0]) > 0:
                for_reward += both - step
            if compared > ENOUGH_COMPARED:
                break
    if not obs_differ and (compared >= COMPARED or whole >= 4):
        yield from _ignored(play, compared)
    elif for_reward >= COMPARED_FOR_REWARD:
        yield Finding(
            "reward-ignores-action",
            "warning",
            f"in {for_reward:,} steps, other actions changed observations, but neither rewards nor ends",
            "Nothing can be learned if the reward does not depend on the actions.",
            "compute the reward from the state after the step",
        )


def _pairs(play: Play) -> Iterator[tuple[PlayedEpisode, PlayedEpisode]]:
    """Each random episode beside others of the same seed with other actions."""
    for episode in play.random_episodes:
        for alternative in _alternatives(play, episode.seed):
            yield episode, alternative
            if play.time_is_up:
                return


def _alternatives(play: Play, seed: int) -> Iterator[PlayedEpisode]:
    """Episodes of this seed with other actions: random, sticky, and held ones."""
    yield play.play("other", seed, play.random(seed + 1000), limit=STICKY_STEPS)
    yield play.play("other", seed, play.sticky(seed + 1000), limit=STICKY_STEPS)
    if play.spec.boxes:
        held = [play.extreme(side) for side in (-1.0, 1.0)]
    else:
        sizes, most = np.array(play.spec.sizes), max(play.spec.sizes)
        values = np.linspace(0, most - 1, min(CHOICES, most)).round()
        held = [play.row(np.zeros(0), np.minimum(value, sizes - 1).astype(int).tolist()) for value in values]
    for action in held:
        yield play.play("other", seed, play.hold(action), limit=STICKY_STEPS)


def _ignored(play: Play, compared: int) -> Iterator[Finding]:
    if not all(play.spec.scaled) and _only_far_actions_matter(play):
        return  # reported by check_action_size
    yield Finding(
        "action-ignored",
        "error",
        f"in {compared:,} steps, other actions led to the same observations and rewards",
        "Nothing can be learned if actions have no effect.",
        play.advice(
            gymnasium="use the action in step",
            task="use the action in outcome, or check that an actuator moves what is observed",
            jax="use the action in step",
        ),
    )


def check_action_size(play: Play) -> Iterator[Finding]:
    """Actions without bounds are useful at a size of about 1, with which a policy begins."""
    if all(play.spec.scaled) or not play.repeatable:
        return
    with play.limit_time(play.seconds):
        best = [size for size in (_best_size(play, seed) for seed in range(PROBES)) if size is not None]
    far = [size for size in best if size >= FAR]
    if len(best) >= 4 and len(far) > len(best) / 2:
        observed = f"the best of the tried actions had a size of about {np.median(far):g}"
    elif _only_far_actions_matter(play):
        observed = f"only sizes of {FAR:g} and more changed anything"
    else:
        return
    yield Finding(
        "action-size",
        "warning",
        f"action {_unbounded(play.spec)} has no bounds, and {observed}",
        "A policy begins with actions of a size of about 1. It takes long to find much larger ones.",
        "give the action space bounds (the agent's [-1, 1] is rescaled to them), or multiply the action in "
        + play.advice(gymnasium="step", task="the MJCF file (gear)", jax="step"),
    )


def _unbounded(spec: Spec) -> str:
    """The dimensions without bounds; those of a nested action by their parts."""
    places, start = [], 0
    for part in spec.boxes:
        own = np.flatnonzero(~np.array(spec.scaled[start : start + part.num_columns]))
        start += part.num_columns
        if len(own):
            places.append(list_places(own) + (f" in {part.name!r}" if part.path else ""))
    return ", ".join(places)


def _probe(play: Play, seed: int, size: float, rng_seed: int) -> PlayedEpisode:
    """Hold an action of this size in a random direction; dimensions with bounds stay in the middle."""
    rng, count = np.random.default_rng((seed, rng_seed)), play.spec.box_size
    box = play.by_bounds(np.zeros(count), size * rng.choice([-1.0, 1.0], count))
    action = play.row(box, [int(rng.integers(n)) for n in play.spec.sizes])
    return play.play("probe", seed, play.hold(action), limit=PROBE_STEPS)


def _best_size(play: Play, seed: int) -> float | None:
    """The size of a held action with the best return after one step, or after all; None if all are equal."""
    probes = {size: [_probe(play, seed, size, k) for k in range(4)] for size in SIZES}
    for steps in (1, PROBE_STEPS):
        returns = {size: max(sum(e.reward[:steps]) for e in episodes) for size, episodes in probes.items()}
        best = max(returns.values())
        usual = [value for size, value in returns.items() if size <= USUAL]
        # a larger size counts only if it gains more than the usual sizes differ among themselves
        if best - max(usual) > max(usual) - min(usual) and best > max(usual):
            return next(size for size, value in returns.items() if value == best)
    return 1.0 if len({tuple(e.reward) for episodes in probes.values() for e in episodes}) > 1 else None


def _only_far_actions_matter(play: Play) -> bool:
    """Whether sizes below FAR change nothing, and larger ones do."""

    def matter(seed: int, sizes: list[float]) -> bool:
        still = _probe(play, seed, 0.0, 0)
        probes = (_probe(play, seed, size, k) for size in sizes for k in range(4))
        return any(first_difference(still, probe) is not None for probe in probes)

    near, far = [s for s in SIZES if 0 < s < FAR], [s for s in SIZES if s >= FAR]
    with play.limit_time(play.seconds):
        return not any(matter(seed, near) for seed in (0, 1)) and any(matter(seed, far) for seed in (0, 1))
