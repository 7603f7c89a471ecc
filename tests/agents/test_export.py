"""A policy as a file: it acts as the agent does, needs nothing of poise, and a wrong one is not kept."""

import builtins
import dataclasses
import json
import math
import runpy
import subprocess
import sys

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from probes import first_state

from poise.agents import export as exporting
from poise.agents import export_numpy, export_onnx
from poise.agents.agent import load
from poise.agents.export import export, observations
from poise.agents.export_plan import ExportError, ParityError, make_plan
from poise.algo.normalize import Normalizer
from poise.cli.main import main
from poise.config import Config
from poise.envs.packing import at, pack
from poise.envs.spaces import read_spec
from poise.spec import Spec
from poise.store.checkpoint import Manifest, Trained, save_best

inf = math.inf
FORMATS = ("numpy", "onnx")


def agent(folder, spec, *, origin=None, **groups):
    """An agent that was never trained, with statistics as of one that was, and actions of all sizes."""
    config = Config.from_dict(groups).settled(spec)
    trained = Trained.of(first_state(spec, config))
    last = trained.policy.mlp.weight[-1]
    rng = np.random.default_rng(1)
    stats = Normalizer.empty(spec).observe(jax.tree.map(jnp.asarray, _seen(spec, rng)))
    trained = eqx.tree_at(
        lambda t: (t.policy.mlp.weight[-1], t.policy.mlp.bias[-1], t.normalizer),
        trained,
        (
            200 * last,
            jnp.asarray(rng.normal(size=last.shape[1]), jnp.float32),
            dataclasses.replace(stats, origin=origin),
        ),
    )
    save_best(folder, trained, Manifest(spec.id, "gymnasium", 4096, spec, config))
    return load(folder, "best")


def _seen(spec, rng):
    """50 observations of a training."""
    leaves = {}
    for leaf in spec.obs:
        shape = (50, *leaf.shape)
        if leaf.kind == "image":
            leaves[leaf.name] = rng.uniform(leaf.low, leaf.high, shape).astype(np.float32)
        else:
            spread = 0.1 * (np.arange(math.prod(leaf.shape)) + 1).reshape(leaf.shape)
            leaves[leaf.name] = rng.normal(3, spread, shape).astype(np.float32)
    return pack(spec, leaves, 50)


BOX = Spec.flat("Box-v0", (3,), (2,), (-1.0, -4.0), (1.0, 2.0))
CASES = {
    "the defaults": (BOX, {}),
    "environment's units": (BOX, {"normalize": {"action": False}}),
    "raw observations, no bound": (BOX, {"normalize": {"obs": False, "obs_clip": None}}),
    "fixed deviation, tanh on the mean": (BOX, {"policy": {"std": "fixed", "head_tanh": "mean"}}),
    "predicted deviation, tanh on all": (BOX, {"policy": {"std": "predicted", "head_tanh": "all"}}),
    "predicted deviation": (BOX, {"policy": {"std": "predicted"}}),
    "relu, layers of three widths": (BOX, {"policy": {"activation": "relu", "hidden": (8, 16, 4)}}),
    **{
        name: (BOX, {"policy": {"activation": name, "hidden": (16, 16)}})
        for name in ("leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid")
    },
    "shapes of more axes": (Spec.flat("Many-v0", (2, 3), (2, 2), (-1.0,) * 4, (1.0,) * 4), {}),
    "a number observed, a number done": (Spec.flat("One-v0", (), (), (-1.0,), (1.0,)), {}),
    "no bounds, and one": (Spec.flat("Free-v0", (2,), (2,), (-inf, -2.0), (inf, 2.0)), {}),
    "choices from 5 on": (Spec.flat("Choice-v0", (3,), num_choices=4, first_choice=5), {}),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_an_export_acts_as_the_agent_does(case, format, tmp_path):
    spec, groups = CASES[case]
    original = agent(tmp_path, spec, **groups)
    exported = export(tmp_path, format=format, which="best")
    assert exported.path == tmp_path / ("best_policy.py" if format == "numpy" else "best_policy.onnx")
    assert exported.difference < 1e-3
    obs = np.random.default_rng(2).normal(3, 1, (7, *spec.obs[0].shape)).astype(np.float32)
    for rows in (obs, obs[:1]):
        action = exporting.FORMATS[format][2](exported.path, rows)
        np.testing.assert_allclose(action, original.act(rows), rtol=1e-4, atol=1e-5)


HOSTILE = '"""\nimport os; raise SystemExit("executed")  # {x} \\'
VECTOR, GO = gym.spaces.Box(-5, 5, (3,), np.float32), gym.spaces.Box(-1, 2, (2,), np.float32)
PICK, THREE = gym.spaces.Discrete(4, start=1), gym.spaces.MultiDiscrete([3, 2, 5])
BITS, SIX = gym.spaces.MultiBinary((2, 3)), gym.spaces.MultiBinary(6)
NESTED = gym.spaces.Dict(
    position=VECTOR,
    inner=gym.spaces.Tuple(
        (
            gym.spaces.Text(4),  # no network reads it
            gym.spaces.Discrete(3, start=-1),
            gym.spaces.Box(-1, 1, (2, 2), np.float32),
            gym.spaces.MultiDiscrete([[2, 3]]),
        )
    ),
)
HYBRID = gym.spaces.Dict(
    pick=PICK,
    position=GO,  # also the name of an observation
    both=gym.spaces.Tuple((THREE, gym.spaces.Box(0, 1, (), np.float32))),
)
MASKED = gym.spaces.Dict(v=VECTOR, action_mask=gym.spaces.MultiBinary(4))
GRAY = gym.spaces.Box(0, 255, (20, 17), np.uint8)
COLOR = gym.spaces.Box(0, 255, (9, 10, 3), np.uint8)
ATARI = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
FIRST = gym.spaces.Box(-1, 3, (2, 12, 11), np.float32)
MIXED = gym.spaces.Dict(z=COLOR, a=FIRST, v=VECTOR, d=gym.spaces.Discrete(3))
GRU, LSTM = {"memory": "gru", "memory_size": 8}, {"memory": "lstm", "memory_size": 8}
MASKS = {"masks": "info"}  # that are not part of the observation

VECTORS = {
    "indices": (VECTOR, THREE, {}),
    "bits": (VECTOR, BITS, {}),
    "one Discrete in a dictionary": (VECTOR, gym.spaces.Dict(only=PICK), {}),
    "one box in a tuple": (VECTOR, gym.spaces.Tuple((GO,)), {}),
    "a state with a number": (gym.spaces.Discrete(5, start=2), PICK, {}),
    "nested": (NESTED, GO, {}),
    "nested, a tight bound": (NESTED, GO, {"normalize": {"obs_clip": 0.5}}),
    "nested, raw": (NESTED, GO, {"normalize": {"obs": False, "obs_clip": None}}),
    "nested, far from 0": (NESTED, GO, {"origin": 1e9}),
    "boxes and choices": (VECTOR, HYBRID, {"policy": {"std": "predicted", "head_tanh": "mean"}}),
    "all of it": (NESTED, HYBRID, {"policy": LSTM} | MASKS),
    "a mask that is observed": (MASKED, PICK, {}),
    "a mask of one Discrete": (VECTOR, PICK, MASKS),
    "a mask of several choices": (VECTOR, THREE, MASKS),
    "gru": (VECTOR, GO, {"policy": GRU}),
    "history": (VECTOR, GO, {"history": 3}),
    "lstm": (VECTOR, PICK, {"policy": LSTM | {"activation": "relu"}}),
    "gru and a mask": (VECTOR, PICK, {"policy": GRU} | MASKS),
    "a part of the observation": (NESTED, GO, {"policy": {"see": ("inner.3", "position")} | GRU}),
    "scaled layers": (VECTOR, GO, {"policy": {"layer_norm": True}}),
    "residual layers, elu": (VECTOR, GO, {"policy": {"residual": True, "activation": "elu"}}),
    "scaled residual layers, silu": (
        VECTOR,
        THREE,
        {"policy": {"layer_norm": True, "residual": True, "activation": "silu", "hidden": (16, 16, 16)}},
    ),
}
PICTURES = {
    "small": (COLOR, GO, {}),
    "gray": (GRAY, PICK, {}),
    "nature": (ATARI, PICK, {}),
    "channels first": (FIRST, GO, {}),
    "impala": (gym.spaces.Box(0, 255, (13, 18, 3), np.uint8), GO, {"policy": {"images": "impala"}}),
    "impala, raw": (COLOR, GO, {"policy": {"images": "impala"}, "normalize": {"obs": False}}),
    "flat": (COLOR, GO, {"policy": {"images": "flat"}}),
    "two images, numbers, history": (MIXED, HYBRID, {"history": 2} | MASKS),
    "two images, numbers, gru": (MIXED, HYBRID, {"policy": GRU} | MASKS),
    "one of two images": (MIXED, HYBRID, {"policy": {"see": ("v", "a")}}),
}
KINDS = VECTORS | PICTURES


class Spaces(gym.Env):
    """Nothing but two spaces."""

    def __init__(self, obs, action):
        self.observation_space, self.action_space = obs, action


def agent_of(kind, folder):
    """The agent of a kind, what its environment observes once and four times, and masks of its choices."""
    obs, action, groups = KINDS[kind]
    env, groups = Spaces(obs, action), dict(groups)
    spec = read_spec("Kind-v0", env, None, groups.pop("masks", None))
    if "origin" in groups:
        groups["origin"] = np.where(spec.one_hot, 0, groups["origin"]).astype(np.float32)
    original = agent(folder, spec, **groups)
    env.observation_space.seed(3)
    samples = [env.observation_space.sample() for _ in range(4)]
    masks = np.random.default_rng(4).random((4, spec.num_logits)) < 0.5
    masks[:, np.cumsum((0, *spec.sizes))[:-1]] = True  # the first value of each choice
    if isinstance(obs, gym.spaces.Dict) and "action_mask" in obs.spaces:
        samples = [{**sample, "action_mask": mask} for sample, mask in zip(samples, masks, strict=True)]
    return original, samples, masks if "masks" in KINDS[kind][2] else None


def together(trees):
    """Observations or actions as one batch."""
    if isinstance(trees[0], dict):
        return {key: together([tree[key] for tree in trees]) for key in trees[0]}
    if isinstance(trees[0], tuple):
        return tuple(together(list(inner)) for inner in zip(*trees, strict=True))
    return np.stack(trees)


def assert_same(given, right):
    """Nested dictionaries and tuples of the same form, types and numbers."""
    assert type(given) is type(right)
    if isinstance(right, dict):
        assert list(given) == list(right)
        given, right = tuple(given.values()), tuple(right.values())
    if isinstance(right, tuple):
        for a, b in zip(given, right, strict=True):
            assert_same(a, b)
        return
    assert np.asarray(given).dtype == np.asarray(right).dtype
    np.testing.assert_allclose(given, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_agent_is_exported_as_a_graph(kind, tmp_path):
    original, samples, masks = agent_of(kind, tmp_path)
    exported = export(tmp_path, format="onnx", which="best")
    assert exported.difference < 1e-3
    assert exported.sequences == (50 if original.memory().carry is not None else 0)
    obs, memory = together(samples), original.memory(4)
    right = original.act(obs, action_mask=masks, memory=memory)
    given = exporting.FORMATS["onnx"][2](exported.path, obs, masks)
    for part in original.spec.action:
        a, b = (at(action, part.path) for action in (given, right))
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", VECTORS)
def test_a_python_file_takes_and_gives_what_the_environment_does(kind, tmp_path):
    original, samples, masks = agent_of(kind, tmp_path)
    exported = export(tmp_path, which="best")
    assert exported.difference < 1e-6  # the same steps in the same order
    module = runpy.run_path(str(exported.path), run_name="__main__")  # also prints an action for zeros
    has_memory = original.memory().carry is not None
    for count, obs, mask in (
        (4, together(samples), masks),
        (1, samples[0], None if masks is None else masks[0]),
    ):
        memory, words = original.memory(count), [module["start"](count)] if has_memory else []
        named = {} if mask is None else {"action_mask": mask}
        for _ in range(3):
            action = module["act"](obs, *words, **named)
            action, *words = action if has_memory else (action,)
            assert_same(action, original.act(obs, action_mask=mask, memory=memory))
            if has_memory:
                np.testing.assert_allclose(words[0], memory.carry, atol=1e-6)


def test_a_python_file_needs_no_image_that_the_policy_does_not_read(tmp_path):
    spec = read_spec("Kind-v0", Spaces(MIXED, GO), None, None)
    original = agent(tmp_path, spec, policy={"see": ("d", "v")})
    act = runpy.run_path(str(export(tmp_path, which="best").path))["act"]
    obs = MIXED.sample()
    np.testing.assert_allclose(act({"d": obs["d"], "v": obs["v"]}), original.act(obs), atol=1e-5)


def test_a_policy_with_images_is_refused_as_a_python_file(tmp_path):
    agent_of("small", tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(ExportError, match=r"^format numpy: .* only the format onnx can hold$"):
        export(tmp_path, which="best", out=tmp_path / "new" / "policy.py")
    assert set(tmp_path.iterdir()) == before


def test_a_graph_names_the_leaves_and_the_parts(tmp_path):
    agent_of("two images, numbers, gru", tmp_path)
    path = export(tmp_path, which="best", format="onnx").path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs, outputs = (
        {x.name: (x.type, x.shape[1:]) for x in xs} for xs in (session.get_inputs(), session.get_outputs())
    )
    assert inputs == {
        "a": ("tensor(float)", [2, 12, 11]),
        "d": ("tensor(int64)", []),
        "v": ("tensor(float)", [3]),
        "z": ("tensor(uint8)", [9, 10, 3]),
        "action_mask": ("tensor(bool)", [14]),
        "carry": ("tensor(float)", [8]),
    }
    assert outputs == {
        "pick": ("tensor(int64)", []),
        "position": ("tensor(float)", [2]),
        "both.0": ("tensor(int64)", [3]),
        "both.1": ("tensor(float)", []),
        "carry_out": ("tensor(float)", [8]),
    }


def test_names_that_occur_twice_stay_apart(tmp_path):
    """One name for an observation, a part of the action, a constant and the carry."""
    names = ("mean", "carry", "x1", "shape")
    obs = gym.spaces.Dict(dict.fromkeys(names, VECTOR))
    action = gym.spaces.Dict(dict.fromkeys(names, GO))
    agent(tmp_path, read_spec("Kind-v0", Spaces(obs, action), None, None), policy=GRU)
    path = export(tmp_path, which="best", format="onnx").path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {x.name for x in session.get_inputs()} == {"mean", "obs.carry", "x1", "shape", "carry"}
    assert {x.name for x in session.get_outputs()} == {
        "action.mean",
        "action.carry",
        "action.x1",
        "action.shape",
        "carry_out",
    }
    described = json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["observations"])
    assert {"name": "obs.carry", "path": ["carry"], "kind": "vector", "shape": [3]} in described


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", [HOSTILE, "", "half a pair \ud800"])
def test_names_of_observations_and_actions_are_data(name, format, tmp_path):
    obs = gym.spaces.Dict({name: VECTOR, "other": PICK})
    action = gym.spaces.Dict({name: GO, "other": PICK})
    original = agent(tmp_path, read_spec("Kind-v0", Spaces(obs, action), None, None), policy=GRU)
    path = export(tmp_path, which="best", format=format).path
    if format == "numpy":
        module = runpy.run_path(str(path))
        seen = obs.sample()
        assert_same(module["act"](seen, module["start"]())[0], original.act(seen, memory=original.memory()))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", ["memory", "bias"])
def test_a_wrong_memory_is_noticed(part, format, tmp_path, monkeypatch):
    """Only sequences show what is fed back."""
    agent_of("gru", tmp_path)

    def wrong(*parts):
        plan = make_plan(*parts)
        assert plan.memory is not None
        name = {"memory": "from_memory", "bias": "bias"}[part]
        memory = eqx.tree_at(
            lambda m: getattr(m, name), plan.memory, replace_fn=lambda x: x + np.float32(0.01)
        )
        return dataclasses.replace(plan, memory=memory)

    monkeypatch.setattr(exporting, "make_plan", wrong)
    with pytest.raises(ParityError, match="actions differ from the agent's by up to"):
        export(tmp_path, format=format, which="best")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["a mask of several choices", "gru and a mask"])
def test_a_mask_that_forbids_too_little_is_noticed(kind, format, tmp_path, monkeypatch):
    agent_of(kind, tmp_path)
    for module in (export_numpy, export_onnx):
        monkeypatch.setattr(module, "FORBIDDEN", 0.0)
    with pytest.raises(ParityError, match=r"choice differs from the agent's on \d+ of 1000 observations"):
        export(tmp_path, format=format, which="best")


def test_compared_observations_reach_the_bounds_of_observations_and_of_actions(tmp_path):
    original = agent(tmp_path, BOX)
    plan = make_plan(*load_parts(tmp_path))
    rows = observations(plan)
    assert rows.shape == (1000, 3)
    np.testing.assert_array_equal(rows[0], plan.mean)
    assert 50 < (np.abs((rows - plan.mean) / plan.std) > 10).any(axis=1).sum() < 500
    action = original.act(rows)
    cut = ((action == plan.low) | (action == plan.high)).mean()
    assert 0.1 < cut < 0.9


def load_parts(folder):
    from poise.store.checkpoint import agent_folder, load_agent

    return load_agent(agent_folder(folder, "best"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", ["mean", "layers", "scale", "head_tanh", "limit"])
def test_an_export_that_is_wrong_in_one_part_is_not_kept(part, format, tmp_path, monkeypatch):
    agent(tmp_path, BOX)

    def wrong(*parts):
        plan = make_plan(*parts)
        weight, bias = plan.layers[0]
        others = {
            "mean": None if plan.mean is None else plan.mean + 0.01,
            "layers": ((weight + 0.001, bias), *plan.layers[1:]),
            "scale": None if plan.scale is None else plan.scale * 1.001,
            "head_tanh": not plan.head_tanh,
            "limit": 9.0,
        }
        return dataclasses.replace(plan, **{part: others[part]})

    monkeypatch.setattr(exporting, "make_plan", wrong)
    before = set(tmp_path.iterdir())
    with pytest.raises(ParityError, match="actions differ from the agent's by up to"):
        export(tmp_path, format=format, which="best")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_wrong_choice_is_an_error(format, tmp_path, monkeypatch):
    spec, groups = CASES["choices from 5 on"]
    agent(tmp_path, spec, **groups)

    def wrong(*parts):
        plan = make_plan(*parts)
        weight, bias = plan.layers[-1]
        return dataclasses.replace(
            plan, layers=(*plan.layers[:-1], (weight, bias + np.arange(4, dtype=np.float32)))
        )

    monkeypatch.setattr(exporting, "make_plan", wrong)
    with pytest.raises(ParityError, match=r"choice differs from the agent's on \d+ of 1000 observations"):
        export(tmp_path, format=format, which="best")


def test_a_name_from_a_file_is_data_in_the_export(tmp_path):
    spec = dataclasses.replace(BOX, id=HOSTILE)
    agent(tmp_path, spec)
    exported = export(tmp_path, which="best", out=tmp_path / "a.b c.py")
    shown = subprocess.run(
        [sys.executable, "-I", exported.path], capture_output=True, text=True, check=True
    ).stdout
    about, at, _ = shown.partition("at an observation of zeros:")
    assert at
    assert json.loads(about)["env"] == HOSTILE
    model = onnx.load(export(tmp_path, which="best", format="onnx").path)
    assert json.loads({p.key: p.value for p in model.metadata_props}["env"]) == HOSTILE


def test_the_graph_names_what_goes_in_and_out(tmp_path):
    agent(tmp_path, CASES["shapes of more axes"][0])
    path = export(tmp_path, which="best", format="onnx").path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (obs,), (action,) = session.get_inputs(), session.get_outputs()
    assert (obs.name, obs.shape, obs.type) == ("obs", ["N", 2, 3], "tensor(float)")
    assert (action.name, action.shape, action.type) == ("action", ["N", 2, 2], "tensor(float)")


def test_the_python_file_takes_one_observation_or_many(tmp_path):
    original = agent(tmp_path, BOX)
    act = runpy.run_path(str(export(tmp_path, which="best").path))["act"]
    obs = np.array([3.0, 3.1, 2.0])
    assert act(obs).shape == (2,)
    assert act([obs.tolist()] * 4).shape == (4, 2)
    np.testing.assert_allclose(act(obs), original.act(obs), atol=1e-6)


def test_without_onnx_the_error_names_the_extra(tmp_path, monkeypatch):
    agent(tmp_path, BOX)
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("onnx"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ExportError, match=r"format onnx.* needs the extra onnx; to install it: "):
        export(tmp_path, which="best", format="onnx")


def test_the_command_names_the_file_and_the_difference(tmp_path, capsys):
    agent(tmp_path, BOX)
    assert main(["export", str(tmp_path), "--which", "best"]) == 0
    comparison, path = capsys.readouterr().out.splitlines()
    assert comparison.startswith("compared with the agent on 1,000 observations: largest difference ")
    assert path == str(tmp_path / "best_policy.py")
    assert main(["export", str(tmp_path), "--which", "best", "--format", "onnx", "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported["path"] == str(tmp_path / "best_policy.onnx")
    assert "sequences" not in exported
    assert exported["largest_difference"] < 1e-4
    assert main(["export", str(tmp_path), "--which", "best", "--out", "/nowhere/policy.py"]) == 2
    assert "/nowhere/policy.py: cannot be written" in capsys.readouterr().err


def test_the_command_says_that_a_memory_was_compared_on_sequences(tmp_path, capsys):
    agent(tmp_path, BOX, policy=GRU)
    assert main(["export", str(tmp_path), "--which", "best"]) == 0
    assert "on 1,000 observations and 50 sequences: largest difference 0\n" in capsys.readouterr().out
    assert main(["export", str(tmp_path), "--which", "best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sequences"] == 50
