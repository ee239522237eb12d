"""Files that come with vod2, and how its messages name its commands: in a checkout, and where it is installed.

In a checkout configs/, projects/ and tools/ lie beside the package. An installed package has the first two inside, and
the command `vod2` in place of tools/.
"""

import difflib
import os
import re
import sys
from pathlib import Path, PurePath

_PACKAGE = Path(__file__).resolve().parent

CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""The folder of the configurations."""

CHECKPOINTS = _PACKAGE / "checkpoints"
"""The folder of the trained weights that come with vod2; its README.md says how each was made."""

TOOLS = {
    "detect": "demo",
    "serve": "serve",
    "train": "train_net",
    "eval": "train_net",
    "link": "link_boxes",
    "check": "check_dataset",
    "compare": "compare",
    "report": "make_report",
    "archive": "detect_archive",
    "convert": "convert_checkpoint",
    "zoo": "model_zoo",
    "export": "export_model",
    "analyze": "analyze_model",
    "benchmark": "benchmark",
    "show": "show_config",
    "synthetic": "make_synthetic",
    "demo": "run_demo",
}
"""{command of `vod2`: the file in tools/ that does the same, without .py}."""


def find_config(file: str) -> str:
    """The path of a configuration: `file` itself where it exists, else the one of that name that comes with vod2.

    Names of the latter are relative to the folder configs or to the one above it. A file of the user's own is
    preferred; where there is neither, `file` is returned as it is.

    Example:
        >>> find_config("quick/RDN.yaml").endswith("configs/quick/RDN.yaml"), find_config("mine.yaml")
        (True, 'mine.yaml')
    """
    name = PurePath(file)
    if os.path.exists(file) or name.is_absolute() or ".." in name.parts:
        return file
    parts = name.parts[1:] if name.parts[:1] == ("configs",) else name.parts
    packaged = CONFIGS.joinpath(*parts)
    return str(packaged) if parts and packaged.is_file() else file


def config_names() -> list[str]:
    """Names of all configurations that come with vod2, relative to the folder configs, sorted.

    Example:
        >>> "published/RDN_R101.yaml" in config_names()
        True
    """
    return sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


def shipped_weights() -> dict[str, Path]:
    """{name of a configuration without .yaml: the trained weights of its model that come with vod2}, sorted.

    Example:
        >>> all(f"{name}.yaml" in config_names() for name in shipped_weights())
        True
    """
    files = sorted(CHECKPOINTS.rglob("*.safetensors"))
    return {file.relative_to(CHECKPOINTS).with_suffix("").as_posix(): file for file in files}


def similar_config(file: str) -> str | None:
    """The name of the packaged configuration that is most like a file that does not exist, None if none is alike.

    Example:
        >>> similar_config("configs/quick/RND.yaml")
        'quick/RDN.yaml'
    """
    name = PurePath(file).as_posix().removeprefix("configs/")
    return next(iter(difflib.get_close_matches(name, config_names(), n=1, cutoff=0.8)), None)


def command_line(name: str) -> str:
    """How a command of `vod2` is called: by this name, or as a file of tools/ in a checkout.

    A process that was itself started as `vod2` names commands in that way in a checkout, too.

    Example:
        >>> command_line("check") in ("vod2 check", "python tools/check_dataset.py")
        True
    """
    tool = f"{TOOLS[name]}.py"
    is_command = re.fullmatch(r"vod2(\.exe)?( .*)?", os.path.basename(sys.argv[0])) is not None
    if is_command or not (_PACKAGE.parent / "tools" / tool).is_file():
        return f"vod2 {name}"
    return f"python tools/{tool}{' --eval-only' if name == 'eval' else ''}"
