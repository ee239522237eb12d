"""The one `PathManager` through which paths and URLs are opened."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase

__all__ = ["PathManager"]

_ZOO = "detectron2://"
_ZOO_ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"
_REMEDY = "set MODEL.WEIGHTS to a local file, or to '' to go without"


class _DownloadHandler(HTTPURLHandler):
    """http(s) and ftp URLs, downloaded into iopath's cache; a failure says which URL and what to do."""

    def _get_local_path(self, path: str, **kwargs) -> str:
        try:
            return super()._get_local_path(path, **kwargs)
        # urllib, sockets and iopath's locks raise unrelated types
        except Exception as error:
            message = f"{path}: the download failed ({error}). Download it by other means, then {_REMEDY}."
            raise OSError(message) from error


class _ZooHandler(PathHandler):
    """detectron2:// names the files of Detectron2's model zoo."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_ZOO]

    def _get_local_path(self, path: str, **kwargs) -> str:
        return PathManager.get_local_path(_ZOO_ADDRESS + path.removeprefix(_ZOO), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs):
        return PathManager.open(self._get_local_path(path), mode, **kwargs)


PathManager = PathManagerBase()
PathManager.register_handler(_DownloadHandler())
PathManager.register_handler(_ZooHandler())
