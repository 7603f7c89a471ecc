"""Rules about whole episodes: the same again for the same seed, different starts, and the right ends."""

import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from poise import defaults
from poise.agents.evaluation import LONGEST
from poise.health.findings import Finding
from poise.health.probing import STICKY_STEPS, Choose, Play, PlayedEpisode, as_bytes, first_difference

EPISODES = 400  # of random play, at most
STICKY_EPISODES = 4  # at least
REPEATED, REPEATED_STEPS = 3, 500  # episodes and steps that are played again, at least
LONG = 3.0  # an episode of more horizons than this is long
SURE_OF_NO_END = 1000  # steps without an end from which on none is expected
MOST_COLUMNS = 300  # of observations in a linear fit
SEEN_TIME = 0.9  # share of the variance of the step number that observations explain


def play_episodes(play: Play) -> Iterator[Finding]:
    """Play the episodes that other rules read: random, repeated and extreme actions. Yields no finding."""
    total, start = 0, time.perf_counter()
    for seed in range(EPISODES):
        left = play.seconds - (time.perf_counter() - start)
        if total >= play.max_steps or left <= 0:
            break
        with play.limit_time(left / 2):  # in a slow environment the first episode would take all the time
            play.random_episodes.append(play.play("random", seed, play.random(seed)))
        total += play.random_episodes[-1].length
    with play.limit_time(play.seconds / 2):
        for kind, seed, choose in _other_actions(play):
            if play.time_is_up:
                break
            play.other_episodes.append(play.play(kind, seed, choose, limit=STICKY_STEPS))
    yield from ()


def _other_actions(play: Play) -> Iterator[tuple[str, int, Choose]]:
    """Repeated actions until there are enough steps, then both ends of the range held."""
    seed = 0
    while seed < STICKY_EPISODES or sum(e.length for e in play.other_episodes) < STICKY_STEPS:
        yield "sticky", seed, play.sticky(seed)
        seed += 1
        if seed == EPISODES:
            break
    if play.spec.boxes:
        for side in (-1.0, 1.0):
            yield "end", 0, play.hold(play.extreme(side))


def check_running_statistics(play: Play) -> Iterator[Finding]:
    """The environment keeps no running statistics over a reset."""
    seed = play.random_episodes[0].seed
    for env in (play.env, play.other):
        env.reset(seed=seed)
    for used, fresh in zip(_layers(play.env), _layers(play.other), strict=False):
        for name, statistics in _statistics(used).items():
            fresh_statistics = _statistics(fresh).get(name)
            if fresh_statistics is None or _equal(statistics, fresh_statistics):
                continue
            play.repeatable = False
            yield Finding(
                "normalized-inside",
                "warning",
                f"{type(used).__name__} keeps running statistics ({name}) that a reset does not clear",
                "Each environment has statistics of its own. The score, an exported agent and a resumed "
                "training lack those that the agent was trained with.",
                "remove them: poise normalizes observations and rewards itself, and saves the statistics "
                "with the agent",
            )
            return


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _statistics(env: gym.Env) -> dict[str, Any]:
    """Attributes with a mean, a variance and an update method, as such classes usually have."""
    attributes = getattr(env, "__dict__", {})
    return {
        name: value
        for name, value in attributes.items()
        if hasattr(value, "mean") and hasattr(value, "var") and callable(getattr(value, "update", None))
    }


def _equal(first: Any, second: Any) -> bool:
    return all(
        np.array_equal(np.asarray(getattr(first, n)), np.asarray(getattr(second, n))) for n in ("mean", "var")
    )


def check_repeatable(play: Play) -> Iterator[Finding]:
    """The same seed and the same actions give the same result, in this instance and in another."""
    if not play.repeatable:
        return
    with play.limit_time(play.seconds):
        for episode, other in _episodes_to_repeat(play):
            step = first_difference(episode, play.repeat(episode, other=other, limit=STICKY_STEPS))
            if step is not None:
                play.repeatable = False
                yield _not_repeatable(play, episode.seed, step, other=other)
                return


def _episodes_to_repeat(play: Play) -> Iterator[tuple[PlayedEpisode, bool]]:
    """Random episodes, each once for this instance and once for the other (True)."""
    steps = 0
    for count, episode in enumerate(play.random_episodes):
        if play.time_is_up or (count >= REPEATED and steps >= REPEATED_STEPS):
            return
        steps += episode.length
        yield episode, False
        yield episode, True


def _not_repeatable(play: Play, seed: int, step: int, *, other: bool) -> Finding:
    return Finding(
        "not-repeatable",
        "warning",
        f"seed {seed} with the same actions gave another result at step {step}"
        + (" in another instance" if other else " the second time"),
        "Two trainings with the same seed differ, and a stopped training cannot resume exactly.",
        play.advice(
            gymnasium="draw everything from self.np_random, which reset(seed=...) seeds, and reset all state "
            "in reset",
            task="draw only from the rng that draw(), vary() and place() are given, and in observe(self, "
            "batch, noise) from noise; compute observe and outcome from the batch alone, keep no state in "
            "the task, and name in derived the fields that only outcome reads",
            jax="draw everything from key with jax.random, and keep everything that changes in the state",
        ),
    )


def check_starts(play: Play) -> Iterator[Finding]:
    """Different seeds give different starts."""
    starts = {tuple(as_bytes(episode.obs[0])) for episode in play.random_episodes}
    if len(starts) == 1 and len(play.random_episodes) > 3:
        yield Finding(
            "one-start",
            "note",
            "every episode began with the same observation",
            "The agent learns this start alone. If nothing else is random, all episodes of its score are the "
            "same.",
            "vary the start a little in "
            + play.advice(
                gymnasium="reset, with self.np_random",
                task="draw(), with the rng that it is given",
                jax="reset, with numbers drawn from key",
            ),
        )


def check_ends(play: Play) -> Iterator[Finding]:
    """Episodes end, and report the right reason: terminated or truncated."""
    limit = play.spec.time_limit
    ended = [episode for episode in play.episodes if episode.ended]
    longest = max(episode.length for episode in play.episodes)
    if not ended and limit is None:
        longest, ends = _play_on(play, longest)
        if not ends:
            yield _no_end(longest)
    alike = len(ended) > 3 and len({episode.length for episode in ended}) == 1
    alike = alike and longest > 1 and all(episode.terminated for episode in ended)
    if alike and not _time_is_observed(play.random_episodes):
        yield _limit_as_termination(play, len(ended), longest)
    horizon = 1 / (1 - defaults.gamma(limit))
    if limit is None and longest > LONG * horizon:
        yield Finding(
            "no-time-limit",
            "note",
            f"no time limit is declared, so the discount is {defaults.GAMMA_UNLIMITED:g}, a horizon of "
            f"{horizon:.0f} steps; an episode lasted {longest:,}",
            "Rewards farther ahead than the horizon count little.",
            play.advice(
                gymnasium="declare max_episode_steps",
                task="set time_limit in the task",
                jax="set time_limit in the class",
            )
            + ", or set the discount: --ppo.gamma 0.997",
        )


def _limit_as_termination(play: Play, episodes: int, steps: int) -> Finding:
    return Finding(
        "limit-as-termination",
        "warning",
        f"all {episodes} episodes, with different actions, were terminated at step {steps:,}",
        "This looks like a time limit. terminated says that nothing comes after: the value function learns "
        "that the world ends there, without seeing when.",
        play.advice(
            gymnasium="return truncated=True instead, or register the environment with max_episode_steps; or "
            "observe how many steps are left",
            task="set time_limit in the task instead",
            jax="set time_limit in the class instead",
        ),
    )


def _play_on(play: Play, longest: int) -> tuple[int, bool]:
    """Play an episode as long as the score would: its length, and whether it ended."""
    if longest < play.max_steps:  # there was no time for more
        return longest, False
    play.doing("playing a long episode")
    choose, steps = play.random(0), 0
    with play.limit_time(play.seconds / 2):
        obs, _ = play.env.reset(seed=0)
        while steps < LONGEST and not play.time_is_up:
            mask = play.mask_of(play.named(obs))
            obs, _, terminated, truncated, _ = play.env.step(choose(steps, mask))
            steps += 1
            if terminated or truncated:
                return steps, True
    return max(longest, steps), False


def _no_end(longest: int) -> Finding:
    sure = longest >= SURE_OF_NO_END
    consequence = (
        f"Without an end there is no return, and the score plays each episode for {LONGEST:,} steps."
    )
    return Finding(
        "never-ends" if sure else "no-end-seen",
        "warning" if sure else "note",
        f"no episode ended in {longest:,} steps, and there is no time limit",
        f"{consequence} The agent does not practice the start."
        if sure
        else f"There was no time to play longer. {consequence}",
        "give it a time limit: gymnasium.register(..., max_episode_steps=N), or time_limit of a Task",
    )


def _time_is_observed(episodes: list[PlayedEpisode]) -> bool:
    """Whether observations tell the step number: a linear fit on half of the episodes predicts the others."""
    halves = [
        (np.concatenate([_rows(e) for e in half]), np.concatenate([np.arange(e.length + 1.0) for e in half]))
        for half in (episodes[::2], episodes[1::2])
    ]
    (rows, steps), (test_rows, test_steps) = halves
    center, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-12
    rows, test_rows = (rows - center) / scale, (test_rows - center) / scale
    if rows.shape[1] > MOST_COLUMNS:  # random projections keep enough
        mix = np.random.default_rng(0).normal(size=(rows.shape[1], MOST_COLUMNS)) / np.sqrt(rows.shape[1])
        rows, test_rows = rows @ mix, test_rows @ mix
    rows, test_rows = (np.c_[r, np.ones(len(r))] for r in (rows, test_rows))
    weights = np.linalg.solve(rows.T @ rows + 1e-3 * np.eye(rows.shape[1]), rows.T @ steps)
    return bool(np.var(test_steps - test_rows @ weights) < (1 - SEEN_TIME) * np.var(test_steps))


def _rows(episode: PlayedEpisode) -> Float[np.ndarray, "steps numbers"]:
    """All numbers of each observation of an episode, also pixels and flags, in a row."""
    return np.stack(
        [np.concatenate([array.ravel() for array in obs.values()]) for obs in episode.obs]
    ).astype(float)
