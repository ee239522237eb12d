"""What the command line tools share."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from vod2.config import add_video_config
from vod2.d2 import CfgNode, get_cfg
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


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """The configuration of a YAML file with `opts` (KEY VALUE KEY VALUE ...) on top; not frozen.

    Raises:
        UserError: no such file, an unknown key, or a value that does not fit its key.
    """
    if not Path(config_file).is_file():
        raise UserError(f"there is no configuration file {config_file!r}: expected a YAML file as in configs/")
    cfg = add_video_config(get_cfg())
    _merge(cfg.merge_from_file, config_file, f"in the configuration file {config_file!r}")
    if len(opts) % 2:
        raise UserError(f"--opts takes pairs of KEY VALUE, got {len(opts)} words: {' '.join(opts)}")
    _merge(cfg.merge_from_list, list(opts), "in --opts")
    return cfg


def _merge(merge: Callable[[str | list[str]], None], source: str | list[str], where: str) -> None:
    try:
        merge(source)
    except (KeyError, ValueError, AssertionError, FileNotFoundError, yaml.YAMLError) as error:
        # KeyError puts its message in quotes; the others do not.
        message = error.args[0] if isinstance(error, KeyError) else error
        raise UserError(f"{where}: {message}") from error
