"""Environments of the extras minigrid, popgym and minatar: each kind is trained by its name."""

import io
import json

import numpy as np
import pytest

import poise
from poise import envs
from poise.agents.stages import open_stage

QUICK = {"total_steps": 256, "num_envs": 2, "ppo": {"num_steps": 64, "num_epochs": 1}, "video": False}
GRU = {"policy": {"memory": "gru", "memory_size": 8}, "value": {"memory": "gru", "memory_size": 8}}


@pytest.mark.parametrize(
    ("env", "options", "lines"),
    [
        (
            "minigrid:MiniGrid-Empty-5x5-v0",
            {},
            [
                "note: observation 'mission' is MissionSpace: it is left out, because no network reads it",
                "observes direction (4 values), image (7 x 7 x 3 image, channels last)",
            ],
        ),
        (
            "popgym:popgym-RepeatPreviousEasy-v0",
            GRU,
            ["observes obs (4 values)", "memory (policy: gru of 8 units"],
        ),
        ("popgym:popgym-CountRecallEasy-v0", GRU, ["observes obs (2 x 2 values)"]),
        (
            "minatar_games:Breakout-v1",
            {},
            ["episodes end after 5,000 steps", "observes image (10 x 10 x 4 image, channels last)"],
        ),
    ],
)
def test_a_suite_is_trained_by_name(env, options, lines, tmp_path):
    shown = io.StringIO()
    run = poise.train(env, out=tmp_path, file=shown, eval_max_steps=200, **QUICK, **options)
    for line in lines:
        assert line in shown.getvalue()
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "finished"
    assert len(poise.load(run.folder).evaluate(2, env=env).length) == 2


@pytest.mark.parametrize("game", ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"])
def test_a_game_of_minatar_is_a_function_of_its_seed(game):
    env, other = (envs.make(f"minatar_games:{game}-v1", 2) for _ in range(2))
    rng, everyone = np.random.default_rng(0), np.ones(2, bool)
    env.reset(everyone, [1, 2])
    for _ in range(300):
        step = env.step(rng.integers(env.spec.sizes[0], size=2))
        over = step.terminated | step.truncated
        obs = env.reset(over, [3] * over.sum()) if over.any() else step.next_obs
    restored = other.restore(env.snapshot())
    assert restored.exact.all()
    assert restored.unlike == ()
    assert (restored.obs["image"] == obs["image"]).all()


def test_the_picture_of_a_game_of_minatar_is_large():
    stage = open_stage(envs.resolve("minatar_games:Seaquest-v1"))
    stage.reset(0)
    assert stage.draw().shape == (240, 240, 3)
    stage.close()


def test_an_id_of_an_extra_needs_no_module():
    assert envs.resolve("MiniGrid-Empty-5x5-v0").backend == "gymnasium"
