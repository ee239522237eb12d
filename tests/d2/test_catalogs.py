"""The contract of the catalogs and of the loaders of annotations, on whichever backend is active."""

import json
import uuid

import pytest

from vod2.d2 import (
    BoxMode,
    DatasetCatalog,
    MetadataCatalog,
    get_detection_dataset_dicts,
    load_coco_json,
    register_coco_instances,
)


@pytest.fixture
def name():
    """A name that no other test has used; forgotten afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    yield name
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)


def image(*crowds, category=0, **extra):
    annotation = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYXY_ABS, "category_id": category}
    return {"file_name": "a.png", "annotations": [{**annotation, "iscrowd": crowd} for crowd in crowds], **extra}


def test_a_registered_function_is_called_on_each_get(name):
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(0) or [len(calls)])
    assert name in DatasetCatalog.list() and not calls
    assert DatasetCatalog.get(name) == [1]
    assert DatasetCatalog.get(name) == [2]


def test_a_name_is_registered_once_until_it_is_removed(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError, match=name):
        DatasetCatalog.register(name, list)
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, list)


def test_an_unknown_dataset_is_named_together_with_the_known_ones(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(KeyError, match=f"no_such.*{name}"):
        DatasetCatalog.get("no_such")


def test_metadata_of_one_name_is_one_object(name):
    MetadataCatalog.get(name).thing_classes = ["a"]
    assert MetadataCatalog.get(name).thing_classes == ["a"]
    assert MetadataCatalog.get(name).as_dict() == {"name": name, "thing_classes": ["a"]}


def test_metadata_is_set_once_to_one_value(name):
    meta = MetadataCatalog.get(name).set(thing_classes=["a"], stride=4)
    meta.thing_classes = ["a"]
    with pytest.raises(AssertionError, match="thing_classes"):
        meta.thing_classes = ["b"]
    assert meta.thing_classes == ["a"] and meta.stride == 4


def test_missing_metadata_has_a_default_in_get_and_an_error_as_attribute(name):
    meta = MetadataCatalog.get(name).set(stride=4)
    assert meta.get("absent") is None and meta.get("absent", 7) == 7 and not hasattr(meta, "absent")
    with pytest.raises(AttributeError, match="absent.*stride"):
        _ = meta.absent


def test_images_without_annotations_or_with_crowds_only_are_filtered(name):
    DatasetCatalog.register(name, lambda: [image(id=0), image(1, id=1), image(1, 0, id=2), image(0, id=3)])
    assert [d["id"] for d in get_detection_dataset_dicts(name)] == [2, 3]
    assert [d["id"] for d in get_detection_dataset_dicts([name], filter_empty=False)] == [0, 1, 2, 3]


def test_an_empty_dataset_is_an_error_that_names_it(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError, match=name):
        get_detection_dataset_dicts(name)


def test_a_dataset_that_the_filter_empties_is_an_error_that_names_it(name):
    DatasetCatalog.register(name, lambda: [image(1)])
    MetadataCatalog.get(name).thing_classes = ["a"]
    with pytest.raises(AssertionError, match=name):
        get_detection_dataset_dicts(name)


def test_datasets_of_different_classes_are_not_joined(name):
    other = f"{name}_other"
    for key, classes in ((name, ["a"]), (other, ["b"])):
        DatasetCatalog.register(key, lambda: [image(0)])
        MetadataCatalog.get(key).thing_classes = classes
    try:
        with pytest.raises(ValueError, match="thing_classes"):
            get_detection_dataset_dicts([name, other])
        assert len(get_detection_dataset_dicts([name, other], check_consistency=False)) == 2
    finally:
        DatasetCatalog.remove(other)
        MetadataCatalog.remove(other)


@pytest.fixture
def coco_json(tmp_path):
    """Two images and two categories with the ids 3 and 7, in no order."""
    annotations = [
        {"id": 5, "image_id": 8, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "track": 9},
        {"id": 6, "image_id": 8, "category_id": 3, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 1},
    ]
    images = [{"id": 8, "file_name": "b.png", "height": 6, "width": 7}]
    images.append({"id": 2, "file_name": "a.png", "height": 5, "width": 9})
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path)


def test_coco_categories_become_contiguous_and_images_come_by_id(coco_json, name):
    first, second = load_coco_json(coco_json, "root", name)
    assert (first["image_id"], first["file_name"], first["annotations"]) == (2, "root/a.png", [])
    assert (second["image_id"], second["height"], second["width"]) == (8, 6, 7)
    dog, cat = second["annotations"]
    assert (dog["category_id"], dog["bbox"], dog["iscrowd"]) == (1, [1, 2, 3, 4], 0)
    assert dog["bbox_mode"] == BoxMode.XYWH_ABS and "track" not in dog
    assert (cat["category_id"], cat["iscrowd"]) == (0, 1)
    meta = MetadataCatalog.get(name)
    assert meta.thing_classes == ["cat", "dog"] and meta.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_coco_ids_stay_and_extra_keys_come_along_where_asked(coco_json):
    annotation = load_coco_json(coco_json, "root", extra_annotation_keys=["track"])[1]["annotations"][0]
    assert annotation["category_id"] == 7 and annotation["track"] == 9


def test_registered_coco_instances_know_where_they_came_from(coco_json, name):
    register_coco_instances(name, {"source": "me"}, coco_json, "root")
    assert len(DatasetCatalog.get(name)) == 2
    meta = MetadataCatalog.get(name)
    assert (meta.evaluator_type, meta.json_file, meta.image_root, meta.source) == ("coco", coco_json, "root", "me")
