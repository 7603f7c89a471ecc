import io

import numpy as np
import pytest

from poise.runs.live import live, sparkline
from poise.spec import Episode
from poise.system.streams import Lasting
from poise.training.metrics import BY_NAME


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Notebook:
    """The stream of a notebook: no terminal, no descriptor; each line stays."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return False


def progress(steps, returns=(), **metrics):
    episodes = [Episode(0, i, steps, value, 10, False) for i, value in enumerate(returns)]
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return steps, episodes, named


SICK = {"policy__kl": 0.2, "policy__clip_fraction": 0.1, "policy__std": 0.5}


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline(np.array([0.0, 7.0, np.nan, 3.0])) == "▁█ ▄"
    assert sparkline(np.array([5.0, 5.0])) == "▅▅"
    assert sparkline(np.full(3, np.nan)) == "   "


def test_a_pipe_gets_a_line_for_each_tenth_with_unhealthy_metrics():
    file = io.StringIO()
    with live(1000, file) as view:
        view.show(*progress(60))
        view.show(*progress(160, [1.0, 2.0], **SICK))
        view.say("made anew")
        view.show(*progress(190, [9.0]))
        view.show(*progress(1000, [5.0], policy__kl=0.01))
    first, said, last = file.getvalue().splitlines()
    assert first.startswith("      160 / 1,000 steps")
    assert first.endswith("return 1.50  KL high")
    assert said == "made anew"
    assert last.endswith("return 5.00")


def test_a_notebook_gets_few_whole_lines():
    stream = Notebook()
    with live(100_000, Lasting(stream, whole=False)) as view:
        for steps in range(500, 100_001, 500):
            view.show(*progress(steps, [1.0], **SICK))
    lines = stream.text.splitlines()
    assert len(lines) == 10
    assert all(line.lstrip()[0].isdigit() for line in lines)
    assert not {"\r", "\x1b"} & set(stream.text)


def test_a_terminal_gets_bar_course_and_health(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    file = Terminal()
    with live(1000, file) as view:
        view.show(*progress(500, [1.0, 2.0], **SICK))
        view.show(*progress(1000, [4.0], **SICK, value__explained_variance=-3.0, value__loss=0.5))
        view.say("made anew")
    shown = file.getvalue()
    for part in (
        "100%",
        "1,000 / 1,000 steps",
        "return 4.0",
        "▁",
        "█",
        "KL ",
        "high",
        "explained variance",
        "low",
    ):
        assert part in shown
    assert "made anew" in shown


@pytest.mark.parametrize("columns", [62, 80, 100])
def test_the_picture_fits_into_a_terminal(columns, monkeypatch):
    """No row is broken: header, bar, return, health, and what follows the training."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    file = Terminal()
    with live(399_360, file) as view:
        metrics = {"value__explained_variance": -3.5, "value__loss": 0.01}
        view.show(*progress(225_280, [1.0, 2.0], **SICK, **metrics))
        view._display.refresh()
        picture = view._display.renderable
        view.phase("scoring: 43 / 100 episodes, 43,000 steps")
        lines = view._display.console.render_lines(picture, pad=False)
        shown = ["".join(segment.text for segment in line).rstrip() for line in lines]
    assert len([line for line in shown if line]) == (4 if columns == 100 else 5)
    text = "\n".join(shown)
    assert "explained variance – (little left to explain)" in text
    assert "56% 225,280 / 399,360 steps" in text
    assert "scoring: 43 / 100 episodes, 43,000 steps  0 s" in text
    assert "-3.5" not in text


@pytest.mark.parametrize(
    ("explained", "loss", "state"),
    [(0.5, 1.0, "ok"), (-1.0, 1.0, "low"), (-1.0, 0.01, None), (0.5, 0.01, "ok"), (None, 1.0, None)],
)
def test_a_low_explained_variance_is_healthy_if_little_is_left_to_explain(explained, loss, state):
    metrics = {"value/explained_variance": explained, "value/loss": loss}
    assert BY_NAME["value/explained_variance"].state(metrics) == state
