"""Collecting rollouts, from environments on the host or compiled together with the policy."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from poise.algo.hyperparameters import Number
from poise.algo.networks import GaussianPolicy, Policy
from poise.algo.normalize import Normalizer, normalize_obs
from poise.arrays import ArraysError, filled, fitted, named, part, prefixed
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.checking import Crash, EnvFault
from poise.envs.native import NativeEnv, NativeTask, World, advance, begin, empty_world, observe
from poise.envs.vector import Restorable, Restored, usual_dtype
from poise.errors import DIVERGED, TrainingError
from poise.seeds import Stream, episode_seed, stream_key
from poise.spec import Episode, Spec
from poise.system.threads import one_blas_thread
from poise.training.acting import ActionScale, Actor, quiet
from poise.types import Rollout, Tensor


@dataclass(frozen=True)
class Shard:
    """Environments ``first`` to ``first + num_envs - 1`` of all ``total``, which are collected by themselves.

    With seeds, noise and array shapes of its own: where it is collected, and beside what, changes no bit.
    """

    index: int
    first: int
    num_envs: int
    total: int


class Collected(NamedTuple):
    rollout: Rollout
    episodes: list[Episode]  # those that ended in it, in the order of their ends
    physics_seconds: float | None  # stepping and resetting; None where that is one with acting
    crashes: tuple[Crash, ...] = ()  # of environments that were made again
    notes: tuple[str, ...] = ()  # what is to be said, a line each
    exact: bool = True  # whether it is what it would have been had nothing failed


@runtime_checkable
class Collector(Protocol):
    """Holds the world between rollouts."""

    @property
    def spec(self) -> Spec: ...

    @property
    def num_envs(self) -> int: ...

    @property
    def backend(self) -> str:
        """What to show on the terminal."""
        ...

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        """``T`` steps of ``N`` environments with the sampling policy.

        Raises:
            TrainingError: the policy has diverged so far that its actions are no numbers.
            EnvFault: an environment failed, or returned what is no number.
        """
        ...

    def snapshot(self) -> dict[str, Any] | None:
        """The world as it is now, what its unfinished episodes have gathered; None where it cannot tell."""
        ...

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        """Goes on from a ``snapshot``. Whether all is exactly as it was.

        An environment that cannot be restored exactly starts its next episode.

        Raises:
            ArraysError: these arrays are no snapshot of this world.
        """
        ...

    def close(self) -> None: ...


def first_lengths(config: Config, spec: Spec, num_envs: int) -> Int[np.ndarray, " N"] | None:
    """The step at which the first episode of each environment is cut short; None where none is.

    Evenly over the time limit, the last at the limit itself: environments that begin together would otherwise
    reach it together for ever, and a rollout would show one part of an episode alone.
    """
    limit, ppo = spec.time_limit, config.ppo
    if limit is None or not ppo.stagger_starts or ppo.reset_every_rollout:
        return None
    return np.maximum(1, (np.arange(num_envs) + 1) * limit // num_envs)


class _Ledger:
    """What the unfinished episodes have gathered so far."""

    def __init__(self, shard: Shard):
        self._shard = shard
        self.index = np.full(shard.num_envs, -1)  # of the running episode; -1 before the first
        self._return = np.zeros(shard.num_envs)
        self.length = np.zeros(shard.num_envs, np.int64)
        self._step = 0

    def drop(self, mask: Bool[np.ndarray, " N"] | slice = slice(None)) -> None:
        """Forgets the unfinished episodes of those environments."""
        self._return[mask] = 0
        self.length[mask] = 0

    def snapshot(self) -> dict[str, np.ndarray]:
        return {
            "index": np.asarray(self.index, np.int64).copy(),
            "return": self._return.copy(),
            "length": self.length.copy(),
            "step": np.array(self._step),
        }

    def restore(self, arrays: Mapping[str, Any]) -> None:
        fitted(self.snapshot(), arrays)
        if not (arrays["index"] >= -1).all():
            raise ArraysError("array 'index': every value must be >= -1")
        self.index[:], self._return[:] = arrays["index"], arrays["return"]
        self.length[:], self._step = arrays["length"], int(arrays["step"])

    def account(
        self,
        index: Int[np.ndarray, "T N"],
        reward: Float[np.ndarray, "T N"],
        terminated: Bool[np.ndarray, "T N"],
        truncated: Bool[np.ndarray, "T N"],
        whole: Bool[np.ndarray, "T N"] | None = None,
    ) -> list[Episode]:
        """The episodes that ended in these steps; ``index``: of the episode that each step belongs to.

        One that ended where ``whole`` is False was cut short by the collector and is not listed.
        """
        num_steps, num_envs = reward.shape
        first, total = self._shard.first, self._shard.total
        start, episodes = np.zeros(num_envs, np.int64), []
        for t, n in np.argwhere(terminated | truncated).tolist():
            if whole is None or whole[t, n]:
                episodes.append(
                    Episode(
                        env=first + n,
                        index=int(index[t, n]),
                        step=self._step + (t + 1) * total,
                        episodic_return=float(self._return[n] + reward[start[n] : t + 1, n].sum()),
                        length=int(self.length[n] + t + 1 - start[n]),
                        terminated=bool(terminated[t, n]),
                    )
                )
            start[n], self._return[n], self.length[n] = t + 1, 0.0, 0
        for n in range(num_envs):
            self._return[n] += reward[start[n] :, n].sum()
        self.length += num_steps - start
        self._step += num_steps * total
        return episodes


def _check(
    rollout: Rollout,
    index: Int[np.ndarray, "T N"],
    length: Int[np.ndarray, " N"],
    spec: Spec,
    seed: int,
    first: int,
) -> None:
    """Refuses a rollout that holds what is no number, and names what came first.

    ``length``: steps that the running episodes had before it. ``seed``: the run's. ``first``: the number of
    its first environment.
    """
    num_steps, num_envs = index.shape
    odd: dict[str, np.ndarray] = {}
    for name in ("obs", "action", "reward", "next_obs"):  # in the order in which they arise
        array = np.asarray(getattr(rollout, name))
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            odd[name] = ~np.isfinite(array).reshape(num_steps, num_envs, -1)
    if not odd:
        return
    t = min(int(np.argwhere(mask)[0, 0]) for mask in odd.values())
    name, mask = next((name, mask) for name, mask in odd.items() if mask[t].any())
    n, entry = np.argwhere(mask[t])[0].tolist()
    done = np.asarray(rollout.terminated | rollout.truncated)
    ended = np.flatnonzero(done[:t, n])
    step = int(t - ended[-1] if len(ended) else t + 1 + length[n])
    step -= name in ("obs", "action")  # they are there before the step
    from_seed = episode_seed(seed, Stream.TRAINING, first + n, int(index[t, n]))
    place = f"{spec.id}, environment {first + n}, episode seed {from_seed}, step {step}"
    value = np.asarray(getattr(rollout, name)).reshape(num_steps, num_envs, -1)[t, n, entry]
    if name == "action":
        raise TrainingError(f"{place}: the policy's action is {value}. {DIVERGED}")
    what = "reward" if name == "reward" else f"obs[{entry}]"
    raise EnvFault(f"{place}: {what} is {value}", first + n)


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
        self._ledger = _Ledger(shard)
        self._obs = np.zeros(
            (env.num_envs, env.spec.obs_size)
        )  # float32 or float64, as the environment's are
        lengths = first_lengths(config, env.spec, shard.total)
        self._first = None if lengths is None else lengths[shard.first :][: shard.num_envs]
        self._crashes: list[Crash] = []
        self._notes: list[str] = []
        self._exact = True  # whether nothing failed since the last rollout
        self._whole = np.ones((0, env.num_envs), bool)  # of the rollout under way: see _Ledger.account

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
        _check(rollout, index, self._ledger.length, self.spec, self._config.seed, self._shard.first)

    def _noise(self, shape: tuple[int, ...], iteration: int) -> np.ndarray:
        rng = np.random.default_rng((self._config.seed, Stream.NOISE, iteration, self._shard.index))
        if self._env.spec.discrete:
            return rng.gumbel(size=shape).astype(np.float32)
        return rng.standard_normal(shape, np.float32)


class _Native(eqx.Module):
    """The world of a native task, and the index of each running episode."""

    world: World
    index: Int[Array, " N"]


class NativeCollector:
    """Steps a native task and the networks in one compiled scan."""

    def __init__(self, env: NativeEnv, config: Config):
        self._task, self._config = env.task, config
        self.spec, self.num_envs, self.backend = env.spec, env.num_envs, env.backend
        self._ledger = _Ledger(Shard(0, 0, env.num_envs, env.num_envs))
        self._episode_key = stream_key(config.seed, Stream.TRAINING)
        self._noise_key = stream_key(config.seed, Stream.NOISE)
        fresh = _Native(empty_world(env.task, env.num_envs), jnp.full(env.num_envs, -1, jnp.int32))
        self._now = jax.device_put(fresh, jax.devices()[0])
        self._first = first_lengths(config, env.spec, env.num_envs)
        # start each first episode with its clock ahead, so that the time limit truncates it early
        ahead = 0 if self._first is None else env.spec.time_limit - self._first
        self._ahead = np.broadcast_to(ahead, env.num_envs).astype(np.int32)

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        restart = iteration == 0 or self._config.ppo.reset_every_rollout
        if restart:
            self._ledger.drop()
        running = np.asarray(self._now.index) + restart
        self._now, rollout = _collect(
            policy,
            normalizer,
            self._now,
            jnp.array(restart),
            self._ahead,
            self._episode_key,
            jax.random.fold_in(self._noise_key, iteration),
            self._config.normalize.obs_bound,
            task=self._task,
            num_steps=self._config.shape[0],
            normalized=self._config.normalize.obs,
            scaled=self._config.normalize.action,
        )
        facts = jax.device_get(rollout)
        done = facts.terminated | facts.truncated
        index = running + np.cumsum(done, axis=0) - done
        _check(facts, index, self._ledger.length, self._task.spec, self._config.seed, 0)
        reward = facts.reward.astype(np.float64)
        episodes = self._ledger.account(
            index, reward, facts.terminated, facts.truncated, self._whole(index, facts.terminated, iteration)
        )
        return Collected(rollout, episodes, None)

    def _whole(
        self, index: Int[np.ndarray, "T N"], terminated: Bool[np.ndarray, "T N"], iteration: int
    ) -> Bool[np.ndarray, "T N"] | None:
        """False where the end of an episode in that step is that of one cut short."""
        if self._first is None:
            return None
        step = iteration * len(index) + np.arange(len(index)) + 1
        return terminated | (index != 0) | (step[:, None] != self._first) | (self._ahead == 0)

    def snapshot(self) -> dict[str, Any]:
        return {**prefixed("env", named(self._now)), **prefixed("episode", self._ledger.snapshot())}

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        self._ledger.restore(part("episode", arrays))
        self._now = jax.device_put(filled(self._now, part("env", arrays)), jax.devices()[0])
        return True

    def close(self) -> None:
        """Nothing to release."""


@partial(jax.jit, static_argnames=("task", "num_steps", "normalized", "scaled"))
def _collect(
    policy: Policy,
    normalizer: Normalizer,
    now: _Native,
    restart: Bool[Array, ""],
    ahead: Int[Tensor, " N"],
    episode_key: PRNGKeyArray,
    noise_key: PRNGKeyArray,
    obs_bound: Number | None,
    *,
    task: NativeTask,
    num_steps: int,
    normalized: bool,
    scaled: bool,
) -> tuple[_Native, Rollout]:
    spec = task.spec
    scale = ActionScale(spec, normalize=scaled)
    num_envs = now.index.size
    draw_noise = jax.random.normal if isinstance(policy, GaussianPolicy) else jax.random.gumbel
    noise = draw_noise(noise_key, (num_steps, num_envs, spec.action_size))
    places = jnp.arange(num_envs)

    def restarted(now: _Native, mask: Bool[Tensor, " N"]) -> _Native:
        index = now.index + mask.astype(jnp.int32)
        keys = jax.vmap(lambda n, i: jax.random.fold_in(jax.random.fold_in(episode_key, n), i))(places, index)
        return _Native(begin(task, now.world, mask, keys), index)

    def act(obs: Float[Array, " O"], noise: Float[Array, " A"]):
        obs = normalize_obs(normalizer.obs, obs, enabled=normalized, bound=obs_bound)
        action = policy(obs).draw(noise)
        return action, scale(action)

    def step(now: _Native, noise: Float[Array, "N A"]):
        obs = observe(task, now.world)
        action, given = jax.vmap(act)(obs, noise)
        world, out = advance(task, now.world, given)
        row = obs, action, out.reward, out.next_obs, out.terminated, out.truncated
        return restarted(_Native(world, now.index), out.terminated | out.truncated), row

    now = restarted(now, jnp.full(num_envs, restart))
    world = World(now.world.state, now.world.elapsed + jnp.where(restart, ahead, 0))
    now, rows = jax.lax.scan(step, _Native(world, now.index), noise)
    return now, Rollout(*rows)
