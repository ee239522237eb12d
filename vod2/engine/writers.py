"""A training in Weights & Biases or MLflow: its configuration, and what Detectron2's other writers write.

A tracker is never worth a training. Where it fails, one warning says so, and the training goes on without it: the
scalars are in metrics.json, too.
"""

import importlib
import logging
import os
import posixpath
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from vod2.atomic import write_json
from vod2.bounded import load_json
from vod2.d2 import CfgNode, EventWriter, get_event_storage
from vod2.errors import UserError, lookup
from vod2.keys import leaves

_LOGGER = logging.getLogger("vod2.engine")

_WINDOW = 20  # iterations of the median of a noisy scalar, as in Detectron2's writers

_WANDB_SECONDS = 60  # that the end of a training waits for what W&B has not sent

_MLFLOW_BATCH = 100  # parameters that a server of MLflow takes in one request
_MLFLOW_LONGEST = 500  # letters of a parameter that every server of MLflow takes


class StoredRun(NamedTuple):
    """What a resumed training needs of the run that it goes on with.

    Attributes:
        run: its id in the tracker.
        written: {name: the last iteration whose value the run has}.
    """

    run: str
    written: dict[str, int]


class TrackingWriter(EventWriter, ABC):
    """A training as a run of a tracker: every scalar once, the configuration as parameters.

    The id of the run and what it has are kept in OUTPUT_DIR/tracking_<tracker>.json, so that a resumed training goes on
    in the same run, and repeats nothing of the iterations after its checkpoint. `start` comes before the first `write`.

    Args:
        cfg: TRACKING.PROJECT and TRACKING.NAME name the run; OUTPUT_DIR.

    Raises:
        UserError: the package of the tracker is not installed.
    """

    package: str

    def __init__(self, cfg: CfgNode) -> None:
        self._library = _library(self.package)
        self._folder = Path(cfg.OUTPUT_DIR).resolve()
        self._project: str = cfg.TRACKING.PROJECT
        self._name: str = cfg.TRACKING.NAME or self._folder.name
        self._parameters = {key: str(value) for key, value in leaves(cfg)}
        self._max_iter: int = cfg.SOLVER.MAX_ITER
        self._written: dict[str, int] = {}
        self._run = ""
        self._is_active = False
        self._is_complete = False

    @property
    def file(self) -> Path:
        """Where the id of the run is kept."""
        return self._folder / f"tracking_{self.package}.json"

    def start(self, start_iter: int) -> None:
        """Begin a run, or go on with that of the training that is resumed.

        Args:
            start_iter: the first iteration; 0 begins a new run.

        Raises:
            UserError: a new training cannot have its run. A resumed one goes on without it, with a warning.
        """
        stored = self._stored() if start_iter > 0 else None
        try:
            self._run = self._begin(None if stored is None else stored.run)
        except Exception as error:  # whatever the tracker, its network or its server raises
            if start_iter > 0:
                self._give_up(error)
                return
            raise UserError(
                f"{self.package} cannot begin a run ({_reason(error)}): fix that, or leave {self.package!r} out of "
                "TRACKING.WRITERS"
            ) from error
        self._written = {} if stored is None else dict(stored.written)
        self._is_active = True
        self._store()

    def write(self) -> None:
        """Send the scalars that the run does not have."""
        if not self._is_active:
            return
        storage = get_event_storage()
        self._is_complete = storage.iter >= self._max_iter  # it counts on after the last iteration
        by_iteration: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            # Of each name, not of all: an evaluation after the last iteration has its number, too, where it is resumed
            if iteration > self._written.get(name, -1):
                by_iteration[iteration][name] = float(value)
        for iteration, values in sorted(by_iteration.items()):
            try:
                self._log(iteration, values)
            except Exception as error:
                self._give_up(error)
                return
            self._written |= dict.fromkeys(values, iteration)
        if by_iteration:
            self._store()

    def close(self) -> None:
        """End the run: as finished after the last iteration, else as interrupted."""
        if not self._is_active:
            return
        self._is_active = False
        try:
            self._end(self._is_complete)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._is_active = False
        _LOGGER.warning(
            "%s failed (%s): the training goes on without it, its scalars are in metrics.json",
            self.package,
            _reason(error),
        )

    def _store(self) -> None:
        write_json(self.file, {"run": self._run, "written": self._written})

    def _stored(self) -> StoredRun | None:
        """The run of the training that is resumed; None, with a warning, where nobody knows it."""
        try:
            content = load_json(self.file.read_bytes())
            run, written = content["run"], content["written"]
            is_whole = isinstance(run, str) and run and all(type(number) is int for number in written.values())
            if is_whole:
                return StoredRun(run, written)
            reason = "it holds no run"
        except FileNotFoundError:
            reason = "there is no such file"
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = _reason(error)
        _LOGGER.warning(
            "%s: %s, so the resumed training begins a new run of %s, which has its scalars from here on",
            self.file,
            reason,
            self.package,
        )
        return None

    @abstractmethod
    def _begin(self, run: str | None) -> str:
        """Open a new run (None) or that of an id, with all parameters; returns its id."""

    @abstractmethod
    def _log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Send scalars of one iteration."""

    @abstractmethod
    def _end(self, is_complete: bool) -> None:
        """Close the run."""


class WandbWriter(TrackingWriter):
    """A run of Weights & Biases, with its files in OUTPUT_DIR/wandb; WANDB_MODE=offline sends nothing.

    Scalars have `iteration` as their axis: steps of W&B may not go back, as a resumed training does. The end of the
    training waits for what is not yet sent, as long as WANDB_FINISH_TIMEOUT says (60 s).
    """

    package = "wandb"

    def _begin(self, run: str | None) -> str:
        # An id of ours, for W&B without a network gives none that could be resumed
        name = run or secrets.token_hex(4)
        # By itself W&B waits forever, so that without a network a training that is done, or was stopped, would not end
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(_WANDB_SECONDS))
        self._open = self._library.init(
            project=self._project, name=self._name, id=name, resume="allow", dir=str(self._folder)
        )
        self._open.config.update(self._parameters, allow_val_change=True)
        self._open.define_metric("iteration")
        self._open.define_metric("*", step_metric="iteration")
        return name

    def _log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._open.log({**values, "iteration": iteration})

    def _end(self, is_complete: bool) -> None:
        self._open.finish(exit_code=0 if is_complete else 1)


class MLflowWriter(TrackingWriter):
    """A run of MLflow in the experiment TRACKING.PROJECT, where MLFLOW_TRACKING_URI says.

    Characters that MLflow refuses in names are "_" there. A parameter cannot change in MLflow: where a resumed
    training has another value, the run gets it as a tag, "changed.SOLVER.BASE_LR".
    """

    package = "mlflow"

    def _begin(self, run: str | None) -> str:
        self._client = self._library.MlflowClient()
        if run is None:
            experiment = self._library.set_experiment(self._project)
            run = str(self._client.create_run(experiment.experiment_id, run_name=self._name).info.run_id)
        else:
            self._client.update_run(run, status="RUNNING")
        before = self._client.get_run(run).data.params
        now = {_mlflow_name(key): _shortened(value) for key, value in self._parameters.items()}
        parameter, tag = self._library.entities.Param, self._library.entities.RunTag
        new = [parameter(key, value) for key, value in now.items() if key not in before]
        changed = [tag(f"changed.{key}", value) for key, value in now.items() if before.get(key, value) != value]
        for batch in _batches(new):
            self._client.log_batch(run, params=batch)
        for batch in _batches(changed):
            self._client.log_batch(run, tags=batch)
        return run

    def _log(self, iteration: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)  # milliseconds, as MLflow counts
        metric = self._library.entities.Metric
        metrics = [metric(_mlflow_name(name), value, now, iteration) for name, value in values.items()]
        for batch in _batches(metrics):
            self._client.log_batch(self._run, metrics=batch)

    def _end(self, is_complete: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if is_complete else "KILLED")


TRACKERS: dict[str, type[TrackingWriter]] = {kind.package: kind for kind in (WandbWriter, MLflowWriter)}
"""What TRACKING.WRITERS may name."""


def check_tracking(cfg: CfgNode) -> None:
    """Refuse trackers that do not exist or are not installed.

    Raises:
        UserError: names TRACKING.WRITERS, or the package and how to install it.
    """
    for name in cfg.TRACKING.WRITERS:
        _library(lookup(TRACKERS.items(), name, "TRACKING.WRITERS").package)


def build_trackers(cfg: CfgNode) -> list[TrackingWriter]:
    """The writers of TRACKING.WRITERS, each once, in their order; for the main process.

    Raises:
        UserError: see `check_tracking`.
    """
    names = dict.fromkeys(cfg.TRACKING.WRITERS)
    return [lookup(TRACKERS.items(), name, "TRACKING.WRITERS")(cfg) for name in names]


def start_trackers(trackers: Sequence[TrackingWriter], start_iter: int) -> None:
    """`TrackingWriter.start` of all of them.

    Raises:
        UserError: one cannot begin its run; the runs of the others are ended.
    """
    try:
        for tracker in trackers:
            tracker.start(start_iter)
    except UserError:
        for tracker in trackers:
            tracker.close()
        raise


def _library(package: str) -> ModuleType:
    try:
        library = importlib.import_module(package)
    except ImportError as error:
        raise _missing(package, error) from error
    # Where it is not installed, Python takes the folder "wandb" of a run in the current folder for a package
    if getattr(library, "__file__", None) is None:
        raise _missing(package, "it is a folder without code")
    return library


def _missing(package: str, reason: ImportError | str) -> UserError:
    return UserError(
        f'TRACKING.WRITERS has {package!r}, which does not import ({reason}): pip install "vod2[{package}]", or leave '
        "it out"
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"


def _mlflow_name(name: str) -> str:
    """A name that MLflow takes.

    Example:
        >>> _mlflow_name("vid/AP50-cat, dog"), _mlflow_name("coco/AP-a//b")
        ('vid/AP50-cat_ dog', 'coco/AP-a/b')
    """
    return posixpath.normpath(re.sub(r"[^\w\-. /]", "_", name)).lstrip("/")


def _shortened(text: str) -> str:
    return text if len(text) <= _MLFLOW_LONGEST else f"{text[: _MLFLOW_LONGEST - 3]}..."


def _batches(entries: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(entries), _MLFLOW_BATCH):
        yield entries[start : start + _MLFLOW_BATCH]
