"""One page of a training and its evaluation: metrics, curves, frames with what is found, false and missed.

    vod2 report output/rdn --output report.html
    vod2 report single=output/single_frame RDN=output/rdn --register output/datasets.py --output report.html

Each RUN is an OUTPUT_DIR with one evaluated dataset, or OUTPUT_DIR/inference/<dataset>, or NAME=FOLDER. Curves, classes
and pictures are those of the last; all are compared with the first. The page holds everything that it shows. Images
are read from the evaluated dataset, which has to be registered.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vod2.commands.parsing import command_parser
from vod2.d2 import DatasetCatalog
from vod2.engine.output_files import refuse_inputs
from vod2.engine.registration import add_register_option
from vod2.errors import UserError
from vod2.evaluation.comparison import TOO_FEW, TRACK_METRICS, compare_methods
from vod2.evaluation.confusion import confusion_matrix
from vod2.evaluation.curves import CURVES_FILE, load_curves
from vod2.evaluation.failures import Judged, judge, most_errors
from vod2.evaluation.figures import average_precision_figure, precision_recall_figure
from vod2.evaluation.judged_frames import draw_judged, read_images
from vod2.evaluation.matching import get_protocol
from vod2.evaluation.mot_metrics import MOT_METRICS, PER_CLASS
from vod2.evaluation.report import LINKED_NOTE, STABILITY, error_columns, error_headers
from vod2.evaluation.runs import (
    RESULTS_FILE,
    Run,
    find_results,
    name_of_results,
    read_metrics,
    read_run,
    refuse_differences,
    tally_run,
)
from vod2.evaluation.stability import SCORE_THRESHOLD
from vod2.package_files import command_line
from vod2.visualization import Page

_PICTURES = 6  # of the frames with most errors, and as many evenly spread ones
_MATRIX_CLASSES = 30  # in the matrix of what is taken for what
_SMOOTHED = 9  # points of the loss, over which its median is drawn


class Evaluated(NamedTuple):
    """An evaluation, and the training that it was made in, if any.

    Attributes:
        folder: of its results.
        metrics: of `VIDEvaluator`.
        losses: (N, 2) float64: iteration and total loss; N is 0 where there was no training.
        configuration: the file, None where there is none.
        weights: the final ones, None where there are none.
    """

    folder: Path
    run: Run
    metrics: dict[str, float]
    losses: np.ndarray
    configuration: Path | None
    weights: Path | None


def read_evaluated(folder: Path) -> Evaluated:
    """Read OUTPUT_DIR, or OUTPUT_DIR/inference/<dataset>.

    Raises:
        UserError: there are no results, or they are damaged; names the file.
    """
    results = find_results(folder)
    metrics = read_metrics(results)
    training = results.parents[1] if results.parent.name == "inference" else results
    files = [training / "config.yaml", training / "model_final.safetensors"]
    configuration, weights = (file if file.is_file() else None for file in files)
    return Evaluated(results, read_run(results), metrics, read_losses(training), configuration, weights)


def read_losses(training: Path) -> np.ndarray:
    """(N, 2) float64 of iteration and total loss from metrics.json, ascending; of one that comes twice, the later."""
    path = training / "metrics.json"
    losses: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            losses[int(entry["iteration"])] = float(entry["total_loss"])
        except (ValueError, KeyError, TypeError):
            continue  # the line of an evaluation, or one that a kill has cut
    return np.array(sorted(losses.items()), dtype=np.float64).reshape(-1, 2)


def build_page(runs: Mapping[str, Evaluated], title: str, dataset: str | None = None) -> Page:
    """The page of evaluations by name.

    Args:
        dataset: the registered dataset to read images from; None for the evaluated one.

    Raises:
        UserError: the evaluations are of different frames, or an image cannot be read.
    """
    refuse_differences([evaluated.run for evaluated in runs.values()])
    name, last = list(runs.items())[-1]
    page = Page(title)
    page.section("Results")
    _add_results(page, runs)
    if len(runs) > 1:
        _add_comparison(page, runs)
    page.section(f"{name}: classes and groups of frames")
    table = load_curves(last.folder / CURVES_FILE)
    page.figure(average_precision_figure(table), f"Bars of the AP50 of each class and group of {name}")
    page.figure(precision_recall_figure(table), f"Curves of precision over recall of {name}")
    _add_errors(page, name, last)
    _add_confusion(page, name, last.run)
    if any(len(evaluated.losses) > 1 for evaluated in runs.values()):
        page.section("Training")
        page.figure(loss_figure(runs), "The loss over the iterations of each training")
    _add_pictures(page, name, last.run, dataset or last.run.data.name)
    if last.configuration is not None and last.weights is not None:
        page.section("To use it")
        _add_commands(page, last.configuration, last.weights)
    return page


def _add_results(page: Page, runs: Mapping[str, Evaluated]) -> None:
    data = next(iter(runs.values())).run.data
    objects = int((~data.truth.ignore).sum())
    page.text(
        f"{data.name}; videos: {data.num_videos}, frames: {len(data.image_ids)}, objects: {objects}. AP in percent at "
        "an IoU of .5; any class: as if all classes were one."
    )
    rows: list[list[object]] = []
    labels = {"AP50": "AP50", "AP50-any-class": "AP50, any class"}
    labels |= {measure: f"{measure}: {meaning}" for measure, meaning in STABILITY.items()}
    labels |= {measure: f"{measure}: {meaning}" for measure, meaning in MOT_METRICS.items()}
    for metric, label in labels.items():
        values = [evaluated.metrics.get(metric) for evaluated in runs.values()]
        if any(value is not None for value in values):
            rows.append([label, *map(_number, values)])
    page.table(["", *runs], rows)
    _add_identities(page, runs)
    if data.linked_identities:
        page.text(LINKED_NOTE)


def _add_identities(page: Page, runs: Mapping[str, Evaluated]) -> None:
    """Of each class, where there are tracks; a row for each class and run."""
    rows: list[list[object]] = []
    for name, evaluated in runs.items():
        for label in evaluated.run.data.class_names:
            values = [evaluated.metrics.get(f"{measure}-{label}") for measure in PER_CLASS]
            if any(value is not None for value in values):
                rows.append([f"{name}: {label}", *map(_number, values)])
    if rows:
        page.text("Whether linked detections keep the annotated identities, of each class:")
        page.table(["", *PER_CLASS], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _add_comparison(page: Page, runs: Mapping[str, Evaluated]) -> None:
    """Differences to the first with their intervals."""
    data = next(iter(runs.values())).run.data
    tallies = {name: [tally_run(evaluated.run)] for name, evaluated in runs.items()}
    result = compare_methods(tallies, data.class_names, np.random.default_rng(0))
    first = next(iter(runs))
    kept = {"AP50", "AP50-any-class", *TRACK_METRICS, *(f"AP50-{name}" for name in data.class_names)}
    rows = []
    for row in result.differences:
        if row.metric in kept:
            interval = "-" if row.verdict == TOO_FEW else f"{row.low:+.1f} to {row.high:+.1f}"
            rows.append([f"{row.method}: {row.metric}", f"{row.difference:+.1f}", interval, row.verdict])
    page.section(f"Against {first}")
    page.text(
        "Differences with their 95% interval by a paired bootstrap over videos. Each is of one training: the interval "
        "says nothing of another one. In flicker and delay less is better."
    )
    page.table(["", "difference", "interval", ""], rows)


def _add_errors(page: Page, name: str, evaluated: Evaluated) -> None:
    """What AP50 is lost to."""
    headers = error_headers(evaluated.metrics)
    if headers:
        page.section(f"{name}: what AP50 is lost to")
        page.text("How much AP50 would rise if errors of one kind were corrected (docs/evaluation.md).")
        rows = []
        for error, values in error_columns(evaluated.metrics).items():
            rows.append([error, *(value if isinstance(value, int) else _number(value) for value in values)])
        page.table(["", *headers], rows)


def _add_confusion(page: Page, name: str, run: Run) -> None:
    """What the objects of each class are taken for, of the classes with most mistakes if there are many."""
    names = run.data.class_names
    counts = confusion_matrix(run.detections, run.data.truth, len(names), get_protocol(run.data.protocol))
    mistakes = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    present = np.flatnonzero((counts.sum(axis=0) + counts.sum(axis=1))[:-1])
    shown = np.sort(present[np.argsort(-mistakes[present], kind="stable")][:_MATRIX_CLASSES])
    page.section(f"{name}: what is taken for what")
    page.text(
        f"Objects by row, what they are taken for by column, of detections of a score of at least {SCORE_THRESHOLD:g} "
        "(docs/evaluation.md). In the last row are detections where there is no object."
    )
    if len(shown) < len(present):
        page.text(f"Of {len(present)} classes the {len(shown)} with most mistakes; all are in results.json.")
    last = len(names)
    matrix = counts[np.ix_([*shown, last], [*shown, last])].tolist()
    matrix[-1][-1] = "-"
    labels = [names[k] for k in shown]
    rows = [[label, *row] for label, row in zip([*labels, "no object"], matrix, strict=True)]
    page.table(["", *labels, "missed"], rows)


def loss_figure(runs: Mapping[str, Evaluated]) -> Figure:
    """The total loss of each training, and in a strong line its running median."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, evaluated) in enumerate(runs.items()):
        iterations, losses = evaluated.losses.T
        color = f"C{number % 10}"
        axes.plot(iterations, losses, color=color, alpha=0.25, linewidth=1)
        smooth = [float(np.median(losses[max(row - _SMOOTHED + 1, 0) : row + 1])) for row in range(len(losses))]
        axes.plot(iterations, smooth, color=color, linewidth=1.8, label=name)
    axes.set(xlabel="iteration", ylabel="total loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _add_pictures(page: Page, name: str, run: Run, dataset: str) -> None:
    """Frames with most errors, and evenly spread ones; a sentence instead if the dataset is not registered."""
    if dataset not in DatasetCatalog.list():
        page.section("Frames")
        page.text(f"The dataset {dataset} is not registered here, so its images are not shown: give --register FILE.")
        return
    judged = judge(run)
    # One of each video, where there are enough videos.
    per_video = math.ceil(_PICTURES / max(run.data.num_videos, 1))
    worst = most_errors(judged, run, _PICTURES, per_video).tolist()
    spread = np.unique(np.linspace(0, len(run.data.image_ids) - 1, _PICTURES).round().astype(int)).tolist()
    for heading, frames in ((f"{name}: frames with most errors", worst), (f"{name}: other frames", spread)):
        if frames:
            page.section(heading)
            page.text("Detections of a score of at least .5; what finds no object is false, dashed boxes are missed.")
            page.pictures(_drawn(frames, run, judged, dataset))


def _drawn(frames: Sequence[int], run: Run, judged: Judged, dataset: str) -> list[tuple[np.ndarray, str]]:
    images = read_images(dataset, run, frames)
    pictures = []
    for frame, image in zip(frames, images, strict=True):
        pictures.append((draw_judged(image, judged, frame, run), str(run.data.image_ids[frame])))
    return pictures


def _add_commands(page: Page, configuration: Path, weights: Path) -> None:
    detect = f"{command_line('detect')} --config-file {shlex.quote(str(configuration))}"
    options = f"--opts MODEL.WEIGHTS {shlex.quote(str(weights))}"
    lines = [
        f"{detect} --video-input in.mp4 --output out.mp4 {options}",
        f"{detect} --webcam 0 --lookahead 0 --jsonl found.jsonl {options}",
        "",
        "from vod2 import VideoPredictor",
        "from vod2.video import VideoReader",
        f"predictor = VideoPredictor({str(configuration)!r}, {str(weights)!r})",
        'for frame in predictor.stream(VideoReader("in.mp4")):',
        "    print(frame.to_dict())",
    ]
    page.code("\n".join(lines))


def parse_runs(words: Sequence[str]) -> dict[str, Path]:
    """{name: folder} of RUN words.

    Raises:
        UserError: two have the same name.
    """
    runs: dict[str, Path] = {}
    for word in words:
        name, folder = "", word
        if "=" in word and not Path(word).exists():  # a folder may have "=" in its name
            name, folder = word.split("=", 1)
        name = name or name_of_results(find_results(Path(folder)))
        if name in runs:
            raise UserError(f"two runs are called {name!r}: name them, NAME=FOLDER")
        runs[name] = Path(folder)
    return runs


def main(words: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    add_register_option(parser)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="FOLDER or NAME=FOLDER")
    parser.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="the page")
    parser.add_argument("--title", metavar="TEXT", help="its heading (default: the dataset)")
    parser.add_argument("--dataset", metavar="NAME", help="take the images from this registered dataset")
    args = parser.parse_args(words)
    if args.output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {args.output}: expected a name that ends in .html")
    runs = {name: read_evaluated(folder) for name, folder in parse_runs(args.runs).items()}
    refuse_inputs("--output", [args.output], [evaluated.folder / RESULTS_FILE for evaluated in runs.values()])
    data: Any = next(iter(runs.values())).run.data
    page = build_page(runs, args.title or f"Detection in {data.name}", args.dataset)
    page.write(args.output)
    print(f"Wrote {args.output}")
