"""``poise report``: one HTML file of a training or of several, which needs no network and no script."""

import base64
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from poise.checked import flat
from poise.errors import PoiseError
from poise.health.diagnosis import FEWEST, RULES, examine
from poise.health.findings import Finding, by_severity
from poise.health.telling import best_line
from poise.runs.journal import EVALUATION, read_evaluation, read_greedy
from poise.runs.records import Record, read_record
from poise.store.files import FileError, check_room, read_plain, write_text
from poise.studies.comparison import (
    CompareError,
    Comparison,
    Pair,
    Setting,
    compare_records,
    curves,
    find_runs,
    grouped,
)
from poise.studies.experiment import evaluation
from poise.studies.figures import COLORS, Line
from poise.studies.report.charts import HALF, Charts, draw_histogram, draw_lines, draw_metric
from poise.system.terminal import typed
from poise.training.metrics import BY_NAME
from poise.wording import between, continued, figure, interval

DARK = ("#6db3e2", "#f0995a", "#7cc796", "#c79ada", "#e0bd5c", "#9aa7b2")  # as COLORS, on a dark page
LARGEST_FILM = 2**24  # bytes; a page of more is slow to open
SHOWN_EPISODES, LISTED_EPISODES = 5, 200  # best and worst; the last ones
MOST_CARDS = 4  # scores at the top of the page
MOST_SEEN = 6  # trainings of which a finding is told with its numbers
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
    "log": "tables and curve",
    "film": "film",
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
        write_text(out, page(records, _comparison(records)))
    except OSError as error:
        check_room(out, error)
        raise ReportError(f"{out}: cannot be written: {error.strerror}") from error
    return out


def _comparison(records: Sequence[Record]) -> Comparison | None:
    """None where there is nothing to compare."""
    if len(records) < 2:
        return None
    try:
        return compare_records(records)
    except CompareError:
        return None


def page(records: Sequence[Record], comparison: Comparison | None) -> str:
    """The whole page."""
    return rendered("report/report.html.j2", _content(records, comparison))


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """A page of this look. All that comes from files is escaped."""
    templates = Environment(
        loader=PackageLoader("poise.studies", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["continued"] = continued
    return templates.get_template(template).render({"light": COLORS, "dark": DARK, **content})


def _content(records: Sequence[Record], comparison: Comparison | None) -> dict[str, Any]:
    charts, settings = Charts(), grouped(records)
    findings = {record.folder: examine(record) for record in records}
    named = _names(records, settings)
    envs = dict.fromkeys(setting.env for setting in settings)
    shown = [max((r for r in records if r.env == env), key=_mean) for env in envs]  # of each the best
    content: dict[str, Any] = {
        "title": ", ".join(dict.fromkeys(record.env for record in records)),
        "facts": _facts(records),
        "unfinished": _unfinished(records, named),
        "cards": _cards(records, settings, findings),
        "comparison": _compared(comparison),
        "findings": _told(findings, named if len(records) > 1 else {}),
        "healthy": _healthy(records),
        "runs": [_run_row(record, named, findings) for record in records],
        "change_columns": [setting.label for setting in settings] if len(settings) > 1 else ["value"],
        "changes": _changes(settings),
        "options": [(n, _shown(v)) for n, v in flat(shown[0].config.to_dict()).items()],
        "options_of": f" of {named[shown[0].folder]}" if len(settings) > 1 else "",
        "commands": [_again(setting) for setting in settings],
        "machine": _machine(shown[0]),
        "folders": [str(record.folder) for record in records],
    }
    titled = named if len(records) > 1 else {}
    return (
        content
        | _learning(settings, charts)
        | {"agents": [agent for record in shown if (agent := _agent(record, titled, charts))]}
        | _metrics(settings, charts)
        | {"episodes": [_episodes(record, titled) for record in shown if record.episodes]}
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
    dates = sorted({found for record in records if (found := day(record.folder))})
    if dates:
        facts.append(" to ".join(dict.fromkeys([dates[0], dates[-1]])))
    return [*([f"{len(records)} trainings"] if len(records) > 1 else []), *facts]


def day(folder: Path) -> str | None:
    """When a training began, as the name of its folder or of its experiment's says; of other names none."""
    for part in reversed(folder.absolute().parts):
        if found := re.fullmatch(r"(\d{4})(\d\d)(\d\d)-\d{6}-.*", part):
            return "-".join(found.groups())
    return None


def _unfinished(records: Sequence[Record], named: dict[Path, str]) -> list[dict[str, str]]:
    """What is to be known of those that did not come to their end."""
    said = []
    for record in records:
        state = record.summary.get("status", "not ended")
        if state != "finished":
            name = "This training" if len(records) == 1 else f"The training {named[record.folder]}"
            done = int(record.rows[-1]["steps"]) if record.rows else 0
            budget = record.config.num_iterations * record.config.rollout_size
            text = f"{name} is {state}, at step {done:,} of {budget:,}. To go on with it:"
            said.append({"text": text, "command": typed("poise", "resume", record.folder)})
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
            more = f"95% interval {interval(over)}, {len(scored)} trainings"
            cards.append(_card(name, figure(over["mean"]), more))
    if len(cards) > MOST_CARDS:  # the table has them all
        cards = []
    count = sum(len(found) for found in findings.values())
    if count:
        every = [finding for found in findings.values() for finding in found]
        worst = by_severity(every)[0].severity
        names = ", ".join(dict.fromkeys(finding.rule for finding in every))
        cards.append(_card("health", f"{count} finding{'s' * (count > 1)}", names, f"text {worst}"))
    else:
        judged = any(len(record.rows) >= FEWEST for record in records)
        value, kind = ("good", "text good") if judged else ("not judged", "text")
        cards.append(_card("health", value, _healthy(records), kind))
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
        return f"too few iterations to judge: at least {FEWEST} needed"
    said = f"none of {len(RULES)} rules applies in {sum(judged):,} iterations"
    if short := len(records) - len(judged):
        said += f"; {short} training{'s' * (short > 1)} too short to judge"
    return said


def _told(findings: dict[Path, list[Finding]], named: dict[Path, str]) -> list[dict[str, Any]]:
    """A card for each rule, the gravest first: what was seen where, and what to try in the first of them."""
    every = [(finding, folder) for folder, found in findings.items() for finding in found]
    rules = dict.fromkeys(finding.rule for finding in by_severity(finding for finding, _ in every))
    cards = []
    for rule in rules:
        mine = [(finding, folder) for finding, folder in every if finding.rule == rule]
        seen = [(named.get(folder, ""), finding.seen) for finding, folder in mine]
        cards.append({**mine[0][0].to_dict(), "seen": seen[:MOST_SEEN], "more": len(seen[MOST_SEEN:])})
    return cards


def _compared(comparison: Comparison | None) -> list[dict[str, Any]]:
    if comparison is None:
        return []
    tasks = []
    for env, pairs in comparison.pairs.items():
        settings = comparison.of(env)
        rows, legend = [s.row() for s in settings], [s.legend for s in settings if s.legend]
        tasks.append({"env": env, "rows": rows, "legend": legend, "sentences": [_sentence(p) for p in pairs]})
        if len(pairs) > 1:
            tasks[-1]["sentences"].append(f"p is corrected for {len(pairs)} comparisons, after Holm.")
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
        lines, more = curves(mine), {}
        if len(mine) == 1 and len(mine[0].records) == 1:
            (record,) = mine[0].records
            lines = [Line("mean of an iteration", *_plain(lines[0])), *_greedy(record)]
            more = {"dots": _dots(record), "level": _level(record)}
        ends = "; ".join(f"{line.label}: {_known(line.value)}" for line in lines)
        label = f"Mean return of the episodes of each iteration in {env}, over steps. At the end {ends}."
        if level := more.get("level"):
            label += f" {level[0][0].upper()}{level[0][1:]}."
        title = env if len({setting.env for setting in settings}) > 1 else "episodic return"
        drawn.append(charts.both(draw_lines(lines, title, until=_until(mine), **more), label))
    many = any(len(setting.records) > 1 for setting in settings)
    caption = (
        "Return over environment steps: mean of the episodes that ended in each iteration, actions sampled"
    )
    caption += "; interquartile mean over the seeds and its 95% interval." if many else "."
    return {"learning": drawn, "learning_caption": caption}


def _until(settings: Sequence[Setting]) -> float:
    """The largest budget, in steps: a training that was cut off is seen to be."""
    configs = [record.config for setting in settings for record in setting.records]
    return float(max(config.num_iterations * config.rollout_size for config in configs))


def _dots(record: Record) -> tuple[np.ndarray, np.ndarray] | None:
    """Step and return of each episode."""
    if not record.episodes:
        return None
    points = np.array([(e.step, e.episodic_return) for e in record.episodes], float)
    return points[:, 0], points[:, 1]


def _level(record: Record) -> tuple[str, float, float, float] | None:
    """The final score and its interval."""
    score = record.summary.get("evaluation")
    if not score:
        return None
    low, high = (np.nan if score.get(name) is None else float(score[name]) for name in ("low", "high"))
    name = f"greedy, after training: {figure(score['mean'])}"
    return name, float(score["mean"]), low, high


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
    """Small multiples of each environment; the color of a line is that of its setting, as in the curves."""
    tasks = []
    for env in dict.fromkeys(setting.env for setting in settings):
        mine = [setting for setting in settings if setting.env == env]
        drawn = [chart for name in HEALTH if (chart := _metric(name, mine, charts))]
        legend = [setting.label for setting in mine] if len(mine) > 1 else []
        if drawn:
            tasks.append({"env": env, "charts": drawn, "legend": legend})
    return {"metrics": tasks}


def _metric(name: str, settings: Sequence[Setting], charts: Charts) -> Markup | None:
    metric, lines, title = BY_NAME[name], [], HEALTH[name]
    for i, record in ((i, record) for i, setting in enumerate(settings) for record in setting.records):
        values = record.column(name)
        if np.isfinite(values).any():
            lines.append((i, record.steps, values))
    if not lines:
        return None
    ends = ", ".join(f"{values[np.isfinite(values)][-1]:.2g}" for _, _, values in lines[:6])
    high = metric.high and metric.highest(settings[0].records[0].spec.dimensions)
    healthy = "" if metric.low is None else f" Healthy: {metric.low:g} to {high:g}."
    label = f"{title} over environment steps; at the end {ends}.{healthy}"
    return charts.one(draw_metric(lines, title, metric.low, high), label)


def _agent(record: Record, titled: dict[Path, str], charts: Charts) -> dict[str, Any] | None:
    """The film, and the returns behind the score; None where there is neither."""
    (film, filmed), score = _film(record), record.summary.get("evaluation")
    if film is None and not score:
        return None
    agent: dict[str, Any] = {"title": titled.get(record.folder, ""), "film": film, "chart": None, "facts": []}
    if film is not None:
        agent["facts"].append(f"The film shows {filmed}.")
    if score and os.path.lexists(record.folder / EVALUATION):
        returns = read_evaluation(record.folder)
        low, high = (figure(float(bound)) for bound in (returns.min(), returns.max()))
        label = f"Returns of {len(returns)} greedy episodes: {low} to {high}, mean {figure(score['mean'])}."
        title = f"returns of {len(returns)} greedy episodes"
        if np.ptp(returns) > 0:
            agent["chart"] = charts.one(draw_histogram(returns, title), label, HALF)
        span = f"from {low} to {high}" if np.ptp(returns) > 0 else f"each with a return of {low}"
        agent["facts"].append(f"{len(returns)} greedy episodes that training never saw, {span}.")
    if (line := best_line(record.summary)) is not None:
        agent["facts"].append(f"{line[0].upper()}{line[1:]}.")
    return agent


def _film(record: Record) -> tuple[Markup | None, str]:
    """The video, and which agent it shows. That of the last agent is preferred, as the score is of it."""
    for name, agent in (("video", "the agent at the end of the training"), ("video_best", "the best agent")):
        if (film := _embedded(record, name)) is not None:
            return film, agent
    return None, ""


def _embedded(record: Record, name: str) -> Markup | None:
    """The video inside the page; a sentence where it is too large; None where there is none."""
    for suffix, kind in ((".mp4", "video/mp4"), (".gif", "image/gif")):
        path = record.folder / f"{name}{suffix}"
        if not os.path.lexists(path):
            continue
        try:
            data = base64.b64encode(read_plain(path, LARGEST_FILM)).decode()
        except FileError as error:
            return Markup("<p>The film is not shown: {}</p>").format(error)
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
        ", ".join(finding.rule for finding in findings[record.folder]) or "good",
    )


def _episodes(record: Record, titled: dict[Path, str]) -> dict[str, Any]:
    """The best, the worst and the last of one training."""
    ranked = sorted(record.episodes, key=lambda e: e.episodic_return, reverse=True)
    best, worst = ranked[:SHOWN_EPISODES], ranked[SHOWN_EPISODES:][-SHOWN_EPISODES:]
    rows = [_episode(f"best {i}", e) for i, e in enumerate(best, start=1)]
    rows += [_episode(f"worst {len(worst) - i}", e) for i, e in enumerate(worst)]
    last = [_episode(f"{e.env}, {e.index}", e) for e in record.episodes[-LISTED_EPISODES:]]
    caption = f"{len(record.episodes):,} ended while training, actions sampled."
    if name := titled.get(record.folder):
        caption = f"{name}: {caption}"
    return {"rows": rows, "last": last[::-1], "caption": caption}


def _episode(name: str, e: Any) -> tuple[str, ...]:
    ended = "termination" if e.terminated else "time limit"
    return name, figure(e.episodic_return), f"{e.length:,}", f"{e.step:,}", ended


def _changes(settings: Sequence[Setting]) -> list[tuple[str, ...]]:
    """A row for each option that is not the default somewhere."""
    told = [setting.records[0].config.changes(setting.records[0].spec) for setting in settings]
    names = dict.fromkeys(itertools.chain.from_iterable(told))
    return [
        (name.replace("_", "-"), *(_shown(t[name]) if name in t else "default" for t in told))
        for name in names
    ]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "x".join(str(v) for v in value) if isinstance(value, tuple | list) else f"{value}"


def _times(records: Sequence[Record]) -> dict[str, Any]:
    """What the seconds of all went to."""
    known = [record.summary["seconds"] for record in records if record.summary.get("seconds")]
    parts = {name: sum(float(seconds.get(name, 0.0)) for seconds in known) for name in PARTS}
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
    command = setting.records[0].again()
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        command += f" --seeds {len(seeds)}"
    return command


def _machine(record: Record) -> str:
    versions = record.summary.get("versions", {})
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    processor = record.summary.get("processor", "")
    return f"{processor}; {named}. The last bits of a result depend on both." if named else ""
