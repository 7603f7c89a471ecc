"""``poise report``: one HTML file of a training or of several, which needs no network and no script."""

import base64
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from poise.checkpoint import CheckpointError, read_plain
from poise.config import flat
from poise.diagnosis import FEWEST, RULES, examine
from poise.errors import PoiseError
from poise.experiments.charts import Charts, draw_lines, draw_metric
from poise.experiments.comparison import (
    CompareError,
    Comparison,
    Pair,
    Setting,
    compare_runs,
    curves,
    find_runs,
    grouped,
)
from poise.experiments.experiment import evaluation
from poise.experiments.figures import COLORS, Line
from poise.experiments.wording import between, figure
from poise.files import write_text
from poise.findings import Finding, by_severity
from poise.journal import read_greedy
from poise.metrics import BY_NAME
from poise.records import Record, read_record

DARK = ("#6db3e2", "#f0995a", "#7cc796", "#c79ada", "#e0bd5c", "#9aa7b2")  # as COLORS, on a dark page
LARGEST_FILM = 2**24  # bytes; a page of more is slow to open
SHOWN_EPISODES, LISTED_EPISODES = 5, 200  # best and worst; the last ones
HEALTH = {
    "policy/kl": "KL",
    "policy/clip_fraction": "clip fraction",
    "value/explained_variance": "explained variance",
    "policy/std": "deviation of actions",
    "policy/saturation": "actions at a bound",
    "value/loss": "value loss",
}
PARTS = {
    "import": "import",
    "compile": "compilation",
    "rollout": "rollouts",
    "learn": "learning",
    "log": "tables, curve and film",
    "evaluate": "score",
}


class ReportError(PoiseError):
    """A report that cannot be written."""


def report(places: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page of some run folders, of seeds or of an experiment, and returns its path.

    Args:
        places: folders; one that holds several runs stands for all of them.
        out: the file; by default ``report.html`` in the one folder, or here where there are several.

    Raises:
        ReportError: there is no run, or the page cannot be written.
        CompareError, RecordError, CheckpointError, JournalError: a folder holds no run, or is damaged.
    """
    records = [read_record(path) for path in find_runs(places)]
    if not records:
        raise ReportError(f"{places[0]}: holds no run")
    if out is None:
        out = (places[0] if len(places) == 1 else Path()) / "report.html"
    try:
        write_text(out, page(records, _comparison(places, records)))
    except OSError as error:
        raise ReportError(f"{out}: cannot be written: {error.strerror}") from error
    return out


def _comparison(places: Sequence[Path], records: Sequence[Record]) -> Comparison | None:
    """None where there is nothing to compare."""
    if len(records) < 2:
        return None
    try:
        return compare_runs(places)
    except CompareError:
        return None


def page(records: Sequence[Record], comparison: Comparison | None) -> str:
    """The whole page. All that comes from files is escaped."""
    templates = Environment(
        loader=PackageLoader("poise.experiments", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("report.html.j2").render(_content(records, comparison))


def _content(records: Sequence[Record], comparison: Comparison | None) -> dict[str, Any]:
    charts, settings = Charts(), grouped(records)
    findings = {record.folder: examine(record) for record in records}
    first = max(records, key=_mean)  # the best is the one that is shown
    named = _names(records, settings)
    content: dict[str, Any] = {
        "title": ", ".join(dict.fromkeys(record.env for record in records)),
        "light": COLORS,
        "dark": DARK,
        "facts": _facts(records),
        "unfinished": _unfinished(records),
        "cards": _cards(records, settings, findings),
        "comparison": _compared(comparison),
        "film": _film(first),
        "film_caption": f"The greedy agent of {named[first.folder]}."
        if len(records) > 1
        else "Greedy, as scored.",
        "findings": [
            {**finding.to_dict(), "run": named[record.folder] if len(records) > 1 else ""}
            for record in records
            for finding in findings[record.folder]
        ],
        "healthy": _healthy(records),
        "runs": [_run_row(record, named, findings) for record in records],
        "change_columns": [setting.label for setting in settings] if len(settings) > 1 else ["value"],
        "changes": _changes(settings),
        "options": [(n, _shown(v)) for n, v in flat(first.config.to_dict()).items()],
        "commands": [_again(setting) for setting in settings],
        "machine": _machine(first),
        "footer": f"poise {first.summary.get('versions', {}).get('poise', '')} · "
        + ", ".join(str(record.folder) for record in records[:8]),
    }
    return (
        content
        | _learning(settings, charts)
        | _metrics(settings, charts)
        | _episodes(first)
        | _times(records)
    )


def _mean(record: Record) -> float:
    score = record.summary.get("evaluation")
    return float(score["mean"]) if score else -math.inf


def _names(records: Sequence[Record], settings: Sequence[Setting]) -> dict[Path, str]:
    """What tells a run from the others: environment, setting and seed, as far as these differ."""
    names = {}
    envs = {record.env for record in records}
    for setting in settings:
        for record in setting.records:
            parts = [record.env] if len(envs) > 1 else []
            parts += [setting.label] if len(settings) > len(envs) else []
            names[record.folder] = ", ".join([*parts, f"seed {record.config.seed}"])
    return names


def _facts(records: Sequence[Record]) -> list[str]:
    seeds = sorted({record.config.seed for record in records})
    steps = sorted({int(record.rows[-1]["steps"]) if record.rows else 0 for record in records})
    numbers = ", ".join(str(seed) for seed in seeds[:8]) + (", ..." if len(seeds) > 8 else "")
    facts = [f"{steps[-1]:,} steps", f"seed{'s' * (len(seeds) > 1)} {numbers}"]
    facts.append(" and ".join(dict.fromkeys(f"backend {record.backend}" for record in records)))
    return [*([f"{len(records)} trainings"] if len(records) > 1 else []), *facts]


def _unfinished(records: Sequence[Record]) -> list[str]:
    said = []
    for record in records:
        if record.summary.get("status") != "finished":
            state = record.summary.get("status", "not ended")
            said.append(f"This training is {state}. To go on with it: poise resume {record.folder}")
    return said


def _cards(
    records: Sequence[Record], settings: Sequence[Setting], findings: dict[Path, list[Finding]]
) -> list[dict[str, str]]:
    cards = []
    for setting in settings:
        scored = [record for record in setting.records if record.summary.get("evaluation")]
        parts = [setting.env] if len({s.env for s in settings}) > 1 else []
        parts += [setting.label] if len(settings) > len({s.env for s in settings}) else []
        name = ", ".join(["greedy return", *parts])
        if len(scored) == 1:
            score = scored[0].summary["evaluation"]
            more = f"95% interval {between(score['low'], score['high'])}, {score['episodes']} episodes"
            cards.append(_card(name, figure(score["mean"]), more))
        elif scored:
            over = evaluation(np.array([_mean(record) for record in scored]))
            more = f"95% interval {between(over['low'], over['high'])}, {len(scored)} trainings"
            cards.append(_card(name, figure(over["mean"]), more))
    count = sum(len(found) for found in findings.values())
    if count:
        every = [finding for found in findings.values() for finding in found]
        worst = by_severity(every)[0].severity
        names = ", ".join(dict.fromkeys(finding.rule for finding in every))
        cards.append(_card("health", f"{count} finding{'s' * (count > 1)}", names, f"text {worst}"))
    else:
        cards.append(_card("health", "nothing found", _healthy(records), "text good"))
    paces = [record.summary.get("steps_per_second") for record in records]
    if known := [pace for pace in paces if pace]:
        total = sum(record.summary["seconds"]["total"] for record in records if record.summary)
        cards.append(_card("pace", f"{np.median(known):,.0f}", f"steps a second; {total:.1f} s in all"))
    return cards


def _card(name: str, value: str, more: str, kind: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "more": more, "kind": kind}


def _healthy(records: Sequence[Record]) -> str:
    judged = [len(record.rows) for record in records if len(record.rows) >= FEWEST]
    if not judged:
        return "too few iterations to judge"
    return f"none of {len(RULES)} rules applies in {sum(judged):,} iterations"


def _compared(comparison: Comparison | None) -> list[dict[str, Any]]:
    if comparison is None:
        return []
    tasks = []
    for env, pairs in comparison.pairs.items():
        rows, settings = [], comparison.of(env)
        for setting in settings:
            score = evaluation(setting.scores)
            bounds = between(score["low"], score["high"])
            iqm = figure(score["iqm"]["value"])
            rows.append((setting.label, len(setting.records), figure(score["mean"]), bounds, iqm))
        legend = [
            f"{s.label}: " + ", ".join(f"{name} {_shown(value)}" for name, value in s.differs.items())
            for s in settings
            if s.label.startswith("setting ")
        ]
        tasks.append({"env": env, "rows": rows, "legend": legend, "sentences": [_sentence(p) for p in pairs]})
    return tasks


def _sentence(pair: Pair) -> str:
    said = pair.sentence()
    return f"{said[0].upper()}{said[1:]}." if said.startswith("no ") else f"{said}."


def _learning(settings: Sequence[Setting], charts: Charts) -> dict[str, Any]:
    """A chart for each environment: sampled returns with their band, greedy ones where there are."""
    drawn = []
    for env in dict.fromkeys(setting.env for setting in settings):
        mine = [
            setting for setting in settings if setting.env == env and any(r.rows for r in setting.records)
        ]
        if not mine:
            continue
        lines = curves(mine)
        if len(mine) == 1 and len(mine[0].records) == 1:
            lines = [Line("training, sampled actions", *_plain(lines[0])), *_greedy(mine[0].records[0])]
        ends = "; ".join(f"{line.label}: {_known(line.value)}" for line in lines)
        label = f"Mean return of the episodes of each iteration in {env}, over steps. At the end {ends}."
        drawn.append(charts.both(draw_lines(lines, env), label))
    many = any(len(setting.records) > 1 for setting in settings)
    caption = (
        "Return over environment steps: mean of the episodes that ended in each iteration, actions sampled"
    )
    caption += "; interquartile mean over the seeds and its 95% bootstrap interval." if many else "."
    return {"learning": drawn, "learning_caption": caption}


def _plain(line: Line) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return line.steps, line.value, line.low, line.high


def _greedy(record: Record) -> list[Line]:
    points = np.array(read_greedy(record.folder), float).reshape(-1, 2)
    if not len(points):
        return []
    nothing = np.full(len(points), np.nan)
    return [Line("greedy, while training", points[:, 0], points[:, 1], nothing, nothing, dashed=True)]


def _known(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return figure(float(known[-1])) if len(known) else "none ended"


def _metrics(settings: Sequence[Setting], charts: Charts) -> dict[str, Any]:
    """Small multiples; the color of a line is that of its setting."""
    drawn = []
    for name, title in HEALTH.items():
        metric, lines = BY_NAME[name], []
        for i, record in ((i, record) for i, setting in enumerate(settings) for record in setting.records):
            values = record.column(name)
            if np.isfinite(values).any():
                lines.append((i, record.steps, values))
        if lines:
            ends = ", ".join(f"{values[np.isfinite(values)][-1]:.2g}" for _, _, values in lines[:6])
            healthy = "" if metric.low is None else f" Healthy: {metric.low:g} to {metric.high:g}."
            label = f"{title} over environment steps; at the end {ends}.{healthy}"
            drawn.append(charts.one(draw_metric(lines, title, metric.low, metric.high), label))
    return {"metrics": drawn}


def _film(record: Record) -> Markup | None:
    """The video inside the page; a sentence where it is too large; None where there is none."""
    for name, kind in (("video.mp4", "video/mp4"), ("video.gif", "image/gif")):
        path = record.folder / name
        if not path.is_file():
            continue
        try:
            data = base64.b64encode(read_plain(path, LARGEST_FILM)).decode()
        except CheckpointError:
            return Markup("<p>The film is too large for a page: {}</p>").format(path)
        source = f"data:{kind};base64,{data}"
        if kind == "image/gif":
            return Markup('<img class="film" alt="The greedy agent" src="{}">').format(source)
        return Markup('<video controls muted loop playsinline src="{}"></video>').format(source)
    return None


def _run_row(record: Record, named: dict[Path, str], findings: dict[Path, list[Finding]]) -> tuple[str, ...]:
    score, best = record.summary.get("evaluation"), record.summary.get("best")
    seconds = record.summary.get("seconds")
    return (
        named[record.folder],
        figure(score["mean"]) if score else "",
        between(score["low"], score["high"]) if score else "",
        figure(best["evaluation"]["mean"]) if best else "",
        f"{int(record.rows[-1]['steps']):,}" if record.rows else "0",
        f"{seconds['total']:.1f}" if seconds else "",
        ", ".join(finding.rule for finding in findings[record.folder]) or "nothing found",
    )


def _episodes(record: Record) -> dict[str, Any]:
    """The best, the worst and the last of one training."""
    ranked = sorted(record.episodes, key=lambda e: e.episodic_return, reverse=True)
    best, worst = ranked[:SHOWN_EPISODES], ranked[SHOWN_EPISODES:][-SHOWN_EPISODES:]
    rows = [_episode(f"best {i}", e) for i, e in enumerate(best, start=1)]
    rows += [_episode(f"worst {len(worst) - i}", e) for i, e in enumerate(worst)]
    last = [_episode(f"{e.env}, {e.index}", e) for e in record.episodes[-LISTED_EPISODES:]]
    caption = f"{len(record.episodes):,} ended while training (seed {record.config.seed}), actions sampled."
    return {"episodes": rows, "more_episodes": last[::-1], "episodes_caption": caption}


def _episode(name: str, e: Any) -> tuple[str, ...]:
    ended = "termination" if e.terminated else "time limit"
    return name, figure(e.episodic_return), f"{e.length:,}", f"{e.step:,}", ended


def _changes(settings: Sequence[Setting]) -> list[tuple[str, ...]]:
    """A row for each option that is not the default somewhere."""
    told = [setting.records[0].config.changes(setting.records[0].spec) for setting in settings]
    names = dict.fromkeys(itertools.chain.from_iterable(told))
    return [(name, *(_shown(t[name]) if name in t else "default" for t in told)) for name in names]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(v) for v in value) if isinstance(value, tuple | list) else f"{value}"


def _times(records: Sequence[Record]) -> dict[str, Any]:
    """What the seconds of all went to."""
    known = [record.summary["seconds"] for record in records if record.summary.get("seconds")]
    parts = {name: sum(float(seconds[name]) for seconds in known) for name in PARTS}
    total = sum(float(seconds["total"]) for seconds in known)
    parts = {name: value for name, value in parts.items() if value > 0}
    whole = max(total, sum(parts.values()), 1e-9)
    times = [
        {"name": PARTS[name], "seconds": f"{value:.1f}", "share": f"{100 * value / whole:.2f}"}
        for name, value in parts.items()
    ]
    label = ", ".join(f"{t['name']} {t['seconds']} s" for t in times) or "not known"
    return {
        "times": times,
        "time_label": f"Seconds: {label}",
        "time_caption": f"{total:.1f} s in all"
        + (f", over {len(known)} trainings." if len(known) > 1 else "."),
    }


def _again(setting: Setting) -> str:
    """The command of the first of its seeds, or of all where they follow each other."""
    seeds = [record.config.seed for record in setting.records]
    command = setting.records[0].command()
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        command += f" --seeds {len(seeds)}"
    return command


def _machine(record: Record) -> str:
    versions = record.summary.get("versions", {})
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    processor = record.summary.get("processor", "")
    return f"{processor}; {named}. The last bits of a result depend on both." if named else ""
