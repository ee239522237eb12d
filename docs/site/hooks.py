"""What MkDocs does not do by itself (mkdocs.yml): pages from all over the repository, and those of the API.

The site has the folders of the repository, so links from one Markdown file to another hold on both. A linked file that
is no page, such as a picture, a YAML file or the licence, is put on the site as it is; a link to a folder becomes its
text.
"""

import ast
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_ITEM = re.compile(r" *(?:[-*+]|\d+[.)]) +(?=\S)")


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """The pages of the API at the end of the navigation, and GitHub's anchors of headings."""
    config.nav.append({"API": [{name: api_page(name)} for name in api_packages(config.extra["api"])]})
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """The pages of the navigation and what they link to, in the place of the files in docs_dir."""
    # here, because the functions below are tested where MkDocs is not installed
    from mkdocs.structure.files import File

    for file in list(files):
        if file.src_dir == config.docs_dir:  # others are the theme's
            files.remove(file)
    packages = api_packages(config.extra["api"])
    api = {api_page(name): api_markdown(name, packages) for name in packages}
    pages = [path for path in nav_paths(config.nav) if path not in api]
    for path in [*pages, *sorted(linked_files(pages))]:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for path, text in api.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    return reindented(without_links_to_folders(markdown, page.file.src_uri))


def nav_paths(nav: list | dict | str) -> Iterator[str]:
    """The paths in a navigation as mkdocs.yml has it: a path, {title: path}, {title: list}, or a list of these."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from nav_paths(part)


def linked(path: str, target: str) -> str | None:
    """Path in the repository of what a page links to; None for an address or a place of the page itself."""
    file = target.partition("#")[0]
    if not file or re.match(r"\w+:", file):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), file))


def linked_files(pages: list[str]) -> set[str]:
    """The files, other than pages, that pages link to and that exist; for the others MkDocs has a warning."""
    found = {linked(page, target) for page in pages for _, target in _LINK.findall((ROOT / page).read_text())}
    return {path for path in found if path and path not in pages and (ROOT / path).is_file()}


def without_links_to_folders(text: str, path: str) -> str:
    def replaced(found: re.Match) -> str:
        target = linked(path, found[2])
        return found[1] if target and (ROOT / target).is_dir() else found[0]

    return _LINK.sub(replaced, text)


def reindented(text: str) -> str:
    """Markdown with what belongs to an item of a list indented by four spaces a level, as Python-Markdown wants it.

    On GitHub it is indented by the width of the item's marker: two spaces after "- ", three after "1. ".
    Python-Markdown sees an item only in a block of lines that begins with an item, and with none further in.
    """
    lines: list[str] = []
    columns: list[int] = []  # where the text of each open item begins
    in_fence, after_blank = False, True
    block = None, 0  # the item that the first line since the last empty one begins, and its depth
    for line in text.splitlines():
        column = len(line) - len(line.lstrip())
        item = None if in_fence else _ITEM.match(line)
        may_begin_list = after_blank or bool(columns)  # in the middle of a paragraph "- " is a dash
        if line and not in_fence and (item or after_blank):
            while columns and column < columns[-1]:
                columns.pop()
        depth, begin = len(columns), columns[-1] if columns else 0
        is_item = item and may_begin_list and column < begin + 4  # further in, it is code
        if is_item and not after_blank and (block[0] is None or depth < block[1]):
            lines.append("")
            after_blank = True
        if after_blank and line:
            block = item, depth
        lines.append(" " * 4 * depth + line[min(begin, column) :] if line else "")
        if item and is_item:
            columns.append(item.end())
        in_fence ^= line.lstrip().startswith("```")
        after_blank = not line
    return "\n".join(lines) + "\n"


def slug(heading: str, separator: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", unicodedata.normalize("NFC", heading).strip().lower())
    return kept.replace(" ", separator)


def api_packages(names: list[str]) -> list[str]:
    """The named packages, and those of the projects."""
    return [*names, *(f"vod2.projects.{path.parent.name}" for path in sorted(ROOT.glob("projects/*/__init__.py")))]


def api_page(package: str) -> str:
    return f"api/{package}.md"


def source_of(package: str) -> Path:
    """The file of a package or module; vod2.projects.rdn lies in projects/rdn."""
    path = ROOT / package.replace(".", "/").replace("vod2/projects/", "projects/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public_names(package: str) -> dict[str, str]:
    """The names in a package's __all__, each with the module that the package imports it from, or "" for its own."""
    tree = ast.parse(source_of(package).read_text())
    origins = {
        name.asname or name.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return {name: origins.get(name, "") for name in ast.literal_eval(node.value)}
    raise ValueError(f"{source_of(package)} has no __all__, which names what its page of the API shows")


def api_markdown(package: str, packages: list[str]) -> str:
    """The page of a package: its docstring, and of each public name its documentation, or a link to where that is."""
    described, elsewhere = [], []
    for name, origin in public_names(package).items():
        if f"{package}.{name}" in packages:
            elsewhere.append(f"[`{package}.{name}`]({package}.{name}.md)")
        elif origin in packages and origin != package:
            elsewhere.append(f"[`{name}`][{origin}.{name}]")
        else:
            # vod2.ops.roi_align is a module, too, and its function has to be asked for there
            is_module = source_of(f"{package}.{name}").is_file()
            described.append(f"::: {origin if is_module else package}.{name}\n")
    head = f"# {package}\n\n::: {package}\n    options:\n      members: false\n      show_root_heading: false\n"
    head += "      show_root_toc_entry: false\n"
    links = [f"Documented on pages of their own: {', '.join(elsewhere)}.\n"] if elsewhere else []
    return "\n".join([head, *links, *described])
