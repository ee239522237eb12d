"""What the user of a command line tool sees when something is wrong."""

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
