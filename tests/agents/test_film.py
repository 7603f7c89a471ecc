import ctypes.util
import importlib.util
import io
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import poise
from poise.agents import film as filming
from poise.agents.film import VideoError, film
from poise.envs import make
from poise.envs.native.pendulum import draw_pendulum
from poise.seeds import Stream, episode_seed


def trained(id, out):
    quick = {"total_steps": 256, "num_envs": 2, "ppo": {"num_steps": 64}, "video": False, "evaluate": False}
    return poise.load(poise.train(id, out=out, file=io.StringIO(), **quick).folder)


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    return trained("Pendulum-v1", tmp_path_factory.mktemp("runs"))


def test_without_an_encoder_the_film_is_a_gif_of_the_set_length(pendulum, tmp_path, monkeypatch):
    monkeypatch.setattr(filming, "find_encoder", lambda: None)
    monkeypatch.setattr(filming, "MAX_SECONDS", 3.0)
    path = film(pendulum, tmp_path / "video")
    assert path.name == "video.gif"
    with Image.open(path) as image:
        assert image.size == (480, 480)
        assert image.n_frames * image.info["duration"] == 3000
        frames = []
        for i in (0, 30):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB"), int))
    assert np.abs(frames[0] - frames[1]).max() > 100  # it moves


@pytest.mark.skipif(filming.find_encoder() is None, reason="no ffmpeg on this machine")
def test_with_an_encoder_the_film_is_an_mp4(pendulum, tmp_path, monkeypatch):
    monkeypatch.setattr(filming, "MAX_SECONDS", 1.0)
    path = film(pendulum, tmp_path / "video")
    assert path.name == "video.mp4"
    assert path.read_bytes()[4:8] == b"ftyp"


def test_a_new_film_replaces_an_earlier_one_of_the_other_format(pendulum, tmp_path, monkeypatch):
    monkeypatch.setattr(filming, "find_encoder", lambda: None)
    monkeypatch.setattr(filming, "MAX_SECONDS", 0.2)
    for name in ("video.mp4", "video_best.mp4"):
        (tmp_path / name).write_bytes(b"old")
    film(pendulum, tmp_path / "video")
    assert {path.name for path in tmp_path.iterdir()} == {"video.gif", "video_best.mp4"}


def test_an_encoder_that_fails_leaves_no_file_and_says_so(pendulum, tmp_path, monkeypatch):
    monkeypatch.setattr(filming, "find_encoder", lambda: "/bin/false")
    with pytest.raises(VideoError, match="/bin/false failed"):
        film(pendulum, tmp_path / "video")
    assert not list(tmp_path.iterdir())


class BreaksLate(gym.Env):
    """Draws well ten times, then does what ``how`` says; for "slow" and "fps" see the metadata."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}  # pyright: ignore
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, how="raises", render_mode=None):
        self.how, self.render_mode, self.drawn = how, render_mode, 0
        rate = {"slow": 1e-4, "fps": "fast", "numpy": np.int64(30), "unknown": None}.get(how, 30)
        self.metadata = {**BreaksLate.metadata, "render_fps": rate}

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def close(self):
        if self.how in ("closes", "slow"):
            raise RuntimeError("the door is stuck")

    def step(self, action):
        if self.drawn > 10 and self.how == "steps":
            raise RuntimeError("the motor is hot")
        size = 3 if self.drawn > 10 and self.how == "grows" else 2
        return np.zeros(size, np.float32), 0.0, False, False, {}

    def render(self):
        self.drawn += 1
        if self.drawn > 10 and self.how == "raises":
            raise RuntimeError("the display is gone")
        if self.how == "gray":
            return np.zeros((64, 64, 1), np.uint8)
        return np.zeros((64, 80 if self.drawn > 10 and self.how == "resizes" else 64, 3), np.uint8)


gym.register("BreaksLate-v0", BreaksLate, max_episode_steps=40)


@pytest.fixture(scope="module")
def breaking(tmp_path_factory):
    return trained("BreaksLate-v0", tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "the display is gone"),
        ("steps", "the motor is hot"),
        ("resizes", "its pictures change from (64, 64, 3) to (64, 80, 3)"),
        ("grows", "obs has shape (3,), the observation space has (2,)"),
        ("gray", "render() must return a picture: an array of uint8, height x width x 3"),
        ("fps", "its metadata has render_fps 'fast', must be a number above 0"),
    ],
)
def test_an_error_in_the_middle_of_a_film_is_reported_and_leaves_no_file(
    how, message, breaking, tmp_path, monkeypatch
):
    monkeypatch.setattr(gym.registry["BreaksLate-v0"], "kwargs", {"how": how})
    with pytest.raises(VideoError) as error:
        film(breaking, tmp_path / "video")
    assert str(error.value) == f"no video of BreaksLate-v0: {message}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["closes", "slow", "numpy", "unknown"])
def test_a_stuck_environment_or_an_unusual_frame_rate_is_filmed(how, breaking, tmp_path, monkeypatch):
    monkeypatch.setattr(filming, "find_encoder", lambda: None)
    monkeypatch.setattr(filming, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(gym.registry["BreaksLate-v0"], "kwargs", {"how": how})
    assert [film(breaking, tmp_path / "video")] == list(tmp_path.iterdir())


def test_an_error_in_the_search_for_an_encoder_is_one_line(pendulum, tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("no exe")

    monkeypatch.setattr(filming, "find_encoder", broken)
    with pytest.raises(VideoError, match="no video: RuntimeError: no exe"):
        film(pendulum, tmp_path / "video")


def test_an_environment_with_other_shapes_is_named(breaking, tmp_path):
    with pytest.raises(
        VideoError, match="no video: Pendulum-v1 has observations: 3; the agent was trained with: 2"
    ):
        film(breaking, tmp_path / "video", env="Pendulum-v1")


def test_a_film_that_breaks_leaves_a_finished_run(tmp_path):
    shown = io.StringIO()
    quick = {"total_steps": 256, "num_envs": 2, "ppo": {"num_steps": 64}, "evaluate": False}
    run = poise.train("BreaksLate-v0", out=tmp_path, file=shown, **quick)
    assert run.summary["status"] == "finished"
    assert shown.getvalue().splitlines()[-4] == "no video of BreaksLate-v0: the display is gone"
    assert not [f for f in run.folder.iterdir() if "video" in f.name]


def test_the_film_shows_the_episodes_of_the_evaluation(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(filming, "find_encoder", lambda: None)
    monkeypatch.setattr(filming, "MAX_SECONDS", 0.5)

    def draw(obs, *rest):
        drawn.append(obs)
        return draw_pendulum(obs, *rest)

    monkeypatch.setattr("poise.envs.native.pendulum.draw_pendulum", draw)
    quick = {"total_steps": 256, "num_envs": 2, "ppo": {"num_steps": 64}, "evaluate": False, "video": False}
    run = poise.train("Pendulum-v1", out=tmp_path, file=io.StringIO(), **quick)
    film(poise.load(run.folder), tmp_path / "video")
    # the first picture tests whether it can be drawn at all
    start = make("Pendulum-v1", 1).reset(np.ones(1, bool), [episode_seed(0, Stream.EVALUATION, 0, 0)])[0]
    np.testing.assert_allclose(drawn[1], start, atol=1e-6)


def test_the_pole_is_drawn_where_the_observation_says():
    def orange(frame):
        r, g, b = np.moveaxis(frame.astype(int), -1, 0)
        rows, columns = np.nonzero((r > 170) & (g < 130) & (b < 90))
        return rows.mean(), columns.mean()

    row, column = orange(draw_pendulum(np.array([1.0, 0.0, 0.0]), 0.0))
    assert row < 200  # upright
    assert abs(column - 240) < 5
    row, column = orange(draw_pendulum(np.array([0.0, 1.0, 0.0]), 0.0))
    assert abs(row - 240) < 5  # a quarter turn against the clock
    assert column < 200


def test_torque_is_an_arc_on_the_side_it_turns_to():
    obs = np.array([-1.0, 0.0, 0.0])  # hanging, out of the way

    def blue_column(torque):
        r, g, b = np.moveaxis(draw_pendulum(obs, torque).astype(int), -1, 0)
        return np.nonzero((b > r + 50) & (g < 130))[1].mean()

    assert blue_column(2.0) < 230
    assert blue_column(-2.0) > 250


def test_training_continues_if_nothing_can_be_drawn(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise VideoError("no video of Pendulum-v1: MuJoCo needs EGL to draw")

    monkeypatch.setattr("poise.runs.recorder.film", fails)
    shown = io.StringIO()
    quick = {"total_steps": 256, "num_envs": 2, "ppo": {"num_steps": 64}, "evaluate": False}
    run = poise.train("Pendulum-v1", out=tmp_path, file=shown, **quick)
    assert run.summary["status"] == "finished"
    assert "no video of Pendulum-v1: MuJoCo needs EGL to draw" in shown.getvalue().splitlines()


def test_a_missing_renderer_is_one_line_with_the_package(tmp_path):
    if importlib.util.find_spec("pygame"):
        pytest.skip("pygame is installed, so CartPole can be drawn")
    with pytest.raises(VideoError) as error:
        film(trained("CartPole-v1", tmp_path), tmp_path / "video")
    assert "pygame" in str(error.value)
    assert "needs the extra video; to install it: " in str(error.value)
    assert "\n" not in str(error.value)


def test_mujoco_is_drawn_without_a_screen(tmp_path, monkeypatch):
    monkeypatch.setattr(filming, "find_encoder", lambda: None)
    monkeypatch.setattr(filming, "MAX_SECONDS", 1.0)
    agent = trained("Reacher-v4", tmp_path)
    if ctypes.util.find_library("EGL") is None:
        with pytest.raises(VideoError, match="apt install libegl1"):
            film(agent, tmp_path / "video")
        return
    path = film(agent, tmp_path / "video")
    with Image.open(path) as image:
        assert image.size == (480, 480)
        assert np.asarray(image.convert("L")).std() > 10
