"""Environments of other packages, the extras minigrid and popgym: each kind is trained by its name."""

import io
import json

import pytest

import poise

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
    ],
)
def test_a_suite_is_trained_by_name(env, options, lines, tmp_path):
    shown = io.StringIO()
    run = poise.train(env, out=tmp_path, file=shown, eval_max_steps=200, **QUICK, **options)
    for line in lines:
        assert line in shown.getvalue()
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "finished"
    assert len(poise.load(run.folder).evaluate(2, env=env).length) == 2
