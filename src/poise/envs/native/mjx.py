"""``poise.Task`` on MJX: the same class as on the batch engine, compiled by JAX for any device.

The task's functions are written with NumPy. Here they get arrays of JAX that NumPy's functions accept
(``lifted.py``). Starts are drawn by the task itself, on the host: a pool of them, from which each episode
takes one by its key. The only file that imports mujoco.mjx.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8
from mujoco import mjx

from poise.envs.mujoco import MujocoEnv, Task, has_place, is_noisy
from poise.envs.native.brax_style import their_ways
from poise.envs.native.jax_env import JaxEnv
from poise.envs.native.lifted import Lifted, as_jax
from poise.envs.vector import EnvError
from poise.errors import message_of

_mj: Any = mujoco
_mjx: Any = mjx
STARTS = 1024  # in the pool
KEPT = ("qpos", "qvel", "act", "qacc_warmstart", "time")  # from which a step continues


class Simulation(NamedTuple):
    """What is kept of one simulation: all that a step needs, and what the task reads."""

    kept: dict[str, Array]
    derived: dict[str, Array]  # as they were before the last substep
    ctrl: Float[Array, " A"]
    start: Int[Array, ""]  # its place in the pool


class _View:
    """One simulation as the task's functions read a batch: N = 1."""

    def __init__(self, simulation: Simulation, model: Any):
        self.model = model
        for name, value in (simulation.kept | simulation.derived | {"ctrl": simulation.ctrl}).items():
            setattr(self, name, Lifted(value[None]))


class MjxEnv(JaxEnv):
    """A task of the batch engine in JAX."""

    def __init__(self, id: str, task: Task):
        for method, own in (("observe(self, batch, noise)", is_noisy(task)), ("place", has_place(task))):
            if own:
                raise EnvError(f"{id}: its {method} runs on backend mujoco only, not on mjx")
        self._task, host = task, MujocoEnv(id, task, 1)
        self.time_limit, self.fps = task.time_limit, 1 / host.seconds_a_step
        (part,) = host.spec.action
        low, high = (np.array(bound, np.float32) for bound in (part.low, part.high))
        self.action_space = gym.spaces.Box(low, high)
        boxes: dict[str, gym.Space] = {
            leaf.name: gym.spaces.Box(-np.inf, np.inf, leaf.shape) for leaf in host.spec.obs
        }
        self._named = bool(host.spec.obs[0].path)
        self.observation_space = gym.spaces.Dict(boxes) if self._named else boxes[host.spec.obs[0].name]
        self.model = host.model
        with their_ways():
            if self.model.opt.solver == _mj.mjtSolver.mjSOL_PGS:  # MJX does not have it
                self.model.opt.solver = _mj.mjtSolver.mjSOL_NEWTON
            self._mjx_model = _mjx.put_model(self.model, impl="jax")
            self._empty = _mjx.make_data(self.model, impl="jax")
        self._pool = jax.tree.map(jnp.asarray, draw_starts(task, self.model))

    def reset(self, *, key: PRNGKeyArray) -> Simulation:
        start = jax.random.randint(key, (), 0, STARTS)
        row = jax.tree.map(lambda x: x[start], self._pool)
        with their_ways():
            data = self._empty.replace(qpos=row["qpos"], qvel=row["qvel"])
            data = _mjx.forward(self._model_of(start), data)
        return self._simulation(data, jnp.zeros(self.model.nu), start)

    def observe(self, state: Simulation) -> Any:
        with their_ways():
            obs: Any = self._task.observe(self._view(state))
        if self._named:
            return {str(name): as_jax(array, jnp.float32)[0] for name, array in obs.items()}
        return as_jax(obs, jnp.float32)[0]

    def step(
        self, state: Simulation, action: Float[Array, " A"], *, key: PRNGKeyArray
    ) -> tuple[Simulation, Float[Array, ""], Bool[Array, ""], dict[str, Float[Array, ""]]]:
        task, model = self._task, self._model_of(state.start)
        with their_ways():
            before = task.remember(self._view(state))
            data = self._empty.replace(**state.kept, ctrl=action)
            data, _ = jax.lax.scan(
                lambda data, _: (_mjx.step(model, data), None), data, length=task.frame_skip
            )
            if "cfrc_ext" in task.derived:
                data = _mjx.rne_postconstraint(model, data)
            after = self._simulation(data, action, state.start)
            lifted: Any = Lifted(action[None])
            reward, terminated, *rest = task.outcome(self._view(after), before, lifted)
            info = {
                name: as_jax(value, jnp.float32)[0] for given in rest[:1] for name, value in given.items()
            }
            return after, as_jax(reward, jnp.float32)[0], as_jax(terminated, bool)[0], info

    def draw(self, state: Simulation, action: Any | None) -> UInt8[np.ndarray, "height width 3"]:
        from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

        if not hasattr(self, "_viewer"):
            self._scene = _mj.MjData(self.model)
            self._viewer: Any = OffScreenViewer(self.model, self._scene, 480, 480)
        for name in ("qpos", "qvel", "act"):
            getattr(self._scene, name)[:] = jax.device_get(state.kept[name])
        _mj.mj_forward(self.model, self._scene)
        return np.ascontiguousarray(self._viewer.render("rgb_array"))

    def _view(self, simulation: Simulation) -> Any:
        return _View(simulation, self.model)

    def _model_of(self, start: Int[Array, ""]) -> Any:
        """The model, with the fields that this start varies."""
        varied = {name: field[start] for name, field in self._pool["model"].items()}
        return self._mjx_model.replace(**varied) if varied else self._mjx_model

    def _simulation(self, data: Any, ctrl: Array, start: Array) -> Simulation:
        derived = {name: _field(data, name) for name in self._task.derived}
        return Simulation({name: getattr(data, name) for name in KEPT}, derived, ctrl, start)


def make_task(id: str, task: Task) -> MjxEnv:
    """
    Raises:
        EnvError: MJX cannot simulate the model, or a function of the task cannot be compiled.
    """
    try:
        return MjxEnv(id, task)
    except NotImplementedError as error:
        raise EnvError(f"{id}: MJX cannot simulate its model: {message_of(error)}") from error


def _field(data: Any, name: str) -> Array:
    """A field of the data; some are the implementation's own."""
    return getattr(data, name) if hasattr(data, name) else getattr(data._impl, name)


def draw_starts(task: Task, model: Any) -> dict[str, Any]:
    """The pool: positions, velocities and the fields of the model that differ between episodes.

    Start i is that of the episode with seed i on the batch engine.
    """
    data = _mj.MjData(model)
    qpos, qvel, models = [], [], []
    for seed in range(STARTS):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        start = task.draw(rng, data.qpos.copy(), data.qvel.copy())
        qpos.append(start[0])
        qvel.append(start[1])
        models.append(_varied(task, model, rng))
    fields = {name: np.stack([own[name] for own in models]) for name in models[0]}
    return {
        "qpos": np.asarray(qpos, np.float32),
        "qvel": np.asarray(qvel, np.float32),
        "model": {name: field for name, field in fields.items() if len(np.unique(field, axis=0)) > 1},
    }


def _varied(task: Task, model: Any, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    """The fields that ``vary`` draws, and the constants that MuJoCo derives from them."""
    if not task.varied:
        return {}
    import copy

    own = copy.copy(model)
    task.vary(rng, {name: getattr(own, name) for name in task.varied})
    _mj.mj_setConst(own, _mj.MjData(own))
    names = {*task.varied, "body_subtreemass", "body_invweight0", "dof_invweight0", "tendon_invweight0"}
    return {name: np.asarray(getattr(own, name), np.float32).copy() for name in names}
