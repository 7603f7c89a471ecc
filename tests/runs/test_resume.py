"""A training that stops anywhere and goes on is bit for bit the one that did not stop."""

import contextlib
import dataclasses
import errno
import io
import json
import re
import shutil
import subprocess
import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.wrappers import NormalizeReward
from tensorboardX.proto.event_pb2 import Event

import poise
from poise.agents.agent import load
from poise.checked import ConfigError
from poise.cli.main import main
from poise.config import BESIDE, PPO, Config
from poise.envs import make
from poise.errors import StorageError, with_notes
from poise.runs import session as module
from poise.runs.folders import RunError
from poise.runs.journal import JournalError, cut
from poise.runs.options import Options
from poise.store import checkpoint
from poise.store.checkpoint import CheckpointError, checkpoints, load_training
from poise.store.claim import ClaimError, claimed
from poise.studies.unfinished import newest_unfinished
from poise.training.loop import Start, iterations
from poise.training.loop import settled_iterations as real_iterations
from poise.wording import counted

QUICK = {"num_envs": 3, "ppo": {"num_steps": 24, "num_epochs": 2, "minibatch_size": 24}, "video": False}
ITERATIONS = 5
STEPS = ITERATIONS * 72


class Stop(BaseException):
    """Ends a training where a test wants it."""


def train(env, out, *, stop=None, **options):
    """The run, or the folder of one that was stopped after iteration ``stop`` as a kill would."""

    def stopping(*given, **more):
        for progress in real_iterations(*given, **more):
            if stop is not None and progress.iteration > stop:
                raise Stop
            yield progress

    options = {"total_steps": STEPS, "checkpoint_every": 1, "evaluate": False} | QUICK | options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "settled_iterations", stopping)
        if stop is None:
            return poise.train(env, out=out, file=io.StringIO(), **options)
        patch.setattr("poise.runs.recorder.Recorder.finish", lambda self, *_: self.close())
        with pytest.raises(Stop):
            poise.train(env, out=out, file=io.StringIO(), **options)
    (folder,) = (out / re.sub(r"[^\w.-]+", "-", env)).iterdir()
    for path in (folder / "metrics.jsonl", folder / "episodes.csv", folder / "events.out.tfevents.poise"):
        with path.open("ab") as file:
            file.write(b"half a ro")  # of the iteration that was under way
    return folder


def resume(folder, **options):
    shown = io.StringIO()
    return poise.resume(folder, file=shown, **options), shown.getvalue()


def facts(folder):
    """All that a run leaves of its learning, times left out."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
    events = []
    data = (folder / "events.out.tfevents.poise").read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        values = [(v.tag, v.simple_value) for v in event.summary.value if not v.tag.startswith("time/")]
        events.append((event.step, values))
    greedy = folder / "greedy.csv"
    tables = [path.read_text() for path in (folder / "episodes.csv", greedy) if path.exists()]
    (newest, *_) = checkpoints(folder)
    training, _ = load_training(newest)
    candidates = json.loads((newest / "manifest.json").read_text())["notes"]["candidates"]
    world = {name: array.tobytes() for name, array in training.world.items()}
    return metrics, events, tables, candidates, world


SCHEDULED = {
    "clip_schedule": "cosine",
    "anneal": "0:1,0.3:1,1:0",
    "entropy_coef": 0.01,
    "value_num_epochs": 3,
}
SCHEDULED |= {"entropy_schedule": "linear"}
BACKENDS = [
    ("Reacher-v4", "mujoco", {"log_every": 7}),
    ("Ant-v5", "mujoco", {}),
    ("Pendulum-v1", "native", {"eval_every": 100, "eval_episodes": 2, "ppo": SCHEDULED}),
    ("CartPole-v1", "gymnasium", {}),
    ("CartPole-v1", "gymnasium", {"ppo": {"reset_every_rollout": True}}),
    ("CartPole-v1", "gymnasium-async", {}),
]


@pytest.mark.parametrize(("env", "backend", "options"), BACKENDS)
def test_stopped_and_resumed_it_comes_to_the_same_end(env, backend, options, tmp_path):
    options = options | {"ppo": QUICK["ppo"] | options.get("ppo", {})}
    whole = train(env, tmp_path / "whole", backend=backend, **options)
    for stop in (0, 2) if backend == "native" else (2,):
        folder = train(env, tmp_path / str(stop), stop=stop, backend=backend, **options)
        assert newest_unfinished(tmp_path / str(stop)) == folder
        again, shown = resume(folder)
        assert f"resuming from step {stop * 72} of {STEPS}: {folder}" in shown
        for key in ("parameters_sha256", "exact", "steps", "status"):
            assert again.summary[key] == whole.summary[key]
        assert (again.summary["exact"], again.summary["resumed"]) == (True, 1)
        assert facts(folder) == facts(whole.folder)


@pytest.mark.parametrize(("env", "backend", "options"), BACKENDS[:-1])
def test_a_loop_goes_on_from_any_iteration_that_it_yielded(env, backend, options):
    config = Config(total_steps=STEPS, num_envs=3, ppo=PPO(**QUICK["ppo"], **options.get("ppo", {})))
    progress = list(iterations(config, make(env, 3, backend)))
    for i in range(ITERATIONS - 1):
        rest = list(iterations(config, make(env, 3, backend), Start(progress[i].state, progress[i].world)))
        assert [p.iteration for p in rest] == list(range(i + 2, ITERATIONS + 1))
        assert all(p.exact for p in rest)
        assert rest[-1].metrics == progress[-1].metrics
        assert rest[-1].episodes == progress[-1].episodes


def test_a_resumed_training_compiles_once(tmp_path):
    folder = train("Reacher-v4", tmp_path, stop=2)
    script = f"""
import io, sys
from poise.runs import session as run
from poise.training.loop import settled_iterations
def counted(*given, **more):
    for progress in settled_iterations(*given, **more):
        seen.append(progress.compile_seconds)
        yield progress
seen = []
run.settled_iterations = counted
run.proceed({folder.__class__.__name__}({str(folder)!r}), run.Changes(), run.Conditions(io.StringIO()))
assert len(seen) == 3 and seen[0] > 0 and seen[1:] == [0, 0], seen
"""
    done = subprocess.run(
        [sys.executable, "-c", f"from pathlib import *\n{script}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class Wandering(CartPoleEnv):
    """Does not repeat itself: its noise is not of its seed."""

    def step(self, action):
        obs, *rest = super().step(action)
        return obs + np.float32(np.random.default_rng().normal(scale=1e-3)), *rest


gym.register("Wandering-v0", Wandering)


def test_an_environment_that_does_not_repeat_itself_makes_the_run_inexact(tmp_path):
    folder = train("Wandering-v0", tmp_path, stop=2)
    again, shown = resume(folder)
    assert "did not repeat the observations, rewards and ends of its unfinished episode" in shown
    assert "not exact: from here on the result may differ from a training without interruption" in shown
    assert again.summary["exact"] is False
    _, manifest = load_training(checkpoints(folder)[0])
    assert manifest.notes["exact"] is False
    index = [int(row.split(",")[2]) for row in (folder / "episodes.csv").read_text().splitlines()[1:]]
    assert index  # the episodes that were cut are in no table, and the next have their own numbers


gym.register("Rewarded-v0", lambda: NormalizeReward(CartPoleEnv()), max_episode_steps=50)


def test_state_kept_over_resets_makes_the_run_inexact(tmp_path):
    folder = train("Rewarded-v0", tmp_path, stop=2)
    again, shown = resume(folder)
    assert "Rewarded-v0: environment" in shown  # some repeat their episode with other rewards
    assert "not exact: from here on the result may differ" in shown
    assert again.summary["exact"] is False


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(whole, tmp_path):
    folder = train("CartPole-v1", tmp_path / "cut", stop=4)
    newest, before, *_ = checkpoints(folder)
    (newest / "training.safetensors").write_bytes(b"x" * 100)
    again, shown = resume(folder)
    assert f"{newest.name} cannot be used: {newest / 'training.safetensors'}: is not what was saved" in shown
    assert f"resuming from step {int(before.name)}" in shown
    assert facts(again.folder) == facts(whole.folder)
    assert (folder / "checkpoints" / f"unusable-{newest.name}").is_dir()


def test_without_a_usable_checkpoint_nothing_changes(tmp_path):
    folder = train("CartPole-v1", tmp_path, stop=2)
    for kept in checkpoints(folder):
        (kept / "manifest.json").write_text("{")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        resume(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metrics.jsonl", lambda p: p.write_text(""), "has 0 bytes, and had"),
        ("episodes.csv", lambda p: p.unlink(), "cannot be read: No such file"),
        (
            "events.out.tfevents.poise",
            lambda p: (p.rename(p.with_name("x")), p.symlink_to("x")),
            "cannot be read",
        ),
    ],
)
def test_a_table_that_was_changed_is_named(name, change, message, tmp_path):
    folder = train("CartPole-v1", tmp_path, stop=2)
    change(folder / name)
    shown = io.StringIO()
    with contextlib.suppress(CheckpointError):  # a table that is only too short was long enough for step 0
        poise.resume(folder, file=shown)
    assert f"000000000144 cannot be used: {folder / name}: {message}" in shown.getvalue()
    assert (folder / "summary.json").exists() == (name == "metrics.jsonl")


def test_a_checkpoint_cannot_name_a_file_outside_its_run(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    with pytest.raises(JournalError, match=r"the length of table '\.\./victim' is 0, which is invalid"):
        cut(tmp_path / "run", {"../victim": 0})
    assert victim.read_text() == "mine"


def test_an_extended_training_says_that_its_learning_rates_differ(tmp_path):
    run = train("CartPole-v1", tmp_path)
    with pytest.raises(RunError, match=r"it is finished, 360 steps; --total-steps N continues"):
        resume(run.folder)
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "finished"
    with pytest.raises(ConfigError, match="total_steps = 100: the run has 360 steps already"):
        resume(run.folder, total_steps=100)
    longer, shown = resume(run.folder, total_steps=STEPS + 144)
    assert "note: schedules now follow the new budget, so the result differs from a run\nthat had it" in shown
    assert longer.summary["steps"] == STEPS + 144
    assert json.loads((run.folder / "config.json").read_text())["total_steps"] == STEPS + 144
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    rates = [row["policy/learning_rate"] / 3e-3 for row in rows]
    np.testing.assert_allclose(rates, [1, 0.8, 0.6, 0.4, 0.2, 2 / 7, 1 / 7], rtol=1e-6)


def test_only_one_process_trains_a_run(tmp_path):
    folder = train("CartPole-v1", tmp_path, stop=2)
    with claimed(folder):
        with pytest.raises(ClaimError, match="another process is training it"):
            resume(folder)
        with pytest.raises(RunError, match="no unfinished run"):
            newest_unfinished(tmp_path)
    resume(folder)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="no run to resume"):
        resume(tmp_path)


def test_no_module_is_imported_because_a_folder_names_it(tmp_path):
    folder = train("CartPole-v1", tmp_path, stop=2)
    (newest, *others) = checkpoints(folder)
    for other in others:
        shutil.rmtree(other)
    path = newest / "manifest.json"
    data = json.loads(path.read_text()) | {"env": "antigravity:CartPole-v1"}
    path.write_text(json.dumps(data | {"sha256": checkpoint.manifest_sum(data)}))
    with pytest.raises(RunError, match="repeat the name: --env antigravity:CartPole-v1"):
        resume(folder)
    assert "antigravity" not in sys.modules


def test_no_wrapper_is_imported_because_a_folder_names_it(tmp_path):
    """With several groups, the number of devices depends on the environment, before it is made."""
    folder = train("CartPole-v1", tmp_path, stop=2)
    for path in folder.glob("checkpoints/*/manifest.json"):
        data = json.loads(path.read_text()) | {"env": "CartPole-v1 + antigravity:Fly"}
        data["config"] |= {"env_groups": 2, "num_envs": 2}
        path.write_text(json.dumps(data | {"sha256": checkpoint.manifest_sum(data)}))
    with pytest.raises(RunError, match=r"repeat the name: --env 'CartPole-v1 . antigravity:Fly'"):
        resume(folder)
    assert "antigravity" not in sys.modules


def test_a_changed_environment_is_refused(tmp_path, monkeypatch):
    folder = train("CartPole-v1", tmp_path, stop=2)
    monkeypatch.setattr(gym.registry["CartPole-v1"], "max_episode_steps", 77)
    with pytest.raises(RunError, match=r"CartPole-v1 has changed since: .*time_limit=77.*, was .*500"):
        resume(folder)


def test_a_run_interrupted_during_its_score_is_scored_when_resumed(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("poise.runs.recorder.Recorder.evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("CartPole-v1", tmp_path, evaluate=True)
    (folder,) = (tmp_path / "CartPole-v1").iterdir()
    again, _ = resume(folder)
    assert (again.summary["status"], again.summary["steps"]) == ("finished", STEPS)
    assert again.evaluation is not None


def test_only_the_newest_few_checkpoints_are_kept(tmp_path):
    run = train("CartPole-v1", tmp_path)
    assert [int(p.name) for p in checkpoints(run.folder)] == [360, 288, 216]
    names = {p.name for p in (run.folder / "checkpoints").iterdir()}
    assert len(names) == 3


def test_a_checkpoint_is_renamed_before_it_is_removed(tmp_path, monkeypatch):
    """So a kill in the midst of it leaves no half of a checkpoint that looks like a whole."""
    removed = []
    monkeypatch.setattr("poise.store.checkpoint.shutil.rmtree", lambda path, **_: removed.append(path.name))
    train("CartPole-v1", tmp_path)
    stale = [name for name in removed if "-old-" not in name and re.search("-[0-9]{12}$", name)]
    assert [name.rpartition("-")[2] for name in stale] == ["000000000000", "000000000072", "000000000144"]
    assert all(name.startswith("tmp-") for name in stale)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """CartPole, undisturbed."""
    return train("CartPole-v1", tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("when", [0, 4, 8])  # each file of a checkpoint, of the first to the third
def test_a_disk_that_is_full_costs_nothing_that_was_saved(when, whole, tmp_path, monkeypatch):
    calls, write = [], checkpoint._write

    def full(path, data):
        calls.append(path)
        if len(calls) > when + 1:  # the first is of step 0
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr("poise.store.checkpoint._write", full)
    with pytest.raises(StorageError, match=r"the disk is full .* is whole; make room, then: poise resume"):
        train("CartPole-v1", tmp_path)
    monkeypatch.setattr("poise.store.checkpoint._write", write)
    (folder,) = (tmp_path / "CartPole-v1").iterdir()
    assert int(checkpoints(folder)[0].name) == 72 * (when // 3)
    assert not list((folder / "checkpoints").glob("tmp-*"))
    again, _ = resume(folder)
    assert again.summary["parameters_sha256"] == whole.summary["parameters_sha256"]


def test_the_best_agent_is_loaded_and_is_the_one_with_the_best_score(tmp_path, monkeypatch):
    """The last agent is made bad after training: an earlier one has to win."""
    from poise.agents import best

    seen = []

    def choose(found, spec, config, candidates, **options):
        seen.extend(c.steps for c in candidates)
        chosen = best.choose(found, spec, config, candidates, **options)
        assert 0 <= chosen.place < len(candidates)
        return chosen._replace(place=0)

    monkeypatch.setattr("poise.runs.scoring.choose", choose)
    run = train("CartPole-v1", tmp_path, evaluate=True)
    assert seen[-1] == STEPS
    assert 2 <= len(seen) <= 4
    assert run.summary["best"]["steps"] == load(run.folder, "best").steps == seen[0]
    score = load(run.folder, "best").evaluate(100)
    assert run.summary["best"]["evaluation"]["mean"] == score.mean


def test_without_a_score_there_is_no_best_agent(tmp_path):
    run = train("CartPole-v1", tmp_path)
    assert run.summary["best"] is None
    with pytest.raises(CheckpointError, match="no best agent is kept there"):
        load(run.folder, "best")


def test_before_the_first_iteration_there_is_no_agent_yet(tmp_path):
    folder = train("CartPole-v1", tmp_path, stop=0)
    with pytest.raises(CheckpointError, match="its first iteration has not ended"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_crash": "restart"}, "on_crash = 'restart': has no effect on backend mujoco"),
        ({"env_timeout": 5.0}, "env_timeout = 5.0: has no effect on backend native"),
        ({"eval_episodes": 5}, "eval_episodes = 5: has no effect without eval_every"),
        ({"eval_max_steps": 5, "evaluate": False}, "eval_max_steps = 5: has no effect without a score"),
        ({"device": "cpu", "matmul_precision": "tf32"}, "matmul_precision = 'tf32': has no effect on a CPU"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    backend = message.rpartition(" ")[2]
    with pytest.raises(ConfigError, match=message):
        Options(**options).check_against(backend)


def test_the_options_survive_json():
    options = Options(log_every=3, checkpoint_every=5, eval_every=7, eval_episodes=2, eval_max_steps=9)
    options = dataclasses.replace(options, device="gpu", matmul_precision="bfloat16")
    assert Options.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    earlier = {name: value for name, value in options.to_dict().items() if name not in BESIDE}
    assert Options.from_dict(earlier) == dataclasses.replace(
        options, device="auto", matmul_precision="float32", together=1
    )
    with pytest.raises(ConfigError, match=r"options\.extra: no such option"):
        Options.from_dict({"extra": 1})


CRASHING = textwrap.dedent("""
    import os, signal, time
    import gymnasium as gym
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv

    class Crashing(CartPoleEnv):
        \"\"\"Fails once: in the episode and the step that the folder it stands in says.\"\"\"

        def reset(self, *, seed=None, options=None):
            self.seed_now, self.count = seed, 0
            self.fail("reset")
            return super().reset(seed=seed, options=options)

        def step(self, action):
            self.count += 1
            self.fail(str(self.count))
            return super().step(action)

        def fail(self, place):
            try:
                how, wanted, at = open("plan").read().split()
            except OSError:
                return
            if (str(self.seed_now), place) != (wanted, at):
                return
            os.unlink("plan")
            if how == "raise":
                raise RuntimeError("lost the robot")
            if how == "exit":
                os._exit(7)
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang":
                time.sleep(1000)

    gym.register("Crashing-v0", Crashing)
""")


@pytest.fixture
def crashing(tmp_path, monkeypatch):
    (tmp_path / "crashing.py").write_text(CRASHING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("crashing", None)
    gym.registry.pop("Crashing-v0", None)


SAID = {
    "raise": "step raised RuntimeError: lost the robot",
    "exit": "its process ended with exit code 7",
    "kill": "its process was ended by SIGKILL",
    "hang": "no answer within 3 s",
}


@pytest.mark.parametrize(("how", "at"), [("raise", 5), ("exit", "reset"), ("kill", 1), ("hang", 9)])
def test_an_environment_that_fails_is_made_anew_and_the_others_go_on(how, at, crashing, capsys):
    from poise.seeds import Stream, episode_seed

    seed = episode_seed(0, Stream.TRAINING, 1, 1)
    (crashing / "plan").write_text(f"{how} {seed} {at}")
    shown = io.StringIO()
    options = {"backend": "gymnasium-async", "on_crash": "restart", "env_timeout": 3.0, "evaluate": False}
    run = poise.train(
        "crashing:Crashing-v0", out=crashing / "runs", file=shown, total_steps=STEPS, **options, **QUICK
    )
    assert (run.summary["status"], run.summary["steps"], run.summary["crashes"]) == ("finished", STEPS, 1)
    step = 0 if at == "reset" else at
    said = SAID[how].replace("step raised", "step raised" if step else "reset raised")
    place = f"crashing:Crashing-v0, environment 1, episode seed {seed}, step {step}: {said}"
    assert f"{place}" in shown.getvalue()
    crash = json.loads((run.folder / "crash.json").read_text())
    assert (crash["index"], crash["seed"], crash["step"], len(crash["actions"])) == (1, seed, step, step)
    assert ("Traceback" in crash["trace"]) == (how == "raise")

    rows = [line.split(",") for line in (run.folder / "episodes.csv").read_text().splitlines()[1:]]
    failed = [row for row in rows if row[1:3] == ["1", "1"]]
    assert failed == []  # its return is not that of a whole episode
    assert run.summary["exact"] is False
    # those beside it are as in a training in which nothing failed
    calm = poise.train(
        "crashing:Crashing-v0",
        out=crashing / "calm",
        file=io.StringIO(),
        total_steps=72,
        backend="gymnasium",
        evaluate=False,
        **QUICK,
    )
    whole = [line.split(",") for line in (calm.folder / "episodes.csv").read_text().splitlines()[1:]]
    assert [r for r in whole if r[1] != "1"] == [r for r in rows if r[1] != "1" and int(r[0]) <= 72]

    capsys.readouterr()
    again = ["check", str(run.folder), "--env", "crashing:Crashing-v0"]
    assert main(again) == 0
    replayed = capsys.readouterr()
    assert replayed.out.startswith(f"it does not fail: {counted(step, 'step')} of crashing:Crashing-v0")
    assert replayed.err == ""
    (crashing / "plan").write_text(f"raise {seed} {at}")
    with pytest.raises(SystemExit, match="1"):
        main(again)
    replayed = capsys.readouterr().out
    assert f"it fails again: {place.partition(', environment')[0]}" in replayed
    assert "lost the robot" in replayed


def test_an_environment_that_fails_repeatedly_ends_the_training(crashing, monkeypatch):
    (crashing / "crashing.py").write_text(CRASHING.replace('os.unlink("plan")', "pass"))
    monkeypatch.setattr("poise.training.host.episode_seed", lambda *_: 5)
    (crashing / "plan").write_text("exit 5 3")
    shown = io.StringIO()
    with pytest.raises(poise.PoiseError, match="step 3: its process ended with exit code 7") as raised:
        poise.train(
            "crashing:Crashing-v0",
            out=crashing / "runs",
            file=shown,
            total_steps=STEPS,
            backend="gymnasium-async",
            on_crash="restart",
            **QUICK,
        )
    advice = "crash.json plays the episode that failed again"
    assert advice not in shown.getvalue()  # it follows the error: below it in the traceback, and as here
    assert with_notes(raised.value).splitlines()[-1].endswith(advice)
