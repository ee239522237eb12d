"""From a configuration with weights to a folder of files for other runtimes."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind

from vod2.atomic import replacing_all
from vod2.d2 import CfgNode
from vod2.engine import VideoPredictor
from vod2.errors import UserError
from vod2.export.agreement import Agreement, agreement
from vod2.export.contract import require_contract
from vod2.export.graphs import Part, keyframe_interval, make_parts, two_stage
from vod2.export.manifest import CONFIG, MANIFEST, Manifest, describe, with_settings
from vod2.export.session import OnnxGraph, require_packages
from vod2.ops import portable

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
"""{format: suffix of its files}."""
OPSET = 20
"""The version of ONNX's operators that the files are written in."""
_MAX_BYTES = 2**31 - 2**24  # an ONNX file is one message of at most 2 GiB


class Exported(NamedTuple):
    """What `export_detector` has written.

    Attributes:
        manifest: the content of `export.json`.
        agreement: {part: how far the file is from PyTorch}.
    """

    manifest: Manifest
    agreement: dict[str, Agreement]


def export_detector(
    cfg: CfgNode,
    folder: str | os.PathLike,
    size: tuple[int, int],
    *,
    lookahead: int | None = None,
    form: str = "onnx",
    optimise: bool = True,
) -> Exported:
    """Write the parts of a detector, `export.json` and `config.yaml` to a folder, which is made.

    Files of the same names are replaced, when all are whole.

    Args:
        cfg: with MODEL.WEIGHTS.
        size: (height, width) of the images after resizing.
        lookahead: see `VideoPredictor`.
        form: one of `FORMATS`.
        optimise: whether constants are folded and operators joined in ONNX files; without, they are written sooner, and
            left to whoever loads them.

    Raises:
        UserError: the detector cannot be exported, see `make_parts` and `require_contract`; a package is missing; the
            weights do not fit; a file does not give what PyTorch gives (`vod2.export.agreement`), and then nothing is
            put into the folder.
    """
    if form not in FORMATS:
        raise UserError(f"format {form!r}: expected one of {', '.join(FORMATS)}")
    if form == "onnx":
        require_packages("onnx", "onnxscript", "onnxruntime")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"  # graphs belong to no device
    predictor = VideoPredictor(cfg, lookahead=lookahead)
    model = two_stage(predictor.model)
    parts = make_parts(model, predictor.schedule, size)
    require_contract(cfg, model, predictor.schedule, size)
    manifest = _manifest(cfg, predictor, parts, size, FORMATS[form])
    agreements: dict[str, Agreement] = {}
    files = [Path(folder) / spec.file for spec in manifest.parts.values()]
    # The manifest comes last: who finds it finds the files that it names.
    with (
        _removing_empty(Path(folder)),
        replacing_all([*files, Path(folder) / CONFIG, Path(folder) / MANIFEST]) as temporaries,
    ):
        for part, file in zip(parts, temporaries, strict=False):
            agreements[part.name] = write_part(part, file, form, optimise)
            _require_agreement(files[len(agreements) - 1], agreements[part.name])
        temporaries[-2].write_text(cfg.dump(), encoding="utf-8")
        temporaries[-1].write_text(manifest.text(), encoding="utf-8")
    return Exported(manifest, agreements)


def _manifest(
    cfg: CfgNode, predictor: VideoPredictor, parts: Sequence[Part], size: tuple[int, int], suffix: str
) -> Manifest:
    manifest = describe(
        parts,
        size,
        lookahead=predictor.lookahead,
        interval=keyframe_interval(two_stage(predictor.model)),
        class_names=predictor.class_names,
        suffix=suffix,
    )
    return with_settings(manifest, cfg, predictor.schedule)


@contextlib.contextmanager
def _removing_empty(folder: Path) -> Iterator[None]:
    """Where the block raises, a folder that it has made is not left behind."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something else is in it, or it was never made
            if is_new:
                folder.rmdir()
        raise


def _require_agreement(file: Path, found: Agreement) -> None:
    if found.faults:
        raise UserError(
            f"{file.name} does not give what PyTorch gives, and nothing was put into {file.parent}: "
            f"{'; '.join(found.faults)}. Try --format torch, or other versions of onnx, onnxscript and onnxruntime"
        )


def traced(part: Part) -> ExportedProgram:
    """A part as a graph of PyTorch, with the weights that it reads and no others.

    Raises:
        UserError: it does something that depends on values.
    """
    with torch.no_grad(), portable(), _quiet():
        try:
            program = torch.export.export(part.module, tuple(part.inputs.values()), strict=False)
        except Exception as error:
            raise UserError(
                f"the part {part.name!r} of this detector cannot be traced ({_first_line(error)}): what a module "
                "does must not depend on values"
            ) from error
    return _without_unused(program)


def _without_unused(program: ExportedProgram) -> ExportedProgram:
    """The same graph without the weights that it does not read: a part is traced with the whole detector."""
    graph, signature = program.graph_module.graph, program.graph_signature
    unread = {node.name for node in graph.nodes if node.op == "placeholder" and not node.users}
    kept, dropped = [], set()
    for spec in signature.input_specs:
        is_weight = spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
        if is_weight and spec.arg.name in unread:
            dropped.add(spec.arg.name)
        else:
            kept.append(spec)
    for node in list(graph.nodes):
        if node.op == "placeholder" and node.name in dropped:
            graph.erase_node(node)
    program.graph_module.recompile()
    read = {spec.target for spec in kept if spec.kind != InputKind.USER_INPUT}
    return ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(kept, signature.output_specs),
        state_dict={name: value for name, value in program.state_dict.items() if name in read},
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants={name: value for name, value in program.constants.items() if name in read},
        verifiers=program.verifiers,
    )


def write_part(part: Part, file: Path, form: str, optimise: bool) -> Agreement:
    """Write the file of a part, and run it on the examples. Arguments as in `export_detector`."""
    program = traced(part)
    expected = dict(zip(part.outputs, part.run(), strict=True))
    if form == "torch":
        torch.export.save(program, file)
        with torch.no_grad():
            found = torch.export.load(file).module()(*part.inputs.values())
        return agreement(expected, dict(zip(part.outputs, found, strict=True)))
    _require_small(part, program)
    with torch.no_grad(), _quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            optimize=optimise,
            verbose=False,
        )
    assert converted is not None  # without a file it returns the program
    converted.save(os.fspath(file), external_data=False)
    return agreement(expected, OnnxGraph(file)(part.inputs))


def _require_small(part: Part, program: ExportedProgram) -> None:
    tensors: Sequence[Any] = [*program.state_dict.values(), *program.constants.values()]
    count = sum(value.numel() * value.element_size() for value in tensors if isinstance(value, Tensor))
    if count > _MAX_BYTES:
        raise UserError(
            f"the part {part.name!r} has {count / 2**30:.1f} GiB of weights, an ONNX file holds 2 GiB: give --format "
            "torch, or a smaller model"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.__trace", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
