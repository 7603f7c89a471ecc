"""What the tests of the pages share: their blocks, and a shell in which they run."""

import contextlib
import html.parser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# by default with fewer steps; as they are written where slow tests run
WRITTEN = [pytest.param(False, id="shorter"), pytest.param(True, id="as written", marks=pytest.mark.slow)]


def blocks(page, language):
    """The blocks of a page in one language."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def environment():
    """Of a reader: ``poise`` and ``python`` are those of the project."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONWARNINGS": "default"}


# In place of ``timeout``: the signal comes after the first iteration, on whatever machine.
INTERRUPTED = """
import glob, os, signal, subprocess, sys, time
before = set(glob.glob("runs/*/*/metrics.jsonl"))
process = subprocess.Popen(sys.argv[1:])
while process.poll() is None:
    if any(os.path.getsize(path) for path in set(glob.glob("runs/*/*/metrics.jsonl")) - before):
        process.send_signal(signal.SIGINT)
        break
    time.sleep(0.02)
sys.exit(process.wait())
"""


def shorter(code):
    """The same commands, or Python, with a tenth of the steps and two seeds instead of three."""

    def fewer(match):
        return f"{match[1]}{max(8, int(match[2]) // 10)}{match[3]}"

    code = re.sub(r"(--total-steps )(\d+)(k)", fewer, code)
    code = re.sub(r"(total_steps=)(\d+)(_000)", fewer, code)
    code = code.replace("--seeds 3", "--seeds 2")
    return re.sub(r"timeout -s INT \d+", f"python -c {shlex.quote(INTERRUPTED)}", code)


def run_commands(page, folder, *, as_written):
    """Runs all commands of a page in one shell, top to bottom, where the examples lie in ``folder``."""
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    commands = blocks(page, "bash")
    assert commands
    script = "\n".join(["set -euo pipefail", *commands])
    done = subprocess.run(
        ["bash", "-c", script if as_written else shorter(script)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


class _Checker(html.parser.HTMLParser):
    """Whether every element is closed, and by its own end."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data.strip())


def parsed(text):
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    return " ".join(part for part in checker.text if part)


# --- in a browser ---

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium (Debian: apt install chromium)"
)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
FLAGS += ("--disable-sync", "--no-first-run", "--autoplay-policy=no-user-gesture-required")


@contextlib.contextmanager
def browsing():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


def opened(browser, path, width, **options):
    """The page, and what went wrong in it."""
    view = browser.new_page(viewport={"width": width, "height": 800}, **options)
    wrong = []
    view.on("console", lambda message: wrong.append(message.text))
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("request", lambda request: wrong.append(request.url) if request.url[:4] == "http" else None)
    view.goto(path.as_uri())
    return view, wrong
