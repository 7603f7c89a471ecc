"""Environments in JAX: pure functions of one state, which are compiled together with the networks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped, UInt8

from poise.envs.packing import pack, read_leaves, unpack_action
from poise.envs.spaces import read_spec
from poise.envs.vector import EnvError, EnvStep
from poise.errors import message_of
from poise.spec import Spec
from poise.types import Tensor


class JaxEnv(ABC):
    """An environment as pure functions of one state, which ``poise`` maps over N environments and compiles.

        class Walk(poise.JaxEnv):
            observation_space = gymnasium.spaces.Box(-9, 9, (1,))
            action_space = gymnasium.spaces.Discrete(2)
            time_limit = 50

            def reset(self, *, key):
                return jax.random.uniform(key, minval=-1, maxval=1)

            def observe(self, state):
                return state[None]

            def step(self, state, action, *, key):
                state = state + jnp.where(action == 1, 0.1, -0.1) + 0.01 * jax.random.normal(key)
                return state, 1 - abs(state), abs(state) > 9

    Actions and observations have the form of their spaces, those of Gymnasium: arrays, or dictionaries and
    tuples of arrays. Real numbers are float32, whole numbers int32. A choice starts at its space's ``start``.

    A state is a pytree of arrays whose shapes and dtypes never change. Every random number comes from
    ``key``. So each episode is a function of its seed and its actions, and a training resumes with the same
    bits.

    ``step`` never resets. Nothing in a state counts steps for the time limit: ``poise`` does.
    """

    observation_space: gym.Space
    action_space: gym.Space
    time_limit: int | None = None  # steps after which an episode is truncated
    fps: float = 30.0  # steps of a second of a film

    @abstractmethod
    def reset(self, *, key: PRNGKeyArray) -> PyTree:
        """The first state of an episode."""

    @abstractmethod
    def observe(self, state: PyTree) -> PyTree:
        """What an agent sees of a state. A Dict may have an ``action_mask``, as with Gymnasium."""

    @abstractmethod
    def step(
        self, state: PyTree, action: PyTree, *, key: PRNGKeyArray
    ) -> tuple[PyTree, Float[Array, ""], Bool[Array, ""]]:
        """The next state, the reward, and whether the task ended: not by its time limit."""

    def draw(self, state: PyTree, action: PyTree | None) -> UInt8[np.ndarray, "height width 3"]:
        """A picture of a state, with NumPy. ``action``: the one that led to it; None at the start."""
        raise NotImplementedError(f"{type(self).__name__} has no draw(state, action)")


@dataclass(frozen=True, eq=False)
class JaxTask:
    """An environment in JAX, and its spaces as a policy has them.

    Equal only to itself: what is compiled for it is kept as long as it.
    """

    env: JaxEnv
    spec: Spec

    @classmethod
    def of(cls, id: str, env: JaxEnv) -> "JaxTask":
        """
        Raises:
            EnvError: a space is missing or not supported, or the functions do not fit them or one another.
        """
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), gym.Space):
                raise EnvError(f"{id}: {type(env).__name__}.{name} must be a space of gymnasium.spaces")
        task = cls(env, read_spec(id, env, env.time_limit, None))
        _check_functions(task)
        return task

    @property
    def mask_source(self) -> Any:
        """Where masks come from, as ``poise.envs.spaces.MaskSource``."""
        return "obs" if self.spec.masked else None


class World(eqx.Module):
    """N states, and the number of steps since each episode began."""

    state: PyTree[Shaped[Array, "N ..."]]
    elapsed: Int[Array, " N"]


def begin(task: JaxTask, world: World, mask: Bool[Array, " N"], keys: Shaped[Array, " N"]) -> World:
    """The world with a new episode in each environment of ``mask``; ``keys``: of those episodes."""
    fresh = jax.vmap(partial(reset_one, task.env))(keys)

    def choose(new, old):
        return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return World(jax.tree.map(choose, fresh, world.state), jnp.where(mask, 0, world.elapsed))


def empty_world(task: JaxTask, num_envs: int) -> World:
    """A world in which no episode has begun: all zeros."""
    keys = jax.random.split(jax.random.key(0), num_envs)
    state = jax.vmap(partial(reset_one, task.env))(keys)
    zeros = jax.tree.map(lambda x: x if _is_key(x) else jnp.zeros_like(x), state)
    return World(zeros, jnp.zeros(num_envs, jnp.int32))


def observe(task: JaxTask, world: World) -> PyTree[Array]:
    """The observations of all N as a policy reads them (``poise.spec.Spec``)."""
    obs = jax.vmap(task.env.observe)(world.state)
    return pack(task.spec, read_leaves(task.spec, obs), world.elapsed.size, xp=jnp)


def advance(
    task: JaxTask, world: World, action: Shaped[Tensor, "N *row"], keys: Shaped[Array, " N"]
) -> tuple[World, EnvStep]:
    """One step of all N environments, with the time limit.

    ``action``: rows in the environment's units, choices as indices from 0. ``keys``: of the episodes; that of
    a step follows from its number within the episode.
    """
    own = unpack_action(task.spec, action, xp=jnp)
    step = jax.vmap(partial(step_one, task.env))
    state, reward, terminated = step(world.state, own, keys, world.elapsed)
    after = World(state, world.elapsed + 1)
    limit = task.spec.time_limit
    truncated = jnp.zeros_like(terminated) if limit is None else after.elapsed >= limit
    return after, EnvStep(observe(task, after), reward, terminated, truncated)


_STEPS = 0x57E9  # which branch of an episode's key its steps draw from


def step_one(
    env: JaxEnv, state: PyTree, action: PyTree, key: PRNGKeyArray, elapsed: Int[Tensor, ""]
) -> tuple[PyTree[Array], Float[Array, ""], Bool[Array, ""]]:
    """One step of one environment. ``key``: of its episode, of which ``elapsed`` steps are over."""
    # a branch of its own: whatever reset draws from the episode's key, a step draws something else
    key = jax.random.fold_in(jax.random.fold_in(key, _STEPS), elapsed)
    state, reward, terminated = env.step(state, action, key=key)
    return _strong(state), jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)


def reset_one(env: JaxEnv, key: PRNGKeyArray) -> PyTree[Array]:
    """The first state of the episode with this key."""
    return _strong(env.reset(key=key))


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _strong(state: PyTree) -> PyTree[Array]:
    """The state as arrays with types of their own: weak ones change from one step to the next."""
    arrays = jax.tree.map(jnp.asarray, state)
    return jax.tree.map(lambda x: x if _is_key(x) else jax.lax.convert_element_type(x, x.dtype), arrays)


def _check_functions(task: JaxTask) -> None:
    """Traces the three functions once, without computing anything.

    Raises:
        EnvError: one of them fails, or returns something of another form than it must.
    """
    env, spec = task.env, task.spec
    key = jax.eval_shape(jax.random.key, 0)

    def traced(name: str, function: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return jax.eval_shape(function, *arguments, **named)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            raise EnvError(f"{spec.id}: {name}() raised {message_of(error)}") from error

    state = traced("reset", partial(reset_one, env), key)
    obs = traced("observe", env.observe, state)
    try:
        leaves = read_leaves(spec, obs)
    except (LookupError, TypeError):
        raise EnvError(
            f"{spec.id}: observe() returned {_form(obs)}, its space is {env.observation_space}"
        ) from None
    for leaf in spec.obs:
        array = leaves[leaf.name]
        shape = getattr(array, "shape", None)
        if shape != leaf.shape and not (leaf.kind == "mask" and shape == (spec.num_logits,)):
            raise EnvError(
                f"{spec.id}: observe() returned {leaf.name} of shape {shape}, its space has {leaf.shape}"
            )
    action = jax.eval_shape(
        lambda rows: jax.tree.map(lambda x: x[0], unpack_action(spec, rows, xp=jnp)),
        jax.ShapeDtypeStruct((1, *spec.action_row), jnp.float32 if spec.boxes else jnp.int32),
    )
    stepped = traced("step", lambda s, a, key: env.step(s, a, key=key), state, action, key)
    if not (isinstance(stepped, tuple) and len(stepped) == 3):
        raise EnvError(f"{spec.id}: step() must return (state, reward, terminated)")
    after = traced("step", lambda s, a, key: _strong(env.step(s, a, key=key)[0]), state, action, key)
    if _form(after) != _form(state):
        raise EnvError(
            f"{spec.id}: step() returned the state {_form(after)}, reset() {_form(state)}; shapes and dtypes "
            "must stay the same"
        )
    for name, value in zip(("reward", "terminated"), stepped[1:], strict=True):
        if getattr(value, "shape", None) != ():
            raise EnvError(f"{spec.id}: step() returned {name} of shape {value.shape}, it must be one number")


def _form(tree: Any) -> str:
    """Structure, shapes and dtypes of a tree of arrays, as text."""
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)).replace("'", "")
