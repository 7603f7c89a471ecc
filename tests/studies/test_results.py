"""The records that the functions of Python return: what they hold, in a line, as text and in a notebook."""

import base64
import math
from pathlib import Path

import numpy as np

from poise.agents.evaluation import Evaluation
from poise.health.difference import Difference
from poise.health.findings import Finding
from poise.health.inspection import Inspection
from poise.runs.reacting import Run
from poise.studies.results import Experiment, Scores, evaluation
from poise.studies.sweep.results import Sweep
from poise.system.notebook import card

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(20)


def experiment(folder: Path, against=None) -> Experiment:
    tasks = {
        "A-v0": {"backend": "gymnasium", "evaluation": evaluation(np.array([1.0, 2.0, 6.0]))},
        "B<b>-v0": {"backend": "gymnasium", "evaluation": evaluation(np.array([5.0, 5.0, 5.0]))},
        "C-v0": {"backend": "gymnasium", "evaluation": None},
    }
    shared = {"status": "finished", "seeds": [4, 5, 6], "steps": 100, "seconds": {"total": 2.0}}
    return Experiment(folder, {**shared, "tasks": tasks, "against": against})


def test_an_experiment_has_the_score_of_each_seed_and_intervals(tmp_path):
    scores = experiment(tmp_path).scores
    assert list(scores) == ["A-v0", "B<b>-v0"]
    first, second = scores.values()
    assert (first.seeds, first.each, first.mean.value) == ((4, 5, 6), (1.0, 2.0, 6.0), 3.0)
    half = 4.302653 * np.std([1, 2, 6], ddof=1) / 3**0.5  # Student's t with 2 degrees of freedom
    np.testing.assert_allclose((first.mean.low, first.mean.high), (3 - half, 3 + half), rtol=1e-6)
    assert (second.mean.low, second.mean.no_interval) == (
        -math.inf,
        evaluation(np.full(3, 5.0))["no_interval"],
    )
    assert str(second) == "5.00"


def test_an_experiment_has_the_differences_from_another_one(tmp_path):
    pair = {"value": 1.5, "low": None, "high": None, "no_interval": "one seed"}
    other = {
        "folder": "there",
        "tasks": {"A-v0": {"difference": pair, "improvement": {**pair, "value": 0.6}}},
    }
    compared = experiment(tmp_path, other)
    assert compared.differences["A-v0"] == (1.5, -math.inf, math.inf, "one seed")
    assert compared.improvements["A-v0"].value == 0.6
    assert experiment(tmp_path).differences == {}
    assert "against there:" in compared._repr_html_()


def test_each_record_is_one_line_of_code_and_as_text_what_the_command_prints(tmp_path):
    folder = Path("runs/A-v0/1")
    score = Evaluation(np.array([1.0, 3.0]), np.array([5, 5]))
    summary = {"env": "A-v0", "status": "finished", "steps": 2048}
    run = Run(folder, {**summary, "evaluation": score.summary()}, score)
    assert repr(run) == f"Run({folder}: A-v0, greedy return 2.00 (-10.71 to 14.71), 2,048 steps, finished)"
    alone = Run(folder, {**summary, "evaluation": None}, None)
    assert repr(alone) == f"Run({folder}: A-v0, 2,048 steps, finished)"
    made = experiment(folder)
    assert repr(made) == (
        f"Experiment({folder}: A-v0 3.00 (-3.57 to 9.57), B<b>-v0 5.00, C-v0 not scored, 3 seeds, finished)"
    )
    assert str(made).splitlines() == made.lines()
    assert made.lines()[-1] == "9 x 100 steps in 2.0 s"
    finding = Finding("constant-reward", "warning", "seen", "meaning", "fix")
    assert repr(Inspection("A-v0", {}, [finding])) == "Inspection(A-v0: constant-reward)"
    assert repr(Difference((3, 3))) == "Difference(the same in all 3 iterations)"


def test_a_sweep_says_what_is_best_and_whether_it_is_better():
    sides = {side: evaluation(np.array([1.0, 2.0])) for side in ("winner", "default")}
    row = {"trial": 1, "state": "finished", "options": {"ppo.clip": 0.1}, "score": 2.0, "scores": [1.0, 3.0]}
    summary = {
        "env": "A-v0",
        "trials": [row],
        "fresh": [7, 8, 9],
        "failed": {"winner/8": "x", "default/9": "x"},
    }
    winner = {"trial": 1, "options": {"ppo.clip": 0.1}}
    sweep = Sweep(
        Path("runs/s"), {**summary, "scores": sides, "winner": winner, "beats": True, "sentence": "better"}
    )
    assert (sweep.best, sweep.is_better, sweep.verdict) == ({"ppo.clip": 0.1}, True, "better")
    assert (sweep.scores["winner"].seeds, sweep.scores["default"].seeds) == ((7, 9), (7, 8))
    assert (sweep.trials[0].each, sweep.trials[0].options) == ((1.0, 3.0), {"ppo.clip": 0.1})
    assert repr(sweep) == "Sweep(runs/s: A-v0, 1 trial, trial 1 is better)"


def test_a_notebook_shows_score_and_curve_and_all_text_is_escaped(tmp_path):
    (tmp_path / "curve.png").write_bytes(PICTURE)
    run = Run(tmp_path, {"env": "<i>\x1b[2J", "status": "finished", "steps": 1, "evaluation": None}, None)
    shown = run._repr_html_()
    assert f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}" in shown
    assert "&lt;i&gt;\\x1b[2J" in shown
    assert "<i>" not in shown
    assert "B&lt;b&gt;-v0" in experiment(tmp_path)._repr_html_()
    assert "#" not in shown.partition("<img")[0]  # no color of its own: light and dark pages have theirs


def test_a_picture_that_is_not_one_is_left_out(tmp_path):
    assert "<img" not in card("title", picture=b"<script>")
    (tmp_path / "curve.png").symlink_to(__file__)
    run = Run(tmp_path, {"env": "A", "status": "finished", "steps": 1, "evaluation": None}, None)
    assert "<img" not in run._repr_html_()


def test_scores_are_read_from_what_the_summary_has():
    each = np.array([1.0, 2.0, 4.0, 9.0])
    scores = Scores.of(range(4), evaluation(each))
    assert scores.each == tuple(each)
    assert (scores.mean.value, scores.iqm.value) == (4.0, 3.0)
