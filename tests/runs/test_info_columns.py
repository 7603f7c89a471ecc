"""The columns of infos in the tables of a run: decided by the first episodes, and the same after a resume."""

import csv
import json
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from poise.api import train
from poise.envs.info import MOST
from poise.errors import PoiseError
from poise.runs.journal import EPISODE_COLUMNS, EPISODES, cut, lengths, read_episodes, read_evaluation
from poise.runs.records import judged_by, known_summary, scored_info
from poise.runs.writers.info import InfoColumns
from poise.runs.writers.logs import EpisodesLog
from poise.spec import Episode
from poise.training.measuring import episode_metrics


def progress(*infos):
    episodes = [Episode(0, i, i + 1, 1.5, 3, True, info) for i, info in enumerate(infos)]
    row = SimpleNamespace(episodes=episodes, metrics={"policy/kl": 0.1, **episode_metrics(episodes)})
    return SimpleNamespace(episodes=episodes, rows=(row,))


def write(folder, *progresses):
    """As a process writes that starts here: returns the columns, and the metrics of each iteration."""
    columns = InfoColumns(folder)
    log, metrics = EpisodesLog(folder, columns), []
    for each in progresses:
        columns.settle(each)
        log.write(each, None)
        metrics.append(columns.recorded(each.rows[0]))
    log.close()
    return columns, metrics


FIRST, LATER = {"reward_a": 1.0, "is_success": 1.0}, {"reward_a": 2.0, "late": 7.0}


def test_the_first_episodes_decide_the_columns_of_all_tables(tmp_path):
    columns, metrics = write(tmp_path, progress(), progress(FIRST, {}), progress(LATER))
    assert columns.names == ("reward_a", "is_success")
    header, *rows = csv.reader((tmp_path / EPISODES).read_text().splitlines())
    assert header == [*EPISODE_COLUMNS, "reward_a", "is_success"]
    assert [row[6:] for row in rows] == [["1.0", "1.0"], ["", ""], ["2.0", ""]]
    assert "episode/reward_a" not in metrics[0]
    assert metrics[1]["episode/success_rate"] == 1.0
    assert (metrics[2]["episode/reward_a"], metrics[2]["episode/success_rate"]) == (2.0, None)
    assert "episode/late" not in metrics[2]
    assert [episode.info for episode in read_episodes(tmp_path)] == [FIRST, {}, {"reward_a": 2.0}]


def test_what_is_left_out_is_said_once(tmp_path):
    columns, _ = write(tmp_path, progress(FIRST))
    (line,) = columns.sentences(progress(LATER))
    assert line.startswith("info: 'late' is not recorded, because the first episodes did not report it")
    assert columns.sentences(progress(LATER)) == columns.sentences(progress(FIRST)) == []


def test_a_run_has_a_limited_number_of_columns(tmp_path):
    many = {f"x{i}": 1.0 for i in range(MOST + 1)}
    columns, _ = write(tmp_path, progress(many))
    assert len(columns.names) == MOST
    assert "more than 32 numbers: 'x32' and further ones" in columns.sentences(progress(many))[0]


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_table_that_is_cut_back_and_continued_has_the_same_bytes(tmp_path, stop):
    parts = [progress(), progress(FIRST), progress(LATER)]
    write(tmp_path, *parts)
    whole = (tmp_path / EPISODES).read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    columns = InfoColumns(other)
    log, position = EpisodesLog(other, columns), {}
    for i, part in enumerate(parts):
        position = lengths(other) if i == stop else position
        columns.settle(part)
        log.write(part, None)
    log.close()
    for name in ("metrics.jsonl", "events.out.tfevents.poise"):
        (other / name).touch()
    cut(other, {**lengths(other), **position})
    write(other, *parts[stop:])
    assert (other / EPISODES).read_bytes() == whole


def test_a_table_of_an_earlier_version_keeps_its_columns(tmp_path):
    (tmp_path / EPISODES).write_text(",".join(EPISODE_COLUMNS) + "\r\n")
    columns, metrics = write(tmp_path, progress(FIRST))
    assert columns.names == ()
    assert read_episodes(tmp_path)[0].info == {}
    assert metrics[0] == {name: x for name, x in metrics[0].items() if "reward_a" not in name}
    assert "episode/success_rate" not in metrics[0]


def test_a_training_without_an_ended_episode_has_a_header(tmp_path):
    columns = InfoColumns(tmp_path)
    log = EpisodesLog(tmp_path, columns)
    log.write(progress(), None)
    assert list(read_episodes(tmp_path)) == []  # also while it runs
    log.close()
    log.close()
    assert (tmp_path / EPISODES).read_text().strip() == ",".join(EPISODE_COLUMNS)
    assert list(read_episodes(tmp_path)) == []


class Reaches(gym.Env):
    """Ends after 4 steps; a success if the last action was positive."""

    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        info = {"reward_push": float(action[0]), "is_success": bool(action[0] > 0), "=1+1": 3}
        return np.full(1, self.t, np.float32), float(action[0]), self.t == 4, False, info


def test_a_training_leaves_its_success_rate_everywhere(tmp_path, capsys):
    gym.register("Reaches-v0", Reaches)
    run = train("Reaches-v0", total_steps=2048, video=False, out=tmp_path)
    summary = json.loads((run.folder / "summary.json").read_text())["evaluation"]
    rates = read_evaluation(run.folder, "success_rate")
    assert summary["success_rate"] == run.evaluation.success_rate == rates.mean()
    assert summary["info"].keys() == {"reward_push", "1_1"}
    assert summary["info"]["reward_push"] == pytest.approx(summary["mean"])
    assert read_evaluation(run.folder, "reward_push").mean() == summary["info"]["reward_push"]
    assert (
        f"success rate {rates.mean():.2f} ({rates.sum():.0f} of 100 episodes; 95%" in capsys.readouterr().out
    )
    for episode in read_episodes(run.folder):
        assert episode.info["reward_push"] == pytest.approx(episode.episodic_return)


SCORE = {"mean": 1.0, "std": 0.0, "episodes": 3, "cut": 0}


def test_a_summary_says_what_a_training_can_be_judged_by():
    score = {**SCORE, "success_rate": 0.5, "info": {"reward_a": 2.0}}
    summary = known_summary({"evaluation": score})
    assert scored_info(summary) == {"success_rate": 0.5, "reward_a": 2.0}
    assert [judged_by(summary, by) for by in ("return", "success_rate", "reward_a", "x")] == [
        1.0,
        0.5,
        2.0,
        None,
    ]
    assert scored_info(known_summary({"evaluation": SCORE})) == {}


@pytest.mark.parametrize("info", [{"x": "1"}, {"=1": 1.0}, {"x": float("nan")}, [1], 1])
def test_a_damaged_summary_is_refused(info):
    with pytest.raises((ValueError, TypeError)):
        known_summary({"evaluation": {**SCORE, "info": info}})


@pytest.mark.parametrize("cell", ["x", "nan", "inf"])
def test_a_damaged_number_is_refused(tmp_path, cell):
    header = ",".join([*EPISODE_COLUMNS, "x"])
    (tmp_path / EPISODES).write_text(f"{header}\n1,0,0,1.0,1,terminated,{cell}\n")
    with pytest.raises(PoiseError, match="is damaged"):
        read_episodes(tmp_path)
