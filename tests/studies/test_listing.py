"""``poise runs``, and the names of runs."""

import fcntl
import json
import os
import re
import threading

import pytest

from poise import train
from poise.checked import ConfigError
from poise.cli.main import main
from poise.runs.folders import RunError
from poise.runs.options import Options
from poise.store.claim import claimed, is_claimed
from poise.studies.comparison import compare_runs
from poise.studies.listing import list_runs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs with names, one without, and one that was damaged."""
    out = tmp_path_factory.mktemp("listing") / "runs"
    common = {"out": out, "video": False, "total_steps": 512, "num_envs": 2}
    rates = {"slow": 1e-4, "fast": 3e-3}
    for seed, (name, rate) in enumerate(rates.items()):
        ppo = {"policy_learning_rate": rate, "num_steps": 64}
        train("CartPole-v1", name=name, tag=("rates", name), seed=seed, ppo=ppo, **common)
    train("CartPole-v1", seed=2, evaluate=False, **common)
    damaged = out / "CartPole-v1" / "damaged" / "checkpoints" / "000000000512"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{")
    return out


def test_each_run_has_its_line(place):
    runs = {run.name or run.folder.rpartition("/")[2]: run for run in list_runs(place)}
    slow = runs["slow"]
    assert (slow.env, slow.seed, slow.status, slow.steps, slow.tags) == (
        "CartPole-v1",
        0,
        "finished",
        512,
        ("rates", "slow"),
    )
    summary = json.loads((place / slow.folder / "summary.json").read_text())
    assert slow.score == summary["evaluation"]["mean"]
    assert slow.differs is not None
    assert slow.differs["ppo.policy_learning_rate"] == 1e-4
    assert slow.differences == "num_envs 2, ppo.policy_learning_rate 0.0001"
    assert re.fullmatch(r"\d{8}-\d{6}-0-slow", slow.folder.rpartition("/")[2])
    assert runs["damaged"].status == "damaged"
    (unnamed,) = (run for run in runs.values() if run.name is None and run.status != "damaged")
    assert (unnamed.seed, unnamed.score) == (2, None)


def test_words_choose_and_columns_sort(place):
    assert [run.name for run in list_runs(place, ["RATES", "finished"], sort="name")] == ["fast", "slow"]
    assert [run.name for run in list_runs(place, ["policy_learning_rate 0.0001"])] == ["slow"]
    assert [run.seed for run in list_runs(place, sort="seed", reverse=True)] == [2, 1, 0, None]
    scores = [run.score for run in list_runs(place, sort="score")]
    known = [score for score in scores if score is not None]
    assert known == sorted(known)
    assert scores[2:] == [None, None]  # without a score, at the end
    with pytest.raises(ConfigError, match=r"sort = 'size': must be one of: time, name"):
        list_runs(place, sort="size")
    with pytest.raises(RunError, match="no such folder"):
        list_runs(place / "nowhere")


def test_a_run_that_a_process_has_is_in_training_and_others_are_only_looked_at(place):
    (slow,) = list_runs(place, ["slow"])
    folder = place / slow.folder
    summary = folder / "summary.json"
    kept = summary.read_text()
    try:
        summary.unlink()
        (folder / ".lock").unlink()
        assert list_runs(place, ["slow"])[0].status == "unfinished"
        assert not (folder / ".lock").exists()
        with claimed(folder):
            assert is_claimed(folder)
            assert list_runs(place, ["slow"])[0].status == "training"
        assert not is_claimed(folder)
        summary.write_text(kept.replace('"finished"', '"interrupted"'))
        assert list_runs(place, ["slow"])[0].status == "interrupted"
    finally:
        summary.write_text(kept)


def test_a_look_at_a_run_does_not_keep_a_training_from_it(tmp_path):
    with claimed(tmp_path):
        pass
    with (tmp_path / ".lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with claimed(tmp_path):
            assert is_claimed(tmp_path)


def test_the_verb_prints_a_table_and_json(place, capsys):
    assert main(["runs", str(place), "--sort", "name"]) == 0
    title, first, second, *_ = capsys.readouterr().out.splitlines()
    assert title.split()[:3] == ["name", "environment", "seed"]
    assert first.startswith("fast #rates #fast  CartPole-v1")
    assert second.startswith("slow #rates #slow  CartPole-v1")
    assert main(["runs", str(place), "--filter", "slow", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["tags"], row["steps"]) == ("slow", ["rates", "slow"], 512)
    assert main(["runs", str(place), "--filter", "nothing like it"]) == 0
    assert "no runs with nothing like it" in capsys.readouterr().out


def test_a_setting_is_labelled_by_the_name_of_its_runs(place):
    runs = [place / run.folder for run in list_runs(place, ["rates"], sort="name")]
    comparison = compare_runs(runs)
    assert sorted(setting.label for setting in comparison.settings) == ["fast", "slow"]
    text = "\n".join(comparison.lines())
    assert "slow: ppo.policy_learning_rate 0.0001" in text


@pytest.mark.parametrize(
    "about",
    [{"name": ""}, {"name": "a\nb"}, {"name": "x" * 61}, {"tag": ("",)}, {"note": "x" * 1001}, {"tag": "-a"}],
)
def test_a_name_is_one_line(about):
    with pytest.raises(ConfigError, match=r"^(name|tag|note) = .*(characters in one line|not begin with -)"):
        Options(**about)


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    os.symlink(tmp_path / "elsewhere", tmp_path / ".lock")
    assert not is_claimed(tmp_path)
