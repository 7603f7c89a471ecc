"""The job of the page about scale, without a queue: stopped by SIGTERM, started again, and once more."""

import json
import os
import signal
import stat
import subprocess
import time

import pytest
from pages import blocks, environment

pytestmark = pytest.mark.processes
(SCRIPT,) = blocks("scale.md", "slurm")
STEPS = 200_000  # about ten seconds


def job(folder):
    """The job, started in ``folder`` as task 3 of an array, with stand-ins for the commands of the queue."""
    small = SCRIPT.replace("--total-steps 5M", f"--total-steps {STEPS} --no-video --no-evaluate")
    assert small != SCRIPT
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    for name, text in {
        "srun": 'shift; echo $$ > pid; exec "$@"',  # without its option; it becomes the training
        "scontrol": 'echo "$@" >> requeued',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(stat.S_IRWXU)
    env = environment() | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "77"}
    env["PATH"] = f"{commands}{os.pathsep}{env['PATH']}"
    (folder / "job.sh").write_text(small)
    return subprocess.Popen(
        ["bash", "job.sh"], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def summary(folder):
    return json.loads((folder / "runs" / "pendulum" / "3" / "summary.json").read_text())


def test_the_job_of_the_page_resumes_and_stays_finished(tmp_path):
    first = job(tmp_path)
    metrics = tmp_path / "runs" / "pendulum" / "3" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    told, _ = first.communicate(timeout=60)
    assert (first.returncode, summary(tmp_path)["status"]) == (143, "interrupted"), told
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    done = summary(tmp_path)["steps"]
    assert 0 < done < STEPS

    again = job(tmp_path)
    told, _ = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert f"resuming from step {done:,}" in told
    whole = summary(tmp_path)
    assert (whole["status"], whole["exact"], whole["resumed"]) == ("finished", True, 1)

    last = job(tmp_path)
    told, _ = last.communicate(timeout=60)
    assert (last.returncode, summary(tmp_path)) == (0, whole)
    assert told.splitlines()[0] == "it is finished already: runs/pendulum/3"
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    assert [path.name for path in (tmp_path / "runs" / "pendulum").iterdir()] == ["3"]

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    alone = job(undisturbed)
    alone.communicate(timeout=300)
    assert summary(undisturbed)["parameters_sha256"] == whole["parameters_sha256"]
