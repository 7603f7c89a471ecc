"""What the pages name is there."""

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from poise.config import Config
from poise.runs.options import Options
from poise.studies.paper.figures import FIGURES
from poise.studies.paper.reproduce import render
from poise.training.metrics import BY_NAME

ROOT = Path(__file__).parents[2]
ALGORITHM = (ROOT / "docs" / "algorithm.md").read_text()
NAMED = [
    (file, name.strip())
    for file, names in re.findall(r"(\w+)\.py:\s+(\w+(?:, \w+)*)", ALGORITHM)
    for name in names.split(",")
]


def module(stem):
    """The one module of that name, in whichever room."""
    (path,) = (ROOT / "src").rglob(f"{stem}.py")
    return importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_function_the_algorithm_page_names_exists(file, name):
    assert hasattr(module(file), name)


def test_each_test_the_algorithm_page_names_exists():
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", ALGORITHM)
    assert len(named) == 6
    for name in named:
        assert f"def {name}(" in sources


MAPPING = (ROOT / "docs" / "reproduction" / "README.md").read_text()
OPTIONS = {
    f"{group}.{name}"
    for group, fields in Config().to_dict().items()
    if isinstance(fields, dict)
    for name in fields
}


def test_every_option_function_test_and_tag_of_the_papers_table_exists():
    rows = [
        line.strip("|").split("|")
        for line in MAPPING.splitlines()
        if line.startswith("| ") and ".py: " in line
    ]
    assert len(rows) == 30
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    beside = {field.name for field in dataclasses.fields(Options)}
    for _, options, functions, proofs in rows:
        for option in re.findall(r"`([^`]+)`", options):
            assert option in OPTIONS | beside, option
        for file, name in re.findall(r"`(\w+)\.py: (\w+)`", functions):
            assert hasattr(module(file), name), name
        named = re.findall(r"`([^`]+)`", proofs)
        assert named
        for name in named:
            assert name in BY_NAME or f"def {name}(" in sources, name


def test_the_committed_results_come_from_the_committed_tables(tmp_path):
    kept = ROOT / "docs" / "reproduction"
    for path in [*kept.glob("*.csv"), kept / "about.json"]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    render(tmp_path, FIGURES)
    assert (tmp_path / "results.md").read_text() == (kept / "results.md").read_text()
    for figure in FIGURES:
        assert (tmp_path / f"{figure.name}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/design.md",
        "docs/algorithm.md",
        "docs/defaults.md",
        "docs/reliability.md",
        "docs/reproduction/README.md",
    ],
)
def test_links_and_named_files_exist(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_design_page_names_every_file():
    text = (ROOT / "docs" / "design.md").read_text()
    small = {"__init__", "__main__", "errors"}
    for path in (ROOT / "src" / "poise").rglob("*.py"):
        if path.stem not in small and "tasks" not in path.parts:
            assert f"{path.name}`" in text, path.name


@pytest.mark.parametrize(
    "script", [["learning.py", "learning.csv", "--table"], ["ablations.py", "ablations.csv"]]
)
def test_the_tables_of_the_defaults_come_from_the_committed_rows(script):
    done = subprocess.run([sys.executable, *script], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    page = (ROOT / "docs" / "defaults.md").read_text().splitlines()
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    for row in rows:
        assert row in page or row.startswith("| change | ")  # of no change there is no table


def test_the_api_page_is_made_of_the_docstrings():
    made = subprocess.run(
        [sys.executable, "docs/make_api.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs" / "api.md").read_text() == made.stdout


def test_every_page_is_in_the_list_and_every_link_leads_somewhere():
    docs = ROOT / "docs"
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M))
    assert listed == {page.name for page in docs.glob("*.md")} | {"reproduction/README.md"}
    for page in [*docs.glob("**/*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
