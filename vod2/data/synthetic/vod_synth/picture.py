"""A picture of each deterioration at graded strengths.

python -m vod2.data.synthetic.vod_synth.picture docs/vod_synth.png
"""

import argparse

import cv2
import numpy as np

from vod2.data.synthetic.vod_synth.classes import look_alike_group
from vod2.data.synthetic.vod_synth.deterioration import FRAME_KINDS, KINDS
from vod2.data.synthetic.vod_synth.drawing import UNIT
from vod2.data.synthetic.vod_synth.look import draw_background, draw_blob_look, draw_object_look
from vod2.data.synthetic.vod_synth.paths import Path, canvas_size, draw_camera
from vod2.data.synthetic.vod_synth.scene import Thing, render_things
from vod2.image_files import write_image

_STRENGTHS = (20, 40, 60, 100)  # percent
_CELL = (64, 186)  # height, width: three objects side by side
_SIDE = 44  # of an object, pixels
_LEFT, _TOP = 92, 18  # room for names
_DRIFT = 2  # pixels that the objects move from frame to frame, to the right and down


def contact_sheet() -> np.ndarray:
    """The three look-alikes of a group under each kind (rows) at each strength (columns): (H, W, 3) uint8 BGR."""
    height, width = _CELL
    rows = [_header(width)]
    for kind in KINDS:
        name = np.full((height, _LEFT, 3), 255, np.uint8)
        _write(name, kind.replace("_", " "), (4, height // 2 + 4))
        rows.append(np.hstack([name, *(_cell(kind, strength) for strength in _STRENGTHS)]))
    return np.vstack(rows)


def _header(width: int) -> np.ndarray:
    header = np.full((_TOP, _LEFT + width * len(_STRENGTHS), 3), 255, np.uint8)
    for number, strength in enumerate(_STRENGTHS):
        _write(header, f"strength {strength / 100:.1f}", (_LEFT + width * number + 60, 13))
    return header


def _write(image: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)


def _cell(kind: str, strength: int) -> np.ndarray:
    """The middle one of three frames: the objects move, so that there is something to blur along."""
    height, width = _CELL
    rng = np.random.default_rng(4)
    # A camera at rest: what is smeared are the objects, by their own motion.
    camera, hues = draw_camera(rng, 3, height, width, rate=0.0), [20, 140, 260]
    background = draw_background(rng, *canvas_size(height, width), hues)
    per_object = kind not in (*FRAME_KINDS, "occlusion")
    things = []
    for number, category in enumerate(look_alike_group(0)):
        look = draw_object_look(rng, category, hues[number])
        path = _path((2 * number + 1) * width // 6, height // 2, _SIDE)
        bursts = [{kind: strength} if per_object else {} for _ in range(3)]
        things.append(Thing(category, look, path, bursts, range(3), number))
    if kind == "occlusion":
        # In front of all objects, as things are drawn in their order.
        things += [_cover(rng, thing, strength) for thing in list(things)]
    frame_kinds = {kind: strength} if kind in FRAME_KINDS else {}
    frames = render_things(rng, background, camera, things, [frame_kinds] * 3)
    return list(frames)[1][0]


def _path(x: int, y: int, side: int) -> Path:
    step = np.arange(-1, 2) * _DRIFT * UNIT
    return Path(x * UNIT + step, y * UNIT + step, np.full(3, side * UNIT), np.zeros(3))


def _cover(rng: np.random.Generator, thing: Thing, percent: int) -> Thing:
    """A thing that has come in from below until it hides about `percent` of the object."""
    path = thing.path
    cover_path = Path(path.x, path.y + path.side * (104 - percent) // 100, path.side * 5 // 4, path.angle)
    return Thing(None, draw_blob_look(rng, 60), cover_path, [{}] * 3, range(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="a PNG")
    output = parser.parse_args().output
    write_image(output, contact_sheet(), [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
