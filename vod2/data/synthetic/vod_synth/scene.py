"""Renders the videos and stills of VOD-Synth 1.

Shape alphabet: H, W height and width of a frame, n side of a patch, F frames.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vod2.data.synthetic.motion import draw_ranges
from vod2.data.synthetic.scene import SyntheticObject
from vod2.data.synthetic.vod_synth import deterioration as bad
from vod2.data.synthetic.vod_synth.classes import VOD_SYNTH_CLASSES, look_alike_group
from vod2.data.synthetic.vod_synth.drawing import (
    Patch,
    Pose,
    blend,
    covered_pixels,
    draw_mask,
    fill,
    premultiply,
)
from vod2.data.synthetic.vod_synth.look import (
    Colour,
    Look,
    draw_background,
    draw_blob_look,
    draw_distractor_look,
    draw_object_look,
)
from vod2.data.synthetic.vod_synth.paths import (
    SIDES,
    Camera,
    Path,
    canvas_size,
    draw_bursts,
    draw_camera,
    draw_path,
)

LEAST_VISIBLE = 0.2  # share of an object that must be seen for it to be annotated

_OBJECTS = (2, 4)  # least and most in a video
_DISTRACTORS = (0, 1)
_COMPANION_PERCENT = 75  # videos whose second object is a look-alike of the first, in almost its colour
_STRENGTHS = (45, 100)  # percent
_HARD_PERCENT = (40, 90)  # of a video's frames that are in a hard stretch: drawn for each video
_STRETCH = {"longest": 56, "mean": 24}  # frames; the shortest mean of a video
_WHOLE_PERCENT = 25  # hard stretches with a kind of the whole frame; in the others every object has a kind of its own
_CANDIDATES = 12  # paths that are drawn for a thing, of which the one that keeps most apart is taken
_PASSING_PERCENT = 40  # objects before which something passes
_LONGEST_PASSING = 14  # frames
_NOTED_OCCLUSION = 0.25  # an object of which less is hidden counts as clean


@dataclass(frozen=True)
class BenchmarkObject(SyntheticObject):
    """One object in one frame; fields as of `SyntheticObject`, but that boxes may overlap.

    Attributes:
        category_id: index into `VOD_SYNTH_CLASSES`.
        box: around the pixels that the object covers inside the image, or would cover if it were sharp and nothing
            stood before it.
        visible_share: of all its pixels, those that are inside the image with nothing before them, in [0.2, 1].
    """

    @property
    def name(self) -> str:
        return VOD_SYNTH_CLASSES[self.category_id]


@dataclass(frozen=True)
class Thing:
    """Something that moves: an object where it has a category, or else a distractor or what passes in front.

    Attributes:
        category: id of its class; None for what is not annotated.
        look, path: what it looks like and where it is.
        bursts: (F,) {kind: percent} of its own deteriorations.
        present: the frames that it is there in.
        track: an object's number in its video, from 0; -1 for other things.
    """

    category: int | None
    look: Look
    path: Path
    bursts: list[dict[str, int]]
    present: range
    track: int = -1


@dataclass(frozen=True)
class _View:
    """A thing in one frame, before it is drawn: `mask` is (S n, S n) on `patch`, `pixels` (n, n) bool."""

    thing: Thing
    pose: Pose
    patch: Patch
    mask: np.ndarray
    pixels: np.ndarray
    velocity: tuple[int, int]
    kinds: dict[str, int]


def render(
    rng: np.random.Generator,
    frames: int,
    height: int,
    width: int,
    first_category: int,
    classes: int,
    clean: bool = False,
) -> Iterator[tuple[np.ndarray, tuple[BenchmarkObject, ...]]]:
    """Render a video of `frames` frames from what `rng` draws.

    Args:
        rng: decides everything; used until the last frame is rendered.
        frames, height, width: of the video.
        first_category: class of the first object.
        classes: the objects are of the first so many classes, whole groups.
        clean: without deteriorations and without things that pass in front; objects may still hide one another.

    Returns:
        Iterator over the frames: image (H, W, 3) uint8 BGR, and the objects that are visible enough.
    """
    camera = draw_camera(rng, frames, height, width)
    hues = [int(rng.integers(360))]
    percent = 0 if clean else int(rng.integers(_HARD_PERCENT[0], _HARD_PERCENT[1] + 1))
    stretches = draw_ranges(rng, frames, percent / 100, **_STRETCH)
    is_whole_frame = [int(rng.integers(100)) < _WHOLE_PERCENT for _ in stretches]
    frame_stretches: list[tuple[int, int]] = []
    object_stretches: list[tuple[int, int]] = []
    for stretch, is_whole in zip(stretches, is_whole_frame, strict=True):
        if is_whole:
            frame_stretches.append(stretch)
        else:
            object_stretches.append(stretch)
    room = _Room(frames, height, width, stretches)
    objects = _draw_objects(rng, room, (first_category, classes), hues, object_stretches)
    things = objects + _draw_distractors(rng, room, hues)
    # A distractor may stand behind an object or before it.
    order = [int(i) for i in rng.permutation(len(things))]  # from back to front
    passing = _draw_passing(rng, frames, objects, hues, stretches)
    canvas = draw_background(rng, *canvas_size(height, width), hues)
    whole = draw_bursts(rng, frames, frame_stretches, bad.FRAME_KINDS, _STRENGTHS)
    return render_things(rng, canvas, camera, [things[i] for i in order] + passing, whole)


def render_things(
    rng: np.random.Generator,
    background: np.ndarray,
    camera: Camera,
    things: Sequence[Thing],
    whole: Sequence[dict[str, int]],
) -> Iterator[tuple[np.ndarray, tuple[BenchmarkObject, ...]]]:
    """Render things that stand before a background.

    Args:
        rng: draws the noise of dark frames.
        background: canvas of `canvas_size`, uint8 BGR.
        camera: what each frame sees of it.
        things: from back to front.
        whole: {kind: strength in percent} for each frame as a whole; as many as there are frames.

    Returns:
        As of `render`.
    """
    for time, kinds in enumerate(whole):
        views = [_look_at(thing, camera, time, kinds) for thing in things if time in thing.present]
        yield _compose(rng, _background(background, camera, time), views, kinds)


class _Room:
    """Where the things of a video may go: outside its hard stretches they keep out of each other's way."""

    def __init__(self, frames: int, height: int, width: int, stretches: Sequence[tuple[int, int]]) -> None:
        self.frames, self._size = frames, (height, width)
        self._easy = np.ones(frames, dtype=bool)
        for start, stop in stretches:
            self._easy[start:stop] = False
        self._paths: list[Path] = []

    def draw_path(self, rng: np.random.Generator) -> Path:
        """Of some paths the one that meets the earlier ones in the fewest frames outside the hard stretches."""
        candidates = [draw_path(rng, self.frames, *self._size, SIDES) for _ in range(_CANDIDATES)]
        path = min(candidates, key=self._meetings)  # of equal ones the first
        self._paths.append(path)
        return path

    def _meetings(self, path: Path) -> int:
        return sum(int((path.meets(other) & self._easy).sum()) for other in self._paths)


def _draw_objects(
    rng: np.random.Generator,
    room: _Room,
    classes: tuple[int, int],
    hues: list[int],
    stretches: Sequence[tuple[int, int]],
) -> list[Thing]:
    """The objects of a video, by the class of the first and the number of classes; each has a kind of deterioration in
    each of the stretches.

    Their hues are appended to `hues`, whose first value is where they begin.
    """
    first, number_of_classes = classes
    count = int(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1))
    with_companion = int(rng.integers(100)) < _COMPANION_PERCENT
    things = []
    for number in range(count):
        category, hue = int(rng.integers(number_of_classes)), hues[0] + 360 * number // count
        if number == 0:
            category = first
        elif number == 1 and with_companion:
            group = look_alike_group(first)
            # Another class of the group, by what was drawn for the class, and within 20 degrees of the first hue.
            category, hue = group[(group.index(first) + 1 + category % (len(group) - 1)) % len(group)], hues[0]
        hue = (hue + int(rng.integers(-20, 21))) % 360
        hues.append(hue)
        path = room.draw_path(rng)
        bursts = draw_bursts(rng, room.frames, stretches, bad.OBJECT_KINDS, _STRENGTHS)
        look = draw_object_look(rng, category, hue)
        things.append(Thing(category, look, path, bursts, range(room.frames), number))
    return things


def _draw_distractors(rng: np.random.Generator, room: _Room, hues: list[int]) -> list[Thing]:
    things = []
    for _ in range(int(rng.integers(_DISTRACTORS[0], _DISTRACTORS[1] + 1))):
        look = draw_distractor_look(rng, hues[rng.integers(len(hues))])
        things.append(Thing(None, look, room.draw_path(rng), [{} for _ in range(room.frames)], range(room.frames)))
    return things


def _draw_passing(
    rng: np.random.Generator,
    frames: int,
    objects: list[Thing],
    hues: list[int],
    stretches: Sequence[tuple[int, int]],
) -> list[Thing]:
    """For some objects a thing that slides over them within a hard stretch, so that at the middle most is hidden."""
    things = []
    for target in objects if stretches else ():
        if int(rng.integers(100)) >= _PASSING_PERCENT:
            continue
        first, last = stretches[int(rng.integers(len(stretches)))]
        length = min(int(rng.integers(5, _LONGEST_PASSING + 1)), last - first)
        start = int(rng.integers(first, last - length + 1))
        present = range(start, start + length)
        across, down = (int(value) for value in rng.integers(-50, 51, 2))  # percent of a side at both ends
        drift = np.zeros(frames, np.int64)
        # From -64 to 64 while it is there: in the middle of that time it is at the place of the object.
        drift[present.start : present.stop] = np.linspace(-64, 64, len(present)).astype(np.int64)
        side = target.path.side * int(rng.integers(80, 111)) // 100
        path = Path(
            # Percent times 64ths of a side.
            target.path.x + target.path.side * across * drift // 6400,
            target.path.y + target.path.side * down * drift // 6400,
            side,
            np.full(frames, float(rng.integers(-45, 46))),
        )
        look = draw_blob_look(rng, hues[rng.integers(len(hues))])
        things.append(Thing(None, look, path, [{} for _ in range(frames)], present))
    return things


def _background(canvas: np.ndarray, camera: Camera, time: int) -> np.ndarray:
    left, top = int(camera.left[time]), int(camera.top[time])
    part = canvas[top : top + int(camera.height[time]), left : left + int(camera.width[time])]
    size = (camera.frame_width, camera.frame_height)
    return cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_LINEAR_EXACT)


def _look_at(thing: Thing, camera: Camera, time: int, whole: dict[str, int]) -> _View:
    pose = camera.see(thing.path, time)
    kinds = dict(thing.bursts[time])
    if "rare_pose" in kinds:
        pose = Pose(pose.x, pose.y, pose.side, pose.angle, bad.squeeze(kinds["rare_pose"]))
    margin = 0
    if "motion_blur" in kinds:
        margin = bad.smear_length(pose.side, kinds["motion_blur"]) // 2 + 1
    # An object has at most one kind of its own in a frame (`draw_bursts`).
    elif "defocus" in kinds:
        # It is averaged twice, each time over this radius.
        margin = 2 * bad.defocus_radius(pose.side, kinds["defocus"])
    patch = Patch.around(pose, margin)
    mask = draw_mask(thing.look.shape, pose, patch)
    return _View(thing, pose, patch, mask, covered_pixels(mask), _velocity(thing.path, camera, time), kinds | whole)


def _velocity(path: Path, camera: Camera, time: int) -> tuple[int, int]:
    """How far the thing moves in the image around frame `time`, in 1/16 pixel."""
    before, after = max(time - 1, 0), min(time + 1, len(path.x) - 1)
    old, new = camera.see(path, before), camera.see(path, after)
    return new.x - old.x, new.y - old.y


def _compose(
    rng: np.random.Generator, image: np.ndarray, views: list[_View], whole: dict[str, int]
) -> tuple[np.ndarray, tuple[BenchmarkObject, ...]]:
    """Draw all things from back to front into `image`, in place, then what befalls the whole frame."""
    front = _front(views, *image.shape[:2])
    objects = []
    for number, item in enumerate(views):
        hidden, visible = _hidden_and_visible(item, number, front)
        if item.thing.category is not None and hidden >= _NOTED_OCCLUSION:
            # Before it is painted, because what hides an object also fades its emblem (`fading`).
            item.kinds["occlusion"] = max(1, int(100 * hidden))
        blend(image, _paint(item), item.patch)
        if item.thing.category is not None and visible >= LEAST_VISIBLE:
            objects.append(_describe(item, visible, image.shape[:2]))
    for kind, strength in whole.items():
        image = bad.low_light(image, strength, rng) if kind == "low_light" else bad.compression(image, strength)
    # By track: where an object stands in the order of depth should not show in the annotations.
    return image, tuple(sorted(objects, key=lambda thing: thing.track_id))


def _front(views: list[_View], height: int, width: int) -> np.ndarray:
    """Which of the things, by its place in `views`, is in front at each pixel: (H, W), -1 for the background."""
    front = np.full((height, width), -1, np.int16)
    for number, item in enumerate(views):
        window = item.patch.window(height, width)
        if window is not None:
            outside, inside = window
            front[outside][item.pixels[inside]] = number
    return front


def _hidden_and_visible(item: _View, number: int, front: np.ndarray) -> tuple[float, float]:
    """Of the pixels inside the image the share that something covers; of all pixels the share that is seen."""
    window = item.patch.window(*front.shape)
    if window is None:
        return 0.0, 0.0
    outside, inside = window
    pixels = item.pixels[inside]
    num_in_image, num_pixels = int(pixels.sum()), int(item.pixels.sum())
    num_visible = int((pixels & (front[outside] == number)).sum())
    return (1 - num_visible / num_in_image if num_in_image else 0.0), num_visible / max(num_pixels, 1)


def _paint(item: _View) -> np.ndarray:
    """A thing as it looks in this frame: (n, n, 4) int32, see `premultiply`."""
    look, kinds = item.thing.look, item.kinds
    colours = item.patch.canvas(3)
    colours[:] = look.body
    for blotch, colour in look.blotches:
        fill(colours, [blotch], item.pose, item.patch, colour)
    fade = bad.fading(kinds)
    if look.emblem is not None and fade < 256:
        light, dark = (_fade_into(shade, look.body, fade) for shade in (look.light, look.dark))
        parts = ((look.emblem.light, light), (look.emblem.dark, dark), (look.emblem.holes, look.body))
        for polygons, colour in parts:
            turned_polygons = [bad.turn_away(polygon, kinds.get("rare_pose", 0)) for polygon in polygons]
            fill(colours, turned_polygons, item.pose, item.patch, colour)
    layer = premultiply(colours, item.mask)
    if "motion_blur" in kinds:
        return bad.motion_blur(layer, bad.smear_length(item.pose.side, kinds["motion_blur"]), item.velocity)
    if "defocus" in kinds:
        return bad.defocus(layer, bad.defocus_radius(item.pose.side, kinds["defocus"]))
    return layer


def _fade_into(shade: Colour, body: Colour, fade: int) -> Colour:
    """`shade` faded into `body` by `fade` of 256."""
    blue, green, red = ((a * (256 - fade) + b * fade) >> 8 for a, b in zip(shade, body, strict=True))
    return blue, green, red


def _describe(item: _View, visible: float, size: tuple[int, int]) -> BenchmarkObject:
    assert item.thing.category is not None  # only objects are annotated
    x, y, width, height = cv2.boundingRect(item.pixels.astype(np.uint8))
    left, top = item.patch.left + x, item.patch.top + y
    box = max(left, 0), max(top, 0), min(left + width, size[1]), min(top + height, size[0])
    kinds = {kind: strength / 100 for kind, strength in sorted(item.kinds.items())}
    # Strengths are percent in here, and shares in the files.
    return BenchmarkObject(item.thing.track, item.thing.category, box, kinds, round(visible, 2))
