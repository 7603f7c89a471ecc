"""Arrays and what describes them, kept on disk without a line of code in them.

A checkpoint is a folder: ``manifest.json`` and the safetensors files it names, each with its SHA-256.
It is written under another name and renamed when it is whole, so a folder that has the right name is
complete.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import equinox as eqx
import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from poise import envs
from poise.config import Config
from poise.errors import PoiseError
from poise.networks import Policy, ValueFunction, make_policy
from poise.normalize import Normalizer
from poise.spec import Spec
from poise.update import TrainState

SCHEMA = 1
AGENT = "agent.safetensors"


class CheckpointError(PoiseError):
    """A folder that holds no agent, or one that was changed or damaged. Names file and reason."""


class Trained(eqx.Module):
    """What acts and judges: the networks, and the statistics of what they were trained on."""

    policy: Policy
    value: ValueFunction
    normalizer: Normalizer


@dataclass(frozen=True)
class Manifest:
    """Everything about an agent that is no array."""

    env: str
    backend: envs.Backend
    steps: int
    spec: Spec
    config: Config


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of a record by their path, such as ``policy.mlp.weight.0``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def save_agent(run: Path, state: TrainState, manifest: Manifest) -> Path:
    """Writes ``run/checkpoints/<steps>`` and returns it.

    Raises:
        OSError: the disk is full or the folder cannot be written; no folder of that name is left.
    """
    trained = Trained(state.learner.policy, state.learner.value, state.normalizer)
    # safetensors writes an array's memory as it lies, so it has to lie in order
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named(trained).items()}
    data = save(arrays)
    described = {
        "schema": SCHEMA,
        "env": manifest.env,
        "backend": manifest.backend,
        "steps": manifest.steps,
        "spec": manifest.spec.to_dict(),
        "config": manifest.config.to_dict(),
        "files": {AGENT: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
    }
    folder = run / "checkpoints" / f"{manifest.steps:012d}"
    fresh = folder.with_name(f"tmp-{os.getpid()}-{folder.name}")
    fresh.mkdir(parents=True)
    try:
        _write(fresh / AGENT, data)
        _write(fresh / "manifest.json", (json.dumps(described, indent=2) + "\n").encode())
        fresh.rename(folder)
    except BaseException:  # raised again: an interrupt leaves no half of it either
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return folder


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def newest(run: Path) -> Path:
    """The newest checkpoint of a run folder, or the folder itself if it is a checkpoint.

    Raises:
        CheckpointError: it is neither.
    """
    if (run / "manifest.json").is_file():
        return run
    found = [p for p in (run / "checkpoints").glob("*") if re.fullmatch(r"\d{12}", p.name)]
    if not found:
        raise CheckpointError(f"{run}: no agent is kept there (no checkpoints/<steps>/manifest.json)")
    return max(found, key=lambda p: p.name)


def load_agent(folder: Path) -> tuple[Trained, Manifest]:
    """The agent that ``save_agent`` wrote. Reads two files of ``folder`` and runs nothing of them.

    Raises:
        CheckpointError: a file is missing, changed, damaged, or of another schema.
    """
    manifest, files = _read_manifest(folder / "manifest.json")
    entry = files.get(AGENT)
    if not isinstance(entry, Mapping):
        raise CheckpointError(f"{folder / 'manifest.json'}: names no {AGENT}")
    data = _read(folder / AGENT)
    if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise CheckpointError(f"{folder / AGENT}: is not what was saved (its SHA-256 differs)")
    try:
        arrays = load(data)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{folder / AGENT}: is damaged: {error}") from error
    template = _template(manifest)
    expected = _named(template)
    if arrays.keys() != expected.keys():
        odd = sorted(arrays.keys() ^ expected.keys())[0]
        raise CheckpointError(f"{folder / AGENT}: does not fit its configuration (array {odd})")
    for name, leaf in expected.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise CheckpointError(
                f"{folder / AGENT}: {name} is {array.dtype}{list(array.shape)}, "
                f"should be {leaf.dtype}{list(leaf.shape)}"
            )
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in expected]), manifest


def _template(manifest: Manifest) -> Trained:
    """Shapes and dtypes of the agent that the configuration describes; no array is made."""

    def make() -> Trained:
        spec, config, key = manifest.spec, manifest.config, jax.random.key(0)
        return Trained(
            make_policy(spec, config.policy, key=key),
            ValueFunction(spec, config.value, key=key),
            Normalizer.empty(spec.obs_size),
        )

    return eqx.filter_eval_shape(make)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _read_manifest(path: Path) -> tuple[Manifest, Mapping[str, Any]]:
    try:
        data = json.loads(_read(path))
        if data["schema"] != SCHEMA:
            raise CheckpointError(f"{path}: schema {data['schema']!r}; this poise reads schema {SCHEMA}")
        config, spec = Config.from_dict(data["config"]), Spec.from_dict(data["spec"])
        env, backend, steps = data["env"], data["backend"], data["steps"]
        if not isinstance(env, str) or not isinstance(steps, int) or backend not in get_args(envs.Backend):
            raise CheckpointError(f"{path}: env {env!r}, backend {backend!r} or steps {steps!r} is none")
        return Manifest(env, backend, steps, spec, config), dict(data["files"])
    except CheckpointError:
        raise
    except PoiseError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: is damaged: {error!r}") from error
