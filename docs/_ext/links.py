"""Links that leave the documentation's folder, as they stand in Markdown that is read elsewhere too.

``../src/elbowroom/model/latent.py`` leads to the highlighted source among the site's pages, ``../bench/RESULTS.md`` to
the page that includes it, and any other file of the repository to a copy of it in the site.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

ROOT = Path(__file__).parents[2]
#: pages that include a file from outside; links in these are relative to the file
INCLUDED = {"index": "README.md", "howto/contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"} | {
    f"bench/{file.stem.lower()}": f"bench/{file.name}" for file in sorted((ROOT / "bench").glob("*.md"))
}
_PAGES = {file: page for page, file in INCLUDED.items()}


def destination(docname: str, target: str) -> str | None:
    """Where in the site a link of a page leads that Sphinx cannot resolve; None if there is no such file.

    Args:
        docname: the page.
        target: the link, relative to the page's file.
    Returns:
        A path below the site's root.
    """
    path, _, anchor = target.partition("#")
    base = INCLUDED.get(docname)
    folder = ROOT / (base if base else f"docs/{docname}")
    file = (folder.parent / path).resolve()
    if path.startswith("/"):  # MyST's name for what could be a page: absolute, and without its ending
        file = next((f for f in (file.with_name(f"{file.name}{end}") for end in (".md", ".py")) if f.exists()), file)
    if not path or not file.is_relative_to(ROOT) or not file.exists():
        return None
    name = file.relative_to(ROOT).as_posix()
    if name in _PAGES:
        return f"{_PAGES[name]}.html" + (f"#{anchor}" if anchor else "")
    if name.startswith("docs/") and name.endswith(".md"):
        return f"{name[5:-3]}.html" + (f"#{anchor}" if anchor else "")
    if name.startswith("src/") and name.endswith(".py"):
        module = PurePosixPath(name[4:-3])
        return f"_modules/{module.parent if module.name == '__init__' else module}.html"
    return f"files/{name}.txt" if file.is_file() else None


def _outside(app: Sphinx, doctree: nodes.document) -> None:
    """Replaces links to files outside: what MyST would offer for download, or seek among the pages and not find."""
    docname = app.env.docname
    for kind in (addnodes.download_reference, addnodes.pending_xref):
        for node in list(doctree.findall(kind)):
            if kind is addnodes.pending_xref and node.get("reftype") != "myst":
                continue
            found = destination(docname, node["reftarget"])
            if found is not None:
                node.replace_self(_link(app, docname, found, node))


def _link(app: Sphinx, docname: str, found: str, node: nodes.Element) -> nodes.reference:
    if found.startswith("files/"):
        source, copy = ROOT / found[6:-4], Path(app.outdir) / found
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    uri = relative_uri(app.builder.get_target_uri(docname), found)
    link = nodes.reference("", "", internal=True, refuri=uri)
    link += [child.deepcopy() for child in node.children]
    return link


def setup(app: Sphinx) -> dict[str, Any]:
    """Listens before Sphinx collects downloads and MyST looks for pages."""
    app.connect("doctree-read", _outside, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
