"""``poise check`` of many environments in one process, as JSON: without a process for each, and without the
checker of annotations, which would triple the time of a step.

python tests/judging.py ID ...
"""

import contextlib
import dataclasses
import json
import sys
import warnings

import numpy as np

from poise.health.inspection import look

SLOW = {"sound:Boiler": 1.0}  # seconds of random play, where all of it would take long


def judge(id: str) -> tuple[list[dict], dict]:
    """What is found, and the facts."""
    facts: dict = {}

    def send(kind, told):
        if kind == "facts":
            facts.update(told)

    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        found = [dataclasses.asdict(finding) for finding in look(id, send, seconds=SLOW.get(id, 10.0))]
    return found, facts


if __name__ == "__main__":
    print(json.dumps({id: judge(id) for id in sys.argv[1:]}))
