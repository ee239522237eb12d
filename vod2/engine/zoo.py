"""Trained weights by name: those that come with vod2, and those of published models.

The latter are downloaded once, checked, converted and kept.

The cache is iopath's: $FVCORE_CACHE, or ~/.torch/iopath_cache; below it, vod2/zoo.
"""

import logging
import os
from http.client import HTTPException
from pathlib import Path

from iopath.common.download import download
from iopath.common.file_io import get_cache_dir
from safetensors import SafetensorError, safe_open

from vod2.atomic import replacing
from vod2.checkpoint.public_file import read_public, sha256
from vod2.checkpoint.sources.published import PUBLISHED, PublishedModel
from vod2.engine.conversion import convert_file
from vod2.errors import UserError
from vod2.locking import locked_file
from vod2.package_files import command_line, config_names, shipped_weights, similar_config

_LOGGER = logging.getLogger("vod2.zoo")
_PATIENCE = 3600.0  # seconds: several processes may begin at once, and one of them downloads


def stem_of(name: str) -> str:
    """A name without "configs/" and ".yaml".

    Example:
        >>> stem_of("configs/quick/RDN.yaml"), stem_of("RDN_R101")
        ('quick/RDN', 'RDN_R101')
    """
    return name.removeprefix("configs/").removesuffix(".yaml")


def find_published(name: str) -> PublishedModel | None:
    """The published model of a name, an alias or a configuration; None where there is none."""
    stem = stem_of(name)
    return next((model for model in PUBLISHED if stem in (model.name, model.alias)), None)


def require_published(name: str) -> PublishedModel:
    """The published model of a name.

    Raises:
        UserError: there is none; says what is like it.
    """
    model = find_published(name)
    if model is not None:
        return model
    stem = stem_of(name)
    alike = [model.name for model in PUBLISHED if model.name.rpartition("/")[2] == stem.rpartition("/")[2]]
    listing = f"{command_line('zoo')} has the list"
    if f"{stem}.yaml" in config_names():
        remedy = f"{alike[0]} is that model as its public code has it" if alike else "give the weights of a training"
        raise UserError(f"nobody has published weights for the configuration {stem!r}: {remedy}; {listing}")
    near = alike[0] if alike else similar_config(f"{stem}.yaml")
    remedy = f"did you mean {stem_of(near)!r}? " if near else ""
    raise UserError(f"there is no model {name!r}: {remedy}{listing}")


def cache_folder() -> Path:
    """Where downloaded and converted weights are."""
    return Path(get_cache_dir()) / "vod2" / "zoo"


def cached_weights(model: PublishedModel) -> Path | None:
    """The converted weights, where they are there already."""
    path = cache_folder() / f"{model.alias}.safetensors"
    return path if path.is_file() else None


def trained_weights(name: str) -> str:
    """The path of the trained weights of a model: those that come with vod2, or see `published_weights`.

    Raises:
        UserError: there are none, or see `published_weights`.
    """
    shipped = shipped_weights().get(stem_of(name))
    return str(shipped) if shipped else published_weights(name)


def published_weights(name: str) -> str:
    """The path of the published weights of a model, for this project; downloaded and converted where they are not yet.

    The file's SHA-256 must be the one that the publisher states. Where none is stated, that of the first file that
    could be converted is kept beside it, and another file is refused from then on.

    Args:
        name: of a published model, or its alias.

    Raises:
        UserError: there is no such model; it could not be downloaded; or the file is not the right one.
    """
    model = require_published(name)
    folder = cache_folder()
    with locked_file(folder / f"{model.alias}.lock", "downloads", _PATIENCE, "FVCORE_CACHE"):
        done = cached_weights(model)
        if done is not None and _is_of(done, folder, model):
            return str(done)
        source = _downloaded(model, folder)
        digest = _checked(model, source)
        output = folder / f"{model.alias}.safetensors"
        try:
            state = read_public(str(source))
            convert_file(state, model.source, str(source), str(output), model.config)
        except UserError as error:
            raise UserError(
                f"{source} is not the file of {model.name} ({error}): remove it to download it again, or put the one "
                f"there that {model.page} has"
            ) from error
        # Of a file that has proved to be the right one: a wrong first download is not what the next is compared to.
        with replacing(_record_of(folder, model)) as temporary:
            temporary.write_text(f"{digest}\n", encoding="utf-8")
    _LOGGER.info("converted %s: %s is no longer needed", output, source)
    return str(output)


def _record_of(folder: Path, model: PublishedModel) -> Path:
    """The file with the SHA-256 of the first download."""
    return folder / f"{model.file}.sha256"


def _recorded(folder: Path, model: PublishedModel) -> str:
    """The digits that the SHA-256 of the file begins with: the publisher's, or those of the first download, or ""."""
    if model.sha256:
        return model.sha256
    record = _record_of(folder, model)
    return record.read_text(encoding="utf-8").strip() if record.is_file() else ""


def _is_of(weights: Path, folder: Path, model: PublishedModel) -> bool:
    """Whether converted weights are whole, and of the file that they should be of."""
    try:
        with safe_open(weights, "pt") as file:
            of = (file.metadata() or {}).get("vod2.source_sha256", "")
    except (SafetensorError, OSError):
        return False
    return bool(of) and of.startswith(_recorded(folder, model))


def _downloaded(model: PublishedModel, folder: Path) -> Path:
    path = folder / model.file
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        download(model.url, str(folder), filename=model.file)
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(
            f"{model.name}: {model.url} could not be downloaded ({error}): get the file from {model.page} "
            f"and put it at {path}"
        ) from error
    if _is_page(path):
        os.unlink(path)
        raise UserError(
            f"{model.name}: {model.url} returned a web page instead of the file (too many downloads, or it has moved): "
            f"get the file from {model.page} and put it at {path}"
        )
    return path


def _is_page(path: Path) -> bool:
    """Whether a download is a page that says why there is no file."""
    with open(path, "rb") as file:
        return file.read(256).lstrip().startswith(b"<")


def _checked(model: PublishedModel, path: Path) -> str:
    """The SHA-256 of a file in the cache.

    Raises:
        UserError: it is another file than it should be.
    """
    digest, expected = sha256(str(path)), _recorded(path.parent, model)
    if not digest.startswith(expected):
        whose = "the publisher states" if model.sha256 else "the first download had"
        remedy = "remove it to download it again"
        if not model.sha256:
            remedy += f", and {_record_of(path.parent, model)} if the publisher has replaced the file"
        raise UserError(f"{path} has the SHA-256 {digest}, {whose} {expected}: {remedy}")
    return digest
