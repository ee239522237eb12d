"""How a command line tool ends, and what several of them ask of their arguments."""

import re
import sys
from collections.abc import Callable
from typing import NoReturn

from torch.multiprocessing.spawn import ProcessRaisedException

from vod2.d2 import DatasetCatalog
from vod2.errors import UserError

# What a worker process adds around the message that it died of: its traceback, and the name of the exception.
_WRAPPED = re.compile(r".*^[\w.]*(?:UserError|VideoError): ", re.DOTALL | re.MULTILINE)


def run(main: Callable[[], None]) -> None:
    """Call `main`. A UserError becomes one line on stderr and exit code 2, Ctrl-C the customary exit code 130.

    All other exceptions are bugs and keep their traceback.
    """
    try:
        main()
    except UserError as error:
        _stop(str(error))
    except ProcessRaisedException as error:
        # torch.multiprocessing passes the traceback as text, so the type of the exception is only in there
        if "UserError: " not in str(error) and "VideoError: " not in str(error):
            raise
        _stop(str(error))
    except KeyboardInterrupt:
        # 130 is 128 + SIGINT, as shells report Ctrl-C
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def require_dataset(name: str) -> None:
    """Raises UserError if no dataset of this name is registered; says which are."""
    if name not in DatasetCatalog.list():
        raise UserError(f"dataset {name!r} is not registered: expected one of {', '.join(DatasetCatalog.list())}")


def _stop(message: str) -> NoReturn:
    print("error:", " ".join(_WRAPPED.sub("", message).split()), file=sys.stderr)
    sys.exit(2)
