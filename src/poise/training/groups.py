"""Groups of environments that are collected independently, in this process or in others, with the same bits.

The last bit of a matrix product depends on its shape. So each group has a fixed share of the environments,
and its own seeds and noise, wherever it is collected.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.arrays import ArraysError, part, prefixed
from poise.checked import ConfigError
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.native.vector import NativeEnv
from poise.spec import Spec
from poise.training.collector import Collected, Collector, Group
from poise.training.compiled import NativeCollector
from poise.training.host import HostCollector


def groups(config: Config) -> list[Group]:
    """``config.env_groups`` groups; their sizes differ by at most one environment."""
    # These bounds decide seeds, noise and array shapes, and so the bits: they never change.
    total, count = config.shape[1], config.env_groups
    firsts = [i * total // count for i in range(count + 1)]
    return [Group(i, firsts[i], firsts[i + 1] - firsts[i], total) for i in range(count)]


def collected_groups(config: Config, *, in_jax: bool) -> list[Group]:
    """The groups that are made and collected on their own. Environments in JAX are made together."""
    if not in_jax:
        return groups(config)
    check_native_groups(config)
    return [Group(0, 0, config.shape[1], config.shape[1])]


def check_native_groups(config: Config) -> None:
    """Groups of environments that are compiled together with the networks.

    Raises:
        ConfigError: the environments cannot be shared equally.
    """
    groups, num_envs = config.env_groups, config.shape[1]
    if num_envs % groups:
        raise ConfigError(f"env_groups = {groups}: must divide {num_envs}, the environments")


def check_native_minibatch(config: Config, spec: Spec) -> None:
    """Each group learns on its own items of a minibatch.

    Raises:
        ConfigError: they cannot be shared equally.
    """
    groups, length = config.env_groups, config.sequence_length(spec) or 1
    if max(1, config.minibatch_size // length) % groups:
        what = "rows" if length == 1 else f"rows: sequences of {length} steps"
        raise ConfigError(
            f"env_groups = {groups}: a minibatch of {config.minibatch_size} {what} cannot be shared equally; "
            f"ppo.minibatch_size must be a multiple of {groups * length}"
        )


def check_together(together: int, config: Config) -> None:
    """Trainings that are one program have no groups.

    Raises:
        ConfigError: they have.
    """
    if together > 1 and config.env_groups > 1:
        raise ConfigError(
            f"together = {together}: must be 1 with env_groups = {config.env_groups}, which are a program of "
            "their own"
        )


def check_worlds(env: object) -> None:
    """Checks that ``env`` is what ``poise.make`` returns, or a list of such.

    Raises:
        ConfigError: it is something else.
    """
    for each in env if isinstance(env, list | tuple) else [env]:
        if not isinstance(each, VectorEnv):
            raise ConfigError(
                f"env is {type(each).__name__}; it must be what poise.make returns: "
                'poise.make("CartPole-v1", 16)'
            )


def make_collector(env: VectorEnv | Sequence[VectorEnv], config: Config) -> Collector:
    """The collector for the environment, or for one environment per group.

    Raises:
        ConfigError: their number or sizes differ from ``config``.
    """
    check_worlds(env)
    worlds = [env] if isinstance(env, VectorEnv) else list(env)
    in_jax = bool(worlds) and isinstance(worlds[0], NativeEnv)
    places = collected_groups(config, in_jax=in_jax)
    sizes, wanted = [each.num_envs for each in worlds], [place.num_envs for place in places]
    if sizes != wanted:
        has, should = (" + ".join(map(str, numbers)) for numbers in (sizes, wanted))
        of = f" in {len(wanted)} groups of {should}" if len(wanted) > 1 else ""
        raise ConfigError(f"num_envs = {config.shape[1]}{of}: the environment given has {has}")
    if isinstance(worlds[0], NativeEnv):
        return NativeCollector(worlds[0], config)
    collectors = [HostCollector(world, config, place) for world, place in zip(worlds, places, strict=True)]
    return collectors[0] if len(collectors) == 1 else GroupsCollector(collectors)


class GroupsCollector:
    """Several groups, one after another in this process."""

    def __init__(self, parts: Sequence[Collector]):
        self._parts = parts
        self.spec, self.num_envs = parts[0].spec, sum(part.num_envs for part in parts)
        self.backend = f"{parts[0].backend}, {len(parts)} groups"

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        return merged([each.collect(policy, normalizer, iteration) for each in self._parts])

    def snapshot(self) -> dict[str, Any] | None:
        return joined_worlds([each.snapshot() for each in self._parts])

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        worlds = parted_worlds(arrays, len(self._parts))
        exact = [each.restore(world) for each, world in zip(self._parts, worlds, strict=True)]
        return all(exact)

    def close(self) -> None:
        for each in self._parts:
            each.close()


def merged(parts: Sequence[Collected]) -> Collected:
    """The rollouts of all groups side by side, and their episodes in the order of their ends."""
    if len(parts) == 1:
        return parts[0]
    rollouts = [c.rollout for c in parts]
    # axis 1 is that of the environments, [T, N], but for carries: [N, S]
    rows = [dataclasses.replace(rollout, carry=None) for rollout in rollouts]
    rollout = jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=1), *rows)
    carries = [rollout.carry for rollout in rollouts if rollout.carry is not None]
    if carries:
        rollout = dataclasses.replace(rollout, carry=np.concatenate(carries))
    episodes = sorted((e for c in parts for e in c.episodes), key=lambda e: (e.step, e.env))
    times = [c.physics_seconds for c in parts]
    physics = None if None in times else sum(t for t in times if t is not None)
    crashes = tuple(crash for c in parts for crash in c.crashes)
    notes = tuple(note for c in parts for note in c.notes)
    return Collected(rollout, episodes, physics, crashes, notes, all(c.exact for c in parts))


def joined_worlds(worlds: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The snapshots of all groups as one; None if a group has none."""
    # a single group keeps its names, as in checkpoints from before there were groups
    if len(worlds) == 1 or None in worlds:
        return worlds[0] if len(worlds) == 1 else None
    joined: dict[str, Any] = {}
    for i, world in enumerate(worlds):
        joined |= prefixed(f"shard.{i}", world or {})  # the groups' name when the format was made
    return joined


def parted_worlds(arrays: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The snapshots that ``joined_worlds`` joined.

    Raises:
        ArraysError: they are of another number of groups.
    """
    if count == 1:
        return [dict(arrays)]
    worlds = [part(f"shard.{i}", arrays) for i in range(count)]
    if sum(map(len, worlds)) != len(arrays) or not all(worlds):
        raise ArraysError(f"the world is not of {count} groups")
    return worlds
