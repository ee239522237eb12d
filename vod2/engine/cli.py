"""How a command line tool ends, and what several of them ask of their arguments."""

import errno
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from torch.multiprocessing.spawn import ProcessRaisedException

from vod2.data.datasets.common import require_registered
from vod2.engine.registration import register_files
from vod2.errors import UserError

# What a worker process adds around the message that it died of: its traceback, and the name of the exception.
_WRAPPED = re.compile(r".*^[\w.]*(?:UserError|VideoError): ", re.DOTALL | re.MULTILINE)

_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, the user's share of it


def run(main: Callable[[], None]) -> None:
    """Call `main`. A UserError becomes one line on stderr and exit code 2, Ctrl-C the customary exit code 130.

    A full disk is not the program's fault either: one line, and exit code 3. Files are replaced when they are whole, so
    what was there before still is. All other exceptions are bugs and keep their traceback.
    """
    try:
        register_files()
        main()
    except UserError as error:
        _stop(str(error))
    except ProcessRaisedException as error:
        # torch.multiprocessing passes the traceback as text, so the type of the exception is only in there
        if "UserError: " not in str(error) and "VideoError: " not in str(error):
            raise
        _stop(str(error))
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror}{where}: free some space, and start again with the same words", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        # 130 is 128 + SIGINT, as shells report Ctrl-C
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def require_dataset(name: str) -> None:
    """Raises UserError if no dataset of this name is registered; says which are."""
    require_registered(name)


def _stop(message: str) -> NoReturn:
    print("error:", " ".join(_WRAPPED.sub("", message).split()), file=sys.stderr)
    sys.exit(2)
