import dataclasses
import io
import json
import struct
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

import poise
from poise.runs.trackers.tensorboard import step_tags
from poise.spec import Part, Spec
from poise.training.metrics import BY_NAME, METRICS, base_name, markdown

ROOT = Path(__file__).parents[2]


def read(folder):
    """Tag to list of (step, value), from the one event file of a run."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, scalars = path.read_bytes(), {}
    while data:  # TFRecord: length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        for value in event.summary.value:
            scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars


def train(id, out, *, learning=None, **options):
    quick = {"total_steps": 1600, "num_envs": 4, "video": False, "evaluate": False, "file": io.StringIO()}
    ppo = {"num_steps": 100, "num_epochs": 3} | (learning or {})
    return poise.train(id, out=out, ppo=ppo, **quick, **options)


@pytest.fixture(scope="module")
def reacher(tmp_path_factory):
    run = train("Reacher-v4", tmp_path_factory.mktemp("runs"), eval_every=800, eval_episodes=5)
    return run, read(run.folder)


def test_every_tag_of_the_paper_is_there_with_plausible_values(reacher):
    _, scalars = reacher
    per_step = ["step/reward", *(f"step/{kind}/{d}" for kind in ("action", "mean", "std") for d in (0, 1))]
    for tag in per_step:
        assert [step for step, _ in scalars[tag]] == list(range(200, 1601, 200))
    assert all(value < 0 for _, value in scalars["step/reward"])
    assert all(0.5 < value < 2 for _, value in scalars["step/std/1"])
    drawn = [a - m for (_, a), (_, m) in zip(scalars["step/action/0"], scalars["step/mean/0"], strict=True)]
    assert 0.1 < np.std(drawn) < 3
    assert [step for step, _ in scalars["episode/return"]] == [400, 800, 1200, 1600]
    for tag in ("value/loss", "policy/loss", "policy/kl", "policy/learning_rate", "value/learning_rate"):
        steps = [step for step, _ in scalars[tag]]
        assert steps == [133, 266, 400, 533, 666, 800, 933, 1066, 1200, 1333, 1466, 1600]
    assert all(0 <= value < 0.5 for _, value in scalars["policy/kl"])
    assert scalars["policy/learning_rate"][0][1] > scalars["policy/learning_rate"][-1][1]


def test_the_episodes_are_those_of_the_table(reacher):
    run, scalars = reacher
    lines = (run.folder / "episodes.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    got = scalars["episode/episodic_return"]
    assert [step for step, _ in got] == [int(row[0]) for row in rows]
    np.testing.assert_allclose([value for _, value in got], [float(row[3]) for row in rows], rtol=1e-6)


def test_discrete_actions_show_their_probabilities(tmp_path):
    scalars = read(train("CartPole-v1", tmp_path, log_every=500).folder)
    assert [step for step, _ in scalars["step/action/0"]] == [500, 1000, 1500]
    both = zip(scalars["step/probability/0"], scalars["step/probability/1"], strict=True)
    assert all(a + b == pytest.approx(1, abs=1e-5) for (_, a), (_, b) in both)


def keys(folder):
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return row.keys() - {"iteration", "steps"}


ONLY_SOME = {"policy/std/PART", "policy/entropy/PART", "policy/masked_fraction", "policy/forced_fraction"}
ONLY_SOME |= {"policy/memory", "value/memory"}  # of some actions, masks and memories
ONLY_SOME |= {"policy/clip", "policy/entropy_coef"}  # with a schedule
SUCCESS = {"episode/success_rate", "evaluation/success_rate"}  # where infos have is_success


CURRICULUM = {"curriculum/PART"}  # no test here has one


def test_every_tag_and_every_key_is_in_the_table_and_the_other_way_round(reacher, hybrid):
    run, scalars = reacher
    seen = {base_name(tag) for tag in scalars} | {"step/probability"}
    assert seen == set(BY_NAME) - ONLY_SOME - SUCCESS - CURRICULUM
    by_row = {m.name for m in METRICS if m.every in ("iteration", "epoch")}
    assert {base_name(key) for key in keys(run.folder)} == by_row - ONLY_SOME - SUCCESS - CURRICULUM
    run, scalars = hybrid
    without = {"evaluation/success_rate"}  # no score while it trained
    assert {base_name(tag) for tag in scalars} == set(BY_NAME) - {"evaluation/return"} - without - CURRICULUM
    assert {base_name(key) for key in keys(run.folder)} == by_row - without - CURRICULUM


class Hybrid(gym.Env):
    """An action with parts of each kind, and masks of its choices."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Dict(
        {
            "aim": gym.spaces.Box(-1, 1, (2,), np.float32),
            "push": gym.spaces.Box(-1, 1, (), np.float32),
            "pick": gym.spaces.Discrete(3),
            "moves": gym.spaces.MultiDiscrete([2, 3]),
        }
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        push = float(action["push"])
        return obs, push, False, False, {"reward_push": push, "is_success": push > 0}

    def action_masks(self):
        return np.array([1, 1, 0, 1, 1, 0, 1, 0], bool)  # of moves, then of pick: sorted by name


gym.register("Hybrid-v0", Hybrid, max_episode_steps=20)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    memory = {"memory": "gru", "memory_size": 8}
    learning = {"clip_schedule": "0:1,1:0", "entropy_coef": 0.01, "entropy_schedule": "cosine"}
    learning |= {"value_num_epochs": 4}
    out = tmp_path_factory.mktemp("runs")
    run = train("Hybrid-v0", out, policy=memory, value=memory, learning=learning)
    return run, read(run.folder)


def test_each_network_has_a_value_for_each_of_its_epochs_and_the_schedules_are_shown(hybrid):
    _, scalars = hybrid
    steps = [step for step, _ in scalars["value/loss"]]
    assert steps == list(range(100, 1601, 100))
    for tag in ("policy/loss", "policy/clip", "policy/learning_rate"):
        assert [step for step, _ in scalars[tag]] == [step for step in steps if step % 400]
    clips = [value for _, value in scalars["policy/clip"]][::3]
    assert clips == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert [value for _, value in scalars["policy/entropy_coef"]][6] == pytest.approx(0.005)


def test_tags_of_steps_have_the_names_of_the_parts(hybrid):
    _, scalars = hybrid
    tags = {tag.removeprefix("step/") for tag in scalars if tag.startswith("step/")} - {"reward"}
    boxes = ("aim/0", "aim/1", "push")
    moves = {f"probability/moves/{k}/{value}" for k, size in enumerate((2, 3)) for value in range(size)}
    assert tags == {
        *(f"{kind}/{end}" for kind in ("action", "mean", "std") for end in boxes),
        *(f"action/{end}" for end in ("pick", "moves/0", "moves/1")),
        *(f"probability/pick/{value}" for value in range(3)),
        *moves,
    }
    assert {value for _, value in scalars["step/action/pick"]} == {1.0}  # the mask allows nothing else
    assert {value for _, value in scalars["step/probability/moves/1/0"]} == {0.0}


def test_an_action_without_a_name_has_numbers_only():
    box = Spec.flat("Box-v0", (1,), (2,), (-1.0, -1.0), (1.0, 1.0))
    assert step_tags(box)["mean"] == ["step/mean/0", "step/mean/1"]
    choice = Spec.flat("Choice-v0", (1,), num_choices=2)
    assert step_tags(choice) == {
        "action": ["step/action/0"],
        "mean": [],
        "std": [],
        "probability": ["step/probability/0", "step/probability/1"],
    }
    multi = dataclasses.replace(choice, action=(Part((), (2,), sizes=(2, 1), first=(0, 0)),))
    assert step_tags(multi)["action"] == ["step/action/0", "step/action/1"]
    assert step_tags(multi)["probability"] == [f"step/probability/{end}" for end in ("0/0", "0/1", "1/0")]


def test_many_choices_of_a_part_are_numbered_through():
    bits = Part(("bits",), (40,), sizes=(2,) * 40, first=(0,) * 40)
    spec = dataclasses.replace(Spec.flat("Bits-v0", (1,), num_choices=2), action=(bits,))
    tags = step_tags(spec)
    assert (tags["action"][39], tags["probability"][79]) == (
        "step/action/bits/39",
        "step/probability/bits/79",
    )


def test_the_page_is_the_table():
    assert (ROOT / "docs" / "metrics.md").read_text() == markdown()
