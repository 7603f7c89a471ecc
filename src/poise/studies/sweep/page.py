"""The page of a sweep, from its ``summary.json`` alone."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from poise.errors import PoiseError
from poise.runs.journal import RETURN
from poise.store.files import FileError, check_room, read_json, write_text
from poise.studies.report.charts import Charts, draw_bars, draw_history, draw_rungs, draw_values
from poise.studies.report.report import day, rendered
from poise.system.terminal import typed
from poise.wording import counted, figure, interval

LARGEST = 2**25  # bytes of a summary
MOST_SCATTERS = 9
STATES = ("finished", "stopped", "failed", "running")


class SweepReportError(PoiseError):
    """The page cannot be written."""


def format_value(value: Any) -> str:
    """The value of an option as text: six digits, layers as 64x64."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "x".join(str(part) for part in value) if isinstance(value, list | tuple) else f"{value}"


def write_page(folder: Path, out: Path | None = None) -> Path:
    """Writes ``report.html`` of a sweep, or ``out``, and returns its path.

    Raises:
        SweepReportError: no trial has ended yet, the summary is damaged, or the page cannot be written.
    """
    path, out = folder / "summary.json", out or folder / "report.html"
    if not os.path.lexists(path):
        command = typed("poise", "resume", folder)
        raise SweepReportError(f"{folder}: no trial has ended yet; to resume: {command}")
    try:
        summary = read_json(path, LARGEST)
        content = _content(folder, summary)
    except FileError as error:
        raise SweepReportError(str(error)) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SweepReportError(f"{path}: is damaged: {error!r:.200}") from error
    try:
        write_text(out, rendered("sweep/page.html.j2", content))
    except OSError as error:
        check_room(out, error)
        raise SweepReportError(f"{out}: cannot be written: {error.strerror}") from error
    return out


def _content(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    charts, trials = Charts(), summary["trials"]
    done, winner = summary["status"] == "finished", summary.get("winner")
    names = [str(option["name"]) for option in summary["space"]]
    return {
        "title": f"{summary['env']}: a sweep",
        "facts": _facts(folder, summary),
        "resume": None if done else typed("poise", "resume", folder),
        "ended": f"{sum(t['state'] != 'running' for t in trials)} of {summary['wanted']}",
        "sentence": _capital(summary["sentence"]) if done else None,
        "beats": bool(summary.get("beats")),
        "cards": _cards(summary),
        "command": summary.get("command"),
        "settings": _settings(summary, winner) if winner else [],
        "winner": winner["trial"] if winner else None,
        "history": _history(charts, trials),
        "rungs": _rungs(charts, summary, None if winner is None else winner["trial"]),
        "importances": _importances(charts, summary),
        "scatters": _scatters(charts, summary, winner),
        "columns": [name.rpartition(".")[2].replace("_", " ") for name in names],
        "trials": [_row(trial) for trial in trials],
        "space": [(option["name"], *_range(option)) for option in summary["space"]],
        "failed": sorted(dict(summary.get("failed") or {}).items()),
        "elsewhere": len(summary.get("elsewhere") or []),
        "judged": f"{summary['fresh'][0]} to {summary['fresh'][-1]}",
        "seeds": f"{summary['seeds'][0]} to {summary['seeds'][-1]}",
        "at_once": int(summary["at_once"]),
        "shared": bool(summary["shared"]),
        "folder": str(folder),
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
    }


def _capital(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}."


def _facts(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    facts = [counted(summary["wanted"], "trial"), f"{len(summary['seeds'])} seeds each"]
    facts += [f"{summary['steps']:,} steps", f"backend {summary['backend']}"]
    return [*facts, *([date] if (date := day(folder)) else [])]


def _cards(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    cards = []
    alone = (summary.get("winner") or {}).get("default")
    objective = summary.get("objective", RETURN)
    scored = "greedy return" if objective == RETURN else f"greedy {objective}"
    for side, score in dict(summary.get("scores") or {}).items():
        name = "the default" if side == "default" or alone else f"trial {summary['winner']['trial']}"
        more = f"95% interval {interval(score)}, {counted(score['seeds'], 'fresh seed')}"
        cards.append({"name": f"{scored}, {name}", "value": figure(score["mean"]), "more": more, "kind": ""})
    if pair := summary.get("pair"):
        more = f"95% interval {interval(pair)}, p = {pair['p']:.2g}"
        cards.append({"name": "difference", "value": figure(pair["value"]), "more": more, "kind": ""})
    states = [trial["state"] for trial in summary["trials"]]
    counts = ", ".join(f"{states.count(s)} {s}" for s in STATES if s in states)
    seconds = float(summary["seconds"]["trials"])
    took = f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
    more = f"{took} of one core in total"
    cards.append({"name": "trials", "value": counts or "none", "more": more, "kind": "text"})
    return cards


def _settings(summary: Mapping[str, Any], winner: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Option, value of the winner, default."""
    usual = {option["name"]: option["usual"] for option in summary["space"]}
    return [
        (name, format_value(value), format_value(usual[name])) for name, value in winner["options"].items()
    ]


def _history(charts: Charts, trials: Sequence[Mapping[str, Any]]) -> Markup | None:
    finished = np.array([(t["trial"], t["score"]) for t in trials if t["score"] is not None], float)
    stopped = np.array([t["trial"] for t in trials if t["state"] == "stopped"], float)
    if not len(finished):
        return None
    best = figure(float(finished[:, 1].max()))
    label = (
        f"Scores of {counted(len(finished), 'trial')} by number; the best is {best}. Stopped: {len(stopped)}."
    )
    return charts.both(draw_history(finished[:, 0], finished[:, 1], stopped, "score by trial"), label)


def _rungs(charts: Charts, summary: Mapping[str, Any], winner: int | None) -> Markup | None:
    lines = []
    for trial in summary["trials"]:
        if trial["state"] in ("finished", "stopped") and trial["values"]:
            points = sorted((int(step), float(value)) for step, value in trial["values"].items())
            kind = "winner" if trial["trial"] == winner else trial["state"]
            steps, values = np.array(points, float).T
            lines.append((str(kind), steps, values))
    if not lines:
        return None
    objective = summary.get("objective", RETURN)
    label = f"Training {objective} of {counted(len(lines), 'trial')} at each step where one may be stopped."
    return charts.both(
        draw_rungs(lines, f"training {objective}, mean of the seeds", float(summary["steps"])), label
    )


def _importances(charts: Charts, summary: Mapping[str, Any]) -> Markup | None:
    shares = sorted(((n, float(v)) for n, v in summary["importances"].items()), key=lambda s: -s[1])
    if not shares or not all(math.isfinite(value) for _, value in shares):
        return None
    label = "Importance: " + ", ".join(f"{name} {value:.0%}" for name, value in shares)
    return charts.both(draw_bars(shares, "importance"), label)


def _scatters(charts: Charts, summary: Mapping[str, Any], winner: Mapping[str, Any] | None) -> list[Markup]:
    """Score over each option, the most important option first."""
    shares = summary["importances"]
    space = sorted(summary["space"], key=lambda option: -shares.get(option["name"], 0.0))[:MOST_SCATTERS]
    scored = [trial for trial in summary["trials"] if trial["score"] is not None]
    if len(scored) < 2:
        return []
    drawn = []
    for option in space:
        name, choice = option["name"], option["scale"] == "choice"
        order = [format_value(value) for value in option["choices"]]
        points = [(trial["options"][name], float(trial["score"])) for trial in scored]
        usual, marked = option["usual"], None if winner is None else winner["options"][name]
        if choice:
            points = sorted(((format_value(v), s) for v, s in points), key=lambda p: order.index(p[0]))
            usual, marked = format_value(usual), None if marked is None else format_value(marked)
        last = name.rpartition(".")[2].replace("_", " ")
        title = f"horizon of {last}, steps" if option["scale"] == "horizon" else last
        label = f"Score of each trial over {name}"
        draw = draw_values(points, title, marked=marked, usual=usual, scale=str(option["scale"]), order=order)
        drawn.append(charts.one(draw, label))
    return drawn


def _row(trial: Mapping[str, Any]) -> dict[str, Any]:
    state = str(trial["state"])
    if trial["stopped_at"] is not None:
        state = f"stopped at {int(trial['stopped_at']):,}"
    scored = trial["score"] is not None
    return {
        "number": int(trial["trial"]),
        "score": figure(trial["score"]) if scored else "",
        "interval": interval(trial) if scored else "",
        "state": state,
        "values": [format_value(value) for value in trial["options"].values()],
        "seconds": f"{trial['seconds']:.1f}" if trial["seconds"] else "",
        "reason": str(trial["reason"]),
    }


def _range(option: Mapping[str, Any]) -> tuple[str, str, str]:
    """The values of an option that are searched, how they are drawn, and the default."""
    usual = format_value(option["usual"])
    if option["scale"] == "choice":
        return ", ".join(format_value(choice) for choice in option["choices"]), "one of these", usual
    scales = {"linear": "evenly", "log": "evenly in its logarithm", "horizon": "evenly in log 1/(1 - value)"}
    return f"{option['low']:.4g} to {option['high']:.4g}", scales[option["scale"]], usual
