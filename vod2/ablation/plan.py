"""From a suite, a size and seeds to the jobs that are to be run."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vod2.ablation.suite import Row, Size, Suite
from vod2.checkpoint import existing_weights
from vod2.d2 import CfgNode
from vod2.engine import check_datasets, load_config
from vod2.errors import UserError
from vod2.keys import is_read, leaves

TRAIN = "train"
WEIGHTS = "model_final.safetensors"


class JobKey(NamedTuple):
    """Which job: `kind` is "train", or the context of an evaluation."""

    row: str
    seed: int
    kind: str

    def __str__(self) -> str:
        return f"{self.row}, seed {self.seed}, {'training' if self.kind == TRAIN else f'evaluation ({self.kind})'}"


@dataclass(frozen=True)
class Job:
    """One training, or one evaluation in one context, in a process of its own.

    Args:
        key: which.
        folder: OUTPUT_DIR, that of the row and the seed.
        words: what `tools/train_net.py` is called with.
        needs: the training that must be done before, or None.
        settings: the keys of the configuration that something reads, {dotted key: value}, without folders and weights.
        datasets: that are evaluated on; () for a training.
        seconds: that it is expected to take, None where that is not known.
    """

    key: JobKey
    folder: Path
    words: tuple[str, ...]
    needs: JobKey | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def record(self) -> Path:
        """What is known of it, see `Records`."""
        return self.folder / f"{self.key.kind}.json"

    @property
    def log(self) -> Path:
        """What its process has printed."""
        return self.folder / f"{self.key.kind}.txt"


@dataclass(frozen=True)
class Plan:
    """The jobs of a suite, each after the one that it needs.

    Args:
        suite: that they are of.
        size: its name.
        output: folder of everything.
        jobs: {key: job}, of all rows, and of all seeds that are asked for or are in the folder already.
        wanted: those that are asked for.
        iterations: {row: SOLVER.MAX_ITER} of those that are trained.
    """

    suite: Suite
    size: str
    output: Path
    jobs: Mapping[JobKey, Job]
    wanted: Set[JobKey]
    iterations: Mapping[str, int]


def make_plan(
    suite: Suite,
    size: str,
    seeds: Sequence[int],
    output: Path,
    device: str = "cpu",
    rows: Sequence[str] | None = None,
    measured: Mapping[str, float] | None = None,
) -> Plan:
    """Seed after seed, rows in the order of the suite.

    Of a row that is not asked for, the training is wanted where one that is asked for starts from it.

    Args:
        suite, size, seeds: what to run; size is the name of one of the suite's.
        output: folder of everything; made absolute, as jobs may run elsewhere.
        device: MODEL.DEVICE, "cpu" or "cuda".
        rows: names of rows; None for all.
        measured: {row: seconds of an iteration}, before what the suite says.

    Raises:
        UserError: an unknown size or row, a seed below 0 or given twice, or a configuration that does not load, with
            the overrides of the suite, or does not fit its data sets.
    """
    if size not in suite.sizes:
        raise UserError(f"--size is {size!r}, suite {suite.name} has {', '.join(suite.sizes)}")
    if min(seeds, default=-1) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds are {list(seeds)}, expected different whole numbers of at least 0")
    chosen = list(suite.rows) if rows is None else list(rows)
    if unknown := [name for name in chosen if name not in suite.rows]:
        raise UserError(f"suite {suite.name} has no row {unknown[0]!r}: expected some of {', '.join(suite.rows)}")
    # Jobs may run in another folder, or on another machine of a cluster
    output = output.resolve()
    planner = _Planner(suite.sizes[size], size, output, device)
    trained = _with_bases(suite, chosen)
    configurations = {name: planner.configuration(row) for name, row in suite.rows.items()}
    jobs: dict[JobKey, Job] = {}
    wanted: set[JobKey] = set()
    # Seeds that are there already come last: nothing is done for them, but tables have them.
    for seed in [*seeds, *sorted(_seeds_in(output) - set(seeds))]:
        for name, row in suite.rows.items():
            seconds = (measured or {}).get(name, row.seconds_per_iteration)
            if row.weights_of is None:
                training = planner.training(row, configurations[name], seed, seconds)
                jobs[training.key] = training
                if seed in seeds and name in trained:
                    wanted.add(training.key)
            for context in row.contexts:
                evaluation = planner.evaluation(row, configurations[name], seed, context)
                jobs[evaluation.key] = evaluation
                if seed in seeds and name in chosen:
                    wanted.add(evaluation.key)
    iterations = {
        name: cfg.SOLVER.MAX_ITER for name, cfg in configurations.items() if suite.rows[name].weights_of is None
    }
    return Plan(suite, size, output, jobs, wanted, iterations)


def _seeds_in(output: Path) -> set[int]:
    """The seeds that an output folder has something of."""
    names = (path.parent.name.removeprefix("seed") for path in output.glob(f"*/seed*/{TRAIN}.json"))
    # The folder may hold others, such as seed0.old
    return {int(name) for name in names if name.isdecimal()}


def _with_bases(suite: Suite, names: Iterable[str]) -> set[str]:
    """The rows, and those that they start from or have the weights of, and so on."""
    rows: set[str] = set()
    for name in names:
        base: str | None = name
        while base is not None and base not in rows:
            rows.add(base)
            base = suite.rows[base].base or suite.rows[base].weights_of
    return rows


class _Planner:
    """Makes the jobs of one size."""

    def __init__(self, size: Size, name: str, output: Path, device: str) -> None:
        self._size, self._name, self._output, self._device = size, name, output, device

    def configuration(self, row: Row) -> CfgNode:
        """Of a row, without seed, weights and folder.

        Raises:
            UserError: as `make_plan`, and names the row.
        """
        try:
            cfg = load_config(str(row.config), self._overrides(row))
            check_datasets(cfg, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
            if row.contexts and not cfg.DATASETS.TEST:
                raise UserError("there is nothing to evaluate on: set DATASETS.TEST, or contexts to []")
        except UserError as error:
            raise UserError(f"row {row.name}: {error}") from error
        return cfg

    def training(self, row: Row, cfg: CfgNode, seed: int, seconds: float | None) -> Job:
        weights = (
            [] if row.base is None else ["MODEL.WEIGHTS", str(existing_weights(self._folder(row.base, seed) / WEIGHTS))]
        )
        # Evaluations are jobs of their own, so that none is repeated when another one was cut off.
        opts = [*weights, "DATASETS.TEST", "()", "TEST.EXPECTED_RESULTS", "[]"]
        return Job(
            JobKey(row.name, seed, TRAIN),
            self._folder(row.name, seed),
            # An interrupted job continues from its last checkpoint; without one it starts over
            self._words(row, seed, ["--resume"], opts),
            needs=None if row.base is None else JobKey(row.base, seed, TRAIN),
            # The row whose weights it starts from, not their path, which differs from seed to seed
            settings=_settings(cfg) | {"MODEL.DEVICE": self._device, "weights": row.base or cfg.MODEL.WEIGHTS},
            seconds=None if seconds is None else seconds * cfg.SOLVER.MAX_ITER,
        )

    def evaluation(self, row: Row, cfg: CfgNode, seed: int, context: str) -> Job:
        folder = self._folder(row.name, seed)
        trained = row.weights_of or row.name
        opts = ["MODEL.WEIGHTS", str(existing_weights(self._folder(trained, seed) / WEIGHTS))]
        seconds = None
        if self._size.frames and row.seconds_per_frame:
            # The frames of a foreign context are encoded in addition to the key frames
            seconds = row.seconds_per_frame * self._size.frames * (2 if context == "foreign" else 1)
        return Job(
            JobKey(row.name, seed, context),
            folder,
            self._words(row, seed, ["--eval-only", "--context", context], opts),
            needs=JobKey(trained, seed, TRAIN),
            # Those of other rows are in the record of their training
            settings={} if row.weights_of is None else _settings(cfg) | {"weights": trained},
            datasets=tuple(cfg.DATASETS.TEST),
            seconds=seconds,
        )

    def _folder(self, row: str, seed: int) -> Path:
        return self._output / row / f"seed{seed}"

    def _words(self, row: Row, seed: int, flags: Sequence[str], opts: Sequence[str]) -> tuple[str, ...]:
        # After the overrides: a row cannot change where its results go
        run_keys = ["SEED", str(seed), "OUTPUT_DIR", str(self._folder(row.name, seed))]
        return ("--config-file", str(row.config), *flags, *self._overrides(row), *run_keys, *opts)

    def _overrides(self, row: Row) -> list[str]:
        """KEY VALUE ... of the size and of the row."""
        overrides = dict(self._size.overrides) | dict(row.overrides) | {"MODEL.DEVICE": self._device}
        iterations = row.iterations
        if isinstance(iterations, Mapping):
            iterations = iterations.get(self._name)
        # The number of the row wins over that of the size
        if iterations := iterations or self._size.iterations:
            overrides["SOLVER.MAX_ITER"] = iterations
        for key, names in (("TRAIN", self._size.train), ("TEST", self._size.test)):
            if names:
                overrides[f"DATASETS.{key}"] = names
        return [word for key, value in overrides.items() for word in (key, str(value))]


_ELSEWHERE = ("MODEL.WEIGHTS", "OUTPUT_DIR", "SEED")  # they tell where a job stands in the plan, not what it does


def _settings(cfg: CfgNode) -> dict[str, Any]:
    """{dotted key: value} of the keys that something reads; tuples as lists, as JSON has them."""
    return {key: _plain(value) for key, value in leaves(cfg) if key not in _ELSEWHERE and is_read(cfg, key)}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
