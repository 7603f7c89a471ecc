"""Environments sick in one way each (sick.py), and sound ones."""

import io
import json
from pathlib import Path

import pytest

import poise
from poise.cli import main
from poise.envs import EnvError
from poise.inspection import inspect

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def sick(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def rules(inspection, *severities):
    return [f.rule for f in inspection.findings if f.severity in (severities or ("error", "warning", "note"))]


SICK = {
    "Unseeded": ("not-repeatable", "warning", "at step 0 the second time"),
    "Remembers": ("not-repeatable", "warning", "the second time"),
    "OneStart": ("one-start", "note", "the same observation"),
    "Aliased": ("observation-aliased", "warning", "was changed by the next step"),
    "WritesAction": ("action-changed", "warning", "the array of the action"),
    "Doubles": ("observation-dtype", "note", "are float64, their space says float32"),
    "Outside": ("outside-bounds", "note", "declared -0.5 to 0.5"),
    "Dead": ("constant-observation", "note", "2 of 3 observed numbers never changed: 1, 2"),
    "Unrewarded": ("reward-constant", "warning", "rewards was 0"),
    "Sparse": ("reward-sparse", "note", "of the rewards were not 0"),
    "Huge": ("reward-size", "note", "e+09 in size"),
    "Deaf": ("action-ignored", "error", "went the same way for"),
    "Limited": ("limit-as-termination", "warning", "were terminated at step 40"),
    "Endless": ("never-ends", "warning", "no episode ended in 4,000 steps, and there is no time limit"),
    "NotANumber": ("breaks", "error", "episode seed 0, step 5: obs[0] is nan"),
    "NoReward": ("breaks", "error", "step 1: reward is None, should be a number"),
    "Raises": ("breaks", "error", "step raised ValueError: off the rails"),
    "Pictures": ("cannot-be-made", "error", "is not supported; supported is Box"),
    "Unmakable": ("cannot-be-made", "error", "OSError: no simulator is running"),
    "OldReset": ("breaks", "error", "should be (obs, info)"),
    "Dies": ("dies", "error", "its process ended with code 9 while"),
}


@pytest.mark.parametrize("kind", SICK)
def test_what_is_sick_is_named(kind):
    rule, severity, seen = SICK[kind]
    inspection = inspect(f"sick:{kind}")
    (mine,) = [finding for finding in inspection.findings if finding.rule == rule]
    assert mine.severity == severity
    assert seen in mine.seen
    assert inspection.ok == (severity != "error")
    assert set(rules(inspection, "error", "warning")) <= {rule}


def test_what_hangs_is_ended():
    inspection = inspect("sick:Hangs", timeout=4)
    (hangs,) = inspection.findings
    assert hangs.rule == "hangs"
    assert hangs.seen.startswith("nothing came back for 4 s while")


@pytest.mark.parametrize(
    "id", ["sick:Sound", "CartPole-v1", "Pendulum-v1", "InvertedPendulum-v4", "Reacher-v4", "HalfCheetah-v5"]
)
def test_what_is_sound_gives_no_error_and_no_warning(id):
    inspection = inspect(id)
    assert rules(inspection, "error", "warning") == []
    assert inspection.ok
    assert inspection.facts["played_episodes"] > 3


def test_a_task_of_the_batch_engine_alone_is_played_there(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE.parent / "examples"))
    inspection = inspect("ball_and_beam:BallAndBeam-v0")
    assert rules(inspection) == []
    assert inspection.facts["backend"] == "mujoco"


def test_the_same_is_found_again():
    one, two = (inspect("sick:Dead") for _ in range(2))
    assert one.findings == two.findings
    assert one.facts["played_steps"] == two.facts["played_steps"]


def test_gymnasiums_checker_has_its_say_where_nothing_grave_was_found():
    (found,) = inspect("sick:InfoIsAList").findings
    assert (found.rule, found.severity) == ("gymnasium-checker", "warning")
    assert "was not a dictionary" in found.seen


def test_what_is_no_environment_is_refused():
    with pytest.raises(EnvError, match="there is no environment 'sick:Nothing'"):
        inspect("sick:Nothing")
    with pytest.raises(EnvError, match="there is no environment"):
        inspect("sick:np")  # a name in the module that is no environment


def test_a_class_is_trained_and_evaluated_by_its_name(tmp_path):
    options = {"total_steps": 512, "num_envs": 2, "video": False, "out": tmp_path, "file": io.StringIO()}
    run = poise.train("sick:Sound", **options)
    assert run.summary["env"] == "sick:Sound"
    apart = poise.train("sick:Sound", backend="gymnasium-async", **options)
    assert apart.summary["parameters_sha256"] == run.summary["parameters_sha256"]
    again = poise.load(run.folder).evaluate(env="sick:Sound")
    assert again.mean == run.evaluation.mean


def test_classes_of_one_name_in_two_modules_are_two_environments(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "other.py").write_text("import sick\n\n\nclass Sound(sick.Dead):\n    pass\n")
    assert [poise.make(f"{module}:Sound", 1).spec.obs_size for module in ("sick", "other", "sick")] == [
        1,
        3,
        1,
    ]


def test_the_command_tells_what_was_found_and_exits_with_1_where_a_training_would_be_wrong(capsys):
    assert main(["check", "sick:Dead"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("sick:Dead\n  observes 3 numbers, acts by 1 number, no time limit\n")
    assert "note: constant-observation\n" in out
    assert out.endswith("1 note\nto train on it: poise train sick:Dead\n")
    with pytest.raises(SystemExit) as stop:
        main(["check", "sick:Deaf", "--json"])
    assert stop.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["findings"][0]["rule"]) == (False, "action-ignored")
    assert main(["check", "nowhere/crash.json"]) == 2
    assert main(["check", "Sound-v9"]) == 2
