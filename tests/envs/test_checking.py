"""An environment that misbehaves in every way, at reset, early and late."""

import io
import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import poise
from poise.cli.main import main
from poise.envs.checking import Checked, EnvFault
from poise.envs.gymnasium import GymnasiumEnv
from poise.seeds import Stream, episode_seed

GOOD = np.zeros(2, np.float32)
OBS = {
    "nan": (np.array([0, np.nan], np.float32), "obs[1] is nan"),
    "infinite": (np.array([np.inf, 0], np.float32), "obs[0] is inf"),
    "shape": (np.zeros(3, np.float32), "obs has shape (3,), the observation space has (2,)"),
    "dtype": (np.array(["a", "b"]), "obs has dtype <U1, the observation space has float32"),
    "none": (None, "obs is None, should be an array"),
    "huge": (np.array([0, 1e16], np.float32), "obs[1] is 1.0000000272564224e+16, beyond 1e+15"),
    "float64": (np.array([1e300, 0]), "obs[0] is 1e+300, beyond 1e+15"),
    "complex": (np.zeros(2, complex), "obs has dtype complex128, the observation space has float32"),
    "ragged": ([[1.0], [1.0, 2.0]], "obs is not an array"),
}


class Raises:
    def __float__(self):
        raise RuntimeError("no battery")


REWARD = {
    "reward-none": (None, "reward is None, should be a number"),
    "reward-nan": (float("nan"), "reward is nan"),
    "reward-huge": (1e30, "reward is 1e+30, beyond 1e+15"),
    "reward-whole": (10**400, "reward is int 1000000"),
    "reward-digits": (10**5000, "reward is int, should be a number"),
    "reward-complex": (np.complex64(1), "reward is complex64"),
    "reward-raises": (Raises(), "reward is Raises"),
    "reward-text": ("much", "reward is str 'much', should be a number"),
}


class Bad(gym.Env):
    """Misbehaves as ``kind`` says at step ``when`` of an episode; 0 is its reset."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, kind, when):
        self.kind, self.when = kind, when

    def _obs(self):
        if self.count != self.when:
            return GOOD
        if self.kind == "raises":
            raise RuntimeError("the gripper is stuck")
        return OBS[self.kind][0] if self.kind in OBS else GOOD

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self._obs(), {}

    def step(self, action):
        self.count += 1
        obs = self._obs()
        now = self.count == self.when
        reward = REWARD[self.kind][0] if now and self.kind in REWARD else 1.0
        if now and self.kind == "old-api":
            return obs, reward, False, {}
        terminated = "no" if now and self.kind == "flag" else False
        return obs, reward, terminated, self.count == 80, {}


gym.register("Bad-v0", Bad)
CASES = [(kind, when, message) for kind, (_, message) in OBS.items() for when in (0, 1, 70)]
CASES += [(kind, when, message) for kind, (_, message) in REWARD.items() for when in (1, 70)]
CASES += [("raises", 0, "reset raised RuntimeError: the gripper is stuck (line ")]
CASES += [("raises", when, "step raised RuntimeError: the gripper is stuck (line ") for when in (1, 70)]
CASES += [("old-api", 70, "step returned a tuple of 4, should be (obs, reward, terminated, truncated, info)")]
CASES += [("flag", 70, "terminated is str 'no', should be True or False")]


@pytest.mark.parametrize(("kind", "when", "message"), CASES)
def test_a_fault_is_reported_with_environment_seed_and_step(kind, when, message, monkeypatch):
    monkeypatch.setattr(gym.registry["Bad-v0"], "kwargs", {"kind": kind, "when": when})
    env = GymnasiumEnv("Bad-v0", 1)

    def play():
        env.reset(np.ones(1, bool), [5])
        for _ in range(when):
            env.step(np.zeros((1, 1), np.float32))

    with pytest.raises(EnvFault) as error:
        play()
    assert str(error.value).startswith(f"Bad-v0, environment 0, episode seed 5, step {when}: {message}")
    crash = error.value.crash
    assert (crash.index, crash.seed, crash.step, len(crash.actions)) == (0, 5, when, when)


@pytest.mark.parametrize(
    ("kind", "when", "message"),
    [case for case in CASES if case[:2] in (("nan", 0), ("reward-none", 1), ("raises", 70))],
)
def test_a_training_that_fails_keeps_its_finished_iterations(kind, when, message, tmp_path, monkeypatch):
    monkeypatch.setattr(gym.registry["Bad-v0"], "kwargs", {"kind": kind, "when": when})
    quick = {"total_steps": 128, "num_envs": 1, "ppo": {"num_steps": 64, "num_epochs": 1}, "video": False}
    with pytest.raises(EnvFault) as error:
        poise.train("Bad-v0", out=tmp_path, file=io.StringIO(), **quick)
    seed = episode_seed(0, Stream.TRAINING, 0, 0)
    assert str(error.value).startswith(f"Bad-v0, environment 0, episode seed {seed}, step {when}: {message}")
    (folder,) = (tmp_path / "Bad-v0").iterdir()
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == (1 if when == 70 else 0)  # the finished iteration is kept
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("failed", 64 * len(rows))
    newest = max(f.name for f in (folder / "checkpoints").iterdir())
    assert int(newest) == 64 * len(rows)
    crash = json.loads((folder / "crash.json").read_text())
    assert (crash["index"], crash["seed"], crash["step"], len(crash["actions"])) == (0, seed, when, when)


@pytest.mark.parametrize(
    ("space", "obs"), [(np.int64, np.zeros(2)), (np.uint8, np.zeros(2, np.int64)), (np.uint8, [0.5, 1.0])]
)
def test_a_dtype_that_cannot_become_that_of_the_space_is_named(space, obs):
    env = Bad("good", -1)
    env.observation_space = gym.spaces.Box(0, 100, (2,), space)
    env.reset = lambda **_: (obs, {})
    found = np.asarray(obs).dtype
    with pytest.raises(EnvFault, match=f"obs has dtype {found}, the observation space has {space.__name__}"):
        Checked(env, "Bad-v0", 0).reset(seed=0)


def test_whole_numbers_are_fine_where_floats_are_expected():
    env = Bad("good", -1)
    env.reset = lambda **_: ([0, 1], {})
    obs, _ = Checked(env, "Bad-v0", 0).reset(seed=0)
    assert obs.tolist() == [0, 1]


def test_the_command_says_it_in_one_line_and_exits_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gym.registry["Bad-v0"], "kwargs", {"kind": "nan", "when": 5})
    code = main(["train", "Bad-v0", "--out", str(tmp_path)])
    captured = capsys.readouterr()
    assert code == 1
    assert "environment 0, episode seed" in captured.err
    assert "step 5: obs[1] is nan" in captured.err
    assert "Traceback" not in captured.err


ELSEWHERE = """
import multiprocessing, os, sys, time
sys.path.insert(0, {tests!r})
import gymnasium as gym
from test_checking import Bad

class Dies(Bad):
    def step(self, action):
        if self.count == 2:
            os._exit(7)
        return super().step(action)

class Leaves(Bad):
    def reset(self, *, seed=None, options=None):
        self.seed = seed
        return super().reset(seed=seed)

    def step(self, action):
        if self.seed == 13:
            raise RuntimeError("the gripper is stuck")
        return super().step(action)

    def close(self):
        open(os.path.join(os.path.dirname(__file__), f"closed-{{os.getpid()}}"), "w").close()

class Hangs(Leaves):
    def step(self, action):
        while self.seed == 13:
            time.sleep(1)
        return super().step(action)

class Unmade(Bad):
    def __init__(self, kind, when):
        super().__init__(kind, when)
        if multiprocessing.parent_process() and kind == "raises":
            raise OSError("the port is taken")
        if multiprocessing.parent_process():
            os._exit(7)

gym.register("Broken-v0", Bad, kwargs={{"kind": "none", "when": 3}})
gym.register("Dies-v0", Dies, kwargs={{"kind": "good", "when": -1}})
gym.register("Leaves-v0", Leaves, kwargs={{"kind": "good", "when": -1}})
gym.register("Hangs-v0", Hangs, kwargs={{"kind": "good", "when": -1}})
gym.register("Unmade-v0", Unmade, kwargs={{"kind": "raises", "when": -1}})
gym.register("Stillborn-v0", Unmade, kwargs={{"kind": "good", "when": -1}})
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A module of tasks that processes of their own import, beside the user."""
    (tmp_path / "bad_task.py").write_text(ELSEWHERE.format(tests=str(Path(__file__).parent)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_environments_that_cannot_close_end_no_training_and_keep_no_other_from_it(monkeypatch):
    closed = []

    def close(env):
        closed.append(env)
        raise RuntimeError("the door is stuck")

    monkeypatch.setattr(gym.registry["Bad-v0"], "kwargs", {"kind": "good", "when": -1})
    monkeypatch.setattr(Bad, "close", close)
    env = GymnasiumEnv("Bad-v0", 2)
    closed.clear()
    env.close()
    assert len(closed) == 2


def test_environments_with_other_spaces_than_the_first_are_a_fault(monkeypatch):
    made = []

    def bad(kind, when):
        env = Bad(kind, when)
        made.append(env)
        if len(made) == 3:  # the first is for a look
            env.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        return env

    monkeypatch.setattr(gym.registry["Bad-v0"], "entry_point", bad)
    monkeypatch.setattr(gym.registry["Bad-v0"], "kwargs", {"kind": "good", "when": -1})
    with pytest.raises(EnvFault, match="Bad-v0: its environments do not have the same spaces"):
        GymnasiumEnv("Bad-v0", 3)


@pytest.mark.processes
@pytest.mark.parametrize("how", ["raises", "dies", "hangs"])
def test_the_others_are_closed_where_one_process_fails(how, elsewhere, monkeypatch):
    monkeypatch.setattr("poise.envs.gymnasium.PATIENCE", 3.0)
    env = GymnasiumEnv("bad_task:Hangs-v0" if how == "hangs" else "bad_task:Leaves-v0", 3, processes=True)
    env.reset(np.ones(3, bool), [1, 2 if how == "dies" else 13, 3])
    for path in elsewhere.glob("closed-*"):  # of those that were made for a look at their spaces
        path.unlink()
    processes = list(env._env.processes)
    action = np.zeros((3, 1), np.float32)
    if how == "dies":
        processes[1].kill()
    if how == "hangs":
        env._env.step_async(action)
    else:
        message = "was ended by SIGKILL" if how == "dies" else "step raised RuntimeError"
        with pytest.raises(EnvFault, match=f"environment 1, .* {message}"):
            env.step(action)
    env.close()
    assert not any(process.is_alive() for process in processes)
    closed = {int(path.name.removeprefix("closed-")) for path in elsewhere.glob("closed-*")}
    first, second, third = (process.pid for process in processes)
    assert closed == {first, third} | ({second} if how == "raises" else set())


@pytest.mark.parametrize(
    ("name", "said"), [("Unmade-v0", "making it raised OSError: the port is taken"), ("Stillborn-v0", "")]
)
def test_a_process_that_cannot_make_its_environment_is_a_fault(name, said, elsewhere, capfd):
    with pytest.raises(EnvFault, match=f"bad_task:{name}: a process ended while its environment was made"):
        GymnasiumEnv(f"bad_task:{name}", 2, processes=True)
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Broken-v0", "step 3: obs is None, should be an array"),
        ("Dies-v0", "step 3: its process ended with exit code 7"),
    ],
)
def test_a_fault_in_a_process_of_its_own_is_named_alike(name, message, elsewhere):
    command = [sys.executable, "-m", "poise", "train", f"bad_task:{name}", "--backend", "gymnasium-async"]
    done = subprocess.run(
        [*command, "--num-envs", "2"], cwd=elsewhere, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("poise: ")]
    assert len(lines) == 1
    seeds = [episode_seed(0, Stream.TRAINING, n, 0) for n in (0, 1)]
    places = [f"poise: bad_task:{name}, environment {n}, episode seed {seeds[n]}, " for n in (0, 1)]
    assert lines[0] in [place + message for place in places]
    assert "Traceback" not in done.stderr
