"""A few of each kind; the whole suite, and its figures, are in docs/reliability.md."""

import csv
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import keeping
import malformed
import suite

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    return suite.References(tmp_path_factory.mktemp("references"))


# These seeds draw the same training, on backend native, so one reference serves all.
@pytest.mark.processes
def test_killed_at_a_random_moment_it_comes_to_the_same_end(references, tmp_path):
    suite.kill(tmp_path, random.Random(4), references)


@pytest.mark.processes
@pytest.mark.parametrize("seed", [1, 22])  # one endless call, and a training
def test_interrupted_it_ends_in_time_and_can_be_resumed(seed, references, tmp_path):
    suite.interrupt(tmp_path, random.Random(seed), references)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "moment"), [("raise", "at reset"), ("none", "late"), ("hang", "early"), ("kill", "late")]
)
def test_an_environment_that_misbehaves_is_named(kind, moment, tmp_path):
    suite.environment(tmp_path, kind, moment)


@pytest.mark.processes
def test_a_full_disk_costs_nothing_that_was_saved(references, tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
        subprocess.run(["umount", str(tmp_path)], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can be mounted by root alone")  # tests/runs/test_resume.py has one without
    suite.full_disk(tmp_path, random.Random(7), references)


@pytest.mark.processes
@pytest.mark.parametrize("fault", ["checkpoints", "options"])
def test_malformed_checkpoints_and_options_are_refused(fault, tmp_path):
    # in a process of its own: the checker of these tests compiles code when it is called
    command = [sys.executable, suite.__file__, fault, "--count", "30", "--work", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    rows = suite.Trials(tmp_path / "trials.csv").rows
    assert [row for row in rows if row[2] != "passed"] == []
    assert len(rows) == 30


@pytest.mark.slow
def test_files_of_strangers_are_refused_by_every_verb(tmp_path):
    command = [sys.executable, suite.__file__, "foreign", "--count", "100", "--work", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    rows = suite.Trials(tmp_path / "trials.csv").rows
    assert [row for row in rows if row[2] != "passed"] == []
    assert len(rows) == 100


@pytest.mark.processes
@pytest.mark.parametrize(
    ("damage", "place"), [("a byte", keeping.PLACES[0]), ("another schema", keeping.PLACES[2])]
)
def test_a_damaged_checkpoint_of_one_of_several_costs_nothing_else(damage, place, tmp_path):
    keeping.damaged(tmp_path / "trials" / "one", damage, place)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "name"),
    [("resume RUN", "curve.png"), ("export RUN", "policy.py"), ("resume EXPERIMENT", "0/log.txt")],
)
def test_nothing_is_written_through_a_link(command, name, tmp_path):
    keeping.link(tmp_path / "trials" / "one", command, name)


def test_the_audit_hears_of_a_file_outside(tmp_path):
    audit = malformed.Audit()
    (tmp_path / "run").mkdir()
    with audit.hearing(tmp_path):
        (tmp_path / "run" / "inside").write_text("")
        assert audit.odd == []
        (tmp_path / "outside").write_text("")
        exec("1")
    odd = [fact for fact in audit.odd if "beartype" not in fact]
    assert odd == [f"open {tmp_path / 'outside'}", "compile <string>", "exec <string>"]


def test_every_fault_of_the_suite_passed_as_often_as_the_page_says():
    page = (ROOT / "docs" / "reliability.md").read_text()
    with (ROOT / "benchmarks" / "faults.csv").open(newline="") as file:
        rows = {row["fault"]: row for row in csv.DictReader(file)}
    assert rows.keys() == suite.SUITE.keys()
    for name, (count, title) in suite.SUITE.items():
        row = rows[name]
        assert int(row["tried"]) >= count
        line = next(line for line in page.splitlines() if line.startswith(f"| {title} |"))
        numbers = [int(n.replace(",", "")) for n in re.findall(r"\| ([\d,]+) ", line)]
        assert numbers == [int(row["tried"]), int(row["passed"])]
