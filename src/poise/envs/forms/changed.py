"""An object that was changed after ``gymnasium.make`` made it: a second one would not have the change."""

import copy
import json
import time
import warnings
from contextlib import suppress
from inspect import getattr_static
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from poise.envs.forms.text import MOST_VALUES, as_json_values
from poise.envs.mujoco_warnings import hear_mujoco
from poise.envs.vector import EnvError

SEEDS = 9_731, 4_057  # that no constructor is likely to have as its default
MOST_STEPS, MOST_SECONDS = 100, 1.0  # of each episode that is played


class Setting(NamedTuple):
    """An attribute that a new environment has, and what the given one has in its place."""

    name: str
    usual: Any
    given: Any


def refuse_changed(env: gym.Env, spec: EnvSpec) -> None:
    """Refuses an environment with a setting that a new one does not have.

    Only what is certain: an attribute that two new ones have alike, and that resets, steps and ``close`` do
    not change. Where one cannot be made or played here, nothing is said; nor of one that has opened a window.

    Raises:
        EnvError: names the attribute.
    """
    if spec.kwargs.get("render_mode") == "human":
        return
    changed = None
    with suppress(Exception, SystemExit), warnings.catch_warnings():  # training on it says what is wrong
        warnings.simplefilter("ignore")
        changed = _find_changed(env, spec)
    if changed is not None:
        kind, (name, usual, given) = type(env.unwrapped).__name__, changed
        raise EnvError(
            f"env is an object ({kind}) whose {name} is {given!r:.60} where a new one has {usual!r:.60}, and "
            "training makes new ones: give env_kwargs, or a function that makes the environment so"
        )


def _find_changed(env: gym.Env, spec: EnvSpec) -> Setting | None:
    """The first setting that differs from that of a new environment. Only where one may, it is played."""
    used = _new(spec)
    try:
        differing = _differences(env, used)
        if not differing:
            return None
        _play(used)
    finally:
        used.close()
    other = _new(spec)
    try:
        of_use = {each.name for each in _differences(used, other)}
        constant = {each.name: each.usual for each in _differences(env, other)}
    finally:
        other.close()
    return next((x for x in differing if x.name not in of_use and constant.get(x.name) == x.usual), None)


def _new(spec: EnvSpec) -> gym.Env:
    hear_mujoco()
    limit = -1 if spec.max_episode_steps is None else spec.max_episode_steps
    return gym.make(spec.id, max_episode_steps=limit, **copy.deepcopy(spec.kwargs))


def _play(env: gym.Env) -> None:
    """Two episodes of random actions, or their beginning."""
    for seed in SEEDS:
        env.action_space.seed(seed)
        env.reset(seed=seed)
        end = time.monotonic() + MOST_SECONDS
        for _ in range(MOST_STEPS):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated or time.monotonic() > end:
                break


def _differences(env: gym.Env, new: gym.Env) -> list[Setting]:
    """The plain attributes of ``new`` in whose place ``env`` has another plain value of its own."""
    found = []
    for name, given in vars(env.unwrapped).items():
        one, other = _plain(given), _plain(getattr_static(new.unwrapped, name, None))
        if name != "render_mode" and None not in (one, other) and not _same(one, other):
            found.append(Setting(name, other, one))
    return found


def _plain(value: Any) -> Any:
    """A number, text, or a small array or collection of these as JSON has it; None of anything else."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size <= MOST_VALUES else None
    try:
        return as_json_values({"value": value}, "value")["value"]
    except EnvError:
        return None


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, where NaN is equal to NaN."""
    return one == other or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
