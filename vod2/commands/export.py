"""A detector with its weights as graphs for other runtimes: ONNX files, or PyTorch's .pt2.

    vod2 export --config-file configs/RDN_R101.yaml --size 562x1000 --output rdn_onnx --opts MODEL.WEIGHTS rdn.pth

The folder gets a file for each part, export.json, which lists what goes in and comes out, and config.yaml.
`vod2.export.OnnxPredictor(folder)` runs streams with them in ONNX Runtime and gives what `vod2.VideoPredictor` gives.
Each file is run once, and its largest differences from PyTorch are printed; where one is too large, nothing is put into
the folder and the command fails. docs/export.md has the details.
"""

import argparse
import re
from pathlib import Path

from vod2.commands.parsing import command_parser
from vod2.engine import load_config
from vod2.engine.registration import add_register_option
from vod2.errors import UserError
from vod2.export import FORMATS, Manifest, export_detector
from vod2.export.manifest import CONFIG, MANIFEST

_LEAST, _MOST = 32, 8192  # pixels of a side


def image_size(text: str) -> tuple[int, int]:
    """The (height, width) that --size HxW names."""
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(_LEAST <= side <= _MOST for side in sides):
        raise UserError(
            f"--size {text!r}: expected HEIGHTxWIDTH of a frame after resizing, such as 562x1000, {_LEAST} to "
            f"{_MOST} pixels each"
        )
    return sides


def require_folder(folder: Path, overwrite: bool) -> list[Path]:
    """Refuse a folder whose files would be lost; the files of the export that is replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return []
    if not (folder / MANIFEST).is_file():
        raise UserError(f"--output {folder} exists and is no export: give the name of a new folder")
    if not overwrite:
        raise UserError(f"--output {folder} holds an export: choose another name, or replace it with --overwrite")
    old = [folder / part.file for part in Manifest.read(folder).parts.values()]
    return [*old, folder / CONFIG, folder / MANIFEST]


def main(words: list[str] | None = None) -> None:
    parser = command_parser(__doc__)
    add_register_option(parser)
    parser.add_argument("--config-file", required=True, metavar="FILE[:ROW]", help="the configuration of the detector")
    parser.add_argument("--size", required=True, metavar="HxW", help="pixels of a frame after resizing")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a folder, which is made")
    parser.add_argument("--format", choices=sorted(FORMATS), default="onnx", help="of the files (default onnx)")
    parser.add_argument("--lookahead", type=int, metavar="N", help="frames that a frame waits for, 0 for live pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace the export in FOLDER")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="configuration keys")
    args = parser.parse_args(words)
    size = image_size(args.size)
    replaced = require_folder(args.output, args.overwrite)
    cfg = load_config(args.config_file, args.opts)
    manifest, agreements = export_detector(cfg, args.output, size, lookahead=args.lookahead, form=args.format)
    written = {args.output / part.file for part in manifest.parts.values()}
    for file in set(replaced) - written - {args.output / CONFIG, args.output / MANIFEST}:
        file.unlink(missing_ok=True)  # a part of the old export that the new one does not have
    for name, part in manifest.parts.items():
        path = args.output / part.file
        print(f"Wrote {path} ({path.stat().st_size / 2**20:.1f} MiB), {agreements[name]}")
