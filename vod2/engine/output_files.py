"""Files that a tool writes are none that it reads."""

import os
from collections.abc import Iterable
from pathlib import Path

from vod2.errors import UserError
from vod2.video.reader import IMAGE_SUFFIXES


def refuse_inputs(
    option: str, outputs: Iterable[str | os.PathLike], inputs: Iterable[str | os.PathLike | None]
) -> None:
    """Raises UserError if a file to write is one that is read, under whatever name: links and other spellings count.

    Args:
        option: that the names of the files come from, such as "--output".
        outputs: files to write.
        inputs: files that are read, or folders of images; "", None and what is absent do not count.
    """
    read = [Path(path) for path in inputs if path and os.path.exists(path)]
    for output in map(Path, outputs):
        if not output.exists():
            continue
        is_image = output.suffix.lower() in IMAGE_SUFFIXES
        for source in read:
            is_inside = is_image and source.is_dir() and output.parent.samefile(source)
            if is_inside or output.samefile(source):
                raise UserError(
                    f"{option}: {output} would overwrite {source}, which this command reads: give another name"
                )
