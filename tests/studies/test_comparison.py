"""How trainings are grouped into settings, and the results of a comparison."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest

import poise
from poise.cli.main import main
from poise.runs.journal import JournalError
from poise.runs.records import read_record
from poise.store.checkpoint import CheckpointError
from poise.studies.comparison import CompareError, compare_runs
from poise.studies.pairs import Pair
from poise.studies.settings import grouped

QUICK = {"total_steps": 512, "video": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return poise.train("Pendulum-v1", out=out, file=io.StringIO(), **QUICK).folder


@pytest.fixture
def runs(run, tmp_path):
    """Copies of one run: ``make(clip, seed, score)`` has a run folder say that it had these."""

    def make(clip, seed, mean, env="Pendulum-v1"):
        folder = tmp_path / f"{env}-{clip}-{seed}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(run, folder)
        summary = json.loads((folder / "summary.json").read_text())
        summary["evaluation"]["mean"] = mean
        (folder / "summary.json").write_text(json.dumps(summary))
        episodes = mean + np.random.default_rng(seed).normal(size=100)
        rows = "\n".join(f"{i},{value},200" for i, value in enumerate(episodes))
        (folder / "evaluation.csv").write_text(f"episode,return,length\n{rows}\n")
        asked[folder] = clip, seed, env
        return folder

    asked = {}
    make.asked = asked
    return make


@pytest.fixture(autouse=True)
def as_asked(runs, monkeypatch):
    """Has a record say the clip, the seed and the environment that ``make`` was given."""

    def read(folder):
        record = read_record(folder)
        clip, seed, env = runs.asked[folder]
        ppo = dataclasses.replace(record.config.ppo, clip=clip)
        return dataclasses.replace(
            record, env=env, config=dataclasses.replace(record.config, ppo=ppo, seed=seed)
        )

    monkeypatch.setattr("poise.studies.comparison.read_record", read)


def test_runs_of_one_configuration_are_a_setting_whatever_their_seeds(runs):
    folders = [runs(clip, seed, 0.0) for seed in (2, 0) for clip in (0.2, 0.1)]
    compared = compare_runs(folders)
    assert [(s.label, [r.config.seed for r in s.records]) for s in compared.settings] == [
        ("defaults", [0, 2]),
        ("ppo.clip 0.1", [0, 2]),
    ]


def test_only_the_defaults_are_called_defaults(runs):
    changed = [runs(clip, 0, 0.0) for clip in (0.3, 0.1)]
    assert [s.label for s in compare_runs(changed).settings] == ["ppo.clip 0.3", "ppo.clip 0.1"]
    alone = [runs(0.3, seed, 0.0) for seed in (1, 2)]
    assert [s.label for s in compare_runs(alone).settings] == ["ppo.clip 0.3"]


def test_a_clear_difference_has_a_winner_and_an_unclear_one_none(runs):
    scores = {0.2: [-200, -210, -190], 0.1: [-150, -155, -145], 0.3: [-205, -180, -225]}
    folders = [runs(clip, seed, mean) for clip, means in scores.items() for seed, mean in enumerate(means)]
    better, other = compare_runs(folders).pairs["Pendulum-v1"]
    assert (better.winner, better.value) == ("ppo.clip 0.1", 50)
    assert better.sentence().startswith("ppo.clip 0.1 is better than defaults over seeds, by 50.00 (95% ")
    assert f"interval {better.low:.2f} to {better.high:.2f}, p = 0.0" in better.sentence()
    assert better.sentence().endswith(", judged by the final scores alone")
    assert better.improvement == pytest.approx((1, 0.025 ** (1 / 3), 1, None))  # of three wins in three
    assert other.winner is None
    interval = f"the 95% interval of the difference, {other.low:.2f} to {other.high:.2f}, includes 0"
    assert f"no winner between defaults and ppo.clip 0.3 over seeds: {interval} (p = " in other.sentence()
    assert "to detect a difference of this size takes about" in other.sentence()
    assert other.sentence().endswith(
        "; this compares the final scores alone, and does not show that both learn equally fast: "
        "see the curves"
    )
    assert other.low < 0 < other.high


def test_with_one_seed_per_setting_agents_are_compared(runs, capsys):
    folders = [runs(0.2, 0, -200.0), runs(0.1, 0, -150.0)]
    (pair,) = compare_runs(folders).pairs["Pendulum-v1"]
    assert (pair.kind, pair.winner, pair.improvement) == ("agents", "ppo.clip 0.1, seed 0", None)
    assert pair.value == pytest.approx(50, abs=0.5)
    assert main(["compare", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert "this compares single trainings, not their settings" in out
    assert "probability of improvement" not in out


def test_seeds_of_one_setting_are_compared_as_agents(runs):
    folders = [runs(0.2, seed, -200.0) for seed in (0, 1)]
    (pair,) = compare_runs(folders).pairs["Pendulum-v1"]
    assert (pair.kind, pair.one, pair.other, pair.winner) == ("agents", "seed 0", "seed 1", None)


def test_several_comparisons_are_corrected(runs):
    rng = np.random.default_rng(3)
    alone = [
        runs(clip, seed, rng.normal(-200 + 15 * (clip == 0.1), 8)) for clip in (0.2, 0.1) for seed in range(3)
    ]
    (one,) = compare_runs(alone).pairs["Pendulum-v1"]
    more = [runs(0.3, seed, -200 + seed) for seed in range(3)]
    among, _ = compare_runs([*alone, *more]).pairs["Pendulum-v1"]
    assert among.value == one.value
    assert one.p < among.p <= 2 * one.p


def test_a_setting_with_a_long_description_gets_a_number(runs):
    records = [read_record(runs(0.2, 0, 0.0)) for _ in range(2)]
    ppo = dataclasses.replace(records[1].config.ppo, clip=0.1, lam=0.5, gamma=0.5, num_epochs=3)
    records[1] = dataclasses.replace(records[1], config=dataclasses.replace(records[1].config, ppo=ppo))
    one, two = grouped(records)
    assert (one.label, two.label) == ("defaults", "setting 2")
    assert two.differs == {"ppo.num_epochs": 3, "ppo.gamma": 0.5, "ppo.lam": 0.5, "ppo.clip": 0.1}


def test_runs_without_a_score_are_named_and_left_out(runs):
    folders = [runs(0.2, seed, 0.0) for seed in range(3)]
    (folders[2] / "summary.json").unlink()
    reason = f"is not finished (poise resume {folders[2]})"
    assert compare_runs(folders).left_out == {str(folders[2]): reason}
    with pytest.raises(
        CompareError, match=r"at least 2 runs are needed, 1 of 2 can be compared.*\n  .*poise resume"
    ):
        compare_runs(folders[1:])
    changed(folders[1], status="interrupted", evaluation=None)
    changed(folders[2], copy=folders[0], evaluation=None)
    with pytest.raises(CompareError, match=r"(?s)-1-1: is interrupted .*-2-2: has no final score "):
        compare_runs(folders)


def changed(folder, copy=None, **entries):
    """Has its summary say something else, or what another's says but for that."""
    summary = json.loads(((copy or folder) / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | entries))


def test_the_same_training_twice_counts_once(runs):
    folders = [runs(0.2, seed, -200.0) for seed in (0, 1, 1)]
    compared = compare_runs(folders)
    assert [len(s.records) for s in compared.settings] == [2]
    assert compared.left_out == {str(folders[2]): f"is bit-identical to {folders[1]}, and would count twice"}


def test_a_pair_without_a_winner_only_by_the_correction_says_so():
    pair = Pair("settings", "a", "b", 2.0, 0.5, 3.5, None, None, 0.06, None)
    assert (
        "0.500 to 3.50, excludes 0, but with several comparisons this can happen by chance" in pair.sentence()
    )
    assert Pair("agents", "a", "b", -2.0, -3.5, -0.5, None, None, 0.01, None).sentence() == (
        "a is better than b as agents, over the episodes of their scores, by 2.00 "
        "(95% interval 0.500 to 3.50, p = 0.01)"
    )


def test_equal_scores_have_no_interval_and_three_seeds_of_them_no_winner(runs, capsys):
    for count, winner in ((3, None), (4, "defaults")):
        folders = [
            runs(clip, seed, mean) for clip, mean in ((0.2, 1000.0), (0.1, 990.0)) for seed in range(count)
        ]
        compared = compare_runs(folders)
        (pair,) = compared.pairs["Pendulum-v1"]
        assert pair.winner == winner
        assert "on each side all scores are equal" in pair.sentence()
        tasks = json.loads(json.dumps(compared.to_dict(), allow_nan=False))["tasks"]["Pendulum-v1"]
        assert tasks["settings"][0]["evaluation"] == {
            "mean": 1000.0,
            "low": None,
            "high": None,
            "no_interval": f"all {count} seeds have the same score",
            "iqm": {
                "value": 1000.0,
                "low": None,
                "high": None,
                "no_interval": f"all {count} seeds have the same score",
            },
            "seeds": count,
            "each": [1000.0] * count,
        }
        assert (tasks["pairs"][0]["low"], tasks["pairs"][0]["high"]) == (None, None)
        assert tasks["pairs"][0]["no_interval"] == "on each side all scores are equal"
        assert main(["compare", *map(str, folders)]) == 0
        assert f"all {count} seeds have the same score" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [None, "return\nx\n", "return\nnan\n", "episode\n0\n", ""])
def test_a_damaged_table_of_the_score_is_an_error_with_its_name(rows, runs):
    folders = [runs(0.2, seed, -200.0) for seed in (0, 1)]
    (folders[1] / "evaluation.csv").unlink()
    if rows is not None:
        (folders[1] / "evaluation.csv").write_text(rows)
    with pytest.raises(JournalError, match=r"evaluation\.csv: (cannot be read|is damaged)"):
        compare_runs(folders)


@pytest.mark.parametrize(
    "entries",
    [
        {"evaluation": 5},
        {"evaluation": {"mean": 1.0}},
        {"evaluation": {"mean": "x", "std": 1, "low": 0, "high": 1, "episodes": 2, "cut": 0}},
        {"best": {"steps": 1}},
        {"seconds": 7},
        {"steps_per_second": "fast"},
        {"versions": {"poise": 1}},
        {"status": 3},
    ],
)
def test_a_damaged_summary_is_an_error_with_its_name(entries, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    changed(folder, **entries)
    with pytest.raises(CheckpointError, match=r"summary\.json: is damaged"):
        read_record(folder)


def test_runs_that_cannot_be_compared_are_an_error(runs, tmp_path):
    one = runs(0.2, 0, 0.0)
    with pytest.raises(CompareError, match="a run is named twice"):
        compare_runs([one, one])
    with pytest.raises(CompareError, match="no two runs have the same environment: Pendulum-v1, Reacher-v4"):
        compare_runs([one, runs(0.2, 0, 0.0, env="Reacher-v4")])
    with pytest.raises(CompareError, match=f"is not a run but holds runs, the newest is {tmp_path}"):
        compare_runs([one, tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CompareError, match="is not the folder of a run, an experiment or a sweep"):
        compare_runs([one, tmp_path / "empty"])


def test_the_command_draws_and_tells(runs, tmp_path, capsys):
    folders = [runs(clip, seed, seed + clip) for clip in (0.2, 0.1) for seed in (0, 1)]
    plot = tmp_path / "curves.png"
    assert main(["compare", *map(str, folders), "--plot", str(plot), "--json"]) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["Pendulum-v1"]
    assert [s["label"] for s in task["settings"]] == ["defaults", "ppo.clip 0.1"]
    assert task["pairs"][0]["winner"] is None
    assert plot.read_bytes()[:4] == b"\x89PNG"
    for wrong, why in (("a.txt", "must end in .png"), ("no/a.png", "cannot be written: No such file")):
        assert main(["compare", *map(str, folders), "--plot", str(tmp_path / wrong)]) == 2
        assert why in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "must be one folder or more" in capsys.readouterr().err


def test_settings_can_be_judged_by_a_success_rate_or_a_term(runs, capsys):
    """The returns say that the defaults are better, the success rates that they are worse."""
    folders = []
    for clip, mean, rate in [(0.2, 100.0, 0.1), (0.1, 50.0, 0.9)]:
        for seed in range(3):
            folder = runs(clip, seed, mean + seed)
            summary = json.loads((folder / "summary.json").read_text())
            info = {"reward_a": -mean - seed}
            summary["evaluation"] |= {"success_rate": rate + seed / 100, "info": info}
            (folder / "summary.json").write_text(json.dumps(summary))
            folders.append(folder)
    winners = {}
    for by in ("return", "success_rate", "reward_a"):
        compared = compare_runs(folders, by)
        (pair,) = compared.pairs["Pendulum-v1"]
        winners[by] = pair.value > 0, pair.winner is not None
        assert compared.to_dict()["by"] == by
        assert (f"judged by {by}" in compared.lines()[0]) == (by != "return")
    assert winners == {"return": (False, True), "success_rate": (True, True), "reward_a": (True, True)}


def test_what_a_score_does_not_have_cannot_judge_it(runs):
    with pytest.raises(CompareError, match="its score has no 'success_rate'; it has return"):
        compare_runs([runs(0.2, 0, 1.0), runs(0.1, 0, 2.0)], "success_rate")


def test_agents_are_compared_by_the_column_of_their_episodes(runs):
    folders = []
    for clip, rate in [(0.2, 0.1), (0.1, 0.9)]:
        folder = runs(clip, 0, 1.0)
        summary = json.loads((folder / "summary.json").read_text())
        summary["evaluation"]["success_rate"] = rate
        (folder / "summary.json").write_text(json.dumps(summary))
        rows = "\n".join(f"{i},1.0,5,{float(i < 100 * rate)}" for i in range(100))
        (folder / "evaluation.csv").write_text(f"episode,return,length,is_success\n{rows}\n")
        folders.append(folder)
    (pair,) = compare_runs(folders, "success_rate").pairs["Pendulum-v1"]
    assert pair.value == pytest.approx(0.8)
    assert pair.winner == pair.other
