import dataclasses
import sys
import types

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import poise
from poise.config import PPO, Config
from poise.envs import EnvError, make, naming, registry, resolve
from poise.envs.checking import EnvFault
from poise.envs.native import jax_env, names
from poise.envs.native.jax_env import JaxEnv, JaxTask
from poise.envs.native.vector import NativeEnv
from poise.envs.packing import map_arrays, pack, unpack_action
from poise.health.inspection import look
from poise.spec import MASK
from poise.training.loop import Start, iterations


class Walk(JaxEnv):
    """A random walk: the noise of a step comes from its key."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Discrete(3, start=-1)
    time_limit = 5

    def reset(self, *, key):
        return jax.random.normal(key)

    def observe(self, state):
        return state[None]

    def step(self, state, action, *, key):
        after = state + action.astype(float) + jax.random.normal(key)
        return after, after - state, after > 1e9


class Everything(JaxEnv):
    """Shows the action that it got, in a form of each kind."""

    action_space = spaces.Dict(
        aim=spaces.Box(-1, 1, (2,)),
        pick=spaces.Discrete(3, start=5),
        keys=spaces.Tuple((spaces.MultiDiscrete([[2, 3]]), spaces.MultiBinary(2))),
    )
    observation_space = spaces.Dict(
        aim=spaces.Box(-1, 1, (2,)),
        pick=spaces.Discrete(3, start=5),
        keys=spaces.Tuple((spaces.MultiDiscrete([[2, 3]]), spaces.MultiBinary(2))),
        camera=spaces.Box(0, 255, (8, 8, 1), np.uint8),
        action_mask=spaces.MultiBinary(12),
    )

    def reset(self, *, key):
        pick, pair = jnp.array(5), jnp.zeros((1, 2), int)
        return {"aim": jnp.zeros(2), "pick": pick, "keys": (pair, jnp.zeros(2, int)), "count": jnp.array(0)}

    def observe(self, state):
        shown = {name: state[name] for name in ("aim", "pick", "keys")}
        camera = jnp.full((8, 8, 1), state["count"], jnp.uint8)
        return shown | {"camera": camera, MASK: jnp.ones(12, int).at[state["count"] % 3].set(0)}

    def step(self, state, action, *, key):
        return {**action, "count": state["count"] + 1}, action["aim"].sum(), False


def env_of(env, num_envs=3):
    return NativeEnv(JaxTask.of("It", env), num_envs)


def test_actions_and_observations_have_the_form_of_the_spaces():
    env = env_of(Everything())
    rows = env.spec.zero_actions(3)
    rows[:] = [
        [0.5, -0.25, 2, 1, 2, 0, 1],
        [-1.0, 1.0, 0, 0, 1, 1, 1],
        [0.0, 0.0, 1, 1, 0, 0, 0],
    ]
    env.reset(np.ones(3, bool), [1, 2, 3])
    seen = env.step(rows)
    action = unpack_action(env.spec, rows)
    # the same leaves, packed by NumPy
    leaves = {
        "aim": action["aim"],
        "pick": action["pick"],
        "keys.0": action["keys"][0],
        "keys.1": action["keys"][1],
        "camera": np.full((3, 8, 8, 1), 1, np.uint8),
        MASK: np.ones((3, 12), bool),
    }
    leaves[MASK][:, 1] = False
    expected = pack(env.spec, leaves, 3)
    map_arrays(np.testing.assert_array_equal, seen.next_obs, expected)
    dtypes = {"numbers": np.float32, "camera": np.uint8, MASK: bool}
    assert {k: v.dtype for k, v in seen.next_obs.items()} == dtypes
    np.testing.assert_array_equal(seen.reward, [0.25, 0, 0])


def test_an_episode_is_a_function_of_its_seed_and_its_actions():
    env = env_of(Walk())
    obs = [env.reset(np.ones(3, bool), [7, 8, 7])]
    obs += [env.step(np.ones(3, np.int32)).next_obs for _ in range(4)]
    played = np.stack(obs)[..., 0]  # [5, 3]
    np.testing.assert_array_equal(played[:, 0], played[:, 2])
    steps = np.diff(played, axis=0)
    assert len(np.unique(steps[:, :2])) == 8  # each step of each episode has its own noise
    assert np.abs(steps - 0).max() < 5  # the action was 0, index 1 of a choice that starts at -1
    later = env.reset(np.array([False, True, False]), [7])[1, 0]
    assert later == played[0, 0]


def test_a_training_resumes_with_the_same_bits():
    config = Config(total_steps=6 * 32, num_envs=4, ppo=PPO(num_steps=8, minibatch_size=16))
    whole = list(iterations(config, env_of(Walk(), 4)))
    third = whole[2]
    rest = list(iterations(config, env_of(Walk(), 4), Start(third.state, third.world)))
    for a, b in zip(whole[3:], rest, strict=True):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(a.rollout), jax.tree.leaves(b.rollout))
        assert a.metrics == b.metrics
    assert [e.length for e in whole[1].episodes] == [5] * len(whole[1].episodes)


class Branches(Walk):
    def step(self, state, action, *, key):
        if state > 0:
            return state, 1.0, False
        return -state, 0.0, False


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"observation_space": None}, "observation_space must be a space of gymnasium.spaces"),
        ({"observation_space": spaces.Text(3)}, "no network reads Text"),
        ({"time_limit": 0}, "time_limit must be a whole number >= 1 or None; it is 0"),
        ({"time_limit": "40"}, "time_limit must be a whole number >= 1 or None; it is '40'"),
        ({"reset": lambda self, *, key: 1 / 0}, "reset() raised ZeroDivisionError: division by zero (line "),
        ({"reset": lambda self, *, seed: 0}, "reset() takes no key; write def reset(self, *, key)"),
        ({"reset": lambda self, *, key: None}, "reset() returned no array; it must return the state"),
        ({"reset": lambda self, *, key: (0.0, {})}, "reset() returned (state, {}); it must return the state"),
        ({"observe": lambda self, state: state}, "observe() returned obs of shape (), its space has (1,)"),
        ({"observe": lambda self, state: [state]}, "observe() returned list, not an array"),
        (
            {"observation_space": spaces.Dict(here=spaces.Box(0, 1, (1,)))},
            "observe() returned no 'here'; its space is Dict('here': Box(0.0, 1.0, (1,), float32))",
        ),
        (
            {
                "observation_space": spaces.Box(0, 255, (8, 8, 1), np.uint8),
                "observe": lambda self, state: jnp.zeros((8, 8, 1)),
            },
            "observe() returned image as float32, its space has uint8",
        ),
        (
            {"step": lambda self, state, action, *, key: state},
            "step() returned one value, it must return (state, reward, terminated)",
        ),
        (
            {"step": lambda self, state, action, *, key: (state, 0.0, False, False, {})},
            "step() returned 5 values, it must return (state, reward, terminated)",
        ),
        (
            {"step": lambda self, state, action, *, key: (action, 0.0, False)},
            "state is float32[] after reset() and int32[] after step(); shapes and dtypes must stay the same",
        ),
        (
            {"step": lambda self, state, action, *, key: ({"a": state}, 0.0, False)},
            "step() returned the state {a: float32[]}, reset() float32[]",
        ),
        (
            {"step": lambda self, state, action, *, key: (state, jnp.zeros(2), False)},
            "step() returned reward of shape (2,), it must be one number",
        ),
        (
            {"step": lambda self, state, action, *, key: (state, 0.0, 1)},
            "step() returned terminated as int32, it must be a boolean",
        ),
        (
            {"step": lambda self, state, action: None},
            "step() takes no key; write def step(",
        ),
        (
            {"step": Branches.step},
            "step() uses a value of the state, action or key in Python's if, while or int(), or in NumPy (",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(EnvError, match="It: ") as refused:
        JaxTask.of("It", type("Odd", (Walk,), changes)())
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_it_is_found_by_module_and_class_and_by_a_registered_name(monkeypatch):
    monkeypatch.setattr(names, "REGISTERED", dict(names.REGISTERED))
    monkeypatch.setitem(sys.modules, "mine", types.ModuleType("mine"))
    sys.modules["mine"].Walk = type("Walk", (Walk,), {"__module__": "mine"})
    assert resolve("mine:Walk") == registry.Resolved("mine:Walk", "native")
    assert make("mine:Walk", 2).spec.id == "mine:Walk"
    poise.register("Stroll-v0", Walk)
    assert make("Stroll-v0", 2).spec.id == "Stroll-v0"
    poise.register("Stroll-v0", Everything)  # in a notebook, a cell may run again
    assert make("Stroll-v0", 2).spec.masked
    with pytest.raises(EnvError, match="backend mujoco has no mine:Walk"):
        resolve("mine:Walk", "mujoco")
    with pytest.raises(EnvError, match="Gymnasium has no mine:Walk; backend native has it"):
        resolve("mine:Walk", "gymnasium")
    with pytest.raises(EnvError, match=r"upper and lower case count: mine:Walk"):
        resolve("mine:walk")
    with pytest.raises(EnvError, match="'Pendulum-v1' cannot be registered: poise has one of that name"):
        poise.register("Pendulum-v1", Walk)
    with pytest.raises(EnvError, match="Half has no observe, step"):
        poise.register("Half-v0", type("Half", (JaxEnv,), {"reset": Walk.reset}))


def test_it_is_made_once():
    assert make("Pendulum-v1", 1).task is make("Pendulum-v1", 2).task


def gymnax_names():
    return names.load_package("gymnax").names()


@pytest.mark.parametrize("name", gymnax_names())
def test_each_environment_of_gymnax_steps(name):
    env = make(f"gymnax:{name}", 2)
    obs = env.reset(np.ones(2, bool), [0, 1])
    for _ in range(2):
        step = env.step(env.spec.zero_actions(2))
        map_arrays(lambda a, b: np.testing.assert_equal(a.shape, b.shape), step.next_obs, obs)
    assert np.isfinite(step.reward).all()


def test_the_time_limit_of_gymnax_truncates_and_a_fall_terminates():
    """Unlike gymnax's own step, which resets and does not tell the two apart."""
    car = make("gymnax:MountainCar-v0", 1)
    car.reset(np.ones(1, bool), [0])
    for _ in range(200):
        last = car.step(np.ones(1, np.int32))
    assert last.truncated[0]
    assert not last.terminated[0]
    pole = make("gymnax:CartPole-v1", 1)
    pole.reset(np.ones(1, bool), [0])
    count, fallen = 0, False
    while not fallen:
        last = pole.step(np.ones(1, np.int32))
        count, fallen = count + 1, bool(last.terminated[0])
    assert count < 15
    assert not last.truncated[0]
    assert abs(last.next_obs[0, 2]) > 0.2095  # the angle at which it fell, not that of a new episode


def test_gymnaxs_cartpole_steps_as_gymnasiums():
    env, other = make("gymnax:CartPole-v1", 1), gym.make("CartPole-v1").unwrapped
    obs = env.reset(np.ones(1, bool), [3])
    other.reset(seed=0)
    other.state = obs[0].astype(np.float64)
    for action in (1, 0, 1, 1, 0):
        seen = env.step(np.array([action], np.int32)).next_obs[0]
        np.testing.assert_allclose(seen, other.step(action)[0], atol=1e-5)


def test_a_package_says_what_it_has_and_a_missing_one_how_to_install_it(monkeypatch):
    with pytest.raises(EnvError, match=r"gymnax has no environment 'CartPole-v2'; the nearest names are"):
        resolve("gymnax:CartPole-v2")
    with pytest.raises(EnvError, match=r"gymnax has no environment 'a:Pendulum-v1'"):
        resolve("gymnax:a:Pendulum-v1")
    with pytest.raises(EnvError, match="backend gymnasium has no gymnax:CartPole-v1: it is written in JAX"):
        resolve("gymnax:CartPole-v1", "gymnasium")
    monkeypatch.setattr(names, "is_installed", lambda module: False)
    monkeypatch.setattr(names, "_PACKAGED", {})
    with pytest.raises(EnvError, match="gymnax: needs the extra gymnax; to install it"):
        resolve("gymnax:CartPole-v1")


def test_a_dear_reset_runs_for_some_and_gives_the_same_states(monkeypatch):
    """As the reset of all N, of which some are chosen."""
    task = names.find("gymnax:Breakout-MinAtar")
    assert task.resets_are_dear
    assert not names.find("Pendulum-v1").resets_are_dear
    world = jax_env.empty_world(task, 40)
    keys = jax.random.split(jax.random.key(1), 40)
    for share in (0.0, 0.1, 1.0):
        mask = jax.random.uniform(jax.random.key(2), 40) < share
        some, every = (
            jax.jit(reset, static_argnums=0)(task, world.state, mask, keys)
            for reset in (jax_env._reset_some, jax_env._reset_all)
        )
        jax.tree.map(np.testing.assert_array_equal, some, every)


@pytest.mark.parametrize("id", ["playground:CartpoleBalance", "brax:inverted_pendulum"])
def test_a_robot_of_a_package_is_trained_and_resumes_with_the_same_bits(id):
    config = Config(total_steps=3 * 16, num_envs=2, ppo=PPO(num_steps=8, minibatch_size=16))
    whole = list(iterations(config, make(id, 2)))
    assert whole[0].rollout.obs.shape == (8, 2, make(id, 1).spec.obs_size)
    assert np.isfinite(np.asarray(whole[-1].rollout.obs)).all()
    (last,) = iterations(config, make(id, 2), Start(whole[1].state, whole[1].world))
    jax.tree.map(np.testing.assert_array_equal, last.rollout, whole[2].rollout)


def test_the_name_of_a_package_is_not_a_module_of_the_user():
    assert not naming.names_module("brax:ant")
    assert not naming.names_module("Pendulum-v1")
    assert naming.names_module("hover:Hover")


class Forbidding(Everything):
    def observe(self, state):
        obs = super().observe(state)
        obs[MASK] = jnp.where(state["count"] == 2, obs[MASK].at[:3].set(0), obs[MASK])
        return obs


def test_a_mask_that_allows_nothing_is_a_fault_of_the_environment():
    config = Config(total_steps=64, num_envs=2, ppo=PPO(num_steps=16, minibatch_size=16))
    with pytest.raises(EnvFault, match=r"It, environment 0, episode seed \d+, step 2: action_mask allows no"):
        next(iterations(config, env_of(Forbidding(), 2)))


class Poles(Everything):
    def step(self, state, action, *, key):
        after, reward, terminated = super().step(state, action, key=key)
        after["aim"] = jnp.where(after["count"] == 3, jnp.nan, after["aim"])
        return after, reward * 0, terminated


def test_a_number_that_is_not_finite_is_named_as_the_environment_does():
    config = Config(total_steps=64, num_envs=2, ppo=PPO(num_steps=16, minibatch_size=16))
    with pytest.raises(EnvFault, match=r"step 3: obs aim\[0\] is nan"):
        next(iterations(config, env_of(Poles(), 2)))


def test_masks_and_images_reach_the_networks():
    config = Config(total_steps=64, num_envs=2, ppo=PPO(num_steps=16, minibatch_size=16))
    for progress in iterations(config, env_of(Everything(), 2)):
        picks = np.asarray(progress.rollout.action)[..., 2]
        mask = np.asarray(progress.rollout.obs[MASK])[..., :3]
        assert np.take_along_axis(mask, picks[..., None].astype(int), axis=-1).all()
        assert progress.rollout.obs["camera"].dtype == np.uint8
    assert dataclasses.fields(progress)


@pytest.mark.parametrize(
    ("draw", "problem"),
    [
        (JaxEnv.draw, "there is no draw(state, action)"),
        (
            lambda self, state, action: np.zeros((4, 4)),
            "draw() must return a picture: an array of uint8, height",
        ),
        (lambda self, state, action: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda self, state, action: np.zeros((4, 4, 3), np.uint8), None),
    ],
)
def test_check_says_whether_a_film_can_be_made(monkeypatch, draw, problem):
    monkeypatch.setattr(names, "REGISTERED", {"Drawn-v0": type("Drawn", (Walk,), {"draw": draw})})
    found = [f.seen for f in look("Drawn-v0", lambda *_: None, seconds=0.2) if f.rule == "no-draw"]
    assert len(found) == (problem is not None)
    assert all(f"no picture: {problem}" in text for text in found)
