"""Peak memory of a process that does one thing."""

import argparse
import subprocess
import sys

from vod2.errors import UserError


def peak_alone(command: str, config: str, args: argparse.Namespace, *more: str) -> float:
    """In MiB, of `vod2 benchmark COMMAND --peak` with one configuration and the size, device and threads of `args`.

    Raises:
        UserError: the process failed; the message has its last line.
    """
    words = [sys.executable, "-m", "vod2", "benchmark", command, "--config-file", config, "--peak", *more]
    words += ["--size", "x".join(map(str, args.size)), "--device", str(args.device), "--threads", str(args.threads)]
    process = subprocess.run(words, capture_output=True, text=True)
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:]
        raise UserError(f"{config}: measuring its memory ended with exit code {process.returncode}: {' '.join(last)}")
    return float(process.stdout.split()[-1])
