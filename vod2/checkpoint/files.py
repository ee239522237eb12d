"""What a checkpoint of a training is on the disk, and how it is found whole again.

NAME.safetensors         the weights, which MODEL.WEIGHTS takes
NAME.state.safetensors   tensors of the optimizer and of whatever else has a state
NAME.checkpoint.json     the manifest: all other state, and size and SHA-256 of the two files

The manifest is written last, so a checkpoint without one is not complete, and one whose files are not those of its
manifest is damaged. `last_checkpoint` names the weights of the newest, as in Detectron2. Checkpoints of one .pth file,
which Detectron2 writes, are read, too.
"""

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vod2.atomic import replacing, replacing_all
from vod2.bounded import load_json, require_unpacked
from vod2.checkpoint.packing import pack, storable, unpack
from vod2.errors import UserError

_LOGGER = logging.getLogger("vod2.checkpoint")

_FORMAT = "vod2 checkpoint, version 1"
_DIGEST = "vod2.sha256"
_CLASSES = "vod2.classes"  # JSON list of the names by label
_LAST = "last_checkpoint"
_WEIGHTS, _STATE, _MANIFEST = ".safetensors", ".state.safetensors", ".checkpoint.json"


class DamagedError(UserError):
    """A checkpoint, or a file of weights, that is not as it was written."""


@dataclass(frozen=True)
class WholeCheckpoint:
    """A checkpoint that has been compared with its manifest.

    Attributes:
        weights: the file of the weights, or the .pth file that is all of it.
        faults: why others, which would have come first, were not taken: a sentence each.
    """

    weights: Path
    faults: tuple[str, ...] = ()


def write_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Write a .safetensors file, atomically, with a SHA-256 over its tensors that `read_weights` compares.

    Args:
        metadata: further strings in the file's header.
        classes: names by label, which `stored_classes` reads.
    """
    with replacing(path) as temporary:
        _write_tensors(temporary, tensors, {**(metadata or {}), **_classes_metadata(classes)})


def _classes_metadata(classes: Sequence[str] | None) -> dict[str, str]:
    return {} if classes is None else {_CLASSES: json.dumps(list(classes))}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    stored = storable(tensors)
    save_file(stored, path, {**metadata, _DIGEST: digest(stored)})


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """{name: tensor} of a .safetensors file.

    Raises:
        DamagedError: it cannot be read, or its tensors are not those that were written. A file of other software has no
            digest, and is taken as it is.
    """
    try:
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get(_DIGEST)
        tensors = load_file(path)
        is_whole = expected is None or digest(tensors) == expected
    except MemoryError:
        raise
    except Exception as error:  # a dtype unknown to PyTorch raises another exception in each version
        raise DamagedError(f"{path} cannot be read ({error}): it is cut off or no safetensors file") from error
    if not is_whole:
        raise DamagedError(f"{path} is damaged: its tensors are not those that were written; copy it again")
    return tensors


def stored_classes(path: str | Path) -> list[str] | None:
    """The names of the classes by label that weights bring from their training; None where they bring none.

    Raises:
        DamagedError: a .safetensors file cannot be read, or its names are no list of names.
    """
    path = Path(path)
    if path.suffix != _WEIGHTS:
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_CLASSES)
        classes = None if text is None else load_json(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read ({error}): it is cut off or no safetensors file") from error
    if classes is None:  # of a version that had them in the manifest alone
        manifest = read_manifest(path)
        classes = None if manifest is None else manifest["about"].get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise DamagedError(f"{path} has {classes!r:.80} as the names of its classes, expected a list of names")
    return classes


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and numbers, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write_checkpoint(
    folder: Path, name: str, weights: Mapping[str, Tensor], state: Mapping[str, Any], about: Mapping[str, Any]
) -> Path:
    """Write a checkpoint and name it as the last; a kill at any moment leaves the one before it.

    An earlier one of the same name is replaced when all of the new one is on the disk; a kill between the three renames
    costs that earlier one.

    Args:
        weights: the model's state dict.
        state: nested, of tensors and plain data, see `pack`.
        about: what a later run wants to know, as JSON.

    Returns:
        The file of the weights.
    """
    packed, tensors = pack(state)
    # In the weights, too, which are copied without their manifest.
    metadata = _classes_metadata(about.get("classes"))
    names = [name + _WEIGHTS, name + _STATE, name + _MANIFEST]
    # Together, so that a disk that is full leaves an earlier checkpoint of this name whole. The manifest is the last.
    with replacing_all([folder / file for file in names]) as temporaries:
        _write_tensors(temporaries[0], weights, metadata)
        _write_tensors(temporaries[1], tensors, {})
        manifest: dict[str, Any] = {"format": _FORMAT, "about": about, "state": packed, "files": {}}
        for file, temporary in zip(names[:2], temporaries[:2], strict=True):
            manifest["files"][file] = {"bytes": temporary.stat().st_size, "sha256": _sha256(temporary)}
        manifest["sha256"] = _sha256_of(manifest)
        temporaries[2].write_text(json.dumps(manifest), encoding="utf-8")
    tag_last(folder, names[0])
    return folder / names[0]


def tag_last(folder: Path, file: str) -> None:
    """Name a file as the last checkpoint of a folder."""
    with replacing(folder / _LAST) as temporary:
        temporary.write_text(file, encoding="utf-8")


def read_manifest(weights: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, without comparing its files; None where a file of weights has none.

    Raises:
        DamagedError: it is not as it was written.
    """
    path = _manifest_of(weights)
    if not os.path.isfile(path):
        return None
    try:
        manifest = load_json(path.read_text(encoding="utf-8"))
        expected = manifest.pop("sha256")
        if manifest["format"] != _FORMAT:
            raise DamagedError(f"{path} is of another version ({manifest['format']!r}), expected {_FORMAT!r}")
        is_whole = _sha256_of(manifest) == expected
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged or cut off") from error
    if not is_whole:
        raise DamagedError(f"{path} is damaged: it is not what was written")
    if not _has_all_parts(manifest, _name_of(weights)):
        raise DamagedError(f"{path} is not of vod2: expected about, state, and bytes and sha256 of two files")
    return manifest


def _has_all_parts(manifest: Mapping[str, Any], name: str) -> bool:
    files = manifest.get("files")
    # These names alone: a manifest of somebody else must not lead to other files.
    if not isinstance(files, dict) or set(files) != {name + _WEIGHTS, name + _STATE}:
        return False
    are_told = all(isinstance(file, dict) and {"bytes", "sha256"} <= file.keys() for file in files.values())
    return are_told and isinstance(manifest.get("about"), dict) and isinstance(manifest.get("state"), dict)


def read_checkpoint(weights: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Weights, nested state, and `about` of a checkpoint that `write_checkpoint` wrote, compared with its manifest.

    Raises:
        DamagedError: it is not as it was written.
    """
    manifest = _require_whole(weights)
    try:
        tensors = load_file(weights.with_name(_name_of(weights) + _STATE))
        return load_file(weights), unpack(manifest["state"], tensors), manifest["about"]
    # What the manifest says is as it was written, but need not be what `write_checkpoint` writes.
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{_manifest_of(weights)} has a state that cannot be read ({error!r:.120})") from error


def _require_whole(weights: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file is as it was written."""
    manifest = read_manifest(weights)
    if manifest is None:
        raise DamagedError(f"{weights} has no {_manifest_of(weights).name} beside it: its writing was not finished")
    for file, expected in manifest["files"].items():
        path = weights.with_name(file)
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise DamagedError(f"{path} has {size} bytes, expected {expected['bytes']}: it is cut off")
        if _sha256(path) != expected["sha256"]:
            raise DamagedError(f"{path} is damaged: its SHA-256 is not that of {_manifest_of(weights).name}")
    return manifest


def find_whole(folder: Path) -> WholeCheckpoint | None:
    """The checkpoint to go on with: the one that `last_checkpoint` names, or the newest that is whole.

    None where the folder has no checkpoint at all.

    Raises:
        DamagedError: there are checkpoints, but none of them is whole; names each with its fault.
    """
    faults: list[str] = []
    tagged = _tagged(folder, faults)
    candidates = [path for path in _newest_first(folder) if path != tagged]
    if tagged is not None:
        candidates.insert(0, tagged)
    for path in candidates:
        try:
            if path.suffix == ".pth":
                _require_whole_pth(path)
            else:
                _require_whole(path)
        except DamagedError as error:
            faults.append(str(error))
        else:
            return WholeCheckpoint(path, tuple(faults))
    if not candidates:
        if faults:
            _LOGGER.warning("%s, and there is no checkpoint beside it", "; ".join(faults))
        return None
    listed = "; ".join(faults)
    raise DamagedError(
        f"no checkpoint in {folder} is whole: {listed}. Restore one of them, or give another OUTPUT_DIR to begin anew"
    )


def _tagged(folder: Path, faults: list[str]) -> Path | None:
    """The file that `last_checkpoint` names; what is wrong with it goes to `faults`."""
    tag = folder / _LAST
    try:
        name = tag.read_bytes().decode("utf-8").strip()
    except FileNotFoundError:
        if any(True for _ in _newest_first(folder)):
            faults.append(f"{tag} is missing")
        return None
    except (OSError, UnicodeDecodeError):
        faults.append(f"{tag} cannot be read as the name of a file")
        return None
    # A name, not a path: what is resumed from lies in the folder of the run.
    if not name or not name.isprintable() or Path(name).name != name:
        faults.append(f"{tag} names {name!r}, expected a file in this folder")
        return None
    if not os.path.isfile(folder / name):  # also false for a name that no file can have
        faults.append(f"{tag} names {name}, which does not exist")
        return None
    return folder / name


def _newest_first(folder: Path) -> Iterator[Path]:
    """Weights of all checkpoints of a folder, whole or not, that of the most iterations first."""
    found = [path.with_name(_name_of(path) + _WEIGHTS) for path in folder.glob("*" + _MANIFEST)]
    # Detectron2's own: a name that it gives to checkpoints, for there may be other weights in the folder.
    found += [path for path in folder.glob("model_*.pth") if re.fullmatch(r"model_(\d+|final)\.pth", path.name)]
    yield from sorted(found, key=lambda path: (_iteration(path), path.name), reverse=True)


def _iteration(weights: Path) -> float:
    """As the name has it; the final one is the newest."""
    digits = re.search(r"(\d+)$", _name_of(weights))
    if digits:
        return int(digits[1])
    return float("inf") if _name_of(weights).endswith("final") else -1


def _require_whole_pth(path: Path) -> None:
    """Compare the checksums that the zip archive of a .pth file keeps of its parts."""
    try:
        require_moderate_archive(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises a dozen kinds for a damaged file
        raise DamagedError(f"{path} is damaged or cut off ({error})") from error
    if damaged is not None:
        raise DamagedError(f"{path} is damaged: the checksum of its part {damaged} is not right")


def require_moderate_archive(path: str | Path) -> None:
    """Raises LimitError if a .pth file unpacks to much more than it is; PyTorch itself packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            require_unpacked(sum(part.file_size for part in archive.infolist()), Path(path).stat().st_size)


def delete_checkpoint(weights: Path) -> None:
    """Delete a checkpoint, the manifest first: what is left of it if that is interrupted is no checkpoint."""
    name = _name_of(weights)
    for suffix in (_MANIFEST, _STATE, _WEIGHTS):
        weights.with_name(name + suffix).unlink(missing_ok=True)


def _name_of(path: Path) -> str:
    for suffix in (_MANIFEST, _STATE, _WEIGHTS, ".pth"):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def _manifest_of(weights: Path) -> Path:
    return weights.with_name(_name_of(weights) + _MANIFEST)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _in_parts(file)


def _in_parts(file: Any) -> str:  # Python 3.10 has no file_digest
    sha = hashlib.sha256()
    while part := file.read(2**20):
        sha.update(part)
    return sha.hexdigest()


def _sha256_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
