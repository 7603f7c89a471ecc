"""Networks of the user in place of poise's layers: what they may be, where they act, who may import them."""

import dataclasses
import io
import shutil
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import gymnasium
import jax
import nets
import numpy as np
import pytest

import poise
from poise.agents.export import export
from poise.agents.export_plan import ExportError
from poise.algo.state import state_shapes
from poise.arrays import named
from poise.checked import ConfigError
from poise.config import PPO, Config, Policy, Value
from poise.envs import make
from poise.own import naming
from poise.own.network import check_network, programs
from poise.placement import two_devices
from poise.spec import Spec
from poise.store.checkpoint import CheckpointError, checkpoints
from poise.training.acting import Actor, CompiledActor, make_actor
from poise.training.loop import Start, iterations, settle

PROBES = Path(nets.__file__).parent
SPEC = Spec.flat("probe", (3,), (2,), (-1.0, -1.0), (1.0, 1.0))
OWN = {"policy": Policy(network=nets.Plain), "value": Value(network=nets.Plain)}
SMALL = {"num_envs": 4, "total_steps": 3 * 64, "ppo": PPO(num_steps=16, num_epochs=2, minibatch_size=16)}
QUIET = {"file": io.StringIO(), "video": False, "evaluate": False, "checkpoint_every": 1}


@pytest.fixture
def unnamed(monkeypatch):
    """As in a new process: the user has named no class yet."""
    monkeypatch.setattr(naming, "_named", set())


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def last(config, env):
    return list(iterations(config, env))[-1]


# --- learning ---


@pytest.mark.parametrize("id", ["Pendulum-v1", "CartPole-v1", "InvertedPendulum-v4"])
def test_the_layers_of_poise_written_again_learn_the_same(id):
    """The same layers as a class act by JAX instead of NumPy and learn the same, up to rounding."""
    own = Config(**SMALL, policy=Policy(network=nets.LikePolicy), value=Value(network=nets.LikeValue))
    usual, ours = (last(config, make(id, 4)) for config in (Config(**SMALL), own))
    np.testing.assert_allclose(ours.rollout.action, usual.rollout.action, rtol=1e-3, atol=1e-3)
    for network in ("policy", "value"):
        learned, expected = (getattr(p.state.learner, network).mlp for p in (ours, usual))
        for a, b in zip(leaves(learned), leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("noise", [False, True])
def test_acting_by_jax_gives_the_actions_of_numpy(noise):
    settings = settle(Config(**SMALL, policy=Policy(network=nets.LikePolicy)), SPEC, new=True)
    usual = settle(Config(**SMALL), SPEC, new=True)
    rng = np.random.default_rng(0)
    obs, drawn = rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=(50, 2)).astype(np.float32)
    actors = []
    for each in (settings, usual):
        state = two_devices.init(SPEC, each)
        actors.append(make_actor(state.learner.policy, state.normalizer, each.normalize))
    assert [type(actor) for actor in actors] == [CompiledActor, Actor]
    ours, expected = (actor.act(obs, drawn if noise else None) for actor in actors)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize(
    "memory",
    [
        {"history": 3},
        {
            "policy": Policy(network=nets.Plain, memory="gru", memory_size=4),
            "value": Value(network=nets.Plain, memory="lstm", memory_size=4),
        },
    ],
)
def test_a_network_of_ones_own_reads_what_a_memory_remembers(memory):
    config = Config(**SMALL, **OWN | memory)
    progress = last(config, make("CartPole-v1", 4, "gymnasium"))
    policy = progress.state.learner.policy
    inputs = 12 if "history" in memory else 8  # 3 observations of 4 numbers; 4 numbers and 4 units
    assert policy.mlp.inputs == inputs
    assert policy.mlp.arrays.layers[0].weight.shape == (8, inputs)


def test_convolutions_of_ones_own_see_the_pixels():
    networks = {"policy": Policy(network=nets.Convolved, images="flat"), "value": Value(images="flat")}
    progress = last(Config(**SMALL, **networks), make("pixels:Pixels-v0", 4, "gymnasium"))
    pictures = next(x for x in progress.rollout.obs.values() if x.shape[2:] == (5, 5, 3))
    picture = pictures[0]
    policy, normalizer = progress.state.learner.policy, progress.state.normalizer
    scaled = jax.vmap(lambda obs: normalizer.scale(obs, enabled=True, bound=None))(
        jax.tree.map(lambda leaf: leaf[0], progress.rollout.obs)
    )
    features = np.asarray(jax.vmap(policy.encoder)(scaled)).reshape(4, 5, 5, 3)
    for channel in range(3):  # the order of its pixels by brightness
        seen, shown = features[..., channel].reshape(4, -1), picture[..., channel].reshape(4, -1)
        np.testing.assert_array_equal(
            seen.argsort(axis=1, kind="stable"), shown.argsort(axis=1, kind="stable")
        )


@pytest.mark.parametrize(("id", "backend"), [("Pendulum-v1", "native"), ("CartPole-v1", "gymnasium")])
def test_a_resumed_training_has_the_same_bits(id, backend):
    config = Config(**SMALL, **OWN)
    whole = list(iterations(config, make(id, 4, backend)))
    (progress,) = iterations(config, make(id, 4, backend), Start(whole[1].state, whole[1].world))
    assert progress.exact
    for a, b in zip(leaves(progress.state.learner), leaves(whole[2].state.learner), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_array_and_no_other_field_is_learned():
    settings = settle(Config(**SMALL, **OWN), SPEC, new=True)
    learner = state_shapes(SPEC, settings).learner
    names = {name for name in named(learner.policy) if name.startswith("mlp.")}
    layers = {f"mlp.arrays.layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert names == {"mlp.arrays.scale", *layers}
    assert learner.policy.mlp.outputs == 2
    assert learner.value.mlp.outputs == 1
    predicted = dataclasses.replace(
        settings, policy=Policy(network=nets.Plain, std="predicted", std_init=0.5)
    )
    assert state_shapes(SPEC, predicted).learner.policy.mlp.outputs == 4


def test_groups_of_environments_train_a_network_of_ones_own():
    config = Config(**SMALL, **OWN, env_groups=2)
    progress = last(config, make("Pendulum-v1", 4, "native"))
    assert all(np.isfinite(leaf).all() for leaf in leaves(progress.state.learner))


# --- what is found before training ---

FAULTS = {
    "OneTooMany": "for one row, float32[3], it returned float32[3], must return float32[2]",
    "Pair": "for one row, float32[3], it returned a tuple, must return float32[2]",
    "Half": "for one row, float32[3], it returned float16[2], must return float32[2]",
    "Raises": "called with one row, float32[3], it raised TypeError: dot_general requires",
    "NoKey": "NoKey(3, 2, key=key) raised TypeError: ",
    "WholeNumbers": "its array scale is int32[], must be float32, since all arrays of a network are learned",
    "Unhashable": "unhashable type: 'set' in its fields; what is learned must be an array of jax",
    "FreshFunction": "two networks of this class differ in a field that is not an array",
    "Unseeded": "made twice with the same key, its arrays differ; draw them from the key",
    "Restless": "called twice with the same row, its outputs differ",
    "Infinite": "its outputs are infinite or NaN",
    "NoGradient": "its gradients are infinite or NaN",
    "NotEquinox": "must be a class of Equinox, a subclass of equinox.Module",
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_before_training(name):
    config = Config(**SMALL, policy=Policy(network=getattr(nets, name)))
    with pytest.raises(ConfigError) as caught:
        settle(config, SPEC, new=True)
    assert str(caught.value).startswith(f"policy.network = 'nets:{name}': ")
    assert FAULTS[name] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_without_fault_passes():
    learner = state_shapes(SPEC, settle(Config(**SMALL, **OWN), SPEC, new=True)).learner
    check_network(learner.policy.mlp)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hidden", (32,)),
        ("activation", "relu"),
        ("layer_norm", True),
        ("residual", True),
        ("init", "uniform"),
    ],
)
def test_options_of_the_layers_that_it_replaces_are_refused(option, value):
    for record in (Policy, Value):
        with pytest.raises(ConfigError, match=rf"{option} = .* has no effect with \w+.network = nets:Plain"):
            record(network="nets:Plain", **{option: value})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nets", "must be module:Class, such as nets:Net"),
        ("nets.py:Net", "is a file; write its module and the class, such as nets:Net"),
        ("some/nets.py", "is a file; write its module and the class, such as nets:Net"),
        ("nets:Net()", "must be module:Class, such as nets:Net"),
    ],
)
def test_a_name_is_a_module_and_a_class(name, problem):
    with pytest.raises(ConfigError, match=rf"policy.network = '.*': {problem}"):
        Policy(network=name)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nets:Plian", "module nets has no class Plian; did you mean nets:Plain"),
        ("nots:Plain", "there is no nots.py here, and no package nots is installed"),
    ],
)
def test_a_name_that_cannot_be_imported_says_why(name, problem):
    config = Config(**SMALL, policy=Policy(network=name))
    with pytest.raises(ConfigError, match=problem):
        next(iterations(config, make("CartPole-v1", 4)))


def test_a_class_must_be_found_by_its_name_in_another_process():
    class Local(nets.Plain):
        pass

    with pytest.raises(ConfigError, match="is not this class; give one that is defined at the top"):
        Policy(network=Local)
    Local.__module__, Local.__qualname__ = "__main__", "Local"
    with pytest.raises(ConfigError, match=r"Local is defined in the program itself.*give nets.Local"):
        Policy(network=Local)


# --- who imports ---


def trained(out, **options):
    return poise.train("CartPole-v1", out=out, **QUIET | SMALL | OWN | options)


def test_a_folder_alone_does_not_make_poise_import_a_module(tmp_path, unnamed):
    run = trained(tmp_path)
    agent = poise.load(run.folder)  # this process was given the class
    assert agent.config.policy.network == "nets:Plain"
    naming._named.clear()
    again = (
        r"its network 'nets:Plain' must be named again, since a file alone never.*: --network nets:Plain \("
    )
    for act in (poise.load, lambda folder: poise.resume(folder, total_steps=256, file=io.StringIO())):
        with pytest.raises(ConfigError, match=again):
            act(run.folder)
    with pytest.raises(
        ConfigError, match=r"'nets:Other': does not belong to .*; its own network is nets:Plain"
    ):
        poise.load(run.folder, network=nets.Other)
    loaded = poise.load(run.folder, network=nets.Plain)
    obs = np.linspace(-1, 1, 12).reshape(3, 4)
    np.testing.assert_array_equal(loaded.act(obs), agent.act(obs))


def test_the_agent_answers_films_and_plays(tmp_path):
    agent = poise.load(trained(tmp_path, evaluate=True).folder, "best")
    obs = np.linspace(-1, 1, 12).reshape(3, 4)
    given = agent.distribution(obs)
    np.testing.assert_allclose(given.probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(given.mode, agent.act(obs))
    picked = np.take_along_axis(given.probabilities, given.mode[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(agent.log_prob(obs, given.mode), np.log(picked), atol=1e-6)
    assert agent.value(obs).shape == (3,)
    env = gymnasium.make("CartPole-v1")
    assert agent.evaluate(3, env=env).mean > 5


def test_an_export_says_that_it_knows_poises_layers_only(tmp_path):
    with pytest.raises(
        ExportError, match=r"policy.network = 'nets:Plain': poise export knows poise's own layers"
    ):
        export(trained(tmp_path).folder)


def test_a_value_function_of_ones_own_is_no_obstacle_to_an_export(tmp_path):
    run = trained(tmp_path, policy=Policy())
    assert export(run.folder).difference < 1e-5


def test_a_resume_is_exact_and_says_so_if_the_class_has_changed(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(whole.folder, cut)
    (cut / "summary.json").unlink()
    newest, *_ = checkpoints(cut)
    shutil.rmtree(newest)
    changed = tmp_path / "changed"
    shutil.copytree(cut, changed)
    again = poise.resume(cut, network=nets.Plain, file=io.StringIO())
    assert again.summary["exact"]
    assert again.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    edited = type("Plain", (nets.Plain,), {"__call__": _other_function, "__module__": "nets"})
    monkeypatch.setattr(nets, "Plain", edited)
    shown = io.StringIO()
    other = poise.resume(changed, network="nets:Plain", file=shown)
    assert "not exact: the class of policy.network computes something else" in shown.getvalue()
    assert not other.summary["exact"]


def _other_function(self, x):
    return jax.numpy.tanh(self.layers[1](self.activation(self.layers[0](x))))


def test_an_agent_whose_class_has_other_arrays_now_is_refused(tmp_path, monkeypatch):
    run = trained(tmp_path)

    def wider(self, inputs, outputs, *, key):
        first, second = jax.random.split(key)
        self.layers = [eqx.nn.Linear(inputs, 9, key=first), eqx.nn.Linear(9, outputs, key=second)]
        self.activation, self.scale, self.widths = jax.nn.gelu, jax.numpy.ones(()), ()

    monkeypatch.setattr(nets.Plain, "__init__", wider)
    problem = (
        r"unless nets:Plain has changed since: policy.mlp.arrays.layers.0.weight is float32\[8, 4\], should"
    )
    with pytest.raises(CheckpointError, match=problem):
        poise.load(run.folder)


def test_the_same_code_has_the_same_program_in_another_process():
    code = (
        "import jax, nets; from poise.own.naming import name_of; from poise.own.network import *; "
        "n = make_network('policy.network', name_of(nets.Plain, ''), 3, 2, key=jax.random.key(5)); "
        "print(programs(n)['policy.network'])"
    )
    learner = state_shapes(SPEC, settle(Config(**SMALL, **OWN), SPEC, new=True)).learner
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROBES, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [programs(learner)["policy.network"]]


# --- files of settings ---


def test_a_file_of_settings_alone_does_not_name_a_network(tmp_path, unnamed):
    run = trained(tmp_path, policy=Policy(network="nets:Plain"), value=Value())
    naming._named.clear()
    with pytest.raises(
        ConfigError, match=r"its policy.network 'nets:Plain' names a Python module.*give the name"
    ):
        poise.train(config=run.folder, **QUIET)
    repeated = {"network": nets.Plain}
    again = poise.train(config=run.folder, out=tmp_path / "again", policy=repeated, **QUIET)
    assert again.summary["parameters_sha256"] == run.summary["parameters_sha256"]
