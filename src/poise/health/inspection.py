"""``poise check ENV``: what in an environment would spoil a training, found by playing it.

All of it is done in a process of its own, which may die or hang. What is played is a function of fixed seeds.
No rule knows an environment's name.
"""

import itertools
import json
import multiprocessing
import os
import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from poise import defaults, envs
from poise.envs.checking import Checked, EnvFault, described
from poise.envs.gymnasium import is_registered, make_plain, spec_of
from poise.envs.mujoco_warnings import hear_mujoco
from poise.envs.vector import EnvError
from poise.health.findings import Finding, by_severity
from poise.health.forecast import costs, in_words
from poise.health.probing import Alone, Play, Send, fault_in_words, outside
from poise.health.symptoms import RULES
from poise.spec import Spec
from poise.system.terminal import typed

SECONDS = 10.0  # of random play; a quick environment needs a tenth of that


@dataclass(frozen=True)
class Inspection:
    """What was found, gravest first, and the facts that go before it.

    Attributes:
        env: the id.
        facts: spaces, time limit, backend, microseconds of a step and a reset, seconds that training would
            take, how much was played; what is not known is missing.
    """

    env: str
    facts: dict[str, Any]
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether a training would be right."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        findings = [finding.to_dict() for finding in self.findings]
        return {"env": self.env, "ok": self.ok, "facts": self.facts, "findings": findings}

    def lines(self) -> list[str]:
        """What a person reads."""
        said = [self.env, *_facts_in_words(self.facts), ""]
        for finding in self.findings:
            said += [*finding.lines(), ""]
        counts = {s: sum(f.severity == s for f in self.findings) for s in ("error", "warning", "note")}
        named = [f"{n} {s}{'s' * (n > 1)}" for s, n in counts.items() if n]
        said.append(", ".join(named) if named else "nothing found")
        if self.ok:
            said.append(f"to train on it: {typed('poise', 'train', self.env)}")
        return said


def inspect(id: str, *, timeout: float = 60.0) -> Inspection:
    """Plays an environment and says what is wrong with it.

    Args:
        id: a registered id, or ``module:name`` of an id or a class. The module is imported.
        timeout: seconds after which a step, a reset or its making counts as hanging.

    Raises:
        EnvError: there is no such environment.
    """
    envs.resolve(id)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_play_elsewhere, args=(id, theirs), daemon=True)
    process.start()
    theirs.close()
    facts: dict[str, Any] = {}
    findings: list[Finding] = []
    doing = "being made"
    try:
        while True:
            if not mine.poll(timeout):
                findings.append(_hangs(doing, timeout))
                break
            kind, told = json.loads(mine.recv_bytes())
            if kind == "finding":
                findings.append(Finding(**told))
            elif kind == "facts":
                facts |= told
            elif kind == "doing":
                doing = told
            else:
                break
    except EOFError:
        process.join(5)
        findings.append(_dies(doing, process.exitcode))
    finally:
        mine.close()
        process.kill()
        process.join()
    return Inspection(id, facts, by_severity(findings))


def _hangs(doing: str, timeout: float) -> Finding:
    return Finding(
        "hangs",
        "error",
        f"no response for {timeout:g} s while {doing}",
        "A training would wait there for ever, or with --backend gymnasium-async until --env-timeout.",
        "if it is only slow, give it more time: --env-timeout SECONDS",
    )


def _dies(doing: str, code: int | None) -> Finding:
    return Finding(
        "dies",
        "error",
        f"its process {_ending(code)} while {doing}",
        "A training would end there, or with --backend gymnasium-async --on-crash restart go on without that "
        "episode.",
        "look for a crash in compiled code, or a call that ends the process",
    )


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _play_elsewhere(id: str, pipe: Connection) -> None:
    """The child: tells the parent what it does, what it finds, and that it is done."""

    def send(kind: str, told: Any) -> None:
        pipe.send_bytes(json.dumps([kind, told]).encode())

    with suppress(OSError):
        os.dup2(2, 1)  # what an environment prints is no part of the result
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for finding in look(id, send):
            send("finding", finding.to_dict())
    send("done", None)


def look(id: str, send: Send, *, seconds: float = SECONDS) -> Iterator[Finding]:
    """All rules, in this process. What an environment raises is a finding, and the end of what can be played.

    Args:
        id: of the environment.
        send: is told what is being done, and facts.
        seconds: what random play may take.
    """
    found = envs.resolve(id)
    hear_mujoco()
    own = not is_registered(id)  # on the batch engine or in JAX alone
    page = "docs/robots.md" if own else "docs/environments.md"
    try:
        spec = envs.make(id, 1).spec if own else spec_of(id, lambda: make_plain(id))
        send("facts", _described(spec, found.backend))
        made = [Checked(Alone(found) if own else make_plain(id), id, i) for i in range(2)]
    except EnvError as error:
        yield _error(
            "cannot-be-made", outside(f"{error}".strip()), "poise cannot train on it.", f"see {page}"
        )
        return
    except Exception as error:
        what = f"{error}" if isinstance(error, EnvFault) else f"making it raised {described(error)}"
        yield _error(
            "cannot-be-made", outside(what), "No training can begin.", "correct what the message names"
        )
        return
    play = Play(id, spec, made, send, own=own, seconds=seconds)
    grave = False
    for finding in _judged(play, found, send):
        grave |= finding.severity != "note"
        yield finding
    for env in made:
        with suppress(Exception):
            env.close()
    if not grave and not own:
        yield from _gymnasiums(id, send)


def _judged(play: Play, found: envs.Resolved, send: Send) -> Iterator[Finding]:
    """What the rules say; a fault of the environment ends it, a fault of a rule is told as such."""
    try:
        yield from itertools.chain.from_iterable(rule(play) for rule in RULES)
        send("facts", costs(play, found))
    except EnvFault as fault:
        yield _error(
            "breaks",
            fault_in_words(fault, play),
            "A training ends there, with the same message.",
            "correct what the message names; the seed and the step repeat it",
        )
    except Exception as error:
        yield Finding(
            "check-failed",
            "warning",
            f"the check itself failed: {described(error)}",
            "This is a fault of poise. What was found before it holds; what comes after it was not "
            "looked at.",
            "please report it, with the environment",
        )


def _error(rule: str, seen: str, meaning: str, fix: str) -> Finding:
    return Finding(rule, "error", seen, meaning, fix)


# of Gymnasium's checker: what is a matter of taste, of drawing, or said by a rule above
_NOISE = re.compile(
    r"render|out of date|infinity|symmetric and normalized|no lower bound|no upper bound|is not within the "
    r"observation space|precision|float64|float32|dtype|`env.spec`|rgb|not within the expected|different "
    r"from the unwrapped|deepcopy|pickle|Casting|"
    r"truncates after 1 step",  # said of a flag that is NumPy's
    re.IGNORECASE,
)


def _gymnasiums(id: str, send: Send) -> Iterator[Finding]:
    """What Gymnasium's own checker says, where the rules above found no error and no warning."""
    from gymnasium.utils.env_checker import check_env

    send("doing", "Gymnasium's checker played it")
    said: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            check_env(make_plain(id).unwrapped, skip_render_check=True, skip_close_check=True)
        except AssertionError as error:
            said.append(f"{error}")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    said += [str(warning.message) for warning in heard]
    plain = dict.fromkeys(re.sub(r"\x1b\[\d+m|WARN: ", "", text).strip() for text in said)
    for text in plain:
        if not _NOISE.search(text):
            yield Finding(
                "gymnasium-checker",
                "note",  # what poise needs is judged by its own rules
                text.split("\n")[0],
                "Gymnasium asks for it; other programs may rely on it.",
                "https://gymnasium.farama.org/api/env/ describes what an environment is",
            )


def _described(spec: Spec, backend: str) -> dict[str, Any]:
    return {
        "obs_shape": list(spec.obs_shape),
        "action": f"{spec.num_choices} choices" if spec.discrete else _counted(spec.action_size),
        "time_limit": spec.time_limit,
        "backend": backend,
        "gamma": defaults.gamma(spec.time_limit),
    }


def _counted(numbers: int) -> str:
    return f"{numbers} number{'s' * (numbers != 1)}"


def _facts_in_words(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return []
    shape = " x ".join(str(n) for n in facts["obs_shape"]) or "1"
    limit = facts["time_limit"]
    said = [
        f"  observes {shape if ' ' in shape else _counted(int(shape))}, acts by {facts['action']}, "
        + (f"at most {limit:,} steps" if limit else "no time limit"),
        f"  trained on backend {facts['backend']}, discount {facts['gamma']:.4g}",
    ]
    if "step_us" in facts:
        said.append(
            f"  {facts['step_us']:,.0f} us a step, {facts['reset_us']:,.0f} us a reset "
            f"({facts['played_steps']:,} steps of {facts['played_episodes']} episodes were played)"
        )
    return said + in_words(facts)
