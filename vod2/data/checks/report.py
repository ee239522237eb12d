"""What a check of a dataset has to show: a table, JSON and a contact sheet."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vod2.atomic import replacing, write_json
from vod2.data.checks.findings import ERROR, WARNING, CheckedObject, CheckResult, Example, Finding
from vod2.data.checks.walk import box_problem
from vod2.data.datasets.images import read_image
from vod2.errors import UserError
from vod2.video import VideoReader

_TILE = (320, 180)  # pixels, width and height
_CAPTION = 34  # pixels below a tile
_COLUMNS = 4
_GOOD, _BROKEN, _TEXT, _PAPER, _EMPTY = (0, 160, 60), (220, 0, 0), (0, 0, 0), (255, 255, 255), (110, 110, 110)


def counts(findings: Iterable[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """{(severity, kind): its findings}, errors first, then by how many there are."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind), []).append(finding)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0] != ERROR, -len(item[1]), item[0][1])))


def table(result: CheckResult, examples: int = 3) -> str:
    """Counts by kind, each with its first `examples`, as lines of text."""
    lines = [
        f"{result.videos} videos, {result.frames} frames, {result.objects} objects; {result.images_read} images read: "
        f"{result.count(ERROR)} errors, {result.count(WARNING)} warnings"
    ]
    for (severity, kind), findings in counts(result.findings).items():
        lines.append(f"{severity:8} {kind:20} {len(findings):7}")
        lines += [f"    {describe(finding)}" for finding in findings[:examples]]
        if len(findings) > examples:
            lines.append(f"    and {len(findings) - examples} more")
    # File names need not be text: what is no UTF-8 would stop the printing.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def describe(finding: Finding) -> str:
    """One line for a finding."""
    places = [("line", finding.line), ("frame", finding.frame)]
    place = "".join(f", {name} {number}" for name, number in places if number is not None)
    return f"{finding.file}{place}: {finding.value}, expected {finding.expected}"


def write_report(path: str | os.PathLike, result: CheckResult, source: str, format_name: str) -> None:
    """Write JSON, atomically: what was checked, how much of it, counts by kind, and every finding."""
    counts_of: dict[str, dict[str, int]] = {ERROR: {}, WARNING: {}}
    for (severity, kind), findings in counts(result.findings).items():
        counts_of[severity][kind] = len(findings)
    write_json(
        path,
        {
            "source": source,
            "format": format_name,
            "videos": result.videos,
            "frames": result.frames,
            "images_read": result.images_read,
            "objects": result.objects,
            "errors": result.count(ERROR),
            "warnings": result.count(WARNING),
            "counts": counts_of,
            "findings": [_to_json(finding) for finding in result.findings],
        },
    )


def _to_json(finding: Finding) -> dict:
    fields = asdict(finding)
    # They serve `write_list`; a reader has file, line and frame.
    del fields["entries"]
    return fields


def write_contact_sheet(path: str | os.PathLike, examples: Sequence[Example], may_leave: bool = False) -> None:
    """Write a PNG of frames with their boxes, atomically: frames with findings first, broken boxes in red.

    Args:
        path: of the PNG.
        examples: frames, as `check_dataset` keeps them.
        may_leave: as in `box_problem`.
    """
    rows = max(1, -(-len(examples) // _COLUMNS))
    width, height = _TILE[0], _TILE[1] + _CAPTION
    sheet = Image.new("RGB", (_COLUMNS * width, rows * height), _PAPER)
    for position, example in enumerate(examples):
        row, column = divmod(position, _COLUMNS)
        sheet.paste(_tile(example, may_leave), (column * width, row * height))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _tile(example: Example, may_leave: bool) -> Image.Image:
    tile = Image.new("RGB", (_TILE[0], _TILE[1] + _CAPTION), _PAPER)
    draw = ImageDraw.Draw(tile)
    pixels = _pixels(example)
    if pixels is None:
        draw.rectangle((0, 0, _TILE[0] - 2, _TILE[1] - 1), fill=_EMPTY)
        draw.line((0, 0, *_TILE), fill=_BROKEN, width=3)
        draw.line((0, _TILE[1], _TILE[0], 0), fill=_BROKEN, width=3)
    else:
        image = Image.fromarray(pixels)
        scale = min(_TILE[0] / image.width, _TILE[1] / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        picture = image.resize(size)
        _draw_boxes(ImageDraw.Draw(picture), example, scale, (image.height, image.width), may_leave)
        tile.paste(picture)
    font = ImageFont.load_default(12)
    kinds = ", ".join(dict.fromkeys(finding.kind for finding in example.findings))
    name = "/".join(example.frame.image.split("/")[-2:])
    if example.is_video_file:
        name += f" {example.frame.index}"
    draw.text((2, _TILE[1] + 2), kinds or "no finding", fill=_BROKEN if kinds else _GOOD, font=font)
    # As in `table`: a file name need not be text.
    draw.text((2, _TILE[1] + 17), name.encode("utf-8", "replace").decode(), fill=_TEXT, font=font)
    return tile


def _pixels(example: Example) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB, None if the frame cannot be read."""
    try:
        if example.is_video_file:
            index = example.frame.index
            return np.ascontiguousarray(VideoReader(example.frame.image).read([index])[index][..., ::-1])
        return read_image(example.frame.image, "RGB")
    # Frames that cannot be read are among the examples; they get a crossed-out tile.
    except (UserError, OSError, ValueError, SyntaxError):
        return None


def _draw_boxes(
    draw: ImageDraw.ImageDraw, example: Example, scale: float, size: tuple[int, int], may_leave: bool
) -> None:
    # The walk gives such a finding the repr of the class as its value.
    unknown = {finding.value for finding in example.findings if finding.kind == "unknown_class"}

    def is_broken(thing: CheckedObject) -> bool:
        return bool(box_problem(thing.box, example.frame.size or size, may_leave)) or repr(thing.name) in unknown

    # What leaves the picture is drawn along its edge.
    edge = [size[1] * scale - 1, size[0] * scale - 1] * 2
    for thing in sorted(example.frame.objects, key=is_broken):  # the broken ones on top
        x1, y1, x2, y2 = np.clip(np.nan_to_num(np.array(thing.box, float)) * scale, 0, edge)
        # Pillow refuses a rectangle whose corners are in the wrong order, as those of an inverted box.
        corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        draw.rectangle(corners, outline=_BROKEN if is_broken(thing) else _GOOD, width=2)
