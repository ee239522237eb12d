"""A checkpoint is whole or it is not taken; what is wrong with it is said."""

import json

import pytest
import torch

from vod2.checkpoint.files import (
    DamagedError,
    _sha256_of,
    delete_checkpoint,
    find_whole,
    read_checkpoint,
    read_weights,
    write_checkpoint,
    write_weights,
)

PARTS = (".safetensors", ".state.safetensors", ".checkpoint.json")


def write(folder, iteration):
    weights = {"layer.weight": torch.full((3, 5), float(iteration)), "layer.count": torch.tensor(iteration)}
    state = {"trainer": {"iteration": iteration, "momentum": {0: torch.ones(4) * iteration}}}
    return write_checkpoint(folder, f"model_{iteration:07d}", weights, state, {"classes": ["elf"]})


@pytest.fixture
def two(tmp_path):
    """The folder of two checkpoints, of iterations 9 and 19."""
    write(tmp_path, 9)
    write(tmp_path, 19)
    return tmp_path


def test_a_checkpoint_comes_back(tmp_path):
    weights, state, about = read_checkpoint(write(tmp_path, 9))
    assert weights["layer.weight"].tolist() == [[9.0] * 5] * 3
    assert state["trainer"]["momentum"][0].tolist() == [9.0] * 4
    assert about == {"classes": ["elf"]}


def test_the_last_one_is_found(two):
    found = find_whole(two)
    assert found.weights.name == "model_0000019.safetensors"
    assert found.faults == ()


def test_an_empty_folder_has_none(tmp_path):
    assert find_whole(tmp_path) is None


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_the_last_bytes(path):
    path.write_bytes(path.read_bytes()[:-10])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", [cut_in_half, lose_the_last_bytes, empty, flip_a_bit, lambda path: path.unlink()])
def test_a_damaged_last_one_is_left_out_and_named(two, part, damage):
    damage(two / f"model_0000019{part}")
    found = find_whole(two)
    assert found.weights.name == "model_0000009.safetensors"
    assert "model_0000019" in " ".join(found.faults)


@pytest.mark.parametrize(
    "tag", [b"", b"\xff\xfe\x00", b"model_9999999.safetensors", b"../elsewhere.safetensors", b"/etc/passwd", b"a\nb"]
)
def test_a_bad_name_of_the_last_one_is_said_and_the_newest_is_taken(two, tag):
    (two / "last_checkpoint").write_bytes(tag)
    found = find_whole(two)
    assert found.weights.name == "model_0000019.safetensors"
    assert "last_checkpoint" in found.faults[0]


def test_a_missing_name_of_the_last_one_is_said(two):
    (two / "last_checkpoint").unlink()
    found = find_whole(two)
    assert found.weights.name == "model_0000019.safetensors"
    assert "missing" in found.faults[0]


def test_where_all_were_deleted_there_is_none_and_it_is_said(tmp_path, caplog):
    (tmp_path / "last_checkpoint").write_text("model_0000009.safetensors")
    assert find_whole(tmp_path) is None
    assert "model_0000009.safetensors" in caplog.text


def test_the_name_of_an_earlier_one_is_followed(two):
    (two / "last_checkpoint").write_text("model_0000009.safetensors")
    assert find_whole(two).weights.name == "model_0000009.safetensors"


def test_where_none_is_whole_each_is_named_with_its_fault(two):
    for iteration in (9, 19):
        empty(two / f"model_{iteration:07d}.safetensors")
    with pytest.raises(DamagedError, match=r"(?s)model_0000019.*model_0000009.*OUTPUT_DIR"):
        find_whole(two)


def test_weights_whose_manifest_was_not_written_are_no_checkpoint(two):
    write_weights(two / "model_0000029.safetensors", {"layer.weight": torch.zeros(3, 5)})
    assert find_whole(two).weights.name == "model_0000019.safetensors"


def test_a_checkpoint_of_detectron2_is_found_and_its_checksums_compared(tmp_path):
    weights = torch.arange(5000.0)
    torch.save({"model": {"weight": weights}, "iteration": 9}, tmp_path / "model_0000009.pth")
    torch.save({"model": {"weight": weights}, "iteration": 19}, tmp_path / "model_0000019.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000019.pth")
    assert find_whole(tmp_path).weights.name == "model_0000019.pth"
    content = bytearray((tmp_path / "model_0000019.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model_0000019.pth").write_bytes(content)
    found = find_whole(tmp_path)
    assert found.weights.name == "model_0000009.pth"
    assert "model_0000019.pth" in found.faults[0]


def test_a_manifest_that_was_edited_is_refused(two):
    path = two / "model_0000019.checkpoint.json"
    manifest = json.loads(path.read_text())
    manifest["state"]["trainer"]["iteration"] = 5
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match=r"model_0000019\.checkpoint\.json"):
        read_checkpoint(two / "model_0000019.safetensors")


def test_no_flipped_bit_changes_weights_unnoticed(tmp_path):
    path = tmp_path / "weights.safetensors"
    written = {"weight": torch.arange(8.0), "half": torch.ones(3, dtype=torch.bfloat16)}
    write_weights(path, written)
    whole = path.read_bytes()
    noticed = 0
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1
        path.write_bytes(content)
        try:
            found = read_weights(path)
        except DamagedError:
            noticed += 1
            continue
        # A flip in the name of the checksum, or in the blanks after the header, changes no weight.
        assert found.keys() == written.keys()
        assert all(torch.equal(found[name], written[name]) for name in written)
    assert noticed > 0.8 * len(whole)


def test_a_deleted_checkpoint_is_gone_and_the_one_before_it_is_found(two):
    delete_checkpoint(two / "model_0000019.safetensors")
    assert {path.name for path in two.glob("model_*")} == {f"model_0000009{part}" for part in PARTS}
    assert find_whole(two).weights.name == "model_0000009.safetensors"


def forge(folder, change):
    """Change what the manifest of iteration 19 says, with a SHA-256 that fits."""
    path = folder / "model_0000019.checkpoint.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    change(manifest)
    path.write_text(json.dumps(manifest | {"sha256": _sha256_of(manifest)}))
    return folder / "model_0000019.safetensors"


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["files"].update({"../secret.safetensors": {"bytes": 1, "sha256": ""}}),
        lambda manifest: manifest["files"].popitem(),
        lambda manifest: manifest["files"].update({"model_0000019.safetensors": None}),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(about=None),
        lambda manifest: manifest.pop("state"),
    ],
    ids=["another file", "a file less", "no sizes", "no files", "nothing about it", "no state"],
)
def test_a_manifest_of_another_shape_is_refused_and_the_one_before_is_taken(two, change):
    weights = forge(two, change)
    with pytest.raises(DamagedError, match="model_0000019.checkpoint.json is not of vod2"):
        read_checkpoint(weights)
    assert find_whole(two).weights.name == "model_0000009.safetensors"


@pytest.mark.parametrize(
    "packed", [{"__tensor__": "nowhere"}, {"__tensor__": []}, {"__dict__": [1]}, {"__number__": "x"}]
)
def test_a_state_that_nothing_has_packed_is_refused(two, packed):
    weights = forge(two, lambda manifest: manifest.update(state={"trainer": packed}))
    with pytest.raises(DamagedError, match="model_0000019.checkpoint.json has a state that cannot be read"):
        read_checkpoint(weights)


def test_a_last_checkpoint_with_a_name_that_no_file_can_have_is_told(two):
    (two / "last_checkpoint").write_text("a" * 300)
    whole = find_whole(two)
    assert whole.weights.name == "model_0000019.safetensors" and "which does not exist" in whole.faults[0]
