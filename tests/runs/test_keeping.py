"""A training that is one of several: what cannot be read is not deleted, and no other is taken for it."""

import errno
import fcntl
import io
import json
import os
import shutil
import stat
import sys
from pathlib import Path

import gymnasium
import pytest

import poise
from poise.checked import ConfigError
from poise.cli.main import main
from poise.config import Config
from poise.errors import StorageError
from poise.runs import resuming
from poise.runs import session as run
from poise.runs.options import Options
from poise.store.checkpoint import CheckpointError, checkpoints, manifest_sum, read_manifest
from poise.store.claim import LOCK, ClaimError, claimed
from poise.studies.experiment import ExperimentError, execute_experiment, proceed_experiment
from poise.studies.pool import Job, PoolError, _logged, check_count
from poise.studies.sweep.study import masked, without_secrets
from poise.studies.tables import write_table
from poise.system import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

import keeping
import malformed


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of two iterations that was killed before its end, and the hash to which it comes."""
    return keeping.base_of(tmp_path_factory.mktemp("base"))


@pytest.fixture
def job(base, tmp_path):
    manifest = read_manifest(malformed.newest(base[0]))
    keeping.copied(base[0], tmp_path / "0")
    options = Options.from_dict(manifest.notes["options"])
    return Job(manifest.env, manifest.config, options, tmp_path / "0")


def logged(job):
    """What the job returns, and its log."""
    result = _logged(job, ())
    return result, (job.folder / "log.txt").read_text()


@pytest.mark.parametrize("damage", ["a byte", "cut", "unreadable"])
def test_one_of_several_trainings_falls_back_to_the_checkpoint_before_a_damaged_one(damage, job, base):
    keeping.DAMAGES[damage](job.folder)
    assert [line.split(":")[0] for line in resuming.unusable(job.folder.parent)] == [str(job.folder)]
    result, log = logged(job)
    assert result["parameters_sha256"] == base[1]
    assert "000000000144 cannot be used" in log
    assert "resuming from step 72 of 144" in log
    assert (job.folder / "checkpoints" / "unusable-000000000144").is_dir()


def test_without_a_usable_checkpoint_the_training_fails_and_nothing_changes(job):
    keeping.other_schema(job.folder)
    before = keeping.tree(job.folder)
    for _ in range(2):
        result, log = logged(job)
        assert isinstance(result, CheckpointError)
        assert "no checkpoint can be used" in str(result)
        assert "schema 3; this poise reads schema 2" in log
        assert keeping.tree(job.folder) == before


def test_an_error_after_the_last_iteration_does_not_restart_the_training(job, monkeypatch):
    def failing(self):
        raise CheckpointError("the disk is away")

    options = {"evaluate": True, "video": False}
    for path in (job.folder / "checkpoints").glob("*/manifest.json"):
        data = json.loads(path.read_text())
        data["notes"]["options"] |= options
        path.write_text(json.dumps(data | {"sha256": manifest_sum(data)}))
    job = Job(job.env, job.config, Options.from_dict(job.options.to_dict() | options), job.folder)
    kept, rows = checkpoints(job.folder), (job.folder / "metrics.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("poise.runs.recorder.Recorder.evaluate", failing)
        result, _ = logged(job)
    assert str(result) == "the disk is away"
    assert checkpoints(job.folder) == kept
    assert (job.folder / "metrics.jsonl").read_text() == rows


def test_another_training_is_set_aside_whole(job, base):
    other = Job(job.env, Config(**{**vars(job.config), "seed": 7}), job.options, job.folder)
    before = keeping.tree(job.folder)
    result, log = logged(other)
    assert result["seed"] == 7
    assert "is of another training (seed = 0): it is now in" in log
    aside = job.folder / "replaced-1"
    assert keeping.tree(aside) == before
    assert poise.resume(aside, file=io.StringIO()).summary["parameters_sha256"] == base[1]
    logged(job)
    assert (job.folder / "replaced-2" / "summary.json").exists()


def test_a_finished_folder_counts_only_for_its_own_configuration(job, base, tmp_path):
    logged(job)
    found = run.resolved(job.env, job.options.backend)
    seven = Config(**{**vars(job.config), "seed": 7})
    for _ in range(2):
        assert run.finished(job.folder, found, job.config, job.options)["parameters_sha256"] == base[1]
        assert run.finished(job.folder, found, seven, job.options) is None
        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)  # to save room: config.json says it


def test_a_seed_folder_that_is_a_link_is_refused(base, tmp_path):
    mine = keeping.copied(base[0], tmp_path / "mine")
    keeping.experiment(base[0], tmp_path / "experiment")
    shutil.rmtree(tmp_path / "experiment" / "0")
    (tmp_path / "experiment" / "0").symlink_to(mine)
    before = keeping.tree(mine)
    with pytest.raises(poise.PoiseError, match="0: is a link"):
        proceed_experiment(tmp_path / "experiment", file=io.StringIO())
    assert keeping.tree(mine) == before


def test_an_experiment_is_claimed(base, tmp_path):
    keeping.experiment(base[0], tmp_path)
    with claimed(tmp_path), pytest.raises(ClaimError, match="another process is training it"):
        proceed_experiment(tmp_path, file=io.StringIO())


def test_another_experiment_is_read_only_if_it_is_named_again(base, tmp_path):
    keeping.experiment(base[0], tmp_path)
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"against": "/else where"}))
    wanted = rf"poise resume {tmp_path} --against '/else where'"
    for given in (None, Path("/other")):
        with pytest.raises(ExperimentError, match=wanted):
            proceed_experiment(tmp_path, against=given, file=io.StringIO())


def test_a_reader_of_a_folder_cannot_claim_it(tmp_path):
    with claimed(tmp_path):
        pass
    assert stat.S_IMODE((tmp_path / LOCK).stat().st_mode) == 0o600
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with claimed(tmp_path), pytest.raises(ClaimError), claimed(tmp_path):
        pass
    (tmp_path / LOCK).unlink()  # as version 0.1 leaves it, which may be training there
    with pytest.raises(ClaimError), claimed(tmp_path):
        pass
    os.close(held)


def test_a_claim_is_not_taken_through_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "else")
    with pytest.raises(ClaimError, match="it is a link"), claimed(tmp_path / "run"):
        pass
    assert not (tmp_path / "else").exists()


def test_other_versions_are_named_and_the_run_is_not_exact(job, monkeypatch):
    mine = machine.made_with()
    other = {**mine, "fingerprint": "another", "versions": mine["versions"] | {"jax": "0.99.0"}}
    monkeypatch.setattr("poise.runs.writers.tally.made_with", lambda: other)
    monkeypatch.setattr("poise.runs.resuming.made_with", lambda: other)
    result, log = logged(job)
    assert f"jax 0.99.0 (was {mine['versions']['jax']})" in log
    assert result["exact"] is False
    assert result["fingerprints"] == [mine["fingerprint"], "another"]


def test_a_checkpoint_without_versions_is_still_read(job, base):
    for path in (job.folder / "checkpoints").glob("*/manifest.json"):
        data = json.loads(path.read_text())
        del data["notes"]["made_with"]
        path.write_text(json.dumps(data | {"sha256": manifest_sum(data)}))
    result, _ = logged(job)
    assert result["parameters_sha256"] == base[1]
    assert result["exact"] is True
    assert result["fingerprints"] == [machine.fingerprint()]


class Chdir(gymnasium.Env):
    """Changes the working directory, as simulators do to find their files."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        os.chdir("/")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        os.chdir("/")
        self.t += 1
        return self.observation_space.sample() * 0, 1.0, self.t == 5, False, {}


def test_an_environment_may_change_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gymnasium.register("Chdir-v0", Chdir)
    ppo = {"num_steps": 16, "num_epochs": 1, "minibatch_size": 16}
    made = poise.train(
        "Chdir-v0", out="out", total_steps=64, num_envs=2, ppo=ppo, checkpoint_every=1,
        evaluate=False, video=False, file=io.StringIO(),
    )  # fmt: skip
    gymnasium.registry.pop("Chdir-v0")
    assert made.folder.parts[:2] == ("out", "Chdir-v0")
    assert Path.cwd() == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert checkpoints(made.folder)[0].name == f"{64:012d}"


def test_a_full_disk_is_75_also_for_one_of_several(job, monkeypatch):
    def full(self, guard, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Job, "run", full)
    assert isinstance(_logged(job, ()), StorageError)
    monkeypatch.setattr(Job, "run", lambda *_: os.stat("/nowhere"))
    assert isinstance(_logged(job, ()), PoolError)


def test_a_full_disk_is_75_for_an_experiment(base, tmp_path, monkeypatch):
    keeping.experiment(base[0], tmp_path)

    def full(jobs, *_, **__):
        yield jobs[0], StorageError("the disk is full")

    monkeypatch.setattr("poise.studies.experiment.run_jobs", full)
    assert main(["resume", str(tmp_path)]) == 75


def test_a_full_disk_is_75_when_a_table_is_written(base, tmp_path, monkeypatch, capsys):
    keeping.experiment(base[0], tmp_path)
    monkeypatch.setattr("poise.studies.experiment.run_jobs", lambda *_, **__: iter(()))

    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("poise.studies.tables.write_text", full)
    assert main(["resume", str(tmp_path)]) == 75
    assert f"\npoise: {tmp_path}/results.csv: the disk is full" in capsys.readouterr().err


def test_seeds_have_a_bound(tmp_path):
    for seeds in (0, -1, 10_001, 10**9):
        with pytest.raises(ConfigError, match=rf"seeds = {seeds}: must be >= 1 and <= 10000"):
            execute_experiment(["Pendulum-v1"], Config(), Options(), num_seeds=seeds, file=io.StringIO())
    check_count("seeds", 10_000)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////home/me/x.db", "sqlite:////home/me/x.db"),
        ("sqlite:///C:/x.db", "sqlite:///C:/x.db"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://user:PW@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://user:P/W@x@host/db", "postgresql://user:***@host/db"),
        ("postgresql//user:PW@host/db", "***@host/db"),
        ("postgres:user:PW@host", "***@host"),
        ("user:PW@host/db", "***@host/db"),
        ("postgresql://user:PW", "postgresql://user:***"),
        ("postgresql://host/db?options=-csecret%3DPW", "postgresql://host/db?***"),
        ("postgresql://user:P?W@host/db", "postgresql://***"),
    ],
)
def test_no_password_of_a_url_is_shown(url, shown):
    assert masked(url) == shown
    said = without_secrets(f"could not parse {url}: invalid port 'PW' or 'secret=PW'", url)
    assert "PW" not in said or "PW" not in url


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "trials.csv").symlink_to(tmp_path / "precious")
    write_table(tmp_path / "trials.csv", ["a"], [[1]])
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "trials.csv").read_text() == "a\n1\n"
