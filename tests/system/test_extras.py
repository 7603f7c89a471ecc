"""What is typed to install an extra fits the way in which poise is installed, and removes nothing."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from poise.envs.forms.making import make_plain
from poise.system import extras, machine
from poise.system.extras import Place, command, needs, requirements

PLACE = Place(
    prefix=Path("/home/me/env"),
    python=Path("/home/me/env/bin/python"),
    checkout=None,
    uv=None,
    pip=True,
    active=False,
)
PIP = "/home/me/env/bin/python -m pip install 'onnx<2,>=1.20' 'onnxruntime<2,>=1.23'"


def test_pip_installs_the_packages_of_an_extra_by_name():
    assert requirements("onnx") == ["onnx<2,>=1.20", "onnxruntime<2,>=1.23"]
    assert requirements("nothing") == []
    assert command("onnx", PLACE) == PIP
    alone = dataclasses.replace(PLACE, pip=False)
    assert command("onnx", alone) == f"/home/me/env/bin/python -m ensurepip && {PIP}"


def test_uv_installs_into_the_environment_that_runs():
    place = dataclasses.replace(PLACE, uv="uv")
    assert command("sweep", place) == "uv pip install --python /home/me/env/bin/python 'optuna<6,>=5.0'"
    assert command("sweep", dataclasses.replace(place, active=True)) == "uv pip install 'optuna<6,>=5.0'"


def test_in_poises_own_folder_uv_installs_the_extra_and_removes_nothing(tmp_path, monkeypatch):
    venv = tmp_path / ".venv"
    venv.mkdir()
    place = dataclasses.replace(PLACE, prefix=venv, checkout=tmp_path, uv="python3 -m uv")
    assert "pip install" in command("video", place)  # an environment that pip or conda made
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.13.9\n")
    monkeypatch.chdir(tmp_path)
    assert command("video", place) == "python3 -m uv sync --no-dev --inexact --extra video"
    monkeypatch.chdir("/")
    assert command("video", place) == (
        f"python3 -m uv sync --project {tmp_path} --no-dev --inexact --extra video"
    )


def test_in_a_project_of_the_user_uv_adds_the_packages(tmp_path, monkeypatch):
    (tmp_path / "uv.lock").touch()
    (tmp_path / ".venv").mkdir()
    monkeypatch.chdir(tmp_path)
    place = dataclasses.replace(PLACE, prefix=tmp_path / ".venv", checkout=Path("/src/poise"), uv="uv")
    assert command("cluster", place) == "uv add 'ray<3,>=2.60'"


def test_pipx_has_a_command_of_its_own(tmp_path):
    (tmp_path / "pipx_metadata.json").touch()
    place = dataclasses.replace(PLACE, prefix=tmp_path, uv="uv")
    assert command("sweep", place) == "pipx inject poise 'optuna<6,>=5.0'"


def test_windows_shells_get_double_quotes(monkeypatch):
    monkeypatch.setattr(extras.os, "name", "nt")
    assert extras._quoted("onnx<2,>=1.20") == '"onnx<2,>=1.20"'
    assert extras._quoted(r"C:\env\python.exe") == r"C:\env\python.exe"


def test_a_task_on_box2d_names_the_extra(monkeypatch):
    pytest.importorskip("gymnasium")
    from poise.envs import make
    from poise.envs.vector import EnvError

    monkeypatch.setitem(sys.modules, "Box2D", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d", raising=False)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EnvError, match=r"LunarLander-v3: it needs the extra box2d; to install it: .*box2d"):
        make("LunarLander-v3", 1)
    with pytest.raises(Exception, match="doesn't exist"):
        make_plain("LunarLander-v99")


def test_this_installation_gets_one_command():
    text = needs("sweep")
    assert text.startswith("needs the extra sweep; to install it: ")
    assert "optuna" in text or "--inexact --extra sweep" in text
    assert "'poise[" not in text


# --- the platform of JAX ---


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("cuda", "JAX has no such platform here"),
        ("tpu,cpu", "Unable to initialize backend 'tpu'"),
        ("abacus", "Unable to initialize backend 'abacus'"),
    ],
)
def test_a_missing_platform_is_reported_with_the_available_ones(asked, why):
    program = "from poise.system.machine import PlatformError, check_platform\ntry:\n    check_platform()\n"
    program += "except PlatformError as error:\n    print(error)"
    env = {**os.environ, "JAX_PLATFORMS": asked}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"JAX_PLATFORMS = {asked}: {why}")
    assert "the platforms of this installation: cpu" in done.stdout
    assert done.stdout.count("\n") == 1


def test_without_a_chosen_platform_nothing_is_checked(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    machine.check_platform()
