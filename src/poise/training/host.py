"""Collects rollouts from environments on the host, with the policy in NumPy."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.arrays import ArraysError, fitted, part, prefixed
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.checking import Crash, EnvFault
from poise.envs.vector import Restorable, Restored, usual_dtype
from poise.seeds import Stream, episode_seed
from poise.system.threads import one_blas_thread
from poise.training.acting import ActionScale, Actor, quiet
from poise.training.collector import Collected, Shard
from poise.training.episodes import Ledger, check_numbers, first_lengths
from poise.types import Rollout


@runtime_checkable
class Rebuildable(Protocol):
    """An environment that can be made again after a fault, each of the N where it was."""

    def rebuild(self, fault: EnvFault) -> Restored: ...


def _copied(obs: np.ndarray) -> Float[np.ndarray, "N O"]:
    """A copy that no step of the environment changes, with all of the digits that it has."""
    return obs.astype(usual_dtype(obs.dtype))


MOST_CRASHES = 3  # in one rollout


class HostCollector:
    """Steps a vector environment and acts in NumPy. One array goes to the environment each step.

    ``shard``: which of all environments these are; None: they are all.
    """

    def __init__(self, env: VectorEnv, config: Config, shard: Shard | None = None):
        shard = shard or Shard(0, 0, env.num_envs, env.num_envs)
        self._env, self._config, self._shard = env, config, shard
        self.spec, self.num_envs, self.backend = env.spec, env.num_envs, env.backend
        self._scale = ActionScale(env.spec, normalize=config.normalize.action)
        self._ledger = Ledger(shard)
        self._obs = np.zeros(
            (env.num_envs, env.spec.obs_size)
        )  # float32 or float64, as the environment's are
        lengths = first_lengths(config, env.spec, shard.total)
        self._first = None if lengths is None else lengths[shard.first :][: shard.num_envs]
        self._crashes: list[Crash] = []
        self._notes: list[str] = []
        self._exact = True  # whether nothing failed since the last rollout
        self._whole = np.ones((0, env.num_envs), bool)  # of the rollout under way: see Ledger.account

    @one_blas_thread()
    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        env, spec, num_steps = self._env, self._env.spec, self._config.shape[0]
        actor = Actor(policy, normalizer, self._config.normalize)
        shape = (num_steps, env.num_envs)
        noise = self._noise((*shape, spec.action_size), iteration)
        self._crashes = []
        if iteration == 0 or self._config.ppo.reset_every_rollout:
            self._ledger.drop()
            self._begin(np.ones(env.num_envs, bool), None, 0)
        obs = np.empty((*shape, spec.obs_size), self._obs.dtype)
        action = np.empty(shape, np.int32) if spec.discrete else np.empty_like(noise)
        reward, index = np.empty(shape, np.float64), np.empty(shape, np.int64)
        rollout = Rollout(
            obs, action, reward, np.empty_like(obs), np.empty(shape, bool), np.empty(shape, bool)
        )
        next_obs, terminated, truncated = rollout.next_obs, rollout.terminated, rollout.truncated
        self._whole = whole = np.ones(shape, bool)

        physics, t = 0.0, 0
        while t < num_steps:
            index[t] = self._ledger.index
            obs[t] = self._obs
            with quiet():
                chosen = actor.act(self._obs, noise[t])
                given = self._scale(chosen)
            action[t] = chosen
            if np.count_nonzero(np.isfinite(chosen)) < chosen.size:
                reward[t], next_obs[t] = 0, 0
                so_far = jax.tree.map(lambda x, end=t + 1: x[:end], rollout)
                self._check(so_far, index[: t + 1])
            begun = time.perf_counter()
            try:
                next_obs[t], reward[t], terminated[t], truncated[t] = env.step(given)
            except EnvFault as fault:
                self._recover(fault, rollout, t, self._obs)
                continue
            if self._first is not None:
                first = (self._ledger.index == 0) & (iteration * num_steps + t + 1 == self._first)
                whole[t] = ~first | terminated[t] | truncated[t]
                truncated[t] |= ~whole[t]
            self._obs = next_obs[t]
            done = terminated[t] | truncated[t]
            t += 1
            if np.count_nonzero(done):
                self._begin(done, rollout, t)
            physics += time.perf_counter() - begun
        self._check(rollout, index)
        episodes = self._ledger.account(index, reward, terminated, truncated, whole)
        rollout = dataclasses.replace(rollout, reward=reward.astype(np.float32))
        notes, self._notes = tuple(self._notes), []
        exact, self._exact = self._exact, True
        return Collected(rollout, episodes, physics, tuple(self._crashes), notes, exact)

    def _begin(self, mask: np.ndarray, rollout: Rollout | None, num_rows: int) -> None:
        """New episodes, after so many rows of the rollout."""
        index = self._ledger.index
        index[mask] += 1
        seed, first = self._config.seed, self._shard.first
        chosen = np.flatnonzero(mask).tolist()
        seeds = [episode_seed(seed, Stream.TRAINING, first + n, int(index[n])) for n in chosen]
        try:
            self._obs = _copied(self._env.reset(mask, seeds))
        except EnvFault as fault:
            self._recover(fault, rollout, num_rows, None)

    def _recover(
        self, fault: EnvFault, rollout: Rollout | None, num_rows: int, obs: np.ndarray | None
    ) -> None:
        """Has the environment that failed begin its next episode, the others go on from where they were.

        ``obs``: where that was, None where it is not known. The last row of an episode that cannot go on
        is marked truncated, and the episode is not listed: its return is not that of a whole one. One without
        a row is forgotten.

        Raises:
            EnvFault: ``fault`` itself, where nothing can be made again or too much failed.
        """
        if not isinstance(self._env, Rebuildable) or len(self._crashes) == MOST_CRASHES:
            raise fault
        restored = self._env.rebuild(fault)
        self._exact = False
        if fault.crash is not None:
            self._crashes.append(fault.crash)
        self._obs = _copied(restored.obs)
        lost = ~restored.exact
        if obs is not None:
            lost |= (self._obs != obs).any(axis=1)
        if rollout is not None and num_rows:
            last = num_rows - 1
            cut = lost & ~rollout.terminated[last] & ~rollout.truncated[last]
            rollout.truncated[last] |= cut
            self._whole[last] &= ~cut
        else:
            self._ledger.drop(lost)
        self._begin(lost, rollout, num_rows)

    def snapshot(self) -> dict[str, Any] | None:
        if not isinstance(self._env, Restorable):
            return None
        return {
            "obs": self._obs.copy(),
            **prefixed("episode", self._ledger.snapshot()),
            **prefixed("env", self._env.snapshot()),
        }

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        if not isinstance(self._env, Restorable):
            raise ArraysError(f"{self._env.spec.id} cannot be restored")
        saved = arrays.get("obs", np.empty(0))  # runs of earlier versions have it as float32
        dtype = saved.dtype if saved.dtype in (np.float32, np.float64) else self._obs.dtype
        fitted({"obs": self._obs.astype(dtype)}, {"obs": saved} if "obs" in arrays else {})
        self._ledger.restore(part("episode", arrays))
        obs, exact, unlike = self._env.restore(part("env", arrays))
        self._obs = _copied(obs)
        self._notes = [f"{self.spec.id}: {what}" for what in unlike]
        now = self._obs.astype(dtype)
        lost = ~exact | [a.tobytes() != b.tobytes() for a, b in zip(now, saved, strict=True)]
        if lost.any():
            numbers = ", ".join(str(self._shard.first + n) for n in np.flatnonzero(lost)[:3])
            more = ", ..." if lost.sum() > 3 else ""
            self._notes.append(
                f"{self.spec.id}: environment {numbers}{more} did not repeat the observations, rewards and "
                "ends of its unfinished episode; the next one begins"
            )
            self._ledger.drop(lost)
            self._begin(lost, None, 0)
        return not lost.any() and not unlike

    def close(self) -> None:
        self._env.close()

    def _check(self, rollout: Rollout, index: Int[np.ndarray, "T N"]) -> None:
        check_numbers(rollout, index, self._ledger.length, self.spec, self._config.seed, self._shard.first)

    def _noise(self, shape: tuple[int, ...], iteration: int) -> np.ndarray:
        rng = np.random.default_rng((self._config.seed, Stream.NOISE, iteration, self._shard.index))
        if self._env.spec.discrete:
            return rng.gumbel(size=shape).astype(np.float32)
        return rng.standard_normal(shape, np.float32)
