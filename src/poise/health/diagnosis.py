"""``poise doctor``: what the tables of a training say about its health.

Each rule reads medians over parts of a training, never a single iteration. ``late`` is the last quarter.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from poise.checked import Place, as_path
from poise.health.findings import Finding, by_severity
from poise.health.medians import beyond, late, median, since
from poise.health.spaces import SPACES
from poise.runs.records import Record, read_record
from poise.system.terminal import typed
from poise.training.metrics import BY_NAME
from poise.wording import counted, figure

FEWEST = 4  # iterations; a shorter training is not judged

# bounds of the rules
KL_NONE = 1e-6  # nats in an iteration
EXPLAINED_NOTHING = 0.05  # explained variance
STD_GROWN = 3.0  # times the first value
FALLEN = 0.5  # share of the gained return
GREEDY_LOST = 0.3  # share of the gained return
SHIFTED = 1.5  # standard deviations
HORIZON = 2.0  # time limits


def diagnose(run: Place) -> list[Finding]:
    """What is wrong with a training, the most severe first; empty if nothing is.

    ``run``: what ``train`` returned, or the run folder.

    Raises:
        RecordError: the folder holds no run.
        CheckpointError, JournalError: one of its files is damaged.
    """
    return examine(read_record(as_path("run", run)))


def examine(record: Record) -> list[Finding]:
    """``diagnose`` for a record in memory."""
    results = [rule(record) for rule in RULES] if len(record.rows) >= FEWEST else []
    return by_severity(finding for finding in results if finding is not None)


def verdict(record: Record, findings: list[Finding]) -> str:
    """The diagnosis in one line."""
    if len(record.rows) < FEWEST:
        return (
            f"health: too short to judge ({counted(len(record.rows), 'iteration')}, at least {FEWEST} needed)"
        )
    if not findings:
        return f"health: good ({len(RULES)} checks, {counted(len(record.rows), 'iteration')})"
    names = ", ".join(finding.rule for finding in findings)
    return f"health: {names} ({typed('poise', 'doctor', record.folder)} explains this)"


def _rate(record: Record, name: str, times: float) -> float:
    """A learning rate of the run times a factor, rounded to two digits."""
    rate = getattr(record.config.ppo, name)
    return float(f"{times * rate:.2g}")


def learning_rate_too_high(record: Record) -> Finding | None:
    """The policy moves farther in an iteration than the clip allows.

    The KL is a sum over the dimensions of the action, so its bound grows with them. A ratio is a product over
    the dimensions: with many of them most ratios leave the clip even at a good learning rate.
    """
    kl, clipped = (median(record.column(f"policy/{name}")) for name in ("kl", "clip_fraction"))
    dimensions = record.spec.dimensions
    highest, most = BY_NAME["policy/kl"].highest(dimensions), BY_NAME["policy/clip_fraction"].highest()
    # with a narrow clip many ratios are outside at any learning rate: that alone shows nothing
    if not (kl > highest or (dimensions == 1 and clipped > most and kl > highest / 2)):
        return None
    return Finding(
        "learning-rate-too-high",
        "warning",
        f"median KL {kl:.3g} (healthy up to {highest:g}"
        + (f": {BY_NAME['policy/kl'].high:g} for each of {dimensions} dimensions" if dimensions > 1 else "")
        + f"), {clipped:.0%} of the ratios outside the clip",
        "Each iteration moves the policy too far from the one that collected the rollout. What it learned is "
        "easily lost.",
        record.command(ppo__policy_learning_rate=_rate(record, "policy_learning_rate", 0.3)),
    )


def no_learning(record: Record) -> Finding | None:
    """The policy does not change."""
    kl = record.column("policy/kl")
    most = float(np.nanmax(kl)) if np.isfinite(kl).any() else math.nan
    if not most < KL_NONE:
        return None
    return Finding(
        "no-learning",
        "error",
        f"the policy never moved farther than a KL of {most:.1g} in an iteration",
        "The final agent is nearly the same as the initial one.",
        record.command(ppo__policy_learning_rate=_rate(record, "policy_learning_rate", 100)),
    )


def value_explains_nothing(record: Record) -> Finding | None:
    """The value function predicts no better than a constant."""
    if reward_constant(record) is not None:
        return None
    name = "value/explained_variance"
    explained, loss = (median(late(record.column(n))) for n in (name, "value/loss"))
    if not (explained < EXPLAINED_NOTHING and BY_NAME[name].counts({"value/loss": loss})):
        return None
    return Finding(
        "value-explains-nothing",
        "warning",
        f"median explained variance {explained:.2f} {since(record)}, value loss {loss:.2g}",
        "Advantages are then mostly noise. Either the value function learns too slowly, or the observations "
        "lack what the returns depend on.",
        record.command(ppo__value_learning_rate=_rate(record, "value_learning_rate", 3)),
    )


def value_loss_large(record: Record) -> Finding | None:
    """The targets are far beyond the scale for which the network and its learning rate are made."""
    loss = beyond(record, "value/loss", "high")
    if loss is None:
        return None
    raw = not record.config.normalize.reward
    return Finding(
        "value-loss-large",
        "warning",
        f"median value loss {loss:.3g} {since(record)} (healthy up to {BY_NAME['value/loss'].high:g})",
        "The targets of the value function are much larger than 1"
        + (", because rewards are not normalized." if raw else ", or it diverges."),
        record.command(normalize__reward=True)
        if raw
        else record.command(ppo__value_learning_rate=_rate(record, "value_learning_rate", 0.3)),
    )


def _deviations(record: Record) -> list[tuple[str, str]]:
    """The metrics of the deviation of all actions and of each box, and what they are of, in words."""
    alone = [("policy/std", "the actions")]
    return alone + [(name, name.removeprefix("policy/std/")) for name in record.parts("policy/std")]


def std_collapsed(record: Record) -> Finding | None:
    """The policy hardly varies its actions, or one box of them."""
    found = [(beyond(record, name, "low"), what) for name, what in _deviations(record)]
    std, what = next(((std, what) for std, what in found if std is not None), (None, ""))
    if std is None:
        return None
    return Finding(
        "std-collapsed",
        "warning",
        f"median standard deviation of {what} {std:.2g} {since(record)} "
        f"(healthy from {BY_NAME['policy/std'].low:g} up)",
        "The policy always takes nearly the same action in a state, so it cannot find better ones.",
        record.command(policy__std_init=0.5 if record.config.policy.std == "fixed" else 1.0)
        if (record.config.policy.std_init or 1) < 0.05
        else record.command(ppo__entropy_coef=0.003),
    )


def std_grown(record: Record) -> Finding | None:
    """The actions, or one box of them, become noise."""
    columns = [(name, what, record.column(name)) for name, what in _deviations(record)]
    spans = [(name, what, median(std[:1]), median(late(std))) for name, what, std in columns]
    grown = [x for x in spans if beyond(record, x[0], "high") is not None or x[3] > STD_GROWN * x[2]]
    if not grown:
        return None
    _, what, first, last = grown[0]
    bonus = record.config.ppo.entropy_coef > 0
    return Finding(
        "std-grown",
        "warning",
        f"the standard deviation of {what} grew from {first:.2g} to {last:.2g}",
        "The actions are mostly noise. "
        + ("The entropy bonus outweighs the reward." if bonus else "The reward does not reduce it."),
        record.command(ppo__entropy_coef=0.0)
        if bonus
        else f"check that rewards depend on actions: {typed('poise', 'check', record.env)}",
    )


def actions_saturated(record: Record) -> Finding | None:
    """Nearly all actions are cut off at the bounds."""
    share = beyond(record, "policy/saturation", "high")
    if share is None:
        return None
    raw = not record.config.normalize.action and any(record.spec.scaled)
    return Finding(
        "actions-saturated",
        "warning",
        f"{share:.0%} of the actions were at a bound {since(record)} "
        f"(healthy up to {BY_NAME['policy/saturation'].high:.0%})",
        "Nearly all actions are cut off, so the policy cannot learn those between the bounds."
        + (" It acts in the environment's units, and its noise is large for these bounds." if raw else ""),
        record.command(normalize__action=True)
        if raw
        else record.command(policy__std_init=float(f"{(record.config.policy.std_init or 1) / 3:.2g}")),
    )


def reward_constant(record: Record) -> Finding | None:
    """Every reward is the same."""
    mean, std = record.column("reward/mean"), record.column("reward/std")
    if not np.isfinite(std).all() or np.any(std > 0) or np.ptp(mean) > 0:
        return None
    lengths = {e.length for e in record.episodes}
    if mean[0] and len(lengths) > 1:  # a constant reward for each step: longer episodes earn more
        return None
    return Finding(
        "reward-constant",
        "error",
        f"the reward of each of {record.steps[-1]:,.0f} steps was {mean[0]:g}"
        + (f", and each episode had {lengths.pop():,} steps" if mean[0] and lengths else ""),
        "There is nothing to learn from: no action was ever better than another.",
        f"reward progress towards the goal; see {typed('poise', 'check', record.env)}",
    )


def episodes_never_end(record: Record) -> Finding | None:
    """No episode ends, so no return is known."""
    ended = record.column("episode/count")
    half = len(ended) // 2
    if np.any(ended[half:] > 0):
        return None
    limit, steps = record.spec.time_limit, float(record.steps[-1] - record.steps[half - 1])
    num_envs = record.config.shape[1]
    span = f"{steps / num_envs:,.0f} steps of each of {num_envs} environments"
    if limit is not None and limit > record.config.total_steps / num_envs:
        fix = record.command(total_steps=10 * limit * num_envs)
        meaning = f"The time limit is {limit:,} steps. The budget gives each environment fewer."
    else:
        fix = "give the environment a time limit: max_episode_steps in gymnasium.register"
        meaning = "Without an end no return is known, and the agent does not practice the start."
    return Finding("episodes-never-end", "warning", f"no episode ended in the last {span}", meaning, fix)


PARTS = 20  # into which a training is divided; each has a mean return
SURE = 5.0  # standard errors; by chance alone the best of 20 parts is about two above the others


@dataclass(frozen=True)
class _Course:
    """Mean returns of parts of a training."""

    first: float
    best: float
    best_step: float  # at the end of the best part
    last: float  # of the last two parts
    error: float  # standard error of the difference between the last and the best

    @property
    def gained(self) -> float:
        return self.best - self.first


def _course(record: Record) -> _Course | None:
    """None if too few episodes ended."""
    if len(record.episodes) < 2 * PARTS:
        return None
    step = np.array([e.step for e in record.episodes], float)
    value = np.array([e.episodic_return for e in record.episodes])
    edges = np.linspace(0, record.steps[-1], PARTS + 1)
    returns_by_part = [
        (end, value[(step > begin) & (step <= end)]) for begin, end in itertools.pairwise(edges.tolist())
    ]
    parts = [(end, returns) for end, returns in returns_by_part if len(returns)]
    if len(parts) < PARTS // 2:
        return None
    best_step, best = max(parts, key=lambda part: part[1].mean())
    last = np.concatenate([returns for _, returns in parts[-2:]])
    spread = math.sqrt(sum(float(((r - r.mean()) ** 2).sum()) for _, r in parts) / (len(step) - len(parts)))
    error = spread * math.sqrt(1 / len(best) + 1 / len(last))
    return _Course(float(parts[0][1].mean()), float(best.mean()), best_step, float(last.mean()), error)


def late_collapse(record: Record) -> Finding | None:
    """The return rose and then fell again."""
    course = _course(record)
    annealed = {"ppo__anneal": "linear"} if record.config.ppo.anneal == "none" else {}
    if course is None or not course.best - course.last > max(FALLEN * course.gained, SURE * course.error):
        return None
    return Finding(
        "late-collapse",
        "warning",
        f"the mean return rose from {figure(course.first)} to {figure(course.best)} "
        f"at step {course.best_step:,.0f}, and was {figure(course.last)} at the end",
        "Later updates undid what was learned.",
        f"the best agent was kept ({typed('poise', 'evaluate', record.folder, '--which', 'best')}); "
        "for a steadier training: "
        + record.command(ppo__policy_learning_rate=_rate(record, "policy_learning_rate", 0.3), **annealed),
    )


def greedy_worse(record: Record) -> Finding | None:
    """The policy is worse without its noise."""
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
        f"the last training episodes, with sampled actions, returned {figure(course.last)} on average; the "
        f"greedy agent returned {figure(evaluation['mean'])}",
        "The policy relies on its noise: the most likely action, which the greedy agent takes, earns less. "
        "Or the noise is still large because the budget is short.",
        record.command(total_steps=2 * record.config.total_steps),
    )


def observations_drift(record: Record) -> Finding | None:
    """Observations at the end are unlike all earlier ones."""
    shift = median(late(record.column("normalize/shift")))
    if not record.config.normalize.obs or not shift > SHIFTED:
        return None
    return Finding(
        "observations-drift",
        "warning",
        f"the mean of an observed number was {shift:.1f} standard deviations from its earlier mean, "
        f"{since(record)}",
        "The statistics that normalize observations lag behind. The usual cause is an observed number that "
        "grows without end: a time, a position, a counter.",
        "leave that number out, or observe its change in a step; "
        f"{typed('poise', 'check', record.env)} may show which one it is",
    )


def horizon_beyond_limit(record: Record) -> Finding | None:
    """The discount looks farther ahead than an episode lasts."""
    limit, gamma = record.spec.time_limit, record.config.ppo.gamma
    if limit is None or gamma is None:
        return None
    horizon = math.inf if gamma == 1 else 1 / (1 - gamma)
    if not horizon > HORIZON * limit * (1 + 1e-9):
        return None
    far = "without end" if gamma == 1 else f"of {horizon:,.0f} steps"
    return Finding(
        "horizon-beyond-limit",
        "note",
        f"discount {gamma:g}, a horizon {far}; an episode lasts at most {limit:,} steps",
        "Returns then depend on how many steps are left, which the value function does not see.",
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
    *SPACES,
)
