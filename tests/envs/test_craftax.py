from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from craftax import craftax_env

from poise.config import PPO, Config
from poise.envs import EnvError, make, resolve
from poise.envs.native import names
from poise.envs.native.brax_style import their_ways
from poise.training.loop import Start, iterations

CLASSIC = "craftax:Craftax-Classic-Symbolic-v1"
HEALTH = -10  # where an observation of the classic game has it, in tenths


@pytest.fixture(scope="module")
def task():
    found = names.find(CLASSIC)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def theirs():
    """One step of craftax itself, with its own time limit."""
    env = craftax_env.make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    step = jax.jit(lambda key, state, action: env.step_env(key, state, action, env.default_params))

    def take(key, state, action):
        with their_ways():
            return step(key, state, action)

    return take


@pytest.fixture(scope="module")
def eight():
    return make(CLASSIC, 8)


def assert_equal(mine, theirs):
    if jnp.issubdtype(mine.dtype, jax.dtypes.prng_key):
        mine, theirs = jax.random.key_data(mine), jax.random.key_data(theirs)
    np.testing.assert_array_equal(mine, theirs)


def test_200_random_steps_are_those_of_craftax(task, theirs):
    mine = jax.jit(lambda key, state, action: task.env.step(state, action, key=key))
    state = jax.jit(task.reset)(jax.random.key(3))
    total = 0.0
    for key in jax.random.split(jax.random.key(0), 200):
        action = jax.random.randint(key, (), 0, 17)
        obs, after, reward, done, _ = theirs(key, state, action)
        state, own_reward, terminated = mine(key, state, action)
        jax.tree.map(assert_equal, state, after)
        np.testing.assert_array_equal(jax.jit(task.observe)(state), obs)
        assert (float(own_reward), bool(terminated)) == (float(reward), bool(done))
        total += float(reward)
    assert total > 0.5  # something was achieved


def test_the_last_observation_of_an_episode_is_that_of_death(eight):
    """Craftax's own step with resets returns that of the next episode."""
    eight.reset(np.ones(8, bool), range(8))
    for _ in range(400):
        last = eight.step(np.zeros(8, np.int32))  # stands still until a zombie comes
        np.testing.assert_array_equal(last.next_obs[:, HEALTH] <= 0, last.terminated)
        if last.terminated.any():
            break
    assert last.terminated.any()
    assert not last.truncated.any()


def test_the_time_limit_truncates_where_craftax_says_done(eight, theirs):
    eight.reset(np.ones(8, bool), range(8))
    arrays = {name: np.asarray(array) for name, array in eight.snapshot().items()}
    almost = np.where(np.arange(8) < 3, 9_999, 9_998).astype(np.int32)
    eight.restore(arrays | {"elapsed": almost, "state.timestep": almost})
    dones = [bool(theirs(jax.random.key(0), eight.state(i), jnp.array(0))[3]) for i in range(8)]
    step = eight.step(np.zeros(8, np.int32))
    assert step.truncated.tolist() == dones == [True] * 3 + [False] * 5
    assert not step.terminated.any()


def test_it_is_trained_and_resumes_with_the_same_bits():
    config = Config(total_steps=3 * 16, num_envs=2, ppo=PPO(num_steps=8, minibatch_size=16))
    whole = list(iterations(config, make(CLASSIC, 2)))
    assert whole[0].rollout.obs.shape == (8, 2, 1345)
    (last,) = iterations(config, make(CLASSIC, 2), Start(whole[1].state, whole[1].world))
    jax.tree.map(np.testing.assert_array_equal, last.rollout, whole[2].rollout)


def test_textures_are_made_without_a_file_in_the_folder_of_craftax(task):
    """Craftax writes them there, where a user may not be allowed to."""
    folder = Path(craftax_env.__file__).parent
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    pixels = make("craftax:Craftax-Classic-Pixels-v1", 1)
    (obs,) = pixels.reset(np.ones(1, bool), [0]).values()
    assert (obs.shape, obs.dtype) == ((1, 63, 63, 3), np.float32)
    assert 0 <= obs.min() < 0.2 < 0.8 < obs.max() <= 1
    states = [jax.jit(task.reset)(jax.random.key(seed)) for seed in (0, 1)]
    pictures = np.stack([task.env.draw(state, None) for state in states])
    assert pictures.shape == (2, 432, 432, 3)
    assert (pictures[0] != pictures[1]).mean() > 0.1
    assert {path for path in folder.rglob("*") if "__pycache__" not in path.parts} == before


@pytest.mark.parametrize(
    ("name", "shape", "actions", "limit"),
    [
        ("Craftax-Classic-Symbolic-v1", (1345,), 17, 10_000),
        ("Craftax-Classic-Pixels-v1", (63, 63, 3), 17, 10_000),
        ("Craftax-Symbolic-v1", (8268,), 43, 100_000),
        pytest.param("Craftax-Pixels-v1", (130, 110, 3), 43, 100_000, marks=pytest.mark.slow),
    ],
)
def test_spaces_and_limits_are_those_of_craftax(name, shape, actions, limit):
    spec = make(f"craftax:{name}", 1).spec
    assert [leaf.shape for leaf in spec.obs] == [shape]
    assert (spec.num_logits, spec.time_limit) == (actions, limit)


def test_names_are_those_of_craftax_and_a_missing_package_is_named(monkeypatch):
    with pytest.raises(
        EnvError, match="craftax has no environment 'Craftax-Symbolic'; the nearest names are"
    ):
        resolve("craftax:Craftax-Symbolic")
    monkeypatch.setattr(names, "is_installed", lambda module: False)
    monkeypatch.setattr(names, "_PACKAGED", {})
    with pytest.raises(EnvError, match="craftax: needs the extra craftax; to install it"):
        resolve(CLASSIC)
