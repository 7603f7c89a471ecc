"""The rules of ``poise check``: what in the episodes that were played would spoil a training.

Each rule is a generator of findings, and may play more. No rule knows an environment's name.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Shaped

from poise import defaults
from poise.agents.evaluation import LONGEST
from poise.health.findings import Finding
from poise.health.probing import Choose, Play, Played, differs_at, rewards_differ

EPISODES = 400  # of random play, at most
STICKY_EPISODES, STICKY_STEPS = 4, 1000
REPEATED, REPEATED_STEPS = 3, 500  # episodes that are played again, at least; steps, with more of them
LARGE, SMALL = 1e6, 1e-6  # sizes of rewards that are odd
SPARSE = 0.01  # share of steps with a reward
AT_END, LONG_EPISODE = 0.9, 20  # share of the rewards that came with an episode's last step; steps
LONG = 3.0  # horizons in an episode from which on it is called long
SURE_OF_NO_END = 1000  # steps without an end of an episode from which on one is not expected
LARGE_OBSERVATION = 10_000  # numbers from which on a plain network is slow and large
PICTURE_SIDE = 32  # pixels of a side from which on an array of bytes is a picture
LEVELS = 64  # distinct values of an observed number; with fewer its digits are lost
WHOLE_FLOAT32 = 2.0**24  # from here on a float32 does not hold every whole number
MOST_COLUMNS = 300  # of observations in a linear fit
SEEN_TIME = 0.9  # share of the variance of the step's number that observations explain
COMPARED, COMPARED_FOR_REWARD = 200, 1000  # steps in which actions that make no difference are believed
ENOUGH_COMPARED = 10_000
CHOICES = 16  # of a discrete action that are held, at most
USUAL, FAR = (
    3.0,
    30.0,
)  # sizes of unbounded actions: those that a policy begins with, and those it hardly finds
SIZES = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)
PROBES, PROBE_STEPS = 8, 20


def plays(play: Play) -> Iterator[Finding]:
    """Random episodes, then such with repeated actions, then both ends. Whatever they raise ends all."""
    total, begun = 0, time.perf_counter()
    for seed in range(EPISODES):
        left = play.seconds - (time.perf_counter() - begun)
        if total >= play.most or left <= 0:
            break
        with play.within(left / 2):  # of a slow environment the first episode alone would take all
            play.random_play.append(play.play("random", seed, play.random(seed)))
        total += play.random_play[-1].length
    with play.within(play.seconds / 2):
        for kind, seed, choose in _others(play):
            if play.late:
                break
            play.other_play.append(play.play(kind, seed, choose, most=STICKY_STEPS))
    yield from ()


def pictures(play: Play) -> Iterator[Finding]:
    """Observations are vectors: poise has no convolutions."""
    size = play.spec.obs_size
    shape = " x ".join(str(n) for n in play.spec.obs_shape)
    if _is_picture(play):
        yield Finding(
            "observation-image",
            "error" if size > LARGE_OBSERVATION else "warning",
            f"an observation is a picture: {shape} bytes",
            f"poise has no network for pictures. It would take the {size:,} pixels as unrelated numbers, "
            f"which "
            "is slow and seldom learns.",
            "observe what the picture shows as a few numbers: positions, speeds, counts; or use a "
            "library with "
            "convolutional networks",
        )
    elif size > LARGE_OBSERVATION:
        yield Finding(
            "observation-large",
            "warning",
            f"an observation has {size:,} numbers ({shape})",
            "The first layer of each network has as many rows: a step of the training is slow.",
            "observe fewer numbers: leave out what does not change, or take means over parts",
        )


def _others(play: Play) -> Iterator[tuple[str, int, Choose]]:
    """Actions that are repeated, until these are steps enough, and both ends of the range held."""
    seed = 0
    while seed < STICKY_EPISODES or sum(p.length for p in play.other_play) < STICKY_STEPS:
        yield "sticky", seed, play.sticky(seed)
        seed += 1
        if seed == EPISODES:
            break
    if not play.spec.discrete:
        for side in (-1.0, 1.0):
            yield "end", 0, play.held(play.end(side))


def _is_picture(play: Play) -> bool:
    """Bytes in a rectangle. A small one is a board, or a view of tiles."""
    long = sum(n >= PICTURE_SIDE for n in play.spec.obs_shape) >= 2
    return long and play.env.observation_space.dtype == np.uint8


def bounds(play: Play) -> Iterator[Finding]:
    """Each dimension of the action has a range."""
    low, high = np.array(play.spec.action_low), np.array(play.spec.action_high)
    empty = np.flatnonzero(~(low < high))
    if not len(empty):
        return
    first = empty[0]
    every = len(empty) == len(low)
    yield Finding(
        "action-range-empty",
        "error" if every else "warning",
        f"action {_list(empty)} of {len(low)} has no range: low = {low[first]:g}, high = {high[first]:g}",
        "The agent has nothing to choose there." + (" It can do nothing at all." if every else ""),
        "give the action space a low below its high; in an MJCF file give the actuator a ctrlrange, for "
        "example "
        'ctrlrange="-1 1"',
    )


def normalizes(play: Play) -> Iterator[Finding]:
    """No running statistics inside the environment go on from episode to episode."""
    seed = play.random_play[0].seed
    for env in (play.env, play.other):
        env.reset(seed=seed)
    for mine, theirs in zip(_layers(play.env), _layers(play.other), strict=False):
        for name, statistics in _statistics(mine).items():
            fresh = _statistics(theirs).get(name)
            if fresh is None or _same(statistics, fresh):
                continue
            play.repeatable = False
            yield Finding(
                "normalized-inside",
                "warning",
                f"{type(mine).__name__} keeps running statistics ({name}) that go on from episode to episode",
                "Each environment has statistics of its own. The score, an exported agent and a resumed "
                "training "
                "do not have those that the agent was trained with.",
                "remove it: poise normalizes observations and rewards by itself, and keeps the "
                "statistics with "
                "the agent",
            )
            return


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _statistics(env: gym.Env) -> dict[str, Any]:
    """Attributes that are a mean and a variance with an update, as everybody writes them."""
    attributes = getattr(env, "__dict__", {})
    return {
        name: value
        for name, value in attributes.items()
        if hasattr(value, "mean") and hasattr(value, "var") and callable(getattr(value, "update", None))
    }


def _same(one: Any, two: Any) -> bool:
    return all(
        np.array_equal(np.asarray(getattr(one, n)), np.asarray(getattr(two, n))) for n in ("mean", "var")
    )


def repeats(play: Play) -> Iterator[Finding]:
    """The same seed and the same actions lead to the same, in this instance and in another."""
    if not play.repeatable:
        return
    with play.within(play.seconds):
        played = 0
        for count, first in enumerate(play.random_play):
            if play.late or (count >= REPEATED and played >= REPEATED_STEPS):
                return
            played += first.length
            for other in (False, True):
                step = differs_at(first, play.again(first, other=other, most=STICKY_STEPS))
                if step is not None:
                    play.repeatable = False
                    yield _not_repeatable(play, first.seed, step, other=other)
                    return


def _not_repeatable(play: Play, seed: int, step: int, *, other: bool) -> Finding:
    return Finding(
        "not-repeatable",
        "warning",
        f"seed {seed} and the same actions gave something else at step {step}"
        + (" in another instance" if other else " the second time"),
        "Two trainings with one seed differ, and one that was stopped cannot resume exactly.",
        "draw only from the rng that draw() and vary() are given, compute observe and outcome from the "
        "batch alone, "
        "keep no state in the task, and name in derived what outcome alone reads"
        if play.own
        else "draw everything from self.np_random, which reset(seed=...) seeds, and reset all state in reset",
    )


def starts(play: Play) -> Iterator[Finding]:
    """Different seeds begin differently."""
    kinds = {played.obs[0].tobytes() for played in play.random_play}
    if len(kinds) == 1 and len(play.random_play) > 3:
        yield Finding(
            "one-start",
            "note",
            "every episode began with the same observation",
            "The agent learns that start alone, and its score over many episodes is one episode's.",
            "vary the start a little in reset, from "
            + ("the rng that draw() is given" if play.own else "self.np_random"),
        )


def aliases(play: Play) -> Iterator[Finding]:
    """What was returned stays as it was."""
    if play.aliased:
        yield Finding(
            "observation-aliased",
            "warning",
            "an array that step or reset had returned was changed by the next step",
            "poise copies observations; other programs that keep them would hold the last one many times.",
            "return a copy: self.state.copy()",
        )
    if play.changed:
        yield Finding(
            "action-changed",
            "warning",
            "step wrote into the array of the action",
            "What an agent keeps of its actions is then not what it did.",
            "work on a copy: action = np.clip(action, low, high), not action *= ...",
        )


def declares(play: Play) -> Iterator[Finding]:
    """Observations are as their space says."""
    space = play.env.observation_space
    assert isinstance(space, gym.spaces.Box)
    rows = [obs for played in play.episodes for obs in played.obs]
    if rows[0].dtype != space.dtype:
        yield Finding(
            "observation-dtype",
            "note",
            f"observations are {rows[0].dtype}, their space says {space.dtype}",
            "poise takes them as they are.",
            f"return np.asarray(obs, np.{space.dtype})",
        )
    outside = [obs for obs in rows if np.any(obs < space.low) or np.any(obs > space.high)]
    if outside:
        where = np.argwhere((outside[0] < space.low) | (outside[0] > space.high))[0].tolist()
        index = tuple(where)
        yield Finding(
            "outside-bounds",
            "note",
            f"{len(outside)} of {len(rows)} observations were outside their space: obs{where} was "
            f"{outside[0][index]:g}, declared {space.low[index]:g} to {space.high[index]:g}",
            "poise normalizes by what it sees, not by what is declared; other programs may not.",
            "widen the bounds of the observation space, to -inf and inf where there are none",
        )


def _rows(play: Play) -> Shaped[np.ndarray, "steps O"]:
    rows = np.stack([obs for played in play.episodes for obs in played.obs])
    return rows.reshape(-1, play.spec.obs_size)


def observes(play: Play) -> Iterator[Finding]:
    """Each number tells something, with all of its digits."""
    rows = _rows(play)
    if len(rows) <= 20:
        return
    values = rows.astype(float)
    spread, largest = np.ptp(values, axis=0), np.abs(values).max(axis=0)
    if rows.dtype in (np.float16, np.float32):
        steps = np.spacing(largest.astype(rows.dtype)).astype(float)  # between neighbors of this size
        coarse = np.flatnonzero(
            np.where(spread > 0, spread / steps < LEVELS, (steps > 1) & (largest >= WHOLE_FLOAT32))
        )
        if len(coarse):
            yield _imprecise(rows.dtype, values, steps, coarse)
            spread[coarse] = np.inf
    dead = np.flatnonzero(spread == 0)
    if len(dead) and not _is_picture(play):
        yield Finding(
            "constant-observation",
            "note",
            f"{len(dead)} of {play.spec.obs_size} observed numbers never changed: {_list(dead)}",
            "They cost time and tell nothing; one that changes later will then stand far out.",
            "leave them out",
        )


def _imprecise(dtype: np.dtype, values: np.ndarray, steps: np.ndarray, coarse: np.ndarray) -> Finding:
    first = coarse[0]
    low, high = values[:, first].min(), values[:, first].max()
    return Finding(
        "observation-precision",
        "warning",
        f"observed number {_list(coarse)} lies between {low:,.10g} and {high:,.10g}, where one {dtype} is "
        f"{steps[first]:g} from the next",
        "Most of its digits are lost before the agent sees it.",
        "subtract a constant before the conversion: the time since the start of the episode, the "
        "distance to a "
        "place nearby; or observe float64",
    )


def rewards(play: Play) -> Iterator[Finding]:
    """There is something to learn, and its size is usable."""
    values = np.array([r for played in play.episodes for r in played.reward])
    if np.ptp(values) == 0:
        finding = _constant(play, float(values[0]), len(values))
        if finding is not None:
            yield finding
    elif np.median(values) == 0 and (share := float(np.mean(values != 0))) < SPARSE:
        yield Finding(
            "reward-sparse",
            "note",
            f"{share:.2%} of the rewards were not 0",
            "Learning needs many steps before it sees what is good.",
            "a larger budget, or a reward for what comes near the goal",
        )
    elif (share := _share_at_end(play)) is not None:
        yield Finding(
            "reward-at-end",
            "note",
            f"{share:.0%} of the rewards that were not 0 came with the last step of an episode",
            "Which of many actions earned it is learned slowly.",
            "a larger budget, or a reward for each part that is done",
        )
    largest = float(np.max(np.abs(values)))
    if largest > LARGE or 0 < largest < SMALL:
        yield Finding(
            "reward-size",
            "note",
            f"the largest reward was {largest:.3g} in size",
            "poise scales rewards by the deviation of the return; with --normalize.no-reward this would not "
            "train.",
            "give rewards a size of about 1",
        )


def _constant(play: Play, value: float, count: int) -> Finding | None:
    """A constant reward for each step teaches where episodes differ in length."""
    ended = [played for played in play.episodes if played.ended]
    lengths = {played.length for played in ended}
    if value and len(lengths) > 1:
        return None
    # a price of each step until a goal, which random play did not reach
    until_goal = value < 0 and bool(ended) and all(played.truncated for played in ended)
    return Finding(
        "reward-constant",
        "note" if until_goal else "warning",
        f"each of {count:,} rewards was {value:g}"
        + (f", in episodes of {lengths.pop():,} steps" if value and lengths else ""),
        "Random play finds nothing that is better than anything else. Learning begins where it does.",
        "reward what comes near the goal, too, or begin episodes near it",
    )


def _share_at_end(play: Play) -> float | None:
    """Of the rewards that are not 0; None where episodes are short or too few of them came last."""
    ended = [played for played in play.random_play if played.ended]
    if len(ended) < 3 or np.median([played.length for played in ended]) < LONG_EPISODE:
        return None
    given = sum(np.count_nonzero(played.reward) for played in ended)
    last = sum(played.reward[-1] != 0 for played in ended)
    return last / given if given and last / given >= AT_END else None


def acts(play: Play) -> Iterator[Finding]:
    """What is done matters: somewhere, some other action leads elsewhere."""
    if not play.repeatable or not np.all(np.array(play.spec.action_low) < play.spec.action_high):
        return  # differences then have another cause
    compared, for_reward, whole, moved = 0, 0, 0, False
    with play.within(play.seconds):
        for one, two in _pairs(play):
            step = differs_at(one, two)
            moved |= step is not None
            if rewards_differ(one, two):
                return
            both = min(one.length, two.length)
            compared += both
            whole += one.ended and two.ended
            if step is not None and np.ptp(one.reward[step:both] or [0.0]) > 0:
                for_reward += both - step
            if compared > ENOUGH_COMPARED:
                break
    if not moved and (compared >= COMPARED or whole >= 4):
        yield from _ignored(play, compared)
    elif for_reward >= COMPARED_FOR_REWARD:
        yield Finding(
            "reward-ignores-action",
            "warning",
            f"in {for_reward:,} steps other actions led to other observations, and to the very same "
            f"rewards and "
            "ends",
            "Nothing can be learned where the reward does not depend on what is done.",
            "compute the reward from the state after the step",
        )


def _pairs(play: Play) -> Iterator[tuple[Played, Played]]:
    """Episodes of random play, each beside such of the same seed with other actions."""
    for one in play.random_play:
        for two in _alternatives(play, one):
            yield one, two
            if play.late:
                return


def _alternatives(play: Play, one: Played) -> Iterator[Played]:
    """The same seed with other actions."""
    seed = one.seed
    yield play.play("other", seed, play.random(seed + 1000), most=STICKY_STEPS)
    yield play.play("other", seed, play.sticky(seed + 1000), most=STICKY_STEPS)
    if play.spec.discrete:
        choices = np.linspace(0, play.spec.action_size - 1, min(CHOICES, play.spec.action_size)).round()
        held = [play.held(int(choice)) for choice in choices]
    else:
        held = [play.held(play.end(side)) for side in (-1.0, 1.0)]
    for choose in held:
        yield play.play("other", seed, choose, most=STICKY_STEPS)


def _ignored(play: Play, compared: int) -> Iterator[Finding]:
    if not all(play.spec.scaled) and _far_actions_matter(play):
        return  # said by ``sizes``
    yield Finding(
        "action-ignored",
        "error",
        f"{compared:,} steps went the same way whatever was done",
        "Nothing can be learned where actions change neither observations nor rewards.",
        "use the action in outcome, or see that an actuator moves what is observed"
        if play.own
        else "use the action in step",
    )


def sizes(play: Play) -> Iterator[Finding]:
    """Where an action has no bounds, those of size 1, which a policy begins with, are of use."""
    if all(play.spec.scaled) or not play.repeatable:
        return
    free = np.flatnonzero(~np.array(play.spec.scaled))
    with play.within(play.seconds):
        best = [size for size in (_best_size(play, seed) for seed in range(PROBES)) if size is not None]
    far = [size for size in best if size >= FAR]
    if len(best) >= 4 and len(far) > len(best) / 2:
        seen = f"the best of the actions tried had a size of about {np.median(far):g}"
    elif _far_actions_matter(play):
        seen = f"only sizes of {FAR:g} and more changed anything"
    else:
        return
    yield Finding(
        "action-size",
        "warning",
        f"action {_list(free)} has no bounds, and {seen}",
        "A policy begins with actions of a size of about 1, and takes long to find those that are much "
        "larger.",
        "give the action space bounds, which the agent's [-1, 1] is rescaled to; or multiply the action in "
        + ("the MJCF file (gear)" if play.own else "step"),
    )


def _probe(play: Play, seed: int, size: float, rng_seed: int) -> Played:
    """A direction of all dimensions, held with this size; those with bounds stay in the middle."""
    signs = np.random.default_rng((seed, rng_seed)).choice([-1.0, 1.0], play.spec.action_size)
    action = play.in_units(np.zeros(play.spec.action_size), size * signs)
    return play.play("probe", seed, play.held(action), most=PROBE_STEPS)


def _best_size(play: Play, seed: int) -> float | None:
    """Of the sizes of held actions the one with the best return after a step, or later; None: all are "
    "alike."""
    probes = {size: [_probe(play, seed, size, k) for k in range(4)] for size in SIZES}
    for steps in (1, PROBE_STEPS):
        returns = {size: max(sum(p.reward[:steps]) for p in played) for size, played in probes.items()}
        best = max(returns.values())
        usual = [value for size, value in returns.items() if size <= USUAL]
        # what the usual sizes can do, seen beside what the better one gains
        if best - max(usual) > max(usual) - min(usual) and best > max(usual):
            return next(size for size, value in returns.items() if value == best)
    return 1.0 if len({tuple(p.reward) for played in probes.values() for p in played}) > 1 else None


def _far_actions_matter(play: Play) -> bool:
    """Whether sizes below FAR change nothing, and those from it on do."""

    def matter(seed: int, sizes: list[float]) -> bool:
        still = _probe(play, seed, 0.0, 0)
        probes = (_probe(play, seed, size, k) for size in sizes for k in range(4))
        return any(differs_at(still, probe) is not None for probe in probes)

    near, far = [s for s in SIZES if 0 < s < FAR], [s for s in SIZES if s >= FAR]
    with play.within(play.seconds):
        return not any(matter(seed, near) for seed in (0, 1)) and any(matter(seed, far) for seed in (0, 1))


def ends(play: Play) -> Iterator[Finding]:
    """Episodes end, and for the reason that is given."""
    limit = play.spec.time_limit
    done = [played for played in play.episodes if played.ended]
    longest = max(played.length for played in play.episodes)
    if not done and limit is None:
        longest, over = _beyond(play, longest)
        if not over:
            yield _endless(longest)
    alike = len(done) > 3 and len({played.length for played in done}) == 1
    alike = alike and longest > 1 and all(played.terminated for played in done)
    if alike and not _time_is_seen(play.random_play):
        yield _limit_as_termination(play, len(done), longest)
    horizon = 1 / (1 - defaults.gamma(limit))
    if limit is None and longest > LONG * horizon:
        yield Finding(
            "no-time-limit",
            "note",
            f"no time limit is declared, so the discount is {defaults.GAMMA_UNLIMITED:g}, a horizon of "
            f"{horizon:.0f} steps; an episode lasted {longest:,}",
            "What lies farther ahead counts little.",
            ("set time_limit in the task" if play.own else "declare max_episode_steps")
            + ", or give the discount: --ppo.gamma 0.997",
        )


def _limit_as_termination(play: Play, episodes: int, steps: int) -> Finding:
    return Finding(
        "limit-as-termination",
        "warning",
        f"all of {episodes} episodes, with different actions, were terminated at step {steps:,}",
        "That is what a time limit looks like. Terminated says that nothing comes after: the value "
        "function then learns that the world ends there, without seeing when.",
        "set time_limit in the task in its place"
        if play.own
        else "return truncated=True in its place, or register the environment with max_episode_steps; or "
        "observe how many steps are left",
    )


def _beyond(play: Play, longest: int) -> tuple[int, bool]:
    """An episode for as long as the score would play it: its length, and whether it ended."""
    if longest < play.most:  # there was no time for more
        return longest, False
    play.doing("an episode was played on")
    choose, steps = play.random(0), 0
    with play.within(play.seconds / 2):
        play.env.reset(seed=0)
        while steps < LONGEST and not play.late:
            _, _, terminated, truncated, _ = play.env.step(choose(steps))
            steps += 1
            if terminated or truncated:
                return steps, True
    return max(longest, steps), False


def _endless(longest: int) -> Finding:
    sure = longest >= SURE_OF_NO_END
    return Finding(
        "never-ends" if sure else "no-end-seen",
        "warning" if sure else "note",
        f"no episode ended in {longest:,} steps, and there is no time limit",
        "Where no episode ends, no return is known and the starts are not practised. The score plays "
        "each of its "
        f"episodes for {LONGEST:,} steps."
        if sure
        else "That is all there was time for. Where no episode ends, the score plays each for "
        f"{LONGEST:,} steps.",
        "give it a time limit: gymnasium.register(..., max_episode_steps=N), or time_limit of a Task",
    )


def _time_is_seen(episodes: list[Played]) -> bool:
    """Whether observations say how far the episode is: a linear function of half of them, tried on the "
    "others."""
    halves = [
        (
            np.concatenate([np.stack(p.obs).reshape(p.length + 1, -1) for p in half]).astype(float),
            np.concatenate([np.arange(p.length + 1.0) for p in half]),
        )
        for half in (episodes[::2], episodes[1::2])
    ]
    (rows, steps), (others, wanted) = halves
    center, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-12
    rows, others = (rows - center) / scale, (others - center) / scale
    if rows.shape[1] > MOST_COLUMNS:  # sums of all of them hold as much
        mixed = np.random.default_rng(0).normal(size=(rows.shape[1], MOST_COLUMNS)) / np.sqrt(rows.shape[1])
        rows, others = rows @ mixed, others @ mixed
    rows, others = (np.c_[r, np.ones(len(r))] for r in (rows, others))
    weights = np.linalg.solve(rows.T @ rows + 1e-3 * np.eye(rows.shape[1]), rows.T @ steps)
    return bool(np.var(wanted - others @ weights) < (1 - SEEN_TIME) * np.var(wanted))


def _list(places: np.ndarray) -> str:
    return ", ".join(str(i) for i in places[:10]) + (", ..." if len(places) > 10 else "")


Rule = Callable[[Play], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    pictures,
    bounds,
    plays,
    normalizes,
    repeats,
    starts,
    aliases,
    declares,
    observes,
    rewards,
    acts,
    sizes,
    ends,
)
