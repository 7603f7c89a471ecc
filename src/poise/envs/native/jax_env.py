"""Environments in JAX: pure functions of one state, which are compiled together with the networks."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped, UInt8

from poise.envs.info import is_summed, slots
from poise.envs.packing import at, pack, read_leaves, unpack_action
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
    ) -> (
        tuple[PyTree, Float[Array, ""], Bool[Array, ""]]
        | tuple[PyTree, Float[Array, ""], Bool[Array, ""], dict[str, Any]]
    ):
        """The next state, the reward, and whether the task ended: not by its time limit.

        Optionally a dictionary of numbers to record, as Gymnasium's ``info``: ``{"reward_near": near,
        "is_success": touching}``. Those with the word reward, cost or penalty in their names are summed over
        an episode; of others the last value is recorded. The names must be the same in each step.
        """

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
    backend: str

    @classmethod
    def of(cls, id: str, env: JaxEnv, *, backend: str = "native") -> "JaxTask":
        """The environment, checked. ``backend``: for the terminal.

        Raises:
            EnvError: a space is missing or not supported, or the functions do not fit them or one another.
        """
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), gym.Space):
                raise EnvError(f"{id}: {type(env).__name__}.{name} must be a space of gymnasium.spaces")
        limit = env.time_limit
        if limit is not None and (type(limit) is not int or limit < 1):
            raise EnvError(f"{id}: time_limit must be a whole number >= 1 or None; it is {limit!r}")
        task = cls(env, read_spec(id, env, limit, None), backend)
        check_functions(task)
        return task

    # Traced once each, whatever calls them: the physics of a robot takes seconds to trace.

    @cached_property
    def reset(self) -> Callable[[PRNGKeyArray], PyTree[Array]]:
        """The first state of the episode with this key."""
        return jax.jit(lambda key: _strong(self.env.reset(key=key)), inline=True)

    @cached_property
    def observe(self) -> Callable[[PyTree[Array]], PyTree[Array]]:
        """What an agent sees of a state, in the form of the space."""
        return jax.jit(lambda state: self.env.observe(state), inline=True)

    @cached_property
    def step(
        self,
    ) -> Callable[..., tuple[PyTree[Array], Float[Array, ""], Bool[Array, ""], dict[str, Array]]]:
        """From state, action, the key of the episode and its number of steps so far to state, reward, end,
        and the numbers of its info by the names under which they are recorded.
        """

        def step(state: PyTree, action: PyTree, key: PRNGKeyArray, elapsed: Int[Tensor, ""]):
            # a branch of its own: whatever reset draws from the episode's key, a step draws something else
            key = jax.random.fold_in(jax.random.fold_in(key, _STEPS), elapsed)
            returned = self.env.step(state, action, key=key)
            if not (isinstance(returned, tuple) and len(returned) in (3, 4)):
                had = f"{len(returned)} values" if isinstance(returned, tuple) else "one value"
                raise _Wrong(
                    f"step() returned {had}, it must return (state, reward, terminated), or these and info"
                )
            state, reward, terminated, *info = returned
            if jnp.asarray(terminated).dtype != bool:
                dtype = jnp.asarray(terminated).dtype
                raise _Wrong(f"step() returned terminated as {dtype}, it must be a boolean")
            numbers = _numbers_of(*info) if info else {}
            return _strong(state), jnp.asarray(reward, jnp.float32), jnp.asarray(terminated), numbers

        return jax.jit(step, inline=True)

    @cached_property
    def info(self) -> dict[str, bool]:
        """The names of the numbers in its info, and whether each is summed over an episode."""
        *_, info = jax.eval_shape(self.step, *_arguments(self, jax.eval_shape(self.reset, _key())))
        return {name: is_summed(name) for name in info}

    @cached_property
    def resets_are_dear(self) -> bool:
        """Whether a reset computes so much that it should not run for episodes that go on."""
        traced = jax.make_jaxpr(self.reset)(jax.eval_shape(jax.random.key, 0))
        return _numbers_computed(traced.jaxpr) > MUCH


_STEPS = 0x57E9  # which branch of an episode's key its steps draw from
MUCH = 1000  # numbers; Pendulum's reset computes 28, MinAtar's Breakout's 5,900, a robot's 15,000 and more


def _numbers_computed(jaxpr: Any) -> int:
    """How many numbers a traced function computes, with those in between."""
    count = 0
    for equation in jaxpr.eqns:
        count += sum(math.prod(result.aval.shape) for result in equation.outvars)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                count += times * _numbers_computed(getattr(inner, "jaxpr", inner))
    return count


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns")


class World(eqx.Module):
    """N states, the number of steps since each episode began, and what these steps reported."""

    state: PyTree[Shaped[Array, "N ..."]]
    elapsed: Int[Array, " N"]
    info: dict[str, Float[Array, " N"]] = eqx.field(default_factory=dict)  # of the running episodes


def begin(task: JaxTask, world: World, mask: Bool[Array, " N"], keys: Shaped[Array, " N"]) -> World:
    """The world with a new episode in each environment of ``mask``; ``keys``: of those episodes."""
    started = _reset_some if task.resets_are_dear else _reset_all
    info = {name: jnp.where(mask, 0.0, values) for name, values in world.info.items()}
    return World(started(task, world.state, mask, keys), jnp.where(mask, 0, world.elapsed), info)


def _reset_all(task: JaxTask, state: PyTree, mask: Bool[Array, " N"], keys: Shaped[Array, " N"]) -> PyTree:
    """All N are reset, and those of ``mask`` chosen: one vectorized computation."""

    def choose(new, old):
        return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, jax.vmap(task.reset)(keys), state)


def _reset_some(task: JaxTask, state: PyTree, mask: Bool[Array, " N"], keys: Shaped[Array, " N"]) -> PyTree:
    """Only those of ``mask`` are reset, some at a time: in most steps that is none."""
    num_envs = mask.size
    at_once = max(1, num_envs // 16)

    def reset(now):
        left, state = now
        (places,) = jnp.nonzero(left, size=at_once, fill_value=num_envs)  # beyond the end: dropped below
        fresh = jax.vmap(task.reset)(keys[jnp.minimum(places, num_envs - 1)])
        state = jax.tree.map(lambda old, new: old.at[places].set(new, mode="drop"), state, fresh)
        return left.at[places].set(False, mode="drop"), state

    return jax.lax.while_loop(lambda now: jnp.any(now[0]), reset, (mask, state))[1]


def empty_world(task: JaxTask, num_envs: int) -> World:
    """A world in which no episode has begun: all zeros."""
    state = jax.eval_shape(task.reset, jax.random.key(0))

    def empty(x):
        shape = (num_envs, *x.shape)
        return jax.random.split(jax.random.key(0), shape) if _is_key(x) else jnp.zeros(shape, x.dtype)

    info = {name: jnp.zeros(num_envs) for name in task.info}
    return World(jax.tree.map(empty, state), jnp.zeros(num_envs, jnp.int32), info)


def observe(task: JaxTask, world: World) -> PyTree[Array]:
    """The observations of all N as a policy reads them (``poise.spec.Spec``)."""
    obs = jax.vmap(task.observe)(world.state)
    return pack(task.spec, read_leaves(task.spec, obs), world.elapsed.size, xp=jnp)


def advance(
    task: JaxTask, world: World, action: Shaped[Tensor, "N *row"], keys: Shaped[Array, " N"]
) -> tuple[World, EnvStep]:
    """One step of all N environments, with the time limit.

    ``action``: rows in the environment's units, choices as indices from 0. ``keys``: of the episodes; that of
    a step follows from its number within the episode.
    """
    own = unpack_action(task.spec, action, xp=jnp)
    state, reward, terminated, new = jax.vmap(task.step)(world.state, own, keys, world.elapsed)
    info = {name: world.info[name] + new[name] if summed else new[name] for name, summed in task.info.items()}
    after = World(state, world.elapsed + 1, info)
    limit = task.spec.time_limit
    truncated = jnp.zeros_like(terminated) if limit is None else after.elapsed >= limit
    return after, EnvStep(observe(task, after), reward, terminated, truncated)


def with_info(world: World, arrays: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The arrays of a checkpoint with those of ``world.info``, NaN where it has none.

    An earlier version of poise, or of the environment, has not recorded them: what the running episodes
    reported before is not known. ``prefix``: of the names of the world's arrays.
    """
    begun = np.asarray(arrays.get(f"{prefix}elapsed", 1)) > 0
    unknown = np.where(begun, np.nan, 0.0).astype(np.float32)
    own = {f"{prefix}info.{name}": unknown for name in world.info}
    kept = {name: x for name, x in arrays.items() if name in own or not name.startswith(f"{prefix}info.")}
    return own | kept


def _numbers_of(info: Any) -> dict[str, Float[Array, ""]]:
    """The numbers of an info, by the names under which they are recorded.

    Raises:
        _Wrong: it is not a dictionary of numbers.
    """
    if not isinstance(info, dict):
        raise _Wrong(f"step() returned info as {type(info).__name__}, it must be a dictionary of numbers")
    numbers = {}
    for key, (name, _) in slots(info).items():
        value = jnp.asarray(info[key])
        if value.shape != ():
            raise _Wrong(f"step() returned info[{key!r}] of shape {value.shape}, it must be one number")
        numbers[name] = value.astype(jnp.float32)
    return numbers


def _key() -> Any:
    return jax.eval_shape(jax.random.key, 0)


def _arguments(task: JaxTask, state: Any) -> tuple[Any, ...]:
    """The shapes and dtypes that ``task.step`` takes; ``state``: those of a state."""
    spec = task.spec
    rows = jax.ShapeDtypeStruct((1, *spec.action_row), jnp.float32 if spec.boxes else jnp.int32)
    action = jax.eval_shape(lambda x: jax.tree.map(lambda y: y[0], unpack_action(spec, x, xp=jnp)), rows)
    return state, action, _key(), jax.ShapeDtypeStruct((), jnp.int32)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _strong(state: PyTree) -> PyTree[Array]:
    """The state as arrays with types of their own: weak ones change from one step to the next."""
    arrays = jax.tree.map(jnp.asarray, state)
    return jax.tree.map(lambda x: x if _is_key(x) else jax.lax.convert_element_type(x, x.dtype), arrays)


class _Wrong(Exception):
    """A sentence about what a function of the environment returned."""


def check_functions(task: JaxTask) -> None:
    """Traces the three functions once, without computing anything.

    Raises:
        EnvError: one of them fails, or returns something of another form than it must.
    """
    env, spec = task.env, task.spec

    def traced(name: str, function: Any, *arguments: Any) -> Any:
        try:
            return jax.eval_shape(function, *arguments)
        except KeyboardInterrupt:
            raise
        except _Wrong as error:
            raise EnvError(f"{spec.id}: {error}") from None
        except Exception as error:
            raise EnvError(f"{spec.id}: {name}() {_failure(error)}") from error

    for name, arguments in (("reset", "self, *, key"), ("step", "self, state, action, *, key")):
        if "key" not in inspect.signature(getattr(env, name)).parameters:
            raise EnvError(f"{spec.id}: {name}() takes no key; write def {name}({arguments})")
    state = traced("reset", task.reset, _key())
    if not jax.tree.leaves(state):
        raise EnvError(f"{spec.id}: reset() returned no array; it must return the state")
    if isinstance(state, tuple) and state[1:] == ({},):
        raise EnvError(f"{spec.id}: reset() returned (state, {{}}); it must return the state alone")
    _check_observation(task, traced("observe", task.observe, state))
    after, *numbers, _ = traced("step", task.step, *_arguments(task, state))
    if jax.tree.structure(after) != jax.tree.structure(state):
        raise EnvError(f"{spec.id}: step() returned the state {_form(after)}, reset() {_form(state)}")
    for (path, new), old in zip(jax.tree.leaves_with_path(after), jax.tree.leaves(state), strict=True):
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            where = jax.tree_util.keystr(path)
            raise EnvError(
                f"{spec.id}: state{where} is {_form(old)} after reset() and {_form(new)} after step(); "
                "shapes and dtypes must stay the same"
            )
    for name, value in zip(("reward", "terminated"), numbers, strict=True):
        if value.shape != ():
            raise EnvError(f"{spec.id}: step() returned {name} of shape {value.shape}, it must be one number")


def _check_observation(task: JaxTask, obs: Any) -> None:
    """Refuses observations of another form than their space."""
    spec, space = task.spec, task.env.observation_space
    for leaf in spec.obs:
        name = "an array" if not leaf.path else repr(leaf.name)
        try:
            array, declared = at(obs, leaf.path), at(space, leaf.path)
        except (LookupError, TypeError):
            raise EnvError(f"{spec.id}: observe() returned no {name}; its space is {space}") from None
        if not hasattr(array, "shape"):
            raise EnvError(f"{spec.id}: observe() returned {type(array).__name__}, not {name}")
        flat = leaf.kind == "mask" and array.shape == (spec.num_logits,)
        if array.shape != leaf.shape and not flat:
            shapes = f"of shape {array.shape}, its space has {leaf.shape}"
            raise EnvError(f"{spec.id}: observe() returned {leaf.name} {shapes}")
        # pixels are scaled by the bounds of their space, so its dtype must be theirs
        if leaf.kind == "image" and array.dtype != declared.dtype:
            dtypes = f"as {array.dtype}, its space has {declared.dtype}"
            raise EnvError(f"{spec.id}: observe() returned {leaf.name} {dtypes}")


_CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


_HERE = str(Path(__file__).parents[2])  # the folder of poise


def _failure(error: Exception) -> str:
    """What an environment's function did wrong, in one line, with the line of its file."""
    where, trace = "", error.__traceback__
    while trace is not None:  # the last line that is neither of poise nor of an installed package
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((_HERE, "<")) and "site-packages" not in file:
            where = f" (line {trace.tb_lineno} of {file})"
        trace = trace.tb_next
    if isinstance(error, _CONCRETE):
        return (
            f"uses a value of the state, action or key in Python's if, while or int(), or in NumPy{where}; "
            "the value is not known when the function is compiled: use jnp.where, jax.lax and jax.numpy"
        )
    return f"raised {message_of(error).splitlines()[0]}{where}"


def _form(tree: Any) -> str:
    """Structure, shapes and dtypes of a tree of arrays, as text."""
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)).replace("'", "")
