"""A full disk: the file that was there stays whole, nothing else is left, and one sentence says what is full."""

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.full_disk import SMALL_DISK, little_space
from vod2.archive import Manifest, Scan, Signature
from vod2.atomic import replacing, write_json
from vod2.checkpoint.files import find_whole, write_checkpoint, write_weights
from vod2.engine.cli import run
from vod2.errors import UserError
from vod2.image_files import write_image
from vod2.video import VideoWriter

MUCH = 300_000  # numbers


def noise(*shape: int) -> np.ndarray:
    """(*shape) uint8 that no format compresses."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_video(path: Path) -> None:
    with VideoWriter(path, fps=25, size=(320, 240)) as video:
        for frame in noise(20, 240, 320, 3):
            video.write(frame)


def write_npz(path: Path) -> None:
    with replacing(path) as temporary:
        np.savez_compressed(temporary, numbers=noise(MUCH))


def write_pth(path: Path) -> None:
    with replacing(path) as temporary:
        torch.save({"numbers": torch.rand(MUCH)}, temporary)


def write_text(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("x" * 4 * MUCH)


WRITERS = {
    "results.json": lambda path: write_json(path, list(range(MUCH))),
    "report.html": write_text,
    "arrays.npz": write_npz,
    "weights.pth": write_pth,
    "weights.safetensors": lambda path: write_weights(path, {"numbers": torch.rand(MUCH)}),
    "picture.png": lambda path: write_image(path, noise(600, 600, 3)),
    "picture.jpg": lambda path: write_image(path, noise(900, 900, 3)),
    "video.mp4": write_video,
    "video.mkv": write_video,
    "video.avi": write_video,
}


@pytest.fixture
def disk(tmp_path):
    if SMALL_DISK not in os.environ:
        yield tmp_path
        return
    folder = Path(os.environ[SMALL_DISK], uuid.uuid4().hex)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_before_stays_whole_and_the_sentence_names_it(disk, name, capsys):
    (disk / name).write_text("the file before")
    with little_space() as number, pytest.raises(SystemExit) as stop:
        run(lambda: WRITERS[name](disk / name))
    assert stop.value.code == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"error: {os.strerror(number)} ({disk / name}): ")
    assert not any("Traceback" in line for line in lines)
    assert (disk / name).read_text() == "the file before"
    # Of a video that can be played although the disk is full, the first part is kept
    assert {path.name for path in disk.iterdir()} <= {name, f"video.partial{Path(name).suffix}"}


def test_a_checkpoint_of_the_same_name_stays_whole_when_its_second_file_does_not_fit(disk):
    small = {"numbers": torch.zeros(8)}
    write_checkpoint(disk, "model_final", small, {"optimizer": {"numbers": torch.zeros(8)}}, {})
    with little_space(), pytest.raises(OSError, match=r"model_final\.safetensors"):
        write_checkpoint(disk, "model_final", {"numbers": torch.ones(8)}, {"optimizer": {"n": torch.rand(MUCH)}}, {})
    assert find_whole(disk).faults == ()
    assert torch.equal(load_file(disk / "model_final.safetensors")["numbers"], torch.zeros(8))


def test_a_manifest_of_an_archive_goes_on_when_there_is_space_again(disk):
    found = [(f"/{number}-{'x' * 200}.mp4", Signature(number, 1)) for number in range(1500)]
    manifest = Manifest(disk / "manifest.sqlite")
    # SQLite says of a file that may not grow only that it cannot be written
    expected = OSError if SMALL_DISK in os.environ else UserError
    with little_space(), pytest.raises(expected, match=r"manifest\.sqlite"):
        manifest.add(found)
    assert manifest.counts().total == 0
    assert manifest.add(found[:1]) == Scan(new=1, changed=0, same=0)
    manifest.close()


@pytest.mark.slow
def test_all_of_this_on_a_disk_that_is_really_full(tmp_path):
    """In a mount of its own, which needs the rights to make one."""
    mount = f'mount -t tmpfs -o size=256k tmpfs "{tmp_path}" && exec "$@"'
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *tests],
        env=os.environ | {SMALL_DISK: str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout[-3000:]
