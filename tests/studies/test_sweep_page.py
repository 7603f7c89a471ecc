"""The page of a sweep says what its summary says, and fits every width."""

import io
import json
import math

import numpy as np
import pytest
from pages import browsing, in_browser, opened, parsed

from poise.cli.main import main
from poise.config import Config
from poise.errors import TrainingError
from poise.runs.options import Options
from poise.studies.comparison import Pair, pair_as_json
from poise.studies.results import evaluation
from poise.studies.statistics import difference, p_value
from poise.studies.sweep import sweep
from poise.studies.sweep.page import write_page
from poise.studies.sweep.search import Search
from poise.studies.sweep.trial import Result

REASON = "<b>it diverged</b>"


def jobs(given, **_):
    """A trainer that trains nothing: the nearer the rate to 2e-3, the better."""
    for job in given:
        config = job.config
        worth = -5 - abs(math.log(config.ppo.policy_learning_rate / 2e-3))
        values = {rung: worth - 1000 / rung for rung in job.rungs}
        if config.ppo.clip == 0.3 and config.ppo.lam == 0.9:
            yield job, TrainingError(REASON)
            continue
        fell = next(
            (r for r, t in zip(job.rungs, job.thresholds, strict=True) if t is not None and values[r] < t),
            None,
        )
        scores = () if fell else tuple(worth + i for i in range(3))
        yield job, Result(fell, scores, values, 2.0).to_dict()


def judge(plan, ledger, train, file):
    winner = max((t for t in ledger.trials() if t.score is not None), key=lambda t: t.score)
    mine, theirs = np.array([-4.0, -4.2, -4.1]), np.array([-5.0, -5.2, -4.9])
    bounds = difference(mine, theirs)
    pair = Pair(
        "settings", "the default", f"trial {winner.number}", *bounds, None, p_value(mine, theirs), None
    )
    return {
        "status": "finished",
        "winner": {"trial": winner.number, "default": False, "options": plan.settings(winner)},
        "scores": {"winner": evaluation(mine), "default": evaluation(theirs)},
        "pair": pair_as_json(pair),
        "beats": True,
        "sentence": pair.sentence(),
        "command": "poise train Reacher-v4 --seed 3",
        "failed": {"winner/6": REASON},
        "elsewhere": [],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_jobs", jobs)
        patch.setattr(sweep, "_judge", judge)
        options = Options(out=tmp_path_factory.mktemp("sweeps"), video=False)
        return sweep.execute_sweep("Reacher-v4", Config(), options, Search(trials=30), file=io.StringIO())


def test_the_page_says_what_the_summary_says(made):
    text = parsed((made.folder / "report.html").read_text())
    number = made.summary["winner"]["trial"]
    assert f"Trial {number} is better than the default over seeds, by 0.93" in text
    assert f"greedy return, trial {number} -4.10 95% interval -4.35 to -3.85, 3 fresh seeds" in text
    assert "on seeds 3 to 12, which no trial used" in text
    assert "poise train Reacher-v4 --seed 3" in text
    states = [trial["state"] for trial in made.summary["trials"]]
    assert {"finished", "stopped", "failed"} == set(states)
    assert f"{states.count('finished')} finished, {states.count('stopped')} stopped" in text
    assert f"{REASON}" in text  # as text: it is escaped
    assert REASON not in (made.folder / "report.html").read_text()
    best = made.summary["trials"][number]
    assert f"{number} {best['score']:.2f} " in text
    assert "0.00025 to 0.004 evenly in its logarithm 0.001" in text
    shares = made.summary["importances"]
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) == "ppo.policy_learning_rate"  # the only one that decides
    # history, values over steps and importances, each wide and narrow; one for each option
    assert (made.folder / "report.html").read_text().count("<svg") == 3 * 2 + 9


def test_poise_report_writes_it_again_and_elsewhere(made, tmp_path, capsys):
    before = (made.folder / "report.html").read_text()
    (made.folder / "report.html").unlink()
    assert main(["report", str(made.folder)]) == 0
    assert capsys.readouterr().out == f"{made.folder / 'report.html'}\n"
    assert (made.folder / "report.html").read_text() == before
    assert main(["report", str(made.folder), "--out", str(tmp_path / "no" / "a.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_unfinished_sweep_has_a_page_that_says_how_to_go_on(made, tmp_path, capsys):
    for name in ("sweep.json", "summary.json"):
        (tmp_path / name).write_bytes((made.folder / name).read_bytes())
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name in ("winner", "scores", "pair", "beats", "sentence", "command", "failed", "elsewhere"):
        del summary[name]
    summary |= {"status": "unfinished", "trials": summary["trials"][:2], "importances": {}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = parsed(write_page(tmp_path).read_text())
    assert f"2 of 30 trials have ended. To resume: poise resume {tmp_path}" in text
    assert "Too few trials finished to say which option mattered" in text
    (tmp_path / "summary.json").unlink()
    assert main(["report", str(tmp_path)]) == 2
    assert "no trial has ended yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"trials": 3}, {"space": [{}]}, {"env": None, "seeds": []}, {"versions": []}]
)
def test_a_damaged_summary_is_refused_in_one_line(change, made, tmp_path, capsys):
    summary = json.loads((made.folder / "summary.json").read_text())
    (tmp_path / "sweep.json").touch()
    (tmp_path / "summary.json").write_text(json.dumps(summary | change))
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "is damaged" in error
    assert error.count("\n") == 1


@in_browser
def test_the_page_fits_every_width_in_both_schemes_without_a_request(made):
    with browsing() as browser:
        for width in (375, 1280):
            for scheme in ("light", "dark"):
                view, wrong = opened(browser, made.folder / "report.html", width, color_scheme=scheme)
                assert wrong == []
                assert view.evaluate("document.documentElement.scrollWidth") <= width
                assert view.evaluate("document.querySelectorAll('script').length") == 0
                view.close()
