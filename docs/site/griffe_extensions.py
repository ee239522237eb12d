"""What Griffe, which reads the sources for the API's pages, has to be told about vod2 (mkdocs.yml)."""

import re
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[2]

_SECTIONS = "Args|Attributes|Examples|Raises|Returns|Yields"


class Projects(griffe.Extension):
    """Shows projects/<paper> as vod2.projects.<paper>, which Python finds by a __path__ that is made on import."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        if pkg.path != "vod2":
            return
        loader.finder.append_search_path(ROOT / "projects")
        for init in sorted(ROOT.glob("projects/*/__init__.py")):
            project = loader.load(init.parent.name, try_relative_path=False)
            pkg["projects"].set_member(project.name, project)


class Docstrings(griffe.Extension):
    """Examples and indented lines as the Markdown of a docstring wants them."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Griffe knows the section "Examples", and Markdown wants an empty line before an indented block."""
    text = re.sub(r"^( *)Example:$", r"\1Examples:", docstring, flags=re.MULTILINE)
    return re.sub(rf"^(?!(?:{_SECTIONS}):)(\S.*:)\n(?= {{4}}\S)", r"\1\n\n", text, flags=re.MULTILINE)
