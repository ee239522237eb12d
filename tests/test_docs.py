"""The documents' programs run, what they point at exists, and they agree with one another."""

import ast
import contextlib
import functools
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

import vod2.data.datasets
import vod2.data.datasets.damaged
from helpers import documents as docs
from helpers.documents import ROOT
from vod2.engine import load_config

DOCUMENTS = docs.documents()
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))

LANGUAGES = {"sh", "python", "yaml", "json", "text"}

# Names of files in the documents that are no files of the project.
FOREIGN_FILES = {
    "data.yaml": "a file of a YOLO dataset",
    "config.yaml": "written by vod2 export",
    "results.md": "written by tools/ablate.py",
    "gpu.md": "written by tools/gpu_report.py",
    "B.yaml": "stands for any configuration",
    "C.yaml": "stands for any configuration",
    "mine.py": "a user's file that registers datasets",
    "FILE.py": "stands for such a file",
}

# Options of programs that are not the project's.
FOREIGN_OPTIONS = {
    "--inplace": "setup.py build_ext",
    "--no-build-isolation": "pip",
    "--file": "docker build",
    "--tag": "docker build",
}

# Words of capitals between backticks that are no keys of the configuration.
NO_KEYS = {
    "DETECTRON2_DATASETS": "an environment variable",
    "VOD2_REAL_DIR": "an environment variable",
    "VOD2_REGISTER": "an environment variable",
    "ILSVRC2015": "a folder",
    "UAVDT": "a folder",
    "BLR": "a linker",
    "AP50": "a metric",
    "AP70": "a metric",
    "UNKNOWN": "vod2.structures' track of what nobody has annotated",
    "CASES": "a table in tests/contracts",
    "FORMATS": "a table in vod2/data/checks/formats.py",
    "PUBLIC_NAMES": "a table in vod2/layers/flow_warp.py",
}
# Its table lists names of Detectron2, which tests/d2/test_stand_in_readme.py holds to the code.
STAND_IN = ROOT / "vod2" / "_d2lite" / "README.md"


@functools.cache
def file_names() -> frozenset[str]:
    """Names of the project's files, without their folders."""
    folders = ("vod2", "tools", "projects", "configs", "tests", "docs")
    inner = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return frozenset(path.name for path in (*ROOT.glob("*"), *(ROOT / "datasets").glob("*"), *inner))


def test_every_document_is_looked_at():
    listed = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    projects = {f"projects/{path.name}/README.md" for path in (ROOT / "projects").iterdir() if path.is_dir()}
    projects.discard("projects/__pycache__/README.md")
    assert {"README.md", "datasets/README.md", "docs/architecture.md", "vod2/_d2lite/README.md"} | projects <= listed


def test_the_program_of_extending_md_runs(tmp_path):
    """A Detectron2 script becomes RDN; each kind of thing that can be added is added to it and used."""
    programs = [fence.body for fence in docs.fences((ROOT / "docs" / "extending.md").read_text())]
    script, *additions = programs
    assert len(script.splitlines()) < 45 and len(additions) == 5
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(programs)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout.splitlines()
    # AP50 of RDN is printed before the model with the new aggregator, that of the linked boxes at the end
    numbers = [float(line) for line in printed if re.fullmatch(r"\d+\.\d+", line)]
    assert len(numbers) == 2 and all(0 <= number <= 100 for number in numbers) and printed[-1] == str(numbers[-1])
    assert "(aggregator): OneRelationAggregator(" in done.stdout + done.stderr
    promised = "csv/video1/boxes.csv, line 5: frame is '9', expected a whole number of at least 0 and at most 3"
    assert promised in done.stdout and promised in (ROOT / "docs" / "extending.md").read_text()
    for dataset in ("my_videos", "csv_videos"):
        assert (tmp_path / "output_my_videos" / "inference" / dataset / "results.json").is_file()
    assert (tmp_path / "output_my_videos" / "model_final.safetensors").is_file()


@EACH
def test_blocks_of_code_name_their_language_and_python_compiles(document):
    for fence in docs.fences(document.read_text()):
        assert fence.language in LANGUAGES, fence
        if fence.language == "python":
            compile(fence.body, str(document), "exec")


@EACH
def test_tables_have_a_header_and_rows_of_its_width(document):
    for table in docs.tables(document.read_text()):
        header, *rows = map(docs.cells, table)
        assert rows and all(re.fullmatch(r" *:?-+:? *", cell) for cell in rows[0]), table[0]
        assert [row for row in rows if len(row) != len(header)] == []


def without_written_file(words: Sequence[str]) -> list[str]:
    """Without `--register output/...`: a command of the page has written that file."""
    for at, word in enumerate(words[:-1]):
        if word == "--register" and words[at + 1].startswith("output/"):
            return [*words[:at], *words[at + 2 :]]
    return list(words)


@EACH
def test_commands_are_taken_by_their_programs(document):
    """Options exist, arguments parse, and "KEY VALUE" pairs fit the configuration."""
    for command in docs.commands(document.read_text()):
        words = (*command.words, *(word.strip(".,;:") for word in command.remark.split()))
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= docs.options_of(command.program), f"{command}: no such option"
        if "..." in command.words or not command.is_whole:
            continue
        with contextlib.redirect_stderr(io.StringIO()) as message:
            try:
                arguments = docs.parser_of(command.program).parse_args(without_written_file(command.words))
            except SystemExit:
                pytest.fail(f"{command}: {message.getvalue()}")
        configs = getattr(arguments, "config_file", None) or []
        for config in configs if isinstance(configs, list) else [configs]:
            if config.startswith("output/"):  # what a training has written, with all keys
                config = "quick/RDN.yaml"
            path = ROOT / config
            load_config(path if path.is_file() else config, getattr(arguments, "opts", None))


@EACH
def test_options_exist_in_some_program(document):
    programs = [f"{folder}/{path.name}" for folder in ("tools", "datasets") for path in (ROOT / folder).glob("*.py")]
    known = frozenset().union(*map(docs.options_of, programs))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", document.read_text()))
    named -= FOREIGN_OPTIONS.keys()
    assert named <= known, named - known


@EACH
def test_files_and_folders_that_a_document_names_exist(document):
    text = document.read_text()
    # "configs/published/RDN" may stand for the YAML of that name, and "*" for anything
    named = re.findall(r"(?<![\w./-])(?:tools|configs|projects|vod2|docs|tests)/[\w./*-]*[\w*]", text)
    named += re.findall(r"(?<![\w./-])datasets/[\w./-]+\.(?:py|md)\b", text)
    places = (ROOT, document.parent)
    missing = {n for n in named if not any([*place.glob(n), *place.glob(f"{n}.yaml")] for place in places)}
    assert not missing, f"{document.name} names files that do not exist: {sorted(missing)}"
    bare = set(re.findall(r"(?<![\w./-])[\w-]+\.(?:py|yaml|sh|md)\b", text))
    assert bare - FOREIGN_FILES.keys() <= file_names(), bare - FOREIGN_FILES.keys() - file_names()


@EACH
def test_links_lead_to_files_and_headings_that_exist(document):
    for link in docs.links(document.read_text()):
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        assert target.exists(), link
        assert not anchor or anchor in docs.anchors(target.read_text()), link


@EACH
def test_rows_of_papers_that_a_document_names_are_configurations(document):
    text = document.read_text()
    for file, row in set(re.findall(r"(?<![\w/])(?:configs/ablations/)?(\w+\.yaml):(\w[\w-]*\*?)", text)):
        path = ROOT / "configs" / "ablations" / file
        if row.endswith("*"):
            assert re.search(rf"^ +{re.escape(row[:-1])}\w+:", path.read_text(), flags=re.MULTILINE), f"{file}:{row}"
        else:
            load_config(f"{path}:{row}")


@EACH
def test_configuration_keys_exist(document):
    text, known = document.read_text(), docs.configuration_keys()
    dotted = set(docs.dotted_keys(text))
    # SOLVER.WARMUP_* stands for several keys
    missing = {key for key in dotted if not any(one == key or docs.is_prefix(key, one) for one in known)}
    assert not missing, f"{document.name} names keys that do not exist: {sorted(missing)}"
    if document != STAND_IN:
        single = set(docs.single_keys(text)) - NO_KEYS.keys()
        assert single <= known, single - known


@EACH
def test_names_of_the_package_exist(document):
    for name in set(re.findall(r"(?<![\w./-])vod2\.[A-Za-z_][\w.]*\w", document.read_text())):
        parts, found = name.split("."), None
        for end in range(1, len(parts) + 1):
            with contextlib.suppress(ModuleNotFoundError):
                found, rest = importlib.import_module(".".join(parts[:end])), parts[end:]
        try:
            functools.reduce(getattr, rest, found)
        except AttributeError as error:
            pytest.fail(f"{name}: {error}")


@EACH
def test_what_a_document_finds_in_a_file_is_there(document):
    """`FILE.py` `Class.method`, as in the tables of the papers' equations."""
    for file, name in re.findall(r"`([\w/]+\.py)` `([A-Za-z_][\w.]*)`", document.read_text()):
        places = [path for path in (ROOT / file, document.parent / file) if path.is_file()]
        assert places, file
        text = places[0].read_text()
        assert all(re.search(rf"\b{part}\b", text) for part in name.split(".")), f"{file} has no {name}"


def test_the_page_of_fidelity_has_every_finding_and_names_tests_that_exist():
    text = (ROOT / "docs" / "fidelity.md").read_text()
    assert re.findall(r"^## (\d+)\.", text, flags=re.MULTILINE) == [str(number) for number in range(1, 29)]
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in files}.union(*(re.findall(r"def (test_\w+)", path.read_text()) for path in files))
    named = set(re.findall(r"\btest_\w+(?:\.\.\.)?", text))
    exact = {name for name in named if not name.endswith("...")}
    missing = exact - known | {name for name in named - exact if not any(one.startswith(name[:-3]) for one in known)}
    assert len(exact) > 50 and not missing, missing


@EACH
def test_a_command_with_seq_nms_takes_boxes_before_nms(document):
    """The rows of configs/ablations do by their keys (tests/engine/test_paper_rows.py)."""
    for line in document.read_text().splitlines():
        if "--eval-only" in line and "LINKER.NAME SeqNMS" in line:
            assert "NMS_THRESH_TEST 1.0" in line, line


def test_the_readme_lists_every_project():
    text = (ROOT / "README.md").read_text()
    projects = [path.parent.name for path in (ROOT / "projects").glob("*/__init__.py")]
    assert len(projects) >= 9
    missing = [name for name in projects if not re.search(rf"^\|.+\| \[projects/{name}\]", text, flags=re.MULTILINE)]
    assert missing == []


def test_the_model_zoo_has_every_configuration_of_a_paper():
    text = (ROOT / "docs" / "model_zoo.md").read_text()
    names = {path.stem for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("Base-")}
    assert len(names) > 20
    missing = [name for name in names if not re.search(rf"^\| configs/.*\b{name}\b", text, flags=re.MULTILINE)]
    assert missing == []


def test_the_model_zoo_has_the_numbers_of_the_papers_tables():
    """The mAP of a configuration is in a table of its paper, where a row "is" that configuration."""
    printed: dict[str, set[str]] = {}
    for readme in (ROOT / "projects").glob("*/README.md"):
        for table in docs.tables(readme.read_text()):
            header, _, *rows = map(docs.cells, table)
            if "run" in header and "mAP" in header:
                for row in rows:
                    name = row[header.index("run")].removeprefix("is ")
                    printed.setdefault(name, set()).add(row[header.index("mAP")])
    compared = 0
    for line in re.findall(r"^\| configs/.*$", (ROOT / "docs" / "model_zoo.md").read_text(), flags=re.MULTILINE):
        files, *_, numbers, _, _ = docs.cells(line) if line.count("|") == 7 else ("", "", "", "")
        names = [part.split("/")[-1].removesuffix(".yaml") for part in re.sub(r" \(.*\)", "", files).split(", ")]
        for name, number in zip(names, numbers.split("; "), strict=False):
            if name in printed and number not in ("-", "not legible"):
                assert number in printed[name], f"{name}: {number}, its tables have {printed[name]}"
                compared += 1
    assert compared > 10


def test_the_report_of_a_gpu_compares_its_training_with_the_numbers_of_the_model_zoo():
    zoo = (ROOT / "docs" / "model_zoo.md").read_text()
    on_a_cpu = {}
    for name in ("FasterRCNN", "RDN"):
        # The first table of the synthetic set is that of these two trainings.
        row = re.search(rf"^\| configs/quick/{name}.yaml \| ([\d.]+) \|", zoo, flags=re.MULTILINE)
        on_a_cpu[name] = float(row[1])
    learning = (ROOT / "tools" / "gpu_steps" / "learning.py").read_text()
    assert f"CPU_AP50 = {on_a_cpu}".replace("'", '"') in learning


def test_the_readme_links_to_every_document():
    links = set(docs.links((ROOT / "README.md").read_text()))
    pages = {str(path.relative_to(ROOT)) for path in (*ROOT.glob("docs/*.md"), ROOT / "datasets" / "README.md")}
    assert pages | {"CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"} <= links, pages - links


@EACH
def test_targets_of_make_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = document.read_text()
    places = (*docs.spans(text), *docs.block_lines(text))
    named = {found[1] for found in (re.match(r"make ([a-z-]+)", place) for place in places) if found}
    assert named <= targets, named - targets


@EACH
def test_extras_exist(document):
    extras = set(re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"vod2\[(\w+)\]", document.read_text()))
    assert named <= extras, named - extras


@EACH
def test_imports_and_registrations_in_blocks_fit_the_package(document):
    """`from vod2.x import y`, and calls of the functions that register datasets, by their signatures."""
    text = document.read_text()
    programs = [fence.body for fence in docs.fences(text) if fence.language == "python"]
    for line in (*docs.block_lines(text), *"\n".join(programs).splitlines()):
        if re.match(r"(from|import) vod2\b", line):
            exec(line, {})
        elif re.match(r"register_\w+\(", line):
            call = ast.parse(line).body[0].value
            if f"def {call.func.id}(" in text:  # the document defines it itself, and its program is run
                continue
            places = (vod2.data.datasets, vod2.data.datasets.damaged)
            (function,) = {getattr(place, call.func.id) for place in places if hasattr(place, call.func.id)}
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            inspect.signature(function).bind(*call.args, **keywords)
