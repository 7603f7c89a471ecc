import io
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

import poise
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


def train(id, out, **options):
    quick = {"total_steps": 1600, "num_envs": 4, "video": False, "evaluate": False, "file": io.StringIO()}
    ppo = {"num_steps": 100, "num_epochs": 3}
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


def test_every_tag_and_every_key_is_in_the_table_and_the_other_way_round(reacher, tmp_path):
    run, scalars = reacher
    seen = {base_name(tag) for tag in scalars} | {"step/probability"}
    assert seen == set(BY_NAME)
    keys = set(__import__("json").loads((run.folder / "metrics.jsonl").read_text().splitlines()[0]))
    assert keys - {"iteration", "steps"} == {m.name for m in METRICS if m.every in ("iteration", "epoch")}


def test_the_page_is_the_table():
    assert (ROOT / "docs" / "metrics.md").read_text() == markdown()
