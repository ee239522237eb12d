"""What a step writes its measurements with. Standard library only."""

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

RESTART = 75
"""Exit code of a process that cannot go on, as after a fault on the GPU; a new one does the remaining cases."""

STARTED = "started"


@dataclass(frozen=True)
class Settings:
    """What the driver tells the process of a step.

    Attributes:
        device: "cuda" or "cpu".
        size: "full": the sizes of the papers; "small": as little as shows that it runs.
        root: the checkout.
        folder: scratch of this step, which outlives its process.
        library: what the build step makes and the other steps import from.
        rows: JSON lines, one measurement each.
        deadline: time.time() from which on no further case should begin.
        rates: of the machine, as its step measured them: {"copy GB/s": ..., "fp32 TFLOP/s": ...}; may be empty.
    """

    device: str
    size: str
    root: str
    folder: str
    library: str
    rows: str
    deadline: float
    rates: dict[str, float]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Settings":
        return cls(**json.loads(Path(path).read_text()))


class NotApplicable(Exception):
    """Raised by a case that has nothing to measure here; its text is the reason."""


class Failed(Exception):
    """Raised by a case whose result is wrong; `values` go into its row.

    A wrong result is known without a traceback, so the row has none.
    """

    def __init__(self, message: str, **values) -> None:
        super().__init__(message)
        self.values = values


class Step:
    """The process of one step: what it may use, and where its rows go.

    A case that ended, or in which a process before this one died, is not run again.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device, self.small = settings.device, settings.size == "small"
        self.root, self.folder = Path(settings.root), Path(settings.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        # What earlier processes of the step have begun, whether it ended well or not.
        self._names = {row["name"] for row in read_rows(settings.rows)}

    def seconds_left(self) -> float:
        """Seconds in which cases may begin."""
        return self.settings.deadline - time.time()

    def case(self, name: str, measure: Callable[[], dict | None], needs: float = 0.0) -> None:
        """Run `measure` and write what it returns as the row `name`.

        Args:
            measure: returns values for the row. `Failed` and any other exception make it a failed row,
                `NotApplicable` one that does not apply.
            needs: seconds that it takes; with less left it is not begun.
        """
        if name in self._names:
            return
        self._names.add(name)
        # Written down all the same: the report shows what was left out.
        if self.seconds_left() < needs or self.seconds_left() <= 0:
            self._write(name, status="no time")
            return
        # Before the case runs: if the process dies in it, this row is all that tells.
        self._write(name, status=STARTED)
        begin = time.perf_counter()
        try:
            row = {"status": "passed", **(measure() or {})}
        except NotApplicable as reason:
            row = {"status": "does not apply", "message": str(reason)}
        except Failed as failure:
            row = {"status": "failed", "message": str(failure), **failure.values}
        except Exception as error:
            row = {"status": "failed", "message": f"{type(error).__name__}: {error}", "trace": _tail_of_traceback()}
            if _is_fatal(error):
                self._write(name, seconds=time.perf_counter() - begin, **row)
                os._exit(RESTART)  # an orderly end would only repeat the error
        self._write(name, seconds=time.perf_counter() - begin, **row)

    @contextlib.contextmanager
    def seconds_for(self, share: float) -> Iterator[None]:
        """Cases within may begin in this share of the remaining time only, so that those after it get some."""
        settings = self.settings
        self.settings = Settings(**{**asdict(settings), "deadline": time.time() + share * max(self.seconds_left(), 0)})
        try:
            yield
        finally:
            self.settings = settings

    def _write(self, name: str, **values) -> None:
        append_row(self.settings.rows, {"name": name, **values})


def append_row(path: str | os.PathLike, row: dict) -> None:
    """Add a line to the rows of a step: at once, so that a killed process loses none of those before it."""
    with open(path, "a") as file:
        file.write(f"\n{json.dumps(row, default=str)}\n")  # the line before may have been cut off by a kill


def read_rows(path: str | os.PathLike) -> list[dict]:
    """The rows of a step in the order in which they began; of each the last thing that was written.

    A line that was cut off by a kill is left out.
    """
    rows: dict[str, dict] = {}
    if os.path.exists(path):
        for line in Path(path).read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                rows[row["name"]] = row
    return list(rows.values())


def _is_fatal(error: Exception) -> bool:
    """Whether the GPU's context is lost: every later call in this process would fail, too."""
    return "CUDA error" in str(error) or "device-side assert" in str(error)


def _tail_of_traceback(lines: int = 12) -> str:
    return "\n".join(traceback.format_exc().strip().splitlines()[-lines:])
