"""Who may import whom: d2 <- structures <- {temporal, ops, layers} <- modeling <- engine <- {ablation, archive,
benchmark}.

The commands stand above all, the projects outside.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vod2  # noqa: F401  (its packages say what they have moved)
import vod2.visualization  # noqa: F401
from vod2.moved import OLD_NAMES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, PROJECTS = ROOT / "vod2", ROOT / "projects"
PROJECT_NAMES = sorted(init.parent.name for init in PROJECTS.glob("*/__init__.py"))

TOOLS = {
    "errors",
    "atomic",
    "image_files",
    "bounded",
    "coco",
    "locking",
    "moved",
    "package_files",
    "plain_pickle",
    "version",
}  # no knowledge of videos or networks; everybody may use them
CORE = {"d2", "structures"}
ALLOWED = {
    "_d2lite": set(),
    "d2": {"_d2lite"},
    "atomic": {"errors"},
    "bounded": set(),
    "coco": set(),
    "errors": set(),
    "image_files": {"atomic"},
    "locking": {"errors"},
    "moved": set(),
    "package_files": set(),
    "plain_pickle": set(),
    "version": set(),
    "keys": {"d2"},
    "config": {"d2", "keys"},
    "structures": {"d2"},
    "temporal": CORE | {"keys"},
    "ops": set(),
    "layers": CORE | {"ops"},
    "modeling": CORE | {"temporal", "ops", "layers", "keys"},
    "video": set(),
    "data": CORE | {"temporal", "config", "video"},
    "checkpoint": {"d2", "layers"},
    "visualization": CORE | {"data", "video"},
    "evaluation": CORE | {"temporal", "modeling", "data", "visualization"},
    "detections": CORE | {"modeling", "data", "evaluation", "visualization"},
    "projects": set(),
    "engine": CORE
    | {"temporal", "ops", "layers", "modeling", "video", "data", "evaluation", "checkpoint", "visualization"}
    | {"config", "keys", "detections"},
    "export": CORE | {"temporal", "ops", "modeling", "engine"},
    "ablation": {"checkpoint", "d2", "data", "engine", "keys"},
    "commands": CORE
    | {"temporal", "modeling", "data", "evaluation", "checkpoint", "visualization", "video", "engine", "archive"}
    | {"detections", "serve", "benchmark", "export"},
    "benchmark": {"d2", "structures", "temporal", "ops", "layers", "video", "data", "evaluation", "engine"},
    "model_zoo": {"d2", "checkpoint", "engine"},
    "serve": set(),
    "__main__": {"commands"},
    "archive": {"d2", "temporal", "modeling", "video", "evaluation", "visualization", "checkpoint", "engine"},
}
"""What each part of vod2 may import besides itself and TOOLS."""
ROOMS_OF_DATA = {
    "synthetic": set(),
    "damage": {"synthetic"},
    "datasets": {"synthetic", "damage"},
    "clips": {"datasets", "damage"},
    "checks": {"datasets", "synthetic"},
    "discovery": {"datasets", "checks"},
}
"""What each room of vod2/data may import of the others. All may import what the part may."""


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of everything that a file imports, at any depth; `from a import b` is "a.b"."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
                base = ".".join([*package, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def vod2_parts(path: Path) -> set[str]:
    """The parts of vod2 that a file imports; "" where it asks the flat package for a name of its own."""
    parts = set()
    for name in imported_modules(path):
        if name.split(".")[0] != "vod2":
            continue
        part = (name.split(".") + [""])[1]
        is_part = (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()
        parts.add(part if is_part else "")
    return parts


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_part_of_the_package_has_a_rule():
    parts = {part_of(path) for path in sources(PACKAGE)} - {"__init__"}
    assert parts <= ALLOWED.keys(), f"say in ALLOWED what {sorted(parts - ALLOWED.keys())} may import"


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_stands_below_it(part):
    for path in sources(PACKAGE):
        if part_of(path) == part:
            wrong = vod2_parts(path) - {part} - TOOLS - ALLOWED[part]
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("rules", [ALLOWED, ROOMS_OF_DATA], ids=["parts", "rooms of data"])
def test_the_rules_have_no_circle(rules):
    done: set[str] = set()
    while len(done) < len(rules):
        ready = {part for part, below in rules.items() if part not in done and below <= done}
        assert ready, f"a circle among {sorted(rules.keys() - done)}"
        done |= ready


def test_everything_in_data_has_a_room():
    rooms = {path.relative_to(PACKAGE / "data").parts[0] for path in sources(PACKAGE / "data")} - {"__init__.py"}
    assert rooms == ROOMS_OF_DATA.keys()


@pytest.mark.parametrize("room", sorted(ROOMS_OF_DATA))
def test_a_room_of_data_imports_only_those_below_it(room):
    for path in sources(PACKAGE / "data" / room):
        named = [name.split(".") for name in imported_modules(path) if name.startswith("vod2.data.")]
        wrong = {name[2] for name in named} - {room} - ROOMS_OF_DATA[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)} of vod2.data"


def module_graph() -> dict[str, set[str]]:
    """{module of vod2 or of a project: those that its file imports}, in functions and for type checkers, too.

    `from a.b import c` imports a.b.c if that is a module, or else a.b; that Python runs a and a.b before is left out.
    """
    files = {module_name(path): path for path in [*sources(PACKAGE), *sources(PROJECTS)]}
    graph = {}
    for module, path in files.items():
        found = set()
        for name in imported_modules(path):
            while name and name not in files:
                name = name.rpartition(".")[0]
            found.add(name)
        graph[module] = found - {module, ""}
    return graph


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("vod2", *parts) if parts[0] == "projects" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_in_circles(graph: dict[str, set[str]]) -> set[str]:
    """What is left when all that imports nothing, or is imported by nobody, has been taken away again and again."""
    left = {module: set(imports) for module, imports in graph.items()}
    while True:
        imported = set().union(*left.values())
        loose = {module for module, imports in left.items() if not imports or module not in imported}
        if not loose:
            return set(left)
        left = {module: imports - loose for module, imports in left.items() if module not in loose}


def test_no_module_imports_another_in_a_circle():
    graph = module_graph()
    assert "vod2.engine.streams" in graph["vod2.engine.stream_predictor"], "the graph lacks what it should have"
    assert not modules_in_circles(graph)


@pytest.mark.parametrize(
    ("graph", "circles"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, set()),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"c"}}, {"b", "c"}),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": set()}, {"a", "b"}),
    ],
)
def test_a_circle_is_found(graph, circles):
    assert modules_in_circles(graph) == circles


def test_nobody_imports_by_an_old_name():
    old = set(OLD_NAMES)
    assert "vod2.data.reader" in old
    for folder in ("vod2", "projects", "tools", "tests", "datasets"):
        for path in sources(ROOT / folder):
            for name in imported_modules(path):
                parts = name.split(".")
                wrong = old.intersection(".".join(parts[:count]) for count in range(1, len(parts) + 1))
                assert not wrong, f"{path.relative_to(ROOT)} imports {name}, which is now {OLD_NAMES[min(wrong)]}"


def test_projects_do_not_import_each_other():
    for path in sources(PROJECTS):
        own = path.relative_to(PROJECTS).parts[0]
        for name in imported_modules(path):
            for prefix in ("vod2.projects.", "projects."):
                if name.startswith(prefix):
                    assert name.split(".")[prefix.count(".")] == own, f"{path.relative_to(ROOT)} imports {name}"


def test_the_package_never_names_a_project():
    """Not in an import, a name or a string; docstrings may say what a paper is called.

    Files and numbers of other people's code are known by that code's name: tables of its weights, its protocol.
    """
    assert PROJECT_NAMES, "there are no projects to look for"
    other_code = {"checkpoint/sources": set(PROJECT_NAMES), "evaluation": {"fgfa", "mega"}}
    other_code["benchmark"] = set(PROJECT_NAMES)  # configurations that are measured
    other_code["commands"] = {"rdn"}  # the method of the demo and of examples
    for path in sources(PACKAGE):
        words = {word for text in texts_of(path) for word in split_words(text)}
        named = words.intersection(PROJECT_NAMES)
        for folder, known in other_code.items():
            if PACKAGE / folder in path.parents:
                named -= known
        assert not named, f"{path.relative_to(ROOT)} names {sorted(named)}"


def texts_of(path: Path) -> Iterator[str]:
    """Imports, names and strings of a file, without docstrings."""
    tree = ast.parse(path.read_text(), str(path))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    yield from imported_modules(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def split_words(text: str) -> set[str]:
    """The words of an identifier, a dotted name or a sentence, in small letters: "RDNHead.x" is rdn, head, x."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", text)}


def test_only_the_door_imports_detectron2():
    for folder in ("vod2", "projects", "tools", "tests", "datasets", "docs"):
        for path in sources(ROOT / folder):
            if path == PACKAGE / "d2.py" or ROOT / "tests" / "d2" in path.parents:
                continue
            assert not any(name.split(".")[0] == "detectron2" for name in imported_modules(path)), path


def test_only_the_door_imports_the_stand_in():
    for path in [*sources(PACKAGE), *sources(PROJECTS), *sources(ROOT / "tools")]:
        if path == PACKAGE / "d2.py" or PACKAGE / "_d2lite" in path.parents:
            continue
        assert not any(name.startswith("vod2._d2lite") for name in imported_modules(path)), path


def test_nobody_but_the_door_asks_which_backend_is_active():
    """It may be logged, never compared."""
    for path in [*sources(PACKAGE), *sources(PROJECTS)]:
        if path == PACKAGE / "d2.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare | ast.If | ast.IfExp):
                test = node if isinstance(node, ast.Compare) else node.test
                assert "BACKEND" not in ast.dump(test), f"{path.relative_to(ROOT)}:{node.lineno}"
