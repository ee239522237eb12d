"""Find everything that is wrong with a dataset, before training does.

    vod2 check imagenet_vid_train --output-dir output/check
    vod2 check path/to/mine --format imagenet_vid --split train --fix-list path/to/good.txt

Reads every annotation and every image. Prints a table; with --output-dir also writes check.json (every finding) and
check.png (frames with their boxes, the broken ones first). Ends with 1 if there are errors, 0 if there are none or only
warnings, 2 if the check itself cannot be done.
"""

import argparse
import sys
from pathlib import Path

from vod2.commands.parsing import command_parser
from vod2.data.checks import ERROR, FORMATS, check_dataset, open_source, table, write_contact_sheet, write_report
from vod2.engine.registration import add_register_option
from vod2.errors import UserError

_WORKERS = 4


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_register_option(parser)
    parser.add_argument("source", metavar="NAME_OR_PATH", help="a registered dataset, or the folder or file of one")
    parser.add_argument("--format", choices=list(FORMATS), help="layout of PATH; found out by itself where it can be")
    parser.add_argument("--split", help="such as train; all that are there without it")
    parser.add_argument("--class-names", metavar="NAME,NAME", help="the classes, if the layout does not say")
    parser.add_argument("--image-root", metavar="DIR", help="the folder that names of images begin at")
    parser.add_argument("--video-root", metavar="DIR", help="the frames are in video files DIR/<video>, not in images")
    parser.add_argument("--video-suffix", metavar=".EXT", help="of these files (.mp4)")
    parser.add_argument("--first-frame", type=int, metavar="N", help="what numbers of frames count from (0)")
    parser.add_argument("--list-file", metavar="FILE", help="check the frames of this list")
    parser.add_argument("--output-dir", metavar="DIR", help="where check.json and check.png go")
    parser.add_argument(
        "--fix-list",
        metavar="FILE",
        help="write the list without entries that have errors: lines, or JSON of image ids",
    )
    parser.add_argument(
        "--max-images-per-video",
        type=int,
        default=0,
        metavar="N",
        help="decode at most N images of each video (0 for all)",
    )
    parser.add_argument("--workers", type=int, default=_WORKERS, metavar="N", help="threads that decode images")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    class_names = args.class_names and [name.strip() for name in args.class_names.split(",")]
    options = ("split", "image_root", "video_root", "video_suffix", "first_frame", "list_file")
    given = {name: getattr(args, name) for name in options}
    source = open_source(args.source, args.format, class_names=class_names, **given)
    if args.fix_list:
        # Before the walk, which takes hours for a large data set.
        source.require_list()
    result = check_dataset(source, args.max_images_per_video, args.workers)
    if not result.frames and not result.findings:
        raise UserError(f"{args.source}: there are no frames in it: see datasets/README.md for how to lay it out")
    print(table(result))
    if args.output_dir:
        write_report(Path(args.output_dir, "check.json"), result, args.source, source.name)
        write_contact_sheet(Path(args.output_dir, "check.png"), result.examples, source.boxes_may_leave)
        print(f"{args.output_dir}: check.json, check.png")
    if args.fix_list:
        count = source.write_list(args.fix_list, result.bad_entries)
        print(f"{args.fix_list}: {count} entries without an error")
    if result.count(ERROR):
        sys.exit(1)
