"""The documentation names what there is, and its generated page is up to date."""

import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantnas.cli.main import app
from quantnas.config.search_space import builtin
from quantnas.nn.operations import OPS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
MAP = ROOT / "docs" / "index.md"
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def test_the_page_of_commands_is_what_the_commands_say(tmp_path):
    page = tmp_path / "cli.md"
    subprocess.run(
        [sys.executable, "-m", "typer", "quantnas.cli.main", "utils", "docs", "--name", "quantnas",
         "--title", "Commands", "--output", str(page)],
        check=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    assert page.read_text() == (ROOT / "docs" / "cli.md").read_text(), "run `make docs`"


def test_every_command_operation_and_space_is_in_the_documentation():
    names = [c.callback.__name__ for c in app.registered_commands]
    missing = [name for name in [*names, *OPS, *builtin()] if name not in TEXT]
    assert not missing


def test_the_map_has_every_package_in_the_order_of_imports():
    rows = re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", MAP.read_text(encoding="utf-8"), flags=re.M)
    rules = runpy.run_path(str(ROOT / "tests" / "test_layers.py"))
    order, strangers = rules["ORDER"], rules["STRANGERS"]
    assert tuple(name for name, _ in rows) == order
    for place, (name, exceptions) in enumerate(rows):
        named = set(re.findall(r"`(\w+)`", exceptions))
        assert named == strangers.get(name, set()) & set(order[:place]), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [t for t in targets if "://" not in t]
    assert not [t for t in local if not (page.parent / t).exists()]


# The site that `make docs` builds


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of the checkout `source`, as `make docs` does; skips without the extra."""
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)],
        capture_output=True, text=True, cwd=source, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[str, str]:
    """The pages of the site by their paths, as HTML."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = folder.rglob("*.html")
    return {page.relative_to(folder).as_posix(): page.read_text("utf-8") for page in pages}


def test_the_site_begins_with_the_readme_and_has_every_page(site):
    assert "make demo" in site["index.html"]
    pages = [page.relative_to(ROOT / "docs") for page in PAGES if page.parent != ROOT]
    assert {page.with_suffix(".html").as_posix() for page in pages} <= set(site)
    assert MAP.read_text(encoding="utf-8").splitlines()[0].strip("# ") in site["map.html"]


def test_the_site_has_every_function_and_class_of_the_api(site):
    members = importlib.import_module("quantnas.api").__all__
    page = site["reference.html"]
    assert members and not [name for name in members if f'id="quantnas.api.{name}"' not in page]


def test_the_arguments_of_the_api_are_tables(site):
    """Lines such as `bits: ...` run together in a paragraph unless they stand below `Args:`."""
    assert not re.findall(r"<p>[a-z_]+(?:, [a-z_]+)*: ", site["reference.html"])


def test_the_site_loads_nothing_from_elsewhere(site):
    sources = r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    loads = sources + r"|<link\b[^>]*\bhref=[\"']?(?:https?:)?//"
    assert not [name for name, page in site.items() if re.search(loads, page)]


def test_lists_and_tables_of_the_site_are_no_paragraphs(site):
    """The site's Markdown wants an empty line before a list or a table; code hosts do not."""
    text = {name: re.sub(r"<pre.*?</pre>", "", page, flags=re.S) for name, page in site.items()}
    lost = r"<p>(?:(?!</p>).)*\n(?:[-*|] |1\. |\|)"
    assert not [name for name, page in text.items() if re.search(lost, page, flags=re.S)]


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails_the_site(tmp_path):
    for name in ("docs", "quantnas"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("README.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    faults = {
        "README.md": "[a](docs/results.md#no-such-part)",
        "docs/method.md": "[b](no-such-page.md) [c](../no-such-file) [d](study.md#no-such-heading)",
        "docs/no-such-entry.md": "# A page that the navigation leaves out",
    }
    for name, text in faults.items():
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    said = built.stdout + built.stderr
    parts = {part for text in faults.values() for part in re.findall(r"no-such-[a-z]+", text)}
    assert not [part for part in {*parts, "no-such-entry.md"} if part not in said]
