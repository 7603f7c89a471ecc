"""Every command of the pages is run (of the quickstart: test_quickstart.py)."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pages import ROOT, WRITTEN, blocks, environment, run_commands, shorter

from poise.health.diagnosis import RULES


@pytest.mark.pages
@pytest.mark.parametrize("as_written", WRITTEN)
@pytest.mark.parametrize(
    "page",
    [
        "reading",
        "robots",
        "export",
        "environments",
        "observations",
        "networks",
        "sim_to_real",
        "reports",
        "jax",
    ],
)
def test_every_command_of_the_page_runs(page, as_written, tmp_path):
    run_commands(f"{page}.md", tmp_path, as_written=as_written)


@pytest.mark.pages
def test_the_python_of_the_page_of_networks_runs(tmp_path):
    script = shorter(blocks("networks.md", "python")[1])
    shutil.copy(ROOT / "examples" / "nets.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert -1800 < float(done.stdout.splitlines()[-1]) < -100  # what any policy gets in Pendulum


@pytest.mark.slow
def test_every_command_of_the_page_of_sweeps_runs(tmp_path):
    run_commands("sweeps.md", tmp_path, as_written=True)


def is_of_a_cluster(block):
    return "HEAD" in block


@pytest.mark.slow
def test_the_commands_of_one_machine_on_the_page_of_scale_run(tmp_path):
    alone = [block for block in blocks("scale.md", "bash") if not is_of_a_cluster(block)]
    assert len(alone) == 2
    done = subprocess.run(
        ["bash", "-euc", "\n".join(alone)], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "on 2 workers" in done.stdout


RAY = """#!{python}
import sys
sys.path.insert(0, {faults!r})
import nodes
nodes.typed(sys.argv[1:])
"""


@pytest.mark.slow
def test_the_two_machines_on_the_page_of_scale_work_as_two_nodes_of_this_one(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="page-", dir="/tmp"))  # a socket's path may have 107 characters
    (folder / "nodes").touch()
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text(RAY.format(python=sys.executable, faults=str(ROOT / "tests" / "faults")))
    ray.chmod(ray.stat().st_mode | stat.S_IXUSR)
    env = environment()
    env |= {
        "PATH": f"{ray.parent}{os.pathsep}{env['PATH']}",
        "HOME": str(tmp_path),
        "NODES": str(folder / "nodes"),
    }
    env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # the loopback interface is this machine's address
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [block for block in blocks("scale.md", "bash") if is_of_a_cluster(block)]
    assert len(commands) == 3
    script = "\n".join(commands).replace("HEAD", "127.0.0.1").replace("6379", str(port))
    script = script.replace("/shared/runs", str(tmp_path / "shared"))
    try:
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500
        )
    finally:
        subprocess.run([str(ray), "stop"], env=env, check=False)
        shutil.rmtree(folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (token,) = tmp_path.glob(".ray/auth_token")
    assert token.stat().st_mode & 0o077 == 0
    found = [json.loads(path.read_text()) for path in (tmp_path / "shared").glob("*/*/**/summary.json")]
    assert sum(one.get("parameters_sha256") is not None for one in found) >= 4 + 2 + 6 + 4 + 1
    assert "on 2 workers" in done.stdout


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("robots.md", "ball_and_beam.py"),
        ("environments.md", "tank.py"),
        ("networks.md", "nets.py"),
        ("sim_to_real.md", "real_beam.py"),
    ],
)
def test_the_page_shows_the_example_itself(page, file):
    assert blocks(page, "python")[0] == (ROOT / "examples" / file).read_text()


def test_the_page_of_jax_shows_a_part_of_the_example():
    assert blocks("jax.md", "python")[0] in (ROOT / "examples" / "hover.py").read_text()


def test_the_environments_page_names_every_finding():
    page = (ROOT / "docs" / "environments.md").read_text()
    health = ROOT / "src" / "poise" / "health"
    sources = [path.read_text() for path in (health / "inspection.py", *health.glob("symptoms/*.py"))]
    rules = set(re.findall(r'Finding\(\s*"([a-z-]+)"', "".join(sources)))
    assert len(rules) == 33
    for rule in rules:
        assert f"| `{rule}` |" in page, rule


def test_the_reading_page_names_every_finding():
    page = (ROOT / "docs" / "reading.md").read_text()
    for rule in RULES:
        name = rule.__name__.replace("_", "-")
        assert f"| `{name}` |" in page
