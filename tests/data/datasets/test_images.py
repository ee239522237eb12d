"""Images of more than 8 bits a channel, and in every path the same pixels."""

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.checking import check, only
from vod2.data.clips.frames import read_frames
from vod2.data.datasets import load_yolo_video
from vod2.data.datasets.images import image_size, read_image
from vod2.errors import UserError
from vod2.video import VideoReader

THERMAL = np.linspace(0, 65535, 6 * 8).reshape(6, 8).astype(np.uint16)
COLOUR = np.stack([THERMAL, THERMAL[::-1], 65535 - THERMAL], axis=2)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("values", [THERMAL, COLOUR], ids=["gray", "colour"])
def test_of_16_bits_the_upper_8_are_kept_in_training_as_in_a_stream(tmp_path, suffix, values):
    path = tmp_path / f"0{suffix}"
    assert cv2.imwrite(str(path), values)
    expected = np.broadcast_to((values >> 8).astype(np.uint8).reshape(6, 8, -1), (6, 8, 3))
    assert np.array_equal(read_image(path, "BGR"), expected)
    assert np.array_equal(read_image(path, "RGB"), expected[..., ::-1])
    assert read_image(path, "L").shape == (6, 8, 1)
    record = {"file_name": str(path), "video_id": "v", "frame_index": 0, "height": 6, "width": 8}
    shown = next(iter(VideoReader(tmp_path)))
    # OpenCV rounds a TIFF in colour; of all other kinds it keeps the upper bits.
    assert np.abs(read_frames(record, [0])[0].astype(int) - shown).max() <= (suffix == ".tif" and values is COLOUR)
    assert image_size(path) == (6, 8)


def test_a_picture_of_8_bits_is_as_pillow_decodes_it(tmp_path):
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "0.png")
    assert np.array_equal(read_image(tmp_path / "0.png", "L")[..., 0], np.arange(48).reshape(6, 8))


@pytest.mark.parametrize("values, kind", [(np.float32(THERMAL), "floats"), (np.int32(THERMAL), "integers of 32 bits")])
def test_pixels_without_a_scale_are_refused_by_name_in_training_and_check(tmp_path, values, kind):
    folder = tmp_path / "images" / "v"
    folder.mkdir(parents=True)
    (tmp_path / "labels" / "v").mkdir(parents=True)
    Image.fromarray(values).save(folder / "0.tif")
    (tmp_path / "labels" / "v" / "0.txt").write_text("0 .5 .5 .5 .5\n")
    record = load_yolo_video(tmp_path, ["cat"]).dicts[0]
    with pytest.raises(UserError, match=rf"0.tif: its pixels are {kind}, expected 8 or 16 bits"):
        read_frames(record, [0])
    assert kind in only(check(tmp_path), "unreadable_image")[0].value


def test_a_text_under_the_name_of_an_image_is_refused(tmp_path):
    (tmp_path / "0.tif").write_bytes(b"II*\0no image")
    for read in (read_image, image_size):
        with pytest.raises((UserError, OSError)):
            read(tmp_path / "0.tif")
