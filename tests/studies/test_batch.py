"""Several seeds in one process, as the lanes of one program: their folders, and how they resume."""

import dataclasses
import io
import json

import pytest

import poise
from poise.config import Config
from poise.envs.checking import EnvFault
from poise.health.difference import diff
from poise.runs import session as run
from poise.runs.options import Options
from poise.runs.records import read_record
from poise.studies.batch import Batch, batches, each_outcome, jobs_of
from poise.studies.experiment import MOST_TOGETHER, _with_lanes, execute_seeds, proceed_experiment
from poise.studies.pool import Job, PoolError
from poise.system.interrupts import Guard
from poise.training.loop import settled_iterations as real_iterations

CONFIG = Config.from_dict(
    {
        "total_steps": 6 * 64,
        "num_envs": 4,
        "ppo": {"num_steps": 16, "num_epochs": 1, "minibatch_size": 32},
        "policy": {"hidden": (8,)},
        "value": {"hidden": (8,)},
    }
)
OPTIONS = Options(evaluate=False, video=False, together=2)


def batch(folder, *seeds, env="Pendulum-v1"):
    folder.mkdir(exist_ok=True)
    return Batch(env, CONFIG, OPTIONS, folder, seeds)


def trained(batch):
    return batch.run(Guard(), io.StringIO())["each"]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The hashes of three seeds, without interruption, and their folder."""
    folder = tmp_path_factory.mktemp("whole")
    each = [*trained(batch(folder, 0, 1)), *trained(batch(folder, 2))]
    assert [s["status"] for s in each] == ["finished"] * 3
    return [s["parameters_sha256"] for s in each], folder


def interrupted(work, lane, after):
    """Runs the batch; the training of seed ``lane`` gets an interrupt after some iterations."""

    def stopping(config, *given, **more):
        for progress in real_iterations(config, *given, **more):
            if config.seed == lane and progress is not None and progress.iteration > after:
                raise KeyboardInterrupt
            yield progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "settled_iterations", stopping)
        return trained(work)


def test_an_interrupt_saves_every_seed_and_each_resumes_to_the_same_bits(whole, tmp_path):
    outcomes = interrupted(batch(tmp_path, 0, 1), 1, 2)
    assert [str(outcome) for outcome in outcomes] == ["interrupted"] * 2
    steps = [summary(tmp_path / seed)["steps"] for seed in "01"]
    assert (min(steps), max(steps) < 6 * 64) == (2 * 64, True)
    for seed in "01":
        assert summary(tmp_path / seed)["status"] == "interrupted"
        log = (tmp_path / seed / "log.txt").read_text()
        assert f"seed {seed}" in log
        assert f"to resume: poise resume {tmp_path / seed}" in log
    alone = poise.resume(tmp_path / "0", file=io.StringIO())  # beside a copy of itself
    (beside,) = trained(batch(tmp_path, 1))
    hashes = [alone.summary["parameters_sha256"], beside["parameters_sha256"]]
    assert (hashes, beside["exact"]) == (whole[0][:2], True)


def test_seeds_that_were_stopped_at_different_steps_continue_together(whole, tmp_path):
    interrupted(batch(tmp_path, 0), 0, 1)
    interrupted(batch(tmp_path, 2), 2, 4)
    assert summary(tmp_path / "0")["steps"] < summary(tmp_path / "2")["steps"]
    each = trained(batch(tmp_path, 0, 2))
    assert [s["parameters_sha256"] for s in each] == [whole[0][0], whole[0][2]]


def test_a_seed_that_fails_does_not_stop_the_others(tmp_path):
    failed, finished = trained(batch(tmp_path, 3, 2, env="probes:Fragile"))
    assert isinstance(failed, EnvFault)
    assert finished["status"] == "finished"
    assert summary(tmp_path / "3")["status"] == "failed"
    logs = [(tmp_path / seed / "log.txt").read_text() for seed in "32"]
    assert [str(failed) in log for log in logs] == [True, False]


def test_the_run_says_how_many_were_trained_together_and_is_repeated_with_that(whole, tmp_path):
    hashes, folder = whole
    assert read_record(folder / "1").options.together == 2
    data = json.loads((folder / "1" / "config.json").read_text())
    assert data["together"] == 2
    more = {"out": tmp_path, "file": io.StringIO(), "evaluate": False, "video": False}
    again = poise.train(**data, **more)
    assert again.summary["parameters_sha256"] == hashes[1]
    alone = poise.train(**data | {"together": None}, **more)
    assert json.loads((alone.folder / "config.json").read_text())["together"] == 1
    assert diff(again.folder, alone.folder).config == {"together": (2, 1)}


def test_jobs_of_a_task_are_put_together_in_the_order_of_their_seeds(tmp_path):
    def job(env, seed, together):
        options = dataclasses.replace(OPTIONS, together=together)
        config = dataclasses.replace(CONFIG, seed=seed)
        return Job(env, config, options, tmp_path / env / str(seed))

    jobs = [job(env, seed, 2 if env == "A" else 1) for seed in (3, 4, 6) for env in "AB"]
    works = batches(jobs)
    assert [getattr(w, "seeds", w.folder.name) for w in works] == [(3, 4), "3", "4", (6,), "6"]
    assert sorted(map(str, jobs_of(works))) == sorted(map(str, jobs))
    assert [job.config.seed for job, _ in each_outcome(works[0], PoolError("killed"))] == [3, 4]


def test_on_a_gpu_all_seeds_are_together_unless_they_have_another_program():
    tasks = [run.resolved(env, "auto") for env in ("Reacher-v4", "Pendulum-v1")]

    def chosen(tasks, num_seeds=9, config=CONFIG, ray=None, on_gpu=True, **options):
        return _with_lanes(Options(**options), config, tasks, num_seeds, on_gpu=on_gpu, ray=ray).together

    assert (chosen(tasks), chosen(tasks, 1000), chosen(tasks, together=3)) == (9, MOST_TOGETHER, 3)
    groups = dataclasses.replace(CONFIG, env_groups=2)
    others = chosen(tasks[:1]), chosen(tasks, config=groups), chosen(tasks, devices=2)
    assert (*others, chosen(tasks, on_gpu=False)) == (1, 1, 1, 1)


@pytest.mark.processes
def test_an_experiment_trains_its_seeds_together_and_those_that_are_missing(tmp_path):
    shown, options = io.StringIO(), dataclasses.replace(OPTIONS, out=tmp_path)
    done = execute_seeds("Pendulum-v1", CONFIG, options, num_seeds=2, file=shown)
    assert "Pendulum-v1 on native: seeds 0 to 1, 2 in one program, 384 steps each" in shown.getvalue()
    hashes = [summary(done.folder / seed)["parameters_sha256"] for seed in "01"]
    (done.folder / "1" / "summary.json").unlink()
    max((done.folder / "1" / "checkpoints").iterdir()).rename(tmp_path / "of the last step")
    proceed_experiment(done.folder, file=shown)
    assert "already finished: 1 of 2 trainings" in shown.getvalue()
    assert [summary(done.folder / seed)["parameters_sha256"] for seed in "01"] == hashes
