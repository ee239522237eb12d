"""Writes the quick set, and any synthetic video as an mp4; `vod2.data.synthetic.layout` knows the files."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from vod2.atomic import replacing
from vod2.data.synthetic.classes import SYNTHETIC_CLASSES
from vod2.data.synthetic.layout import Frame, SyntheticSet, find_video, write_set
from vod2.data.synthetic.scene import SyntheticConfig, render_video

GENERATOR_VERSION = 1  # raise it with every change that changes a pixel or a box


@dataclass(frozen=True)
class QuickSet:
    """The set of a `SyntheticConfig`, as `write_set` takes it."""

    config: SyntheticConfig

    records_visibility = False
    stills = 0

    def manifest(self) -> dict:
        """Version, configuration and classes."""
        return {
            "generator_version": GENERATOR_VERSION,
            "config": _manifest_config(self.config),
            "class_names": list(SYNTHETIC_CLASSES[: self.config.classes]),
        }

    def video_count(self, split: str) -> int:
        """Videos of a split."""
        return self.config.video_count(split)

    def video_length(self, split: str, index: int) -> int:
        """All videos are of one length."""
        return self.config.frames

    def render(self, split: str, index: int) -> Iterator[Frame]:
        """See `render_video`."""
        return render_video(self.config, split, index)

    def render_still(self, index: int) -> Frame:
        """There are none."""
        raise ValueError(f"index={index}: the quick set has no stills")


def write_synthetic(config: SyntheticConfig, output: str | os.PathLike, workers: int = 1) -> None:
    """Write the quick set to the folder `output`; see `write_set`.

    Raises:
        UserError: the folder holds something else.
    """
    write_set(QuickSet(config), output, _differences, workers)


def write_mp4(source: SyntheticConfig | SyntheticSet, name: str, path: str | os.PathLike, fps: int = 25) -> None:
    """Write one video of a set as an mp4 (H.264 where PyAV has it), odd sizes padded by a black row or column.

    Raises:
        UserError: the set has no video of that id.
    """
    import av  # only this function needs it

    if isinstance(source, SyntheticConfig):
        source = QuickSet(source)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    split, index = find_video(source, name)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        for number, (image, _) in enumerate(source.render(split, index)):
            # yuv420p has one colour for two by two pixels: sides have to be even.
            padded = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)))
            if number == 0:
                stream.height, stream.width = padded.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="bgr24")))
        # What the encoder still holds back.
        container.mux(stream.encode())


def _manifest_config(config: SyntheticConfig) -> dict:
    """The configuration as the manifest has it: without a `speed` of 1, as in sets from before there was one."""
    fields = asdict(config)
    if config.speed == 1:
        del fields["speed"]
    return fields


def _differences(stored: dict, wanted: dict) -> str:
    """What two manifests differ in, in words."""
    stored, wanted = _flat(stored), _flat(wanted)
    return ", ".join(
        f"{key} {stored.get(key)}, not {value}" for key, value in wanted.items() if stored.get(key) != value
    )


def _flat(manifest: dict) -> dict:
    # A manifest leaves out a speed of 1 (`_manifest_config`), and may be of a version without a configuration.
    version = manifest.get("generator_version")
    return {"generator_version": version, "speed": 1.0, **dict(manifest.get("config") or {})}
