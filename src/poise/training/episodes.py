"""The bookkeeping of episodes while rollouts are collected, and the check that they hold only numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from poise.arrays import ArraysError, fitted
from poise.config import Config
from poise.envs.checking import EnvFault
from poise.envs.info import finite
from poise.errors import DIVERGED, TrainingError
from poise.seeds import Stream, episode_seed
from poise.spec import MASK, NUMBERS, Episode, Spec
from poise.training.collector import Group
from poise.training.metrics import info_metrics
from poise.types import Rollout, Tensor


def first_lengths(config: Config, spec: Spec, num_envs: int) -> Int[np.ndarray, " N"] | None:
    """The step at which the first episode of each environment is cut short; None if none is.

    Spread evenly over the time limit, the last at the limit itself. Environments that begin together would
    otherwise always reach the limit together, and a rollout would show only one part of an episode.
    """
    limit, ppo = spec.time_limit, config.ppo
    if limit is None or not ppo.stagger_starts or ppo.reset_every_rollout:
        return None
    return np.maximum(1, (np.arange(num_envs) + 1) * limit // num_envs)


class Ledger:
    """Returns and lengths of the unfinished episodes so far."""

    def __init__(self, group: Group):
        self._group = group
        self.index = np.full(group.num_envs, -1)  # of the running episode; -1 before the first
        self._return = np.zeros(group.num_envs)
        self.length = np.zeros(group.num_envs, np.int64)
        self._step = 0

    def drop(self, mask: Bool[np.ndarray, " N"] | slice = slice(None)) -> None:
        """Discards the unfinished episodes of those environments."""
        self._return[mask] = 0
        self.length[mask] = 0

    def snapshot(self) -> dict[str, np.ndarray]:
        return {
            "index": np.asarray(self.index, np.int64).copy(),
            "return": self._return.copy(),
            "length": self.length.copy(),
            "step": np.array(self._step),
        }

    def restore(self, arrays: Mapping[str, Any]) -> None:
        fitted(self.snapshot(), arrays)
        if not (arrays["index"] >= -1).all():
            raise ArraysError("array 'index': every value must be >= -1")
        self.index[:], self._return[:] = arrays["index"], arrays["return"]
        self.length[:], self._step = arrays["length"], int(arrays["step"])

    def set(self, returns: Any, lengths: Any, steps: int) -> None:
        """Sets the sums after ``steps`` steps of all environments."""
        self._return[:], self.length[:], self._step = returns, lengths, steps

    def account(
        self,
        index: Int[np.ndarray, "T N"],
        reward: Float[np.ndarray, "T N"],
        terminated: Bool[np.ndarray, "T N"],
        truncated: Bool[np.ndarray, "T N"],
        whole: Bool[np.ndarray, "T N"] | None = None,
        info: Callable[[int, int], Mapping[str, float]] = lambda t, n: {},
    ) -> list[Episode]:
        """The episodes that ended in these steps. ``index``: number of the episode that a step belongs to.

        Where ``whole`` is False, the collector itself cut the episode short: it is not listed. ``info``: what
        the episode reported that ended in row ``t`` of environment ``n``.
        """
        num_steps, num_envs = reward.shape
        first, total = self._group.first, self._group.total
        # of each environment, the row in which its running episode starts: 0 if it began before
        start, episodes = np.zeros(num_envs, np.int64), []
        for t, n in np.argwhere(terminated | truncated).tolist():
            if whole is None or whole[t, n]:
                episodes.append(
                    Episode(
                        env=first + n,
                        index=int(index[t, n]),
                        step=self._step + (t + 1) * total,  # of all environments, other groups' too
                        episodic_return=float(self._return[n] + reward[start[n] : t + 1, n].sum()),
                        length=int(self.length[n] + t + 1 - start[n]),
                        terminated=bool(terminated[t, n]),
                        info=info(t, n),
                    )
                )
            start[n], self._return[n], self.length[n] = t + 1, 0.0, 0
        # the rows after an environment's last end belong to an episode that continues in the next rollout
        ended = start > 0
        self._return[~ended] += np.ascontiguousarray(reward.T)[~ended].sum(axis=1)
        for n in np.flatnonzero(ended).tolist():
            self._return[n] += reward[start[n] :, n].sum()
        self.length += num_steps - start
        self._step += num_steps * total
        return episodes


LISTED = 64  # episodes of an iteration that are listed, if whole iterations are one program: a GPU ends more
# of them than this process can write


class Counts(eqx.Module):
    """Returns and lengths of the unfinished episodes, on a device.

    A return is the sum of two float32: ``rest`` has the digits that ``total`` loses.
    """

    total: Float[Tensor, " N"]
    rest: Float[Tensor, " N"]
    length: Int[Tensor, " N"]

    @classmethod
    def of(cls, returns: Float[np.ndarray, " N"], lengths: Int[np.ndarray, " N"]) -> "Counts":
        """From the sums of a ``Ledger``."""
        total = returns.astype(np.float32)
        return cls(total, (returns - total).astype(np.float32), lengths.astype(np.int32))

    def sums(self) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """For a ``Ledger``."""
        return np.asarray(self.total, np.float64) + np.asarray(self.rest), np.asarray(self.length)


class Ended(eqx.Module):
    """The episodes that ended in a rollout: means over all, and a list of ``LISTED`` at most.

    If more ended, the list is a uniform sample of them. It is in the order of their ends.
    """

    count: Int[Tensor, "*K"]
    mean_return: Float[Tensor, "*K"]  # NaN if none ended
    mean_length: Float[Tensor, "*K"]
    row: Int[Tensor, "*K listed"]  # of the last step, in C order of [T, N]; T N where the list has ended
    index: Int[Tensor, "*K listed"]
    episodes: Counts  # sums of each of the list
    terminated: Bool[Tensor, "*K listed"]
    info: dict[str, Float[Tensor, "*K listed"]]  # what each of the list reported
    mean_info: dict[str, Float[Tensor, "*K"]]

    def listed(self, *, num_envs: int, before: int) -> list[Episode]:
        """The list of one rollout, in NumPy; ``before``: environment steps before it."""
        returns, lengths = self.episodes.sums()
        rows = self.row[: min(int(self.count), len(self.row))].tolist()
        return [
            Episode(
                env=row % num_envs,
                index=int(self.index[i]),
                step=before + (row // num_envs + 1) * num_envs,
                episodic_return=float(returns[i]),
                length=int(lengths[i]),
                terminated=bool(self.terminated[i]),
                info=finite({name: values[i] for name, values in self.info.items()}),
            )
            for i, row in enumerate(rows)
        ]

    def metrics(self) -> dict[str, float | int | None]:
        """The metrics of the episodes of one rollout, in NumPy."""
        means = {"episode/return": self.mean_return, "episode/length": self.mean_length}
        means |= info_metrics(self.mean_info)
        found = {name: float(mean) if self.count else None for name, mean in means.items()}
        return {**found, "episode/count": int(self.count)}


def count_episodes(
    before: Counts,
    facts: Rollout,
    index: Int[Array, "T N"],
    whole: Bool[Array, "T N"] | None,
    key: PRNGKeyArray,
    info: dict[str, Float[Array, "T N"]],
) -> tuple[Counts, Ended]:
    """What ``Ledger.account`` does, on a device.

    ``key``: draws the sample. ``info``: what the running episode reported, after each row.
    """
    done = facts.terminated | facts.truncated

    def step(now: Counts, row):
        reward, done = row
        total, lost = _sum_exactly(now.total, reward)
        total, rest = _sum_exactly(total, now.rest + lost)
        sums = Counts(total, rest, now.length + 1)
        return jax.tree.map(lambda x: jnp.where(done, jnp.zeros_like(x), x), sums), sums

    after, sums = jax.lax.scan(step, before, (facts.reward, done))
    flat = jax.tree.map(lambda x: x.reshape(-1), (sums, index, facts.terminated, info))
    ended = (done if whole is None else done & whole).reshape(-1)
    count = jnp.sum(ended.astype(jnp.int32))
    drawn, rows = jax.lax.top_k(
        jnp.where(ended, 1 + jax.random.uniform(key, ended.shape), 0.0), min(LISTED, ended.size)
    )
    rows = jnp.sort(jnp.where(drawn > 0, rows, ended.size))  # beyond the end where fewer have ended
    listed, index, terminated, reported = jax.tree.map(lambda x: x.at[rows].get(mode="clip"), flat)
    lengths = sums.length.reshape(-1).astype(jnp.float32)
    return_, length, mean_info = jax.tree.map(
        lambda x: jnp.sum(jnp.where(ended, x, 0.0)) / count.astype(jnp.float32),
        (flat[0].total, lengths, flat[3]),
    )
    kept = rows, index, listed, terminated, reported, mean_info
    return _as_kept(after), Ended(count, return_, length, *kept)


def _as_kept(sums: Counts) -> Counts:
    """The sums as a float64 keeps them, in which a checkpoint has them: 46 bits of each.

    Added to a number whose last digit is the last one to keep, ``rest`` loses those after it.
    """
    digit = jnp.ldexp(jnp.full_like(sums.total, 1.5), jnp.frexp(sums.total)[1] - 23)
    total, rest = _sum_exactly(sums.total, (sums.rest + digit) - digit)
    return Counts(total, rest, sums.length)


def _sum_exactly(
    a: Float[Array, " N"], b: Float[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """a + b, and what rounding took from it. Knuth, The Art of Computer Programming 2, 4.2.2, theorem B."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@dataclass(frozen=True)
class Located:
    """A rollout, and to which episodes its rows belong."""

    rollout: Rollout
    index: Int[np.ndarray, "T N"]  # number of each row's episode
    length: Int[np.ndarray, " N"]  # steps that the running episodes had before these rows
    spec: Spec
    seed: int  # the run's
    first: int  # the number of the first environment

    def place(self, t: int, n: int, *, before: bool) -> str:
        """Environment, episode and step of a row in words; ``before``: of what exists before its step."""
        ended = np.flatnonzero(np.asarray(self.rollout.terminated | self.rollout.truncated)[:t, n])
        step = int(t - ended[-1] if len(ended) else t + 1 + self.length[n]) - before
        from_seed = episode_seed(self.seed, Stream.TRAINING, self.first + n, int(self.index[t, n]))
        return f"{self.spec.id}, environment {self.first + n}, episode seed {from_seed}, step {step}"


def check_numbers(rows: Located) -> None:
    """Refuses a rollout that holds infinity or NaN, and names the first such entry."""
    num_steps, num_envs = rows.index.shape
    odd: dict[str, np.ndarray] = {}
    arrays = _by_name(rows.rollout)
    for name, array in arrays.items():  # in the order in which they arise
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            odd[name] = ~np.isfinite(array).reshape(num_steps, num_envs, -1)
    if not odd:
        return
    # The first row decides; within it, what arises first. What follows from it may be NaN as well.
    t = min(int(np.argwhere(mask)[0, 0]) for mask in odd.values())
    name, mask = next((name, mask) for name, mask in odd.items() if mask[t].any())
    n, entry = np.argwhere(mask[t])[0].tolist()
    place = rows.place(t, n, before=name == "action" or name.startswith("obs"))
    value = arrays[name].reshape(num_steps, num_envs, -1)[t, n, entry]
    if name == "action":
        raise TrainingError(f"{place}: the policy's action is {value}. {DIVERGED}")
    what = "reward" if name == "reward" else _entry(rows.spec, name.removeprefix("next_"), entry)
    raise EnvFault(f"{place}: {what} is {value}", rows.first + n)


def check_masks(rows: Located) -> None:
    """Refuses a rollout with a mask that forbids every value of a choice."""
    spec = rows.spec
    if not spec.masked:
        return
    starts = np.cumsum((0, *spec.sizes[:-1]))
    allowed = np.logical_or.reduceat(np.asarray(rows.rollout.obs[MASK]), starts, axis=-1).all(axis=-1)
    if not allowed.all():
        t, n = np.argwhere(~allowed)[0].tolist()
        raise EnvFault(f"{rows.place(t, n, before=True)}: {MASK} allows no action", rows.first + n)


def _entry(spec: Spec, name: str, entry: int) -> str:
    """A number of an observation by the name of its array in the environment: ``obs arm.position[2]``."""
    if name == f"obs {NUMBERS}" or (name == "obs" and len(spec.obs) > 1):
        for leaf in spec.obs:
            if entry < leaf.width:
                return f"obs {leaf.name}[{entry}]"
            entry -= leaf.width
    return f"{name}[{entry}]"


def _by_name(rollout: Rollout) -> dict[str, np.ndarray]:
    """The arrays of a rollout that may hold infinity or NaN, in the order in which they arise."""
    arrays: dict[str, np.ndarray] = {}
    for name in ("obs", "action", "reward", "next_obs"):
        tree = getattr(rollout, name)
        parts = {f"{name} {key}": x for key, x in tree.items()} if isinstance(tree, dict) else {name: tree}
        arrays |= {key: np.asarray(array) for key, array in parts.items()}
    return arrays
