"""What the user of a command line tool sees when something is wrong."""

import subprocess
import sys

import pytest

from vod2.engine.cli import run
from vod2.errors import UserError


def test_a_user_error_is_one_line_and_exit_code_2(capsys):
    def main():
        raise UserError("there is no file 'x.mp4':\n  correct it")

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: there is no file 'x.mp4': correct it\n"


def test_a_bug_keeps_its_traceback_and_an_interrupt_exits_130(capsys):
    def bug():
        raise RuntimeError("a bug")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="a bug"):
        run(bug)
    with pytest.raises(SystemExit) as stop:
        run(interrupt)
    assert stop.value.code == 130


@pytest.mark.parametrize("lines", [1, 100_000], ids=["in the buffer", "more than a pipe holds"])
def test_a_reader_that_stops_early_is_no_error(lines):
    program = f"from vod2.engine import cli\ncli.run(lambda: print('line\\n' * {lines}))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_broken_pipe_between_processes_is_a_bug():
    def main():
        raise BrokenPipeError("of a worker")

    with pytest.raises(BrokenPipeError, match="of a worker"):
        run(main)
