"""Labels of MATLAB's Video Labeler, in files that are written here byte by byte."""

import base64
import multiprocessing
import os
import signal
import sys
import zlib

import numpy as np
import pytest

from helpers.counting import calls_of
from helpers.matlab import write_labels
from vod2.data.datasets import matlab
from vod2.data.datasets.matlab import parse_video_labels, read_video_labels, require_moderate
from vod2.errors import UserError

FRAMES = [
    {"DRONE": [[1, 2, 30.5, 4]]},
    {},
    {"DRONE": [[5, 6, 7, 8], [9, 10, 11, 12]], "BIRD": [[1.25, 1, 2, 3]]},
]


@pytest.fixture
def path(tmp_path):
    pytest.importorskip("scipy", reason="SciPy is not installed")
    return tmp_path / "clip_LABELS.mat"


@pytest.mark.parametrize("nested", [False, True])
def test_all_boxes_of_all_classes_of_a_frame_are_read(path, nested):
    write_labels(path, FRAMES, nested=nested)
    labels = read_video_labels(path)
    assert labels.source == "C:\\Data\\clip.mp4"
    assert [{name: boxes.tolist() for name, boxes in frame.items()} for frame in labels.frames] == FRAMES


def test_a_video_of_a_single_frame_is_read(path):
    write_labels(path, FRAMES[:1])
    assert len(read_video_labels(path).frames) == 1


def test_a_box_that_is_no_box_is_refused_with_its_frame(path):
    write_labels(path, [{}, {"BIRD": [[1, 2, 3]]}])
    with pytest.raises(UserError, match=r"clip_LABELS.mat: frame 1, BIRD: float64 of the shape \(1, 3\)"):
        read_video_labels(path)


def test_a_box_that_is_not_finite_is_refused(path):
    write_labels(path, [{"BIRD": [[1, 2, np.nan, 3]]}])
    with pytest.raises(UserError, match="expected finite numbers"):
        read_video_labels(path)


def test_a_file_without_objects_says_what_was_expected(path):
    from scipy.io import savemat

    savemat(path, {"gTruth": np.zeros(3)})
    with pytest.raises(UserError, match="holds no object.*groundTruth of MATLAB's Video Labeler"):
        read_video_labels(path)


@pytest.mark.parametrize("length", [0, 60, 200, 700])
def test_a_file_that_is_cut_off_is_an_error_that_names_it(path, length):
    write_labels(path, FRAMES)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="clip_LABELS.mat"):
        read_video_labels(path)


def test_a_missing_file_is_an_error_that_names_it(path):
    with pytest.raises(UserError, match="clip_LABELS.mat"):
        read_video_labels(path)


def test_without_scipy_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match="pip install scipy"):
        parse_video_labels(tmp_path / "clip_LABELS.mat")


# A variable whose size was replaced by text: SciPy 1.17 ends the process that reads it.
CRASHES = (
    "c-r%|3Gs1sQZUssQ1EpO(M`+DNmU5QNi0drFUqx2D9A6)tk6+#E=o--Nlj76&$ChpPApOI%P&(fvQRKEvNA9MA_XG@"
    "BQpjd`2U}QB*5tD%Lk+afS3)4IiNHMutNDvP|V0cHeh6^0Fs<QtU!cnkb@Q=Ifx0(L5y(B$WRFuXMsA9i6IfHKLJTU"
    "3l<NFB6&yvOe!cCY9#?lVgN)R03+Wa4F"
)


def parse_or_crash(path):
    if os.path.basename(path) == "damaged.mat":
        os.kill(os.getpid(), signal.SIGSEGV)
    return parse_video_labels(path)


@pytest.fixture
def crashing(monkeypatch):
    """A parser that dies of "damaged.mat", whatever the SciPy that is installed would do."""
    monkeypatch.setattr(matlab, "parse_video_labels", parse_or_crash)


def test_the_end_of_the_process_that_reads_is_a_damaged_file_and_the_next_is_read(path, crashing):
    write_labels(path, FRAMES[:1])
    for _ in range(2):
        with pytest.raises(UserError, match=r"damaged\.mat: SciPy crashes on it, so it is damaged"):
            read_video_labels(path.parent / "damaged.mat")
        assert len(read_video_labels(path).frames) == 1


def read_in_queue(path, queue):
    queue.put(len(read_video_labels(path).frames))


@pytest.mark.parametrize("daemon", [False, True])
def test_a_process_that_was_forked_after_a_file_was_read_reads_another(path, daemon):
    write_labels(path, FRAMES[:2])
    read_video_labels(path)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=read_in_queue, args=(path, queue), daemon=daemon)
    process.start()
    assert queue.get(timeout=60) == 2
    process.join(60)
    assert process.exitcode == 0


def test_zeros_are_refused_at_once(path):
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + bytes(2**26))
    assert calls_of(lambda: require_moderate(path.read_bytes())) < 100  # 8 million elements of 8 bytes
    with pytest.raises(UserError, match="clip_LABELS.mat"):
        read_video_labels(path)


def test_a_file_that_scipy_crashes_on_is_refused_and_the_next_is_read(path):
    damaged, good = path.parent / "damaged.mat", path
    damaged.write_bytes(zlib.decompress(base64.b85decode(CRASHES)))
    write_labels(good, FRAMES[:1])
    for _ in range(2):
        with pytest.raises(UserError, match=r"damaged\.mat"):
            read_video_labels(damaged)
        assert len(read_video_labels(good).frames) == 1
