import inspect
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from probes import GymCounter

from poise.arrays import ArraysError
from poise.envs import EnvError, make
from poise.envs.replay.tape import Tape as _Tape
from poise.spec import Spec

gym.register("GymCounter-v0", GymCounter)
gym.register("GymCounterLimited-v0", GymCounter, max_episode_steps=2)


def test_a_reset_adds_no_idle_step():
    env = make("GymCounter-v0", 2)
    tape = [env.reset(np.array([True, True]), [7, 8]).tolist()]
    for action in (0, 1, 2):
        step = env.step(np.array([action, action]))
        tape.append(step.next_obs.tolist())
        assert step.reward.tolist() == [5.0 + action] * 2  # the choices begin at 5
    assert step.terminated.tolist() == [True, True]
    # the last observation is where the action led, the next one comes from the reset of that lane alone
    assert tape == [[[7, 0], [8, 0]], [[7, 1], [8, 1]], [[7, 2], [8, 2]], [[7, 3], [8, 3]]]
    assert env.reset(np.array([False, True]), [9]).tolist() == [[7, 3], [9, 0]]


def test_a_time_limit_truncates():
    env = make("GymCounterLimited-v0", 1)
    assert env.spec.time_limit == 2
    env.reset(np.array([True]), [0])
    env.step(np.array([0]))
    step = env.step(np.array([0]))
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([False], [True])


def test_spaces_are_read_from_the_environment():
    spec = make("GymCounter-v0", 1).spec
    assert spec == Spec.flat("GymCounter-v0", (1, 2), num_choices=3, first_choice=5)
    pendulum = make("Pendulum-v1", 1, "gymnasium").spec
    assert pendulum == Spec.flat("Pendulum-v1", (3,), (1,), (-2.0,), (2.0,), time_limit=200)


def test_integer_actions_in_a_box_are_refused():
    class Whole(GymCounter):
        def __init__(self):
            super().__init__()
            self.action_space = gym.spaces.Box(0, 9, (1,), np.int64)

    gym.register("Whole-v0", Whole)
    with pytest.raises(EnvError, match="supported are Box of floats, Discrete, MultiDiscrete"):
        make("Whole-v0", 1)


def test_processes_give_the_same_result_as_one_process():
    envs = [make("CartPole-v1", 2, backend) for backend in ("gymnasium", "gymnasium-async")]
    try:
        both = np.ones(2, bool)
        np.testing.assert_array_equal(*(env.reset(both, [3, 4]) for env in envs))
        for t in range(60):
            action = np.array([t % 2, t // 2 % 2])
            one, other = (env.step(action) for env in envs)
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
            done = one.terminated | one.truncated
            if done.any():
                np.testing.assert_array_equal(*(env.reset(done, [t + 10] * int(done.sum())) for env in envs))
    finally:
        for env in envs:
            env.close()


class Loaded(GymCounter):
    """Tells in its observation whether its process has loaded JAX."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([["jax" in sys.modules, "gymnasium" in sys.modules]], float), {}


def test_a_process_that_steps_an_environment_does_not_load_jax(tmp_path, monkeypatch):
    # registered by a module of its own: the tests' would load JAX by itself
    source = inspect.getsource(GymCounter) + "\n\n" + inspect.getsource(Loaded)
    header = "import sys\nimport gymnasium as gym\nimport numpy as np\n\n\n"
    (tmp_path / "loaded_task.py").write_text(header + source + "\n\ngym.register('Alone-v0', Loaded)\n")
    script = (
        "import numpy\nfrom poise import envs\n"
        "if __name__ == '__main__':\n"
        "    env = envs.make('loaded_task:Alone-v0', 2, 'gymnasium-async')\n"
        "    print(env.reset(numpy.ones(2, bool), [0, 1]).tolist())\n"
        "    env.close()\n"
    )
    (tmp_path / "main.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[[0.0, 1.0], [0.0, 1.0]]"


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("FrozenLake-v1", "obs (16 values)"),
        ("Blackjack-v1", "0 (32 values), 1 (11 values), 2 (2 values)"),
    ],
)
def test_discrete_and_tuple_spaces_of_gymnasiums_own_tasks_are_read(id, words):
    env = make(id, 2)
    assert env.spec.describe_obs() == words
    obs = env.reset(np.ones(2, bool), [0, 1])
    assert obs.shape == (2, env.spec.obs_size)
    assert obs.sum() == 2 * len(env.spec.obs)  # one 1 for each value


def test_the_tape_keeps_each_unfinished_episode_whole():
    """Against plain lists, over many more steps than it has rows at first."""
    rng = np.random.default_rng(0)
    tape, lists = _Tape(gym.spaces.Box(-1, 1, (3, 2), np.float32)), [[], [], []]
    for step in range(1500):
        mask = rng.random(3) < (0.01, 0.2, 0.0 if step < 1200 else 0.01)
        tape.begin(mask)
        for i in np.flatnonzero(mask):
            lists[i] = []
        action = rng.random((3, 2), np.float32)
        tape.add(action)
        for i in range(3):
            lists[i].append(action[i])
    assert tape.length.tolist() == [len(one) for one in lists]
    assert len(tape.rows()) == max(len(one) for one in lists)
    for i in range(3):
        np.testing.assert_array_equal(tape.of(i), lists[i])
    other = _Tape(gym.spaces.Box(-1, 1, (3, 2), np.float32))
    other.put(tape.rows(), tape.length)
    for i in range(3):
        np.testing.assert_array_equal(other.of(i), lists[i])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": np.array([-1, 2])}, "array 'seed' or 'length': a value is out of range"),
        ({"length": np.array([9, 9])}, "array 'seed' or 'length': a value is out of range"),
        ({"action": np.zeros((2, 2), np.float32)}, "array action is float32, should be int64"),
        ({"action": np.zeros((2, 2, 1), np.int64)}, r"action is int64\[2, 2, 1\], should be int64\[2, 2\]"),
        ({"more": np.zeros(1)}, "array more is not part of the record"),
    ],
)
def test_a_snapshot_of_something_else_is_refused(change, message):
    env = make("GymCounter-v0", 2)
    env.reset(np.array([True, True]), [7, 8])
    env.step(np.array([0, 1]))
    env.step(np.array([0, 1]))
    arrays = env.snapshot()
    obs, exact, unlike = make("GymCounter-v0", 2).restore(arrays)
    assert (obs.tolist(), exact.tolist(), unlike) == ([[7, 2], [8, 2]], [True, True], ())
    with pytest.raises(ArraysError, match=message):
        env.restore(arrays | change)
