"""Every command of the pages is run, as it is written (of the quickstart: test_quickstart.py)."""

import re

import pytest
from pages import ROOT, blocks, run_commands

from poise.diagnosis import RULES


@pytest.mark.parametrize("page", ["reading", "robots", "export", "environments", "reports"])
def test_every_command_of_the_page_runs(page, tmp_path):
    run_commands(f"{page}.md", tmp_path)


@pytest.mark.parametrize(
    ("page", "file"), [("robots.md", "ball_and_beam.py"), ("environments.md", "tank.py")]
)
def test_the_page_shows_the_example_itself(page, file):
    assert blocks(page, "python")[0] == (ROOT / "examples" / file).read_text()


def test_the_environments_page_names_every_finding():
    page = (ROOT / "docs" / "environments.md").read_text()
    source = (ROOT / "src" / "poise" / "inspection.py").read_text()
    rules = set(re.findall(r'(?:Finding|_error)\(\s*"([a-z-]+)"', source))
    assert len(rules) == 19
    for rule in rules:
        assert f"| `{rule}` |" in page, rule


def test_the_reading_page_names_every_finding():
    page = (ROOT / "docs" / "reading.md").read_text()
    for rule in RULES:
        name = rule.__name__.replace("_", "-")
        assert f"| `{name}` |" in page
