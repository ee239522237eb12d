"""Is one method better than another? Differences with their intervals, by a paired bootstrap over videos.

    vod2 compare output/single output/rdn
    vod2 compare single=out/single_s0,out/single_s1 RDN=out/rdn_s0,out/rdn_s1 --output output/compared

Each METHOD is the folder of an evaluation, OUTPUT_DIR/inference/<dataset> (or OUTPUT_DIR, where it holds one dataset),
or NAME=FOLDER, or the folders of several runs (seeds) of it, FOLDER,FOLDER. All are compared with the first, or with
--baseline. --output gets compare.json, compare.md and compare.png. docs/evaluation.md says how to read the table.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from tabulate import tabulate

from vod2.atomic import replacing, write_json
from vod2.commands.parsing import command_parser
from vod2.engine import cli
from vod2.engine.output_files import refuse_inputs
from vod2.engine.registration import add_register_option
from vod2.errors import UserError, settings
from vod2.evaluation.comparison import (
    LOWER_IS_BETTER,
    MIN_VIDEOS,
    TOO_FEW,
    TRACK_METRICS,
    Comparison,
    Difference,
    compare_methods,
)
from vod2.evaluation.evaluated import EvaluatedDataset, load_evaluated_dataset
from vod2.evaluation.groups import GROUPINGS
from vod2.evaluation.matching import PROTOCOLS
from vod2.evaluation.report import LINKED_NOTE
from vod2.evaluation.runs import Run, find_results, name_of_results, read_run, refuse_differences, tally_run


def parse_methods(words: Sequence[str], names: Sequence[str] | None) -> dict[str, list[Path]]:
    """The folders of each method by its name: --names, NAME= in the word, or that of the folder.

    Raises:
        UserError: names that do not fit, or come twice, or folders without results, or that come twice.
    """
    if names and len(names) != len(words):
        raise UserError(f"--names gives {len(names)} names for {len(words)} methods: give one for each")
    methods: dict[str, list[Path]] = {}
    for position, word in enumerate(words):
        name, folders = _split_word(word)
        if names:
            name = names[position]
        elif not name:
            # Runs of one method are named after the first.
            name = name_of_results(folders[0])
        if name in methods:
            raise UserError(f"two methods are called {name!r}: name them, NAME=FOLDER or --names")
        methods[name] = folders
    counts = Counter(folder.resolve() for folder in itertools.chain.from_iterable(methods.values()))
    repeated = [str(folder) for folder, count in counts.items() if count > 1]
    if repeated:
        raise UserError(f"{min(repeated)} is given twice: a run counts once")
    # After the names and folders, whose mistakes may be the reason.
    if len(methods) < 2:
        raise UserError("one method has nothing to be compared with: give two or more")
    return methods


def _split_word(word: str) -> tuple[str, list[Path]]:
    """The name, "" where there is none, and the folders with results."""
    name = ""
    # A folder may have "=" or "," in its name: what exists is taken as it stands.
    if "=" in word and not Path(word).exists():
        name, word = word.split("=", 1)
    folders = [word] if Path(word).exists() else word.split(",")
    return name, [find_results(Path(folder)) for folder in folders]


def registered_dataset(args: argparse.Namespace) -> EvaluatedDataset | None:
    """What --dataset names, None without it."""
    if not args.dataset:
        if args.frame_kinds or args.protocol or args.groups:
            raise UserError("--frame-kinds, --protocol and --groups are for --dataset NAME: give it, too")
        return None
    cli.require_dataset(args.dataset)
    with settings("--dataset"):
        return load_evaluated_dataset(
            args.dataset, args.protocol or "imagenet", args.groups or "frames", args.frame_kinds
        )


def sections(data: EvaluatedDataset) -> dict[str, list[str]]:
    """The metrics of each table, by its title."""
    return {
        "all": ["AP50", "AP50-any-class", *TRACK_METRICS],
        "groups": [f"AP50-{name}" for name in data.groups],
        "classes": [f"AP50-{name}" for name in data.class_names],
    }


def differences_of(result: Comparison, method: str) -> dict[str, Difference]:
    """Those of one method, by their metrics."""
    return {difference.metric: difference for difference in result.differences if difference.method == method}


def tables(result: Comparison, data: EvaluatedDataset, confidence: float) -> str:
    """Markdown: for each method and section a table of its metrics beside those of the baseline."""
    baseline, *others = result.values
    parts = []
    for method in others:
        difference_of = differences_of(result, method)
        parts.append(f"## {method} against {baseline}")
        for title, metrics in sections(data).items():
            headers = [title, baseline, method, "difference", f"{100 * confidence:g}% interval", "", "videos"]
            lines = [_line(difference_of[metric]) for metric in metrics if metric in difference_of]
            if lines:
                # Names and intervals stay text.
                parts.append(tabulate(lines, headers, tablefmt="github", floatfmt=".2f", disable_numparse=[0, 4]))
    return "\n\n".join(parts)


def _line(row: Difference) -> list:
    interval = "-" if row.verdict == TOO_FEW else f"{row.low:+.2f} to {row.high:+.2f}"
    name = row.metric.removeprefix("AP50-") + (" (lower is better)" if row.metric in LOWER_IS_BETTER else "")
    return [name, row.baseline, row.value, f"{row.difference:+.2f}", interval, row.verdict, row.videos]


def notes(data: EvaluatedDataset, methods: dict[str, list[Path]], args: argparse.Namespace) -> str:
    """What one must know to read the tables."""
    runs = ", ".join(f"{name} {len(folders)}" for name, folders in methods.items())
    resampled = "videos"
    if any(len(folders) > 1 for folders in methods.values()):
        resampled += " and of runs, which are paired" if args.paired_runs else " and of runs"
    lines = [
        f"{data.name}: {data.num_videos} videos, {len(data.image_ids)} frames, protocol {data.protocol!r}, groups by "
        f"{data.groups_by}; runs: {runs}. {args.resamples} resamples of {resampled}.",
        "no difference shown: the interval holds 0, which does not say that the methods are equal. Of "
        f"{round(1 / (1 - args.confidence))} rows without a difference one is expected to show one by chance.",
        f"too few videos: under {MIN_VIDEOS} have such objects, or most resamples have none.",
    ]
    if any(len(folders) == 1 for folders in methods.values()):
        lines.append("A method with a single run: the interval says nothing about another training of it.")
    if data.linked_identities:
        lines.append(LINKED_NOTE)
    return "\n".join(f"- {line}" for line in lines)


def chart(result: Comparison, data: EvaluatedDataset) -> Figure:
    """Differences with their intervals, one panel for tracks, whose numbers are of another kind than AP."""
    overall, groups, classes = sections(data).values()
    panels = {
        "AP50": [*overall[:2], *groups],
        "tracks (lower is better)": list(TRACK_METRICS),
        "AP50 by class": classes,
    }
    available = {difference.metric for difference in result.differences}
    panels = {title: [metric for metric in metrics if metric in available] for title, metrics in panels.items()}
    panels = {title: metrics for title, metrics in panels.items() if metrics}
    baseline, *others = result.values
    heights = [len(metrics) * max(1.0, 0.5 * len(others)) + 1 for metrics in panels.values()]
    # A Figure of its own instead of pyplot: no display is needed, and nothing is kept in the process.
    figure = Figure(figsize=(8, 0.3 * sum(heights) + 0.9 * len(panels)), layout="constrained")
    colors = colormaps["tab10"](range(10))
    grid = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axes, (title, metrics) in zip(grid, panels.items(), strict=True):
        for number, method in enumerate(others):
            difference_of = differences_of(result, method)
            differences = [difference_of[metric] for metric in metrics]
            # Methods share the height of a metric, .6 in all, with its line in the middle.
            places = np.arange(len(metrics)) + (number - (len(others) - 1) / 2) * 0.6 / len(others)
            low, high = [difference.low for difference in differences], [difference.high for difference in differences]
            color = colors[number % len(colors)]
            axes.hlines(places, low, high, color=color, linewidth=2)  # none where too few videos make it NaN
            middle = [difference.difference for difference in differences]
            axes.plot(middle, places, "o", color=color, markersize=4, label=method)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(metrics)), [metric.removeprefix("AP50-") for metric in metrics])
        # The limits are turned round, which puts the first metric on top.
        axes.set(title=f"{title}: difference to {baseline}", ylim=(len(metrics) - 0.4, -0.6))
        axes.grid(axis="x", alpha=0.3)
    grid[0].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def as_json(result: Comparison, data: EvaluatedDataset, methods: dict[str, list[Path]], **how: Any) -> dict:
    """All numbers of a comparison, None for those that are not there."""

    def plain(value: Any) -> Any:
        # JSON has neither NaN nor infinity.
        return None if isinstance(value, float) and not np.isfinite(value) else value

    of_methods = {}
    for name, folders in methods.items():
        metrics = {}
        for metric, values in result.values[name].items():
            metrics[metric] = [plain(value) for value in values.tolist()]
        of_methods[name] = {"folders": [str(folder) for folder in folders], "metrics": metrics}
    differences = []
    for difference in result.differences:
        differences.append({field: plain(value) for field, value in difference._asdict().items()})
    return {
        "dataset": data.name,
        "videos": data.num_videos,
        "frames": len(data.image_ids),
        "protocol": data.protocol,
        "groups_by": data.groups_by,
        "linked_identities": data.linked_identities,
        **how,
        "baseline": next(iter(methods)),
        "methods": of_methods,
        "differences": differences,
    }


def write(output: Path, markdown: str, content: dict, figure: Figure) -> None:
    """compare.json, compare.md and compare.png."""
    write_json(output / "compare.json", content)
    with replacing(output / "compare.md") as path:
        path.write_text(markdown + "\n", encoding="utf-8")
    with replacing(output / "compare.png") as path:
        figure.savefig(path, dpi=120)
    print(f"\nWrote {output}")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    add_register_option(parser)
    parser.add_argument("methods", metavar="METHOD", nargs="+", help="FOLDER, NAME=FOLDER or NAME=FOLDER,FOLDER,...")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names of the methods, in their order")
    parser.add_argument("--baseline", metavar="NAME", help="the method that the others are compared with (the first)")
    parser.add_argument(
        "--paired-runs",
        action="store_true",
        help="run i of all methods has the same weights, or began with the same: they are drawn together",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where compare.json, .md and .png go")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="resamples of the videos (1000)")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="P", help="of the intervals (0.95)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resamples (0)")
    parser.add_argument(
        "--dataset", metavar="NAME", help="take the ground truth from this registered dataset, not from the folders"
    )
    parser.add_argument("--frame-kinds", type=Path, metavar="FILE", help="with --dataset: TEST.FRAME_KINDS")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="with --dataset: TEST.VID_PROTOCOL")
    parser.add_argument("--groups", choices=GROUPINGS, help="with --dataset: TEST.VID_GROUPS")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    # With fewer, less than three resamples lie beyond either end of a 95% interval.
    if args.resamples < 100:
        raise UserError(f"--resamples is {args.resamples}: expected at least 100, for the ends of an interval")
    if not 0.5 <= args.confidence <= 0.999:
        raise UserError(f"--confidence is {args.confidence}: expected a number from 0.5 to 0.999")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}: expected 0 or more")
    methods = parse_methods(args.methods, args.names)
    if args.output:
        written = [args.output / name for name in ("compare.json", "compare.md", "compare.png")]
        refuse_inputs("--output", written, [args.frame_kinds])
    counts = {name: len(folders) for name, folders in methods.items()}
    if args.paired_runs and len(set(counts.values())) > 1:
        raise UserError(f"--paired-runs: expected as many runs of each method, got {counts}")
    baseline = args.baseline or next(iter(methods))
    if baseline not in methods:
        raise UserError(f"--baseline is {baseline!r}: expected one of {', '.join(methods)}")
    # First, because `compare_methods` compares with the first.
    methods = {baseline: methods[baseline]} | methods
    dataset = registered_dataset(args)
    runs: dict[str, list[Run]] = {}
    for name, folders in methods.items():
        runs[name] = [read_run(folder, dataset) for folder in folders]
    refuse_differences(list(itertools.chain.from_iterable(runs.values())))
    data = runs[baseline][0].data
    tallies = {name: [tally_run(run) for run in method_runs] for name, method_runs in runs.items()}
    generator = np.random.default_rng(args.seed)
    result = compare_methods(
        tallies, data.class_names, generator, args.resamples, args.confidence, are_runs_paired=args.paired_runs
    )
    markdown = tables(result, data, args.confidence) + "\n\n" + notes(data, methods, args)
    print(markdown)
    if args.output:
        how = {"resamples": args.resamples, "confidence": args.confidence, "seed": args.seed}
        how["paired_runs"] = args.paired_runs
        write(args.output, markdown, as_json(result, data, methods, **how), chart(result, data))
