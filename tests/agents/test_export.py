"""A policy as a file: it acts as the agent does, needs nothing of poise, and a wrong one is not kept."""

import builtins
import dataclasses
import json
import math
import subprocess
import sys

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from probes import first_state

from poise.agents import export as exporting
from poise.agents.agent import load
from poise.agents.export import export, observations
from poise.agents.export_plan import ExportError, ParityError, make_plan
from poise.algo.normalize import Normalizer, RunningStats
from poise.cli.main import main
from poise.config import Config
from poise.spec import Spec
from poise.store.checkpoint import Manifest, Trained, save_best

inf = math.inf
FORMATS = ("numpy", "onnx")


def agent(folder, spec, **groups):
    """An agent that was never trained, with statistics as of one that was, and actions of all sizes."""
    config = Config.from_dict(groups).settled(spec)
    trained = Trained.of(first_state(spec, config))
    last = trained.policy.mlp.weight[-1]
    rng = np.random.default_rng(1)
    obs = jnp.asarray(
        rng.normal(3, [0.1 * (i + 1) for i in range(spec.obs_size)], (50, spec.obs_size)), jnp.float32
    )
    stats = Normalizer(RunningStats.empty(spec.obs_size).merge(obs), RunningStats.empty())
    trained = eqx.tree_at(
        lambda t: (t.policy.mlp.weight[-1], t.policy.mlp.bias[-1], t.normalizer),
        trained,
        (200 * last, jnp.asarray(rng.normal(size=last.shape[1]), jnp.float32), stats),
    )
    save_best(folder, trained, Manifest(spec.id, "gymnasium", 4096, spec, config))
    return load(folder, "best")


BOX = Spec.flat("Box-v0", (3,), (2,), (-1.0, -4.0), (1.0, 2.0))
CASES = {
    "the defaults": (BOX, {}),
    "environment's units": (BOX, {"normalize": {"action": False}}),
    "raw observations, no bound": (BOX, {"normalize": {"obs": False, "obs_clip": None}}),
    "fixed deviation, tanh on the mean": (BOX, {"policy": {"std": "fixed", "head_tanh": "mean"}}),
    "predicted deviation, tanh on all": (BOX, {"policy": {"std": "predicted", "head_tanh": "all"}}),
    "predicted deviation": (BOX, {"policy": {"std": "predicted"}}),
    "relu, layers of three widths": (BOX, {"policy": {"activation": "relu", "hidden": (8, 16, 4)}}),
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
    obs = np.random.default_rng(2).normal(3, 1, (7, *spec.obs_shape)).astype(np.float32)
    for rows in (obs, obs[:1]):
        action = exporting.FORMATS[format][2](exported.path, rows)
        np.testing.assert_allclose(action, original.act(rows), rtol=1e-4, atol=1e-5)


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


HOSTILE = '"""\nimport os; raise SystemExit("executed")  # {x} \\'


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
    import runpy

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
    assert exported["largest_difference"] < 1e-4
    assert main(["export", str(tmp_path), "--which", "best", "--out", "/nowhere/policy.py"]) == 2
    assert "/nowhere/policy.py: cannot be written" in capsys.readouterr().err
