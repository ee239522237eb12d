"""Keys of a configuration that some weights need."""

from collections.abc import Mapping

from vod2.d2 import CfgNode


def differing(cfg: CfgNode, settings: Mapping[str, object]) -> list[str]:
    """`KEY VALUE ...` of those settings that `cfg` has otherwise, to be written on a command line."""
    words = []
    for key, value in settings.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        found = list(node) if isinstance(node, (list, tuple)) else node
        wanted = list(value) if isinstance(value, (list, tuple)) else value
        if found != wanted:
            words += [key, str(wanted)]
    return words
