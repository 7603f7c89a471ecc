"""MuJoCo tasks on MuJoCo's batch engine: N simulations stepped by a C++ thread pool."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int
from mujoco.batch import Batch

from poise.arrays import ArraysError, fitted, part, prefixed
from poise.config import LAST_SEED
from poise.envs.adjusting import Adjusted, Settings, apply_settings
from poise.envs.checking import EnvFault, described
from poise.envs.info import BatchInfo
from poise.envs.mujoco_warnings import hear_mujoco
from poise.envs.noise import Noise
from poise.envs.packing import pack
from poise.envs.replay.inner import Inner, differing, packed
from poise.envs.vector import EnvError, EnvStep, Restored
from poise.spec import Leaf, Part, Spec
from poise.system.cores import num_cores

_mj: Any = mujoco  # a static checker does not see its compiled names
MjModel: TypeAlias = Any
MjData: TypeAlias = Any
AnyBatch: TypeAlias = Any  # mujoco's Batch, or one simulation on MJX with the same fields


class Task(ABC):
    """A task: an MJCF model, a frame skip, a time limit, and functions over N simulations.

    The functions read fields of the batch like those of MjData, with a leading axis N: ``batch.qpos`` is
    ``[N, nq]``. A derived field (``xpos``, ``sensordata``, ...) describes the state before the last substep,
    as after ``mj_step``. Derived fields that are read must be named in ``derived``.

    The functions also run compiled, on backend ``mjx``. There the fields and the actions are arrays of JAX
    that NumPy's functions and operators accept, and N is 1. Those of ``batch.model`` stay NumPy's.

    Fields of the model that are named in ``varied`` (``body_mass``, ``geom_friction``, ``opt.gravity``, ...)
    may differ in each episode; ``vary`` draws them.
    """

    model: ClassVar[str]  # path of the MJCF file
    frame_skip: ClassVar[int]  # physics steps of one environment step
    time_limit: ClassVar[int | None] = None  # environment steps of an episode
    derived: ClassVar[tuple[str, ...]] = ()
    varied: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def draw(
        self, rng: np.random.Generator, qpos: Float[np.ndarray, " nq"], qvel: Float[np.ndarray, " nv"]
    ) -> tuple[Float[np.ndarray, " nq"], Float[np.ndarray, " nv"]]:
        """The start of one episode; ``qpos``, ``qvel`` are the model's defaults."""

    def vary(self, rng: np.random.Generator, values: Mapping[str, np.ndarray]) -> None:  # noqa: B027
        """Change the fields of ``varied`` in place, for one episode.

        ``values`` holds the model's own value of each field, in the model's shape. Called after ``draw``,
        with the same generator. Required if ``varied`` names a field.
        """

    def place(  # noqa: B027
        self,
        rng: np.random.Generator,
        mocap_pos: Float[np.ndarray, "M 3"],
        mocap_quat: Float[np.ndarray, "M 4"],
    ) -> None:
        """Change where the mocap bodies are, in place, for one episode: a target, an obstacle.

        Both arrays hold the model's own values. Called after ``draw`` and ``vary``, with the same generator.
        """

    @abstractmethod
    def observe(self, batch: AnyBatch) -> Float[np.ndarray, "N O"] | Mapping[str, Float[np.ndarray, "N _"]]:
        """The observations of the current state: one array, or several by name.

        Names serve options: with ``policy.see`` and ``value.see`` each network sees some of them. A method
        with a second argument, ``observe(self, batch, noise)``, gets random numbers that follow from the
        episode's seed and the step: ``noise.normal(scale, size)`` is ``[N, size]`` (``poise.envs.noise``).
        """

    def remember(self, batch: AnyBatch) -> Any:
        """A copy of the parts of the state before the step that ``outcome`` needs."""
        return None

    @abstractmethod
    def outcome(
        self, batch: AnyBatch, before: Any, action: Any
    ) -> (
        tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]
        | tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"], Mapping[str, Any]]
    ):
        """Reward and termination of the step that just ended, and optionally numbers to record, by name.

        These are arrays ``[N]``, as Gymnasium's ``info`` has them: ``{"reward_near": near, "is_success":
        touching}``. Those with the word reward, cost or penalty in their names are summed over an episode; of
        others the last value is recorded. The names must be the same in each step.
        """


class Simulations(Batch):
    """A batch that also computes ``cfrc_ext``, the external forces on each body.

    MuJoCo does not compute them in a step. As in Gymnasium they describe the last substep, and are 0 at the
    start of an episode.
    """

    def __init__(self, model: Any, num_envs: int, num_threads: int, derived: Sequence[str]):
        self._forces = np.zeros((num_envs, model.nbody, 6)) if "cfrc_ext" in derived else None
        super().__init__(model, num_envs, num_threads, persistent=self._forces is not None)
        self._default_state = self.state[0].copy()
        self._single = _mj.MjData(model)
        for field in derived:
            if field != "cfrc_ext":
                self.bind(field)

    def __getattr__(self, name: str) -> np.ndarray:
        """A field of the data, kept after its first use: the array is the engine's own memory."""
        field = super().__getattr__(name)
        object.__setattr__(self, name, field)
        return field

    @property
    def cfrc_ext(self) -> Float[np.ndarray, "N bodies 6"]:
        if self._forces is None:
            raise AttributeError("cfrc_ext must be named in the task's derived fields")
        return self._forces

    def begin(self, ids: Int[np.ndarray, " K"]) -> None:
        """Reset these simulations to the model's defaults. The caller writes their state next."""
        if self._forces is None:
            self.state[ids] = self._default_state  # all that is kept; ``reset`` takes ten times as long
            return
        self.reset(ids, stage=_mj.mjtStage.mjSTAGE_NONE)
        self._forces[ids] = 0

    def advance(self, frame_skip: int) -> None:
        """``frame_skip`` substeps of all simulations."""
        self.step(nstep=frame_skip)
        if self._forces is not None:
            for i in range(self.nsim):
                self.get_data(i, self._single)
                _mj.mj_rnePostConstraint(self.model, self._single)
                self._forces[i] = self._single.cfrc_ext


class MujocoEnv:
    """N simulations of a ``Task``. The result does not depend on the number of threads."""

    def __init__(self, id: str, task: Task, num_envs: int, num_threads: int | None = None):
        num_threads = min(num_threads or num_cores(), num_envs)
        hear_mujoco()
        self.num_envs = num_envs
        self.backend = f"mujoco ({num_threads} thread{'s' * (num_threads > 1)})"
        self._id, self._task, self._inner = id, task, Inner(task)
        self._noisy, self._places = is_noisy(task), has_place(task)
        if task.varied and type(task).vary is Task.vary:
            raise EnvError(f"{id}: {type(task).__name__} names varied fields but has no vary()")
        try:
            self._model = _mj.MjModel.from_xml_path(task.model)
            self._batch = Simulations(self._model, num_envs, num_threads, task.derived)
            self._varied = {field: self._batch.expand(field) for field in task.varied}
        except (ValueError, OSError) as error:
            raise EnvError(f"{id}: {error}") from error
        self._defaults = {field: values[0].copy() for field, values in self._varied.items()}
        start = _mj.MjData(self._model)
        self._start = start.qpos.copy(), start.qvel.copy()
        self._elapsed = np.zeros(num_envs, np.int64)
        self._seed = np.zeros(num_envs, np.int64)  # of the running episode
        self._stepped = np.zeros(num_envs, bool)  # whether the episode has had a step
        self._before = np.zeros_like(self._batch.state)  # rows before the last step
        self._never = np.zeros(num_envs, bool)
        self._info = BatchInfo(num_envs)
        self._adjusted = Adjusted(num_envs)
        self._batch.forward()
        try:
            obs = self._seen(self._elapsed)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._fault(error) from error
        leaves = tuple(_leaves(id, obs, num_envs))
        if not self._model.nu:
            raise EnvError(f"{id}: its model has no actuators; add some: <actuator> in {task.model}")
        low, high = self._bounds()
        action = Part((), (self._model.nu,), tuple(low), tuple(high))
        self.spec = Spec(id, leaves, (action,), task.time_limit)

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        self._adjusted.begin(mask)
        return self._reset(mask, seeds)

    def adjust(self, settings: Settings) -> None:
        """Change attributes of the task (``poise.envs.adjusting``)."""
        apply_settings(settings, self._task)
        self._adjusted.change(settings)

    def _reset_again(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        """``reset`` of episodes that run: each begins with the settings that it began with."""
        if not self._adjusted.used:
            return self._reset(mask, seeds)
        by_number = dict(zip(np.flatnonzero(mask).tolist(), seeds, strict=True))
        for settings, members in self._adjusted.groups(mask):
            apply_settings(settings, self._task)
            self._reset(members, [by_number[i] for i in np.flatnonzero(members).tolist()])
        apply_settings(self._adjusted.now, self._task)
        return self._observe(self._elapsed)

    def _reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        ids = np.flatnonzero(mask)
        try:
            self._batch.begin(ids)
            self._info.begin(ids)
            for i, seed in zip(ids.tolist(), seeds, strict=True):
                self._begin(i, seed)
            if self._varied:
                self._batch.set_const(ids)  # constants that MuJoCo derives from them
            self._batch.forward(ids)
            self._elapsed[ids] = 0
            self._seed[ids], self._stepped[ids] = seeds, False
            return self._observe(self._elapsed)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._fault(error) from error

    def _seen(self, steps: Int[np.ndarray, " N"]) -> Any:
        """What the task observes after so many steps of each episode."""
        observe: Any = self._task.observe
        return observe(self._batch, Noise(self._seed, steps)) if self._noisy else observe(self._batch)

    def _observe(self, steps: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N O"]:
        obs = self._seen(steps)
        if isinstance(obs, np.ndarray):
            return obs
        return np.asarray(
            pack(self.spec, {str(name): np.asarray(x) for name, x in obs.items()}, self.num_envs)
        )

    def _begin(self, i: int, seed: int) -> None:
        # the generator that Gymnasium makes from the same seed, so that both start alike
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        qpos, qvel = (start.copy() for start in self._start)
        self._batch.qpos[i], self._batch.qvel[i] = self._task.draw(rng, qpos, qvel)
        if self._varied:
            for field, values in self._varied.items():
                values[i] = self._defaults[field]
            self._task.vary(rng, {field: values[i, ...] for field, values in self._varied.items()})
        if self._places:
            self._task.place(rng, self._batch.mocap_pos[i, ...], self._batch.mocap_quat[i, ...])

    def step(self, action: Float[np.ndarray, "N A"]) -> EnvStep:
        batch, task = self._batch, self._task
        try:
            before = task.remember(batch)
            self._before[:] = batch.state
            batch.ctrl[:] = action
            batch.advance(task.frame_skip)
            reward, terminated, *info = task.outcome(batch, before, action)
            obs = self._observe(self._elapsed + 1)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._fault(error) from error
        self._elapsed += 1
        self._stepped[:] = True
        shapes = np.shape(reward), np.shape(terminated)
        if shapes != ((self.num_envs,),) * 2:
            raise EnvFault(
                f"{self._id}: outcome returned shapes {shapes[0]}, {shapes[1]}, should be (N,), (N,)"
            )
        if info:
            self._report(*info)
        limit = task.time_limit
        truncated = self._never if limit is None else self._elapsed >= limit
        return EnvStep(obs, reward, terminated, truncated)

    def _report(self, info: Any = None, *more: Any) -> None:
        """Records the numbers of a step."""
        if more or not isinstance(info, Mapping):
            raise EnvFault(
                f"{self._id}: outcome must return (reward, terminated) or (reward, terminated, info), where "
                "info is a dictionary of arrays (N,)"
            )
        try:
            self._info.add(info)
        except (ValueError, TypeError) as error:
            raise EnvFault(f"{self._id}: outcome, info: {error}") from error

    def episode_info(self, env: int) -> dict[str, float]:
        return self._info.of(env)

    def snapshot(self) -> dict[str, np.ndarray]:
        return {
            **prefixed("info", self._info.snapshot()),
            "state": self._batch.state.copy(),
            "before": self._before.copy(),
            "elapsed": self._elapsed.copy(),
            "seed": self._seed.copy(),
            "stepped": self._stepped.copy(),
            "task": packed([self._inner.state()]),
            **self._adjusted.snapshot(),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        """Reset each environment with the seed of its episode, then repeat only the last step.

        The reset varies the fields of the model as before. The step computes the derived fields, which
        describe the state before the last substep and cannot be written.
        """
        arrays = self._adjusted.take(arrays)
        layout, task, info = self.snapshot(), arrays.get("task"), part("info", arrays)
        layout = self._adjusted.take(layout)
        del layout["task"]  # a snapshot of an earlier version of poise has neither this nor infos
        others = {name: array for name, array in arrays.items() if name != "task" and "." not in name}
        fitted({name: array for name, array in layout.items() if "." not in name}, others)
        fitted(dict.fromkeys(info, np.zeros(self.num_envs)), info)
        batch, stepped, rows = self._batch, arrays["stepped"], arrays["state"]
        seeds = arrays["seed"].tolist()
        if not all(0 <= seed <= LAST_SEED for seed in seeds):
            raise ArraysError(f"array seed: every value must be from 0 to {LAST_SEED}")
        obs = self._reset_again(np.ones(self.num_envs, bool), seeds)
        if stepped.any():
            batch.state[stepped] = rows[stepped]
            action = batch.ctrl.copy()
            batch.state[stepped] = arrays["before"][stepped]
            try:
                batch.ctrl[:] = action
                batch.advance(self._task.frame_skip)
                self._elapsed[:] = arrays["elapsed"]
                obs = self._observe(self._elapsed)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise self._fault(error) from error
            if not stepped.all():
                obs = self._reset_again(~stepped, [seeds[i] for i in np.flatnonzero(~stepped)])
        self._before[:], self._elapsed[:] = arrays["before"], arrays["elapsed"]
        self._stepped[:] = stepped
        self._info.restore(info, stepped)
        same = [now.tobytes() == saved.tobytes() for now, saved in zip(batch.state, rows, strict=True)]
        return Restored(obs, np.array(same), self._differences(task))

    def _differences(self, saved: np.ndarray | None) -> tuple[str, ...]:
        """State that the task itself keeps, and should not, if it differs from ``saved``; as a sentence."""
        if saved is None:
            return ()
        fitted({"task": np.empty((len(saved) if saved.ndim else 0, 3), np.int64)}, {"task": saved})
        changed = differing([self._inner.state()], saved)
        return tuple(
            f"{name} is not as it was: a task must not keep state outside of the simulation"
            for name in list(changed)[:1]
        )

    def engine(self, num_threads: int) -> Simulations:
        """Another batch of the same model."""
        return Simulations(self._model, self.num_envs, num_threads, self._task.derived)

    def rows(self) -> Float[np.ndarray, "N S"]:
        """A copy of the engine's state, one row for each simulation."""
        return self._batch.state.copy()

    def replay(
        self,
        moves: Iterable[tuple[Float[np.ndarray, "N A"], Float[np.ndarray, "N S"] | None]],
        engine: Simulations,
    ) -> None:
        """Step the engine alone through recorded actions; ``rows``, if given, are written before the step."""
        for action, rows in moves:
            if rows is not None:
                engine.state[:] = rows
            engine.ctrl[:] = action
            engine.advance(self._task.frame_skip)

    def draw(self, scene: MjData) -> None:
        """Write the first simulation into ``scene``, with all positions computed, to render it."""
        self._batch.get_data(0, scene)
        _mj.mj_forward(self._batch.get_model(0), scene)

    @property
    def model(self) -> MjModel:
        return self._model

    @property
    def seconds_a_step(self) -> float:
        """Simulated time of one environment step."""
        return self._model.opt.timestep * self._task.frame_skip

    def close(self) -> None:
        """Nothing to release: the thread pool ends with the batch."""

    def _bounds(self) -> tuple[list[float], list[float]]:
        """Bounds of the controls; infinite if the model does not limit one."""
        limited = self._model.actuator_ctrllimited.astype(bool)[:, None]
        bounds = np.where(limited, self._model.actuator_ctrlrange, [-np.inf, np.inf]).astype(np.float32)
        low, high = bounds.T.tolist()
        return low, high

    def _fault(self, error: BaseException) -> EnvFault:
        """What a function of the task or the engine raised, as an error with the name of the task."""
        return EnvFault(f"{self._id}: its task raised {described(error)}")


def is_noisy(task: Task) -> bool:
    """Whether ``observe`` takes random numbers."""
    return len(inspect.signature(task.observe).parameters) > 1


def has_place(task: Task) -> bool:
    """Whether the task moves mocap bodies."""
    return type(task).place is not Task.place


def _leaves(id: str, obs: Any, num_envs: int) -> Iterator[Leaf]:
    """The leaves of what ``observe`` returned.

    Raises:
        EnvFault: an array has no axis of the N simulations, or another number of axes than two.
        EnvError: there are no numbers.
    """
    named = obs if isinstance(obs, Mapping) else {None: obs}
    shapes = {name: np.shape(array) for name, array in named.items()}
    for name, shape in shapes.items():
        what = "observe" if name is None else f"observe, {name!r},"
        if len(shape) != 2 or shape[0] != num_envs:
            raise EnvFault(f"{id}: {what} returned shape {shape}, should be (N, O), here N = {num_envs}")
        if not shape[1]:
            raise EnvError(f"{id}: {what} returns no numbers (shape {shape}); there is nothing to learn from")
        yield Leaf(() if name is None else (str(name),), "vector", (shape[1],))
    if not shapes:
        raise EnvError(f"{id}: observe returns no numbers (no arrays); there is nothing to learn from")
