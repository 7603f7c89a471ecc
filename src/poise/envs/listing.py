"""The environments that can be trained on, with backend, spaces, time limit and threshold."""

from dataclasses import dataclass

from poise import envs
from poise.envs.classic import NATIVE_TASKS
from poise.envs.gymnasium import registered_ids, threshold
from poise.envs.tasks import TASKS
from poise.errors import PoiseError
from poise.spec import Spec


@dataclass(frozen=True)
class Listed:
    """One environment. ``solved``: the mean return that Gymnasium calls solved, if it names one."""

    id: str
    backend: str
    obs: str
    action: str
    time_limit: int | None
    solved: float | None


def list_envs() -> tuple[list[Listed], list[str]]:
    """The environments that can be trained on here; and the ids that need another package or space."""
    own = [*NATIVE_TASKS, *TASKS]
    others = [id for id in sorted(registered_ids()) if id not in own]
    listed, refused = [], []
    for id in [*own, *others]:
        try:
            resolved = envs.resolve(id)
            env = envs.make(id, 1)
        except PoiseError:
            refused.append(id)
            continue
        listed.append(_describe(id, resolved.backend, env.spec))
        env.close()
    return sorted(listed, key=lambda row: row.id.lower()), refused


def _describe(id: str, backend: str, spec: Spec) -> Listed:
    plain = len(spec.obs) == 1  # the parts of others do not fit a column
    obs = spec.describe_obs().removeprefix("obs ").strip("()") if plain else f"{len(spec.obs)} parts"
    action = spec.describe_action() if len(spec.action) == 1 else f"{len(spec.action)} parts"
    return Listed(id, backend, obs, action, spec.time_limit, threshold(id))
