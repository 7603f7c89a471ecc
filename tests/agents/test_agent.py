import io
import json
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from safetensors.numpy import load_file, save_file

import poise
from poise.agents.agent import AgentError
from poise.config import PPO, Config
from poise.envs import EnvError
from poise.seeds import Stream, episode_seed
from poise.spec import Spec, SpecError
from poise.store.checkpoint import CheckpointError, agent_folder, manifest_sum

QUICK = {"total_steps": 256, "num_envs": 2, "ppo": {"num_steps": 64, "num_epochs": 2}, "video": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return poise.train("Reacher-v4", seed=3, out=tmp_path_factory.mktemp("runs"), file=io.StringIO(), **QUICK)


@pytest.fixture(scope="module")
def discrete(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return poise.train("CartPole-v1", out=out, file=io.StringIO(), evaluate=False, **QUICK)


@pytest.fixture
def copy(run, tmp_path):
    """A checkpoint folder that may be damaged."""
    return shutil.copytree(agent_folder(run.folder), tmp_path / "checkpoint")


def test_a_loaded_agent_repeats_the_score_of_its_run(run):
    again = poise.load(run.folder).evaluate(episodes=100)
    np.testing.assert_array_equal(again.episodic_return, run.evaluation.episodic_return)
    other = poise.load(run.folder).evaluate(episodes=10, seed=99)
    assert not np.array_equal(other.episodic_return, run.evaluation.episodic_return[:10])


def test_one_observation_or_a_batch_in_environment_actions_out(run):
    agent = poise.load(run.folder)
    obs = np.random.default_rng(0).normal(size=(5, 11))
    batch = agent.act(obs)
    assert batch.shape == (5, 2)
    assert batch.dtype == np.float32
    one = agent.act(obs[2])
    assert one.shape == (2,)
    np.testing.assert_allclose(one, batch[2], atol=1e-6)
    np.testing.assert_array_equal(agent.act(obs.tolist()), batch)
    assert np.abs(agent.act(obs * 1e6)).max() <= 1


def test_samples_differ_and_greedy_actions_do_not(run):
    agent = poise.load(run.folder)
    obs = np.zeros(11)
    np.testing.assert_array_equal(agent.act(obs), agent.act(obs))
    assert not np.array_equal(agent.act(obs, sample=True), agent.act(obs, sample=True))
    drawn = [agent.act(obs, sample=True, rng=np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(*drawn)


def test_an_agent_drives_gymnasiums_own_environment(discrete):
    agent = poise.load(discrete.folder)
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    action = agent.act(obs)
    assert isinstance(action, int)
    env.step(action)
    batch = agent.act(np.stack([obs, obs]), sample=True)
    assert batch.shape == (2,)
    assert set(batch.tolist()) <= {0, 1}


def test_a_wrong_observation_is_named_with_the_right_shape(run):
    with pytest.raises(AgentError, match=r"obs has shape \[3\]; Reacher-v4 has \[11\], or \[N, 11\]"):
        poise.load(run.folder).act(np.zeros(3))


def test_loading_and_acting_import_neither_gymnasium_nor_mujoco(run):
    script = f"""
import sys, numpy, poise
poise.load({str(run.folder)!r}).act(numpy.zeros(11))
assert not {{"gymnasium", "mujoco", "tyro", "matplotlib"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_run_and_its_checkpoint_load_alike(run):
    assert agent_folder(run.folder).name == "000000000256"
    agent = poise.load(agent_folder(run.folder))
    assert (agent.steps, agent.spec.id, agent.config.seed) == (256, "Reacher-v4", 3)


def test_a_folder_without_an_agent_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="no agent is kept there"):
        poise.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.joinpath("agent.safetensors").unlink(), "cannot be read"),
        (lambda f: f.joinpath("agent.safetensors").write_bytes(b"x"), "SHA-256 differs"),
        (lambda f: f.joinpath("manifest.json").write_text("{"), "is damaged"),
        (lambda f: f.joinpath("manifest.json").write_text("[]"), "is damaged"),
        (lambda f: f.joinpath("manifest.json").write_bytes(b"\xff"), "is damaged"),
        (lambda f: replace(f, '"seed": 3', '"seed": 4'), "is not what was saved (its SHA-256 differs)"),
        (lambda f: edit(f, schema=99), "schema 99; this poise reads schema 2"),
        (lambda f: edit(f, backend="evil"), "backend 'evil'"),
        (lambda f: edit(f, spec={}), "spec: KeyError"),
        (lambda f: edit(f, config={"seed": -1}), "seed = -1: must be >= 0"),
        (lambda f: edit(f, config={"policy": {"hidden": [8, 8]}}), "should be float32"),
        (lambda f: edit(f, files={}), "does not name agent.safetensors"),
        (lambda f: repack(f, extra=np.zeros(1, np.float32)), "array extra"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_file_and_reason(copy, damage, message):
    damage(copy)
    with pytest.raises(CheckpointError) as error:
        poise.load(copy)
    assert message in str(error.value)
    assert str(copy) in str(error.value)


def edit(folder, **changes):
    path = folder / "manifest.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(data | {"sha256": manifest_sum(data)}))


def replace(folder, old, new):
    path = folder / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def repack(folder, **arrays):
    """Another agent file, its sum made right: only the contents are wrong."""
    import hashlib

    path = folder / "agent.safetensors"
    save_file(load_file(path) | arrays, path)
    edit(folder, files={path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}})


def test_a_folder_never_makes_python_import_a_module(copy):
    edit(copy, env="os:Reacher-v4")
    agent = poise.load(copy)
    agent.act(np.zeros(11))
    with pytest.raises(AgentError, match="repeat the name: --env os:Reacher-v4"):
        agent.evaluate(episodes=1)
    assert len(agent.evaluate(episodes=2, env="Reacher-v4").length) == 2


def test_another_environment_must_have_the_agents_shapes(run):
    with pytest.raises(EnvError, match=r"Hopper-v4 has actions: 3; the agent was trained with: 2"):
        poise.load(run.folder).evaluate(episodes=1, env="Hopper-v4")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed = -1: must be >= 0"),
        ({"seed": 2**32}, "<= 4294967295"),
        ({"episodes": 0}, "episodes = 0: must be >= 1"),
    ],
)
def test_a_number_out_of_bounds_is_named(run, wrong, message):
    with pytest.raises(AgentError, match=message):
        poise.load(run.folder).evaluate(**wrong)


class StrongPendulum(PendulumEnv):
    """The same task with other bounds: the agent keeps acting in those it was trained with."""

    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Box(-100.0, 100.0, (1,), np.float32)

    def step(self, action):
        assert abs(action[0]) <= 2
        return super().step(action)


gym.register("GymPendulum-v0", StrongPendulum, max_episode_steps=200)


def test_another_environment_is_stepped_by_the_backend_that_has_it(tmp_path):
    run = poise.train("Pendulum-v1", out=tmp_path, file=io.StringIO(), evaluate=False, **QUICK)
    agent = poise.load(run.folder)
    assert agent.world(None) == ("Pendulum-v1", "native", None, agent.spec)
    assert agent.world("GymPendulum-v0") == ("GymPendulum-v0", "gymnasium", None, agent.spec)
    assert len(agent.evaluate(episodes=2, env="GymPendulum-v0").length) == 2


def test_options_reach_the_run_as_records_or_as_mappings(tmp_path):
    run = poise.train(
        "Pendulum-v1",
        total_steps=128,
        num_envs=2,
        ppo=PPO(num_steps=64, clip=0.3),
        policy={"hidden": (8,)},
        out=tmp_path,
        evaluate=False,
        video=False,
        file=io.StringIO(),
    )
    config = poise.load(run.folder).config
    assert (config.ppo.clip, config.policy.hidden, config.policy.std) == (0.3, (8,), Config().policy.std)


def test_the_public_names_are_there_and_importing_them_is_lazy():
    assert len(poise.__all__) == 43
    for name in poise.__all__:
        assert getattr(poise, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        poise.nothing  # noqa: B018
    script = "import sys, poise; dir(poise); assert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "spec",
    [
        Spec.flat("a", (3,), (2,), (-1.0, -np.inf), (1.0, np.inf), time_limit=5),
        Spec.flat("b", (2, 3), num_choices=4, first_choice=-1),
    ],
)
def test_a_spec_survives_json(spec):
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False))) == spec


EARLIER = {
    "id": "a",
    "obs_shape": [3],
    "action_shape": [1],
    "action_low": [-1.0],
    "action_high": [None],
    "num_choices": None,
    "first_choice": 0,
    "time_limit": 7,
}


def test_a_spec_of_an_earlier_version_is_read():
    assert Spec.from_dict(EARLIER) == Spec.flat("a", (3,), (1,), (-1.0,), (np.inf,), time_limit=7)
    choices = {"action_shape": [], "action_low": [], "action_high": [], "num_choices": 4, "first_choice": 2}
    expected = Spec.flat("a", (3,), num_choices=4, first_choice=2, time_limit=7)
    assert Spec.from_dict(EARLIER | choices) == expected


@pytest.mark.parametrize(
    "change", [{"obs_shape": ["x"]}, {"action_low": []}, {"num_choices": 0}, {"time_limit": 1.5}]
)
def test_a_malformed_spec_of_an_earlier_version_is_refused(change):
    with pytest.raises(SpecError, match="spec: "):
        Spec.from_dict(EARLIER | change)


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("obs", {"shape": ["x"]}),
        ("obs", {"kind": "sound"}),
        ("obs", {"kind": "image"}),
        ("obs", {"sizes": [2]}),
        ("obs", {"path": [None]}),
        ("action", {"low": []}),
        ("action", {"sizes": [0], "first": [0]}),
    ],
)
def test_a_malformed_spec_is_refused(group, change):
    data = Spec.flat("a", (3,), (1,), (-1.0,), (1.0,)).to_dict()
    data[group] = [data[group][0] | change]
    with pytest.raises(SpecError, match="spec: "):
        Spec.from_dict(data)


@pytest.fixture(scope="module")
def remembering(tmp_path_factory):
    networks = {"policy": {"memory": "gru", "memory_size": 8}, "value": {"memory": "gru", "memory_size": 8}}
    out = tmp_path_factory.mktemp("runs")
    return poise.train("recall:Recall-v0", out=out, file=io.StringIO(), **QUICK, **networks)


def test_an_agent_of_everything_plays_the_environment_and_repeats_its_score(remembering):
    """Image, number, mask, an action of two parts and a memory: the loop of docs/observations.md."""
    agent = poise.load(remembering.folder)
    score = agent.evaluate(episodes=3, env="recall:Recall-v0")
    before = remembering.evaluation.episodic_return[:3]
    np.testing.assert_allclose(score.episodic_return, before, rtol=1e-6)  # with other numbers of rows at once
    env, memory = gym.make("Recall-v0"), agent.memory()
    returns = []
    for episode in range(3):
        obs, _ = env.reset(seed=episode_seed(0, Stream.EVALUATION, 0, episode))
        start, total, over = True, 0.0, False
        while not over:
            action = agent.act(obs, memory=memory, episode_start=start)
            assert isinstance(action["pick"], np.integer)
            obs, reward, terminated, truncated, _ = env.step(action)
            start, total, over = False, total + reward, terminated or truncated
        returns.append(total)
    np.testing.assert_allclose(returns, score.episodic_return, atol=1e-5)


def test_an_agent_with_a_memory_says_what_is_missing(remembering):
    agent = poise.load(remembering.folder)
    obs, _ = gym.make("Recall-v0").reset(seed=0)
    with pytest.raises(AgentError, match=r"this agent has a memory: give memory=agent.memory\(1\)"):
        agent.act(obs)
    with pytest.raises(AgentError, match=r"obs has no 'image'; this policy reads image, number, action_mask"):
        agent.act({"number": obs["number"], "action_mask": obs["action_mask"]})
    with pytest.raises(AgentError, match="action_mask has no effect: obs has the mask; leave it out"):
        agent.act(obs, memory=agent.memory(), action_mask=obs["action_mask"])
    batch = {name: np.stack([array, array]) for name, array in obs.items()}
    actions = agent.act(batch, memory=agent.memory(2))
    assert (actions["aim"].shape, actions["pick"].shape) == ((2, 1), (2,))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return poise.load(poise.train("masked:Masked-v0", out=out, file=io.StringIO(), **QUICK).folder)


def test_a_mask_beside_the_observation_is_a_row_or_has_the_form_of_the_actions(masked):
    only = np.arange(80) == 7
    assert masked.act(3, action_mask=only) == 7
    assert masked.act(np.array([3, 4]), action_mask=np.stack([only, np.arange(80) == 9])).tolist() == [7, 9]
    with pytest.raises(AgentError, match="give action_mask"):
        masked.act(3)
    with pytest.raises(AgentError, match="does not have the form of the actions: action_mask has 2 flags"):
        masked.act(3, action_mask=(np.array([1, 0]),))


def test_a_mask_that_an_agent_never_learned_from_is_refused(tmp_path):
    agent = poise.load(poise.train("CartPole-v1", out=tmp_path, file=io.StringIO(), **QUICK).folder)
    with pytest.raises(AgentError, match="CartPole-v1 was trained without masks; leave it out"):
        agent.act(np.zeros(4), action_mask=[1, 0])


def test_a_policy_acts_without_what_only_the_value_function_sees(tmp_path):
    """A robot does not measure everything that its simulation knows."""
    run = poise.train(
        "recall:Recall-v0", out=tmp_path, file=io.StringIO(), **QUICK, policy={"see": ("number",)}
    )
    agent, (obs, _) = poise.load(run.folder), gym.make("Recall-v0").reset(seed=0)
    measured = {"number": obs["number"], "action_mask": obs["action_mask"]}
    for here, there in zip(agent.act(obs).values(), agent.act(measured).values(), strict=True):
        np.testing.assert_array_equal(here, there)
    with pytest.raises(AgentError, match=r"obs has no 'number'; this policy reads number, action_mask"):
        agent.act({"image": obs["image"], "action_mask": obs["action_mask"]})
