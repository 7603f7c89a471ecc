"""``--run-dir``: the same line makes a run, resumes it, and leaves it alone when it is finished."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

import poise
from poise.checked import ConfigError
from poise.cli.main import main
from poise.runs.driving.run_dir import make_run_dir
from poise.runs.folders import RunError
from poise.runs.options import Options
from poise.store.checkpoint import CheckpointError, checkpoints
from poise.store.claim import claimed

ROLLOUT = 2 * 32
SMALL = {
    "total_steps": 6 * ROLLOUT,
    "num_envs": 2,
    "ppo": {"num_steps": 32, "num_epochs": 2},
    "policy": {"hidden": "8"},
    "value": {"hidden": "8"},
    "video": False,
}


def trained(folder, **settings):
    settings = SMALL | settings
    return poise.train("Pendulum-v1", run_dir=folder, file=settings.pop("file", io.StringIO()), **settings)


def interrupted(folder, **settings):
    """Trains two iterations, as a job that the queue takes away."""

    def on_iteration(progress):
        if progress.iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(folder, on_iteration=on_iteration, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run")


def test_a_finished_run_is_told_with_the_infos_of_its_score(tmp_path):
    given = {**SMALL, "total_steps": ROLLOUT, "run_dir": tmp_path / "run", "file": io.StringIO()}
    first, again = (poise.train("Reacher-v5", **given) for _ in range(2))
    assert first.evaluation is not None
    assert again.evaluation is not None
    assert again.evaluation.info.keys() == first.evaluation.info.keys() != set()
    assert again.evaluation.summary() == first.evaluation.summary()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_line_makes_resumes_and_tells_a_training(whole, tmp_path):
    folder, shown = tmp_path / "deep" / "run", io.StringIO()
    interrupted(folder)
    assert int(checkpoints(folder)[0].name) == 2 * ROLLOUT
    run = trained(folder, file=shown)
    assert shown.getvalue().startswith(f"resuming from step {2 * ROLLOUT} of {6 * ROLLOUT}: {folder}\n")
    assert run.folder == folder
    for name in ("parameters_sha256", "evaluation", "best", "exact"):
        assert run.summary[name] == whole.summary[name]
    before, shown = contents(folder), io.StringIO()
    again = trained(folder, file=shown)
    assert contents(folder) == before
    assert again.summary == run.summary == json.loads((folder / "summary.json").read_text())
    assert again.evaluation.mean == run.evaluation.mean
    np.testing.assert_array_equal(again.evaluation.length, run.evaluation.length)
    first, score, *_, last = shown.getvalue().splitlines()
    assert (first, last) == (f"it is finished already: {folder}", str(folder))
    assert score.startswith("greedy return -")


DIFFERING = [
    (
        {"ppo": {"num_steps": 32, "num_epochs": 3}},
        r"with ppo\.num_epochs = 2 instead of 3; repeat its settings",
    ),
    ({"seed": 7}, r"with seed = 0 instead of 7; repeat its settings, or choose another --run-dir"),
    ({"total_steps": 8 * ROLLOUT}, r"instead of 512; to change it: poise resume .* --total-steps 512$"),
    ({"eval_every": 64}, r"with eval_every = None instead of 64"),
    (
        {"stop_at": -100.0},
        r"stop_at = None instead of -100.0; to change it: poise resume .* --stop-at -100.0$",
    ),
]


@pytest.mark.parametrize(("other", "message"), DIFFERING)
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_training_there_is_refused_and_stays(other, message, is_finished, whole, tmp_path):
    folder = whole.folder
    if not is_finished:
        interrupted(folder := tmp_path / "run", evaluate=False)
        other = {**other, "evaluate": False}
    before = contents(folder)
    with pytest.raises(RunError, match=message):
        trained(folder, **other)
    assert contents(folder) == before


def test_a_training_that_was_continued_is_not_told_to_shrink(tmp_path, capsys):
    folder = tmp_path / "run"
    trained(folder, evaluate=False)
    again = f"to go on with it: poise resume {folder} --total-steps"
    with pytest.raises(RunError, match=f"instead of 256; it has 384 steps already; {again} 384; or choose"):
        trained(folder, evaluate=False, total_steps=4 * ROLLOUT)
    poise.resume(folder, total_steps=8 * ROLLOUT, file=io.StringIO())
    said = f"it was continued by poise resume: it has 512 steps already; {again} 512; or choose another"
    for total_steps in (6 * ROLLOUT, 8 * ROLLOUT):  # with both, other numbers follow from its first budget
        with pytest.raises(RunError, match=said):
            trained(folder, evaluate=False, total_steps=total_steps)
    assert main(["resume", str(folder), "--total-steps", "512"]) == 0


def test_the_advice_is_a_whole_command_that_works(tmp_path, capsys, monkeypatch):
    (tmp_path / "advised.py").write_text(
        "from gymnasium.envs.classic_control import PendulumEnv as Base\n\nclass Swing(Base):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    given = {**SMALL, "evaluate": False, "run_dir": Path("run"), "file": io.StringIO()}
    poise.train("advised:Swing", **given)
    with pytest.raises(RunError, match="to change it: poise resume") as raised:
        poise.train("advised:Swing", **{**given, "total_steps": 8 * ROLLOUT})
    command = str(raised.value).partition("to change it: poise ")[2]
    assert command == "resume run --total-steps 512 --env advised:Swing"
    assert main(command.split()) == 0


def test_a_training_that_stopped_early_is_finished(tmp_path):
    run = trained(tmp_path / "run", max_seconds=1e-3, evaluate=False)
    assert (run.summary["steps"], run.summary["stopped_by"]) == (ROLLOUT, "max_seconds")
    assert trained(tmp_path / "run", max_seconds=1e-3, evaluate=False).summary == run.summary


def test_another_environment_there_is_refused(whole):
    with pytest.raises(RunError, match="with env = 'Pendulum-v1' instead of 'CartPole-v1'"):
        poise.train("CartPole-v1", run_dir=whole.folder, file=io.StringIO(), **SMALL)


def test_name_tags_and_note_are_no_other_training(whole):
    again = trained(whole.folder, name="another", tag="x", note="said later")
    assert again.summary == whole.summary


def test_a_folder_with_something_else_is_refused_and_stays(tmp_path):
    (tmp_path / "config.json").write_text("{}")  # a file of the user, although poise has one of this name
    for name in ("config.json", "notes.txt"):
        (tmp_path / name).touch()
        with pytest.raises(
            RunError, match=r"neither empty nor the folder of a training \(config\.json is in it"
        ):
            trained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "notes.txt"}
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be made: it is not a folder"):
        trained(tmp_path / "file")


def test_tables_without_their_checkpoints_are_not_overwritten(whole, tmp_path):
    with claimed(tmp_path):
        (tmp_path / "metrics.jsonl").write_bytes((whole.folder / "metrics.jsonl").read_bytes())
    with pytest.raises(RunError, match=r"\(metrics\.jsonl is in it\)"):
        trained(tmp_path)


def test_a_training_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path):
    with claimed(tmp_path):
        for name in ("config.json", "metrics.jsonl", "episodes.csv"):
            (tmp_path / name).touch()
        (tmp_path / "checkpoints" / "tmp-1-1-000000000000").mkdir(parents=True)
    make_run_dir(tmp_path)
    run = trained(tmp_path, evaluate=False, total_steps=ROLLOUT)
    assert run.summary["steps"] == ROLLOUT
    assert not list(tmp_path.glob("replaced-*"))


def test_a_folder_whose_checkpoints_are_all_damaged_is_refused_and_stays(tmp_path):
    interrupted(tmp_path / "run", evaluate=False)
    for checkpoint in checkpoints(tmp_path / "run"):
        (checkpoint / "manifest.json").write_text("{}")
    before = contents(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is damaged"):
        trained(tmp_path / "run", evaluate=False)
    assert contents(tmp_path / "run") == before


def test_an_unknown_environment_makes_no_folder(tmp_path):
    with pytest.raises(poise.PoiseError, match="there is no environment"):
        poise.train("Pendulm-v1", run_dir=tmp_path / "run", file=io.StringIO())
    assert not list(tmp_path.iterdir())


def test_out_has_no_effect_beside_it(tmp_path):
    with pytest.raises(ConfigError, match="out = 'elsewhere': has no effect with run_dir = 'here'"):
        Options(out=Path("elsewhere"), run_dir=Path("here"))
