"""A local Ray that dies: the reason and how to resume are reported, and nothing is left over."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from poise.system import cluster, keeper
from poise.system.cluster import Death, LostCluster


@pytest.mark.parametrize(
    ("line", "why"), [("its raylet was killed\n", "its raylet was killed"), ("", "its keeper was killed")]
)
def test_the_death_of_ray_or_of_its_keeper_is_an_error_with_the_reason(line, why, monkeypatch):
    read, write = os.pipe()
    death = Death()
    death.check()
    monkeypatch.setattr(cluster, "_death", death)
    with os.fdopen(read) as output, os.fdopen(write, "w") as keeper_says:
        waiting = threading.Thread(target=death.wait_for, args=(output,))
        waiting.start()
        keeper_says.write(line)
        keeper_says.close()
        waiting.join(5)
    with pytest.raises(LostCluster, match=f"the local Ray died: {why} .*; what was done is kept") as error:
        cluster.answer(None)
    assert error.value.exit_code == 1


def test_an_error_of_ray_just_before_its_death_is_reported_as_the_death(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(cluster, "_death", death := Death())

    class Ray:
        @staticmethod
        def wait(promises, timeout):
            threading.Timer(0.1, os.close, (write,)).start()
            raise RuntimeError("the connection to the raylet is closed")

    monkeypatch.setattr(cluster, "_ray", lambda: Ray)
    with os.fdopen(read) as output:
        threading.Thread(target=death.wait_for, args=(output,), daemon=True).start()
        with pytest.raises(LostCluster, match="its keeper was killed"):
            cluster.ready([1], 1.0)


def test_the_keeper_notices_the_end_of_its_parent_or_of_the_raylet(monkeypatch):
    def stand_in():
        return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    read, write = os.pipe()
    with os.fdopen(read) as owner:
        monkeypatch.setattr(sys, "stdin", owner)
        raylet = stand_in()
        threading.Timer(0.2, raylet.kill).start()
        assert not keeper.outlives(raylet)
        raylet.communicate()
        raylet = stand_in()
        threading.Timer(0.2, os.close, (write,)).start()
        assert keeper.outlives(raylet)
        raylet.kill()
        raylet.communicate()


def below(pid):
    """The processes that one started, and those that they started, with their commands."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(") ")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        children.setdefault(parent, []).append((int(stat.parent.name), command))
    commands, parents = {}, [pid]
    while parents:
        for child, command in children.get(parents.pop(), []):
            commands[child] = command
            parents.append(child)
    return commands


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet/raylet", "poise.system.keeper"])
def test_a_training_whose_ray_dies_reports_it_and_leaves_no_processes(name, tmp_path):
    options = ["--backend", "gymnasium", "--env-groups", "2", "--workers", "1", "--total-steps", "10M"]
    command = [sys.executable, "-m", "poise", "train", "InvertedPendulum-v5", *options, "--out", tmp_path]
    training = subprocess.Popen(
        [*command, "--no-video", "--no-evaluate"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and training.poll() is None:
        rows = [path.read_text().count("\n") for path in tmp_path.glob("*/*/metrics.jsonl")]
        if rows and rows[0] >= 2:
            break
        time.sleep(0.1)
    started = below(training.pid)
    assert training.poll() is None, training.communicate()[0]
    (victim,) = [pid for pid, line in started.items() if name in line]
    (keeper_command,) = [line for line in started.values() if "poise.system.keeper" in line]
    folder = keeper_command.split("\0")[4]  # python -P -m poise.system.keeper FOLDER
    os.kill(victim, signal.SIGKILL)
    text, _ = training.communicate(timeout=120)
    assert training.returncode == 1, text
    (run,) = tmp_path.glob("*/*")
    died = "its raylet was killed" if "raylet" in name else "its keeper was killed"
    assert f"poise: the local Ray died: {died}" in text
    assert f"; to resume: poise resume {run}\n" in text
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    until = time.monotonic() + 10
    while (left := [p for p in started if alive(p)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
    assert not Path(folder).exists()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] != "Z"
    except OSError:
        return False
