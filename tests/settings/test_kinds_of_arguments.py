"""An argument of the wrong kind is refused in one sentence. A result stands for its folder."""

import io
from typing import Any

import pytest

import poise
from poise.errors import PoiseError

WRONG: Any = object()
TRAIN = (
    "run_dir",
    "out",
    "tag",
    "name",
    "note",
    "start_from",
    "start_parts",
    "on_iteration",
    "stop_at",
    "seed",
)
CALLS = {
    **{
        f"train({name})": (name, lambda name=name: poise.train("CartPole-v1", **{name: WRONG}))
        for name in TRAIN
    },
    "session": ("tag", lambda: poise.session("CartPole-v1", tag=WRONG).__enter__()),
    "resume": ("run", lambda: poise.resume(WRONG)),
    "video": ("run", lambda: poise.video(WRONG)),
    "export": ("run", lambda: poise.export(WRONG)),
    "diagnose": ("run", lambda: poise.diagnose(WRONG)),
    "report": ("runs", lambda: poise.report([WRONG])),
    "compare": ("runs", lambda: poise.compare(WRONG)),
    "diff": ("second", lambda: poise.diff("a", WRONG)),
    "check": ("env", lambda: poise.check(WRONG)),
    "experiment(seeds)": ("seeds", lambda: poise.experiment("CartPole-v1", seeds=WRONG)),
    "experiment(against)": ("against", lambda: poise.experiment("CartPole-v1", against=WRONG)),
    "sweep(search)": ("search", lambda: poise.sweep("CartPole-v1", search=WRONG)),
    "sweep(trials)": ("trials", lambda: poise.sweep("CartPole-v1", trials=WRONG)),
    "StopAt": ("target", lambda: poise.StopAt(WRONG)),
}


@pytest.mark.parametrize(("named", "call"), CALLS.values(), ids=CALLS.keys())
def test_the_sentence_names_the_argument(named, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PoiseError) as refused:
        call()
    assert str(refused.value).startswith(named)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_what_train_returned_stands_for_its_folder(tmp_path):
    brief: Any = {"total_steps": 512, "num_envs": 2, "ppo": {"num_steps": 128}, "policy": {"hidden": 8}}
    run = poise.train("Pendulum-v1", **brief, video=False, out=tmp_path, file=io.StringIO())
    assert poise.load(run).spec == poise.load(str(run.folder)).spec
    assert poise.diff(run, str(run.folder)).same
    assert poise.diagnose(run) == poise.diagnose(str(run.folder))
    assert poise.report(run) == poise.report(str(run.folder)) == run.folder / "report.html"
    assert poise.export(run, out=str(tmp_path / "p.py")).path == tmp_path / "p.py"
    other: Any = {"start_from": run, "evaluate": False, "run_dir": tmp_path / "other"}
    again = poise.train("Pendulum-v1", **brief, **other, video=False, file=io.StringIO())
    assert str(run.folder) in (again.folder / "config.json").read_text()
    with pytest.raises(PoiseError, match="it is finished"):
        poise.resume(run, file=io.StringIO())
