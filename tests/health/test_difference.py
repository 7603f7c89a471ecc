"""``poise diff``: where two runs differ."""

import io
import json
import shutil

import pytest

import poise
from poise.cli.main import main
from poise.health.difference import diff
from poise.runs.journal import JournalError

QUICK = {"total_steps": 360, "num_envs": 3, "evaluate": False, "video": False}
PPO = {"num_steps": 24, "num_epochs": 2, "minibatch_size": 24}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")

    def train(**options):
        return poise.train(
            "CartPole-v1", out=out, file=io.StringIO(), **QUICK | {"ppo": PPO} | options
        ).folder

    return [train(), train(), train(ppo=PPO | {"anneal": "none"}), train(total_steps=216), train(seed=1)]


def test_the_same_training_twice_is_the_same(runs, capsys):
    assert diff(runs[0], runs[1]).same
    assert main(["diff", str(runs[0]), str(runs[1])]) == 0
    assert capsys.readouterr().out == "the same in all 5 iterations\n"


def test_the_first_iteration_that_differs_is_named_with_its_differences(runs, capsys):
    difference = diff(runs[0], runs[2])
    assert (difference.iterations, difference.iteration, difference.steps) == ((5, 5), 2, 144)
    assert difference.metrics["policy/learning_rate"] == (pytest.approx(2.4e-3), pytest.approx(3e-3))
    assert difference.config == {"ppo.anneal": ("linear", "none")}
    assert difference.machine == {}
    assert len(set(difference.parameters)) == 2
    with pytest.raises(SystemExit) as ended:
        main(["diff", str(runs[0]), str(runs[2])])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert out.startswith("the first difference is in iteration 2, which ends at step 144:\n")
    assert "configuration: ppo.anneal linear and none" in out


def test_episodes_that_differ_are_named(runs):
    difference = diff(runs[0], runs[4])
    assert difference.iteration == 1
    assert all(text.startswith("environment ") for text in difference.episodes)
    assert difference.config == {"seed": (0, 1)}


def test_options_that_an_earlier_version_did_not_have_are_no_difference(runs, tmp_path):
    copy = shutil.copytree(runs[1], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    del config["history"], config["together"], config["unused"], config["ppo"]["clip_schedule"]
    (copy / "config.json").write_text(json.dumps(config))
    assert diff(runs[0], copy).config == {}
    (copy / "config.json").write_text(json.dumps(config | {"history": 2}))
    assert diff(runs[0], copy).config == {"history": (1, 2)}


def test_a_shorter_run_differs_by_its_learning_rates(runs):
    difference = diff(runs[0], runs[3])
    assert (difference.iterations, difference.iteration) == ((5, 3), 2)
    assert difference.parameters is None  # they ended at other steps


def test_different_parameter_hashes_alone_are_a_difference(runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "copy")
    summary = json.loads((copy / "summary.json").read_text())
    versions = summary["versions"] | {"jax": "0.0.1"}
    changed = summary | {"parameters_sha256": "0" * 64, "versions": versions}
    (copy / "summary.json").write_text(json.dumps(changed))
    difference = diff(runs[0], copy)
    assert not difference.same
    assert difference.iteration is None
    assert difference.machine == {"jax": (summary["versions"]["jax"], "0.0.1")}


def test_a_folder_without_a_run_is_refused(runs, tmp_path):
    with pytest.raises(JournalError, match=r"metrics.jsonl: cannot be read"):
        diff(runs[0], tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(JournalError, match=r"metrics.jsonl: is damaged: line 1"):
        diff(tmp_path, runs[0])


@pytest.mark.parametrize("entries", [{"parameters_sha256": ["a"]}, {"steps": [1]}, {"steps": {}}])
def test_a_summary_with_values_of_other_types_is_compared(entries, runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "run")
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps(summary | entries))
    assert diff(runs[1], copy).iteration is None
