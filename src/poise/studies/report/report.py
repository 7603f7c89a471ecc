"""``poise report``: one training or several as one HTML file, which needs no network and no script."""

import base64
import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from poise.checked import Place, as_path, as_paths, flat
from poise.errors import PoiseError
from poise.health.diagnosis import FEWEST, RULES, examine
from poise.health.findings import Finding, by_severity
from poise.health.telling import best_line
from poise.runs.journal import EVALUATION, read_evaluation, read_greedy
from poise.runs.records import Record, read_record, scored_info
from poise.store.files import FileError, check_room, read_plain, write_text
from poise.studies.comparison import CompareError, Comparison, compare_records, curves, find_runs
from poise.studies.figures import COLORS, Line
from poise.studies.pairs import Pair, correction
from poise.studies.report.charts import HALF, Charts, draw_histogram, draw_lines, draw_metric
from poise.studies.results import evaluation
from poise.studies.settings import Setting, grouped
from poise.system.terminal import typed
from poise.training.metrics import BY_NAME, base_name
from poise.wording import between, continued, counted, figure, interval

DARK = ("#6db3e2", "#f0995a", "#7cc796", "#c79ada", "#e0bd5c", "#9aa7b2")  # COLORS for a dark page
LARGEST_FILM = 2**24  # bytes; a larger page is slow to open
SHOWN_EPISODES, LISTED_EPISODES = 5, 200  # of the best and of the worst; of the last
MOST_CARDS = 4  # scores at the top of the page
MOST_SEEN = 6  # trainings for which the numbers of a finding are shown
HEALTH = {
    "policy/kl": "KL",
    "policy/clip_fraction": "clip fraction",
    "value/explained_variance": "explained variance",
    "policy/std": "standard deviation of actions",
    "policy/saturation": "actions at a bound",
    "value/loss": "value loss",
}
INSIDE = {"episode/success_rate": "success rate"}
MOST_INSIDE = 12  # charts of numbers in infos
PARTS = {
    "import": "import",
    "compile": "compilation",
    "rollout": "rollouts",
    "learn": "learning",
    "log": "tables and curve",
    "film": "video",
    "evaluate": "score",
}


class ReportError(PoiseError):
    """The report cannot be written."""


def report(runs: Place | Iterable[Place], out: str | os.PathLike[str] | None = None) -> Path:
    """Writes one page about some runs, seeds or experiments, and returns its path.

    Args:
        runs: what ``train``, ``experiment`` or ``sweep`` returned, or their folders; one or several. An
            experiment stands for all its runs.
        out: the file; by default ``report.html`` in the folder, or in the working directory if there are
            several folders.

    Raises:
        ReportError: there are no runs, or the page cannot be written.
        CompareError, RecordError, CheckpointError, JournalError: a folder holds no run, or is damaged.
    """
    places = as_paths("runs", runs)
    records = [read_record(path) for path in find_runs(places)]
    if not records:
        raise ReportError(f"{places[0]}: contains no runs")
    alone = places[0] if len(places) == 1 else Path()
    path = alone / "report.html" if out is None else as_path("out", out)
    try:
        write_text(path, page(records, _comparison(records)))
    except OSError as error:
        check_room(path, error)
        raise ReportError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _comparison(records: Sequence[Record]) -> Comparison | None:
    """None if the runs cannot be compared."""
    if len(records) < 2:
        return None
    try:
        return compare_records(records)
    except CompareError:
        return None


def page(records: Sequence[Record], comparison: Comparison | None) -> str:
    """The page as HTML."""
    return rendered("report/report.html.j2", _content(records, comparison))


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """Fills a template of the package; everything that comes from files is escaped."""
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
    shown = [max((r for r in records if r.env == env), key=_mean) for env in envs]  # the best of each
    content: dict[str, Any] = {
        "title": ", ".join(dict.fromkeys(record.env for record in records)),
        "facts": _facts(records),
        "about": _about(records),
        "unfinished": _unfinished(records, named),
        "cards": _cards(records, settings, findings),
        "comparison": _compared(comparison),
        "findings": _finding_cards(findings, named if len(records) > 1 else {}),
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
        | {"inside": _inside(settings, charts)}
        | {"episodes": [_episodes(record, titled) for record in shown if record.episodes]}
        | _times(records)
    )


def _mean(record: Record) -> float:
    score = record.summary.get("evaluation")
    return float(score["mean"]) if score else -math.inf


def _names(records: Sequence[Record], settings: Sequence[Setting]) -> dict[Path, str]:
    """A name for each run: environment and setting, as far as these differ, and the seed."""
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
    facts = [f"{steps[-1]:,} steps", f"{'seed' if len(seeds) == 1 else 'seeds'} {numbers}"]
    facts.append(" and ".join(dict.fromkeys(f"backend {record.backend}" for record in records)))
    dates = sorted({date for record in records if (date := day(record.folder))})
    if dates:
        facts.append(" to ".join(dict.fromkeys([dates[0], dates[-1]])))
    return [*([counted(len(records), "training")] if len(records) > 1 else []), *facts]


def _about(records: Sequence[Record]) -> list[str]:
    """Name, tags and note that all trainings have in common."""
    options = [record.options for record in records]
    texts = [(o.name or "", " ".join(f"#{tag}" for tag in o.tag), o.note or "") for o in options]
    return [text for text, *others in zip(*texts, strict=True) if text and set(others) <= {text}]


def day(folder: Path) -> str | None:
    """The date in the name of a run folder or of its experiment's folder; None if no name holds one."""
    for part in reversed(folder.absolute().parts):
        if match := re.fullmatch(r"(\d{4})(\d\d)(\d\d)-\d{6}-.*", part):
            return "-".join(match.groups())
    return None


def _unfinished(records: Sequence[Record], named: dict[Path, str]) -> list[dict[str, str]]:
    """The state of each training that is not finished, and the command that resumes it."""
    banners = []
    for record in records:
        state = record.summary.get("status", "not finished")
        if state != "finished":
            name = "This training" if len(records) == 1 else f"The training {named[record.folder]}"
            done = int(record.rows[-1]["steps"]) if record.rows else 0
            budget = record.config.num_iterations * record.config.rollout_size
            text = f"{name} is {state}, at step {done:,} of {budget:,}. To resume it:"
            banners.append({"text": text, "command": typed("poise", "resume", record.folder)})
    return banners


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
            episodes = counted(score["episodes"], "episode")
            more = f"95% interval {between(score['low'], score['high'])}, {episodes}"
            cards.append(_card(name, figure(score["mean"]), more))
            cards += _success_card(name, score)
        elif scored:
            over = evaluation(np.array([_mean(record) for record in scored]))
            more = f"95% interval {interval(over)}, {counted(len(scored), 'training')}"
            cards.append(_card(name, figure(over["mean"]), more))
    if len(cards) > MOST_CARDS:  # the table shows all of them
        cards = []
    count = sum(len(listed) for listed in findings.values())
    if count:
        every = [finding for listed in findings.values() for finding in listed]
        worst = by_severity(every)[0].severity
        names = ", ".join(dict.fromkeys(finding.rule for finding in every))
        cards.append(_card("health", counted(count, "finding"), names, f"text {worst}"))
    else:
        judged = any(len(record.rows) >= FEWEST for record in records)
        value, kind = ("good", "text good") if judged else ("not judged", "text")
        cards.append(_card("health", value, _healthy(records), kind))
    paces = [record.summary.get("steps_per_second") for record in records]
    if measured := [pace for pace in paces if pace]:
        total = sum(record.summary["seconds"]["total"] for record in records if record.summary)
        cards.append(
            _card("pace", f"{np.median(measured):,.0f}", f"steps per second; {total:.1f} s in total")
        )
    return cards


def _success_card(name: str, score: Mapping[str, Any]) -> list[dict[str, str]]:
    """The success rate of a score, if it has one. ``name``: of the card of its return."""
    if (rate := score.get("success_rate")) is None:
        return []
    low, high = score.get("success_low"), score.get("success_high")
    more = "mean over the episodes" if low is None else f"95% interval {between(low, high)}"
    return [_card(name.replace("greedy return", "success rate", 1), f"{rate:.2f}", more)]


def _card(name: str, value: str, more: str, kind: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "more": more, "kind": kind}


def _healthy(records: Sequence[Record]) -> str:
    judged = [len(record.rows) for record in records if len(record.rows) >= FEWEST]
    if not judged:
        return f"too few iterations to judge: at least {FEWEST} are needed"
    sentence = f"none of {len(RULES)} rules found a problem in {counted(sum(judged), 'iteration')}"
    if short := len(records) - len(judged):
        sentence += f"; {counted(short, 'training')} too short to judge"
    return sentence


def _finding_cards(findings: dict[Path, list[Finding]], named: dict[Path, str]) -> list[dict[str, Any]]:
    """A card for each rule, the most severe first: what was seen in which training, and what to try."""
    every = [(finding, folder) for folder, listed in findings.items() for finding in listed]
    rules = dict.fromkeys(finding.rule for finding in by_severity(finding for finding, _ in every))
    cards = []
    for rule in rules:
        matching = [(finding, folder) for finding, folder in every if finding.rule == rule]
        seen = [(named.get(folder, ""), finding.seen) for finding, folder in matching]
        cards.append({**matching[0][0].to_dict(), "seen": seen[:MOST_SEEN], "more": len(seen[MOST_SEEN:])})
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
            tasks[-1]["sentences"].append(f"{correction(pairs)}.")
    return tasks


def _sentence(pair: Pair) -> str:
    sentence = pair.sentence()  # a winner's label is not capitalized
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence.startswith("no ") else f"{sentence}."


def _learning(settings: Sequence[Setting], charts: Charts) -> dict[str, Any]:
    """A chart for each environment: returns of sampled actions with their band, and greedy scores if any."""
    drawn = []
    for env in dict.fromkeys(setting.env for setting in settings):
        started = [s for s in settings if s.env == env and any(r.rows for r in s.records)]
        if not started:
            continue
        lines, more = curves(started), {}
        if len(started) == 1 and len(started[0].records) == 1:
            (record,) = started[0].records
            lines = [Line("mean of each iteration", *_points(lines[0])), *_greedy(record)]
            more = {"dots": _dots(record), "level": _level(record)}
        ends = "; ".join(f"{line.label}: {_last(line.value)}" for line in lines)
        label = f"Mean return of the episodes of each iteration in {env}, over steps. Final values: {ends}."
        if level := more.get("level"):
            label += f" {level[0][0].upper()}{level[0][1:]}."
        title = env if len({setting.env for setting in settings}) > 1 else "episodic return"
        drawn.append(charts.both(draw_lines(lines, title, until=_until(started), **more), label))
    many = any(len(setting.records) > 1 for setting in settings)
    caption = (
        "Return over environment steps: mean of the episodes that ended in each iteration, "
        "with sampled actions"
    )
    caption += "; interquartile mean over the seeds and its 95% interval." if many else "."
    return {"learning": drawn, "learning_caption": caption}


def _until(settings: Sequence[Setting]) -> float:
    """The largest budget, in steps: the axis shows if a training stopped early."""
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


def _points(line: Line) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return line.steps, line.value, line.low, line.high


def _greedy(record: Record) -> list[Line]:
    points = np.array(read_greedy(record.folder), float).reshape(-1, 2)
    if not len(points):
        return []
    nothing = np.full(len(points), np.nan)
    return [Line("greedy, while training", points[:, 0], points[:, 1], nothing, nothing, dashed=True)]


def _last(values: np.ndarray) -> str:
    """The last return of a curve, as text."""
    finite = values[np.isfinite(values)]
    return figure(float(finite[-1])) if len(finite) else "no episode ended"


def _metrics(settings: Sequence[Setting], charts: Charts) -> dict[str, Any]:
    """Small multiples of each environment; the color of a line is that of its setting, as in the curves."""
    tasks = []
    for env in dict.fromkeys(setting.env for setting in settings):
        of_env = [setting for setting in settings if setting.env == env]
        drawn = [chart for name in HEALTH if (chart := _metric(name, of_env, charts))]
        legend = [setting.label for setting in of_env] if len(of_env) > 1 else []
        if drawn:
            tasks.append({"env": env, "charts": drawn, "legend": legend})
    return {"metrics": tasks}


def _metric(name: str, settings: Sequence[Setting], charts: Charts) -> Markup | None:
    metric, lines = BY_NAME[base_name(name)], []
    title = HEALTH.get(name) or INSIDE.get(name) or name.removeprefix("episode/")
    for i, record in ((i, record) for i, setting in enumerate(settings) for record in setting.records):
        values = record.column(name)
        if np.isfinite(values).any():
            lines.append((i, record.steps, values))
    if not lines:
        return None
    ends = ", ".join(f"{values[np.isfinite(values)][-1]:.2g}" for _, _, values in lines[:6])
    high = metric.high and metric.highest(settings[0].records[0].spec.dimensions)
    healthy = "" if metric.low is None else f" Healthy: {metric.low:g} to {high:g}."
    label = f"{title} over environment steps; final values: {ends}.{healthy}"
    return charts.one(draw_metric(lines, title, metric.low, high), label)


def _inside(settings: Sequence[Setting], charts: Charts) -> list[dict[str, Any]]:
    """For each environment, the success rate and the numbers in infos: charts, and a table of the scores."""
    tasks = []
    for env in dict.fromkeys(setting.env for setting in settings):
        of_env = [setting for setting in settings if setting.env == env]
        records = [record for setting in of_env for record in setting.records]
        names = dict.fromkeys(name for record in records for name in record.reported)
        first = sorted(names, key=lambda name: name not in INSIDE)[:MOST_INSIDE]
        drawn = [chart for name in first if (chart := _metric(name, of_env, charts))]
        rows = [
            (name, *(_mean_of(setting, name) for setting in of_env))
            for name in dict.fromkeys(name for record in records for name in scored_info(record.summary))
        ]
        if drawn or rows:
            labels = [setting.label for setting in of_env] if len(of_env) > 1 else ["greedy episodes"]
            tasks.append({"env": env, "charts": drawn, "rows": rows, "labels": labels})
    return tasks


def _mean_of(setting: Setting, name: str) -> str:
    """The mean over the trainings of a setting that have this number in their score."""
    values = [scored_info(record.summary).get(name) for record in setting.records]
    known = [value for value in values if value is not None]
    return figure(float(np.mean(known))) if known else ""


def _agent(record: Record, titled: dict[Path, str], charts: Charts) -> dict[str, Any] | None:
    """The video, and the returns behind the score; None if there is neither."""
    (film, filmed), score = _film(record), record.summary.get("evaluation")
    if film is None and not score:
        return None
    agent: dict[str, Any] = {"title": titled.get(record.folder, ""), "film": film, "chart": None, "facts": []}
    if film is not None:
        agent["facts"].append(f"The video shows {filmed}.")
    if score and os.path.lexists(record.folder / EVALUATION):
        returns = read_evaluation(record.folder)
        low, high = (figure(float(bound)) for bound in (returns.min(), returns.max()))
        count = counted(len(returns), "greedy episode")
        label = f"Returns of {count}: {low} to {high}, mean {figure(score['mean'])}."
        title = f"returns of {count}"
        if np.ptp(returns) > 0:
            agent["chart"] = charts.one(draw_histogram(returns, title), label, HALF)
        span = f"returns from {low} to {high}" if np.ptp(returns) > 0 else f"each with a return of {low}"
        agent["facts"].append(f"{count} that training never saw, {span}.")
    if (line := best_line(record.summary)) is not None:
        agent["facts"].append(f"{line[0].upper()}{line[1:]}.")
    return agent


def _film(record: Record) -> tuple[Markup | None, str]:
    """The video, and which agent it shows: preferably the last one, because the score is its score."""
    for name, agent in (("video", "the agent at the end of the training"), ("video_best", "the best agent")):
        if (film := _embedded(record, name)) is not None:
            return film, agent
    return None, ""


def _embedded(record: Record, name: str) -> Markup | None:
    """The video inside the page; a sentence if the file is too large; None if there is none."""
    for suffix, kind in ((".mp4", "video/mp4"), (".gif", "image/gif")):
        path = record.folder / f"{name}{suffix}"
        if not os.path.lexists(path):
            continue
        try:
            data = base64.b64encode(read_plain(path, LARGEST_FILM)).decode()
        except FileError as error:
            return Markup("<p>The video is not shown: {}</p>").format(error)
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
    caption = f"{counted(len(record.episodes), 'episode')} ended during training, with sampled actions."
    if name := titled.get(record.folder):
        caption = f"{name}: {caption}"
    return {"rows": rows, "last": last[::-1], "caption": caption}


def _episode(name: str, e: Any) -> tuple[str, ...]:
    ended = "termination" if e.terminated else "time limit"
    return name, figure(e.episodic_return), f"{e.length:,}", f"{e.step:,}", ended


def _changes(settings: Sequence[Setting]) -> list[tuple[str, ...]]:
    """A row for each option that some setting changed from its default."""
    changes = [setting.records[0].config.changes(setting.records[0].spec) for setting in settings]
    names = dict.fromkeys(itertools.chain.from_iterable(changes))
    return [
        (name.replace("_", "-"), *(_shown(c[name]) if name in c else "default" for c in changes))
        for name in names
    ]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "x".join(str(v) for v in value) if isinstance(value, tuple | list) else f"{value}"


def _times(records: Sequence[Record]) -> dict[str, Any]:
    """The seconds of all trainings by phase."""
    seconds_of = [record.summary["seconds"] for record in records if record.summary.get("seconds")]
    parts = {name: sum(float(seconds.get(name, 0.0)) for seconds in seconds_of) for name in PARTS}
    total = sum(float(seconds["total"]) for seconds in seconds_of)
    parts = {name: value for name, value in parts.items() if value > 0}
    whole = max(total, sum(parts.values()), 1e-9)
    times = [
        {"name": PARTS[name], "seconds": f"{value:.1f}", "share": f"{100 * value / whole:.2f}"}
        for name, value in parts.items()
    ]
    label = ", ".join(f"{t['name']} {t['seconds']} s" for t in times) or "not measured"
    return {
        "times": times,
        "time_label": f"Seconds: {label}",
        "time_caption": f"{total:.1f} s in total"
        + (f", over {counted(len(seconds_of), 'training')}." if len(seconds_of) > 1 else "."),
    }


def _again(setting: Setting) -> str:
    """The command for all its seeds if they are consecutive, otherwise for the first."""
    seeds = [record.config.seed for record in setting.records]
    consecutive = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    return setting.records[0].again(len(seeds) if consecutive else 1)


def _machine(record: Record) -> str:
    versions = record.summary.get("versions", {})
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    processor = record.summary.get("processor", "")
    if not named:
        return ""
    return f"{processor}; {named}. Another processor or other versions can change the last bits of a result."
