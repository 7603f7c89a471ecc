"""The name that a user types for an environment: it is resolved, or one sentence says what to type."""

import subprocess
import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from poise import envs
from poise.checked import ConfigError
from poise.envs import EnvError
from poise.envs.gymnasium import GymnasiumEnv
from poise.envs.spaces import read_spec
from poise.spec import Spec
from poise.training.acting import ActionScale
from poise.training.groups import check_worlds

MODULE = textwrap.dedent("""
    import gymnasium
    import numpy as np

    class Reach(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Discrete(2)

    class Plain:
        pass

    def make_flat():
        return Reach()

    SIZE = 3
""")
OLD_GYM = "class Env:\n    pass\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Modules beside the user."""
    (tmp_path / "typed_module.py").write_text(MODULE)
    (tmp_path / "gym.py").write_text(OLD_GYM)
    (tmp_path / "typed_old.py").write_text("import gym\n\nclass Old(gym.Env):\n    pass\n")
    (tmp_path / "typed_exits.py").write_text("import sys\n\nsys.exit(0)\n")
    (tmp_path / "typed_needs.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("typed_module", "typed_old", "gym"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("cartpole-v1", "there is no environment 'cartpole-v1'; upper and lower case count: CartPole-v1"),
        ("pendulum-V0", "upper and lower case count: Pendulum-v0"),
        ("CartPol-v1", "the nearest names are CartPole-v"),
        ("Zzyzx-v0", "If a package or a module of yours registers it, type the module too: module:Zzyzx-v0"),
        ("highway-fast-v0", "name its module: highway_env:highway-fast-v0"),
        ("typed_module:reach", "upper and lower case count: typed_module:Reach"),
        ("typed_module:Rech", "module typed_module has no 'Rech'; it has typed_module:Reach"),
        (
            "typed_module:Plain",
            "not derived from gymnasium.Env; write class Plain(gymnasium.Env)",
        ),
        ("typed_module:SIZE", "is an object (int), not an environment's class or id"),
        ("typed_old:Old", "typed_old:Old is a class of gym, which is retired; derive it from gymnasium.Env"),
        (
            "typed_module.py",
            "name its module and the environment: in its folder type typed_module:Name",
        ),
        ("a/b/typed_module.py:Reach", "in the folder a/b/ type typed_module:Reach"),
        (
            "typed_nowhere:Reach",
            "there is no typed_nowhere.py here, and no package",
        ),
        (
            "typed_needs:Reach",
            "its module cannot be imported: ModuleNotFoundError",
        ),
        ("typed_exits:Reach", "its module cannot be imported: SystemExit: 0"),
        (":Reach", "write module:Name, for example tank:Tank"),
        ("typed_module:", "write module:Name, for example tank:Tank"),
    ],
)
def test_an_invalid_name_gets_a_sentence_that_says_what_to_type(typed, message, module):
    with pytest.raises(EnvError) as error:
        envs.resolve(typed)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["CartPole-v1", gym.make("CartPole-v1"), [gym.make("CartPole-v1")], None])
def test_a_loop_of_the_user_requires_environments_from_make(value):
    with pytest.raises(ConfigError, match=r'must be what poise.make returns: poise.make\("CartPole-v1", 16'):
        check_worlds(value)
    check_worlds([envs.make("CartPole-v1", 1)])


OBJECTS = """
import gymnasium, poise
env = gymnasium.make("CartPole-v1")
calls = [
    lambda: next(poise.iterations(poise.Config(total_steps=100), env)),
    lambda: next(poise.iterations(poise.Config(total_steps=100), "CartPole-v1")),
]
for call in calls:
    try:
        call()
    except poise.PoiseError as error:
        print(error)
"""


def test_a_loop_of_the_user_refuses_an_environment(tmp_path):
    """Where no test checks types before."""
    done = subprocess.run([sys.executable, "-c", OBJECTS], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(";")[0].partition(":")[0] for line in lines] == [
        "env is TimeLimit",
        "env is str",
    ]
    assert list(tmp_path.iterdir()) == []


class Own(gym.Env):
    """Something else under a known name."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}


@pytest.mark.parametrize(
    ("name", "engine"), [("Hopper-v5", "mujoco"), ("Pendulum-v1", "native"), ("Reacher-v2", "mujoco")]
)
@pytest.mark.parametrize("change", ["entry point", "class", "kwargs", "limit", "wrapper"])
def test_a_known_name_that_was_registered_again_runs_on_gymnasium(name, engine, change, monkeypatch):
    assert envs.resolve(name).backend == engine
    spec = gym.spec(name)
    if spec.max_episode_steps is None and change not in ("entry point", "class"):
        pytest.skip("an id that only says that it is retired has nothing else to change")
    changes = {
        "entry point": {"entry_point": "somebody.envs:Own"},
        "class": {"entry_point": Own},
        "kwargs": {"kwargs": {"reset_noise_scale": 0.5}},
        "limit": {"max_episode_steps": 7},
        "wrapper": {"additional_wrappers": ("something",)},
    }[change]
    for field, value in changes.items():
        monkeypatch.setattr(spec, field, value)
    assert envs.resolve(name) == envs.Resolved(name, "gymnasium")
    if engine == "native" or name == "Hopper-v5":
        with pytest.raises(EnvError, match=r"something else is registered under that name; --backend"):
            envs.resolve(name, engine)


def test_a_module_that_registers_a_known_name_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr(gym.spec("Hopper-v5"), "entry_point", Own)
    (tmp_path / "typed_shadow.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    env = envs.make("typed_shadow:Hopper-v5", 1)
    assert env.spec.obs_size == 2


class Spaces(gym.Env):
    def __init__(self, obs=None, action=None):
        self.observation_space = obs or spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = action or spaces.Discrete(2)


BOX = spaces.Box(-1, 1, (2,), np.float32)


def read(obs=None, action=None, id="mine:Task"):
    return read_spec(id, Spaces(obs, action), None, None)


def test_an_unsupported_action_space_gets_advice_that_works():
    action = spaces.Box(0, 9, (2,), np.int64)
    with pytest.raises(EnvError) as error:
        read(action=action, id="CartPole-v1")
    message = str(error.value)
    assert "is not supported; supported are Box of floats, Discrete, MultiDiscrete" in message
    code = message.partition("my_envs.py: floats = ")[2].rpartition(", then add --wrapper my_envs:floats")[0]
    floats = eval(code.replace("low, high", "0, 9"), {"numpy": np, "gymnasium": gym})  # as it is typed
    wrapped = floats(Spaces(action=action))
    assert read_spec("it", wrapped, None, None).action_high == (9.0, 9.0)
    wrapped.action_space.seed(0)
    for _ in range(20):
        sample = wrapped.func(wrapped.action_space.sample())
        assert action.contains(np.asarray(sample, action.dtype))


@pytest.mark.parametrize(
    ("obs", "action", "message"),
    [
        (spaces.Box(-1, 1, (0,)), None, "has no numbers; there is nothing to learn from"),
        (None, spaces.Box(-1, 1, (0,)), "leaves nothing to choose: it has no numbers"),
        (None, spaces.Box(0, 0, (2,)), "low = high for every action.*give it one: <motor"),
    ],
)
def test_empty_spaces_are_refused(obs, action, message):
    with pytest.raises(EnvError, match=message):
        read(obs, action)


BOUNDS = [(0.0, 0.1), (-0.3, 0.7), (-0.1, 1e300), (0.1, np.inf), (-1.0, 1.0), (16777217.0, 16777219.0)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_scaled_actions_stay_within_the_bounds_of_the_space(low, high):
    scale = ActionScale(Spec.flat("X", (1,), (1,), (low,), (high,)), normalize=True)
    for extreme in (-1e30, -1.0, 0.0, 1.0, 1e30):
        action = scale(np.full((1, 1), extreme, np.float32))
        assert action.dtype == np.float32
        assert low <= float(action[0, 0]) <= high
    assert low == -1.0 or float(np.float32(low)) != low or float(np.float32(high)) != high or high == np.inf


class Valve(gym.Env):
    def __init__(self, low, high):
        self.observation_space = spaces.Box(-1, 1, (1,), np.float64)
        self.action_space = spaces.Box(low, high, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        return np.zeros(1), 0.0, False, False, {}


gym.register("Valve-v7", Valve)


@pytest.mark.parametrize(("low", "high"), [*BOUNDS[:2], (16777216.5, 16777217.5), (1e9 + 1, 1e9 + 2)])
def test_an_environment_gets_actions_that_its_space_contains(low, high, monkeypatch):
    """Also where no float32 lies between the bounds."""
    monkeypatch.setattr(gym.registry["Valve-v7"], "kwargs", {"low": low, "high": high})
    env = GymnasiumEnv("Valve-v7", 2)
    scale = ActionScale(env.spec, normalize=True)
    env.reset(np.ones(2, bool), [0, 1])
    for extreme in (-5.0, -1.0, 1.0, 5.0):
        env.step(scale(np.full((2, 1), extreme, np.float32)))


SCRIPTS = {
    "no guard": (
        'import poise\npoise.make("CartPole-v1", 2, "gymnasium-async")\n',
        'if __name__ == "__main__":',
    ),
    "registered in the guard": (
        'if __name__ == "__main__":\n'
        "    import gymnasium, poise\n"
        "    from gymnasium.envs.classic_control import CartPoleEnv\n"
        '    gymnasium.register("Late-v0", CartPoleEnv)\n'
        '    poise.make("Late-v0", 2, "gymnasium-async")\n',
        "into a module, my_envs.py, and name it my_envs:Late-v0",
    ),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_whose_processes_cannot_start_is_told_why_once(kind, tmp_path):
    text, message = SCRIPTS[kind]
    (tmp_path / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1  # of the script itself, and of no process that it started
    assert "the same spaces" not in done.stderr
