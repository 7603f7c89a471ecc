"""A film of the greedy agent: MP4 if an encoder is available, otherwise an animated GIF."""

import errno
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from poise.agents.agent import Agent, load
from poise.agents.stages import MAX_FPS, Frame, Stage, close_quietly, open_stage, video_errors
from poise.agents.stages import VideoError as VideoError
from poise.checked import Place, as_path
from poise.errors import PoiseError
from poise.own.naming import Network
from poise.seeds import Stream, episode_seed
from poise.store.checkpoint import Which
from poise.store.files import check_room, fresh_path
from poise.system.pulse import announced
from poise.system.streams import TextOut
from poise.system.terminal import print

MAX_SECONDS = 10.0  # length of a film; episodes follow each other
GIF_FPS = 20.0


def video(
    run: Place,
    *,
    which: Which = "last",
    env: Any = None,
    network: Network = (),
    file: TextOut | None = None,
) -> Path:
    """Makes a video of the greedy agent of a run.

    Args:
        run: what ``poise.train`` returned, its folder, or a checkpoint in it. The video is written there, as
            ``video.mp4``; that of the best agent as ``video_best.mp4``. Without a video encoder it is a GIF.
        which: the agent at the end of the training, or the one that scored best at that time.
        env: another environment with the same spaces. The name of the agent's own has to be repeated if it is
            in a module (``module:Task``): a folder alone never makes Python import one. Or its class or
            function: that of the run gets the run's arguments and wrappers once more, another one gets none.
        network: the classes of the agent's own networks, or their names, repeated, as of ``poise.load``.
        file: where a line says what is done, if it takes long; standard output by default.

    Returns:
        The file that was written.

    Raises:
        CheckpointError: the folder holds no agent, or the agent was changed or damaged.
        VideoError, EnvError, AgentError: as of ``film``.
    """
    path = as_path("run", run) / ("video" if which == "last" else "video_best")
    say = partial(print, file=sys.stdout if file is None else file, flush=True)
    with announced("making the video", say):
        return film(load(run, which, network=network), path, env=env)
    raise AssertionError


def film(agent: Agent, path: Path, *, env: Any = None) -> Path:
    """Films greedy episodes: the first ones of the evaluation.

    Args:
        path: without suffix; ``.mp4`` or ``.gif`` is added.
        env: another environment than the agent's own. Required if the agent's own names a module
            (``module:Task``).

    Returns:
        The file that was written.

    Raises:
        VideoError: the environment cannot be drawn on this machine, fails, or has other shapes than
            the agent; no file is left.
        EnvError: no environment has this name.
        AgentError: the agent's environment names a module and ``env`` does not repeat it.
    """
    place = path.absolute()  # an environment may change the working directory
    task = agent.world(env)
    stage = open_stage(task)
    try:
        if problem := agent.spec.problem_with(stage.spec):
            raise VideoError(f"no video: {task.id} has {problem}")
        if settings := agent.settings_for(task):
            stage.adjust(settings)
        encoder = find_encoder()
        path = path.with_suffix(".gif" if encoder is None else ".mp4")
        every = max(1, round(stage.fps / MAX_FPS))  # of a fast environment every second, third, ... step
        fps = stage.fps / every
        frames = _frames(stage, agent, task.id, every, max(1, int(MAX_SECONDS * fps)))
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
        close_quietly(stage)
    return path


def _frames(stage: Stage, agent: Agent, id: str, every: int, limit: int) -> Iterator[Frame]:
    """``limit`` pictures of one size, from as many episodes as it takes."""
    episodes = (_episode_frames(stage, agent, id, every, number) for number in itertools.count())
    shape = None
    for frame in itertools.islice(itertools.chain.from_iterable(episodes), limit):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise VideoError(f"no video of {id}: its pictures change from {shape} to {frame.shape}")
        yield frame


def _episode_frames(stage: Stage, agent: Agent, id: str, every: int, episode: int) -> Iterator[Frame]:
    """A picture before every ``every``-th step of one episode of the evaluation, from the first step on."""
    player = agent.player(1)
    with video_errors(id):
        obs = stage.reset(episode_seed(agent.config.seed, Stream.EVALUATION, 0, episode))
    for step in itertools.count():
        if step % every == 0:
            with video_errors(id):
                frame = stage.draw()
            yield frame
        with video_errors(id):
            obs, ended = stage.step(player.act(obs))
        if ended:
            return


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
