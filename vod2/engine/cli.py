"""How a command line tool ends."""

import sys
from collections.abc import Callable

from vod2.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Call `main`. A UserError becomes one line on stderr and exit code 2, Ctrl-C the customary exit code 130.

    All other exceptions are bugs and keep their traceback.
    """
    try:
        main()
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
