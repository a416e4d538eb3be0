"""The documentation names what there is, and its generated page is up to date."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantnas.cli.main import app
from quantnas.ops import OPS
from quantnas.space import builtin

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
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


def test_every_module_is_on_the_map():
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "quantnas").glob("*.py")} - {"__init__"}
    assert not [name for name in modules if f"`{name}`" not in page]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [t for t in targets if "://" not in t]
    assert not [t for t in local if not (page.parent / t).exists()]
