"""The pages of the project lead to each other, and say of the project what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import imagegate

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    """Every relative link, image and anchor in a page leads to something that is there."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_relative_to(ROOT), f"{page.name}: {target} leads out of the project"
        assert there.exists(), f"{page.name}: {target} is not there"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target} is no heading"


def test_every_page_can_be_reached() -> None:
    """Each page in docs/ is in mkdocs' navigation, and README leads to it."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in navigation
        assert page.name == "index.md" or f"(docs/{page.name})" in readme


def test_readme_is_one_page() -> None:
    """README stays a page that is read at once."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_the_version_is_the_same_everywhere() -> None:
    """The package, pyproject.toml and the newest dated section of the changelog say one version."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{imagegate.__version__}"\n' in project
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = re.findall(r"^## \[(.+?)\] - \d{4}-\d{2}-\d{2}$", text, re.MULTILINE)
    assert dated[0] == imagegate.__version__


def test_ci_runs_on_what_is_promised() -> None:
    """CI runs the oldest admitted Python and gradio."""
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    oldest = re.search(r"^gradio>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    python = re.search(r'^requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(),
                       re.MULTILINE)  # fmt: skip
    assert oldest
    assert f'"gradio=={oldest[1]}.*"' in ci
    assert python
    assert f'python: ["{python[1]}", ' in ci


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_named_recipes_exist(page: str) -> None:
    """Each ``just`` recipe that a page names is in the justfile."""
    recipes = re.findall(r"^([a-z]+)[^:=\n]*:(?!=)", (ROOT / "justfile").read_text(), re.MULTILINE)
    named = re.findall(r"`just ([a-z]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert named
    assert set(named) <= set(recipes)
