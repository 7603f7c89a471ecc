"""Collects rollouts from environments in JAX, compiled together with the policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from poise.algo.hyperparameters import Number
from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.algo.state import carry_size
from poise.arrays import filled, named, part, prefixed
from poise.config import Config
from poise.envs.info import finite
from poise.envs.native.jax_env import JaxTask, World, advance, begin, empty_world, observe, with_info
from poise.envs.native.vector import NativeEnv
from poise.seeds import Stream, stream_key
from poise.spec import Spec
from poise.training.acting import ActionScale, respond
from poise.training.collector import Collected, Group, Started
from poise.training.episodes import Ledger, Located, check_masks, check_numbers, first_lengths
from poise.types import Rollout, Tensor


class Playing(eqx.Module):
    """The world, the index of each running episode, and what the policy's memory holds."""

    world: World
    index: Int[Array, " N"]
    carry: Float[Array, "N S"] | None


Infos = dict[str, Float[Tensor, "T N"]]  # of the running episode after each row, by name


class Keys(NamedTuple):
    episode: PRNGKeyArray  # of all start states
    noise: PRNGKeyArray  # of the actions of a rollout
    first: Int[Tensor, ""] | int = 0  # the number of the first of these environments


class Numbers(NamedTuple):
    """Another value of these compiles nothing."""

    obs_bound: Number | None
    ahead: Int[Tensor, " N"]  # steps that the clock of each first episode shows at its start


@dataclass(frozen=True)
class Play:
    """What ``play_rollout`` is compiled for."""

    task: JaxTask
    num_steps: int
    normalize_obs: bool
    scale_actions: bool
    has_memory: bool


class NativeCollector:
    """Steps environments in JAX and the policy in one compiled scan."""

    def __init__(self, env: NativeEnv, config: Config):
        self._config = config
        self.spec, self.num_envs, self.backend = env.spec, env.num_envs, env.backend
        self._ledger = Ledger(Group(0, 0, env.num_envs, env.num_envs))
        self.episode_key = stream_key(config.seed, Stream.TRAINING)
        self.noise_key = stream_key(config.seed, Stream.NOISE)
        size = carry_size(env.spec, config)
        carry = jnp.zeros((env.num_envs, size)) if size else None
        index = jnp.full(env.num_envs, -1, jnp.int32)
        fresh = Playing(empty_world(env.task, env.num_envs), index, carry)
        self.now = jax.device_put(fresh, jax.local_devices()[0])  # after the last rollout that was started
        self._finished = self.now  # after the last one that was finished
        self.first = first_lengths(config, env.spec, env.num_envs)
        # start each first episode with its clock ahead, so that the time limit truncates it early
        ahead = 0 if self.first is None else env.spec.time_limit - self.first
        ahead = np.broadcast_to(ahead, env.num_envs).astype(np.int32)
        self.numbers = Numbers(config.normalize.obs_bound, ahead)
        normalize = config.normalize
        self.play = Play(env.task, config.shape[0], normalize.obs, normalize.action, config.has_memory)

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        return self.start(policy, normalizer, iteration).finish()

    def start(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Started:
        restart = iteration == 0 or self._config.ppo.reset_every_rollout
        self.now, rollout, info = _collect(
            policy,
            normalizer,
            self.now,
            np.array(restart),  # traced: a Python bool would compile a second version
            np.array(iteration, np.int32),
            Keys(self.episode_key, self.noise_key),
            self.numbers,
            play=self.play,
        )
        return Started(rollout, partial(self._finish, self.now, rollout, info, iteration, restart=restart))

    def _finish(
        self, now: Playing, rollout: Rollout, info: Infos, iteration: int, *, restart: bool
    ) -> Collected:
        """``now``: the environments after the rollout."""
        if restart:
            self._ledger.drop()
        facts, info = jax.device_get((rollout, info))
        index = self.check(facts, restart=restart)
        self._finished = now
        reward = facts.reward.astype(np.float64)  # long returns lose no digits in their sums
        ends = facts.terminated, facts.truncated
        whole = None if self.first is None else are_whole(index, facts, iteration, self.first, self.numbers)
        reported = lambda t, n: finite({name: values[t, n] for name, values in info.items()})  # noqa: E731
        episodes = self._ledger.account(index, reward, *ends, whole, reported)
        return Collected(rollout, episodes, None)  # the rollout stays on the device that learns

    def check(self, facts: Rollout, *, restart: bool) -> Int[np.ndarray, "T N"]:
        """The number of each row's episode, after a check of the rollout that follows the last finished one.

        Raises:
            TrainingError: an action is infinite or NaN.
            EnvFault: another number is, or a mask allows nothing.
        """
        # episode of each environment in the first row
        running = np.asarray(self._finished.index) + restart
        # The episode of a row is the first row's plus the ends before it: the scan need not return it.
        done = facts.terminated | facts.truncated
        index = running + np.cumsum(done, axis=0) - done
        rows = Located(facts, index, self._ledger.length, self.spec, self._config.seed, first=0)
        check_numbers(rows)
        check_masks(rows)
        return index

    def finished(self, now: Playing, counts: tuple[Any, Any], steps: int) -> None:
        """Sets what several rollouts, which were one program, have led to.

        ``counts``: returns and lengths of the unfinished episodes.
        """
        self._finished = now
        self._ledger.set(*counts, steps)

    def counts(self) -> tuple[Any, Any]:
        """Returns and lengths of the unfinished episodes."""
        ledger = self._ledger.snapshot()
        return ledger["return"], ledger["length"]

    def snapshot(self) -> dict[str, Any]:
        return {**prefixed("env", named(self._finished)), **prefixed("episode", self._ledger.snapshot())}

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        self._ledger.restore(part("episode", arrays))
        world = with_info(self.now.world, part("env", arrays), "world.")
        self.now = jax.device_put(filled(self.now, world), jax.local_devices()[0])
        self._finished = self.now
        return True

    def close(self) -> None:
        """Nothing to release."""


def are_whole(
    index: Int[Tensor, "T N"], facts: Rollout, iteration: Any, first: Int[Tensor, " N"], numbers: Numbers
) -> Bool[Tensor, "T N"]:
    """False where the end of an episode is that of one that the collector itself cut short: it is not listed.

    ``index``: the number of each row's episode. ``first``: by ``first_lengths``.
    """
    step = iteration * len(index) + np.arange(len(index)) + 1
    return facts.terminated | (index != 0) | (step[:, None] != first) | (numbers.ahead == 0)


def play_rollout(
    policy: Policy,
    normalizer: Normalizer,
    now: Playing,
    begin_all: Bool[Tensor, ""],
    iteration: Int[Tensor, ""],
    keys: Keys,
    numbers: Numbers,
    *,
    play: Play,
) -> tuple[Playing, Rollout, Infos]:
    """``num_steps`` steps of all environments; ``begin_all``: each of them starts an episode first."""
    task = play.task
    scale = ActionScale(task.spec, normalize=play.scale_actions)
    num_envs = now.index.size
    # for the whole rollout at once; a step reads its row
    noise_key = jax.random.fold_in(keys.noise, jnp.asarray(iteration))
    noise = _noise(noise_key, task.spec, play.num_steps, num_envs)

    def restart(now: Playing, mask: Bool[Tensor, " N"]) -> Playing:
        index = now.index + mask.astype(jnp.int32)
        carry = None if now.carry is None else jnp.where(mask[:, None], 0.0, now.carry)
        return Playing(begin(task, now.world, mask, _episode_keys(keys, index)), index, carry)

    def act(obs: PyTree[Array], noise: Float[Array, " noise"], carry: Float[Array, " S"] | None):
        distribution, carry = respond(
            policy, normalizer, obs, carry, enabled=play.normalize_obs, bound=numbers.obs_bound
        )
        action = distribution.draw(noise)
        return action, scale(action), carry

    def step(now: Playing, noise: Float[Array, "N noise"]):
        obs = observe(task, now.world)
        action, scaled, carry = jax.vmap(act)(obs, noise, now.carry)
        world, out = advance(task, now.world, scaled, _episode_keys(keys, now.index))
        begins = now.world.elapsed == 0 if play.has_memory else None
        row = obs, action, out.reward, out.next_obs, out.terminated, out.truncated, begins, world.info
        return restart(Playing(world, now.index, carry), out.terminated | out.truncated), row

    # As on the host: an episode that ended begins again before the next row, not in it.
    now = restart(now, jnp.full(num_envs, begin_all))
    elapsed = now.world.elapsed + jnp.where(begin_all, numbers.ahead, 0)
    first = Playing(World(now.world.state, elapsed, now.world.info), now.index, now.carry)
    now, (*facts, begins, info) = jax.lax.scan(step, first, noise)
    if begins is not None:  # a first episode whose clock is ahead begins here, too
        begins = begins.at[0].set(begins[0] | begin_all)
    return now, Rollout(*facts, begins=begins, carry=first.carry), info


_collect = jax.jit(play_rollout, static_argnames="play")


def _episode_keys(keys: Keys, index: Int[Array, " N"]) -> Shaped[Array, " N"]:
    """Of the running episodes: they depend on the environment and the number of its episode alone."""
    places = keys.first + jnp.arange(index.size)
    return jax.vmap(lambda n, i: jax.random.fold_in(jax.random.fold_in(keys.episode, n), i))(places, index)


def _noise(key: PRNGKeyArray, spec: Spec, num_steps: int, num_envs: int) -> Float[Array, "T N noise"]:
    """What makes a policy's outputs samples, in the order of ``Spec.draw_noise``."""
    normal, gumbel = (num_steps, num_envs, spec.box_size), (num_steps, num_envs, spec.num_logits)
    if not spec.choices:
        return jax.random.normal(key, normal)
    if not spec.boxes:
        return jax.random.gumbel(key, gumbel)
    for_boxes, for_choices = jax.random.split(key)
    drawn = jax.random.normal(for_boxes, normal), jax.random.gumbel(for_choices, gumbel)
    return jnp.concatenate(drawn, axis=-1)
