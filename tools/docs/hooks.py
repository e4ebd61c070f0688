"""What MkDocs calls while it builds the site; mkdocs.yml names this file."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from signal_manager import client
from tools.docs.pages import PAGES, browser_pages
from tools.docs.public import undocumented

_TOP = Path(__file__).parents[2]
_LINK = re.compile(r"\]\((\.\.?/[^)\s#]*)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Put the pages of the browser SDK into the navigation."""
    silent = list(undocumented(client))
    if silent:
        raise PluginError(f"expected a docstring for {', '.join(silent)}")
    if not browser_pages(_TOP):
        raise PluginError("TypeDoc has written nothing: run `make docs`")
    for section in config.nav:
        for entry in section.get("Reference", ()):
            if "Browser SDK" in entry:
                entry["Browser SDK"] = list(browser_pages(_TOP))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    made = {path: make() for path, make in PAGES.items()} | browser_pages(_TOP)
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files outside docs/ into links to the repository."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def lead_out(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path.startswith("docs/"):
            return link[0]
        if not (_TOP / path).exists():
            raise PluginError(f"{page.file.src_uri} links to {path}, which is not there")
        kind = "tree" if (_TOP / path).is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{path}{link[2] or ''})"

    return _LINK.sub(lead_out, markdown)
