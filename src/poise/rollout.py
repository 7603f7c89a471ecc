"""Collecting rollouts, from environments on the host or compiled together with the policy."""

import time
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from poise.acting import ActionScale, Actor, quiet
from poise.config import Config, Normalize
from poise.envs import VectorEnv
from poise.envs.native import NativeEnv, NativeTask, World, advance, begin, empty_world, observe
from poise.errors import TrainingError
from poise.networks import GaussianPolicy, Policy
from poise.normalize import Normalizer, normalize_obs
from poise.seeds import Stream, episode_seed, stream_key
from poise.spec import Episode
from poise.types import Rollout, Tensor


class Collected(NamedTuple):
    rollout: Rollout
    episodes: list[Episode]  # those that ended in it, in the order of their ends
    physics_seconds: float | None  # stepping and resetting; None where that is one with acting


@runtime_checkable
class Collector(Protocol):
    """Holds the world between rollouts."""

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        """``T`` steps of ``N`` environments with the sampling policy.

        Raises:
            TrainingError: the policy has diverged so far that its actions are no numbers.
        """
        ...


class _Ledger:
    """What the unfinished episodes have gathered so far."""

    def __init__(self, num_envs: int):
        self.index = np.full(num_envs, -1)  # of the running episode; -1 before the first
        self._return = np.zeros(num_envs)
        self._length = np.zeros(num_envs, np.int64)
        self._step = 0

    def drop(self) -> None:
        """Forgets the unfinished episodes."""
        self._return[:] = 0
        self._length[:] = 0

    def account(
        self,
        index: Int[np.ndarray, " N"],
        reward: Float[np.ndarray, "T N"],
        terminated: Bool[np.ndarray, "T N"],
        truncated: Bool[np.ndarray, "T N"],
    ) -> list[Episode]:
        """The episodes that ended in these steps; ``index`` is of those that ran at their start."""
        num_steps, num_envs = reward.shape
        start, index, episodes = np.zeros(num_envs, np.int64), index.copy(), []
        for t, n in np.argwhere(terminated | truncated).tolist():
            episodes.append(
                Episode(
                    env=n,
                    index=int(index[n]),
                    step=self._step + (t + 1) * num_envs,
                    episodic_return=float(self._return[n] + reward[start[n] : t + 1, n].sum()),
                    length=int(self._length[n] + t + 1 - start[n]),
                    terminated=bool(terminated[t, n]),
                )
            )
            start[n], self._return[n], self._length[n] = t + 1, 0.0, 0
            index[n] += 1
        for n in range(num_envs):
            self._return[n] += reward[start[n] :, n].sum()
        self._length += num_steps - start
        self._step += reward.size
        return episodes


class HostCollector:
    """Steps a vector environment and acts in NumPy. One array goes to the environment each step."""

    def __init__(self, env: VectorEnv, config: Config):
        self._env, self._config = env, config
        self._scale = ActionScale(env.spec, normalize=config.normalize.action)
        self._ledger = _Ledger(env.num_envs)
        self._obs = np.zeros((env.num_envs, env.spec.obs_size), np.float32)

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        env, spec, num_steps = self._env, self._env.spec, self._config.ppo.num_steps
        actor = Actor(policy, normalizer, self._config.normalize)
        shape = (num_steps, env.num_envs)
        noise = self._noise((*shape, spec.action_size), iteration)
        obs = np.empty((*shape, spec.obs_size), np.float32)
        next_obs = np.empty_like(obs)
        action = np.empty(shape, np.int32) if spec.discrete else np.empty_like(noise)
        reward = np.empty(shape, np.float64)
        terminated, truncated = np.empty(shape, bool), np.empty(shape, bool)

        if iteration == 0 or self._config.ppo.reset_every_rollout:
            self._ledger.drop()
            self._begin(np.ones(env.num_envs, bool))
        running = self._ledger.index.copy()
        at = f"iteration {iteration + 1} of {spec.id}"
        physics = 0.0
        for t in range(num_steps):
            obs[t] = self._obs
            with quiet():
                chosen = actor.act(self._obs, noise[t])
                given = self._scale(chosen)
            if np.count_nonzero(np.isfinite(chosen)) < chosen.size:
                raise TrainingError(f"the policy's action is infinite or NaN in step {t + 1} of {at}")
            action[t] = chosen
            begun = time.perf_counter()
            next_obs[t], reward[t], terminated[t], truncated[t] = env.step(given)
            self._obs = next_obs[t]
            done = terminated[t] | truncated[t]
            if np.count_nonzero(done):
                self._begin(done)
            physics += time.perf_counter() - begun
        episodes = self._ledger.account(running, reward, terminated, truncated)
        rollout = Rollout(obs, action, reward.astype(np.float32), next_obs, terminated, truncated)
        return Collected(rollout, episodes, physics)

    def _begin(self, mask: np.ndarray) -> None:
        index = self._ledger.index
        index[mask] += 1
        seed = self._config.seed
        seeds = [episode_seed(seed, Stream.TRAINING, n, int(index[n])) for n in np.flatnonzero(mask).tolist()]
        self._obs = self._env.reset(mask, seeds).astype(np.float32)

    def _noise(self, shape: tuple[int, ...], iteration: int) -> np.ndarray:
        rng = np.random.default_rng((self._config.seed, Stream.NOISE, iteration))
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
        self._ledger = _Ledger(env.num_envs)
        self._episode_key = stream_key(config.seed, Stream.TRAINING)
        self._noise_key = stream_key(config.seed, Stream.NOISE)
        fresh = _Native(empty_world(env.task, env.num_envs), jnp.full(env.num_envs, -1, jnp.int32))
        self._now = jax.device_put(fresh, jax.devices()[0])

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
            self._episode_key,
            jax.random.fold_in(self._noise_key, iteration),
            task=self._task,
            num_steps=self._config.ppo.num_steps,
            normalize=self._config.normalize,
        )
        facts = jax.device_get((rollout.reward, rollout.terminated, rollout.truncated))
        episodes = self._ledger.account(running, facts[0].astype(np.float64), *facts[1:])
        return Collected(rollout, episodes, None)


@partial(jax.jit, static_argnames=("task", "num_steps", "normalize"))
def _collect(
    policy: Policy,
    normalizer: Normalizer,
    now: _Native,
    restart: Bool[Array, ""],
    episode_key: PRNGKeyArray,
    noise_key: PRNGKeyArray,
    *,
    task: NativeTask,
    num_steps: int,
    normalize: Normalize,
) -> tuple[_Native, Rollout]:
    spec = task.spec
    scale = ActionScale(spec, normalize=normalize.action)
    num_envs = now.index.size
    draw_noise = jax.random.normal if isinstance(policy, GaussianPolicy) else jax.random.gumbel
    noise = draw_noise(noise_key, (num_steps, num_envs, spec.action_size))
    places = jnp.arange(num_envs)

    def restarted(now: _Native, mask: Bool[Tensor, " N"]) -> _Native:
        index = now.index + mask.astype(jnp.int32)
        keys = jax.vmap(lambda n, i: jax.random.fold_in(jax.random.fold_in(episode_key, n), i))(places, index)
        return _Native(begin(task, now.world, mask, keys), index)

    def act(obs: Float[Array, " O"], noise: Float[Array, " A"]):
        action = policy(normalize_obs(normalizer.obs, obs, normalize)).draw(noise)
        return action, scale(action)

    def step(now: _Native, noise: Float[Array, "N A"]):
        obs = observe(task, now.world)
        action, given = jax.vmap(act)(obs, noise)
        world, out = advance(task, now.world, given)
        row = obs, action, out.reward, out.next_obs, out.terminated, out.truncated
        return restarted(_Native(world, now.index), out.terminated | out.truncated), row

    now = restarted(now, jnp.full(num_envs, restart))
    now, rows = jax.lax.scan(step, now, noise)
    return now, Rollout(*rows)


def make_collector(env: VectorEnv, config: Config) -> Collector:
    """The collector that suits the environment."""
    return NativeCollector(env, config) if isinstance(env, NativeEnv) else HostCollector(env, config)
