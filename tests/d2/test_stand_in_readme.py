"""The stand-in's README says what the code has: names, what is absent, and how that announces itself."""

import ast
import builtins
import functools
import importlib
import importlib.util
import logging
import re
from pathlib import Path

import pytest
import torch

from vod2._d2lite.config import get_cfg
from vod2._d2lite.data import DatasetCatalog, build_detection_test_loader, build_detection_train_loader
from vod2._d2lite.engine import DefaultTrainer
from vod2._d2lite.modeling import build_model
from vod2._d2lite.modeling.box_regression import Box2BoxTransform, box_regression_loss

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "vod2" / "_d2lite" / "README.md").read_text()
NAME = r"`([A-Za-z_][\w.]*)`"


def table(first_cell: str) -> list[list[str]]:
    """The rows below the header that begins with `first_cell`, cell by cell."""
    (body,) = re.findall(rf"^\| {first_cell} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]


def names(cell: str) -> list[str]:
    """The names in backticks, without those that a remark in brackets mentions."""
    return re.findall(NAME, re.sub(r"\(.*?\)", "", cell))


MODULES = [(re.findall(NAME, module)[0], *rest) for module, *rest in table("Detectron2")]
REFUSED = [tuple(re.findall(NAME, cell)[0] for cell in row) for row in table("key")]


def find(module: str, name: str):
    """The object at `module`.`name`, where the first parts of `name` may be modules. AttributeError where it is not."""
    first, *rest = name.split(".")
    is_package = importlib.util.find_spec(module).submodule_search_locations is not None
    if is_package and importlib.util.find_spec(f"{module}.{first}") is not None:
        found = importlib.import_module(f"{module}.{first}")
    else:
        found = getattr(importlib.import_module(module), first)
    return functools.reduce(getattr, rest, found)


def has(module: str, name: str) -> bool:
    try:
        find(module, name)
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("module, kind, present, missing", MODULES, ids=[row[0] for row in MODULES])
def test_a_row_says_what_a_module_has_and_has_not(module, kind, present, missing):
    here = module.replace("detectron2", "vod2._d2lite", 1)
    if kind == "absent":
        assert importlib.util.find_spec(here) is None
        assert not names(present) and not names(missing)
        return
    assert kind == ("part" if missing else "whole")
    assert names(present)
    assert [name for name in names(present) if not has(here, name)] == []
    assert [name for name in names(missing) if has(here, name)] == []


def test_every_name_of_the_door_is_in_the_row_of_its_module():
    listed = {module.removeprefix("detectron2."): names(present) for module, _, present, _ in MODULES}
    tree = ast.parse((ROOT / "vod2" / "d2.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imports = [node for node in imports if node.module.startswith("vod2._d2lite")]
    assert len(imports) > 20
    for node in imports:
        module = node.module.removeprefix("vod2._d2lite").strip(".")
        for alias in node.names:
            inner = f"{module}.{alias.name}".strip(".")
            # A row of a package may name what is in one of its modules: "fpn.LastLevelMaxPool"
            found = inner in listed or any(
                inner == f"{row}.{name}" for row, row_names in listed.items() for name in row_names
            )
            assert found, f"{node.module}.{alias.name} is in no row of the table"


def test_every_module_of_the_package_is_in_a_row():
    listed = {module.removeprefix("detectron2.") for module, *_ in MODULES}
    package = ROOT / "vod2" / "_d2lite"
    modules = {path.relative_to(package).with_suffix("").as_posix().replace("/", ".") for path in package.rglob("*.py")}
    modules = {name.removesuffix(".__init__") for name in modules} - {"__init__", "utils"}
    rows = {name for name in modules if any(name == row or name.startswith(f"{row}.") for row in listed)}
    assert modules == rows and len(rows) > 30


@pytest.fixture
def one_image():
    """The name of a registered dataset of one image."""
    DatasetCatalog.register("readme_one_image", lambda: [{"file_name": "none.png", "image_id": 0, "annotations": [{}]}])
    yield "readme_one_image"
    DatasetCatalog.remove("readme_one_image")


@pytest.mark.parametrize("key, value, error, function", REFUSED)
def test_a_setting_that_is_not_here_is_refused_by_name(one_image, key, value, error, function):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", (one_image,), key, value])
    calls = {
        "build_model": lambda: build_model(cfg),
        "build_detection_train_loader": lambda: build_detection_train_loader(cfg),
        "build_detection_test_loader": lambda: build_detection_test_loader(cfg, one_image),
        "DefaultTrainer": lambda: DefaultTrainer(cfg),
    }
    named = key if value == "True" else value
    with pytest.raises(getattr(builtins, error), match=named):
        calls[function]()


def test_pictures_during_training_are_ignored_with_a_warning(caplog):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "VIS_PERIOD", 7])
    with caplog.at_level(logging.WARNING):
        build_model(cfg)
    assert "VIS_PERIOD 7" in caplog.text


@pytest.mark.parametrize("loss", ["diou", "ciou"])
def test_a_loss_that_is_not_here_is_refused_by_name(loss):
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    with pytest.raises(ValueError, match=loss):
        box_regression_loss(Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), boxes, torch.zeros(1, 4), boxes, loss, 0.0)


@pytest.mark.skipif(importlib.util.find_spec("detectron2") is None, reason="Detectron2 is not installed")
def test_detectron2_has_what_the_table_says_of_it():
    missing, compared = [], 0
    for module, _, present, absent in MODULES:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Some modules of Detectron2 need packages that it does not install, such as SciPy.
            assert error.name is not None and not error.name.startswith("detectron2")
            continue
        compared += 1
        missing += [f"{module}.{name}" for name in names(present) + names(absent) if not has(module, name)]
    assert missing == []
    assert compared > 0.9 * len(MODULES)
