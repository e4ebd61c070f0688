"""What MkDocs calls while it builds the site; mkdocs.yml names this file."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from signal_manager import client
from tools.docs.pages import PAGE_OF, PAGES, browser_pages
from tools.docs.public import undocumented

_TOP = Path(__file__).parents[2]
_LINK = re.compile(r"\]\((\.\.?/[^)\s#]*)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Check that the SDKs are documented, and fill the lists of the navigation that follow from files."""
    silent = list(undocumented(client))
    if silent:
        raise PluginError(f"expected a docstring for {', '.join(silent)}")
    if not browser_pages():
        raise PluginError("expected the pages of the browser SDK in build/docs: run `make docs`")
    decisions = sorted((_TOP / "docs/adr").glob("*.md"), key=lambda file: (file.stem != "README", file.stem))
    lists = {"Browser SDK": list(browser_pages()), "Decisions": [f"adr/{file.name}" for file in decisions]}
    for section in config.nav:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else ():
                entry.update({name: lists[name] for name in entry if name in lists})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    made = {path: make() for path, make in PAGES.items()} | browser_pages()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files outside docs/ into links to their pages, or to the repository."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def lead_out(link: re.Match[str]) -> str:
        path, anchor = posixpath.normpath(posixpath.join(folder, link[1])), link[2] or ""
        if path.startswith("docs/"):
            return link[0]
        if path in PAGE_OF:
            return f"]({posixpath.relpath(posixpath.join('docs', PAGE_OF[path]), folder)}{anchor})"
        if not (_TOP / path).exists():
            raise PluginError(f"{page.file.src_uri} links to {path}, which is not there")
        kind = "tree" if (_TOP / path).is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{path}{anchor})"

    return _LINK.sub(lead_out, markdown)
