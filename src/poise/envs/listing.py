"""The environments that can be trained on, with backend, spaces, time limit and threshold."""

import importlib
from dataclasses import dataclass

from poise import envs
from poise.envs.gymnasium import registered_ids, step_limit, threshold
from poise.envs.naming import EXTRAS, JAX_PACKAGES, PACKAGES, is_installed
from poise.envs.native.names import REGISTERED, load_package
from poise.envs.tasks import TASKS
from poise.errors import PoiseError
from poise.spec import Spec
from poise.system.extras import needs


@dataclass(frozen=True)
class Listed:
    """One environment. ``solved``: the mean return that Gymnasium calls solved, if it names one.

    ``obs`` and ``action`` are None where the environment was not made: those of a package are many.
    """

    id: str
    backend: str
    obs: str | None
    action: str | None
    time_limit: int | None
    solved: float | None


@dataclass(frozen=True)
class Family:
    """The environments of an installed package whose ids begin alike.

    ``word``: with which ``poise envs`` lists them.
    """

    word: str
    ids: tuple[str, ...]


def list_envs(word: str = "") -> tuple[list[Listed], list[str]]:
    """The environments that can be trained on here; and the ids that need another package or space.

    ``word``: only those with this word in their ids; upper and lower case do not count. Families are not in
    the list.
    """
    own = [*REGISTERED, *TASKS]
    others = [id for id in sorted(registered_ids()) if id not in own and not id.startswith(tuple(PACKAGES))]
    listed, refused = [], []
    for id in [*own, *others]:
        if word.lower() not in id.lower():
            continue
        try:
            resolved = envs.resolve(id)
            env = envs.make(id, 1)
        except PoiseError:
            refused.append(id)
            continue
        listed.append(_describe(id, resolved.backend, env.spec))
        env.close()
    return sorted(listed, key=lambda row: row.id.lower()), refused


def list_families() -> tuple[list[Family], list[str]]:
    """The families of the packages that are installed; and a line for each extra that is not.

    A package is imported, which registers its environments.
    """
    families: list[Family] = []
    missing: dict[str, str] = {}
    for start, (module, _) in PACKAGES.items():
        if not is_installed(module):
            if (extra := EXTRAS.get(module)) is not None:
                missing[extra] = f"{extra}: {needs(extra)}"
            continue
        try:
            importlib.import_module(module)
        except Exception:  # a package that does not load has no environments; naming it says why
            continue
        ids = sorted((id for id in registered_ids() if id.startswith(start)), key=str.lower)
        if ids:
            module = "" if module in EXTRAS else f"{module}:"  # ids of extras are found without it
            families.append(Family(start.rstrip("-/"), tuple(f"{module}{id}" for id in ids)))
    for word, module in JAX_PACKAGES.items():
        if is_installed(module):
            ids = sorted((f"{word}:{name}" for name in load_package(word).names()), key=str.lower)
            families.append(Family(word, tuple(ids)))
        else:
            missing[word] = f"{word}: {needs(word)}"
    return families, list(missing.values())


def in_families(families: list[Family], word: str) -> list[Listed]:
    """The environments of families with this word in their ids. None of them is made."""
    ids = [id for family in families for id in family.ids if word.lower() in id.lower()]
    in_jax = tuple(f"{word}:" for word in JAX_PACKAGES)
    return [
        Listed(id, "native", None, None, None, None)  # the rest is known once it is made
        if id.startswith(in_jax)
        else Listed(id, envs.resolve(id).backend, None, None, step_limit(id), threshold(id))
        for id in ids
    ]


def _describe(id: str, backend: str, spec: Spec) -> Listed:
    plain = len(spec.obs) == 1  # the parts of others do not fit a column
    obs = spec.describe_obs().removeprefix("obs ").strip("()") if plain else f"{len(spec.obs)} parts"
    action = spec.describe_action() if len(spec.action) == 1 else f"{len(spec.action)} parts"
    return Listed(id, backend, obs, action, spec.time_limit, threshold(id))
