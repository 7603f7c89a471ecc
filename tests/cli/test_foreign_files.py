"""Files of strangers: what is wrong with one is said in a sentence, with its name and its line."""

import json
import os
import shutil

import numpy as np
import pytest

from poise.cli.main import main
from poise.envs.vector import Crash
from poise.errors import PoiseError
from poise.health.difference import diff
from poise.runs.crash import ReplayError, read_crash, write_crash
from poise.runs.journal import (
    EPISODE_COLUMNS,
    JournalError,
    read_episodes,
    read_evaluation,
    read_greedy,
    read_metrics,
)
from poise.runs.records import known_summary, read_record
from poise.spec import Episode
from poise.store import files
from poise.store.files import FileError, inside, parse_json, read_cells, read_lines
from poise.studies.comparison import find_runs
from poise.studies.report.report import page


@pytest.fixture(scope="module")
def run(trained):
    return trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import io

    import poise

    ppo = {"num_steps": 24, "num_epochs": 1, "minibatch_size": 24}
    done = poise.train(
        "CartPole-v1", out=tmp_path_factory.mktemp("out"), total_steps=144, num_envs=3, ppo=ppo,
        video=False, eval_every=72, eval_episodes=1, file=io.StringIO(),
    )  # fmt: skip
    return done.folder


# -- metrics.jsonl -----------------------------------------------------------------------------------

GOOD = {"iteration": 0, "steps": 72, "policy/kl": 0.5, "episode/return": None, "episode/count": 3}


@pytest.mark.parametrize("value", ["[]", "{}", '""', '"\\ud800"', "true", "1e400", "NaN", "9" * 30])
@pytest.mark.parametrize("name", ["steps", "policy/kl", "unheard/of"])
def test_a_metric_that_is_not_a_number_is_named_with_its_line(name, value, tmp_path):
    rows = [json.dumps(GOOD), json.dumps(GOOD | {name: "HERE"}).replace('"HERE"', value)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, ""]))
    with pytest.raises(JournalError, match=r"metrics\.jsonl: is damaged: line 2: "):
        read_metrics(tmp_path)


def test_metrics_come_back_as_they_were_written(tmp_path):
    rows = [GOOD, {"iteration": 1, "steps": 144, "policy/kl": None, "later": 2}, GOOD | {"steps": 10**15}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_metrics(tmp_path)
    names = dict.fromkeys(name for row in rows for name in row)
    assert list(found) == [{name: row.get(name) for name in names} for row in rows]
    assert type(found[0]["episode/count"]) is int
    assert type(found[0]["policy/kl"]) is float
    assert found[-1]["steps"] == 10**15
    assert list(found[1:]) == list(found)[1:]
    assert len(found) == 3


def test_too_many_columns_are_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(GOOD | {f"a{i}": 1 for i in range(300)}))
    with pytest.raises(JournalError, match="305 columns"):
        read_metrics(tmp_path)


# -- tables ------------------------------------------------------------------------------------------

ROW = ["12", "1", "0", "3.5", "12", "terminated"]


def written(tmp_path, *rows, name="episodes.csv"):
    lines = [",".join(EPISODE_COLUMNS), *(",".join(row) for row in rows), ""]
    (tmp_path / name).write_bytes("\r\n".join(lines).encode("utf-8", "surrogatepass"))
    return tmp_path


def test_episodes_come_back_as_they_were_written(tmp_path):
    found = read_episodes(written(tmp_path, ROW, ["15", "2", "4", "-1e300", "3", "truncated"]))
    assert found == [Episode(1, 0, 12, 3.5, 12, True), Episode(2, 4, 15, -1e300, 3, False)]
    assert found[-1].step == 15
    assert read_episodes(written(tmp_path)) == []


@pytest.mark.parametrize(
    "text", ["", "x", "nan", "inf", "1e400", "9" * 30, "9" * 5000, '"', "1,2", "\ud800", "\0"]
)
@pytest.mark.parametrize("place", range(6))
def test_a_cell_that_cannot_be_is_named_with_its_row(place, text, tmp_path):
    if text == "9" * 30 and EPISODE_COLUMNS[place] == "return":
        pytest.skip("a return can be that large")
    row = [text if i == place else cell for i, cell in enumerate(ROW)]
    with pytest.raises(JournalError, match=r"episodes\.csv: is damaged: (row|line) \d"):
        read_episodes(written(tmp_path, ROW, row))


@pytest.mark.parametrize("text", ["", "step,env\n1,2\n", "steps,return\n1,nan\n", "return\n\n"])
def test_tables_without_their_columns_are_damaged(text, tmp_path):
    readers = {"episodes": read_episodes, "greedy": read_greedy, "evaluation": read_evaluation}
    if not text:  # no episode has ended
        del readers["episodes"]
    for name, read in readers.items():
        (tmp_path / f"{name}.csv").write_text(text)
        with pytest.raises(JournalError, match=rf"{name}\.csv: is damaged"):
            read(tmp_path)


def test_too_many_rows_are_refused_but_for_a_training_of_ones_own(tmp_path):
    written(tmp_path, *[ROW] * 5)
    with pytest.raises(JournalError, match="more than 4 rows"):
        read_episodes(tmp_path, most=4)
    assert len(read_episodes(tmp_path, most=None)) == 5


def test_a_line_or_a_file_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345\n1234567\n")
    assert list(read_lines(path, 100, 8)) == ["12345", "1234567"]
    with pytest.raises(FileError, match="line 2 is longer than 7 bytes"):
        list(read_lines(path, 100, 7))
    with pytest.raises(FileError, match="too large: 14 bytes, at most 13"):
        list(read_lines(path, 13))
    os.truncate(path, 5 * 10**9)
    with pytest.raises(FileError, match="line 3 is longer"):
        list(read_lines(path, None))
    path.write_bytes(b"a\n\xff\n")
    with pytest.raises(FileError, match="line 2 is not UTF-8"):
        list(read_lines(path, None))
    path.write_text('a,b\n1,2\n"1,2\n')
    with pytest.raises(FileError, match="is damaged: line"):
        list(read_cells(path))


def test_json_of_too_many_values_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(files, "MOST_VALUES", 10)
    assert parse_json("[1, 2, 3]") == [1, 2, 3]
    with pytest.raises(ValueError, match="at most 10"):
        parse_json("[" + "[]," * 10 + "[]]")


# -- summary.json ------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["seconds", "evaluation", "best", "versions"])
def test_a_report_without_a_part_of_the_summary_is_a_report(missing, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    del summary[missing]
    summary.get("seconds", {}).pop("rollout", None)  # and seconds without a part
    for score in (summary.get("evaluation"), (summary.get("best") or {}).get("evaluation")):
        if score:
            del score["low"]
    path.write_text(json.dumps(summary))
    assert "</html>" in page([read_record(folder)], None)


def test_missing_entries_of_a_summary_are_none_or_empty():
    assert known_summary({"seed": 3, "versions": None}) == {
        "seed": 3, "status": "unknown", "evaluation": None, "best": None, "seconds": {"total": 0.0},
        "steps": None, "steps_per_second": None, "versions": {}, "processor": "",
        "stopped_by": None, "stop_reason": None,
    }  # fmt: skip
    assert (
        known_summary({"evaluation": {"mean": 1, "std": 0, "episodes": 2, "cut": 0}})["evaluation"]["low"]
        is None
    )


# -- pipes, devices, links ---------------------------------------------------------------------------


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def link(path):
    path.symlink_to(path.parent.parent / "elsewhere")


NAMES = ("metrics.jsonl", "episodes.csv", "greedy.csv", "evaluation.csv", "summary.json")


@pytest.mark.parametrize("kind", [pipe, device, link])
@pytest.mark.parametrize("name", [*NAMES, "config.json", "video.mp4"])
def test_a_special_file_is_refused(name, kind, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (tmp_path / "elsewhere").write_text("what lies elsewhere")
    (folder / name).unlink(missing_ok=True)
    kind(folder / name)
    said = r"it is a link" if kind is link else r"it is a link|it is not a plain file"
    if name in ("config.json", "greedy.csv", "evaluation.csv", "video.mp4"):
        verb = {"config.json": lambda: diff(run, folder)}.get(name, lambda: page([read_record(folder)], None))
    else:
        verb = lambda: read_record(folder)  # noqa: E731
    if name == "video.mp4":
        text = verb()
        assert "The video is not shown" in text
        assert "elsewhere" not in text.replace(str(tmp_path), "")
        return
    with pytest.raises(PoiseError, match=rf"{name}: .*({said})"):
        verb()


def test_runs_of_an_experiment_that_are_links_are_refused(tmp_path, run):
    experiment = tmp_path / "experiment"
    (experiment / "default").mkdir(parents=True)
    (experiment / "sweep.json").write_text("{}")
    (experiment / "default" / "0").symlink_to(run)
    with pytest.raises(FileError, match="is a link"):
        find_runs([experiment])
    with pytest.raises(FileError, match="is not in"):
        inside(experiment, "../run/summary.json")


# -- crash.json --------------------------------------------------------------------------------------


def test_a_long_message_of_an_environment_is_shortened_in_a_crash(tmp_path):
    long = Crash("E-v0", 0, 0, 2, "a" * 10**7, "b" * 10**7 + "the end", np.zeros((2, 3)))
    path = write_crash(tmp_path, long)
    assert path.stat().st_size < 30_000
    found = read_crash(path)
    assert len(found.what) == 10_000
    assert found.trace.endswith("the end")
    assert found.actions.tolist() == long.actions.tolist()


def test_an_episode_too_long_to_be_read_again_is_kept_without_its_actions(tmp_path):
    path = write_crash(tmp_path, Crash("E-v0", 0, 0, 10**6, "a", "b", np.zeros(10**6)))
    with pytest.raises(ReplayError, match="step 1,000,000, too late to store them"):
        read_crash(path)
    assert path.stat().st_size < 200


@pytest.mark.parametrize(
    "text", ["[" * 10**5, "[" + "[]," * (2**22) + "[]]", "{}", "null", '{"actions": [[1],[1,2]]}']
)
def test_a_crash_that_describes_nothing_is_damaged(text, tmp_path):
    (tmp_path / "crash.json").write_text(text)
    with pytest.raises(ReplayError, match=r"crash\.json: is damaged"):
        read_crash(tmp_path / "crash.json")


# -- the terminal ------------------------------------------------------------------------------------


def test_verbs_show_what_a_terminal_would_obey_by_its_number(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["\x1b]0;title\x07"] = "\x9b31m\u202e\ud800"
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["diff", str(run), str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\\x1b]0;title\\x07 nothing and \\x9b31m\\u202e\\ud800" in out
    (folder / "summary.json").write_text(json.dumps({"status": "\x1b[2Jx; rm -rf ~"}))
    assert main(["compare", str(run), str(folder)]) == 2
    error = capsys.readouterr().err
    assert "is \\x1b[2Jx; rm -rf ~ (poise resume" in error
    assert main(["diff", str(run), str(folder), "--json"]) == 0
    json.loads(capsys.readouterr().out)
