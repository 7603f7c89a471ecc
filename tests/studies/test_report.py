"""The page of a report: its content, that text from files is escaped, and how a browser shows it."""

import dataclasses
import io
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from pages import browsing, in_browser, opened, parsed

import poise
from poise.agents.film import find_encoder
from poise.cli.main import main
from poise.runs.journal import read_evaluation
from poise.runs.options import Options
from poise.runs.records import read_record
from poise.studies.comparison import curves
from poise.studies.report.charts import Charts
from poise.studies.report.report import page, report
from poise.studies.settings import grouped

QUICK = {"total_steps": 2048, "num_envs": 2, "ppo": {"num_steps": 128}}


def trained(out, **options):
    return poise.train("Pendulum-v1", out=out, file=io.StringIO(), **(QUICK | options)).folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With a film and greedy scores on the way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("poise.agents.film.MAX_SECONDS", 1.0)
        return trained(tmp_path_factory.mktemp("runs"), eval_every=512, eval_episodes=2)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Two seeds of another setting."""
    ppo = {"num_steps": 128, "clip": 0.1}
    return [trained(tmp_path_factory.mktemp("runs"), seed=s, ppo=ppo, video=False) for s in (0, 1)]


def day(folder):
    """As the name of a run folder has it."""
    return f"{folder.name[:4]}-{folder.name[4:6]}-{folder.name[6:8]}"


def test_a_report_of_one_training_says_what_its_folder_says(run):
    path = report([run])
    assert path == run / "report.html"
    text = parsed(path.read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert f"greedy return {summary['evaluation']['mean']:.1f} " in text
    for part in (
        f"2,048 steps · seed 0 · backend native · {day(run)}",
        "KL",
        "best 1",
        "worst 1",
        "All options",
    ):
        assert part in text
    command = " ".join(text.replace("\\\n", " ").split())
    assert "poise train Pendulum-v1 --total-steps 2048 --seed 0 --num-envs 2 --ppo.num-steps 128" in command
    assert "ppo.num-steps 128" in text  # among what differs from the defaults
    film = next(run.glob("video.*"))
    assert {".mp4": 'src="data:video/mp4;base64,', ".gif": 'src="data:image/gif;base64,'}[
        film.suffix
    ] in path.read_text()
    # the curve wide and narrow, the returns behind the score, and one for each metric
    assert path.read_text().count("<svg") == 2 + 1 + 6
    returns = read_evaluation(run)
    assert f"100 greedy episodes that training never saw, returns from {returns.min():.1f} to " in text


def test_a_report_needs_nothing_but_itself(run):
    text = report([run]).read_text()
    assert "<script" not in text
    assert "@import" not in text
    for word in ('src="', 'href="', "url("):
        for place in text.split(word)[1:]:
            assert place.startswith(("data:", "#"))


def test_the_same_training_gives_the_same_page(run):
    assert report([run]).read_text() == report([run]).read_text()


def test_several_trainings_are_shown_by_setting(run, others, tmp_path):
    text = parsed(report([run, *others], tmp_path / "all.html").read_text())
    assert (
        "greedy return, ppo.clip 0.2" in text
    )  # not "defaults": its 2 environments, which all have, are not
    assert "greedy return, ppo.clip 0.1" in text
    assert "3 trainings · 2,048 steps · seeds 0, 1" in text
    assert "No winner between" in text or "is better than" in text
    assert "ppo.clip 0.1, seed 1" in text
    assert "--ppo.clip 0.1 --no-video --seeds 2" in " ".join(text.replace("\\\n", " ").split())


def test_the_command_has_what_was_asked_for_beside_the_learning(run):
    assert read_record(run).again().endswith(" --eval-every 512 --eval-episodes 2")
    beside = dataclasses.replace(read_record(run), options=Options(together=4))
    assert beside.again().endswith(" --together 4 --seeds 4")
    assert beside.again(8).endswith(" --together 4 --seeds 8")
    noted = dataclasses.replace(read_record(run), options=Options(note="--wide", tag=("a", "b")).settled())
    assert shlex.split(noted.again())[-4:] == ["--tag", "a", "b", "--note=--wide"]
    record = read_record(run)
    asked = dataclasses.replace(record.options, backend="gymnasium", evaluate=False)
    again = dataclasses.replace(record, options=asked).again()
    assert again == f"{record.command()} --backend gymnasium --no-evaluate --eval-every 512 --eval-episodes 2"


def test_the_page_says_which_agent_its_film_shows(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (film,) = copy.glob("video.*")
    shutil.copy(film, copy / f"video_best{film.suffix}")
    assert "The video shows the agent at the end of the training." in parsed(report([copy]).read_text())
    film.unlink()
    assert "The video shows the best agent." in parsed(report([copy]).read_text())


def test_a_training_that_has_not_ended_is_reported_as_such(run, others, tmp_path):
    copy = shutil.copytree(run, tmp_path / "a copy")
    (copy / "summary.json").unlink()
    next(copy.glob("video.*")).unlink()
    text = parsed(report([copy]).read_text())
    unfinished = f"is not finished, at step 2,048 of 2,048. To resume it: poise resume '{copy}'"
    assert f"This training {unfinished}" in text
    assert "The agent" not in text
    both = parsed(report([copy, *others], tmp_path / "both.html").read_text())
    assert f"The training ppo.clip 0.2, seed 0 {unfinished}" in both


def test_a_training_that_was_cut_off_leaves_the_curve_of_the_others_whole(run):
    whole = read_record(run)
    cut = dataclasses.replace(whole, rows=whole.rows[:2])
    (line,) = curves(grouped([cut, whole]))
    assert line.steps.tolist() == whole.steps.tolist()
    np.testing.assert_allclose(line.value, whole.column("episode/return"))


def test_a_training_that_is_too_short_is_not_called_healthy(run):
    record = read_record(run)
    text = parsed(page([dataclasses.replace(record, rows=record.rows[:3])], None))
    assert "health not judged too few iterations to judge: at least 4 are needed" in text
    assert "nothing found too few" not in text


def test_each_environment_has_metrics_of_its_own(run):
    record = read_record(run)
    other = dataclasses.replace(record, env="Other-v0", folder=run.parent)
    text = page([record, other], None)
    assert text.count("<svg") == 2 * 2 + 1 + 2 * 6  # no table of a score lies in the other's folder
    assert "<h3>Other-v0</h3>" in text


def test_ticks_keep_their_digits_and_coordinates_lose_theirs():
    drawn = str(Charts().one(lambda axes: axes.plot([0, 0.0125], [0, 0.001]), "a line"))
    assert re.search(r">0\.00[0-9]{2,}<", drawn)
    assert not re.search(r' (d|x|y|transform)="[^"]*\d\.\d{3}', drawn)
    assert "<style" not in drawn


def test_a_film_that_is_too_large_stays_a_file(run, tmp_path, monkeypatch):
    monkeypatch.setattr("poise.studies.report.report.LARGEST_FILM", 100)
    assert "The video is not shown: " in parsed(report([run], tmp_path / "r.html").read_text())


HOSTILE = "<script>alert(1)</script>\"'>&{{7*7}}$x^$<svg onload=alert(2)>"


def test_text_from_files_is_escaped(run):
    record = read_record(run)
    summary = {**record.summary, "processor": HOSTILE, "versions": {HOSTILE: HOSTILE}, "status": HOSTILE}
    spec = dataclasses.replace(record.spec, id=HOSTILE)
    hostile = dataclasses.replace(record, env=HOSTILE, spec=spec, summary=summary, backend=HOSTILE)
    text = page([hostile], None)
    assert "<script" not in text
    assert "onload=alert(2)>" not in text.replace("&lt;svg onload=alert(2)&gt;", "")
    assert "49" not in text[text.index("<h1>") : text.index("</h1>")]
    assert HOSTILE in parsed(text)


def test_findings_are_shown_with_what_to_try(run):
    record = read_record(run)
    config = dataclasses.replace(record.config, ppo=dataclasses.replace(record.config.ppo, gamma=0.9999))
    text = parsed(page([dataclasses.replace(record, config=config)], None))
    assert "note: horizon-beyond-limit" in text
    again = dataclasses.replace(record, config=config, folder=run.parent)
    twice = parsed(page([dataclasses.replace(record, config=config), again], None))
    assert twice.count("note: horizon-beyond-limit") == 1
    assert (
        twice.count("discount 0.9999, a horizon of 10,000 steps")
        == text.count("discount 0.9999, a horizon of 10,000 steps") + 1
    )
    commands = " ".join(text.replace("\\\n", " ").split())
    assert "--ppo.num-steps 128 --ppo.gamma 0.976" in commands.replace("--ppo.gamma 0.9999", "")


def test_the_command_names_the_page(run, others, tmp_path, capsys):
    assert main(["report", str(run), "--out", str(tmp_path / "a.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.html'}\n"
    assert main(["report"]) == 2
    assert "must be one folder or more" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", str(run), "--out", str(tmp_path / "no" / "a.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


# --- in a browser ---


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(run, others, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {"one": report([run], folder / "one.html"), "three": report([run, *others], folder / "three.html")}


@in_browser
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("kind", ["one", "three"])
def test_a_page_fits_its_width_and_its_charts_are_drawn(kind, width, browser, pages):
    view, wrong = opened(browser, pages[kind], width)
    assert wrong == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    boxes = view.evaluate(
        "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect())"
        ".filter(b => b.width > 0).map(b => [b.width, b.height])"
    )
    assert len(boxes) == 1 + 1 + 6
    assert all(w > 150 and h > 80 for w, h in boxes)
    lines = view.evaluate("document.querySelectorAll('svg path[style*=\"--series-1\"]').length")
    assert lines >= 7
    view.close()


@in_browser
@pytest.mark.skipif(find_encoder() is None, reason="no ffmpeg on this machine")
def test_the_film_plays(browser, pages):
    view, wrong = opened(browser, pages["one"], 1280)
    view.evaluate("document.querySelector('video').play()")
    view.wait_for_function("document.querySelector('video').currentTime > 0.2", timeout=10_000)
    assert view.evaluate("document.querySelector('video').videoWidth") > 100
    assert wrong == []
    view.close()


@in_browser
def test_a_dark_page_is_dark_and_its_charts_follow(browser, pages):
    seen = {}
    for scheme in ("light", "dark"):
        view, wrong = opened(browser, pages["one"], 1280, color_scheme=scheme)
        seen[scheme] = view.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('svg text')).fill]"
        )
        assert wrong == []
        view.close()
    assert seen["light"][0] == "rgb(255, 255, 255)"
    assert seen["dark"][0] == "rgb(17, 23, 29)"
    assert seen["light"][1] != seen["dark"][1]


@in_browser
def test_a_page_prints(browser, pages):
    view, _ = opened(browser, pages["one"], 1280, color_scheme="dark")
    view.emulate_media(media="print")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert view.evaluate("document.querySelector('.film-section').offsetHeight") == 0
    assert view.pdf()[:5] == b"%PDF-"
    view.close()
