"""Collects rollouts from environments on the host, with the policy in NumPy."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.algo.state import carry_size
from poise.arrays import ArraysError, fitted, part, prefixed
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.checking import EnvFault
from poise.envs.packing import Obs, differing_rows, empty, map_arrays
from poise.envs.vector import Crash, Reporting, Restorable, Restored
from poise.seeds import Stream, episode_seed
from poise.spec import NUMBERS, Spec, usual_dtype
from poise.system.threads import one_blas_thread
from poise.training.acting import Acting, ActionScale, make_actor, quiet
from poise.training.collector import Collected, Group
from poise.training.episodes import Ledger, Located, check_numbers, first_lengths
from poise.types import Rollout


@runtime_checkable
class Rebuildable(Protocol):
    """An environment that can be made again after a fault, each of the N where it was."""

    def rebuild(self, fault: EnvFault) -> Restored: ...


def _copied(obs: Obs) -> Obs:
    """A copy that no step of the environment changes, with all of the digits that it has."""
    if not isinstance(obs, dict):
        return obs.astype(usual_dtype(obs.dtype))
    copies = {name: array.copy() for name, array in obs.items()}
    if NUMBERS in obs:
        copies[NUMBERS] = obs[NUMBERS].astype(usual_dtype(obs[NUMBERS].dtype))
    return copies


def _put(rows: Any, t: int, obs: Obs) -> None:
    """Writes an observation into row ``t``."""
    if isinstance(obs, dict):
        for name, array in obs.items():
            rows[name][t] = array
    else:
        rows[t] = obs


def _at(rows: Obs, t: int) -> Obs:
    return {name: array[t] for name, array in rows.items()} if isinstance(rows, dict) else rows[t]


@dataclass(frozen=True, slots=True)
class _Rows:
    """A rollout while it is collected.

    It has the arrays itself: an attribute of a ``Rollout``, an Equinox module, takes a microsecond to read,
    and every step reads ten.
    """

    obs: Obs
    action: Shaped[np.ndarray, "T N ..."]
    reward: Float[np.ndarray, "T N"]  # float64, until the returns of the episodes are summed
    next_obs: Obs
    terminated: Bool[np.ndarray, "T N"]
    truncated: Bool[np.ndarray, "T N"]
    index: Int[np.ndarray, "T N"]  # of the episode that each row belongs to
    whole: Bool[np.ndarray, "T N"]  # see Ledger.account
    begins: Bool[np.ndarray, "T N"] | None  # see Rollout
    carry: Float[np.ndarray, "N S"] | None

    def rollout(self, num_rows: int) -> Rollout:
        """The first rows."""
        facts = (
            self.obs,
            self.action,
            self.reward,
            self.next_obs,
            self.terminated,
            self.truncated,
            self.begins,
        )
        cut = [map_arrays(lambda array: array[:num_rows], x) if x is not None else None for x in facts]
        return Rollout(*cut, carry=self.carry)


def _named_obs(obs: Obs) -> dict[str, np.ndarray]:
    """Copies of the arrays of an observation, by their names in a snapshot."""
    if isinstance(obs, dict):
        return prefixed("obs", {name: array.copy() for name, array in obs.items()})
    return {"obs": obs.copy()}


def _empty_memory(spec: Spec, config: Config, num_envs: int) -> Float[np.ndarray, "N S"] | None:
    """What the policy's memory holds before the first step; None without a memory."""
    size = carry_size(spec, config)
    return np.zeros((num_envs, size), np.float32) if size else None


MOST_CRASHES = 3  # in one rollout


class HostCollector:
    """Steps a vector environment and acts in NumPy. One array goes to the environment each step.

    ``group``: which of all environments these are; None: they are all.
    """

    _rows: _Rows  # of the rollout that is being collected

    def __init__(self, env: VectorEnv, config: Config, group: Group | None = None):
        group = group or Group(0, 0, env.num_envs, env.num_envs)
        self._env, self._config, self._group = env, config, group
        self.spec, self.num_envs, self.backend = env.spec, env.num_envs, env.backend
        self._scale = ActionScale(env.spec, normalize=config.normalize.action)
        self._ledger = Ledger(group)
        self._obs = empty(env.spec, env.num_envs)  # its types are the environment's after the first reset
        self._carry = _empty_memory(env.spec, config, env.num_envs)
        self._fresh = np.ones(env.num_envs, bool)  # which episodes have had no step
        lengths = first_lengths(config, env.spec, group.total)
        self._first = None if lengths is None else lengths[group.first :][: group.num_envs]
        self._crashes: list[Crash] = []
        self._notes: list[str] = []
        self._exact = True  # whether nothing failed since the last rollout
        self._reporting = env if isinstance(env, Reporting) else None
        # what the episodes reported that ended in this rollout, by row and environment
        self._infos: dict[tuple[int, int], Mapping[str, float]] = {}

    @one_blas_thread()
    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        actor = make_actor(policy, normalizer, self._config.normalize)
        self._crashes = []
        if iteration == 0 or self._config.ppo.reset_every_rollout:
            self._ledger.drop()
            self._begin(np.ones(self.num_envs, bool), 0)
        self._infos = {}
        self._rows = self._empty_rows()  # the first reset has told the dtype of observations
        noise = self._noise(iteration)
        physics, t = 0.0, 0
        while t < len(noise):
            scaled = self._act(actor, noise[t], t)
            began = time.perf_counter()
            try:
                done = self._step(scaled, t, iteration * len(noise) + t + 1)
            except EnvFault as fault:
                self._recover(fault, t, self._obs)
                continue  # the same row again: the environments stand where they stood before the step
            t += 1
            if np.count_nonzero(done):
                self._report(done, t - 1)
                self._begin(done, t)
            physics += time.perf_counter() - began
        return self._collected(physics)

    def _act(self, actor: Acting, noise: Float[np.ndarray, "N A"], t: int) -> Shaped[np.ndarray, "N ..."]:
        """Row ``t``: what the policy sees and does. Returns the actions in the environment's units."""
        rows = self._rows
        rows.index[t] = self._ledger.index
        _put(rows.obs, t, self._obs)
        if rows.begins is not None:
            rows.begins[t] = self._fresh
        with quiet():
            action = actor.act(self._obs, noise, self._carry)
            scaled = self._scale(action)
        rows.action[t] = action
        if np.count_nonzero(np.isfinite(action)) < action.size:
            rows.reward[t] = 0  # not known yet, and not at fault
            _put(rows.next_obs, t, self._obs)
            self._check(t + 1)
        return scaled

    def _step(self, scaled: Shaped[np.ndarray, "N ..."], t: int, step: int) -> Bool[np.ndarray, " N"]:
        """Row ``t``: where the actions led. Returns which episodes ended.

        ``step``: of each environment since the training began, counted from 1.
        """
        rows = self._rows
        next_obs, rows.reward[t], rows.terminated[t], rows.truncated[t] = self._env.step(scaled)
        _put(rows.next_obs, t, next_obs)
        self._fresh[:] = False
        terminated, truncated = rows.terminated[t], rows.truncated[t]
        if self._first is not None:
            cut = (self._ledger.index == 0) & (step == self._first)
            rows.whole[t] = ~cut | terminated | truncated
            truncated |= ~rows.whole[t]  # in the rollout: it is a view
        self._obs = _at(rows.next_obs, t)
        return terminated | truncated

    def _report(self, done: Bool[np.ndarray, " N"], t: int) -> None:
        """Keeps what the episodes reported that ended in row ``t``."""
        if self._reporting is not None:
            for n in np.flatnonzero(done & self._rows.whole[t]).tolist():
                self._infos[t, n] = self._reporting.episode_info(n)

    def _collected(self, physics: float) -> Collected:
        rows, num_rows = self._rows, len(self._rows.index)
        self._check(num_rows)
        facts = rows.index, rows.reward, rows.terminated, rows.truncated, rows.whole
        episodes = self._ledger.account(*facts, lambda t, n: self._infos.get((t, n), {}))
        rollout = dataclasses.replace(rows.rollout(num_rows), reward=rows.reward.astype(np.float32))
        notes, self._notes = tuple(self._notes), []
        exact, self._exact = self._exact, True
        return Collected(rollout, episodes, physics, tuple(self._crashes), notes, exact)

    def _empty_rows(self) -> _Rows:
        """Room for a rollout."""
        spec, shape = self.spec, (self._config.shape[0], self.num_envs)
        # Memory of its own for each rollout: the caller keeps the last one while the next is collected.
        obs, next_obs = (
            map_arrays(lambda x: np.empty((*shape, *x.shape[1:]), x.dtype), self._obs) for _ in range(2)
        )
        action = spec.zero_actions(*shape)
        terminated, truncated = np.empty(shape, bool), np.empty(shape, bool)
        index, whole = np.empty(shape, np.int64), np.ones(shape, bool)
        begins = np.empty(shape, bool) if self._config.has_memory else None
        carry = None if self._carry is None else self._carry.copy()
        facts = (obs, action, np.empty(shape), next_obs, terminated, truncated)
        return _Rows(*facts, index, whole, begins, carry)

    def _begin(self, mask: Bool[np.ndarray, " N"], num_rows: int) -> None:
        """New episodes of the environments in ``mask``, after so many rows of the rollout."""
        index = self._ledger.index
        index[mask] += 1
        self._fresh[mask] = True
        if self._carry is not None:
            self._carry[mask] = 0
        # The seed of an episode follows from its environment and its number, and from nothing else: whatever
        # happened before, the episode is the same.
        seed, first = self._config.seed, self._group.first
        numbers = np.flatnonzero(mask).tolist()
        seeds = [episode_seed(seed, Stream.TRAINING, first + n, int(index[n])) for n in numbers]
        try:
            self._obs = _copied(self._env.reset(mask, seeds))
        except EnvFault as fault:
            self._recover(fault, num_rows, None)

    def _recover(self, fault: EnvFault, num_rows: int, obs: Obs | None) -> None:
        """Starts the next episode of the environment that failed; the others continue where they were.

        ``num_rows``: rows of the rollout so far. ``obs``: where the environments were, None if that is not
        known. The last row of an episode that cannot continue is marked truncated, and the episode is not
        listed: its return is not that of a whole one. An episode without a row is forgotten.

        Raises:
            EnvFault: ``fault`` itself, if the environment cannot be made again or has failed too often.
        """
        if not isinstance(self._env, Rebuildable) or len(self._crashes) == MOST_CRASHES:
            raise fault
        restored = self._env.rebuild(fault)
        self._exact = False
        if fault.crash is not None:
            self._crashes.append(fault.crash)
        self._obs = _copied(restored.obs)
        # An environment counts as restored only if it also shows what it showed before the fault.
        lost = ~restored.exact
        if obs is not None:
            lost |= differing_rows(self._obs, obs)
        if num_rows:
            rows, last = self._rows, num_rows - 1
            cut = lost & ~rows.terminated[last] & ~rows.truncated[last]
            rows.truncated[last] |= cut
            rows.whole[last] &= ~cut
        else:
            self._ledger.drop(lost)
        self._begin(lost, num_rows)

    def snapshot(self) -> dict[str, Any] | None:
        if not isinstance(self._env, Restorable):
            return None
        return {
            **self._memory_snapshot(),
            **_named_obs(self._obs),
            **prefixed("episode", self._ledger.snapshot()),
            **prefixed("env", self._env.snapshot()),
        }

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        if not isinstance(self._env, Restorable):
            raise ArraysError(f"{self._env.spec.id} cannot be restored")
        saved = {name: a for name, a in arrays.items() if name == "obs" or name.startswith("obs.")}
        expected = _named_obs(self._obs)
        for name, array in saved.items():  # runs of earlier versions have float32
            if name in expected and {array.dtype, expected[name].dtype} <= {np.dtype("f4"), np.dtype("f8")}:
                expected[name] = expected[name].astype(array.dtype)
        fitted(expected, saved)
        self._restore_memory(part("memory", arrays))
        self._ledger.restore(part("episode", arrays))
        obs, exact, unlike = self._env.restore(part("env", arrays))
        self._obs = _copied(obs)
        self._notes = [f"{self.spec.id}: {what}" for what in unlike]
        now = {name: array.astype(saved[name].dtype) for name, array in _named_obs(self._obs).items()}
        lost = ~exact | differing_rows(now, saved)
        if lost.any():
            numbers = ", ".join(str(self._group.first + n) for n in np.flatnonzero(lost)[:3])
            more = ", ..." if lost.sum() > 3 else ""
            self._notes.append(
                f"{self.spec.id}: environment {numbers}{more} did not repeat the observations, rewards and "
                "ends of its unfinished episode; the next one begins"
            )
            self._ledger.drop(lost)
            self._begin(lost, 0)
        return not lost.any() and not unlike

    def _memory_snapshot(self) -> dict[str, np.ndarray]:
        """What the policy's memory holds, and which episodes have had no step; nothing without a memory."""
        if not self._config.has_memory:
            return {}
        arrays = {"fresh": self._fresh} | ({} if self._carry is None else {"carry": self._carry})
        return prefixed("memory", {name: array.copy() for name, array in arrays.items()})

    def _restore_memory(self, arrays: Mapping[str, Any]) -> None:
        fitted(part("memory", self._memory_snapshot()), arrays)
        if arrays:
            self._fresh = np.array(arrays["fresh"])
        if self._carry is not None:
            self._carry = np.array(arrays["carry"])

    def close(self) -> None:
        self._env.close()

    def _check(self, num_rows: int) -> None:
        """Refuses the first rows of the rollout if they hold infinity or NaN."""
        index, length = self._rows.index[:num_rows], self._ledger.length
        rollout, seed = self._rows.rollout(num_rows), self._config.seed
        check_numbers(Located(rollout, index, length, self.spec, seed, self._group.first))

    def _noise(self, iteration: int) -> Float[np.ndarray, "T N A"]:
        # Of this iteration alone: a resume needs no state of a generator. NumPy ignores a last 0 in seeds:
        # the only group draws what trainings drew before there were groups.
        rng = np.random.default_rng((self._config.seed, Stream.NOISE, iteration, self._group.index))
        return self.spec.draw_noise(rng, self._config.shape[0], self.num_envs)
