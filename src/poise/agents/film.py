"""A film of the greedy agent: MP4 where an encoder is at hand, otherwise an animated GIF."""

import errno
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from poise import envs
from poise.agents.agent import Agent
from poise.envs.classic import NATIVE_TASKS
from poise.envs.drawing import draw_pendulum
from poise.envs.gymnasium import is_registered, registered_name
from poise.envs.mujoco_warnings import hear_mujoco
from poise.errors import PoiseError, message_of
from poise.seeds import Stream, episode_seed
from poise.store.files import check_room, fresh_path
from poise.system.extras import needs

MAX_SECONDS = 10.0  # of film, episodes one after the other
MAX_FPS = 30.0  # of film; faster environments show every second, third, ... step
GIF_FPS = 20.0

Frame = UInt8[np.ndarray, "height width 3"]


class VideoError(PoiseError):
    """No picture can be made here. The message says which packages to install."""

    exit_code = 1


def film(agent: Agent, path: Path, *, env: str | None = None) -> Path:
    """Films greedy episodes, the first of those that the evaluation plays.

    Args:
        path: without suffix; ``.mp4`` or ``.gif`` is added.
        env: another environment than the agent's own; also where that names a module (``module:Task``).

    Returns:
        The file that was written.

    Raises:
        VideoError: the environment cannot be drawn on this machine, fails, or has other shapes than
            the agent; no file is left.
        EnvError: there is none of this name.
        AgentError: its name names a module and ``env`` does not repeat it.
    """
    place = path.absolute()  # an environment may change the working directory
    found = agent.world(env)
    stage = _stage(found)
    try:
        encoder = find_encoder()
        path = path.with_suffix(".gif" if encoder is None else ".mp4")
        every = max(1, round(stage.fps / MAX_FPS))
        fps = stage.fps / every
        frames = _frames(stage, agent, found.id, every, max(1, int(MAX_SECONDS * fps)))
        with fresh_path(place.with_name(path.name)) as fresh:
            if encoder is None:
                _write_gif(fresh, frames, fps)
            else:
                _write_mp4(fresh, frames, fps, encoder)
        path.with_suffix(".mp4" if encoder is None else ".gif").unlink(missing_ok=True)  # an earlier film
    except PoiseError:
        raise
    except OSError as error:
        check_room(path, error)
        raise VideoError(f"no video: {path}: {error.strerror or error}") from error
    except Exception as error:  # of an encoder
        raise VideoError(f"no video: {type(error).__name__}: {error}") from error
    finally:
        _close(stage)
    return path


def _stage(found: envs.Resolved) -> "_PendulumStage | _MujocoStage | _GymnasiumStage":
    if found.id in NATIVE_TASKS:
        return _PendulumStage(found)
    return _GymnasiumStage(found.id) if is_registered(found.id) else _MujocoStage(found)


def _close(closable: Any) -> None:
    """Closes what nothing is asked of any more, whatever it raises."""
    with suppress(Exception, SystemExit):
        closable.close()


class _MujocoStage:
    """A task on the batch engine that Gymnasium does not have."""

    def __init__(self, found: envs.Resolved):
        from poise.envs.mujoco import MujocoEnv

        env = envs.make(found.id, 1, found.backend)
        assert isinstance(env, MujocoEnv)
        self._env, self.fps = env, 1 / env.seconds_a_step
        with _headless(), _faults(found.id):
            import mujoco
            from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

            self._scene: Any = mujoco.MjData(env.model)  # pyright: ignore[reportAttributeAccessIssue]
            env.draw(self._scene)
            self._viewer: Any = OffScreenViewer(env.model, self._scene, 480, 480)
            self.draw()

    def reset(self, seed: int) -> np.ndarray:
        return self._env.reset(np.ones(1, bool), [seed])[0]

    def step(self, action: Any) -> tuple[np.ndarray, bool]:
        step = self._env.step(action[None])
        return step.next_obs[0], bool(step.terminated[0] | step.truncated[0])

    def draw(self) -> Frame:
        self._env.draw(self._scene)
        return np.ascontiguousarray(self._viewer.render("rgb_array"))

    def close(self) -> None:
        self._viewer.close()


class _PendulumStage:
    """The only native task so far, stepped by whatever backend and drawn from its observation."""

    fps = 20.0  # its time step is 0.05 s

    def __init__(self, found: envs.Resolved):
        self._env = envs.make(found.id, 1, found.backend)
        self._torque = 0.0

    def reset(self, seed: int) -> np.ndarray:
        self._torque = 0.0
        self._obs = self._env.reset(np.ones(1, bool), [seed])[0]
        return self._obs

    def step(self, action: Any) -> tuple[np.ndarray, bool]:
        step = self._env.step(action[None])
        self._torque, self._obs = float(action[0]), step.next_obs[0]
        return self._obs, bool(step.terminated[0] | step.truncated[0])

    def draw(self) -> Frame:
        return draw_pendulum(self._obs, self._torque, self._env.spec.action_high[0])

    def close(self) -> None:
        self._env.close()


class _GymnasiumStage:
    """One Gymnasium environment that draws itself; MuJoCo's without a screen."""

    def __init__(self, id: str):
        import gymnasium as gym

        with warnings.catch_warnings(), _headless():
            warnings.simplefilter("ignore")
            hear_mujoco()
            with _faults(id):
                self._env: Any = gym.make(registered_name(id), render_mode="rgb_array")
            hear_mujoco()
            try:
                with _faults(id):
                    self._env.reset(seed=0)
                    self.draw()
                    self.fps = self._rate(self._env.metadata.get("render_fps"))
            except VideoError:
                _close(self._env)
                raise

    def _rate(self, given: Any) -> float:
        try:
            rate = float(given or MAX_FPS)
        except (TypeError, ValueError):
            rate = math.nan
        if not 0 < rate < math.inf:
            raise ValueError(f"its metadata has render_fps {given!r}, should be a number above 0")
        return rate

    def reset(self, seed: int) -> np.ndarray:
        return self._env.reset(seed=seed)[0]

    def step(self, action: Any) -> tuple[np.ndarray, bool]:
        obs, _, terminated, truncated, _ = self._env.step(action)
        return obs, bool(terminated or truncated)

    def draw(self) -> Frame:
        frame = self._env.render()
        right = isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] in (3, 4)
        if not right or not frame.size or frame.dtype != np.uint8:
            raise TypeError("render() gives no picture (an array of bytes, height x width x 3)")
        return np.ascontiguousarray(frame[:, :, :3])

    def close(self) -> None:
        self._env.close()


@contextmanager
def _headless() -> Iterator[None]:
    """Drawing without a screen: MuJoCo through EGL (Gymnasium would try a window first), pygame likewise."""
    wanted = {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy"} if sys.platform == "linux" else {}
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _advice(error: BaseException) -> str:
    text = message_of(error)
    if "egl" in text.lower() or "opengl" in text.lower():
        return "MuJoCo needs EGL to draw; on Debian: apt install libegl1 libegl-mesa0 libgl1-mesa-dri"
    if "pygame" in text:
        return f"Gymnasium draws it with pygame and {needs('video')}"
    said = text.partition(": ")[2].strip()
    return said.splitlines()[0] if said else text


@contextmanager
def _faults(id: str) -> Iterator[None]:
    """Whatever an environment or its renderer does, the film is what fails, not the training."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise VideoError(f"no video of {id}: {_advice(error)}") from error


def _frames(
    stage: "_PendulumStage | _MujocoStage | _GymnasiumStage", agent: Agent, id: str, every: int, limit: int
) -> Iterator[Frame]:
    """Every ``every``-th step of whole episodes, up to ``limit`` pictures of one size."""
    shown, episode, shape = 0, 0, None
    while shown < limit:
        with _faults(id):
            obs = stage.reset(episode_seed(agent.config.seed, Stream.EVALUATION, 0, episode))
        over, step = False, 0
        while not over and shown < limit:
            if step % every == 0:
                with _faults(id):
                    frame = stage.draw()
                shape = shape or frame.shape
                if frame.shape != shape:
                    raise VideoError(f"no video of {id}: its pictures change from {shape} to {frame.shape}")
                yield frame
                shown += 1
            with _faults(id):
                obs, over = stage.step(agent.act(obs))
            step += 1
        episode += 1


def find_encoder() -> str | None:
    """The path of an ffmpeg: the system's, or that of the extra ``video``; None without either."""
    if system := shutil.which("ffmpeg"):
        return system
    if importlib.util.find_spec("imageio_ffmpeg"):
        import imageio_ffmpeg  # pyright: ignore[reportMissingImports]

        return imageio_ffmpeg.get_ffmpeg_exe()
    return None


def _write_mp4(path: Path, frames: Iterator[Frame], fps: float, encoder: str) -> None:
    first = next(frames)
    height, width, _ = first.shape
    # H.264 with 4:2:0 colors, which every browser plays, wants even sizes
    command = [encoder, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-", "-an"]
    command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    command += ["-movflags", "+faststart", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            process.stdin.write(first.tobytes())
            for frame in frames:
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass  # the encoder ended early; its message says why
        message = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        reason = message.splitlines()[-1] if message else "no message"
        if os.strerror(errno.ENOSPC) in message:
            raise OSError(errno.ENOSPC, reason)
        raise VideoError(f"no video: {encoder} failed: {reason}")


def _write_gif(path: Path, frames: Iterator[Frame], fps: float) -> None:
    from PIL import Image

    step = max(1, round(fps / GIF_FPS))
    pictures = [Image.fromarray(f).quantize(64) for i, f in enumerate(frames) if i % step == 0]
    # GIF counts in hundredths of a second, in 16 bits
    milliseconds = 10 * min(max(2, round(100 * step / fps)), 2**16 - 1)
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)
