"""The one table of metrics: name, unit, meaning, and the range of a healthy run.

The logger reads it, and ``docs/metrics.md`` is generated from it:
``python -m poise.training.metrics > docs/metrics.md``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    ``every``: measured at each logged step, each end of an episode, each iteration, or each epoch. ``low`` and
    ``high`` bound the healthy range; None if any value can be healthy. ``while_above``: another metric and a
    bound; only while that metric is above the bound, the range counts. ``each_dimension``: ``high`` is for one
    dimension of the action, and is multiplied by their number.
    """

    name: str
    every: Literal["step", "episode", "iteration", "epoch"]
    unit: str
    meaning: str
    low: float | None = None
    high: float | None = None
    while_above: tuple[str, float] | None = None
    each_dimension: bool = False

    def highest(self, dimensions: int = 1) -> float:
        """The upper end of the healthy range for actions of so many dimensions."""
        high = math.inf if self.high is None else self.high
        return high * dimensions if self.each_dimension else high

    def state(
        self, metrics: Mapping[str, float | int | None], dimensions: int = 1
    ) -> Literal["ok", "low", "high"] | None:
        """Whether the value among ``metrics`` is healthy, too low or too high; None: cannot be judged."""
        value = metrics.get(self.name)
        if value is None or self.low is None or self.high is None:
            return None
        if self.low <= value <= self.highest(dimensions):
            return "ok"
        if not self.counts(metrics):
            return None
        return "low" if value < self.low else "high"

    def counts(self, metrics: Mapping[str, float | int | None]) -> bool:
        """Whether the range counts, given the other ``metrics``."""
        if self.while_above is None:
            return True
        name, bound = self.while_above
        other = metrics.get(name)
        return other is not None and other > bound


# fmt: off
METRICS = (
    Metric("step/reward", "step", "reward", "Raw reward of the step, from the first environment that reached it."),
    Metric("step/action", "step", "policy's", "Action as sampled, before scaling and clipping; one tag per dimension."),
    Metric("step/mean", "step", "policy's", "Mean of the action distribution; one tag per dimension."),
    Metric("step/std", "step", "policy's", "Standard deviation of the action distribution; one tag per dimension.", 1e-3, 5.0),
    Metric("step/probability", "step", "share", "Probability of each choice, for discrete actions; one tag per choice."),
    Metric("episode/episodic_return", "episode", "reward", "Raw return of an episode, at the step at which it ended."),
    Metric("evaluation/return", "iteration", "reward", "Mean greedy return over separate episodes, with --eval-every."),
    Metric("evaluation/success_rate", "iteration", "share", "Share of these episodes that were a success, if the environment's info has is_success or success."),
    Metric("episode/return", "iteration", "reward", "Mean raw return of the episodes that ended in the iteration."),
    Metric("episode/length", "iteration", "steps", "Mean length of the episodes that ended in the iteration."),
    Metric("episode/count", "iteration", "episodes", "Episodes that ended in the iteration."),
    Metric("episode/success_rate", "iteration", "share", "Mean of is_success (or success) in the environment's info at the ends of these episodes."),
    Metric("episode/NAME", "iteration", "environment's", "Mean over these episodes of another number in the environment's info: of rewards, costs and penalties the sum over the episode, of others the last value."),
    Metric("reward/mean", "iteration", "reward", "Mean raw reward of a step."),
    Metric("reward/std", "iteration", "reward", "Standard deviation of the raw reward of a step."),
    Metric("policy/loss", "epoch", "1", "Minus the mean clipped surrogate, less the entropy bonus.", -1.0, 1.0),
    Metric("policy/kl", "epoch", "nats", "Approximate KL(old || new), mean((r - 1) - log r). A sum over the dimensions of the action.", 0.0, 0.05, each_dimension=True),
    Metric("policy/clip_fraction", "epoch", "share", "Rows whose ratio lies outside 1 - clip to 1 + clip.", 0.0, 0.4),
    Metric("policy/entropy", "epoch", "nats", "Entropy of the action distribution."),
    Metric("policy/learning_rate", "epoch", "1", "Step size of the policy's Adam."),
    Metric("policy/clip", "epoch", "1", "Clip range, with --ppo.clip-schedule."),
    Metric("policy/entropy_coef", "epoch", "1", "Weight of the entropy bonus, with --ppo.entropy-schedule."),
    Metric("policy/num_updates", "epoch", "updates", "Minibatches that the policy learned from; fewer if target_kl stopped it."),
    Metric("policy/std", "iteration", "policy's", "Mean standard deviation of the action distribution.", 1e-3, 5.0),
    Metric("policy/std/PART", "iteration", "policy's", "The same of one box, if the action has several.", 1e-3, 5.0),
    Metric("policy/entropy/PART", "iteration", "nats", "Entropy of one box or choice of the action, before learning; if the action has several: aim, pick, moves/0."),
    Metric("policy/masked_fraction", "iteration", "share", "Share of the values of choices that masks forbid."),
    Metric("policy/forced_fraction", "iteration", "share", "Share of the choices in which the mask allows one value alone."),
    Metric("policy/memory", "iteration", "nats", "KL(policy || policy with an empty memory), on rows of the rollout."),
    Metric("policy/saturation", "iteration", "share", "Share of the entries of sampled actions that reach a bound of the environment.", 0.0, 0.9),
    Metric("value/loss", "epoch", "1", "Mean squared error of the value function, in normalized rewards.", 0.0, 10.0),
    Metric("value/explained_variance", "iteration", "share", "1 - var(target - V) / var(target) before learning; below 0 is worse than a constant.", 0.0, 1.0, ("value/loss", 0.05)),
    Metric("value/memory", "iteration", "deviations", "Mean distance of the value from that with an empty memory, in standard deviations of the targets."),
    Metric("value/learning_rate", "epoch", "1", "Step size of the value function's Adam."),
    Metric("normalize/shift", "iteration", "deviations", "Distance from the mean of all earlier observations to the rollout's mean; the largest over all dimensions."),
    Metric("curriculum/PART", "iteration", "its own", "Value of a setting of --curriculum, by its name: curriculum/radius; of a list curriculum/NAME/0, ..."),
    Metric("time/rollout", "iteration", "s", "Collecting the rollout, without compilation. Of environments in JAX: what is left of it when the learning before it ends, as the two overlap; null if whole iterations are one program."),
    Metric("time/physics", "iteration", "s", "Of time/rollout: stepping and resetting environments; null if these are compiled with the networks."),
    Metric("time/learn", "iteration", "s", "Preparing and learning, without compilation; the whole iteration if it is part of one program."),
    Metric("time/prepare", "iteration", "s", "Of time/learn: values, advantages and targets of the rollout, and the shuffling of its rows; null as time/rollout."),
)
# fmt: on

BY_NAME = {metric.name: metric for metric in METRICS}


NAME = "/NAME"  # ends the name of a metric of each number in the environment's info
PART = "/PART"  # ends the name of a metric that each box and each choice of an action has


def base_name(tag: str) -> str:
    """The metric of a tag: ``step/action/0`` is ``step/action``, ``policy/std/aim`` is ``policy/std/PART``."""
    if tag in BY_NAME:
        return tag
    parents = ["/".join(tag.split("/")[:count]) for count in range(tag.count("/"), 0, -1)]
    names = (name for parent in parents for name in (parent + PART, parent + NAME, parent) if name in BY_NAME)
    return next(names, tag)


def info_metrics(values: Mapping[str, T]) -> dict[str, T]:
    """Values of the names in an environment's info, by the names of their metrics."""
    rate = "is_success" if "is_success" in values else "success"
    return {
        "episode/success_rate" if name == rate else f"episode/{name}": value for name, value in values.items()
    }


def markdown() -> str:
    """The page ``docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "TensorBoard shows all of these over environment steps. `metrics.jsonl` has one line per iteration, with the metrics",
        "of the iteration and those of its last epoch (`policy/num_updates`: the sum). `null`: there was nothing to measure.",
        "Metrics of parts, masks and memories are there only where an action has several parts, where the environment gives",
        "masks, and where a network has a memory.",
        "",
        "| name | every | unit | meaning | healthy |",
        "|---|---|---|---|---|",
    ]
    for m in METRICS:
        healthy = "" if m.low is None else f"{m.low:g} to {m.high:g}"
        if m.each_dimension:
            healthy += " for each dimension of the action"
        if m.while_above is not None:
            healthy += f", while `{m.while_above[0]}` is above {m.while_above[1]:g}"
        meaning = m.meaning.replace("|", "\\|")
        lines.append(f"| `{m.name}` | {m.every} | {m.unit} | {meaning} | {healthy} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
