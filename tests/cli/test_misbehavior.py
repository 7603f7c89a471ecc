"""Environments that end the process, start others, say too much, or are too many."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from poise import envs
from poise.agents.stages import VideoError, video_errors
from poise.envs import EnvError, processes
from poise.envs.checking import LONGEST_TRACE, Checked, EnvFault
from poise.envs.gymnasium import GymnasiumEnv
from poise.envs.tasks import TASKS
from poise.errors import MOST_TEXT, message_of
from poise.studies.pool import PoolError, _logged


class Silent(Exception):
    def __str__(self):
        raise SystemExit(3)


class Stray(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, error=None, where="step"):
        self.error, self.where = error, where
        self.fail("making")

    def fail(self, where):
        if self.error is not None and where == self.where:
            raise self.error

    def reset(self, *, seed=None, options=None):
        self.fail("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.fail("step")
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def close(self):
        self.fail("close")


def one_step(id, backend):
    env = envs.make(id, 1, backend)
    env.reset(np.ones(1, bool), [0])
    env.step(env.spec.zero_actions(1))


gym.register("Stray-v7", Stray)
ERRORS = [
    (SystemExit(0), "SystemExit: 0"),
    (SystemExit("no license"), "SystemExit: no license"),
    (GeneratorExit(), "GeneratorExit"),
    (Silent(), "Silent: (its message cannot be shown: SystemExit)"),
    (ValueError("ab" * 25_000_000), "ValueError: abab"),
]


@pytest.mark.parametrize("where", ["reset", "step", "making"])
@pytest.mark.parametrize(("error", "said"), ERRORS)
def test_whatever_an_environment_raises_is_a_fault_of_a_length_to_read(error, said, where, monkeypatch):
    monkeypatch.setattr(gym.registry["Stray-v7"], "kwargs", {"error": error, "where": where})
    with pytest.raises(EnvFault) as fault:
        one_step("Stray-v7", "gymnasium")
    assert f"{where if where != 'making' else 'making it'} raised {said}" in str(fault.value)
    assert fault.value.exit_code == 1
    assert len(str(fault.value)) < MOST_TEXT + 500
    assert len(fault.value.trace) < LONGEST_TRACE + 100
    assert ("Traceback" in fault.value.trace) == (where != "making")


def test_ctrl_c_within_an_environment_is_no_fault_of_it():
    with pytest.raises(KeyboardInterrupt):
        Checked(Stray(KeyboardInterrupt(), "reset"), "Stray-v7", 0).reset(seed=0)


def test_one_that_exits_while_it_is_closed_ends_nothing(monkeypatch):
    monkeypatch.setattr(gym.registry["Stray-v7"], "kwargs", {"error": SystemExit(0), "where": "close"})
    GymnasiumEnv("Stray-v7", 2).close()


def test_a_message_keeps_its_beginning_and_its_end():
    text = message_of(ValueError("begin" + "x" * 10_000 + "end"))
    assert text.startswith("ValueError: begin")
    assert text.endswith("end")
    assert "characters left out" in text
    assert message_of(KeyError("a")) == "KeyError: 'a'"


@pytest.mark.parametrize("part", ["__init__", "draw", "outcome"])
def test_a_task_that_exits_is_a_fault_as_well(part, monkeypatch):
    def leave(*_):
        raise SystemExit(0)

    task = type("Leaves", (TASKS["InvertedPendulum-v5"],), {part: leave})
    monkeypatch.setitem(TASKS, "Leaves-v7", task)
    with pytest.raises((EnvFault, EnvError), match="raised SystemExit: 0"):
        one_step("Leaves-v7", "mujoco")


@dataclass(frozen=True)
class Leaves:
    """A training of several that ends its process in its own way."""

    folder: Path
    error: BaseException

    def run(self, guard, file):
        raise self.error


@pytest.mark.parametrize("error", [SystemExit(0), RuntimeError("a bug"), GeneratorExit()])
def test_a_training_that_exits_is_a_failure_of_that_training_alone(error, tmp_path):
    result = _logged(Leaves(tmp_path, error), ())
    assert isinstance(result, PoolError)
    assert result.exit_code == 1
    assert f"its training raised {message_of(error)}" in str(result)
    assert "Traceback" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(("error", "said"), [(SystemExit(0), "0"), (ERRORS[-2][0], "(its message cannot")])
def test_an_exit_during_drawing_costs_only_the_film(error, said):
    with pytest.raises(VideoError) as film, video_errors("X-v0"):
        raise error
    assert str(film.value).startswith(f"no video of X-v0: {said}")


def test_too_many_processes_for_the_open_files_are_refused_with_the_number(monkeypatch):
    monkeypatch.setattr(processes, "_max_files", lambda: 64)
    with pytest.raises(EnvError) as error:
        GymnasiumEnv("CartPole-v1", 32, processes=True)
    assert "32 environments in processes of their own need about 192 open files" in str(error.value)
    assert "this process may have 64; raise the limit with ulimit -n 192, or reduce --num-envs" in str(
        error.value
    )


def test_a_runtime_error_that_is_not_of_spaces_is_said_as_it_is(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("cannot schedule new futures")

    monkeypatch.setattr("poise.envs.gymnasium.SyncVectorEnv", broken)
    with pytest.raises(EnvFault, match="cannot be made: RuntimeError: cannot schedule") as fault:
        GymnasiumEnv("CartPole-v1", 1)
    assert "spaces" not in str(fault.value)


STARTS = """
import subprocess
import gymnasium as gym
import numpy as np

class Simulator(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.started = subprocess.Popen(["sleep", "1000"])
        return np.full(1, self.started.pid, np.float32), {}

    def step(self, action):
        raise SystemError("the simulator is gone")
"""


def _runs(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are looked for in /proc")
@pytest.mark.parametrize("killed", [False, True])
def test_processes_that_an_environment_starts_end_with_it(killed, tmp_path, monkeypatch):
    (tmp_path / "starts_task.py").write_text(STARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    env = GymnasiumEnv("starts_task:Simulator", 1, processes=True)
    pid = int(env.reset(np.ones(1, bool), [0])[0, 0])
    assert _runs(pid)
    if killed:
        env._env.processes[0].kill()
    env.close()
    until = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(pid)
