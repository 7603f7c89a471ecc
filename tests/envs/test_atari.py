"""Backend atari, on the vector environment of ale-py: its episodes are true, repeatable and resumable."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import poise
from poise import envs
from poise.agents.stages import open_stage
from poise.arrays import ArraysError
from poise.envs.atari import AtariEnv, Screen
from poise.envs.checking import EnvFault
from poise.envs.vector import Restorable

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="needs the extra atari")

GAME = "ALE/Freeway-v5"
ALL = np.ones(3, bool)
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def registry():
    """The games are registered when one is asked for."""
    envs.resolve(GAME)


def played(env, steps, seed=0):
    """The last step of random actions, and all planes that were seen."""
    rng = np.random.default_rng(seed)
    results = [env.step(rng.integers(3, size=env.num_envs)) for _ in range(steps)]
    return results[-1], np.stack([result.next_obs["image"] for result in results])


def test_the_spec_is_that_of_the_registered_game():
    env = envs.make(GAME, 2)
    assert env.backend.startswith("atari (")
    assert env.spec.describe_obs() == "image (4 x 84 x 84 image, channels first)"
    assert env.spec.sizes == (3,)
    assert env.spec.time_limit == 27_000
    assert isinstance(env, Restorable)
    env.close()


@pytest.mark.parametrize("id", [GAME, f"ale_py:{GAME}"])
def test_gymnasiums_own_environment_is_one_option_away(id):
    assert envs.resolve(id).backend == "atari"
    assert envs.resolve(id, "gymnasium").backend == "gymnasium"
    assert envs.make(id, 1, "gymnasium").spec.describe_obs() == "image (210 x 160 x 3 image, channels last)"


class Mine(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 1, (2,)), gym.spaces.Discrete(2)


def test_a_registration_of_the_users_wins(monkeypatch):
    monkeypatch.delitem(gym.registry, GAME)
    gym.register(GAME, Mine)
    assert envs.resolve(GAME).backend == "gymnasium"
    with pytest.raises(envs.EnvError, match=r"such as ALE/Pong-v5, and ALE/Freeway-v5 is something else"):
        envs.resolve(GAME, "atari")
    with pytest.raises(envs.EnvError, match=r"and CartPole-v1 is something else; --backend gymnasium trains"):
        envs.resolve("CartPole-v1", "atari")


def test_the_arguments_of_a_registration_are_those_of_the_game():
    changed = {"repeat_action_probability": 0.0, "full_action_space": True, "frameskip": 8}
    gym.register(
        "Mine-v7",
        "ale_py.env:AtariEnv",
        vector_entry_point="ale_py.vector_env:AtariVectorEnv",
        kwargs=gym.registry[GAME].kwargs | changed,
    )
    env = envs.make("Mine-v7", 1)
    assert (env.spec.sizes, env.spec.time_limit) == ((18,), 13_500)


def test_a_seed_decides_an_episode_whatever_was_played_before():
    first, second = AtariEnv(GAME, 3), AtariEnv(GAME, 3)
    start = first.reset(ALL, [5, 2**32 - 1, 7])["image"]
    _, planes = played(first, 20)
    second.reset(ALL, [1, 2, 3])
    played(second, 30, seed=9)
    assert (second.reset(ALL, [5, 2**32 - 1, 7])["image"] == start).all()
    assert (played(second, 20)[1] == planes).all()
    assert len({row.tobytes() for row in planes[-1]}) == 3


def test_the_stack_moves_by_one_plane_a_step():
    env = AtariEnv(GAME, 1)
    before = env.reset(np.ones(1, bool), [0])["image"]
    assert not before[0, :3].any()
    assert before[0, 3].any()
    after = env.step(np.zeros(1, int)).next_obs["image"]
    assert (after[0, :3] == before[0, 1:]).all()


def test_at_the_time_limit_the_successor_is_that_of_an_unlimited_episode():
    limited, unlimited = AtariEnv(GAME, 3, time_limit=10), AtariEnv(GAME, 3)
    limited.reset(ALL, [1, 2, 3])
    unlimited.reset(ALL, [1, 2, 3])
    step, planes = played(limited, 10)
    assert step.truncated.all()
    assert not step.terminated.any()
    assert (played(unlimited, 10)[1] == planes).all()


def test_the_end_of_a_game_terminates():
    env = AtariEnv("ALE/Breakout-v5", 2)
    env.reset(np.ones(2, bool), [0, 1])
    rng = np.random.default_rng(0)
    steps = [env.step(rng.integers(4, size=2)) for _ in range(100)]
    while not steps[-1].terminated.any() and len(steps) < 500:
        steps.append(env.step(rng.integers(4, size=2)))
    step = steps[-1]
    assert step.terminated.any()
    assert not step.truncated.any()
    assert step.reward.dtype == np.float64


def test_a_partial_reset_leaves_the_others_alone():
    env, alone = AtariEnv(GAME, 3, time_limit=30), AtariEnv(GAME, 3)
    env.reset(ALL, [1, 2, 3])
    alone.reset(ALL, [1, 2, 3])
    before, _ = played(env, 10)
    played(alone, 10)
    obs = env.reset(np.array([False, True, False]), [99])["image"]
    assert (obs[[0, 2]] == before.next_obs["image"][[0, 2]]).all()
    assert (obs[1] != before.next_obs["image"][1]).any()
    step, planes = played(env, 20, seed=4)
    assert (planes[:, [0, 2]] == played(alone, 20, seed=4)[1][:, [0, 2]]).all()
    assert step.truncated.tolist() == [True, False, True]


def unfinished():
    """Environments that are 12, 7 and 0 steps into their episodes."""
    env = AtariEnv(GAME, 3, time_limit=40)
    env.reset(ALL, [1, 2, 3])
    played(env, 5)
    env.reset(np.array([False, True, False]), [2**32 - 2])
    played(env, 7, seed=1)
    obs = env.reset(np.array([False, False, True]), [4])
    return env, obs


def test_a_restored_environment_goes_on_as_the_first_one():
    env, obs = unfinished()
    saved = env.snapshot()
    assert saved["length"].tolist() == [12, 7, 0]
    step, planes = played(env, 28, seed=2)
    other = AtariEnv(GAME, 3, time_limit=40)
    restored = other.restore(saved)
    assert restored.exact.all()
    assert restored.unlike == ()
    assert (restored.obs["image"] == obs["image"]).all()
    again, planes_again = played(other, 28, seed=2)
    assert (planes_again == planes).all()
    assert again.truncated.tolist() == step.truncated.tolist() == [True, False, False]
    assert all((other.snapshot()[name] == array).all() for name, array in env.snapshot().items())


def test_a_difference_within_the_repeated_episode_is_found():
    env, _ = unfinished()
    saved = env.snapshot()
    saved["action"] = saved["action"].copy()
    saved["action"][3, 0] = (saved["action"][3, 0] + 1) % 3
    saved["seed"][1] += 1
    exact = AtariEnv(GAME, 3, time_limit=40).restore(saved).exact
    assert exact.tolist()[1:] == [False, True]


def test_actions_that_the_game_does_not_have_are_refused():
    env, _ = unfinished()
    with pytest.raises(EnvFault, match=r"environment 1, episode seed 4294967294, step 8: action 3 is"):
        env.step(np.array([0, 3, 2]))
    saved = env.snapshot()
    saved["action"] = np.full_like(saved["action"], 3)
    with pytest.raises(ArraysError, match="'action': a value is out of range"):
        AtariEnv(GAME, 3).restore(saved)


def test_the_screen_shows_the_episode_in_color():
    env, screen = AtariEnv(GAME, 1), Screen(GAME)
    env.reset(np.ones(1, bool), [3])
    frame = screen.reset(3)
    assert frame.shape == (210, 160, 3)
    assert screen.steps_a_second == 15
    for action in np.random.default_rng(0).integers(3, size=(20, 1)):
        planes = env.step(action).next_obs["image"]
        frame = screen.step(action)
    gray = Image.fromarray(frame).convert("L").resize((84, 84), Image.Resampling.BOX)
    assert np.corrcoef(np.ravel(gray), planes[0, 3].ravel())[0, 1] > 0.95


def test_a_game_is_trained_and_filmed_by_its_name(tmp_path):
    shown = io.StringIO()
    options = {"num_envs": 2, "ppo": {"num_steps": 64, "num_epochs": 1}, "evaluate": False, "video": False}
    run = poise.train(GAME, total_steps=256, out=tmp_path, file=shown, **options)
    assert "on atari (" in shown.getvalue()
    assert "observes image (4 x 84 x 84 image, channels first)" in shown.getvalue()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["status"], summary["backend"]) == ("finished", "atari")
    stage = open_stage(envs.resolve(GAME))
    obs = stage.reset(3)
    frame = stage.draw()
    assert frame.shape == (420, 320, 3)
    action = poise.load(run.folder).player(1).act(obs)
    _, ended = stage.step(action)
    assert not ended
    stage.close()


def test_without_the_package_the_message_names_the_extra():
    code = (
        "import sys; sys.modules |= {'ale_py': None, 'minatar': None}\n"
        "from poise import envs\n"
        f"for id in ('{GAME}', 'ale_py:{GAME}', 'minatar_games:Breakout-v1'):\n"
        "    try: envs.resolve(id)\n"
        "    except envs.EnvError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES, capture_output=True, text=True, check=True
    )
    assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [
        f"{GAME}: needs the extra atari",
        f"ale_py:{GAME}: needs the extra atari",
        "minatar_games:Breakout-v1: needs the extra minatar",
    ]
