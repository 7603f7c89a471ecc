"""Stages of a film: one environment of any backend that plays an episode and draws its state."""

import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped, UInt8

from poise import envs
from poise.envs.adjusting import Settings, adjust_all
from poise.envs.checking import EnvFault
from poise.envs.forms.making import is_registered, make_plain
from poise.envs.forms.objects import SingleEnv
from poise.envs.mujoco_warnings import hear_mujoco
from poise.envs.packing import Obs, first_of, unpack_action
from poise.errors import PoiseError, message_of
from poise.spec import IN_JAX, Spec
from poise.system.extras import needs

MAX_FPS = 30.0  # of a film; also the rate of an environment that names none
ENLARGED = 2  # pixels of a film for each pixel of an Atari game

Frame = UInt8[np.ndarray, "height width 3"]


class VideoError(PoiseError):
    """The environment cannot be drawn here. The message says which packages to install."""

    exit_code = 1


@runtime_checkable
class Stage(Protocol):
    """One environment that can be drawn."""

    fps: float  # environment steps per second of simulated time

    spec: Spec

    def adjust(self, settings: Settings) -> None:
        """Changes attributes of the environment, from the next episode on.

        Raises:
            EnvError: it has no such attributes.
        """
        ...

    def reset(self, seed: int) -> Obs:
        """Starts an episode and returns its first observation, as a policy reads it: with an axis N = 1."""
        ...

    def step(self, action: Shaped[np.ndarray, "1 ..."]) -> tuple[Obs, bool]:
        """Takes a row in the environment's units; returns the observation it leads to, and whether the
        episode has ended.
        """
        ...

    def draw(self) -> Frame:
        """A picture of the current state."""
        ...

    def close(self) -> None: ...


def open_stage(task: envs.Resolved) -> Stage:
    """The stage that can draw this task.

    Raises:
        VideoError: it cannot be drawn on this machine.
    """
    if task.backend == "atari":
        return _AtariStage(task)
    if task.backend in IN_JAX:
        return _JaxStage(task)
    return _GymnasiumStage(task) if is_registered(task.id) else _MujocoStage(task)


def close_quietly(closable: Any) -> None:
    """Closes an object that is not needed any more, and ignores whatever that raises."""
    with suppress(Exception, SystemExit):
        closable.close()


@contextmanager
def video_errors(id: str) -> Iterator[None]:
    """Turns whatever an environment or its renderer raises into a VideoError.

    So it ends the film alone, not the training.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise VideoError(f"no video of {id}: {_advice(error)}") from error


def _advice(error: BaseException) -> str:
    if isinstance(error, EnvFault):  # without the place, which is not one of a training
        return _advice(error.__cause__) if error.__cause__ else f"{error}".partition(": ")[2]
    text = message_of(error)
    if "egl" in text.lower() or "opengl" in text.lower():
        return "MuJoCo needs EGL to draw; on Debian: apt install libegl1 libegl-mesa0 libgl1-mesa-dri"
    if "pygame" in text:
        return f"Gymnasium draws it with pygame and {needs('video')}"
    message = text.partition(": ")[2].strip()  # without the type of the error
    return message.splitlines()[0] if message else text


@contextmanager
def _headless() -> Iterator[None]:
    """Draws without a screen: MuJoCo through EGL (Gymnasium would try a window first), pygame likewise."""
    wanted = {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy"} if sys.platform == "linux" else {}
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


class _MujocoStage:
    """A task of the batch engine that Gymnasium does not have."""

    def __init__(self, task: envs.Resolved):
        from poise.envs.mujoco import MujocoEnv

        env = envs.make(task.id, 1, task.backend)
        assert isinstance(env, MujocoEnv)
        self._env, self.fps, self.spec = env, 1 / env.seconds_a_step, env.spec
        with _headless(), video_errors(task.id):
            import mujoco
            from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

            self._scene: Any = mujoco.MjData(env.model)  # pyright: ignore[reportAttributeAccessIssue]
            env.draw(self._scene)
            self._viewer: Any = OffScreenViewer(env.model, self._scene, 480, 480)
            self.draw()

    def adjust(self, settings: Settings) -> None:
        adjust_all([self._env], settings)

    def reset(self, seed: int) -> Obs:
        return self._env.reset(np.ones(1, bool), [seed])

    def step(self, action: Shaped[np.ndarray, "1 ..."]) -> tuple[Obs, bool]:
        step = self._env.step(action)
        return step.next_obs, bool(step.terminated[0] | step.truncated[0])

    def draw(self) -> Frame:
        self._env.draw(self._scene)
        return np.ascontiguousarray(self._viewer.render("rgb_array"))

    def close(self) -> None:
        self._viewer.close()


class _JaxStage:
    """An environment in JAX, which draws its state."""

    def __init__(self, task: envs.Resolved):
        from poise.envs.native.vector import NativeEnv

        env = envs.make(task.id, 1, task.backend)
        assert isinstance(env, NativeEnv)
        self._env, self.spec, self.fps = env, env.spec, env.task.env.fps
        with _headless(), video_errors(task.id):
            self.reset(0)
            self.draw()

    def adjust(self, settings: Settings) -> None:
        adjust_all([self._env], settings)

    def reset(self, seed: int) -> Obs:
        self._action: Any = None
        return self._env.reset(np.ones(1, bool), [seed])

    def step(self, action: Shaped[np.ndarray, "1 ..."]) -> tuple[Obs, bool]:
        step = self._env.step(action)
        self._action = first_of(unpack_action(self.spec, action))
        return step.next_obs, bool(step.terminated[0] | step.truncated[0])

    def draw(self) -> Frame:
        frame: Any = self._env.task.env.draw(self._env.state(0), self._action)
        return checked_frame(np.asarray(frame), "draw()")

    def close(self) -> None:
        self._env.close()


class _AtariStage:
    """A game on the atari backend, and the same episode in color beside it."""

    def __init__(self, task: envs.Resolved):
        from poise.envs.atari import Screen

        self._env, self._screen = envs.make(task.id, 1, task.backend), Screen(task.id)
        self.spec, self.fps = self._env.spec, self._screen.steps_a_second

    def adjust(self, settings: Settings) -> None:
        adjust_all([self._env], settings)

    def reset(self, seed: int) -> Obs:
        self._frame = self._screen.reset(seed)
        return self._env.reset(np.ones(1, bool), [seed])

    def step(self, action: Shaped[np.ndarray, "1 ..."]) -> tuple[Obs, bool]:
        step = self._env.step(action)
        self._frame = self._screen.step(action)
        return step.next_obs, bool(step.terminated[0] | step.truncated[0])

    def draw(self) -> Frame:
        return self._frame.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)

    def close(self) -> None:
        self._env.close()


class _GymnasiumStage:
    """A Gymnasium environment that draws itself."""

    def __init__(self, task: envs.Resolved):
        id = task.id
        with warnings.catch_warnings(), _headless():
            warnings.simplefilter("ignore")
            hear_mujoco()
            with video_errors(id):
                made = make_plain(id, render_mode="rgb_array")
                self._env = SingleEnv(made, id, task.reading)
                self.spec = self._env.spec
            hear_mujoco()  # again: the first call does nothing if gym.make is what loads MuJoCo
            try:
                with video_errors(id):
                    self.reset(0)
                    self.draw()
                    self.fps = _frame_rate(made.metadata.get("render_fps"))
            except VideoError:
                close_quietly(self._env)
                raise

    def adjust(self, settings: Settings) -> None:
        adjust_all([self._env], settings)

    def reset(self, seed: int) -> Obs:
        return self._env.reset(np.ones(1, bool), [seed])

    def step(self, action: Shaped[np.ndarray, "1 ..."]) -> tuple[Obs, bool]:
        step = self._env.step(action)
        return step.next_obs, bool(step.terminated[0] | step.truncated[0])

    def draw(self) -> Frame:
        return checked_frame(self._env.render(), "render()")

    def close(self) -> None:
        self._env.close()


def checked_frame(frame: Any, method: str) -> Frame:
    """What an environment's ``method`` drew.

    Raises:
        TypeError: it is not a picture.
    """
    is_image = isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] in (3, 4)
    if not is_image or not frame.size or frame.dtype != np.uint8:
        raise TypeError(f"{method} must return a picture: an array of uint8, height x width x 3")
    return np.ascontiguousarray(frame[:, :, :3])


def _frame_rate(render_fps: Any) -> float:
    """The frame rate that an environment's metadata names; MAX_FPS if it names none."""
    try:
        rate = float(render_fps or MAX_FPS)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"its metadata has render_fps {render_fps!r}, must be a number above 0")
    return rate
