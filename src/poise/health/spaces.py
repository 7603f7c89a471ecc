"""Rules of ``poise doctor`` for what only some tasks have: parts of an action, masks and memories."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.health.findings import Finding
from poise.health.medians import late, median, since
from poise.runs.records import Record
from poise.system.terminal import typed

# Shares of log(values), the largest entropy of a choice. At the first, the less likely of two values is drawn
# once in about 1,000 steps: a rollout hardly shows what it would give.
DECIDED = 0.01
EXPLORES = 0.3  # at this, the less likely of two values is drawn once in about 20 steps
BOX_EXPLORES = math.log(10)  # nats; its deviation is then more than a tenth of the first
UNCHANGED = 1e-3  # at this distance from the largest, two values have probabilities of 0.48 and 0.52
MOVED = 0.05
FORCED = 0.95  # then one choice in twenty is one
MEMORY_NONE = 1e-3  # nats; by Pinsker's inequality, at most 2.2% of the actions then differ
VALUE_MEMORY_NONE = 0.01  # deviations of the targets


def _shares(record: Record) -> dict[str, Float[np.ndarray, " iterations"]]:
    """The entropy of each choice over the iterations, as a share of the largest that it can have."""
    names, found = record.parts("policy/entropy"), {}
    for piece in record.spec.pieces:
        name, most = f"policy/entropy/{piece.name}", sum(map(math.log, piece.sizes))
        if name in names and most > 0:
            found[piece.name] = record.column(name) / most
    return found


def _box_entropies(record: Record) -> dict[str, Float[np.ndarray, " iterations"]]:
    """The entropy of each box over the iterations, in nats for each dimension."""
    names, found = record.parts("policy/entropy"), {}
    for piece in record.spec.pieces:
        name = f"policy/entropy/{piece.name}"
        if name in names and not piece.sizes:
            found[piece.name] = record.column(name) / (piece.columns.stop - piece.columns.start)
    return found


def part_decided(record: Record) -> Finding | None:
    """One choice has become nearly certain early, while another part of the action still explores.

    Early: from the first quarter of the training to its half.
    """
    shares, half = _shares(record), len(record.rows) // 2
    early = {name: median(share[half // 2 : half]) for name, share in shares.items()}
    decided = [n for n, s in shares.items() if early[n] < DECIDED and s[0] > 10 * DECIDED]
    others = [n for n, share in shares.items() if n not in decided and median(late(share)) > EXPLORES]
    others += [n for n, e in _box_entropies(record).items() if median(late(e)) > e[0] - BOX_EXPLORES]
    if not decided or not others:
        return None
    name, bonus = decided[0], record.config.ppo.entropy_coef
    return Finding(
        "part-decided",
        "note",
        f"the entropy of {name} fell from {shares[name][0]:.0%} of its maximum to {early[name]:.2%} before "
        f"step {record.steps[half]:,.0f}, while {others[0]} still varied at the end",
        f"From then on, {name} nearly always had its most likely value. That is right only if the other "
        "values are worse whatever the rest of the action does.",
        record.command(ppo__entropy_coef=float(f"{3 * bonus:.2g}") if bonus else 0.003),
    )


def part_unchanged(record: Record) -> Finding | None:
    """One choice never changed, while another part of the action did."""
    if mask_forces(record) is not None:
        return None
    shares = _shares(record)
    spans = {name: _farthest(share) for name, share in shares.items()}
    fixed = [name for name, span in spans.items() if span < UNCHANGED]
    moved = [*spans.values(), *map(_farthest, _box_entropies(record).values())]
    if not fixed or not any(span > MOVED for span in moved):
        return None
    name, first = fixed[0], shares[fixed[0]][0]
    bonus = record.config.ppo.entropy_coef > 0 and first > 0.5
    return Finding(
        "part-unchanged",
        "warning",
        f"the entropy of {name} was {first:.2%} of its maximum at first, and never more than "
        f"{spans[name]:.2%} away from that",
        f"The policy learned nothing about {name}. "
        + ("The entropy bonus outweighs the reward." if bonus else _why_unchanged(first)),
        record.command(ppo__entropy_coef=0.0)
        if bonus
        else f"check what {name} does: {typed('poise', 'check', record.env)}",
    )


def _farthest(values: Float[np.ndarray, " iterations"]) -> float:
    """The largest distance from the first value; NaN if it is missing."""
    return float(np.fmax.reduce(abs(values - values[0])))


def _why_unchanged(share: float) -> str:
    if share < DECIDED:
        return "Nearly always, the mask allows one of its values alone."
    return "Its values make no difference to the reward, or too small a difference."


def mask_idle(record: Record) -> Finding | None:
    """The masks never forbid anything."""
    masked = record.column("policy/masked_fraction")
    if not np.isfinite(masked).any() or np.nanmax(masked) > 0:
        return None
    return Finding(
        "mask-idle",
        "note",
        f"the masks forbade no value in any of {record.steps[-1]:,.0f} steps",
        "Either the environment never fills its mask in, or it needs none.",
        f"if some actions should be forbidden, check the mask: {typed('poise', 'check', record.env)}",
    )


def mask_forces(record: Record) -> Finding | None:
    """Nearly always, the mask leaves one value alone."""
    forced = median(late(record.column("policy/forced_fraction")))
    if not forced > FORCED:
        return None
    return Finding(
        "mask-forces",
        "warning",
        f"in {forced:.1%} of the choices, the mask allowed one value alone {since(record)}",
        "The mask decides, not the policy: there is nearly nothing to learn about these choices.",
        "step the environment on until there is a choice, or check that 1 in the mask means allowed; "
        f"{typed('poise', 'check', record.env)} shows its spaces",
    )


def memory_idle(record: Record) -> Finding | None:
    """A memory changes neither what the policy does nor what the value function says."""
    policy, value = (median(late(record.column(f"{network}/memory"))) for network in ("policy", "value"))
    idle = []
    if policy < MEMORY_NONE:
        idle.append(("policy", "policy", f"changed the policy by {policy:.1g} nats"))
    if value < VALUE_MEMORY_NONE:
        what = f"moved the values by {value:.1g} of their standard deviation"
        idle.append(("value", "value function", what))
    stacked = record.config.history > 1
    if not idle or (stacked and len(idle) < 2):  # both networks have a history, or neither
        return None
    without = _without_memory(record, [name for name, _, _ in idle])
    longer = record.command(total_steps=4 * record.config.total_steps)
    return Finding(
        "memory-idle",
        "warning",
        f"what {'earlier observations showed' if stacked else 'the memory held'} "
        f"{' and '.join(seen for _, _, seen in idle)} {since(record)}",
        f"The {' and the '.join(what for _, what, _ in idle)} would be the same without "
        f"{'them. They take time and are' if stacked else 'a memory. It takes time and is'} not used, or not "
        "yet.",
        f"{longer}; or without it: {record.command(**without)}",
    )


def _without_memory(record: Record, names: list[str]) -> dict[str, Any]:
    """The options that take the memory, or the history, from these networks."""
    usual = record.config.usual(record.spec)
    if record.config.history > 1:
        return {"history": 1, "ppo__sequence_length": usual["ppo.sequence_length"]}
    without: dict[str, Any] = {f"{name}__memory": "none" for name in names}
    without |= {f"{name}__memory_size": usual[f"{name}.memory_size"] for name in names}
    if all(getattr(record.config, name).memory == "none" or name in names for name in ("policy", "value")):
        without["ppo__sequence_length"] = usual["ppo.sequence_length"]
    return without


SPACES: tuple[Callable[[Record], Finding | None], ...] = (
    part_decided,
    part_unchanged,
    mask_idle,
    mask_forces,
    memory_idle,
)
