"""Reading the still images of ImageNet DET."""

import random

import pytest
from PIL import Image

from vod2.data.datasets import det_selection, limit_images_per_class, load_imagenet_det
from vod2.data.datasets.det_selection import derive_images
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


def lines(root, **keys):
    return [path.rsplit("/")[-1] for path in derive_images(root, **keys)]


def test_without_a_list_the_folders_of_the_thirty_classes_are_taken(root):
    assert [d["image_id"].rsplit("/")[-1] for d in load_imagenet_det(root)] == ["one", "two"] == lines(root)


class TestSelection:
    def test_a_folder_of_a_synset_below_a_class_is_of_that_class(self, root):
        kit_fox, grand_piano = "n02119789", "n03452741"
        write_image(root, f"train/ILSVRC2013_train/{kit_fox}/kit", [FOX])
        write_image(root, f"train/ILSVRC2013_train/{kit_fox}/unseen", [])  # its folder tells
        write_image(root, f"train/ILSVRC2013_train/{grand_piano}/grand", [PIANO, FOX])
        write_image(root, f"train/ILSVRC2013_train/{grand_piano}/other", [PIANO])
        assert lines(root) == ["one", "two", "kit", "unseen"]

    def test_a_folder_is_of_what_most_of_its_images_hold(self, root):
        """Foxes are in all folders' images here, as horses are in those of saddles."""
        saddle = "n04131690"
        for number in range(3):
            write_image(root, f"train/ILSVRC2013_train/{saddle}/{number}", [saddle, FOX] if number else [saddle])
        assert lines(root) == ["one", "two"]

    def test_an_image_of_the_mixed_folders_is_of_every_class_that_it_shows(self, root):
        write_image(root, "train/ILSVRC2014_train_0000/both", [ZEBRA, FOX, FOX, PIANO])
        write_image(root, "train/ILSVRC2014_train_0000/neither", [PIANO])
        (root / "Data/DET/train/ILSVRC2013_train_extra0").mkdir()
        Image.new("RGB", (48, 32)).save(root / "Data/DET/train/ILSVRC2013_train_extra0/unlabelled.JPEG")
        # The fox's section, then the zebra's: of the fox's folder, "one" shows a zebra, but is not of its folders
        assert lines(root) == ["one", "two", "both", "both"]
        assert len(load_imagenet_det(root)) == 4

    def test_each_class_has_its_own_limit(self, root, monkeypatch):
        monkeypatch.setattr(det_selection, "_LINES_PER_CLASS", 3)
        for number in range(5):
            write_image(root, f"{FOLDER}/more{number}", [FOX, ZEBRA])
            write_image(root, f"train/ILSVRC2013_train/{ZEBRA}/zebra{number}", [ZEBRA])
        found = derive_images(root)
        assert found == derive_images(root)
        assert [FOX in path for path in found] == [True] * 3 + [False] * 3

    def test_a_broken_annotation_does_not_stop_the_selection(self, root):
        write_image(root, "train/ILSVRC2014_train_0000/broken", [FOX])
        (root / "Annotations/DET/train/ILSVRC2014_train_0000/broken.xml").write_text("<annotation>")
        assert lines(root) == ["one", "two"]

    def test_other_classes_are_found_by_their_readable_names(self, root):
        write_image(root, "train/ILSVRC2014_train_0000/elves", ["elf"])
        assert lines(root, class_names=["gnome", "elf"]) == ["elves"]


def test_a_line_that_comes_twice_is_taken_twice(root):
    (root / "ImageSets").mkdir()
    (root / "ImageSets/DET_train_30classes.txt").write_text(f"{FOLDER}/two 1\n{FOLDER}/one 1\n{FOLDER}/two 1\n")
    assert [d["image_id"].rsplit("/")[-1] for d in load_imagenet_det(root)] == ["two", "one", "two"]


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


def count(dicts, category):
    return sum(any(a["category_id"] == category for a in d["annotations"]) for d in dicts)


def test_of_each_class_so_many_images_are_kept_in_their_order():
    dicts = dicts_of([0], [0], [0], [1], [2], [], [0])
    kept = limit_images_per_class(dicts, 2)
    numbers = [dicts.index(d) for d in kept]
    assert numbers == sorted(numbers) and {3, 4, 5} <= set(numbers)
    assert [count(kept, category) for category in range(3)] == [2, 1, 1]


def test_an_image_stays_if_one_of_its_classes_has_room():
    kept = limit_images_per_class(dicts_of(*[[0]] * 5, *[[0, 1]] * 2), 2)
    assert count(kept, 1) == 2 and 2 <= count(kept, 0) <= 4


def test_no_class_loses_images_to_the_limits_of_others():
    """Four sections of 20, 20, 20 and 15 images, most of which show other classes, too."""
    rng = random.Random(0)
    sections = [[c, *rng.sample(range(4), 2)] for c, size in enumerate((20, 20, 20, 15)) for _ in range(size)]
    dicts = dicts_of(*sections)
    kept = limit_images_per_class(dicts, 20)
    assert all(count(kept, category) >= 20 for category in range(4))
    assert limit_images_per_class(dicts, max(count(dicts, category) for category in range(4))) == dicts


def test_the_choice_is_always_the_same_and_not_the_first_ones():
    dicts = dicts_of(*[[0]] * 100)
    kept = limit_images_per_class(dicts, 10)
    assert kept == limit_images_per_class(dicts, 10)
    assert kept != dicts[:10]


def test_nothing_is_kept_of_nothing():
    assert limit_images_per_class([], 3) == []
