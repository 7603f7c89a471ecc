"""An environment that misbehaves in every way, at reset, early and late."""

import io
import json

import gymnasium as gym
import numpy as np
import pytest

import poise
from poise.cli import main
from poise.envs.checking import EnvFault
from poise.seeds import Stream, episode_seed

GOOD = np.zeros(2, np.float32)
OBS = {
    "nan": (np.array([0, np.nan], np.float32), "obs[1] is nan"),
    "infinite": (np.array([np.inf, 0], np.float32), "obs[0] is inf"),
    "shape": (np.zeros(3, np.float32), "obs has shape (3,), the observation space has (2,)"),
    "dtype": (np.array(["a", "b"]), "obs has dtype <U1, the observation space has float32"),
    "none": (None, "obs is None, should be an array"),
    "ragged": ([[1.0], [1.0, 2.0]], "obs is no array"),
}
REWARD = {
    "reward-none": (None, "reward is None, should be a number"),
    "reward-nan": (float("nan"), "reward is nan"),
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
def test_what_is_wrong_is_said_with_environment_seed_and_step(kind, when, message, tmp_path, monkeypatch):
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
    assert (folder / "checkpoints").exists() == bool(rows)


def test_the_command_says_it_in_one_line_and_exits_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gym.registry["Bad-v0"], "kwargs", {"kind": "nan", "when": 5})
    code = main(["train", "Bad-v0", "--out", str(tmp_path)])
    captured = capsys.readouterr()
    assert code == 1
    assert "environment 0, episode seed" in captured.err
    assert "step 5: obs[1] is nan" in captured.err
    assert "Traceback" not in captured.err


def test_a_fault_in_a_process_of_its_own_is_named_alike(tmp_path):
    (tmp_path / "bad_task.py").write_text(
        "import sys; sys.path.insert(0, "
        + repr(str(__import__("pathlib").Path(__file__).parent))
        + ")\nimport gymnasium as gym\nfrom test_checking import Bad\n"
        "gym.register('Broken-v0', Bad, kwargs={'kind': 'none', 'when': 3})\n"
    )
    import subprocess
    import sys

    command = [sys.executable, "-m", "poise", "train", "bad_task:Broken-v0", "--backend", "gymnasium-async"]
    done = subprocess.run(
        [*command, "--num-envs", "2"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("poise: ")]
    assert len(lines) == 1
    assert "bad_task:Broken-v0, environment " in lines[0]
    assert "step 3: obs is None, should be an array" in lines[0]
    assert "Traceback" not in done.stderr
