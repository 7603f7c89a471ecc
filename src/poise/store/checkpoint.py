"""Checkpoints: arrays and their description on disk, without any code.

A checkpoint is a folder: ``manifest.json`` and the safetensors files that it names, each with its SHA-256.
It is written under another name, synced, and renamed when it is complete. So a folder with the name of a
checkpoint is complete. To read one, only plain files inside of it are opened, and no more bytes are read than
the file can need.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import numpy as np
from safetensors.numpy import save

from poise.algo.networks import Policy, ValueFunction
from poise.algo.normalize import Normalizer
from poise.algo.state import TrainState, state_shapes
from poise.arrays import ArraysError, filled, fitted, named, part, prefixed, shapes_with_origin
from poise.store.files import FileError, check_room, remove_leftovers, sum_of
from poise.store.manifest import CheckpointError, Manifest, read_with_files
from poise.store.manifest import manifest_sum as manifest_sum
from poise.store.manifest import read_manifest as read_manifest
from poise.store.places import REPLACED as REPLACED
from poise.store.places import instead_of_run
from poise.store.tensors import Described, read_arrays

AGENT = "agent.safetensors"
TRAINING = "training.safetensors"
INITIAL = "initial.safetensors"
BEST = "best"
KEPT = 3  # newest checkpoints of a run
LARGEST_FILE = 2**31
MOST_CANDIDATES = 8
LARGEST_WORLD = 2**25  # bytes of one environment, without the actions that a resume repeats

_attempts = itertools.count()

Which = Literal["last", "best"]


class Trained(eqx.Module):
    """An agent: its networks, and the statistics that normalize their inputs."""

    policy: Policy
    value: ValueFunction
    normalizer: Normalizer

    @classmethod
    def of(cls, state: TrainState) -> "Trained":
        return cls(state.learner.policy, state.learner.value, state.normalizer)

    def parameters_sha256(self) -> str:
        """SHA-256 over path, shape and bytes of every policy and value parameter, in sorted order."""
        parts = {"policy": self.policy, "value": self.value}
        leaves = {
            jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(parts)
        }
        digest = hashlib.sha256()
        for path in sorted(leaves):
            array = np.ascontiguousarray(leaves[path])
            digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Training:
    """All that a training needs to resume, beside the manifest.

    Attributes:
        state: the learner's state; None before the first iteration, when it follows from the configuration.
        world: the snapshot of the environments.
        candidates: the agents from which the best is chosen at the end.
        initial: before the first iteration: arrays of a ``Trained`` with which the training starts, all of a
            part (policy, value, normalizer) or none of it. What is missing follows from the configuration.
    """

    state: TrainState | None = None
    world: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[Trained] = ()
    initial: Mapping[str, Any] = field(default_factory=dict)


def step_folder(run: Path, steps: int) -> Path:
    return run / "checkpoints" / f"{steps:012d}"


def save_training(run: Path, training: Training, manifest: Manifest) -> Path:
    """Writes ``run/checkpoints/<steps>``, reads it back, and removes all but the newest few.

    Raises:
        OSError: the disk is full or the folder cannot be written; the earlier checkpoints are unchanged.
        CheckpointError: a file that was read back differs from what was written.
    """
    files = {INITIAL: _packed(training.initial)} if training.initial else {}
    if training.state is not None:
        agent, rest = _split(training.state)
        for i, candidate in enumerate(training.candidates):
            rest |= prefixed(f"candidate.{i}", named(candidate))
        files = {AGENT: _packed(agent), TRAINING: _packed(rest | prefixed("world", training.world))}
    folder = _write_folder(step_folder(run, manifest.steps), files, manifest)
    for name, entry in read_with_files(folder)[1].items():
        if sum_of(folder / name) != entry["sha256"]:
            raise CheckpointError(f"{folder / name}: is not what was written (its SHA-256 differs)")
    for stale in checkpoints(run)[KEPT:]:
        # Renamed first: a folder with a checkpoint's name is complete, also if we are killed here.
        going = stale.with_name(f"tmp-{os.getpid()}-{next(_attempts)}-{stale.name}")
        stale.rename(going)
        shutil.rmtree(going, ignore_errors=True)
    return folder


def save_best(run: Path, trained: Trained, manifest: Manifest) -> Path:
    """Writes ``run/checkpoints/best``: an agent, without the state of a training."""
    return _write_agent(run / "checkpoints" / BEST, trained, manifest)


def save_agent(folder: Path, trained: Trained, manifest: Manifest) -> Path:
    """Writes an agent into a folder of its own, which ``load_agent`` reads. An agent there is replaced.

    Raises:
        CheckpointError: something else is there, or the folder cannot be written.
    """
    folder = folder.absolute()
    try:
        if os.path.lexists(folder) and (other := sorted({*os.listdir(folder)} - {AGENT, "manifest.json"})):
            raise CheckpointError(f"{folder}: holds something else ({other[0]}); choose another folder")
        return _write_agent(folder, trained, manifest)
    except OSError as error:
        check_room(folder.parent, error)
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror}") from error


def _write_agent(folder: Path, trained: Trained, manifest: Manifest) -> Path:
    return _write_folder(folder, {AGENT: _packed(named(trained))}, manifest)


def _in_state(agent: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of an agent, renamed as in a state."""
    learned = ("policy", "value")
    return {f"learner.{n}" if n.split(".")[0] in learned else n: leaf for n, leaf in agent.items()}


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a state: those of the agent, and the others."""
    agent = named(Trained.of(state))
    shared = _in_state(agent)
    return agent, {name: leaf for name, leaf in named(state).items() if name not in shared}


def _joined(agent: Trained, rest: Mapping[str, Any], manifest: Manifest) -> TrainState:
    """The state with these arrays; the inverse of ``_split``."""
    shared = _in_state(named(agent))
    if twice := sorted(shared.keys() & rest.keys()):
        raise ArraysError(f"array {twice[0]} belongs to nothing")
    shapes = shapes_with_origin(_state_shapes(manifest), shared)
    return filled(shapes, shared | dict(rest))


def _packed(arrays: Mapping[str, Any]) -> bytes:
    # safetensors writes the memory of an array without regard to its strides.
    return save({name: np.asarray(leaf, order="C") for name, leaf in arrays.items()})


def _write_folder(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> Path:
    content = manifest.content(files)
    place = f"tmp-{os.getpid()}-{next(_attempts)}"  # an interrupted attempt may have left a folder
    fresh, old = folder.with_name(f"{place}-{folder.name}"), folder.with_name(f"{place}-old-{folder.name}")
    try:
        fresh.mkdir(parents=True)
        for name, data in files.items():
            _write(fresh / name, data)
        _write(fresh / "manifest.json", (json.dumps(content, indent=2) + "\n").encode())
        _sync(fresh)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        _sync(folder.parent)
    except BaseException:  # raised again: an interrupt must leave no incomplete folder either
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Waits until the names in a folder are on the disk. Windows opens no folders: nothing is done there."""
    with contextlib.suppress(PermissionError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def clear_leftovers(run: Path) -> None:
    """Removes incomplete files of processes that were killed. This process must have claimed the run."""
    remove_leftovers(run)
    for stale in (run / "checkpoints").glob("tmp-*"):
        if not stale.is_symlink():
            shutil.rmtree(stale, ignore_errors=True)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, the newest first, without links."""
    parent = run / "checkpoints"
    if parent.is_symlink() or not parent.is_dir():
        return []
    named = (p for p in parent.iterdir() if re.fullmatch(r"[0-9]{12}", p.name))
    return sorted((p for p in named if p.is_dir() and not p.is_symlink()), key=lambda p: p.name, reverse=True)


def runs_under(place: Path) -> list[Path]:
    """The run folders in a folder, itself included, without those that were set aside."""
    runs = (path.parent for path in place.glob("**/checkpoints"))
    return sorted(run for run in runs if not run.name.startswith(REPLACED))


def agent_folder(run: Path, which: Which = "last") -> Path:
    """The checkpoint with a run's newest or best agent. ``run`` may itself be a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    if which not in get_args(Which):
        raise CheckpointError(f"which = {which!r}: must be one of: last, best")
    if (run / "manifest.json").is_file():
        return run
    if which == "best":
        best = run / "checkpoints" / BEST
        if not (run / "checkpoints").exists() and (why := instead_of_run(run)):
            raise CheckpointError(f"{run}: {why}")
        if best.is_symlink() or not best.is_dir():
            raise CheckpointError(
                f"{run}: no best agent is kept there; one is chosen when a training ends and is evaluated"
            )
        return best
    folders = checkpoints(run)
    if not folders:
        why = instead_of_run(run) or "no agent is kept there (no checkpoints/<steps>/manifest.json)"
        raise CheckpointError(f"{run}: {why}")
    if folders[0] == step_folder(run, 0):
        raise CheckpointError(f"{run}: no agent is kept there yet (its first iteration has not ended)")
    return folders[0]


def load_agent(folder: Path) -> tuple[Trained, Manifest]:
    """The agent of a checkpoint. Reads two files of ``folder`` and executes nothing in them.

    Raises:
        CheckpointError: a file is missing, changed, damaged, or of another schema.
    """
    manifest, files = read_with_files(folder)
    return _read_agent(folder, manifest, files), manifest


def load_training(folder: Path) -> tuple[Training, Manifest]:
    """What ``save_training`` wrote. Reads three files of ``folder`` and executes nothing in them.

    Whether ``world`` fits the environment is checked when it is restored.

    Raises:
        CheckpointError: a file is missing, changed, damaged, or of another schema.
    """
    manifest, files = read_with_files(folder)
    if not manifest.steps and files.keys() == {INITIAL}:
        return Training(initial=_read_initial(folder, manifest, files)), manifest
    if not files:
        if manifest.steps:
            raise CheckpointError(f"{folder / 'manifest.json'}: does not name its files")
        return Training(), manifest
    trained = _read_agent(folder, manifest, files)
    path = folder / TRAINING
    with _named_errors(path, manifest):
        arrays = _arrays(path, files, lambda described: _fit_training(described, manifest))
        world = part("world", arrays)
        candidates = []
        while own := part(f"candidate.{len(candidates)}", arrays):
            candidates.append(filled(shapes_with_origin(_agent_shapes(manifest), own), own))
        rest = {n: a for n, a in arrays.items() if n.split(".")[0] not in ("world", "candidate")}
        state = _joined(trained, rest, manifest)
        steps = int(state.iteration) * manifest.config.rollout_size
        if steps != manifest.steps or state.iteration < 1:
            raise ArraysError(f"iteration {int(state.iteration)} does not end at step {manifest.steps}")
    return Training(state, world, candidates), manifest


def _read_agent(folder: Path, manifest: Manifest, files: Mapping[str, Any]) -> Trained:
    path = folder / AGENT
    with _named_errors(path, manifest):
        shapes = _agent_shapes(manifest)

        def check(described: Mapping[str, Described]) -> None:
            fitted(named(shapes_with_origin(shapes, described)), described)

        arrays = _arrays(path, files, check)
        return filled(shapes_with_origin(shapes, arrays), arrays)


def _read_initial(folder: Path, manifest: Manifest, files: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with which a training starts; each of the parts that is there is complete."""
    path = folder / INITIAL
    with _named_errors(path, manifest):
        shapes = _agent_shapes(manifest)

        def check(described: Mapping[str, Described]) -> None:
            parts = {name.partition(".")[0] for name in described}
            whole = named(shapes_with_origin(shapes, described))
            fitted({n: leaf for n, leaf in whole.items() if n.partition(".")[0] in parts}, described)

        return _arrays(path, files, check)
    raise AssertionError


def _fit_training(described: Mapping[str, Described], manifest: Manifest) -> None:
    """Checks the arrays of a training: its own, those of candidates, and those of its world.

    The arrays of a world are known only when its environment is made. Until then only their size is checked.

    Raises:
        ArraysError: they do not fit the configuration.
    """
    world = sum(array.nbytes for array in part("world", described).values())
    actions = 16 * manifest.steps * (manifest.spec.dimensions + 1)  # at most those of all steps
    if world > (most := LARGEST_WORLD * manifest.config.shape[1] + actions):
        raise ArraysError(f"the arrays of its world have {world:,} bytes, should have at most {most:,}")
    shapes = _state_shapes(manifest)
    _, expected = _split(shapes)
    agent = Trained.of(shapes)
    fitted(expected, {n: a for n, a in described.items() if n.split(".")[0] not in ("world", "candidate")})
    candidates = part("candidate", described)
    numbers = {name.partition(".")[0] for name in candidates}
    if len(numbers) > MOST_CANDIDATES or numbers != {str(i) for i in range(len(numbers))}:
        raise ArraysError(f"candidates {', '.join(sorted(numbers)):.60}: invalid numbers")
    for number in numbers:
        own = part(number, candidates)
        fitted(named(shapes_with_origin(agent, own)), own)


def _state_shapes(manifest: Manifest) -> TrainState:
    """Shapes and dtypes of the state that the configuration describes; no array is made."""
    return state_shapes(manifest.spec, manifest.config)


def _agent_shapes(manifest: Manifest) -> Trained:
    """Shapes and dtypes of the agent that the configuration describes; no array is made."""
    return Trained.of(_state_shapes(manifest))


@contextlib.contextmanager
def _named_errors(path: Path, manifest: Manifest) -> Iterator[None]:
    """Adds the file's name to errors about its arrays."""
    try:
        yield
    except ArraysError as error:
        networks = manifest.config.own_networks
        changed = f", unless {' or '.join(networks)} has changed since" if networks else ""
        raise CheckpointError(f"{path}: does not fit its configuration{changed}: {error}") from error
    except (ValueError, TypeError, OverflowError) as error:  # shapes that no array can have
        raise CheckpointError(f"{path}: its configuration describes no network: {error}") from error


def _arrays(
    path: Path, files: Mapping[str, Any], check: Callable[[Mapping[str, Described]], None]
) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path, _sum_in_manifest(path, files.get(path.name)), LARGEST_FILE, check)
    except CheckpointError:
        raise
    except FileError as error:
        raise CheckpointError(str(error)) from error


def _sum_in_manifest(path: Path, entry: Any) -> Any:
    """The SHA-256 of a file in the folder, as its manifest has it."""
    if not isinstance(entry, Mapping):
        raise CheckpointError(f"{path.parent / 'manifest.json'}: does not name {path.name}")
    return entry.get("sha256")
