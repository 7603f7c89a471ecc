import dataclasses
import io
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from processes import alive_in_session

from poise.agents.intervals import mean_interval
from poise.api import train
from poise.checked import ConfigError
from poise.config import Config
from poise.runs import session as run
from poise.runs.journal import read_greedy
from poise.runs.options import Options
from poise.settings.presets import configure
from poise.studies.experiment import (
    COLUMNS,
    ExperimentError,
    compared,
    execute_experiment,
    execute_seeds,
    proceed_experiment,
)
from poise.studies.paper.figures import FIGURES, Figure, Panel, Variant
from poise.studies.paper.page import number
from poise.studies.paper.reproduce import Plan, is_finished, render, run_plan
from poise.studies.pool import Job, run_jobs
from poise.studies.results import report_lines
from poise.studies.tables import read_table, write_table

TINY = {"total_steps": 1024, "num_envs": 2, "ppo": {"num_steps": 256, "num_epochs": 1, "minibatch_size": 256}}
LINE = Variant("tiny", "a tiny one", "Pendulum-v1", TINY, "nothing")
FIGURE = Figure("figure1", "Tiny", (Panel("all", (LINE,)),), losses=True, ten_episodes="-1")


def test_the_interval_equals_scipys_and_one_value_has_none():
    values = np.array([[1.0, 5.0], [2.0, 5.5], [4.0, 9.0]])
    mean, low, high = mean_interval(values)
    for i in range(2):
        expected = scipy.stats.t.interval(0.95, 2, values[:, i].mean(), scipy.stats.sem(values[:, i]))
        assert (low[i], high[i]) == pytest.approx(expected)
    np.testing.assert_allclose(mean, values.mean(0))
    assert mean_interval(np.array([3.0])) == (3.0, -np.inf, np.inf)


# what each line of the paper's figures changes of the paper's settings, by hand from its text
CHANGED = {
    "ip-paper": {},
    "ip-rates-1e-3": {"ppo.policy_learning_rate": 1e-3, "ppo.value_learning_rate": 3e-3},
    "ip-sigma-0.15": {"policy.std_init": 0.15 * 6},
    "ip-sigma-0.5": {"policy.std_init": 0.5 * 6},
    "ip-raw-reward": {"normalize.reward": False, "normalize.reward_gamma": None},
    "ip-normalized-action": {
        "policy.std_init": 0.05 * 2,
        "policy.head_tanh": "all",
        "normalize.action": True,
    },
    "reacher-fixed-tanh": {},
    "reacher-fixed-linear": {"policy.head_tanh": "none", "normalize.action": False},
    "reacher-learned-tanh": {"policy.std": "predicted", "policy.std_init": 0.3, "policy.std_min": 1e-6},
    "reacher-learned-linear": {
        "policy.std": "predicted",
        "policy.std_init": 0.3,
        "policy.std_min": 1e-6,
        "policy.head_tanh": "none",
        "normalize.action": False,
    },
    "pendulum-paper": {},
    "pendulum-annealed": {"ppo.anneal": "linear"},
    "pendulum-mean": {"policy.head_tanh": "mean"},
    "pendulum-mean-annealed": {"ppo.anneal": "linear", "policy.head_tanh": "mean"},
    "pendulum-40-epochs": {"ppo.num_epochs": 40},
    "pendulum-300k": {"total_steps": 300_000},
    "ip-defaults": {},
    "reacher-defaults": {},
    "pendulum-defaults": {},
}


def flat(data, prefix=""):
    for name, value in data.items():
        yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]


def test_every_line_of_every_figure_changes_what_the_paper_says():
    variants = {v.name: v for figure in FIGURES for v in figure.variants}
    assert set(variants) == set(CHANGED)
    for name, variant in variants.items():
        before = dict(flat(configure(variant.target)[1].to_dict()))
        after = dict(flat(configure(variant.target, **variant.changes)[1].to_dict()))
        changed = {path: value for path, value in after.items() if value != before[path]}
        assert changed == pytest.approx(CHANGED[name]) if changed else not CHANGED[name]


def test_each_figure_has_the_lines_that_it_should():
    assert [len(f.variants) for f in FIGURES] == [7, 4, 1, 7, 6]
    assert {v.target for f in FIGURES for v in f.variants if v.name.endswith("defaults")} == {
        "InvertedPendulum-v2",
        "Reacher-v2",
        "Pendulum-v0",
    }


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction")
    shown = io.StringIO()
    plan = Plan((FIGURE,), out, 2, False)
    page = run_plan(plan, file=shown)
    return plan, page, shown.getvalue()


def test_a_plan_leaves_page_pictures_and_tables(reproduced):
    plan, page, shown = reproduced
    assert shown.splitlines()[0] == "2 runs, 0 of them finished already"
    assert "tiny, seed 1: greedy return -" in shown
    text = page.read_text()
    assert "Made by `poise reproduce --seeds 2`" in text
    assert "2 seeds of each setting" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| a tiny one | nothing | 1,024 |")]
    scores = read_table(plan.out / "scores.csv")
    greedy = [float(s["greedy"]) for s in scores]
    assert row.split(" | ")[3] == number(float(np.mean(greedy)))
    for score, seed in zip(scores, (0, 1), strict=True):
        folder = plan.out / "runs" / "tiny" / str(seed)
        summary = json.loads((folder / "summary.json").read_text())
        assert float(score["greedy"]) == pytest.approx(summary["evaluation"]["mean"], rel=1e-4)
        returns = [float(r["return"]) for r in read_table(folder / "evaluation.csv")]
        assert float(score["greedy_10"]) == pytest.approx(np.mean(returns[:10]), rel=1e-4)
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        mine = [r for r in read_table(plan.out / "figure1.csv") if r["seed"] == str(seed)]
        assert [float(r["value_loss"]) for r in mine] == pytest.approx(
            [m["value/loss"] for m in metrics], rel=1e-4
        )
        assert [int(r["steps"]) for r in mine] == [512, 1024]
    image = np.asarray(Image.open(plan.out / "figure1.png").convert("L"))
    assert (image < 128).mean() > 0.003


def test_only_runs_with_the_same_configuration_are_not_repeated(reproduced):
    plan, _, _ = reproduced
    assert all(is_finished(job) for job in plan.jobs())
    shown = io.StringIO()
    before = (plan.out / "results.md").read_text()
    run_plan(plan, file=shown)
    assert shown.getvalue() == "2 runs, 2 of them finished already\nwriting the tables, drawing the figures\n"
    assert (plan.out / "results.md").read_text() == before
    job = plan.jobs()[0]
    assert not is_finished(dataclasses.replace(job, config=dataclasses.replace(job.config, seed=7)))
    summary = job.folder / "summary.json"
    kept = summary.read_text()
    summary.write_text(kept.replace('"finished"', '"interrupted"'))
    assert not is_finished(job)
    summary.write_text(kept)


def test_quick_has_a_tenth_of_the_steps():
    (job,) = Plan((Figure("f", "t", (Panel("p", (FIGURES[2].variants)),)),), run.Path("x"), 1, True).jobs()
    assert job.config.total_steps == 10_000
    assert job.config.num_iterations == 5


def test_pictures_and_page_come_from_the_tables_alone(reproduced, tmp_path):
    plan, page, _ = reproduced
    for name in ("figure1.csv", "scores.csv", "about.json"):
        (tmp_path / name).write_bytes((plan.out / name).read_bytes())
    render(tmp_path, (FIGURE,))
    assert (tmp_path / "results.md").read_text() == page.read_text()
    assert (tmp_path / "figure1.png").read_bytes() == (plan.out / "figure1.png").read_bytes()


@pytest.mark.processes
def test_a_job_that_fails_is_told_from_those_that_finish(tmp_path):
    config, options = Config.from_dict(TINY), Options(evaluate=False, video=False)
    jobs = [Job(env, config, options, tmp_path / env) for env in ("Pendulum-v1", "Pendulom-v1")]
    results = {job.env: result for job, result in run_jobs(jobs)}
    assert results["Pendulum-v1"]["status"] == "finished"
    assert "there is no environment 'Pendulom-v1'" in str(results["Pendulom-v1"])
    assert "there is no environment 'Pendulom-v1'" in (tmp_path / "Pendulom-v1" / "log.txt").read_text()
    # one core, one thread, one device: the same bits
    alone = train("Pendulum-v1", out=tmp_path, evaluate=False, video=False, file=io.StringIO(), **TINY)
    assert results["Pendulum-v1"]["parameters_sha256"] == alone.summary["parameters_sha256"]


@pytest.mark.processes
def test_several_seeds_leave_their_runs_their_score_and_a_curve(tmp_path):
    shown = io.StringIO()
    options = Options(out=tmp_path, video=False)
    config = Config.from_dict(TINY | {"seed": 3})
    done = execute_seeds("Pendulum-v1", config, options, num_seeds=2, file=shown)
    assert done.folder.parent == tmp_path / "Pendulum-v1"
    assert {"3", "4", "curve.png", "results.csv", "experiment.json", "summary.json", ".lock"} == {
        f.name for f in done.folder.iterdir()
    }
    each = [
        json.loads((done.folder / str(s) / "summary.json").read_text())["evaluation"]["mean"] for s in (3, 4)
    ]
    score = done.summary["evaluation"]
    assert score["each"] == each
    assert (score["low"], score["high"]) == pytest.approx(
        scipy.stats.t.interval(0.95, 1, np.mean(each), scipy.stats.sem(each))
    )
    assert score["iqm"]["value"] == pytest.approx(np.mean(each))
    assert done.summary["tasks"]["Pendulum-v1"]["evaluation"] == score
    assert "seed 4: greedy return -" in shown.getvalue()


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """An experiment of two tasks and two seeds, and what it said."""
    shown = io.StringIO()
    options = Options(out=tmp_path_factory.mktemp("two"), video=False, eval_every=256, eval_episodes=3)
    done = execute_experiment(
        ["Pendulum-v1", "InvertedPendulum-v4"], Config.from_dict(TINY), options, num_seeds=2, file=shown
    )
    return done, shown.getvalue()


def test_an_experiment_gathers_every_run_in_one_table(two_tasks):
    done, shown = two_tasks
    assert "Pendulum-v1, seed 1: greedy return -" in shown
    rows = read_table(done.folder / "results.csv")
    assert {(r["env"], r["seed"]) for r in rows} == {
        (env, seed) for env in ("Pendulum-v1", "InvertedPendulum-v4") for seed in "01"
    }
    for env in ("Pendulum-v1", "InvertedPendulum-v4"):
        for seed in (0, 1):
            run = done.folder / env / str(seed)
            mine = [r for r in rows if (r["env"], r["seed"]) == (env, str(seed))]
            final = [r for r in mine if r["kind"] == "final"]
            summary = json.loads((run / "summary.json").read_text())
            assert float(final[0]["return"]) == pytest.approx(summary["evaluation"]["mean"], rel=1e-5)
            assert int(final[0]["steps"]) == summary["steps"]
            greedy = [float(r["return"]) for r in mine if r["kind"] == "greedy"]
            assert greedy == pytest.approx([mean for _, mean in read_greedy(run)], rel=1e-5)
            assert len([r for r in mine if r["kind"] == "training"]) == 2
    assert (done.folder / "curve.png").stat().st_size > 10_000
    lines = report_lines(done.summary)
    assert [line.split()[0] for line in lines] == ["task", "Pendulum-v1", "InvertedPendulum-v4"]


@pytest.mark.processes
def test_an_experiment_goes_on_with_what_is_missing(two_tasks, tmp_path):
    done, _ = two_tasks
    folder = tmp_path / "copy"
    shutil.copytree(done.folder, folder)
    lost, kept = (folder / "Pendulum-v1" / seed for seed in "10")
    shutil.rmtree(lost)
    (folder / "results.csv").unlink()
    before = (kept / "summary.json").stat().st_mtime_ns
    shown = io.StringIO()
    again = proceed_experiment(folder, file=shown)
    assert "already finished: 3 of 4 trainings" in shown.getvalue()
    assert (kept / "summary.json").stat().st_mtime_ns == before
    assert again.summary["tasks"] == done.summary["tasks"]
    finals = [
        [r["return"] for r in read_table(place / "results.csv") if r["kind"] == "final"]
        for place in (folder, done.folder)
    ]
    assert finals[0] == finals[1]


def test_an_experiment_is_compared_with_another(two_tasks, tmp_path):
    done, _ = two_tasks
    scores = {"Pendulum-v1": (-1.0, -2.0), "Reacher-v4": (5.0, 5.0)}
    rows = [(env, i, "final", 512, v, 1.0) for env, each in scores.items() for i, v in enumerate(each)]
    write_table(tmp_path / "results.csv", COLUMNS, rows)
    found = compared(done.folder, tmp_path)
    assert list(found["tasks"]) == ["Pendulum-v1"]
    mine = done.summary["tasks"]["Pendulum-v1"]["evaluation"]["mean"]
    assert found["tasks"]["Pendulum-v1"]["difference"]["value"] == pytest.approx(mine + 1.5, rel=1e-5)
    assert found["tasks"]["Pendulum-v1"]["improvement"]["value"] == 0
    lines = report_lines(done.summary | {"against": found})
    assert lines[-1].split()[0] == "Pendulum-v1"
    assert "0.00" in lines[-1]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "has no results"),
        ("env,seed\nA,0\n", "has no results"),
        ("env,seed,kind,steps,return,seconds\n", "has no final scores"),
        ("env,seed,kind,steps,return,seconds\nReacher-v4,0,final,1,2,3\n", "has none of the tasks"),
    ],
)
def test_a_folder_without_results_is_not_compared_with(content, match, two_tasks, tmp_path):
    if content is not None:
        (tmp_path / "results.csv").write_text(content)
    with pytest.raises(ExperimentError, match=match):
        compared(two_tasks[0].folder, tmp_path)


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (["Pendulum-v1", "Pendulum-v1"], "named twice"),
        (["paper/reacher"], "is a preset"),
        ([], "must be one environment or more"),
    ],
)
def test_tasks_that_cannot_be_meant_are_refused(ids, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        execute_experiment(
            ids, Config.from_dict(TINY), Options(out=tmp_path), num_seeds=1, file=io.StringIO()
        )


@pytest.mark.parametrize(
    "change",
    [
        {"envs": []},
        {"envs": "Pendulum-v1"},
        {"seeds": 0},
        {"seeds": "2"},
        {"config": {"x": 1}},
        {"against": 3},
    ],
)
def test_a_damaged_experiment_is_refused(change, two_tasks, tmp_path):
    plan = json.loads((two_tasks[0].folder / "experiment.json").read_text())
    (tmp_path / "experiment.json").write_text(json.dumps(plan | change))
    with pytest.raises(ExperimentError, match=r"experiment\.json"):
        proceed_experiment(tmp_path, file=io.StringIO())


@pytest.mark.parametrize(("first", "count"), [(0, 0), (2**32 - 1, 2)])
def test_seeds_that_are_none_are_refused(first, count, tmp_path):
    config = Config.from_dict(TINY | {"seed": first})
    with pytest.raises(ConfigError, match="seeds = "):
        execute_experiment(
            ["Pendulum-v1"], config, Options(out=tmp_path), num_seeds=count, file=io.StringIO()
        )


@pytest.mark.processes
def test_a_pool_that_is_left_begins_nothing_more(tmp_path):
    options = Options(evaluate=False, video=False)
    config = Config.from_dict(TINY)
    jobs = [
        Job("Pendulum-v1", dataclasses.replace(config, seed=s), options, tmp_path / str(s)) for s in range(9)
    ]
    results = run_jobs(jobs)
    next(results)
    results.close()  # what an interrupt does
    begun = [job for job in jobs if job.folder.exists()]
    assert len(begun) < 9
    assert all(status(job) == "finished" for job in begun)


@pytest.mark.processes
def test_the_processes_of_a_pool_end_with_it_when_it_is_killed(tmp_path):
    arguments = ["train", "Pendulum-v1", "--seeds", "2", "--total-steps", "4M", "--no-evaluate", "--no-video"]
    command = [sys.executable, "-m", "poise", *arguments, "--out", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("**/checkpoints"))) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    process.kill()
    process.wait()
    until = time.monotonic() + 10
    while alive_in_session(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive_in_session(process.pid)


def status(job):
    return json.loads((job.folder / "summary.json").read_text())["status"]
