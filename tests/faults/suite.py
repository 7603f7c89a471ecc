"""What users and machines do to a training, with real processes and real files.

The long form, whose figures are in docs/reliability.md:

    python3 -m uv run python tests/faults/suite.py --work faults --out benchmarks/faults.csv

Each trial is a row of ``faults/trials.csv`` as soon as it ends; a suite that was stopped goes on from there.
``test_faults.py`` runs a few of each kind.
"""

import argparse
import contextlib
import csv
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

POISE = [sys.executable, "-m", "poise"]
LIMIT = 5.0  # seconds from a signal to the end of the process
PATIENCE = 180.0

# small trainings of every backend: their arguments, after "poise train"
QUICK = ["--no-evaluate", "--no-video", "--checkpoint-every", "1"]
RUNS = {
    "mujoco": ["InvertedPendulum-v4", "--total-steps", "60k", *QUICK],
    "native": ["Pendulum-v1", "--total-steps", "80k", *QUICK],
    "gymnasium": ["CartPole-v1", "--total-steps", "16k", "--num-envs", "4", *QUICK],
    "gymnasium-async": [
        *["CartPole-v1", "--backend", "gymnasium-async", "--total-steps", "4096", "--num-envs", "2"],
        *QUICK,
    ],
}
TWENTY = {  # of 20 iterations each
    "mujoco": ["Reacher-v4", "--total-steps", "2560", "--num-envs", "4", "--ppo.num-steps", "32"],
    "native": ["Pendulum-v1", "--total-steps", "2560", "--num-envs", "4", "--ppo.num-steps", "32"],
    "gymnasium": ["CartPole-v1", "--total-steps", "2560", "--num-envs", "4", "--ppo.num-steps", "32"],
    "gymnasium-async": [
        *["Reacher-v5", "--backend", "gymnasium-async", "--total-steps", "1280", "--num-envs", "2"],
        *["--ppo.num-steps", "32"],
    ],
}
ENDLESS = [  # one compiled call of its first iteration takes minutes
    *["Pendulum-v1", "--total-steps", "40960", "--ppo.num-epochs", "3000", "--no-video"],
    *["--policy.hidden", "512", "512"],
]


class Failed(Exception):
    """A trial that did not go as it must."""


def require(holds: object, what: str) -> None:
    if not holds:
        raise Failed(what)


class Process:
    """A command in a session of its own, so that whatever it leaves behind is found."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str] | None = None):
        cwd.mkdir(parents=True, exist_ok=True)
        self._output = cwd / "output.txt"
        with self._output.open("w") as file:
            self.popen = subprocess.Popen(
                command, cwd=cwd, stdout=file, stderr=file, start_new_session=True, env=env
            )

    def wait(self, seconds: float = PATIENCE) -> int:
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired as error:
            os.killpg(self.popen.pid, signal.SIGKILL)
            raise Failed(f"did not end within {seconds:.0f} s") from error

    def text(self) -> str:
        return self._output.read_text(errors="replace")

    def left(self) -> list[int]:
        """Processes of its session that are still there, those that only wait to be buried left out."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = path.read_text().rpartition(") ")[2].split()[:4]
                if int(session) == self.popen.pid and state not in "ZX":
                    found.append(int(path.parent.name))
        return found

    def nothing_left(self) -> None:
        until = time.monotonic() + 2
        while self.left() and time.monotonic() < until:
            time.sleep(0.05)
        require(not self.left(), "left a process behind")


def run_folder(out: Path) -> Path | None:
    found = [path.parent for path in out.glob("*/*/checkpoints")]
    return found[0] if found else None


def kept(run: Path) -> list[str]:
    """The checkpoints that are acknowledged: their folders have their names."""
    with contextlib.suppress(OSError):
        return sorted(p.name for p in (run / "checkpoints").iterdir() if re.fullmatch(r"\d{12}", p.name))
    return []


def wait_for_checkpoint(process: Process, out: Path) -> Path:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        run = run_folder(out)
        if run is not None and kept(run):
            return run
        if process.popen.poll() is not None:
            raise Failed(f"ended before its first checkpoint: {process.text()[-300:]}")
        time.sleep(0.005)
    raise Failed("no checkpoint in time")


def loadable(run: Path, name: str) -> None:
    from poise.store.checkpoint import load_training

    load_training(run / "checkpoints" / name)


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


class References:
    """Each training undisturbed, once: its hash, tables, and the seconds after its first checkpoint."""

    def __init__(self, work: Path):
        self._work, self._lock = work / "references", threading.Lock()

    def of(self, name: str, arguments: list[str]) -> tuple[dict, Path]:
        with self._lock:
            out = self._work / name
            run = run_folder(out)
            if run is None or not (out / "seconds.json").exists():
                shutil.rmtree(out, ignore_errors=True)
                process = Process([*POISE, "train", *arguments, "--out", str(out)], out)
                wait_for_checkpoint(process, out)
                begun = time.monotonic()
                require(process.wait() == 0, f"the undisturbed training failed: {process.text()[-300:]}")
                (out / "seconds.json").write_text(json.dumps(time.monotonic() - begun))
                run = run_folder(out)
            assert run is not None
            return {**summary(run), "after": json.loads((out / "seconds.json").read_text())}, run


def same_tables(one: Path, other: Path) -> None:
    def metrics(run: Path) -> list[dict]:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]

    require(metrics(one) == metrics(other), "metrics.jsonl differs")
    same = (one / "episodes.csv").read_bytes() == (other / "episodes.csv").read_bytes()
    require(same, "episodes.csv differs")
    sizes = {run: (run / "events.out.tfevents.poise").stat().st_size for run in (one, other)}
    require(len(set(sizes.values())) == 1, "the TensorBoard log differs in length")


def finish(run: Path, name: str, references: References) -> None:
    """Resumes, and compares with the undisturbed training."""
    wanted, whole = references.of(name, RUNS[name])
    process = Process([*POISE, "resume", str(run)], run.parent.parent)
    require(process.wait() == 0, f"resume failed: {process.text()[-300:]}")
    got = summary(run)
    require(got["status"] == "finished", f"status {got['status']}")
    require(got["exact"], "not exact")
    require(got["parameters_sha256"] == wanted["parameters_sha256"], "another hash")
    same_tables(run, whole)
    process.nothing_left()


# -- the faults: each trial raises Failed or returns a note ------------------------------------------


def kill(work: Path, rng: random.Random, references: References) -> str:
    """kill -9 at a random moment after the first checkpoint, at times again while it goes on, then resume."""
    name = rng.choice([*["mujoco"] * 3, *["native"] * 3, *["gymnasium"] * 3, "gymnasium-async"])
    wanted, _ = references.of(name, RUNS[name])
    out, kills = work / "out", 0
    process = Process([*POISE, "train", *RUNS[name], "--out", str(out)], work)
    run = wait_for_checkpoint(process, out)
    for _ in range(rng.choice([1, 1, 2])):
        time.sleep(rng.uniform(0, wanted["after"]))
        before = kept(run)
        if process.popen.poll() is not None:
            break
        process.popen.kill()
        process.wait()
        kills += 1
        process.nothing_left()
        after = kept(run)
        require(after and after[-1] >= before[-1], f"a checkpoint was lost: {before} to {after}")
        for one in after:
            loadable(run, one)
        process = Process([*POISE, "resume", str(run)], work)
        time.sleep(1.5)
    process.wait()
    if not kills:  # it was done before
        return kill(work / "again", rng, references)
    if not (run / "summary.json").exists() or summary(run)["status"] != "finished":
        finish(run, name, references)
    got = summary(run)
    require(got["parameters_sha256"] == wanted["parameters_sha256"], "another hash")
    same_tables(run, references.of(name, RUNS[name])[1])
    return f"{name}, {kills} kills"


def interrupt(work: Path, rng: random.Random, references: References) -> str:
    """Ctrl-C or SIGTERM at a random moment, also during a compiled call that takes minutes."""
    number = rng.choice([signal.SIGINT, signal.SIGTERM])
    name = rng.choice([*RUNS, "one endless call", "one endless call"])
    out = work / "out"
    if name in RUNS:
        arguments, seconds = RUNS[name], references.of(name, RUNS[name])[0]["after"]
    else:
        arguments, seconds = ENDLESS, 12.0
    process = Process([*POISE, "train", *arguments, "--out", str(out)], work)
    run = wait_for_checkpoint(process, out)
    time.sleep(rng.uniform(0, seconds))
    if process.popen.poll() is not None:
        return interrupt(work / "again", rng, references)
    begun = time.monotonic()
    os.kill(process.popen.pid, number)
    code = process.wait()
    took = time.monotonic() - begun
    if code == 0:  # the signal came when all was done
        return interrupt(work / "again", rng, references)
    require(code == 128 + number, f"{name}: exit code {code}: {process.text()[-300:]}")
    require(took < LIMIT, f"{name}: took {took:.1f} s")
    process.nothing_left()
    require(summary(run)["status"] == "interrupted", "the summary does not say interrupted")
    require(int(kept(run)[-1]) == summary(run)["steps"], "the last finished iteration was not saved")
    loadable(run, kept(run)[-1])
    if name in RUNS:
        finish(run, name, references)
    return f"{name}, {signal.Signals(number).name}, {took:.2f} s"


def everywhere(work: Path, backend: str, references: References) -> Iterator[str]:
    """A training of 20 iterations, and a resumption from each of them."""
    options = [*QUICK, "--ppo.minibatch-size", "32", "--ppo.num-epochs", "2"]
    arguments = [*TWENTY[backend], *options]
    wanted, whole = references.of(f"twenty-{backend}", arguments)
    copies = work / "copies"
    script = [sys.executable, str(HERE / "copying.py"), str(copies), "train", *arguments]
    process = Process([*script, "--out", str(work / "out")], work)
    require(process.wait() == 0, f"failed: {process.text()[-300:]}")
    for copy in sorted(copies.iterdir()):
        process = Process([*POISE, "resume", str(copy)], work / "resumed")
        require(process.wait() == 0, f"{copy.name}: resume failed: {process.text()[-300:]}")
        got = summary(copy)
        require(got["exact"], f"{copy.name}: not exact")
        same = got["parameters_sha256"] == wanted["parameters_sha256"]
        require(same, f"{copy.name}: another hash")
        same_tables(copy, whole)
        yield f"{backend}, from step {int(copy.name)}"


KINDS = ("raise", "nan", "infinite", "shape", "dtype", "none", "hang", "exit", "kill")
MOMENTS = {"at reset": "0 0", "early": "0 3", "late": "8 2"}  # episode and step of environment 1


def environment(work: Path, kind: str, moment: str) -> str:
    """An environment that misbehaves, by itself or as a process of its own."""
    work.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "misbehaving.py", work)
    (work / "plan").write_text(f"{kind} {MOMENTS[moment]}")
    own = kind in ("hang", "exit", "kill")
    arguments = ["misbehaving:Misbehaving-v0", "--total-steps", "800", "--num-envs", "2", *QUICK]
    arguments += ["--ppo.num-steps", "20", "--ppo.minibatch-size", "20", "--ppo.num-epochs", "1"]
    if own:
        arguments += ["--backend", "gymnasium-async", "--env-timeout", "4"]
    process = Process([*POISE, "train", *arguments, "--out", "out"], work)
    code = process.wait()
    text = process.text()
    require(code == 1, f"exit code {code}: {text[-300:]}")
    require("Traceback" not in text, f"a traceback: {text[-300:]}")
    process.nothing_left()
    from poise.seeds import Stream, episode_seed

    episode, step = map(int, MOMENTS[moment].split())
    seed = episode_seed(0, Stream.TRAINING, 1, episode)
    place = f"poise: misbehaving:Misbehaving-v0, environment 1, episode seed {seed}, step {step}: "
    require(place in text, f"no message {place!r}: {text[-300:]}")
    run = run_folder(work / "out")
    assert run is not None
    steps = summary(run)["steps"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    require(len(rows) * 40 == steps == int(kept(run)[-1]), "the finished iterations were not kept")
    require(steps > 0 or moment != "late", "the late one was early")
    loadable(run, kept(run)[-1])
    crash = json.loads((run / "crash.json").read_text())
    require((crash["seed"], crash["step"], len(crash["actions"])) == (seed, step, step), "another crash.json")
    return text[text.index(place) + len(place) :].splitlines()[0]


def full_disk(work: Path, rng: random.Random, references: References) -> str:
    """A small disk that fills up while checkpoints are written; then room, and resume."""
    name = rng.choice(["mujoco", "native", "gymnasium"])
    _, whole = references.of(name, RUNS[name])
    disk = work / "disk"
    disk.mkdir(parents=True)
    room = rng.randrange(300, 1100)  # KiB; a whole run takes about 1.2 MiB
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(disk)], check=True)
    try:
        process = Process([*POISE, "train", *RUNS[name], "--out", str(disk / "out")], work)
        code, text = process.wait(), process.text()
        if code == 0:
            raise Failed("the disk was large enough")
        require(code == 75, f"exit code {code}: {text[-300:]}")
        require("Traceback" not in text, f"a traceback: {text[-300:]}")
        require("the disk is full" in text, f"does not say it: {text[-300:]}")
        process.nothing_left()
        run = run_folder(disk / "out")
        assert run is not None
        saved = kept(run)
        require(saved, "no checkpoint")
        for one in saved:
            loadable(run, one)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        finish(run, name, references)
        same_tables(run, whole)
        return f"{name}, {room} KiB, at step {int(saved[-1])}"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def memory(work: Path, steps: str = "1M", first: int = 100_000) -> str:
    """Resident memory after ``first`` steps and at the end of the training."""
    out = work / "out"
    arguments = ["InvertedPendulum-v4", "--total-steps", steps, "--no-evaluate", "--no-video"]
    process = Process([*POISE, "train", *arguments, "--out", str(out)], work)
    run = wait_for_checkpoint(process, out)
    page, seen = os.sysconf("SC_PAGE_SIZE"), []
    status = Path(f"/proc/{process.popen.pid}/statm")
    while process.popen.poll() is None and not (run / "curve.png").exists():
        with contextlib.suppress(OSError, ValueError, IndexError):
            resident = int(status.read_text().split()[1]) * page
            rows = (run / "metrics.jsonl").read_bytes().count(b"\n")
            seen.append((rows * 2048, resident))
        time.sleep(0.05)
    require(process.wait() == 0, process.text()[-300:])
    total = summary(run)["steps"]
    at_first = next(resident for at, resident in seen if at >= first)
    at_end = [resident for at, resident in seen if at < total][-1]
    growth = at_end / at_first - 1
    note = f"{at_first / 1e6:.0f} MB after {first:,} steps, {at_end / 1e6:.0f} MB at the end ({growth:+.1%})"
    require(growth < 0.05, note)
    return note


SPREAD = {  # what a cluster does: its arguments, and those that spread it
    "workers": (["train", "InvertedPendulum-v4", "--total-steps", "200k"], ["--workers", "2"]),
    "workers-replayed": (
        ["train", "CartPole-v1", "--total-steps", "80k", "--num-envs", "4"],
        ["--workers", "2"],
    ),
    "experiment": (["experiment", "InvertedPendulum-v4", "CartPole-v1", "--seeds", "2"], []),
}


def hashes(out: Path) -> dict[str, str]:
    """Of every finished run below ``out``, by its environment and seed."""
    found = [summary(path.parent) for path in out.glob("**/checkpoints")]
    require(all(one["status"] == "finished" and one["exact"] for one in found), "a run did not end well")
    return {f"{one['env']} {one['seed']}": one["parameters_sha256"] for one in found}


def undisturbed(name: str, work: Path) -> dict[str, str]:
    """The hashes that one process of this machine comes to, which trains without a cluster."""
    out = work / "references" / name
    if not (out / "hashes.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        process = Process([*POISE, *spread(name), "--out", str(out)], out)
        require(process.wait() == 0, f"the undisturbed one failed: {process.text()[-300:]}")
        (out / "hashes.json").write_text(json.dumps(hashes(out)))
    return json.loads((out / "hashes.json").read_text())


def spread(name: str) -> list[str]:
    arguments, workers = SPREAD[name]
    budget = [] if "--total-steps" in arguments else ["--total-steps", "48k"]
    return [*arguments, *budget, *QUICK, *(["--env-groups", "4"] if workers else [])]


def cluster_kills(work: Path, rng: random.Random, name: str, references: Path) -> str:
    """Kills of a random worker or of the second of two nodes, which mostly comes back; two in a trial."""
    import nodes

    wanted = undisturbed(name, references)
    done = []
    with nodes.cluster() as cluster:
        command = [
            *POISE,
            *spread(name),
            *SPREAD[name][1],
            "--ray",
            cluster.address,
            "--out",
            str(work / "out"),
        ]
        process = Process(command, work, cluster.environment)
        for _ in range(2):
            until = time.monotonic() + PATIENCE
            while process.popen.poll() is None and not cluster.at_work():
                require(time.monotonic() < until, f"no worker: {process.text()[-300:]}")
                time.sleep(0.05)
            time.sleep(rng.uniform(1, 6))
            if process.popen.poll() is not None:
                break
            if rng.random() < 0.6:
                if at_work := cluster.at_work():
                    nodes.kill([rng.choice(at_work)])
                    done.append("a worker")
            else:
                cluster.second.kill()
                done.append("the second node")
                if rng.random() < 0.75:
                    time.sleep(rng.uniform(0, 3))
                    cluster.second = cluster.another()
        code = process.wait()
        require(code == 0, f"exit code {code}: {process.text()[-400:]}")
        process.nothing_left()
    if not done:  # it was done before
        return cluster_kills(work / "again", rng, name, references)
    got = hashes(work / "out")
    require(got == wanted, f"after {done}: {got}, should be {wanted}")
    return f"{name}: {', '.join(done)}"


# -- the suite -----------------------------------------------------------------------------------


class Trials:
    """What was tried, as it ends."""

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        self.rows: list[list[str]] = []
        if path.exists():
            self.rows = list(csv.reader(path.read_text().splitlines()))

    def done(self, fault: str) -> set[str]:
        return {row[1] for row in self.rows if row[0] == fault}

    def add(self, fault: str, trial: str, passed: bool, note: str) -> None:
        with self._lock:
            row = [fault, trial, "passed" if passed else "failed", " ".join(note.split())]
            self.rows.append(row)
            with self._path.open("a", newline="") as file:
                csv.writer(file).writerow(row)
            print(*row, flush=True)


def attempt(trials: Trials, fault: str, trial: str, work: Path, run: Callable[[Path], str]) -> None:
    if trial in trials.done(fault):
        return
    folder = work / "trials" / re.sub(r"[^\w.-]+", "-", f"{fault}-{trial}")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        trials.add(fault, trial, True, run(folder))
        shutil.rmtree(folder, ignore_errors=True)
    except Failed as error:
        trials.add(fault, trial, False, str(error))
    except Exception as error:  # of the trial itself; it is no pass either
        trials.add(fault, trial, False, f"{type(error).__name__}: {error}")


def everywhere_all(trials: Trials, work: Path, references: References) -> None:
    for backend in TWENTY:
        if len([t for t in trials.done("everywhere") if t.startswith(backend)]) >= 20:
            continue
        folder = work / "trials" / f"everywhere-{backend}"
        shutil.rmtree(folder, ignore_errors=True)
        count = 0
        try:
            for note in everywhere(folder, backend, references):
                trials.add("everywhere", f"{backend} {count}", True, note)
                count += 1
        except Failed as error:
            trials.add("everywhere", f"{backend} {count}", False, str(error))


def strangers(trials: Trials, work: Path, count: int) -> None:
    """Files of strangers, by two processes side by side; those of an earlier call are not tried again."""
    import foreign

    done = len(trials.done("foreign"))

    def half(side: int) -> None:
        missing = (count - done + side) // 2
        for trial, passed, note in foreign.foreign(work / str(side), missing, 10**6 * side + done):
            trials.add("foreign", trial, passed, note)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(half, (0, 1)))


SUITE = {  # fault: how often, and what it is called in docs/reliability.md
    "kill": (200, "`kill -9` at a random moment, then resume"),
    "interrupt": (50, "Ctrl-C or SIGTERM at a random moment"),
    "everywhere": (80, "resume from each of 20 iterations, four backends"),
    "checkpoints": (6000, "malformed checkpoints, in one process"),
    "checkpoints-processes": (100, "malformed checkpoints, as processes"),
    "foreign": (5000, "files of strangers before every verb that reads them"),
    "options": (10_000, "malformed configurations and options, in one process"),
    "options-processes": (100, "malformed options, as processes"),
    "damaged": (12, "a damaged newest checkpoint in an experiment or a sweep: 4 kinds, 3 places"),
    "links": (54, "links under the names that commands write"),
    "environment": (len(KINDS) * len(MOMENTS), "environments that misbehave: 9 kinds, 3 moments"),
    "full_disk": (50, "disk full while a checkpoint is written, then resume"),
    "memory": (1, "1M steps of InvertedPendulum-v4, resident memory"),
    "cluster": (15, "two kills of a worker or a node of a Ray cluster of two"),
}


def run_suite(names: list[str], work: Path, trials: Trials, most: int | None = None) -> None:
    import keeping
    import malformed

    references = References(work)
    for name in names:
        count = SUITE[name][0] if most is None else most
        match name:
            case "everywhere":
                everywhere_all(trials, work, references)
            case "memory":
                attempt(trials, name, "0", work, memory)
            case "cluster":  # one at a time: each is a cluster
                for trial in range(count):
                    chosen = list(SPREAD)[trial % len(SPREAD)]
                    attempt(
                        trials, name, str(trial), work,
                        lambda folder, n=chosen, t=trial: cluster_kills(
                            folder, random.Random(f"cluster {t}"), n, work
                        ),
                    )  # fmt: skip
            case "checkpoints" | "options":
                missing = count - len(trials.done(name))
                if missing > 0:
                    runner = malformed.checkpoints if name == "checkpoints" else malformed.options
                    for trial, passed, note in runner(work / name, missing):
                        trials.add(name, trial, passed, note)
            case "foreign":
                strangers(trials, work / name, count)
            case "damaged":
                for trial, (damage, place) in enumerate(itertools.product(keeping.DAMAGES, keeping.PLACES)):
                    if trial < count:
                        attempt(
                            trials, name, f"{damage}, {place}", work,
                            lambda folder, d=damage, p=place: keeping.damaged(folder, d, p),
                        )  # fmt: skip
            case "links":
                for trial, one in itertools.islice(keeping.links(), count):
                    attempt(trials, name, trial, work, one)
            case "environment":
                with ThreadPoolExecutor(2) as pool:
                    for kind in KINDS:
                        for moment in MOMENTS:
                            pool.submit(
                                attempt, trials, name, f"{kind} {moment}", work,
                                lambda folder, k=kind, m=moment: environment(folder, k, m),
                            )  # fmt: skip
            case _:
                one = {
                    "kill": kill,
                    "interrupt": interrupt,
                    "full_disk": full_disk,
                    "checkpoints-processes": malformed.checkpoint_process,
                    "options-processes": malformed.options_process,
                }[name]
                with ThreadPoolExecutor(2) as pool:
                    for trial in range(count):
                        pool.submit(
                            attempt, trials, name, str(trial), work,
                            lambda folder, f=one, t=trial, n=name: f(
                                folder, random.Random(f"{n} {t}"), references
                            ),
                        )  # fmt: skip


def write_results(trials: Trials, out: Path) -> None:
    """One row for each fault that was tried, beside those of other days."""
    kept = csv.DictReader(out.read_text().splitlines()) if out.exists() else ()
    rows = {row["fault"]: row for row in kept}
    for name in SUITE:
        mine = [row for row in trials.rows if row[0] == name]
        if mine:
            passed = sum(row[2] == "passed" for row in mine)
            note = longest(mine) if name == "interrupt" else mine[-1][3] if name == "memory" else ""
            rows[name] = {
                "fault": name, "tried": len(mine), "passed": passed, "date": date.today().isoformat(),
                "cores": os.cpu_count(), "note": note,
            }  # fmt: skip
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["fault", "tried", "passed", "date", "cores", "note"])
        writer.writeheader()
        writer.writerows(rows[name] for name in SUITE if name in rows)


def longest(rows: list[list[str]]) -> str:
    seconds = [float(match[1]) for row in rows if (match := re.search(r"([\d.]+) s$", row[3]))]
    return f"longest {max(seconds):.1f} s" if seconds else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(SUITE)}; by default all")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "poise-faults")
    parser.add_argument("--out", type=Path, help="a CSV with a row for each fault")
    parser.add_argument(
        "--count", type=int, help="how many trials of each; by default those of the long form"
    )
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    trials = Trials(given.work / "trials.csv")
    run_suite(given.faults or list(SUITE), given.work, trials, given.count)
    if given.out:
        write_results(trials, given.out)


if __name__ == "__main__":
    main()
