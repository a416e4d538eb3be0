"""Hooks of the documentation's site: README.md is its first page, and links may leave docs/.

The page index.md of the site is README.md, so docs/index.md, the map of the code, becomes map.md.
A link to a page of docs/ or to README.md leads to that page of the site. The site has no other
files of the repository, so a link to one of those becomes its text with the file's path behind it.
A link to a file that does not exist stays as it is, and fails the build.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {"index.md": ROOT / "README.md", "map.md": DOCS / "index.md"}
"""Page of the site -> the file that it is made from, where its name differs."""
HEADER = "---\nhide: [navigation]\n---\n\n"  # a section of one page needs no list of pages
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<path>[^()#\s:]+)(?P<anchor>#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES` under their names in the site."""
    home = files.get_file_from_path("index.md")
    assert home is not None, "docs/index.md is missing"
    files.remove(home)
    for name, source in PAGES.items():
        text = source.read_text(encoding="utf-8")
        header = HEADER if name == "index.md" else ""
        files.append(File.generated(config, name, content=header + text))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Resolve the links of one page as seen from its place in the repository."""
    name = page.file.src_uri
    source = PAGES.get(name, DOCS / name)
    return LINK.sub(lambda link: _resolved(link, source, DOCS / name), text)


def _resolved(link: re.Match[str], source: Path, page: Path) -> str:
    """The link of a page of the site, in Markdown, to what `link` names in the file `source`."""
    target = Path(os.path.normpath(source.parent / link["path"]))
    names = [name for name, file in PAGES.items() if file == target]
    if names:
        target = DOCS / names[0]
    elif not target.exists():
        return link[0]
    elif not target.is_relative_to(DOCS):
        return f"{link['text']} (`{target.relative_to(ROOT).as_posix()}`)"
    path = Path(os.path.relpath(target, page.parent)).as_posix()
    return f"[{link['text']}]({path}{link['anchor'] or ''})"
