"""One training in two processes on the loopback interface: the bits of one, and what ends it early."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poise.checked import ConfigError
from poise.runs.peers.meeting import _difference
from poise.runs.peers.options import PeerOptions

SMALL = shlex.split("""--num-envs 4 --ppo.num-steps 16 --ppo.minibatch-size 32 --ppo.num-epochs 2
--policy.hidden 8 --value.hidden 8 --env-groups 4 --no-video --no-evaluate --json""")
TIMEOUT = 120  # seconds, for a process that hangs


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


class Command:
    """``poise`` in a process of its own. ``flags``: those of the tests, for XLA: other bits, sooner."""

    def __init__(self, folder, *words, address=None, process=0, flags=False):
        together = (
            [] if address is None else f"--coordinator {address} --processes 2 --process {process}".split()
        )
        place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if not flags:
            place.pop("XLA_FLAGS")
        folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poise", *words, *together],
            cwd=folder,
            env=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self):
        """Exit code, standard output, and the last line of standard error."""
        try:
            out, err = self.process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, (err.splitlines() or [""])[-1]


def pair(tmp_path, *words, other=(), flags=False):
    """The same command in two processes, the second without the first one's folder."""
    address = f"127.0.0.1:{free_port()}"
    leader = Command(tmp_path / "leader", *words, address=address, flags=flags)
    others = other or words
    return leader, Command(tmp_path / "follower", *others, address=address, process=1, flags=flags)


def sha256_of(ended):
    code, out, err = ended
    assert code == 0, err
    return json.loads(out)["parameters_sha256"]


def train(steps, devices, *more):
    return ["train", "Pendulum-v1", *SMALL, f"--total-steps={steps}", f"--devices={devices}", *more]


def listening(pid):
    """The addresses at which a process listens, as the kernel writes them."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(entry))
        except OSError:
            continue
    lines = [line for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
    rows = [line.split() for line in lines if "local_address" not in line]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.processes
def test_two_processes_compute_the_bits_of_one(tmp_path):
    """With two devices each; with one in the next test."""
    leader, follower = pair(tmp_path, *train(320, 4))
    heard = set()
    while leader.process.poll() is None and Path("/proc/net/tcp").exists():
        try:
            heard |= listening(leader.process.pid) | listening(follower.process.pid)
        except FileNotFoundError:  # it has ended
            break
        time.sleep(0.2)
    alone = Command(tmp_path / "alone", *train(320, 1))
    assert sha256_of(leader.end()) == sha256_of(alone.end())
    code, out, _ = follower.end()
    assert (code, json.loads(out)) == (0, {"process": 1, "steps": 320})
    assert heard <= LOOPBACK
    (summary,) = (tmp_path / "leader").glob("runs/*/*/summary.json")
    assert json.loads(summary.read_text())["processes"] == 2
    assert not (tmp_path / "follower" / "runs").exists()


@pytest.mark.processes
def test_a_training_that_stops_early_ends_in_both(tmp_path):
    """And the line that would go on with it, in its folder, ends in both as well."""
    words = train(960, 2, "--stop-at=-1e9", "--eval-every=320", "--eval-episodes=1", "--run-dir=run")
    leader, follower = pair(tmp_path, *words, flags=True)
    code, out, err = leader.end()
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["steps"], summary["stopped_by"], summary["processes"]) == (320, "stop_at", 2)
    code, out, err = follower.end()
    assert (code, json.loads(out)) == (0, {"process": 1, "steps": 320}), err
    again, follower = pair(tmp_path, *words, flags=True)
    code, out, err = again.end()
    assert (code, json.loads(out)["parameters_sha256"]) == (0, summary["parameters_sha256"]), err
    code, _, err = follower.end()
    assert (code, err) == (0, "poise: process 0 has ended the training: it is finished")


@pytest.mark.processes
def test_a_named_folder_is_resumed_by_both(tmp_path):
    words = train(12_000, 2, "--checkpoint-every=320", "--run-dir=run")
    leader, follower = pair(tmp_path, *words)
    until = time.monotonic() + TIMEOUT
    while not list((tmp_path / "leader").glob("run/checkpoints/*[1-9]*")) and time.monotonic() < until:
        time.sleep(0.05)
    leader.process.send_signal(signal.SIGTERM)
    assert [leader.end()[0], follower.end()[0]] == [143, 143]
    leader, follower = pair(tmp_path, *words)
    ended = leader.end()
    assert json.loads(follower.end()[1]) == {"process": 1, "steps": 12_000 // 64 * 64}
    assert json.loads(ended[1])["resumed"] == 1
    assert sha256_of(ended) == sha256_of(Command(tmp_path / "alone", *train(12_000, 1)).end())


def wait_for_checkpoint(folder, command, *, after=0):
    """Returns the run and its newest checkpoint, once there is one after so many steps."""
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until and command.process.poll() is None:
        steps = [path for path in folder.glob("runs/*/*/checkpoints/*") if re.fullmatch(r"\d{12}", path.name)]
        if steps and int(max(steps, key=lambda path: path.name).name) > after:
            newest = max(steps, key=lambda path: path.name)
            return newest.parents[1].relative_to(folder), int(newest.name)
        time.sleep(0.05)
    raise AssertionError(command.end())


@pytest.mark.processes
def test_a_training_survives_the_loss_of_either_process(tmp_path):
    """Killed without warning: first the follower, then the leader; the rest is trained by one process."""
    place, steps = tmp_path / "leader", 12_000
    leader, follower = pair(tmp_path, *train(steps, 2, "--checkpoint-every=320"))
    run, saved = wait_for_checkpoint(place, leader)
    follower.process.kill()
    code, _, said = leader.end()
    assert code == 1
    assert said.startswith("poise: process 1 of the training is gone, or the network between them")
    follower.end()

    leader, follower = pair(tmp_path, "resume", str(run), "--json", other=("resume", "--json"))
    wait_for_checkpoint(place, leader, after=saved + 640)
    leader.process.kill()
    code, _, said = follower.end()
    assert code == 1
    assert re.fullmatch(r"poise: process 0 \(.*\) of the training is gone, or the network between them", said)
    leader.end()
    ended = Command(place, "resume", str(run), "--devices=4", "--json").end()
    assert sha256_of(ended) == sha256_of(Command(tmp_path / "alone", *train(steps, 1)).end())
    assert json.loads(ended[1])["exact"] is True


@pytest.mark.processes
@pytest.mark.parametrize("interrupted", [0, 1])
def test_ctrl_c_ends_both_processes(tmp_path, interrupted):
    both = pair(tmp_path, *train(10_000_000, 2, "--checkpoint-every=640"), flags=True)
    wait_for_checkpoint(tmp_path / "leader", both[0])
    both[interrupted].process.send_signal(signal.SIGINT)
    (code, _, said), other = both[interrupted].end(), both[1 - interrupted].end()
    assert (code, said) == (130, "poise: interrupted")
    why = "process 0 has ended the training" if interrupted == 0 else "process 1 has left the training"
    assert (other[0], other[2]) == (130 if interrupted == 0 else 1, f"poise: {why}: Ctrl-C")
    (summary,) = (tmp_path / "leader").glob("runs/*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == ("interrupted" if interrupted == 0 else "failed")


@pytest.mark.processes
def test_other_options_are_refused_by_both(tmp_path):
    both = pair(tmp_path, *train(1280, 2), other=train(1280, 2, "--seed=4"), flags=True)
    said = "poise: --seed = 4 on process 1, 0 on process 0: all processes of a training must have the same"
    for each in both:
        code, _, last = each.end()
        assert (code, last) == (2, said)


@pytest.mark.processes
def test_what_diverges_is_named_as_in_one_process(tmp_path):
    """The iterations up to it are repeated, in both processes."""
    ailing = "--ppo.policy-learning-rate=3e37 --ppo.max-grad-norm=None --ppo.anneal=none --normalize.no-obs"
    words = train(1280, 2, *ailing.split(), "--normalize.no-reward")
    alone = Command(tmp_path / "alone", *words, "--devices=1", flags=True).end()
    leader, follower = pair(tmp_path, *words, flags=True)
    code, _, said = leader.end()
    assert (code, said) == (alone[0], alone[2])
    assert code == 1
    ended = follower.end()
    assert ended[0] == 1
    assert ended[2].startswith(f"poise: process 0 has ended the training: {said.split()[1]}")


REFUSED = {
    "processes = 2: has no effect without coordinator": {"processes": 2},
    "process = 0: has no effect without coordinator": {"process": 0},
    "needs processes, too": {"coordinator": "127.0.0.1:1", "process": 0},
    "needs process, too": {"coordinator": "127.0.0.1:1", "processes": 2},
    "process = 2: must be below 2": {"coordinator": "127.0.0.1:1", "processes": 2, "process": 2},
    "must be HOST:PORT": {"coordinator": "127.0.0.1:65536", "processes": 2, "process": 1},
}


@pytest.mark.parametrize("message", REFUSED)
def test_options_that_do_not_belong_together_are_refused(message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        _ = PeerOptions(**REFUSED[message]).others


def test_the_first_difference_between_two_jobs_is_named():
    job = {"env": "Pendulum-v1", "config": {"ppo": {"clip": 0.2}}, "options": {"devices": 2}}
    assert _difference(1, job, job) is None
    assert _difference(3, job, {"config": {"ppo": {"clip": 0.1}}}) == (
        "ppo.clip = 0.1 on process 3, 0.2 on process 0: all processes of a training must have the same"
    )
    assert "devices = 4 on process 1" in (_difference(1, job, {"options": {"devices": 4}}) or "")
