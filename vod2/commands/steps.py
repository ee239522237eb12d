"""Commands that another command runs one after the other: long ones in a process of their own, quick ones in this."""

import importlib
import io
import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TextIO

from vod2.checkpoint.files import read_manifest
from vod2.d2 import CfgNode, setup_logger
from vod2.engine import load_config
from vod2.engine.interruption import EXIT_CODE
from vod2.engine.resume import changed_keys
from vod2.errors import UserError

_WITHOUT_INFLUENCE = ("OUTPUT_DIR", "VERSION", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE")  # on what is learned


def run_step(step: str, command: str, *words: str | Path) -> None:
    """Run `vod2 COMMAND WORDS ...` under a heading.

    A signal reaches the command, which may have to save what it has: it is waited for.

    Raises:
        UserError: it has failed.
        SystemExit: it was interrupted; with its exit code, 75 if a training saved its state.
    """
    print(f"\n== {step}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "vod2", command, *map(str, words)])
    with _passing_signals_to(process) as passed:
        code = process.wait()
    if code in (EXIT_CODE, 130):
        sys.exit(code)
    if code < 0:  # a signal has ended it: one that was passed to it, or another's, such as the kernel's without memory
        if passed:
            sys.exit(128 - code)
        raise UserError(f"vod2 {command} was ended by {signal.Signals(-code).name}; run the same command to go on")
    if code:
        raise UserError(
            f"vod2 {command} failed, its message stands above; run the same command again to go on from here"
        )


def call_step(step: str, command: str, *words: str | Path) -> None:
    """Run `vod2 COMMAND WORDS ...` under a heading in this process, which saves seconds of starting another.

    For what ends by itself in a moment: see `run_step`.

    Raises:
        UserError: it cannot do its work.
    """
    print(f"\n== {step}", flush=True)
    _call(command, *words)


def _call(command: str, *words: str | Path) -> None:
    from vod2.commands import COMMANDS  # which lists this package's modules

    with _without_its_logs():
        importlib.import_module(f"vod2.commands.{COMMANDS[command].module}").main([*map(str, words)])


@contextmanager
def _without_its_logs() -> Iterator[None]:
    """Remove the handlers that a command adds: the next one would write to the log of this one, and print twice."""

    def handlers() -> set[tuple[str, logging.Handler]]:
        loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
        return {(logger.name, handler) for logger in loggers for handler in logger.handlers}

    before = handlers()
    try:
        yield
    finally:
        for name, handler in handlers() - before:
            logging.getLogger(name).removeHandler(handler)
            handler.flush()
        # Detectron2's remembers what it was called with, and would add none of these handlers again.
        if hasattr(setup_logger, "cache_clear"):
            setup_logger.cache_clear()


def evaluate_step(
    step: str, output: Path, dataset: str, config: str | Path, keys: Sequence[str | Path]
) -> dict[str, float]:
    """Evaluate weights in this process; returns the metrics of `VIDEvaluator`. Arguments as of `train_step`.

    Of what the evaluation says, warnings and errors are printed; all of it is in log.txt of `output`.
    """
    print(f"\n== {step} (log: {output / 'log.txt'})", flush=True)
    with redirect_stdout(_Warnings(sys.stdout)):
        _call("eval", "--config-file", config, "OUTPUT_DIR", output, *keys)
    return _read_metrics(output, dataset)


class _Warnings(io.TextIOBase):
    """Passes on the warnings and errors of a log, and nothing else: a configuration has hundreds of lines."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self._terminal = terminal

    def write(self, text: str) -> int:
        first_line = text.partition("\n")[0]  # a message is written at once
        if re.search("WARNING|ERROR|CRITICAL", first_line):
            self._terminal.write(text)
            self._terminal.flush()
        return len(text)


def _read_metrics(output: Path, dataset: str) -> dict[str, float]:
    return json.loads((output / "inference" / dataset / "results.json").read_text(encoding="utf-8"))["vid"]


@contextmanager
def _passing_signals_to(process: subprocess.Popen) -> Iterator[list[int]]:
    """Ctrl-C comes to the process from the terminal; SIGTERM is passed to it, and noted."""
    passed: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        process.send_signal(number)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    # It is for the process to end by it, after which its exit code says so.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_step(
    step: str, output: Path, dataset: str, config: str | Path, keys: Sequence[str], words: Sequence[str | Path] = ()
) -> dict[str, float]:
    """Train, or go on training, one detector; nothing is done where it is finished.

    Args:
        step: the heading.
        output: its OUTPUT_DIR.
        dataset: of DATASETS.TEST.
        config: the configuration.
        keys: KEY VALUE ... on top of it.
        words: other options of `vod2 train`.

    Returns:
        Its metrics, those of `VIDEvaluator`.

    Raises:
        UserError: it has failed, or the finished training in `output` had other settings.
    """
    results = output / "inference" / dataset / "results.json"
    weights = output / "model_final.safetensors"
    # Both, as an interruption may come between the last checkpoint and the evaluation.
    if results.is_file() and weights.is_file():
        _require_same_settings(output, weights, load_config(str(config), [*map(str, keys)]))
    else:
        options = ["--config-file", config, "--resume", *words]
        run_step(step, "train", *options, "OUTPUT_DIR", output, *keys)
    return _read_metrics(output, dataset)


def _require_same_settings(output: Path, weights: Path, cfg: CfgNode) -> None:
    """Raises UserError if a finished training was another one: its result would not be that of these settings."""
    manifest = read_manifest(weights)
    if manifest is None:
        raise UserError(f"{weights} does not say how it was trained: give another --output, or move {output} away")
    changes = changed_keys(manifest["about"]["configuration"], cfg)
    # Those of one folder may have another path by now.
    before, now = changes.get("MODEL.WEIGHTS", ("", ""))
    if Path(str(before)).parts[-2:] == Path(str(now)).parts[-2:]:
        changes.pop("MODEL.WEIGHTS", None)
    told = []
    for key, (before, now) in changes.items():
        scaled = key.startswith("SOLVER.") and cfg.SOLVER.REFERENCE_WORLD_SIZE  # by the number of GPUs
        if key not in _WITHOUT_INFLUENCE and not scaled:
            told.append(f"{key}: {before} -> {now}")
    if told:
        raise UserError(
            f"{output} holds a finished training with other settings ({'; '.join(told)}): give another --output, or "
            "move this one away"
        )
