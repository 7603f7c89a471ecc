"""``poise doctor``: what the tables of a training say of its health, in words.

Every rule looks at medians over parts of a training, never at one iteration. ``late`` is its last quarter.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from poise.health.findings import Finding, by_severity
from poise.runs.records import Record, read_record
from poise.system.terminal import typed
from poise.training.metrics import BY_NAME

FEWEST = 4  # iterations of which anything can be said

KL_NONE = 1e-6  # nats an iteration
EXPLAINED_NOTHING = 0.05
STD_GROWN = 3.0  # times the first
FALLEN = 0.5  # share of what had been gained
GREEDY_LOST = 0.3  # share of what had been gained
SHIFTED = 1.5  # deviations
HORIZON = 2.0  # time limits


def diagnose(run: Path) -> list[Finding]:
    """What is wrong with the training of a run folder, the gravest first; empty where nothing is.

    Raises:
        RecordError: it holds no run.
        CheckpointError, JournalError: a file of it is damaged.
    """
    return examine(read_record(run))


def examine(record: Record) -> list[Finding]:
    """``diagnose`` of a record that was read already."""
    found = [rule(record) for rule in RULES] if len(record.rows) >= FEWEST else []
    return by_severity(finding for finding in found if finding is not None)


def verdict(record: Record, findings: list[Finding]) -> str:
    """The diagnosis in a line."""
    if len(record.rows) < FEWEST:
        return f"health: too short to judge ({len(record.rows)} iterations, at least {FEWEST} needed)"
    if not findings:
        return f"health: good ({len(RULES)} checks, {len(record.rows)} iterations)"
    names = ", ".join(finding.rule for finding in findings)
    return f"health: {names} ({typed('poise', 'doctor', record.folder)} says what that means)"


def _late(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """The last quarter."""
    return values[-max(1, len(values) // 4) :]


def _median(values: Float[np.ndarray, " n"]) -> float:
    """Of what was measured; NaN, which no comparison holds for, where nothing was."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _beyond(record: Record, name: str, side: Literal["low", "high"]) -> float | None:
    """The median of the last quarter of a metric, where that is beyond its healthy range on this side."""
    value = _median(_late(record.column(name)))
    return value if math.isfinite(value) and BY_NAME[name].state({name: value}) == side else None


def _since(record: Record) -> str:
    """The steps of the last quarter."""
    steps = _late(record.steps)
    return f"from step {steps[0]:,.0f} to {steps[-1]:,.0f}"


def _rate(record: Record, name: str, times: float) -> float:
    """A learning rate, ``times`` as large."""
    rate = getattr(record.config.ppo, name)
    return float(f"{times * rate:.2g}")


def learning_rate_too_high(record: Record) -> Finding | None:
    """The policy moves farther in an iteration than the clipping can hold.

    The KL is a sum over the dimensions of the action, and so is its bound. A ratio is a product over them:
    with many dimensions most ratios leave the clip at a rate that is right.
    """
    kl, clipped = (_median(record.column(f"policy/{name}")) for name in ("kl", "clip_fraction"))
    dimensions = record.spec.dimensions
    highest, most = BY_NAME["policy/kl"].highest(dimensions), BY_NAME["policy/clip_fraction"].highest()
    # a narrow clip leaves many outside of it at any rate: that alone is no sign
    if not (kl > highest or (dimensions == 1 and clipped > most and kl > highest / 2)):
        return None
    return Finding(
        "learning-rate-too-high",
        "warning",
        f"median KL {kl:.3g} (healthy up to {highest:g}"
        + (f": {BY_NAME['policy/kl'].high:g} for each of {dimensions} dimensions" if dimensions > 1 else "")
        + f"), {clipped:.0%} of the ratios outside the clip",
        "In each iteration the policy moves farther than its rollout can vouch for, and what it learned is "
        "easily lost.",
        record.command(ppo__policy_learning_rate=_rate(record, "policy_learning_rate", 0.3)),
    )


def no_learning(record: Record) -> Finding | None:
    """The policy stays what it was."""
    kl = record.column("policy/kl")
    most = float(np.nanmax(kl)) if np.isfinite(kl).any() else math.nan
    if not most < KL_NONE:
        return None
    return Finding(
        "no-learning",
        "error",
        f"the policy never moved farther than a KL of {most:.1g} in an iteration",
        "The agent at the end is the one that began.",
        record.command(ppo__policy_learning_rate=_rate(record, "policy_learning_rate", 100)),
    )


def value_explains_nothing(record: Record) -> Finding | None:
    """The value function is no better than a constant."""
    if reward_constant(record) is not None:
        return None
    name = "value/explained_variance"
    explained, loss = (_median(_late(record.column(n))) for n in (name, "value/loss"))
    if not (explained < EXPLAINED_NOTHING and BY_NAME[name].counts({"value/loss": loss})):
        return None
    return Finding(
        "value-explains-nothing",
        "warning",
        f"median explained variance {explained:.2f} {_since(record)}, value loss {loss:.2g}",
        "Advantages are then little but noise. Either the value function learns too slowly, or the "
        "observations do not hold what the returns depend on.",
        record.command(ppo__value_learning_rate=_rate(record, "value_learning_rate", 3)),
    )


def value_loss_large(record: Record) -> Finding | None:
    """Targets are far beyond the scale that the network and its learning rate are made for."""
    loss = _beyond(record, "value/loss", "high")
    if loss is None:
        return None
    raw = not record.config.normalize.reward
    return Finding(
        "value-loss-large",
        "warning",
        f"median value loss {loss:.3g} {_since(record)} (healthy up to {BY_NAME['value/loss'].high:g})",
        "The value function chases returns far from a size of 1"
        + (": rewards are not normalized." if raw else ", or it diverges."),
        record.command(normalize__reward=True)
        if raw
        else record.command(ppo__value_learning_rate=_rate(record, "value_learning_rate", 0.3)),
    )


def std_collapsed(record: Record) -> Finding | None:
    """Actions are no longer varied."""
    std = _beyond(record, "policy/std", "low")
    if std is None:
        return None
    return Finding(
        "std-collapsed",
        "warning",
        f"median deviation of the actions {std:.2g} {_since(record)} "
        f"(healthy from {BY_NAME['policy/std'].low:g} on)",
        "All actions in a state are the same, so nothing better can be found.",
        record.command(policy__std_init=0.5 if record.config.policy.std == "fixed" else 1.0)
        if (record.config.policy.std_init or 1) < 0.05
        else record.command(ppo__entropy_coef=0.003),
    )


def std_grown(record: Record) -> Finding | None:
    """Actions become noise."""
    std = record.column("policy/std")
    last, first = _median(_late(std)), _median(std[:1])
    if _beyond(record, "policy/std", "high") is None and not last > STD_GROWN * first:
        return None
    bonus = record.config.ppo.entropy_coef > 0
    return Finding(
        "std-grown",
        "warning",
        f"the deviation of the actions went from {first:.2g} to {last:.2g}",
        "Actions are little but noise"
        + (": the entropy bonus outweighs the reward." if bonus else ", and no reward holds it back."),
        record.command(ppo__entropy_coef=0.0)
        if bonus
        else f"see that rewards depend on actions: {typed('poise', 'check', record.env)}",
    )


def actions_saturated(record: Record) -> Finding | None:
    """Nearly all actions are cut at the bounds."""
    share = _beyond(record, "policy/saturation", "high")
    if share is None:
        return None
    raw = not record.config.normalize.action and any(record.spec.scaled)
    return Finding(
        "actions-saturated",
        "warning",
        f"{share:.0%} of the actions were at a bound {_since(record)} "
        f"(healthy up to {BY_NAME['policy/saturation'].high:.0%})",
        "The environment sees little of what the policy does, so it cannot learn the finer part of it."
        + (" Its deviation is large beside the environment's bounds, in whose units it acts." if raw else ""),
        record.command(normalize__action=True)
        if raw
        else record.command(policy__std_init=float(f"{(record.config.policy.std_init or 1) / 3:.2g}")),
    )


def reward_constant(record: Record) -> Finding | None:
    """The reward is the same whatever the agent does."""
    mean, std = record.column("reward/mean"), record.column("reward/std")
    if not np.isfinite(std).all() or np.any(std > 0) or np.ptp(mean) > 0:
        return None
    lengths = {e.length for e in record.episodes}
    if mean[0] and len(lengths) > 1:  # a constant reward for every step that the episode goes on
        return None
    return Finding(
        "reward-constant",
        "error",
        f"the reward of each of {record.steps[-1]:,.0f} steps was {mean[0]:g}"
        + (f", and each episode had {lengths.pop():,} steps" if mean[0] and lengths else ""),
        "There is nothing to learn from: no action was ever better than another.",
        f"give a reward for what comes near the goal, too; see {typed('poise', 'check', record.env)}",
    )


def episodes_never_end(record: Record) -> Finding | None:
    """No return is ever known."""
    ended = record.column("episode/count")
    half = len(ended) // 2
    if np.any(ended[half:] > 0):
        return None
    limit, steps = record.spec.time_limit, float(record.steps[-1] - record.steps[half - 1])
    num_envs = record.config.shape[1]
    each = f"{steps / num_envs:,.0f} steps of each of {num_envs} environments"
    if limit is not None and limit > record.config.total_steps / num_envs:
        fix = record.command(total_steps=10 * limit * num_envs)
        meaning = f"The time limit is {limit:,} steps, more than the budget gives an environment."
    else:
        fix = "give the environment a time limit: max_episode_steps in gymnasium.register"
        meaning = "Where no episode ends, no return is known and the starts are not practised."
    return Finding("episodes-never-end", "warning", f"no episode ended in the last {each}", meaning, fix)


PARTS = 20  # of a training, of which each has a mean return
SURE = 5.0  # standard errors: the best of so many parts is some two above the others by chance


@dataclass(frozen=True)
class _Course:
    """Mean returns of the parts of a training."""

    first: float
    best: float
    at: float  # steps at the end of the best part
    last: float  # of the last two parts
    error: float  # standard error of the difference between the last and the best

    @property
    def gained(self) -> float:
        return self.best - self.first


def _course(record: Record) -> _Course | None:
    """None where too few episodes ended to tell."""
    if len(record.episodes) < 2 * PARTS:
        return None
    step = np.array([e.step for e in record.episodes], float)
    value = np.array([e.episodic_return for e in record.episodes])
    edges = np.linspace(0, record.steps[-1], PARTS + 1)
    pieces = [
        (end, value[(step > begin) & (step <= end)]) for begin, end in itertools.pairwise(edges.tolist())
    ]
    parts = [(end, returns) for end, returns in pieces if len(returns)]
    if len(parts) < PARTS // 2:
        return None
    at, best = max(parts, key=lambda part: part[1].mean())
    last = np.concatenate([returns for _, returns in parts[-2:]])
    spread = math.sqrt(sum(float(((r - r.mean()) ** 2).sum()) for _, r in parts) / (len(step) - len(parts)))
    error = spread * math.sqrt(1 / len(best) + 1 / len(last))
    return _Course(float(parts[0][1].mean()), float(best.mean()), at, float(last.mean()), error)


def late_collapse(record: Record) -> Finding | None:
    """It could do it once, and cannot any more."""
    course = _course(record)
    if course is None or not course.best - course.last > max(FALLEN * course.gained, SURE * course.error):
        return None
    return Finding(
        "late-collapse",
        "warning",
        f"the mean return rose from {course.first:.1f} to {course.best:.1f} at step {course.at:,.0f}, and is "
        f"{course.last:.1f} at the end",
        "Updates late in the training undid what was learned.",
        f"the best agent is kept ({typed('poise', 'evaluate', record.folder, '--which', 'best')}); "
        "for a calmer training: "
        + record.command(
            ppo__policy_learning_rate=_rate(record, "policy_learning_rate", 0.3), ppo__anneal="linear"
        ),
    )


def greedy_worse(record: Record) -> Finding | None:
    """Without its noise the policy is worse than with it."""
    evaluation, course = record.summary.get("evaluation"), _course(record)
    if evaluation is None or course is None:
        return None
    high = evaluation["mean"] if evaluation["high"] is None else evaluation["high"]
    lost = course.last - float(high)
    if course.gained <= 0 or not lost > max(GREEDY_LOST * course.gained, SURE * course.error):
        return None
    return Finding(
        "greedy-worse",
        "warning",
        f"the last training episodes, with sampled actions, returned {course.last:.1f} on average; the "
        f"greedy agent {evaluation['mean']:.1f}",
        "The policy leans on its noise: the mean action alone, which an agent uses, is not what earned the "
        "return. Or its deviation is still large, because the budget is short.",
        record.command(total_steps=2 * record.config.total_steps),
    )


def observations_drift(record: Record) -> Finding | None:
    """What is observed at the end is unlike all that was observed before."""
    moved = _median(_late(record.column("normalize/shift")))
    if not record.config.normalize.obs or not moved > SHIFTED:
        return None
    return Finding(
        "observations-drift",
        "warning",
        f"the mean of an observed number was {moved:.1f} deviations away from that of all before, "
        f"{_since(record)}",
        "The statistics that observations are normalized with lag behind. Mostly a number that grows without "
        "end is observed: a time, a position, a counter.",
        f"leave it out, or give its difference; {typed('poise', 'check', record.env)} names the numbers",
    )


def horizon_beyond_limit(record: Record) -> Finding | None:
    """The discount looks farther than an episode lasts."""
    limit, gamma = record.spec.time_limit, record.config.ppo.gamma
    if limit is None or gamma is None:
        return None
    horizon = math.inf if gamma == 1 else 1 / (1 - gamma)
    if not horizon > HORIZON * limit * (1 + 1e-9):
        return None
    far = "without end" if gamma == 1 else f"{horizon:,.0f} steps"
    return Finding(
        "horizon-beyond-limit",
        "note",
        f"discount {gamma:g}, a horizon {far}; an episode lasts at most {limit:,}",
        "Returns then hold much that the value function cannot see: how much of the episode is left.",
        record.command(ppo__gamma=float(f"{1 - 1 / (3 * math.sqrt(limit)):.3g}")),
    )


RULES: tuple[Callable[[Record], Finding | None], ...] = (
    learning_rate_too_high,
    no_learning,
    value_explains_nothing,
    value_loss_large,
    std_collapsed,
    std_grown,
    actions_saturated,
    reward_constant,
    episodes_never_end,
    late_collapse,
    greedy_worse,
    observations_drift,
    horizon_beyond_limit,
)
