import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poise.cli.main import main
from poise.config import Config
from poise.runs.options import Options
from poise.studies import pool
from poise.studies.pool import Job, _Deaths, _work_on_cluster
from poise.system import cluster, keeper
from poise.system.cluster import ClusterError, checked_address
from poise.system.keeper import at_work_in, clear


def python(code, *arguments, **more):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


@pytest.mark.parametrize("address", ["local", "auto", "10.0.0.1:6379", "head.lab:6379", "[::1]:6379"])
def test_a_valid_address_is_not_changed(address):
    assert checked_address(address) == address


@pytest.mark.parametrize("address", ["Reacher-v4", "ray://10.0.0.1:10001", "10.0.0.1", "", "a b:1"])
def test_an_invalid_address_is_refused(address):
    with pytest.raises(
        ClusterError, match=r"must be HOST:PORT of a cluster, auto for .* or nothing to start a local one"
    ):
        checked_address(address)


def test_an_address_where_nothing_answers_is_refused_at_once():
    start = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"ray = '127\.0\.0\.1:1': nothing answers there"),
        cluster.joined("127.0.0.1:1"),
    ):
        pass
    assert time.monotonic() - start < 5
    assert "RAY_AUTH_MODE" not in os.environ


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ClusterError, match=r"ray is not installed: a cluster needs the extra cluster"),
        cluster.joined("local"),
    ):
        pass


def test_without_ray_nothing_is_started(monkeypatch, tmp_path, capsys):
    find = cluster.importlib.util.find_spec
    without = lambda name, *more: None if name == "ray" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(cluster.importlib.util, "find_spec", without)
    for command in ("experiment Reacher-v4 --ray", "sweep Reacher-v4 --ray", "reproduce --ray"):
        assert main([*command.split()[:-1], "--out", str(tmp_path), "--ray"]) == 2
        assert "the extra cluster; to install it: " in capsys.readouterr().err
    workers = ["--env-groups", "2", "--workers", "2"]
    assert main(["train", "Reacher-v4", *workers, "--out", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


LOCAL = """
import os, signal, sys, time
from poise.system import cluster

try:
    with cluster.joined("127.0.0.1:1"):  # for which Ray is imported
        pass
except cluster.ClusterError:
    pass
signal.alarm(90)  # where Ray would wait for ever
heard = signal.signal(signal.SIGTERM, print)
with cluster.joined("local"):
    assert signal.getsignal(signal.SIGTERM) is print
    print(os.getpid(), cluster.answer(cluster.Tasks(lambda: 7).ask()), flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""


def listening(pids):
    """The addresses, as the kernel writes them, at which these processes wait for connections."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            sockets.add(os.readlink(file))
    addresses = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            place, state, inode = (row.split()[i] for i in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in sockets:
                addresses.append(place.split(":")[0])
    return addresses


@pytest.mark.processes
@pytest.mark.parametrize("killed", [False, True])
def test_a_local_ray_is_private_and_gone_at_the_end(killed):
    sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
    import nodes

    driver = python(LOCAL, start_new_session=True)
    pid, answer = driver.stdout.readline().split()
    assert answer == "7"
    pids = nodes.below(int(pid))
    assert len(pids) >= 5  # the keeper, and what it started
    (folder,) = [f for f in Path("/tmp").glob("poise-ray-*") if int(pid) in at_work_in(str(f))]
    assert folder.stat().st_mode & 0o777 == 0o700
    places = listening([*pids, int(pid)])
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert len(places) >= 3
    assert set(places) <= loopback
    # each of its processes wants a token
    assert any(b"RAY_AUTH_MODE=token" in Path(f"/proc/{p}/environ").read_bytes() for p in pids)
    if killed:
        driver.kill()
    else:
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert driver.stdout.readline() == "left\n"
    until = time.monotonic() + 10
    left = pids
    while (left or folder.exists()) and time.monotonic() < until:
        time.sleep(0.05)
        left = [p for p in pids if Path(f"/proc/{p}").exists() and "Z" not in state(p)]
    assert left == []
    assert not folder.exists()
    driver.kill()
    driver.communicate()


ONE_AND_ANOTHER = """
import os, sys
from poise.system import cluster

address = sys.argv[1]
shown = {name: os.environ.pop(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}

def answer(address):
    with cluster.joined(address):
        print(cluster.answer(cluster.Tasks(lambda: 7).ask()))

answer("local")
os.environ |= shown
answer(address)
answer("local")
answer(address)
"""


@pytest.mark.slow
def test_several_clusters_are_joined_in_turn_each_with_its_token():
    sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
    import nodes

    with nodes.cluster() as there:
        command = [sys.executable, "-c", ONE_AND_ANOTHER, there.address]
        seen = subprocess.run(command, env=there.environment, capture_output=True, text=True, timeout=120)
    assert seen.stdout.split() == ["7"] * 4, seen.stderr


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0]
    except OSError:
        return "Z"


def test_a_process_of_ray_that_does_not_write_yet_is_ended(tmp_path):
    folders = tmp_path / "ray", tmp_path / "ray2"
    for folder in folders:
        folder.mkdir()
    code = "import sys; print('started', flush=True); sys.stdin.read()"
    ours, others = (
        python(code, env=os.environ | {keeper.FOLDER: str(folder)}, cwd="/") for folder in folders
    )
    assert ours.stdout.readline() == others.stdout.readline() == "started\n"
    clear(str(folders[0]), set())
    assert ours.wait(5) == -signal.SIGKILL
    assert others.poll() is None
    others.communicate()
    ours.communicate()


def test_only_processes_that_write_in_the_folder_are_ended(tmp_path):
    folder = tmp_path / "ray"
    folder.mkdir()
    code = "import sys; f = open(sys.argv[1], 'w'); print('open', flush=True); sys.stdin.read()"
    inside, spared = python(code, folder / "log"), python(code, folder / "log2")
    outside = python(code, tmp_path / "ray.log")
    assert inside.stdout.readline() == outside.stdout.readline() == spared.stdout.readline() == "open\n"
    reader = python(code.replace(", 'w'", ""), folder / "log")  # somebody who looks at it
    assert reader.stdout.readline() == "open\n"
    clear(str(folder), {spared.pid})
    assert inside.wait(5) == -signal.SIGKILL
    assert not folder.exists()
    for process in (outside, reader, spared):
        assert process.poll() is None
        process.communicate()
    inside.communicate()


def test_a_ray_that_does_not_start_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr(cluster, "_MEMORY", 1)  # byte
    folders, make = [], cluster.tempfile.mkdtemp
    monkeypatch.setattr(
        cluster.tempfile, "mkdtemp", lambda **names: folders.append(make(**names)) or folders[-1]
    )
    message = "a local Ray did not start: failed: ValueError: "
    with pytest.raises(ClusterError, match=message), cluster.joined("local"):
        pass
    assert [Path(folder).exists() for folder in folders] == [False]


def test_each_process_of_a_cluster_takes_another_core():
    code = (
        f"import os, sys; from poise.system import cluster; cluster._CLAIM += '-of-test-{os.getpid()}';"
        "cluster.settle_in([sys.argv[1]]);"
        "print(sys.argv[1] in sys.path, sorted(os.sched_getaffinity(0)), flush=True); sys.stdin.read()"
    )
    cores = sorted(os.sched_getaffinity(0))
    processes = [python(code, "/somewhere") for _ in range(len(cores) + 1)]
    lines = sorted(process.stdout.readline() for process in processes)
    alone = [f"True {[core]}\n" for core in cores]
    assert lines == sorted([*alone, f"True {cores}\n"])  # for the last there is none left
    for process in processes:
        process.communicate()


def make_checkpoint(run, steps):
    """Make a checkpoint, also if there is one: a training that starts again writes its first one again."""
    folder = run / "checkpoints" / f"{steps:012d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text("")


def test_a_job_that_keeps_dying_before_its_first_checkpoint_is_given_up(tmp_path):
    deaths, again = _Deaths(), []
    for _ in range(5):
        make_checkpoint(tmp_path, 0)
        again.append(deaths.again(tmp_path))
    assert again == [True, True, True, True, False]


def test_a_job_that_gets_further_each_time_is_started_again(tmp_path):
    deaths = _Deaths()
    for step in range(12):
        make_checkpoint(tmp_path / str(step % 3), 100 + step)  # three seeds of a trial
        assert deaths.again(tmp_path)


def test_a_lack_of_free_cores_is_reported_once_and_again_after_news(tmp_path, monkeypatch):
    job = Job("Pendulum-v1", Config(), Options(), tmp_path)
    lines = []
    monkeypatch.setattr(pool, "SCARCE", 0.1)
    monkeypatch.setattr(cluster, "room", lambda: "2 cores, 0 of them free")
    silence = pool._Silence(lines.append)
    silence.hear([], [job])
    assert lines == []
    time.sleep(0.1)
    silence.hear([], [job])
    silence.hear([], [job])
    assert lines == ["waiting for a free core: the cluster has 2 cores, 0 of them free"]
    silence.hear(["a result"], [job])
    (tmp_path / "log.txt").write_text("")  # it has started
    time.sleep(0.1)
    silence.hear([], [job])
    assert len(lines) == 1
    silence.hear(["a result"], [job])
    os.utime(tmp_path / "log.txt", (1, 1))  # of a start long ago
    time.sleep(0.1)
    silence.hear([], [job])
    assert len(lines) == 2


def test_a_second_cluster_is_refused(monkeypatch):
    class Ray:
        is_initialized = staticmethod(lambda: True)
        get_runtime_context = staticmethod(lambda: type("Context", (), {"gcs_address": "10.0.0.1:6379"}))

    monkeypatch.setattr(cluster, "_ray", lambda: Ray)
    for address in ("local", "auto", "10.0.0.1:6379"):
        with cluster.joined(address):
            pass
    message = "ray = 'other:6379': this process is in the cluster at 10.0.0.1:6379 already"
    with pytest.raises(ClusterError, match=message), cluster.joined("other:6379"):
        pass


def test_an_output_folder_that_is_not_shared_is_refused(tmp_path):
    failed = _work_on_cluster(None, tmp_path / "elsewhere", [])
    assert "--out must be a folder that all machines share" in str(failed)
