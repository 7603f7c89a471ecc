"""A sweep is a function of its configuration, whatever stops it and however often."""

import contextlib
import dataclasses
import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest

from poise.cli.main import main
from poise.config import Config
from poise.errors import TrainingError
from poise.runs import session as run_module
from poise.runs.folders import RunError
from poise.runs.journal import read_episodes
from poise.runs.options import Options
from poise.runs.records import read_record
from poise.studies.pool import PoolError
from poise.studies.sweep import study, sweep, trial
from poise.studies.sweep.results import report_lines
from poise.studies.sweep.search import Search
from poise.studies.sweep.study import Ledger, StudyError, TrialRecord, score, thresholds
from poise.studies.sweep.sweep import SweepError, execute_sweep, proceed_sweep, read_plan
from poise.studies.sweep.trial import Result, Trial, TrialError, read_result
from poise.studies.tables import read_table
from poise.studies.unfinished import newest_unfinished
from poise.system.interrupts import Guard
from poise.system.streams import TextOut
from poise.training.loop import settled_iterations as real_iterations


class Stop(BaseException):
    """Ends a sweep where a test wants it."""


# --- the study, with a trainer that trains nothing ---


def trained(job: Trial) -> Result:
    """A score that is a function of the settings; stopped by the rule that a training is stopped by."""
    config = job.config
    worth = -abs(math.log(config.ppo.policy_learning_rate or 1e-3) - math.log(2e-3)) - config.ppo.clip
    values: dict[int, float] = {}
    for rung, threshold in zip(job.rungs, job.thresholds, strict=True):
        values[rung] = worth * 1000 / rung
        if threshold is not None and max(values.values()) < threshold:
            return Result(rung, (), values, 1.0)
    return Result(None, tuple(worth + 0.01 * i for i in range(job.num_seeds)), values, 1.0)


def fake_jobs(jobs, **_):
    """In another order than they were given."""
    for job in reversed(jobs):
        if job.config.ppo.clip == 0.3 and (job.config.ppo.gamma or 0) > 0.99:
            yield job, TrainingError("it diverged")
        else:
            yield job, trained(job).to_dict()


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(sweep, "run_jobs", fake_jobs)
    monkeypatch.setattr(sweep, "_judge", lambda *_: {"status": "finished", "sentence": "no judge"})


SEARCH = ["ppo.policy-learning-rate", "ppo.clip", "ppo.gamma", "ppo.num-steps=8,64"]
ASKED = {"search": tuple(SEARCH), "trials": 18, "at_once": 3}


def swept(out, **options):
    given = {"total_steps": 4000} | options.pop("config", {})
    return execute_sweep(
        "Pendulum-v1",
        Config(**given),
        Options(out=out, video=False),
        Search(**(ASKED | options)),
        file=io.StringIO(),
    )


def rows(folder):
    """``trials.csv`` without the seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_table(folder / "trials.csv")]


@pytest.fixture
def undisturbed(fake, tmp_path_factory):
    return rows(swept(tmp_path_factory.mktemp("undisturbed")).folder)


def frozen(folder):
    """The trials as Optuna reads them."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="Pendulum-v1", storage=storage).get_trials()


def test_the_first_trial_is_the_defaults_and_every_trial_is_told_once(fake, tmp_path):
    done = swept(tmp_path)
    found = rows(done.folder)
    assert [int(row["trial"]) for row in found] == list(range(18))
    plan = read_plan(done.folder)
    assert found[0]["ppo.clip"] == "0.2"
    assert all(done.summary["trials"][0]["options"][d.name] == d.usual for d in plan.space)
    told = frozen(done.folder)
    assert len(told) == 18
    names = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed"}
    assert [names[t.state.name] for t in told] == [row["state"] for row in found]
    assert {row["state"] for row in found} == {"finished", "stopped", "failed"}
    for one, row in zip(told, found, strict=True):
        assert one.user_attrs["options"] == done.summary["trials"][one.number]["options"]
        if row["state"] == "failed":
            # 8 steps x 4 environments hold no minibatch of 128: as much a trial as one that diverged
            assert row["reason"] == "it diverged" or "ppo.minibatch_size" in row["reason"]
        else:
            assert one.intermediate_values == {
                int(k): v for k, v in done.summary["trials"][one.number]["values"].items()
            }
        if row["state"] == "stopped":
            assert one.last_step == int(row["stopped_at"])


def test_all_of_a_batch_are_asked_before_any_is_told(fake, tmp_path, monkeypatch):
    seen = []
    for name in ("_ask", "tell"):
        real = getattr(Ledger, name)
        monkeypatch.setattr(Ledger, name, lambda *a, n=name, r=real: (seen.append((n, *a[1:2])), r(*a))[1])
    swept(tmp_path, trials=5, at_once=3)
    order = [what if what == "_ask" else number for what, *number in seen]
    assert order == ["_ask"] * 3 + [[0], [1], [2]] + ["_ask"] * 2 + [[3], [4]]


def stopping_after(count, half):
    """Writes ``count`` lines of the journal, and as a kill would leaves half of the next, and the lock."""
    real = optuna.storages.journal.JournalFileBackend.append_logs
    written = [0]

    def append(self, logs):
        if written[0] == count:
            if half:
                with open(self._file_path, "ab") as file:
                    file.write(json.dumps(logs[0]).encode()[:-7])
            with open(f"{self._file_path}.lock", "w"):
                pass
            raise Stop
        written[0] += 1
        real(self, logs)

    return append


def test_a_sweep_that_is_killed_between_any_two_lines_of_its_journal_asks_the_same(
    undisturbed, tmp_path, monkeypatch
):
    lines = 0
    monkeypatch.setattr(sweep, "write_page", lambda folder: folder)
    for count in (0, 12, 31, 69, 88, 126):
        out = tmp_path / str(count)
        with monkeypatch.context() as patch:
            patch.setattr(
                "optuna.storages.journal.JournalFileBackend.append_logs",
                stopping_after(count, half=count % 2 == 0),
            )
            with contextlib.suppress(Stop):
                swept(out)
        (folder,) = (out / "Pendulum-v1").iterdir()
        for _ in range(3):  # and killed again as far on, and again
            with monkeypatch.context() as patch, contextlib.suppress(Stop, SweepError):
                patch.setattr(
                    "optuna.storages.journal.JournalFileBackend.append_logs", stopping_after(25, half=True)
                )
                proceed_sweep(folder, file=io.StringIO())
        with contextlib.suppress(SweepError):
            proceed_sweep(folder, file=io.StringIO())
        assert rows(folder) == undisturbed, count
        lines += 1
    assert lines == 6


@pytest.mark.slow
def test_another_seed_asks_others_and_the_number_of_trials_at_once_is_part_of_it(undisturbed, fake, tmp_path):
    assert rows(swept(tmp_path / "again").folder) == undisturbed
    other = rows(swept(tmp_path / "seed", config={"seed": 1}).folder)
    assert other[0]["ppo.gamma"] == undisturbed[0]["ppo.gamma"]
    assert other[1]["ppo.gamma"] != undisturbed[1]["ppo.gamma"]
    two = rows(swept(tmp_path / "two", at_once=2).folder)
    assert [r["ppo.gamma"] for r in two[:10]] == [r["ppo.gamma"] for r in undisturbed[:10]]  # still random
    assert two != undisturbed


def test_an_error_that_no_setting_causes_stops_the_sweep_and_is_not_a_result(fake, tmp_path, monkeypatch):
    def full(jobs, **_):
        for i, job in enumerate(jobs):
            yield job, (PoolError("not begun") if i == 1 else trained(job).to_dict())

    monkeypatch.setattr(sweep, "run_jobs", full)
    with pytest.raises(PoolError, match="not begun"):
        swept(tmp_path)
    (folder,) = (tmp_path / "Pendulum-v1").iterdir()
    assert [t.state.name for t in frozen(folder)] == ["RUNNING"] * 3
    monkeypatch.setattr(sweep, "run_jobs", fake_jobs)
    proceed_sweep(folder, file=io.StringIO())
    assert len(rows(folder)) == 18


def test_a_trial_that_ended_before_a_resume_counts_for_the_best_so_far(fake, tmp_path, monkeypatch):
    def stopping(jobs, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run_jobs", stopping)
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path)
    monkeypatch.setattr(sweep, "run_jobs", fake_jobs)
    (folder,) = (tmp_path / "Pendulum-v1").iterdir()

    def ended(place, config):
        return Result(None, (1e6,) * 3, {}, 1.0) if place.name == "0" else None

    monkeypatch.setattr(sweep, "read_result", ended)
    shown = io.StringIO()
    proceed_sweep(folder, file=shown)
    lines = [line for line in shown.getvalue().splitlines() if "best so far" in line]
    assert len(lines) > 3
    assert lines[0].startswith("trial 0 of 18: 1000000.0 ")
    assert all(line.endswith("best so far 1000000.0 (trial 0)") for line in lines)


def test_a_threshold_is_the_median_of_the_trials_that_came_to_their_end():
    def tried(number, state, *values):
        return TrialRecord(number, state, {}, (), None, values=dict(zip((10, 20), values, strict=False)))

    known = [tried(i, "finished", value, 2 * value) for i, value in enumerate((1.0, 2.0, 5.0))]
    assert thresholds((10, 20), known) == (None, None)
    known.append(tried(3, "finished", 9.0))
    assert thresholds((10, 20), known) == (3.5, None)  # the median of 1, 2, 5, 9; three are too few
    known += [tried(4, "stopped", 100.0), tried(5, "failed"), tried(6, "running")]
    assert thresholds((10, 20), known) == (3.5, None)
    assert thresholds((), known) == ()


def test_without_pruning_every_trial_comes_to_its_end(fake, tmp_path):
    found = rows(swept(tmp_path, prune=False).folder)
    assert {row["state"] for row in found} == {"finished", "failed"}


def test_a_score_is_the_interquartile_mean_of_its_seeds():
    assert score((1.0, 2.0, 6.0)) == 3.0
    assert score((0.0, 2.0, 4.0, 100.0)) == 3.0


def test_a_finished_sweep_says_so_and_one_that_is_under_way_is_refused(fake, tmp_path):
    done = swept(tmp_path, trials=2)
    with pytest.raises(SweepError, match="this sweep is finished; poise report"):
        proceed_sweep(done.folder, file=io.StringIO())
    (done.folder / "summary.json").unlink()
    script = "import fcntl, os, sys, time; fd = os.open(sys.argv[1], os.O_RDWR); "
    script += "fcntl.flock(fd, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, str(done.folder / ".lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert main(["resume", str(done.folder)]) == 2
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    proceed_sweep(done.folder, file=io.StringIO())


@pytest.mark.parametrize(
    "change",
    [
        {"space": []},
        {"trials": 0},
        {"seeds": 2},
        {"at_once": "4"},
        {"prune": 1},
        {"env": ["Pendulum-v1"]},
        {"config": {"ppo": {"gama": 1}}},
        {"storage": 3},
        {"space": [{"name": "ppo.clip"}]},
    ],
)
def test_a_damaged_plan_is_refused_in_one_line(change, fake, tmp_path):
    folder = swept(tmp_path, trials=1).folder
    plan = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(plan | change))
    (folder / "summary.json").unlink()
    with pytest.raises((SweepError, Exception)) as raised:
        proceed_sweep(folder, file=io.StringIO())
    assert type(raised.value).__module__.startswith("poise")
    assert "\n" not in str(raised.value)


def test_a_damaged_journal_is_refused_in_one_line(fake, tmp_path, capsys):
    folder = swept(tmp_path, trials=2).folder
    (folder / "summary.json").unlink()
    journal = folder / "journal.log"
    journal.write_text(journal.read_text().replace('"op_code"', '"op', 3))
    assert main(["resume", str(folder)]) == 2
    assert "journal = " in capsys.readouterr().err


# --- a storage that several share ---


@pytest.mark.processes
def test_two_processes_share_a_storage_and_their_trials_are_counted_once(fake, tmp_path, monkeypatch):
    storage = {"storage": f"sqlite:///{tmp_path}/study.db", "study": "ours", "trials": 10}

    def stop(jobs, **_):
        raise Stop
        yield

    with monkeypatch.context() as patch:  # the first takes a batch, and is killed
        patch.setattr(sweep, "run_jobs", stop)
        with pytest.raises(Stop):
            swept(tmp_path / "one", **storage)
    other = swept(tmp_path / "two", **storage)  # the second does what is left
    states = [row["state"] for row in rows(other.folder)]
    assert (len(states), states.count("running")) == (10, 3)
    assert states[:3] == ["running"] * 3
    (folder,) = (tmp_path / "one" / "Pendulum-v1").iterdir()
    assert (folder / "sweep.json").stat().st_mode & 0o077 == 0
    for url in (None, "sqlite:///elsewhere.db"):  # a folder alone has poise connect to nothing
        with pytest.raises(
            SweepError, match=f"poise resume {folder} --storage sqlite:///{tmp_path}/study.db"
        ):
            proceed_sweep(folder, storage=url, file=io.StringIO())
    first = proceed_sweep(folder, storage=storage["storage"], file=io.StringIO())  # the first does its own
    assert [row["trial"] for row in rows(first.folder)] == [str(i) for i in range(10)]
    assert "running" not in [row["state"] for row in rows(first.folder)]
    study = optuna.load_study(study_name="ours", storage=storage["storage"])
    assert len(study.trials) == 10
    assert len({t.user_attrs["owner"] for t in study.trials}) == 2
    with pytest.raises(StudyError, match=r"study = 'ours': holds another sweep: trials is 10 there, 11 here"):
        swept(tmp_path / "three", **(storage | {"trials": 11}))
    assert list((tmp_path / "three" / "Pendulum-v1").iterdir()) == []


def test_a_sweep_whose_storage_is_gone_is_refused(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = swept(tmp_path, storage="sqlite:///study.db", trials=3)
    assert read_plan(done.folder).search.storage == f"sqlite:///{tmp_path / 'study.db'}"  # from any folder
    assert (done.folder / "sweep.json").stat().st_mode & 0o077 == 0
    (done.folder / "trials").mkdir(exist_ok=True)
    (done.folder / "summary.json").unlink()
    (tmp_path / "study.db").unlink()
    with pytest.raises(StudyError, match="does not contain this sweep"):
        proceed_sweep(done.folder, storage="sqlite:///study.db", file=io.StringIO())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:p@ss:w@host/db", "postgresql://me:***@host/db"),
        ("mysql://host/db?user=me&password=secret&x=1", "mysql://host/db?***"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)
def test_a_password_in_a_url_is_not_shown(url, shown):
    assert study.masked(url) == shown


def test_a_journal_that_is_a_link_is_refused_and_stays_as_it_is(fake, tmp_path):
    done = swept(tmp_path, trials=2)
    (done.folder / "summary.json").unlink()
    (tmp_path / "precious").write_text("precious\nwithout an end")
    (done.folder / "journal.log").unlink()
    (done.folder / "journal.log").symlink_to(tmp_path / "precious")
    with pytest.raises(StudyError, match=r"journal\.log: cannot be read or written: it is a link"):
        proceed_sweep(done.folder, file=io.StringIO())
    assert (tmp_path / "precious").read_text() == "precious\nwithout an end"


def test_a_last_trial_that_was_taken_twice_is_discarded_once(fake, tmp_path):
    storage = {"storage": f"sqlite:///{tmp_path}/study.db", "trials": 3}
    done = swept(tmp_path, **storage)
    plan = read_plan(done.folder)
    ledger = plan.ledger(exists=True)
    ledger._ask()
    assert ledger.take() == []
    assert len(ledger.trials()) == 3
    (*_, extra) = ledger._frozen()
    assert (extra.number, extra.state.name) == (3, "FAIL")


@pytest.mark.parametrize(
    "url",
    ["nonsense", "nodb://host/x", "sqlite:////no/such/folder/x.db", "postgresql://u:secret@127.0.0.1:1/x"],
)
def test_a_storage_that_cannot_be_used_is_one_line_without_its_password(url, fake, tmp_path, capsys):
    command = f"sweep Pendulum-v1 --trials 1 --storage {url} --out {tmp_path}"
    assert main(shlex.split(command)) == 2
    error = capsys.readouterr().err
    assert error.startswith("poise: --storage = ")
    assert error.count("\n") == 1
    assert "secret" not in error


# --- a trial that trains ---

TINY = {"num_envs": 2, "ppo": {"num_steps": 64, "num_epochs": 1, "minibatch_size": 64}}
BUDGET = 1920  # 15 iterations of 128
RUNGS = tuple(BUDGET * tenth // 10 for tenth in range(3, 10))


def make_trial(folder, thresholds=(None,) * 7):
    config = Config.from_dict({"total_steps": BUDGET, **TINY})
    options = Options(video=False, checkpoint_every=128)
    return Trial("Pendulum-v1", config, options, folder, 3, RUNGS, thresholds)


def run_trial(job, file: TextOut | None = None):
    job.folder.mkdir(parents=True, exist_ok=True)
    return Result.from_dict(job.run(Guard(), file or io.StringIO()))


def ends(folder):
    """Of each seed what must be the same however it was stopped."""
    found = {}
    for path in sorted(folder.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        found[path.parent.name] = summary["steps"], summary["status"], summary["parameters_sha256"]
    return found


class Pushes(gym.Env):
    """Episodes of 5 steps; a success if the last push was to the right, which the reward does not want."""

    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        push = float(action[0])
        info = {"is_success": push > 0, "reward_push": push}
        return np.full(1, self.t, np.float32), -push, self.t == 5, False, info


gym.register("Pushes-v0", Pushes)


@pytest.mark.parametrize("objective", ["success_rate", "reward_push", "none_such"])
def test_a_trial_is_scored_and_stopped_by_its_objective(objective, tmp_path):
    config = Config.from_dict({"total_steps": BUDGET, **TINY})
    options = Options(video=False, checkpoint_every=128)
    job = Trial("Pushes-v0", config, options, tmp_path / "0", 3, RUNGS, (None,) * 7, objective)
    if objective == "none_such":
        with pytest.raises(TrialError, match="must be one of return, success_rate, reward_push, which"):
            run_trial(job)
        return
    result = run_trial(job)
    summaries = [json.loads((tmp_path / f"0/{i}/summary.json").read_text())["evaluation"] for i in range(3)]
    of_score = {
        "success_rate": lambda s: s["success_rate"],
        "reward_push": lambda s: s["info"]["reward_push"],
    }
    assert list(result.scores) == [of_score[objective](summary) for summary in summaries]
    name = "is_success" if objective == "success_rate" else objective
    assert result.values.keys() == set(RUNGS)
    for rung, value in result.values.items():
        tables = [read_episodes(tmp_path / "0" / str(seed)) for seed in range(3)]
        last = [[e.info[name] for e in table if e.step <= rung][-20:] for table in tables]
        assert value == pytest.approx(np.mean(last))


def test_an_objective_that_cannot_be_a_name_is_refused(tmp_path, capsys):
    assert main(["sweep", "Pendulum-v1", "--objective", "=1+1", "--out", str(tmp_path)]) == 2
    assert (
        "objective = '=1+1': must be return, success_rate or the name of a column" in capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A trial that is stopped at the third rung, and one that is not."""
    folder = tmp_path_factory.mktemp("trial") / "0"
    file = io.StringIO()
    result = run_trial(make_trial(folder, (None, -1e9, 0.0, *(None,) * 4)), file)
    return folder, result, file.getvalue()


def test_a_trial_is_stopped_at_the_rung_where_it_falls_behind(stopped):
    folder, result, shown = stopped
    assert result.pruned == RUNGS[2] == 960
    assert list(result.values) == [576, 768, 960]
    assert result.scores == ()
    assert {(steps, state) for steps, state, _ in ends(folder).values()} == {(1024, "stopped")}
    assert len(ends(folder)) == 3
    assert f"stopped at step 960: {result.values[960]:.6g} < 0" in shown
    config = make_trial(folder, (None,) * 7).config
    assert read_result(folder, config) == result
    assert read_result(folder, dataclasses.replace(config, seed=9)) is None  # of another setting
    for rung, value in result.values.items():  # from the tables, by hand
        means = []
        for seed in range(3):
            table = read_table(folder / str(seed) / "episodes.csv")
            means.append(np.mean([float(r["return"]) for r in table if int(r["step"]) <= rung][-20:]))
        assert value == pytest.approx(np.mean(means))


@pytest.mark.parametrize("count", [1, 7, 14, 16, 21, 24])
def test_a_trial_that_is_killed_or_interrupted_decides_the_same(count, stopped, tmp_path, monkeypatch):
    """``count``: iterations of all seeds together, of 24 in all."""
    _, expected, _ = stopped
    job = make_trial(tmp_path / "0", (None, -1e9, 0.0, *(None,) * 4))
    for kind in (KeyboardInterrupt, Stop):
        done = [0]

        def stopping(*given, kind=kind, done=done, **more):
            for progress in real_iterations(*given, **more):
                done[0] += 1
                if done[0] > count:
                    raise kind
                yield progress
            return

        with monkeypatch.context() as patch:
            patch.setattr(run_module, "settled_iterations", stopping)
            if kind is Stop:  # nothing is written at the end
                patch.setattr("poise.runs.recorder.Recorder.finish", lambda self, *_: self.close())
            with contextlib.suppress(kind):
                run_trial(job)
        if kind is Stop:
            for table in tmp_path.glob("0/*/episodes.csv"):
                if not (table.parent / "summary.json").exists():
                    with table.open("ab") as file:
                        file.write(b"half a ro")
    result = run_trial(job)
    assert dataclasses.replace(result, seconds=0.0) == dataclasses.replace(expected, seconds=0.0)
    mine, theirs = ends(tmp_path / "0"), ends(stopped[0])
    assert {k: (v[0], v[2]) for k, v in mine.items()} == {k: (v[0], v[2]) for k, v in theirs.items()}


def test_a_run_that_was_killed_when_it_was_stopped_gets_its_summary(stopped, tmp_path):
    folder, expected, _ = stopped
    job = make_trial(tmp_path / "0", (None, -1e9, 0.0, *(None,) * 4))
    run_trial(job)
    (tmp_path / "0" / "result.json").unlink()
    (tmp_path / "0" / "1" / "summary.json").unlink()
    assert run_trial(job).values == expected.values
    assert ends(tmp_path / "0") == ends(folder)


def test_a_damaged_result_is_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"pruned": null, "scores": [], "values": {}, "seconds": 1}')
    with pytest.raises(trial.TrialError, match="is damaged"):
        read_result(tmp_path, Config())
    assert read_result(tmp_path / "no", Config()) is None


# --- the whole of it ---

QUICK = "--total-steps 1024 --num-envs 2 --ppo.num-steps 64 --policy.hidden 8 --ppo.num-epochs 2 "
QUICK += "--search ppo.clip=0.1,0.2,0.3 ppo.policy-learning-rate=3e-4:1e-2:log ppo.gamma "
MORE = f"{QUICK}--trials 6 --at-once 2 --final-seeds 2"
QUICK += "--trials 3 --at-once 3 --final-seeds 2"


def run_command(out, options):
    command = [sys.executable, "-m", "poise", "sweep", "Pendulum-v1", *options.split(), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1]), done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_command(tmp_path_factory.mktemp("whole"), QUICK)


def hashes(folder):
    found = {}
    for path in folder.glob("**/summary.json"):
        if path.parent != folder:
            summary = json.loads(path.read_text())
            found[str(path.parent.relative_to(folder))] = summary["steps"], summary["parameters_sha256"]
    return found


@pytest.mark.processes
def test_a_sweep_ends_with_its_judgement_and_its_folder(whole):
    folder, shown = whole
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert len(summary["trials"]) == 3
    assert summary["sentence"] in shown
    *_, sentence, again, counts = report_lines(summary)
    assert shown.splitlines()[-1] == str(folder)
    trial = summary["winner"]["trial"]
    assert (sentence, again) == (summary["sentence"], f"to train trial {trial}: {summary['command']}")
    assert counts.startswith("3 trials (")
    winner = trial
    assert winner != 0  # which is the defaults
    best = max(t["score"] for t in summary["trials"][1:] if t["score"] is not None)
    assert summary["trials"][winner]["score"] == best
    for t in summary["trials"]:
        if t["state"] == "finished":
            greedy = [
                json.loads((folder / "trials" / str(t["trial"]) / str(s) / "summary.json").read_text())
                for s in range(3)
            ]
            assert t["scores"] == [g["evaluation"]["mean"] for g in greedy]
            assert t["score"] == pytest.approx(np.mean(t["scores"]))
    sides = ["winner", "default"]
    assert list(summary["scores"]) == sides
    for side in sides:
        assert sorted(path.name for path in (folder / side).iterdir()) == ["3", "4"]
        config = json.loads((folder / side / "3" / "config.json").read_text())
        expected = summary["winner"]["options"] if side == "winner" else summary["trials"][0]["options"]
        assert config["ppo"]["clip"] == expected["ppo.clip"]
        assert config["ppo"]["gamma"] == pytest.approx(expected["ppo.gamma"])


@pytest.mark.processes
def test_nothing_is_left_to_resume_after_a_sweep(whole, capsys):
    folder, _ = whole
    with pytest.raises(RunError, match="no unfinished run"):
        newest_unfinished(folder.parent)
    assert main(["resume", str(folder)]) == 1
    assert "this sweep is finished" in capsys.readouterr().err


def test_a_sweep_without_an_unfinished_run_is_found_to_be_unfinished(fake, tmp_path):
    done = swept(tmp_path, trials=2)
    with pytest.raises(RunError, match="no unfinished run"):
        newest_unfinished(tmp_path)
    summary = json.loads((done.folder / "summary.json").read_text())
    (done.folder / "summary.json").write_text(json.dumps(summary | {"status": "unfinished"}))
    assert newest_unfinished(tmp_path) == done.folder


@pytest.mark.processes
def test_the_sentence_says_where_the_defaults_had_scored_higher_in_the_trials(whole):
    folder, _ = whole
    sides = {
        side: [read_record(path) for path in (folder / side).iterdir()] for side in ("winner", "default")
    }
    drawn = TrialRecord(1, "finished", {}, (), -120.0)
    first = TrialRecord(0, "finished", {}, (), -99.5)
    plan = read_plan(folder)
    without, said = (sweep._verdict(plan, drawn, ahead, sides)["sentence"] for ahead in (None, first))
    assert said == f"{without}; in the trials the default had scored higher (-99.50 against -120.0)"
    assert "between the default and trial 1" in said


@pytest.mark.processes
def test_its_winner_and_the_defaults_can_be_compared(whole, capsys):
    folder, _ = whole
    assert main(["compare", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "no winner between" in shown or "is better than" in shown


@pytest.mark.slow
def test_a_sweep_that_is_killed_three_times_is_the_one_that_was_not(tmp_path_factory, tmp_path):
    folder, _ = run_command(tmp_path_factory.mktemp("undisturbed"), MORE)
    command = [sys.executable, "-m", "poise", "sweep", "Pendulum-v1", *MORE.split(), "--out", str(tmp_path)]
    for place in ("trials/1/1", "trials/3/0", "default/3"):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        while process.poll() is None and not list(tmp_path.glob(f"*/*/{place}/metrics.jsonl")):
            time.sleep(0.05)
        time.sleep(0.5)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        command = [sys.executable, "-m", "poise", "resume", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    mine = Path(done.stdout.splitlines()[-1])
    assert rows(mine) == rows(folder)
    assert hashes(mine) == hashes(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--seeds 2", "--seeds = 2: must be >= 3"),
        ("--trials 0", "--trials = 0: must be >= 1"),
        ("--final-seeds 1", "--final-seeds = 1: must be >= 2"),
        ("--at-once 0", "--at-once = 0: must be >= 1"),
        ("--no-evaluate", "--no-evaluate: a trial needs its final score"),
        ("--seed 4294967290", "the last of 13 seeds must be <= 4294967295"),
        ("--study mine", "--study = 'mine': names a study in a shared storage"),
        ("--search ppo.gama=0.9:0.99", "search = 'ppo.gama': no such option"),
        ("--ppo.clip 0.1 --search ppo.clip", "search = 'ppo.clip': this option has a value as well"),
        ("--on-crash restart", "--on-crash = 'restart': has no effect on backend native"),
    ],
)
def test_a_wrong_command_exits_2_with_one_line(options, message, tmp_path, capsys):
    assert main(shlex.split(f"sweep Pendulum-v1 {options} --out {tmp_path}")) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_preset_and_a_missing_environment_are_refused(tmp_path, capsys):
    assert main(shlex.split(f"sweep paper/reacher --out {tmp_path}")) == 2
    assert "is a preset; a sweep starts from the defaults" in capsys.readouterr().err
    assert main(shlex.split(f"sweep Pendulom-v1 --out {tmp_path}")) == 2


def test_without_optuna_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(shlex.split(f"sweep Pendulum-v1 --out {tmp_path}")) == 2
    assert "needs the extra sweep; to install it: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sweep_in_which_no_trial_ends_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sweep, "run_jobs", lambda jobs, **_: ((job, TrainingError("it diverged")) for job in jobs)
    )
    with pytest.raises(SweepError, match="none of 3 trials finished; trial 0: it diverged"):
        swept(tmp_path, trials=3)
