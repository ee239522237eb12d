"""Scalars and images of a training run, and the writers that carry them to a file, to TensorBoard or to the console."""

import datetime
import json
import logging
import time
from collections import defaultdict
from itertools import takewhile

import torch
from fvcore.common.history_buffer import HistoryBuffer

from vod2._d2lite.utils.file_io import PathManager

_storages: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The innermost `EventStorage` in use. Raises AssertionError where there is none."""
    assert _storages, "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    return _storages[-1]


class EventStorage:
    """What one run has recorded; ``with EventStorage(start_iter) as storage`` makes it the current one."""

    def __init__(self, start_iter: int = 0):
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._images: list[tuple] = []
        self.iter = start_iter

    def put_scalar(self, name: str, value, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record a number under ``name``; writers show its median over a window where ``smoothing_hint`` is set."""
        cur_iter = self.iter if cur_iter is None else cur_iter
        value = float(value)
        # As in Detectron2: a writer shows either the median of a name or its value
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise ValueError(f"scalar {name!r} was put with smoothing_hint={not smoothing_hint} before")
        self._history[name].update(value, cur_iter)
        self._latest[name] = (value, cur_iter)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs) -> None:
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor) -> None:
        """Record an RGB image (3, H, W), float in [0, 1] or uint8 in [0, 255], for TensorBoard."""
        self._images.append((img_name, img_tensor, self.iter))

    def images(self) -> list[tuple]:
        """(name, image, iteration) of the images not yet cleared."""
        return self._images

    def clear_images(self) -> None:
        self._images = []

    def history(self, name: str) -> HistoryBuffer:
        """All values of ``name``. Raises KeyError where there are none."""
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """{name: (value, iteration)} of the newest values."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As `latest`, but the median of the last ``window_size`` iterations for what has the smoothing hint."""
        result = {}
        for name, (value, iteration) in self._latest.items():
            if self._smoothing_hints[name]:
                value = self._history[name].median(self.count_samples(name, window_size))
            result[name] = (value, iteration)
        return result

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of ``name`` the last ``window_size`` iterations hold; at least 1."""
        oldest = self._latest[name][1] - window_size
        return sum(1 for _ in takewhile(lambda sample: sample[1] > oldest, reversed(self.history(name).values())))

    def step(self) -> None:
        self.iter += 1

    def __enter__(self) -> "EventStorage":
        _storages.append(self)
        return self

    def __exit__(self, *exception) -> None:
        innermost = _storages.pop()
        assert innermost is self, "EventStorage contexts must be left in the reverse order of entering them"


class EventWriter:
    """Carries what is new in the current `EventStorage` elsewhere."""

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class JSONWriter(EventWriter):
    """Appends one JSON object per line: the scalars of one iteration, and ``iteration``."""

    def __init__(self, json_file: str, window_size: int = 20):
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        lines: dict[int, dict] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            # Otherwise a value that was put once would be written again and again
            if iteration > self._last_write:
                lines[iteration][name] = float(value)
        for iteration in sorted(lines):
            self._file.write(json.dumps({**lines[iteration], "iteration": iteration}, sort_keys=True) + "\n")
            self._last_write = iteration
        # So that a running training can be followed
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars and images for TensorBoard; does nothing, with one warning, where tensorboard is not installed."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        self._window_size = window_size
        self._last_write = -1
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            logging.getLogger(__name__).warning(f"TensorBoard files are not written: {error}. Install 'tensorboard'.")
            self._writer = None
        else:
            self._writer = SummaryWriter(log_dir, **kwargs)

    def write(self) -> None:
        storage = get_event_storage()
        if self._writer is not None:
            latest = storage.latest_with_smoothing_hint(self._window_size)
            unwritten = {name: (value, i) for name, (value, i) in latest.items() if i > self._last_write}
            for name, (value, iteration) in unwritten.items():
                self._writer.add_scalar(name, value, iteration)
            self._last_write = max((i for _, i in unwritten.values()), default=self._last_write)
            for name, image, iteration in storage.images():
                self._writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: eta, iteration, losses, metrics, times, learning rate, peak memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> list[str]:
        if self._max_iter is None:
            return []
        remaining_iters = self._max_iter - storage.iter - 1
        previous, self._last_write = self._last_write, (storage.iter, time.perf_counter())
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * remaining_iters
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        elif previous is not None and previous[0] != storage.iter:  # nobody times the iterations
            seconds = (self._last_write[1] - previous[1]) / (storage.iter - previous[0]) * remaining_iters
        else:
            return []
        return [f"eta: {datetime.timedelta(seconds=int(seconds))}"]

    def write(self) -> None:
        storage = get_event_storage()
        if self._max_iter is not None and storage.iter == self._max_iter:
            return  # training is over: the last iteration has been printed already
        histories = storage.histories()
        window = {name: storage.count_samples(name, self._window_size) for name in histories}
        fields = [*self._eta(storage), f"iter: {storage.iter}"]
        # Detectron2's convention for names of what is shown
        for kind in ("loss", "[metric]"):
            names = [name for name in window if kind in name]
            fields += [f"{name}: {histories[name].median(window[name]):.4g}" for name in names]
        for name in ("time", "data_time"):
            if name in histories:
                fields.append(f"{name}: {histories[name].avg(window[name]):.4f}")
                fields.append(f"last_{name}: {histories[name].latest():.4f}")
        if "lr" in histories:
            fields.append(f"lr: {histories['lr'].latest():.5g}")
        if torch.cuda.is_available():
            fields.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(fields))
