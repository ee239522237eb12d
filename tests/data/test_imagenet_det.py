"""Reading the still images of ImageNet DET."""

import pytest
from PIL import Image

from vod2.data.datasets import limit_images_per_class, load_imagenet_det
from vod2.errors import UserError

FOX, ZEBRA, PIANO = "n02118333", "n02391049", "n03928116"
FOLDER = f"train/ILSVRC2013_train/{FOX}"


def write_image(root, path, names):
    for part, suffix in (("Data", "JPEG"), ("Annotations", "xml")):
        (root / part / "DET" / f"{path}.{suffix}").parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 32)).save(root / "Data/DET" / f"{path}.JPEG")
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{9 + i}</xmax><ymax>20</ymax></bndbox>"
        "</object>"
        for i, name in enumerate(names)
    )
    text = f"<annotation><size><width>48</width><height>32</height></size>{objects}</annotation>"
    (root / "Annotations/DET" / f"{path}.xml").write_text(text)


@pytest.fixture
def root(tmp_path):
    write_image(tmp_path, f"{FOLDER}/one", [FOX, PIANO, ZEBRA])
    write_image(tmp_path, f"{FOLDER}/two", [FOX])
    write_image(tmp_path, f"train/ILSVRC2013_train/{PIANO}/three", [PIANO])
    return tmp_path


def test_an_image_is_a_video_of_one_frame(root):
    first = load_imagenet_det(root)[0]
    assert (first["video_id"], first["frame_index"], first["video_length"]) == (f"DET/{FOLDER}/one", 0, 1)
    assert first["file_name"] == f"{root}/Data/DET/{FOLDER}/one.JPEG"
    assert "frame_template" not in first


def test_objects_of_other_classes_are_left_out(root):
    annotations = load_imagenet_det(root)[0]["annotations"]
    assert [(a["category_id"], a["track_id"], a["bbox"]) for a in annotations] == [
        (11, 0, [1, 2, 9, 20]),
        (29, 2, [1, 2, 11, 20]),
    ]


def test_without_a_list_the_folders_of_the_thirty_classes_are_taken(root):
    assert [d["image_id"].rsplit("/")[-1] for d in load_imagenet_det(root)] == ["one", "two"]


def test_the_list_decides_where_it_is_found(root):
    (root / "ImageSets").mkdir()
    (root / "ImageSets/DET_train_30classes.txt").write_text(f"{FOLDER}/two 1\n")
    assert [d["image_id"].rsplit("/")[-1] for d in load_imagenet_det(root)] == ["two"]


def test_a_broken_line_is_named(root):
    path = root / "list.txt"
    path.write_text(f"{FOLDER}/two 1\n{FOLDER}/one\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2"):
        load_imagenet_det(root, path)


def test_a_missing_root_names_folder_and_dataset(tmp_path):
    with pytest.raises(UserError, match=r"Data/DET/train.*imagenet_det_train_30classes"):
        load_imagenet_det(tmp_path, name="imagenet_det_train_30classes")


def dicts_of(*classes):
    return [{"image_id": f"i{i}", "annotations": [{"category_id": c} for c in cs]} for i, cs in enumerate(classes)]


def test_at_most_so_many_images_of_a_class_are_kept_in_their_order():
    dicts = dicts_of([0], [0], [0], [1], [0, 1], [], [0])
    kept = limit_images_per_class(dicts, 2)
    numbers = [dicts.index(d) for d in kept]
    assert numbers == sorted(numbers)
    assert 5 in numbers
    for category in (0, 1):
        assert sum(any(a["category_id"] == category for a in d["annotations"]) for d in kept) <= 2
    assert sum(any(a["category_id"] == 0 for a in d["annotations"]) for d in kept) == 2


def test_the_choice_is_always_the_same_and_not_the_first_ones():
    dicts = dicts_of(*[[0]] * 100)
    kept = limit_images_per_class(dicts, 10)
    assert kept == limit_images_per_class(dicts, 10)
    assert kept != dicts[:10]


def test_nothing_is_kept_of_nothing():
    assert limit_images_per_class([], 3) == []
