"""The site of the documents: its navigation, what its hooks make of the Markdown files, and that it builds."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys

import pytest
import yaml

from helpers import documents as docs
from helpers.documents import ROOT
from helpers.modules import load_module

SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
hooks = load_module(ROOT / "docs" / "site" / "hooks.py")

PAGES = list(hooks.nav_paths(SETTINGS["nav"]))
PACKAGES = hooks.api_packages(SETTINGS["extra"]["api"])


def test_every_markdown_file_is_in_the_navigation_once():
    files = {path.relative_to(ROOT).as_posix() for path in docs.documents()}
    pages = {path for path in files if not path.startswith(".github/")}  # the form of a pull request
    assert len(pages) > 30
    assert pages - set(PAGES) == set(), "add them to nav of mkdocs.yml"
    assert len(PAGES) == len(set(PAGES))


def test_the_settings_name_files_that_exist():
    python = next(part["mkdocstrings"] for part in SETTINGS["plugins"] if "mkdocstrings" in part)["handlers"]["python"]
    named = [*PAGES, *SETTINGS["hooks"], *python["options"]["extensions"], SETTINGS["docs_dir"]]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_what_is_built_is_ignored_by_git():
    assert SETTINGS["site_dir"].startswith("output/") and "/output/" in (ROOT / ".gitignore").read_text().split()


def test_every_project_has_a_page_of_the_api_and_one_of_the_navigation():
    projects = [path.parent.name for path in ROOT.glob("projects/*/__init__.py")]
    assert len(projects) >= 9
    assert {f"vod2.projects.{name}" for name in projects} <= set(PACKAGES)
    assert {f"projects/{name}/README.md" for name in projects} <= set(PAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_page_of_the_api_has_all_of_the_public_names_and_no_others(package):
    module = importlib.import_module(package)
    assert hooks.source_of(package).samefile(inspect.getfile(module))
    page = hooks.api_markdown(package, PACKAGES)
    head, *blocks = re.findall(r"^::: (\S+)$", page, flags=re.MULTILINE)
    linked = re.findall(r"\[`(?:[\w.]+\.)?(\w+)`\]", page)
    assert head == package
    assert sorted([*(name.rpartition(".")[2] for name in blocks), *linked]) == sorted(module.__all__)


def test_a_name_that_another_page_describes_is_a_link_to_it():
    page = hooks.api_markdown("vod2", PACKAGES)
    assert "[`VideoPredictor`][vod2.engine.VideoPredictor]" in page and "::: vod2.VideoPredictor\n" not in page
    assert "::: vod2.UserError\n" in page
    assert "::: vod2.ops.roi_align.roi_align\n" in hooks.api_markdown("vod2.ops", PACKAGES)
    assert "[`vod2.data.datasets`](vod2.data.datasets.md)" in hooks.api_markdown("vod2.data", PACKAGES)


def test_a_package_without_public_names_is_refused(tmp_path, monkeypatch):
    (tmp_path / "vod2").mkdir()
    (tmp_path / "vod2" / "bare.py").write_text("from os import path\n")
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"bare\.py has no __all__"):
        hooks.public_names("vod2.bare")


@pytest.mark.parametrize(
    ("navigation", "paths"),
    [
        ("a.md", ["a.md"]),
        ({"A": "a.md"}, ["a.md"]),
        ([], []),
        (["a.md", {"B": ["b.md", {"C": "c.md"}]}], ["a.md", "b.md", "c.md"]),
    ],
)
def test_paths_of_a_navigation(navigation, paths):
    assert list(hooks.nav_paths(navigation)) == paths


@pytest.mark.parametrize(
    ("page", "target", "path"),
    [
        ("docs/linking.md", "config.md", "docs/config.md"),
        ("docs/linking.md", "../projects/rdn/README.md#deviations", "projects/rdn/README.md"),
        ("README.md", "LICENSE", "LICENSE"),
        ("README.md", "#install", None),
        ("README.md", "https://example.org/a.md", None),
        ("README.md", "mailto:a@example.org", None),
    ],
)
def test_what_a_link_leads_to(page, target, path):
    assert hooks.linked(page, target) == path


def test_linked_files_that_are_no_pages_go_to_the_site():
    files = hooks.linked_files(PAGES)
    assert {"LICENSE", "CITATION.cff", "docs/demo.webp", "docs/schedules.yaml"} <= files
    assert not files & set(PAGES)
    assert not [path for path in files if path.startswith(".") or "/." in path], "MkDocs leaves hidden files out"


def test_a_link_to_a_folder_becomes_its_text():
    text = "See [the papers](../projects), [keys](config.md) and [none](nowhere)."
    assert (
        hooks.without_links_to_folders(text, "docs/faq.md") == "See the papers, [keys](config.md) and [none](nowhere)."
    )


@pytest.mark.parametrize(
    ("github", "python_markdown"),
    [
        ("- a\n  more\n- b", "- a\n    more\n- b"),
        ("- a\n  - b\n    - c\n- d", "- a\n    - b\n        - c\n- d"),
        ("1. a\n\n   more\n2. b", "1. a\n\n    more\n\n2. b"),
        ("9. a\n10. b\n\n    more", "9. a\n10. b\n\n    more"),
        ("- a\n\n  | x |\n  |---|\n  | 1 |", "- a\n\n    | x |\n    |---|\n    | 1 |"),
        ("- a\n\n      code\n\nend", "- a\n\n        code\n\nend"),
        ("- a\n\n  ```sh\n  - no item\n  ```\n\n  more", "- a\n\n    ```sh\n    - no item\n    ```\n\n    more"),
        ("- a\n  - b\n\n  - c\n- d", "- a\n    - b\n\n    - c\n\n- d"),
        ("text\n- a dash in it", "text\n- a dash in it"),
        ("text\n\n    - code", "text\n\n    - code"),
        ("```text\n- a\n\n  b\n```", "```text\n- a\n\n  b\n```"),
        ("# Heading\n\n- a\n\nend\n\n- b", "# Heading\n\n- a\n\nend\n\n- b"),
        ("", ""),
    ],
)
def test_lists_are_indented_as_python_markdown_wants_them(github, python_markdown):
    assert hooks.reindented(github).rstrip("\n") == python_markdown


def test_documents_lose_nothing_when_they_are_reindented():
    for path in docs.documents():
        text = path.read_text()
        kept = [line.strip() for line in hooks.reindented(text).splitlines() if line.strip()]
        assert kept == [line.strip() for line in text.splitlines() if line.strip()], path


def test_anchors_are_those_of_github():
    headings = [
        "Is one method better than another?",
        "geometry_bias",
        "Damage - of frames",
        "W&B, MLflow",
        "Größe",
        "Own  Way",
    ]
    text = "\n".join(f"## {heading}" for heading in headings)
    assert {hooks.slug(heading, "-") for heading in headings} == docs.anchors(text)


def test_the_packages_of_the_extra_are_pinned():
    (line,) = re.findall(r'^    "docs": \[(.*)\],', (ROOT / "setup.py").read_text(), flags=re.MULTILINE)
    pins = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    named = re.findall(r'"([\w-]+)(?:\[\w+\])?"', line)
    assert {"mkdocs", "mkdocs-material", "mkdocstrings", "ruff"} == set(named) and {
        *named,
        "mkdocstrings-python",
    } <= pins


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_without_importing_vod2(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason='needs pip install -c constraints.txt "vod2[docs]"; or run make docs')
    program = "import sys; sys.modules.update(vod2=None, torch=None); from mkdocs.__main__ import cli; cli()"
    done = subprocess.run(
        [sys.executable, "-c", program, "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.parent.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("index.html")}
    assert {".", "docs/faq", "datasets", "projects/rdn", "api/vod2.projects.rdn"} <= pages
    start = (tmp_path / "site" / "index.html").read_text()
    needed = re.findall(r'(?:href|src)="?([^" >]+\.(?:css|js|png))', start)
    assert any(path.endswith(".css") for path in needed) and any(path.endswith(".js") for path in needed)
    assert [path for path in needed if not (tmp_path / "site" / path).is_file()] == []
    rdn = (tmp_path / "site" / "api" / "vod2.projects.rdn" / "index.html").read_text()
    assert 'id="vod2.projects.rdn.RDNAggregator"' in rdn and "Equations 3 to 7" in rdn
    assert '<span class="gp">&gt;&gt;&gt; </span>' in rdn, "its example is no code"
    assert (tmp_path / "site" / "docs" / "demo.webp").read_bytes() == (ROOT / "docs" / "demo.webp").read_bytes()
