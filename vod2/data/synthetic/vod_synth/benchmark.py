"""VOD-Synth 1 by name and size, as a set that `vod2.data.synthetic.layout` writes."""

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vod2.bounded import load_json
from vod2.data.synthetic.layout import MANIFEST, encode_jpeg, write_set
from vod2.data.synthetic.scene import SPLITS, Splits
from vod2.data.synthetic.vod_synth.classes import PER_GROUP, VOD_SYNTH_CLASSES
from vod2.data.synthetic.vod_synth.scene import BenchmarkObject, render
from vod2.errors import UserError

BENCHMARK = "vod-synth-1"
REVISION = 2  # raise it with every change that changes a pixel or a box

_STILLS = len(SPLITS)  # number of the stills beside the splits, for the seed


@dataclass(frozen=True)
class VodSynth(Splits):
    """One size of the benchmark. Its files follow from these numbers; a video from its split, index and length too.

    Attributes:
        size: its name.
        train_videos, val_videos: videos of each split.
        train_frames, val_frames: of all videos of a split together; they are as long as one another, to one frame.
        stills: still images (the DET side).
        height, width: of a frame in pixels; even, at least 64.
        classes: how many of `VOD_SYNTH_CLASSES`, from the first on; whole groups of look-alikes.

    Example:
        >>> frames = list(VodSynth("mine", 1, 2, 1, 2, stills=1, height=96, width=128).render("val", 0))
        >>> image, objects = frames[0]
        >>> len(frames), image.shape
        (2, (96, 128, 3))
    """

    size: str
    train_videos: int
    train_frames: int
    val_videos: int
    val_frames: int
    stills: int
    height: int
    width: int
    classes: int = len(VOD_SYNTH_CLASSES)

    records_visibility = True

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < 64 or value % 2:
                raise ValueError(f"{name}={value}: expected an even number of pixels, at least 64")
        for split in SPLITS:
            videos, frames = self.video_count(split), getattr(self, f"{split}_frames")
            if videos < 0 or not videos <= frames <= videos * 1_000_000:
                raise ValueError(f"{split}_frames={frames}: expected 1 to 1,000,000 for each of {videos} videos")
        if self.classes % PER_GROUP or not PER_GROUP <= self.classes <= len(VOD_SYNTH_CLASSES):
            raise ValueError(
                f"classes={self.classes}: expected a multiple of {PER_GROUP} up to {len(VOD_SYNTH_CLASSES)}"
            )
        if self.stills < 0:
            raise ValueError(f"stills={self.stills}: expected at least 0")

    @property
    def class_names(self) -> tuple[str, ...]:
        """By category id."""
        return VOD_SYNTH_CLASSES[: self.classes]

    def manifest(self) -> dict:
        """What the set's manifest says: `check_version` compares the first three."""
        return {
            "benchmark": BENCHMARK,
            "revision": REVISION,
            "size": self.size,
            "config": asdict(self),
            "class_names": list(self.class_names),
        }

    def video_length(self, split: str, index: int) -> int:
        """Frames of a video."""
        frames, videos = getattr(self, f"{split}_frames"), self.video_count(split)
        # The first videos take the frames that are left over.
        return frames // videos + (index < frames % videos)

    def render(self, split: str, index: int) -> Iterator[tuple[np.ndarray, tuple[BenchmarkObject, ...]]]:
        """The frames of a video: image (H, W, 3) uint8 BGR, objects.

        Raises:
            ValueError: unknown split, or no such video.
        """
        self.check_video(split, index)
        # The sizes share their seeds, and a new revision is a new set throughout.
        rng = np.random.default_rng([REVISION, SPLITS.index(split), index])
        # The classes take turns as the first object, so that every class occurs in a small set.
        frames, first = self.video_length(split, index), index % self.classes
        return render(rng, frames, self.height, self.width, first, self.classes)

    def render_still(self, index: int) -> tuple[np.ndarray, tuple[BenchmarkObject, ...]]:
        """A still: a frame without deteriorations."""
        rng = np.random.default_rng([REVISION, _STILLS, index])
        return next(render(rng, 1, self.height, self.width, index % self.classes, self.classes, clean=True))


SIZES: dict[str, VodSynth] = {
    synth.size: synth
    for synth in (
        # The first validation videos of "tiny", for `vod2 demo`: nothing to train on.
        VodSynth("demo", 0, 0, 4, 256, stills=0, height=128, width=192, classes=12),
        VodSynth("tiny", 240, 14_400, 48, 3_072, stills=3_000, height=128, width=192, classes=12),
        VodSynth("small", 1_000, 60_000, 150, 9_000, stills=10_000, height=256, width=384),
        # As many videos, frames and stills as ImageNet VID and the DET list that goes with it.
        VodSynth("full", 3_862, 1_122_397, 555, 176_126, stills=53_639, height=360, width=640),
    )
}
"""The sizes by name."""


def write_vod_synth(source: VodSynth, output: str | os.PathLike, workers: int = 1) -> None:
    """Write a size of the benchmark to the folder `output`; see `write_set`.

    Raises:
        UserError: the folder holds something else.
    """
    write_set(source, output, _differences, workers)


@dataclass(frozen=True)
class Estimate:
    """What writing a set will take.

    Attributes:
        frames: of the training and validation videos, and stills: files to write.
        bytes: of the images, without annotations.
        seconds: of one processor core.
    """

    frames: int
    bytes: int
    seconds: float


def estimate(source: VodSynth, sample: int = 12) -> Estimate:
    """Render some frames of one video, write nothing, and multiply."""
    split = "train" if source.train_videos else "val"
    # The time of this process, whatever else the machine does.
    begin, size, count = time.process_time(), 0, 0
    for image, _ in itertools.islice(source.render(split, 0), sample):
        size, count = size + len(encode_jpeg(image)), count + 1
    seconds = time.process_time() - begin
    frames = source.train_frames + source.val_frames + source.stills
    return Estimate(frames, frames * size // count, frames * seconds / count)


def check_version(root: str | os.PathLike, size: str, remedy: str) -> None:
    """Make sure that the folder `root` holds the size `size` of this version; a folder that is not there passes.

    Raises:
        UserError: it holds another set, size or revision; says which, and `remedy`.
    """
    manifest = Path(root, MANIFEST)
    # The reader of the set reports a missing folder with the same remedy.
    if not Path(root).is_dir():
        return
    try:
        stored = load_json(manifest.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise UserError(f"{manifest}: expected the manifest of {BENCHMARK} ({error}): {remedy}") from error
    if differences := _differences(stored, {"benchmark": BENCHMARK, "revision": REVISION, "size": size}):
        raise UserError(
            f"{root} holds another set than this version of vod2 reads ({differences}), and results would not be "
            f"comparable: delete it and {remedy}"
        )


def _differences(stored: dict, wanted: dict) -> str:
    return ", ".join(
        f"{key} {stored.get(key)!r}, not {value!r}" for key, value in wanted.items() if stored.get(key) != value
    )
