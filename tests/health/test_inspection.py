"""``poise check`` on environments that are right (sound.py) and that are not (ailing.py, sick.py)."""

import io
import json
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import poise
from poise import envs
from poise.cli.main import main
from poise.envs import EnvError
from poise.envs.vector import EnvStep
from poise.health import forecast
from poise.health.findings import Finding, by_severity
from poise.health.inspection import Inspection, inspect, look
from poise.health.probing import TaskAdapter
from poise.runs.scoring import EVALUATION_EPISODES, RESCORING_EPISODES
from poise.spec import Leaf, Part, Spec

PROBES = Path(__file__).parents[1] / "probes"
GYMNASIUMS = (
    *("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "InvertedPendulum-v4", "Reacher-v4", "HalfCheetah-v5"),
)


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(PROBES))


@cache
def results(table: str) -> dict[str, tuple[list[Finding], dict]]:
    """Of the environments of a table, from two processes; with the first those that are in none."""
    import ailing
    import sound

    halves = (
        [f"sound:{name}" for name in getattr(sound, table)],
        [f"ailing:{name}" for name in getattr(ailing, table) if name != "Exits"],
    )
    if table == "FIRST":
        import nested

        halves[0].extend(f"nested:{name}" for name in {*nested.SOUND, *nested.AILING})
        halves[0].extend(f"sick:{name}" for name in SICK)
        halves[1].extend(["sick:InfoIsAList", *GYMNASIUMS])
    command = [sys.executable, str(PROBES / "judging.py")]
    processes = [subprocess.Popen([*command, *ids], stdout=subprocess.PIPE) for ids in halves]
    told = [json.loads(process.communicate()[0]) for process in processes]
    return {
        id: ([Finding(**finding) for finding in findings], facts)
        for half in told
        for id, (findings, facts) in half.items()
    }


def judged(id: str, table: str = "FIRST") -> tuple[list[Finding], dict]:
    return results(table)[id]


TABLES = ["FIRST", pytest.param("HELD_OUT", marks=pytest.mark.slow)]


def rules(findings, *severities):
    return [f.rule for f in findings if f.severity in (severities or ("error", "warning", "note"))]


@pytest.mark.processes
@pytest.mark.parametrize("table", TABLES)
def test_no_environment_that_is_right_is_called_sick(table):
    import sound

    names = getattr(sound, table)
    found = {name: rules(judged(f"sound:{name}", table)[0], "error", "warning") for name in names}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.processes
@pytest.mark.parametrize("table", TABLES)
def test_no_mistake_is_missed_and_nothing_else_is_said(table):
    import ailing

    wanted = {name: rule for name, rule in getattr(ailing, table).items() if name != "Exits"}
    found = {name: judged(f"ailing:{name}", table)[0] for name in wanted}
    assert {name: rules(found[name]) for name, rule in wanted.items() if rule not in rules(found[name])} == {}
    graver = {name: set(rules(found[name], "error", "warning")) - {rule} for name, rule in wanted.items()}
    assert {name: others for name, others in graver.items() if others} == {}


def test_the_tables_have_forty_environments_and_more():
    import ailing
    import sound

    assert len({*sound.FIRST, *sound.HELD_OUT}) >= 40
    assert len({**ailing.FIRST, **ailing.HELD_OUT}) >= 40


@pytest.mark.processes
def test_a_finding_shows_nothing_of_the_inside_of_poise_and_says_what_to_do():
    findings = [
        finding for id, (of_it, _) in results("FIRST").items() if id.startswith("ailing") for finding in of_it
    ]
    package = str(Path(poise.__file__).parent)
    for finding in findings:
        text = "\n".join(finding.lines())
        assert "Traceback" not in text
        assert "EnvFault" not in text
        assert package not in text
        assert len(finding.fix) > 10


def nested_names(table: str) -> list[str]:
    """Of ``nested.py``, which is not on the path while tests are collected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROBES))
        import nested
    return list(getattr(nested, table))


@pytest.mark.processes
def test_spaces_of_several_parts_that_are_right_are_not_called_sick():
    found = {name: rules(judged(f"nested:{name}")[0], "error", "warning") for name in nested_names("SOUND")}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.processes
@pytest.mark.parametrize("name", nested_names("AILING"))
def test_a_finding_names_the_part_of_the_observation_or_action(name):
    import nested

    rule, severity, seen = nested.AILING[name]
    findings, _ = judged(f"nested:{name}")
    (mine,) = [finding for finding in findings if finding.rule == rule]
    assert mine.severity == severity
    assert seen in mine.seen
    assert set(rules(findings, "error", "warning")) <= {rule}


@pytest.mark.processes
def test_the_facts_tell_the_parts_and_where_masks_come_from():
    facts = judged("nested:Crane")[1]
    crab = "crab.place (1 number), crab.speed (1 number)"
    assert facts["observation"] == f"{crab}, held (2 values), lamps (2 numbers)"
    assert facts["action"] == "push (1), hook (2 choices), lamps (2 x 2 choices)"
    assert facts["leaves"][2] == {"name": "held", "kind": "one_hot", "shape": []}
    assert "obs_shape" not in facts
    sources = {name: judged(f"nested:{name}")[1]["masks"] for name in ("Walk", "Told", "Asked")}
    assert sources == {"Walk": 'obs["action_mask"]', "Told": 'info["action_mask"]', "Asked": "action_masks()"}
    lines = Inspection("nested:Told", judged("nested:Told")[1], []).lines()
    observed = "obs (9 values), action_mask (which choices are allowed)"
    assert lines[1] == f"  observes {observed}, acts by 3 choices, no time limit"
    assert lines[3] == '  choices are masked by info["action_mask"]'
    failed = judged("nested:NothingAtFirst")[1]  # at the first reset, before anything is played
    assert failed["action"] == "3 choices"


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
    "Deaf": ("action-ignored", "error", "other actions led to the same observations and rewards"),
    "Limited": ("limit-as-termination", "warning", "were terminated at step 40"),
    "Endless": ("never-ends", "warning", "steps, and there is no time limit"),
    "NotANumber": ("breaks", "error", "episode seed 0, step 5: obs[0] is nan"),
    "NoReward": ("breaks", "error", "step 1: reward is None, should be a number"),
    "Raises": ("breaks", "error", "step raised ValueError: off the rails"),
    "Pictures": ("cannot-be-made", "error", "is not supported: no network reads Text"),
    "Unmakable": ("cannot-be-made", "error", "OSError: no simulator is running"),
    "OldReset": ("breaks", "error", "should be (obs, info)"),
}


@pytest.mark.processes
@pytest.mark.parametrize("kind", SICK)
def test_each_problem_is_found(kind):
    rule, severity, seen = SICK[kind]
    findings, _ = judged(f"sick:{kind}")
    (mine,) = [finding for finding in findings if finding.rule == rule]
    assert mine.severity == severity
    assert seen in mine.seen
    assert set(rules(findings, "error", "warning")) <= {rule}


def test_a_process_that_dies_is_named():
    inspection = inspect("sick:Dies")
    (dies,) = inspection.findings
    assert (dies.rule, dies.severity) == ("dies", "error")
    assert dies.seen.startswith("its process ended with code 9 while")
    assert not inspection.ok


@pytest.mark.processes
def test_an_environment_that_hangs_is_ended():
    inspection = inspect("sick:Hangs", timeout=8)
    (hangs,) = inspection.findings
    assert hangs.rule == "hangs"
    assert hangs.seen.startswith("no response for 8 s while")


def test_an_environment_that_leaves_python_does_not_pass():
    inspection = inspect("ailing:Exits")
    assert inspection.findings[0].rule in ("breaks", "dies")
    assert not inspection.ok


def test_output_of_an_environment_is_not_part_of_the_result(capfd):
    assert main(["check", "sound:Talks", "--json"]) == 0
    out = capfd.readouterr().out
    assert json.loads(out)["ok"]


@pytest.mark.processes
@pytest.mark.parametrize("id", GYMNASIUMS)
def test_gymnasiums_environments_give_no_error_and_no_warning(id):
    findings, facts = judged(id)
    assert rules(findings, "error", "warning") == []
    assert facts["played_episodes"] > 3


def test_a_task_of_the_batch_engine_alone_is_played_there(monkeypatch):
    monkeypatch.syspath_prepend(str(PROBES.parents[1] / "examples"))
    inspection = inspect("ball_and_beam:BallAndBeam-v0")
    assert rules(inspection.findings) == []
    assert inspection.facts["backend"] == "mujoco"


@pytest.mark.processes
def test_the_advice_for_a_task_is_of_its_own():
    (finding,) = judged("ailing:BeamNoise-v0")[0]
    assert "np_random" not in finding.fix
    assert "the rng that draw(), vary() and place() are given" in finding.fix
    (finding,) = judged("ailing:BeamField-v0")[0]
    assert finding.fix == "see docs/robots.md"
    (finding,) = judged("ailing:BeamShape-v0")[0]
    assert finding.seen == (
        "ailing:BeamShape-v0: outcome returned shapes (1, 2), (1,), should be (N,), (N,); episode seed 0, "
        "step 1"
    )


def test_actions_are_of_the_type_that_a_training_passes(tmp_path):
    """An environment that tells what it is given."""
    import seeing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in ("Choices", "Numbers"):
            assert rules(look(f"seeing:{kind}", lambda *told: None, seconds=1.0), "error", "warning") == []
    checked = {kind: set(types) for kind, types in seeing.given.items()}
    for types in seeing.given.values():
        types.clear()
    for kind in ("Choices", "Numbers"):
        options = {"total_steps": 256, "num_envs": 2, "evaluate": False, "video": False}
        poise.train(f"seeing:{kind}", file=io.StringIO(), out=tmp_path, **options)
    assert {kind: set(types) for kind, types in seeing.given.items()} == checked


@pytest.mark.processes
def test_the_time_of_a_training_includes_learning_and_the_score():
    plain, picture = judged("sound:Desk")[1], judged("ailing:Camera")[1]
    learning = picture["training_seconds"] - picture["step_us"] * 1e-6 * forecast.TRAINING
    assert learning > 10 * plain["training_seconds"]
    maze = judged("sound:Maze")[1]  # episodes that end at a goal, or at a limit of its own
    assert maze["score_seconds"] < maze["score_seconds_most"]
    endless = judged("sick:Endless")[1]
    assert "score_seconds" not in endless
    # 328 episodes of 10,000 steps would be 3,280,000: the budget of the score leaves a thirtieth of them
    assert endless["score_seconds_most"] < 0.1 * forecast.SCORED * 10_000 * endless["step_us"] * 1e-6
    assert forecast.SCORED == 2 * EVALUATION_EPISODES + 4 * RESCORING_EPISODES
    assert "100,000 steps of training take about" in forecast.in_words(endless)[0]
    assert "if none ends before 10,000 steps" in forecast.in_words(endless)[1]


def test_seconds_are_said_as_a_person_says_them():
    assert [forecast.span(s) for s in (0.4, 119, 600, 7300)] == ["0 s", "119 s", "10 min", "2.0 h"]


def test_a_fault_of_a_rule_is_told_and_what_was_found_before_stays(monkeypatch):
    from poise.health import inspection

    def broken(play):
        raise AssertionError("no")
        yield

    monkeypatch.setattr(inspection, "RULES", (*inspection.RULES[:4], broken))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (before, failed) = list(look("ailing:Frames", lambda kind, told: None))
    assert (before.rule, failed.rule) == ("observation-image", "check-failed")
    assert failed.seen.startswith("the check itself failed: AssertionError: no")


@pytest.mark.processes
def test_the_same_is_found_again_in_another_process():
    findings, facts = judged("sick:Dead")
    again = inspect("sick:Dead")
    assert again.findings == by_severity(findings)
    assert again.facts["played_steps"] == facts["played_steps"]


@pytest.mark.processes
def test_gymnasiums_checker_has_its_say_where_nothing_grave_was_found():
    (_, found) = judged("sick:InfoIsAList")[0]
    assert (found.rule, found.severity) == ("gymnasium-checker", "note")
    assert "was not a dictionary" in found.seen


def test_a_name_that_is_no_environment_is_refused():
    with pytest.raises(EnvError, match="module sick has no 'Nothing'; it has sick:Sound"):
        inspect("sick:Nothing")
    with pytest.raises(EnvError, match="sick:np is an object \\(module\\), not an environment"):
        inspect("sick:np")  # a name in the module that is no environment


@pytest.mark.processes
def test_a_class_is_trained_and_evaluated_by_its_name(tmp_path):
    options = {"total_steps": 512, "num_envs": 2, "video": False, "out": tmp_path, "file": io.StringIO()}
    options["eval_max_steps"] = 2000
    run = poise.train("sick:Sound", **options)
    assert run.summary["env"] == "sick:Sound"
    apart = poise.train("sick:Sound", backend="gymnasium-async", **options)
    assert apart.summary["parameters_sha256"] == run.summary["parameters_sha256"]
    again = poise.load(run.folder).evaluate(len(run.evaluation.length), env="sick:Sound")
    # as many environments at once as the budget of a score allows: a product's last bit depends on it
    assert again.mean == pytest.approx(run.evaluation.mean, rel=1e-6)


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
    assert out.endswith("2 notes\nto train on it: poise train sick:Dead\n")
    with pytest.raises(SystemExit) as stop:
        main(["check", "sick:Deaf", "--json"])
    assert stop.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["findings"][0]["rule"]) == (False, "action-ignored")
    assert main(["check", "nowhere/crash.json"]) == 2
    assert main(["check", "Sound-v9"]) == 2


def test_a_batch_is_timed_with_actions_that_its_mask_allows():
    parts = (Part((), (2,), sizes=(3, 2), first=(0, 0)),)
    spec = Spec("x", (Leaf((), "vector", (1,)), Leaf((), "mask", (5,))), parts)
    mask = np.ones((forecast.BATCH, 5), bool)
    mask[:, [0, 3]] = False
    mask[1] = True
    actions = forecast._first_actions(spec, {"numbers": np.zeros((forecast.BATCH, 1)), "action_mask": mask})
    assert actions.tolist() == [[1, 1], [0, 0], *[[1, 1]] * (forecast.BATCH - 2)]


def test_a_task_that_observes_several_vectors_is_played_by_their_names(monkeypatch):
    class Batch:
        spec = Spec(
            "x",
            (Leaf(("arm",), "vector", (2, 1)), Leaf(("leg",), "vector", (1,))),
            Spec.flat("x", (1,), (1,), (-1.0,), (1.0,)).action,
        )

        def reset(self, mask, seeds):
            return np.array([[1.0, 2.0, 3.0]])

        def step(self, action):
            return EnvStep(np.array([[4.0, 5.0, 6.0]]), np.ones(1), np.zeros(1, bool), np.ones(1, bool))

    monkeypatch.setattr(envs, "make", lambda *_: Batch())
    env = TaskAdapter(envs.resolve("CartPole-v1"))
    obs, _ = env.reset(seed=0)
    assert env.observation_space["arm"].shape == (2, 1)
    assert (obs["arm"].tolist(), obs["leg"].tolist()) == ([[1], [2]], [3])
    obs, *rest, _ = env.step(np.float32([0.5]))
    assert (obs["leg"].tolist(), rest) == ([6], [1.0, False, True])
