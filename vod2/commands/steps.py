"""Commands that another command runs one after the other, each in a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from vod2.atomic import write_json
from vod2.bounded import load_json
from vod2.engine.interruption import EXIT_CODE
from vod2.errors import UserError

WORDS = "step.json"
"""In the folder of a training: the words that it was called with."""


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


def train_step(step: str, output: Path, dataset: str, *words: str | Path) -> dict[str, float]:
    """Train, or go on training, one detector; nothing is done where it is finished.

    Args:
        step: the heading.
        output: its OUTPUT_DIR.
        dataset: of DATASETS.TEST.
        words: of `vod2 train`.

    Returns:
        Its metrics, those of `VIDEvaluator`.

    Raises:
        UserError: it has failed, or what is in `output` was trained with other words.
    """
    _require_same_words(output, [*map(str, words)])
    results = output / "inference" / dataset / "results.json"
    # Both, as an interruption may come between the last checkpoint and the evaluation.
    if not (results.is_file() and (output / "model_final.safetensors").is_file()):
        run_step(step, "train", *words, "OUTPUT_DIR", output)
    return json.loads(results.read_text(encoding="utf-8"))["vid"]


def _require_same_words(output: Path, words: list[str]) -> None:
    """Keep the words of a training in its folder, and refuse to go on with others: its result would not be theirs."""
    path = output / WORDS
    if path.is_file():
        before = load_json(path.read_text(encoding="utf-8"))
        if before != words:
            # One of each pair that differs is enough to see what was changed.
            changed = [word for word in words if word not in before] or [word for word in before if word not in words]
            told = ", ".join(changed) or "their order"
            raise UserError(
                f"{output} holds a training with other settings ({told} differs): give another --output, or move this "
                "one out of the way"
            )
    else:
        write_json(path, words)
