"""How a command line tool ends, and what several of them ask of their arguments."""

import errno
import os
import re
import select
import sys
from collections.abc import Callable
from typing import NoReturn

from torch.multiprocessing.spawn import ProcessRaisedException

from vod2.atomic import full_disk_errno, full_disk_file
from vod2.data.datasets.common import require_registered
from vod2.engine.allocator import keep_freed_memory
from vod2.engine.registration import register_files
from vod2.errors import UserError

# What a worker process adds around the message that it died of: its traceback, and the name of the exception.
_MISTAKES = ("UserError: ", "VideoError: ")
_WRAPPED = re.compile(r".*^[\w.]*(?:UserError|VideoError): ", re.DOTALL | re.MULTILINE)


def run(main: Callable[[], None]) -> None:
    """Call `main`. A UserError becomes one line on stderr and exit code 2, Ctrl-C the customary exit code 130.

    Who reads the output may stop before its end, as `head` does: then it ends in silence, with exit code 141.
    A full disk is not the program's fault either: one line, and exit code 3. Files are replaced when they are whole, so
    what was there before still is. All other exceptions are bugs and keep their traceback.
    """
    try:
        keep_freed_memory()
        register_files()
        main()
        sys.stdout.flush()  # not only at the interpreter's end, where an error is past catching
    except BrokenPipeError:
        if not _reader_has_gone():  # a pipe between processes
            raise
        # What is still to be written goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 + SIGPIPE
    except UserError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        # 130 is 128 + SIGINT, as shells report Ctrl-C
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # torch.multiprocessing passes the traceback as text, so the type of the exception is only in there
        if isinstance(error, ProcessRaisedException) and any(name in str(error) for name in _MISTAKES):
            _stop(str(error))
        if (number := full_disk_errno(error)) is None:
            raise
        file = full_disk_file(error)
        remedy = "free some space, and run the same command again"
        if number == errno.EFBIG:
            remedy = "the file system, or ulimit -f, allows no larger file: write elsewhere"
        print(f"error: {os.strerror(number)}{f' ({file})' if file else ''}: {remedy}", file=sys.stderr)
        sys.exit(3)


def _reader_has_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # a system without it, or no file
        return False


def require_dataset(name: str) -> None:
    """Raises UserError if no dataset of this name is registered; says which are."""
    require_registered(name)


def _stop(message: str) -> NoReturn:
    print("error:", " ".join(_WRAPPED.sub("", message).split()), file=sys.stderr)
    sys.exit(2)
