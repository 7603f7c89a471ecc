"""Arrays and what describes them, kept on disk without a line of code in them.

A checkpoint is a folder: ``manifest.json`` and the safetensors files it names, each with its SHA-256.
It is written under another name, synced, and renamed when it is whole, so a folder that has the right name
is complete. Reading one opens plain files inside of it and nothing else, and never more of a file than its
place can need.
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
from typing import Any, Literal, cast, get_args

import equinox as eqx
import numpy as np
from safetensors.numpy import save

from poise import envs
from poise.algo.networks import Policy, ValueFunction
from poise.algo.normalize import Normalizer
from poise.algo.state import TrainState, shapes_with_origin, state_shapes
from poise.arrays import ArraysError, filled, fitted, named, part, prefixed
from poise.config import Config
from poise.errors import PoiseError
from poise.spec import Spec
from poise.store.files import FileError, parse_json, read_text, remove_leftovers, sum_of
from poise.store.tensors import Described, read_arrays

SCHEMA = 2
AGENT = "agent.safetensors"
TRAINING = "training.safetensors"
BEST = "best"
REPLACED = "replaced-"  # begins the name of a folder in a run folder: what was there before
KEPT = 3  # newest checkpoints of a run
LARGEST_MANIFEST = 2**20  # bytes
LARGEST_FILE = 2**31
MOST_CANDIDATES = 8
LARGEST_WORLD = 2**25  # bytes of one environment, without the actions that it is to repeat

_attempts = itertools.count()

Which = Literal["last", "best"]


class CheckpointError(FileError):
    """A folder that holds no agent, or one that was changed or damaged. Names file and reason."""


class Trained(eqx.Module):
    """What acts and judges: the networks, and the statistics of what they were trained on."""

    policy: Policy
    value: ValueFunction
    normalizer: Normalizer

    @classmethod
    def of(cls, state: TrainState) -> "Trained":
        return cls(state.learner.policy, state.learner.value, state.normalizer)


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint except its arrays.

    Attributes:
        env: the environment's name.
        steps: environment steps up to the checkpoint.
        config: every option with its number (``Config.settled``).
        notes: what the run adds, as JSON has it.
    """

    env: str
    backend: envs.Backend
    steps: int
    spec: Spec
    config: Config
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """All that a training needs to go on, beside the manifest.

    ``state`` is None before the first iteration: then all is a function of the configuration.
    ``candidates``: the agents of which the best is chosen at the end.
    """

    state: TrainState | None = None
    world: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[Trained] = ()


def step_folder(run: Path, steps: int) -> Path:
    return run / "checkpoints" / f"{steps:012d}"


def save_training(run: Path, training: Training, manifest: Manifest) -> Path:
    """Writes ``run/checkpoints/<steps>``, reads it back, and drops those before the newest few.

    Raises:
        OSError: the disk is full or the folder cannot be written; the checkpoints before it are as they were.
    """
    files: dict[str, bytes] = {}
    if training.state is not None:
        agent, rest = _split(training.state)
        for i, candidate in enumerate(training.candidates):
            rest |= prefixed(f"candidate.{i}", named(candidate))
        files = {AGENT: _packed(agent), TRAINING: _packed(rest | prefixed("world", training.world))}
    folder = _write_folder(step_folder(run, manifest.steps), files, manifest)
    for name, entry in _read_manifest(folder)[1].items():
        if sum_of(folder / name) != entry["sha256"]:
            raise CheckpointError(f"{folder / name}: is not what was written (its SHA-256 differs)")
    for stale in checkpoints(run)[KEPT:]:
        # not under its own name: a folder that has that is whole, also if this is the last that is done
        going = stale.with_name(f"tmp-{os.getpid()}-{next(_attempts)}-{stale.name}")
        stale.rename(going)
        shutil.rmtree(going, ignore_errors=True)
    return folder


def save_best(run: Path, trained: Trained, manifest: Manifest) -> Path:
    """Writes ``run/checkpoints/best``: an agent, without what a training needs."""
    return _write_folder(run / "checkpoints" / BEST, {AGENT: _packed(named(trained))}, manifest)


def _in_state(agent: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of an agent under the names that they have in a state."""
    learned = ("policy", "value")
    return {f"learner.{n}" if n.split(".")[0] in learned else n: leaf for n, leaf in agent.items()}


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a state: what belongs to the agent, and the rest."""
    agent = named(Trained.of(state))
    shared = _in_state(agent)
    return agent, {name: leaf for name, leaf in named(state).items() if name not in shared}


def _joined(agent: Trained, rest: Mapping[str, Any], manifest: Manifest) -> TrainState:
    """The state of which these are the parts."""
    shared = _in_state(named(agent))
    if twice := sorted(shared.keys() & rest.keys()):
        raise ArraysError(f"array {twice[0]} belongs to nothing")
    shapes = shapes_with_origin(_state_shapes(manifest), shared)
    return filled(shapes, shared | dict(rest))


def _packed(arrays: Mapping[str, Any]) -> bytes:
    # safetensors writes an array's memory as it lies, so it has to lie in order
    return save({name: np.asarray(leaf, order="C") for name, leaf in arrays.items()})


def _write_folder(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> Path:
    described = {
        "schema": SCHEMA,
        "env": manifest.env,
        "backend": manifest.backend,
        "steps": manifest.steps,
        "spec": manifest.spec.to_dict(),
        "config": manifest.config.to_dict(),
        "notes": manifest.notes,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }
    described["sha256"] = manifest_sum(described)
    place = f"tmp-{os.getpid()}-{next(_attempts)}"  # one that was interrupted may have left its own
    fresh, old = folder.with_name(f"{place}-{folder.name}"), folder.with_name(f"{place}-old-{folder.name}")
    try:
        fresh.mkdir(parents=True)
        for name, data in files.items():
            _write(fresh / name, data)
        _write(fresh / "manifest.json", (json.dumps(described, indent=2) + "\n").encode())
        _sync(fresh)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        _sync(folder.parent)
    except BaseException:  # raised again: an interrupt leaves no half of it either
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return folder


def manifest_sum(described: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, its own sum left out. JSON's spaces do not count."""
    rest = {name: value for name, value in described.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Has the names in a folder reach the disk; where none can be opened (Windows), they do so later."""
    with contextlib.suppress(PermissionError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def clear_leftovers(run: Path) -> None:
    """Removes what processes left that were ended while they wrote. The run must be this process's own."""
    remove_leftovers(run)
    for stale in (run / "checkpoints").glob("tmp-*"):
        if not stale.is_symlink():
            shutil.rmtree(stale, ignore_errors=True)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, the newest first. Links are none."""
    parent = run / "checkpoints"
    if parent.is_symlink() or not parent.is_dir():
        return []
    found = (p for p in parent.iterdir() if re.fullmatch(r"[0-9]{12}", p.name))
    return sorted((p for p in found if p.is_dir() and not p.is_symlink()), key=lambda p: p.name, reverse=True)


def runs_under(place: Path) -> list[Path]:
    """The run folders in a folder, and itself where it is one; not those that were set aside."""
    found = (path.parent for path in place.glob("**/checkpoints"))
    return sorted(run for run in found if not run.name.startswith(REPLACED))


def agent_folder(run: Path, which: Which = "last") -> Path:
    """The newest agent of a run folder, or its best; or the folder itself if it is a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    if which not in get_args(Which):
        raise CheckpointError(f"which = {which!r}: must be one of: last, best")
    if (run / "manifest.json").is_file():
        return run
    if which == "best":
        best = run / "checkpoints" / BEST
        if best.is_symlink() or not best.is_dir():
            raise CheckpointError(
                f"{run}: no best agent is kept there; one is chosen when a training ends and is evaluated"
            )
        return best
    found = checkpoints(run)
    if not found:
        raise CheckpointError(f"{run}: no agent is kept there (no checkpoints/<steps>/manifest.json)")
    if found[0] == step_folder(run, 0):
        raise CheckpointError(f"{run}: no agent is kept there yet (its first iteration has not ended)")
    return found[0]


def read_manifest(folder: Path) -> Manifest:
    """What the manifest of a checkpoint says.

    Raises:
        CheckpointError: it is missing, changed, damaged, or of another schema.
    """
    return _read_manifest(folder)[0]


def load_agent(folder: Path) -> tuple[Trained, Manifest]:
    """The agent of a checkpoint. Reads two files of ``folder`` and runs nothing of them.

    Raises:
        CheckpointError: a file is missing, changed, damaged, or of another schema.
    """
    manifest, files = _read_manifest(folder)
    return _read_agent(folder, manifest, files), manifest


def load_training(folder: Path) -> tuple[Training, Manifest]:
    """What ``save_training`` wrote. Reads three files of ``folder`` and runs nothing of them.

    Whether ``world`` is of the environment is checked when it is restored.

    Raises:
        CheckpointError: a file is missing, changed, damaged, or of another schema.
    """
    manifest, files = _read_manifest(folder)
    if not files:
        if manifest.steps:
            raise CheckpointError(f"{folder / 'manifest.json'}: names no files")
        return Training(), manifest
    trained = _read_agent(folder, manifest, files)
    path = folder / TRAINING
    with _named_errors(path):
        arrays = _arrays(path, files, lambda described: _fit_training(described, manifest))
        world = part("world", arrays)
        candidates = []
        while own := part(f"candidate.{len(candidates)}", arrays):
            candidates.append(filled(shapes_with_origin(_agent_shapes(manifest), own), own))
        rest = {n: a for n, a in arrays.items() if n.split(".")[0] not in ("world", "candidate")}
        state = _joined(trained, rest, manifest)
        steps = int(state.iteration) * manifest.config.rollout_size
        if steps != manifest.steps or state.iteration < 1:
            raise ArraysError(f"iteration {int(state.iteration)} is not of {manifest.steps} steps")
    return Training(state, world, candidates), manifest


def _read_agent(folder: Path, manifest: Manifest, files: Mapping[str, Any]) -> Trained:
    path = folder / AGENT
    with _named_errors(path):
        shapes = _agent_shapes(manifest)

        def check(described: Mapping[str, Described]) -> None:
            fitted(named(shapes_with_origin(shapes, described)), described)

        arrays = _arrays(path, files, check)
        return filled(shapes_with_origin(shapes, arrays), arrays)


def _fit_training(described: Mapping[str, Described], manifest: Manifest) -> None:
    """Whether these can be the arrays of a training: its own, those of candidates, and those of a world.

    What a world has is known only when its environment is made. Until then its size has to be possible.

    Raises:
        ArraysError: they cannot be.
    """
    world = sum(array.nbytes for array in part("world", described).values())
    actions = 16 * manifest.steps * (manifest.spec.action_size + 1)  # at most those of all steps
    if world > (most := LARGEST_WORLD * manifest.config.shape[1] + actions):
        raise ArraysError(f"the arrays of its world have {world:,} bytes, at most {most:,} are possible")
    shapes = _state_shapes(manifest)
    _, mine = _split(shapes)
    agent = Trained.of(shapes)
    fitted(mine, {n: a for n, a in described.items() if n.split(".")[0] not in ("world", "candidate")})
    candidates = part("candidate", described)
    numbers = {name.partition(".")[0] for name in candidates}
    if len(numbers) > MOST_CANDIDATES or numbers != {str(i) for i in range(len(numbers))}:
        raise ArraysError(f"candidates {', '.join(sorted(numbers)):.60} cannot be")
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
def _named_errors(path: Path) -> Iterator[None]:
    """What does not fit is said with the file's name."""
    try:
        yield
    except ArraysError as error:
        raise CheckpointError(f"{path}: does not fit its configuration: {error}") from error
    except (ValueError, TypeError, OverflowError) as error:  # shapes beyond what arrays can have
        raise CheckpointError(f"{path}: its configuration describes no network: {error}") from error


def _arrays(
    path: Path, files: Mapping[str, Any], check: Callable[[Mapping[str, Described]], None]
) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path, _told_sum(path, files.get(path.name)), LARGEST_FILE, check)
    except CheckpointError:
        raise
    except FileError as error:
        raise CheckpointError(str(error)) from error


def _told_sum(path: Path, entry: Any) -> Any:
    """The SHA-256 that a manifest gives for a file of its folder."""
    if not isinstance(entry, Mapping):
        raise CheckpointError(f"{path.parent / 'manifest.json'}: names no {path.name}")
    return entry.get("sha256")


def _read_manifest(folder: Path) -> tuple[Manifest, Mapping[str, Any]]:
    path = folder / "manifest.json"
    try:
        data = parse_json(read_text(path, LARGEST_MANIFEST))
        if data["schema"] != SCHEMA:
            raise CheckpointError(f"{path}: schema {data['schema']!r}; this poise reads schema {SCHEMA}")
        if data["sha256"] != manifest_sum(data):
            raise CheckpointError(f"{path}: is not what was saved (its SHA-256 differs)")
        spec = Spec.from_dict(data["spec"])
        config = Config.from_dict(data["config"])
        config.check_against(spec)
        config = config.settled(spec)
        env, backend, steps, notes = data["env"], data["backend"], data["steps"], data["notes"]
        if not (isinstance(env, str) and isinstance(steps, int) and steps >= 0):
            raise CheckpointError(f"{path}: env {env!r:.60} or steps {steps!r:.60} is none")
        if not isinstance(backend, str) or backend not in get_args(envs.Backend):
            raise CheckpointError(f"{path}: backend {backend!r:.60} is none")
        if not isinstance(notes, Mapping) or not isinstance(data["files"], Mapping):
            raise CheckpointError(f"{path}: is damaged: notes or files is no object")
        return Manifest(env, cast(envs.Backend, backend), steps, spec, config, notes), data["files"]
    except CheckpointError:
        raise
    except PoiseError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{path}: is damaged: {error!r:.200}") from error
