"""The manifest of a checkpoint: everything about it except its arrays."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from poise import envs
from poise.config import Config
from poise.errors import PoiseError
from poise.spec import Spec
from poise.store.files import FileError, parse_json, read_text

SCHEMA = 2
LARGEST_MANIFEST = 2**20  # bytes


class CheckpointError(FileError):
    """A checkpoint is missing, changed or damaged. The message names the file and the reason."""


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

    def content(self, files: Mapping[str, bytes]) -> dict[str, Any]:
        """The content of ``manifest.json``. ``files``: the bytes of each file that it names."""
        content = {
            "schema": SCHEMA,
            "env": self.env,
            "backend": self.backend,
            "steps": self.steps,
            "spec": self.spec.to_dict(),
            "config": self.config.to_dict(),
            "notes": self.notes,
            "files": {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            },
        }
        return {**content, "sha256": manifest_sum(content)}


def manifest_sum(described: Mapping[str, Any]) -> str:
    """SHA-256 of the content of a manifest without its own sum. Spaces between JSON values do not count."""
    rest = {name: value for name, value in described.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: it is missing, changed, damaged, or of another schema.
    """
    return read_with_files(folder)[0]


def read_with_files(folder: Path) -> tuple[Manifest, Mapping[str, Any]]:
    """The manifest of a checkpoint, and the size and SHA-256 of each of its files.

    Raises:
        CheckpointError: as ``read_manifest``.
    """
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
            raise CheckpointError(f"{path}: env {env!r:.60} or steps {steps!r:.60} is invalid")
        if not isinstance(backend, str) or backend not in get_args(envs.Backend):
            raise CheckpointError(f"{path}: backend {backend!r:.60} is invalid")
        if not isinstance(notes, Mapping) or not isinstance(data["files"], Mapping):
            raise CheckpointError(f"{path}: is damaged: notes or files is not an object")
        return Manifest(env, cast(envs.Backend, backend), steps, spec, config, notes), data["files"]
    except CheckpointError:
        raise
    except PoiseError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{path}: is damaged: {error!r:.200}") from error
