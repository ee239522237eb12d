"""A few bytes that stand for too much are refused, and the message names the limit."""

import gzip
import io
import json
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
import yaml

from vod2 import bounded
from vod2.ablation.suite import load_suite
from vod2.bounded import LimitError, load_json_at, load_yaml, parse_xml, read_npz, shown
from vod2.checkpoint.files import find_whole
from vod2.checkpoint.io import read_tensors
from vod2.checkpoint.public_file import read_public
from vod2.data.datasets.coco_video import load_coco_video
from vod2.data.datasets.drones_clone import read_distances
from vod2.data.datasets.ilsvrc import parse_xml as parse_annotation
from vod2.data.datasets.images import image_size
from vod2.data.datasets.matlab import parse_video_labels
from vod2.data.datasets.yolo import read_class_names
from vod2.engine import load_config
from vod2.engine.rows import load_rows
from vod2.errors import UserError
from vod2.evaluation import read_relations
from vod2.evaluation.curves import load_curves
from vod2.evaluation.evaluated import read_evaluated_dataset
from vod2.evaluation.runs import read_run

LIMIT = 2**20
ZEROS = bytes(4 * LIMIT)


@pytest.fixture
def low_limit(monkeypatch):
    """A mebibyte may always be unpacked, instead of a gibibyte."""
    monkeypatch.setattr(bounded, "MAX_UNPACKED", LIMIT)


def packed(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def array_file(shape, content):
    """An .npy file whose head states any shape."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    return head.getvalue() + content


NPZ_READERS = [read_npz, read_evaluated_dataset, load_curves, read_relations, lambda path: read_run(path.parent)]


@pytest.mark.parametrize("reader", NPZ_READERS)
def test_arrays_that_unpack_to_too_much_are_refused(tmp_path, low_limit, reader):
    path = tmp_path / "detections.npz"
    path.write_bytes(packed(**{"image.npy": array_file((4 * LIMIT // 8,), ZEROS)}))
    with pytest.raises((UserError, LimitError), match=rf"unpack to \d+ or more, the limit is {LIMIT}"):
        reader(path)


@pytest.mark.parametrize("reader", NPZ_READERS)
def test_an_array_that_states_more_than_it_has_is_refused_before_memory_is_taken(tmp_path, reader):
    path = tmp_path / "detections.npz"
    path.write_bytes(packed(**{"image.npy": array_file((10**15,), bytes(8))}))
    with pytest.raises((UserError, LimitError), match=f"{8 * 10**15} bytes.* the limit is the 8 bytes it holds"):
        reader(path)


def test_arrays_that_pack_well_are_read(tmp_path, low_limit):
    rng = np.random.default_rng(0)
    arrays = {
        "boxes": rng.random(LIMIT // 4),
        "names": np.array(["a", "bb"]),
        "none": np.zeros((0, 4)),
        "one": np.array(3),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    read = read_npz(tmp_path / "a.npz")
    assert read.keys() == arrays.keys() and all((read[name] == arrays[name]).all() for name in arrays)


def test_arrays_that_need_pickle_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", objects=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="objects"):
        read_npz(tmp_path / "a.npz")


def test_a_packed_json_that_unpacks_to_too_much_is_refused(tmp_path, low_limit):
    path = tmp_path / "set.json.gz"
    path.write_bytes(gzip.compress(b" " * len(ZEROS)))
    with pytest.raises(UserError, match=rf"set\.json\.gz: .*the limit is {LIMIT}"):
        load_coco_video(path)


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path, low_limit):
    path = tmp_path / "table.xlsx"
    path.write_bytes(packed(**{"xl/sharedStrings.xml": ZEROS, "xl/worksheets/sheet1.xml": b"<a/>"}))
    with pytest.raises(UserError, match=rf"table\.xlsx: .*the limit is {LIMIT}"):
        read_distances(path)


def test_a_checkpoint_that_unpacks_to_too_much_is_refused(tmp_path, low_limit):
    path = tmp_path / "model_0000001.pth"
    path.write_bytes(packed(**{"archive/data.pkl": ZEROS}))
    for reader in (read_tensors, read_public):
        with pytest.raises(UserError, match=r"model_0000001\.pth.*unpack to"):
            reader(str(path))
    with pytest.raises(UserError, match=f"the limit is {LIMIT}"):
        find_whole(tmp_path)


def test_a_checkpoint_of_zeros_is_read(tmp_path, low_limit):
    """PyTorch packs nothing, so a large one is as large as it says."""
    torch.save({"a": torch.zeros(LIMIT)}, tmp_path / "model.pth")
    assert read_tensors(str(tmp_path / "model.pth"))["a"].shape == (LIMIT,)


def matrix(*sides):
    flags = struct.pack("<IIII", 6, 8, 6, 0)
    return flags + struct.pack("<II", 5, 4 * len(sides)) + struct.pack(f"<{len(sides)}i", *sides) + bytes(16)


def mat_file(kind, content):
    return b" " * 116 + bytes(8) + b"\x00\x01IM" + struct.pack("<II", kind, len(content)) + content


def test_a_matlab_file_that_states_a_huge_matrix_is_refused(tmp_path):
    path = tmp_path / "labels.mat"
    huge = matrix(2**31 - 1, 2**31 - 1)
    element = struct.pack("<II", 14, len(huge)) + huge
    for content in (mat_file(14, huge), mat_file(15, zlib.compress(element))):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"labels\.mat: .*the sides \[2147483647, 2147483647\], the limit is"):
            parse_video_labels(path)


def test_a_matlab_file_that_unpacks_to_too_much_is_refused(tmp_path, low_limit):
    path = tmp_path / "labels.mat"
    path.write_bytes(mat_file(15, zlib.compress(ZEROS)))
    with pytest.raises(UserError, match=rf"labels\.mat: .*the limit is {LIMIT}"):
        parse_video_labels(path)


def test_an_image_that_states_a_huge_size_is_refused(tmp_path):
    head = struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")))
    )
    (tmp_path / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(UserError, match=r"0\.png.*limit of 134217728"):
        image_size(tmp_path / "0.png")


XML = "<annotation><size><width>{}</width><height>8</height></size></annotation>"
ENTITIES = '<!DOCTYPE a [<!ENTITY a "1"><!ENTITY b "&a;&a;&a;">]>' + XML.format("&b;")
EXTERNAL = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]>' + XML.format("&a;")


@pytest.mark.parametrize("text", [ENTITIES, EXTERNAL, '<!DOCTYPE a SYSTEM "http://localhost/a.dtd">' + XML.format(1)])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_xml_with_entities_is_refused(tmp_path, text, encoding):
    path = tmp_path / "0.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    with pytest.raises(UserError, match=r"0\.xml: .*DOCTYPE is not allowed"):
        parse_annotation(path)


def test_an_xml_may_be_in_any_encoding_and_have_comments(tmp_path):
    for encoding in ("utf-8", "utf-16", "latin-1"):
        text = f'<?xml version="1.0" encoding="{encoding}"?><!-- \xe4 -->{XML.format(12)}'
        (tmp_path / "0.xml").write_bytes(text.encode(encoding))
        assert parse_annotation(tmp_path / "0.xml") == (8, 12, [])


def test_nested_elements_are_read_without_recursion():
    root = parse_xml(b"<a>" * 100_000 + b"</a>" * 100_000)
    assert sum(1 for _ in root.iter()) == 100_000


ALIASES = "a0: &a0 [x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}\n" for k in range(1, 12))
YAML_READERS = [load_config, load_suite, load_rows, read_class_names]


@pytest.mark.parametrize("reader", YAML_READERS)
@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (ALIASES, f"the limit is {bounded.MAX_YAML_NODES} keys"),
        (MERGES, f"the limit is {bounded.MAX_YAML_NODES} keys"),
        ("a: &a [*a]", "an alias refers to a node that contains it"),
        ("[" * 5000, "nested too deeply, the limit is"),
        ("names: 0x" + "f" * 5000, f"a number has 5002 digits, the limit is {bounded.MAX_DIGITS}"),
    ],
    ids=["aliases", "merges", "of itself", "nested", "long number"],
)
def test_a_yaml_that_stands_for_too_much_is_refused(tmp_path, reader, text, limit):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"file\.yaml.*{limit}"):
        reader(str(path) if reader is load_config else path)


def test_yaml_reads_as_pyyaml_does():
    text = "a: &a {x: 1, y: [2.5, null, 2001-01-01, 0x10]}\nb: *a\nc: {<<: *a, x: 3}\nd: !!set {e, f}\n"
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yaml("") is None


@pytest.mark.parametrize("text", ["a: [", "a: !!python/object:os.system {}", "[1]: 2", "a: 2001-02-31", "\0"])
def test_what_is_no_yaml_of_plain_values_is_a_value_error(text):
    with pytest.raises(ValueError):
        load_yaml(text)


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000])
def test_json_that_python_cannot_read_is_a_value_error(value):
    with pytest.raises(ValueError, match="limit"):
        bounded.load_json(value)


def test_what_cannot_be_written_out_is_shown_in_words():
    assert shown(16**5000) == shown([16**5000]) == "a number of thousands of digits"
    assert shown("x" * 100, 10) == "'xxxxxxxxx"


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1" + "0" * 400, str(2**63), "0x" + "f" * 4000])
def test_a_setting_that_no_64_bits_hold_is_refused(value):
    with pytest.raises(UserError, match=r"SOLVER\.MAX_ITER is .*expected a whole number below 2\^63"):
        load_config("", ["SOLVER.MAX_ITER", value])


def coco(**changes):
    image = {"id": 0, "video_id": 1, "frame_id": 0, "file_name": "v/0.png", "height": 8, "width": 12}
    note = {"id": 1, "image_id": 0, "category_id": 5, "bbox": [1, 1, 4, 4], "instance_id": 7}
    for part in (image, note):
        part.update({key: value for key, value in changes.items() if key in part})
    content = {"videos": [{"id": 1, "name": "v"}], "images": [image], "annotations": [note]}
    return content | {"categories": [{"id": 5, "name": "elf"}]}


@pytest.mark.parametrize("value", [10**400, float("inf"), 2**60])
@pytest.mark.parametrize(
    ("key", "limit"), [("frame_id", 2**22), ("width", 2**31 - 1), ("height", 2**31 - 1), ("instance_id", 2**53)]
)
def test_a_huge_number_in_json_is_refused(tmp_path, key, limit, value):
    path = tmp_path / "set.json"
    path.write_text(re.sub("Infinity", "1e400", json.dumps(coco(**{key: value}))))
    with pytest.raises(UserError, match=rf"set\.json: .*{key} is .* at most {limit}"):
        load_coco_video(path)


def test_a_huge_box_in_json_is_refused(tmp_path):
    path = tmp_path / "set.json"
    path.write_text(json.dumps(coco(bbox=[1, 1, 10**400, 4])))
    with pytest.raises(UserError, match=r"bbox is 10*, expected a number of at most 1\.8e\+308"):
        load_coco_video(path)


def test_a_huge_length_of_a_video_is_refused(tmp_path):
    videos = [{"id": 1, "name": "v", "length": 10**15, "height": 8, "width": 12}]
    (tmp_path / "set.json").write_text(json.dumps({"videos": videos, "annotations": [], "categories": []}))
    with pytest.raises(UserError, match=rf"length is 10*, expected a whole number of .*at most {2**22}"):
        load_coco_video(tmp_path / "set.json", video_root=tmp_path)


@pytest.mark.parametrize(("text", "value"), [('{"a":  [1, 2], "b"', [1, 2]), ('{"a":3', 3), ('{"a":\n"x" y', "x")])
def test_a_value_inside_of_json_is_read_without_what_follows(text, value):
    assert load_json_at(text, text.index(":") + 1) == value


@pytest.mark.parametrize("text", ["", "  ", "[1, 2", "nothing"])
def test_where_there_is_no_value_of_json_it_is_an_error(text):
    with pytest.raises(ValueError):
        load_json_at(text, 0)


def test_a_value_that_is_nested_too_deeply_is_refused():
    with pytest.raises(LimitError, match="nested too deeply"):
        load_json_at("x" + "[" * 100_000, 1)
