"""The paths of Gymnasium's MJCF models, without importing Gymnasium."""

import importlib.util
from pathlib import Path


def gymnasium_model(name: str) -> str:
    """The path of one of Gymnasium's models.

    Raises:
        FileNotFoundError: Gymnasium is not installed, or has no such model.
    """
    spec = importlib.util.find_spec("gymnasium")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("gymnasium")
    path = folder / "envs" / "mujoco" / "assets" / name
    if not path.exists():
        raise FileNotFoundError(f"Gymnasium's model {name} is not installed (looked for {path})")
    return str(path)
