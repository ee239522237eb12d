#!/usr/bin/env python3
"""Coverage-guided search for input that a reader neither accepts nor refuses with a UserError.

    python tools/fuzz.py vid-xml --seconds 120
    python tools/fuzz.py vid-xml --replay output/fuzz/vid-xml/crash-0a1b...

TARGET is a reader (--list names all of them, tools/fuzzing has them). Needs Atheris: pip install "vod2[fuzz]".
What was found lies in --output: a file whose name begins with crash-, timeout- or oom-, which --replay reads again.
Inputs that reach new lines are kept in the folder corpus beside it, where the next run begins. Exit code 1 where
something was found.
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

# Modules that Atheris instruments: the project, and parsers written in Python. PyTorch would take minutes.
_GUIDING = ("vod2", "json", "yaml", "zipfile", "configparser", "gzip", "pickle")
_SLOW = 20  # seconds that one input may take
_MEMORY = 4096  # MiB that the process may take; PyTorch alone takes some hundred


def fuzz(name: str, folder: Path, seconds: int) -> None:
    """Run a target in this process, until the time is over or something is found; never returns."""
    import atheris

    with atheris.instrument_imports(include=list(_GUIDING)):
        from fuzzing import TARGETS
    import logging

    logging.disable(logging.CRITICAL)
    place = Path(tempfile.mkdtemp(dir=folder, prefix=".work-"))
    target = TARGETS[name](place)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-timeout={_SLOW}", f"-rss_limit_mb={_MEMORY}", "-print_final_stats=1"]
    atheris.Setup(["fuzz", *options, f"-artifact_prefix={folder}/", str(corpus)], target.run)
    atheris.Fuzz()


def run(name: str, folder: Path, seconds: int) -> tuple[int, list[Path]]:
    """Run a target in a process of its own, as a crash of a library is a find, too.

    Returns:
        How many inputs were read, and the files that were written of those that are a fault.

    Raises:
        UserError: it could not begin.
    """
    from vod2.errors import UserError

    folder.mkdir(parents=True, exist_ok=True)
    before = _finds(folder)
    log = folder / "log.txt"
    command = [sys.executable, __file__, name, "--child", "--seconds", str(seconds), "--output", str(folder)]
    with open(log, "w", encoding="utf-8") as file:
        subprocess.run(command, stdout=file, stderr=file, check=False)
    text = log.read_text(encoding="utf-8", errors="replace")
    counts = re.findall(r"(?:#|number_of_executed_units: )(\d+)", text)
    if not counts:
        raise UserError(f"{name} did not begin: see {log}")
    for place in folder.glob(".work-*"):
        shutil.rmtree(place)
    return max(map(int, counts)), sorted(_finds(folder) - before)


def find_atheris() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("atheris") is not None


def _finds(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if path.name.startswith(("crash-", "timeout-", "oom-"))}


def replay(name: str, file: Path) -> None:
    """Read one input again; the error of a fault comes through."""
    from fuzzing import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        refused = TARGETS[name](Path(folder)).run(file.read_bytes())
    print(f"{file}: refused: {refused}" if refused else f"{file}: taken")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", metavar="TARGET", help="a reader")
    parser.add_argument("--list", action="store_true", help="name all targets")
    parser.add_argument("--seconds", type=int, default=120, metavar="N", help="how long (default 120)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default output/fuzz/TARGET")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read this input alone, without Atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    folder = (args.output or Path("output", "fuzz", str(args.target))).resolve()
    if args.child:
        fuzz(args.target, folder, args.seconds)
    # Not before: in the child, Atheris has to see the imports.
    from fuzzing import TARGETS

    from vod2.errors import UserError

    if args.list:
        for name, make in TARGETS.items():
            print(f"{name:20} {(make.__doc__ or '').splitlines()[0]}")
        return
    if args.target not in TARGETS:
        raise UserError(f"TARGET is {args.target!r}, expected one of {', '.join(TARGETS)}")
    if args.seconds < 1:
        raise UserError(f"--seconds is {args.seconds}, expected at least 1")
    if args.replay:
        if not args.replay.is_file():
            raise UserError(f"--replay {args.replay}: no such file, expected what a run has written")
        replay(args.target, args.replay)
        return
    if not find_atheris():
        raise UserError("Atheris is not installed, expected it for fuzzing: pip install 'vod2[fuzz]'")
    count, found = run(args.target, folder, args.seconds)
    print(f"{args.target}: {count} inputs in at most {args.seconds} s, {len(found)} faults")
    for path in found:
        print(f"  {path}: python tools/fuzz.py {args.target} --replay {path}")
    if found:
        sys.exit(1)


if __name__ == "__main__":
    if "--child" in sys.argv:
        main()
    else:
        from vod2.engine import cli

        cli.run(main)
