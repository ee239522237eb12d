"""Weights of other code under vod2's names, which are Detectron2's, and in its conventions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tabulate import tabulate
from torch import Tensor

from vod2.checkpoint import normalisation
from vod2.checkpoint.report import size
from vod2.checkpoint.sources import SOURCES, Rule, Source, Target
from vod2.checkpoint.sources.rules import name_in_aggregator
from vod2.errors import UserError


class Move(NamedTuple):
    """One tensor: its public name, its name here, and in words what was done to it ("" for nothing)."""

    source: str
    name: str
    transform: str


@dataclass(frozen=True)
class Conversion:
    """What `convert` returns.

    Attributes:
        state: {vod2's name: tensor}.
        moves: where each of them comes from.
        unused: {public name: shape} of what no rule knows.
        settings: {key: value} of the configuration that these weights need.
        partial: they are a start for training, not a whole detector.
    """

    state: dict[str, Tensor]
    moves: list[Move]
    unused: dict[str, tuple[int, ...]]
    settings: dict[str, object]
    partial: bool

    def table(self) -> str:
        """Where each group of modules comes from, its tensors and numbers, and what was done to it."""
        groups: dict[str, list[Move]] = {}
        for move in self.moves:
            groups.setdefault(_group(move.name), []).append(move)
        rows = []
        for group, moves in groups.items():
            tensors, numbers = size([tuple(self.state[move.name].shape) for move in moves]).split(", ")
            transforms = sorted({move.transform for move in moves} - {""})
            rows.append([_origin([move.source for move in moves]), group, tensors, numbers, "; ".join(transforms)])
        return tabulate(rows, ["theirs", "here", "tensors", "numbers", "transform"], "presto", disable_numparse=True)


def convert(state: Mapping[str, Tensor], source: str, target: Target | None = None) -> Conversion:
    """The weights of a public model under vod2's names; no tensor of `state` is changed.

    Args:
        state: {public name: tensor}; "module." before every name is ignored.
        source: whose names they are, a key of `SOURCES`.
        target: how the model that is to be filled reads its weights; None for the defaults of Detectron2.

    Raises:
        UserError: if the source is unknown, if none of the names is of it, if a tensor has an impossible shape, holds
            whole numbers or values that are not finite, or if two of them are for one.

    Example:
        >>> import torch
        >>> from vod2.checkpoint import convert
        >>> logits = torch.arange(6.0).view(6, 1, 1, 1)  # of 3 aspect ratios, 2 sizes each
        >>> done = convert({"rpn.head.cls_logits.weight": logits}, "mega")
        >>> done.state["proposal_generator.rpn_head.objectness_logits.weight"].flatten().tolist()
        [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
    """
    if source not in SOURCES:
        raise UserError(f"weights of {source!r} cannot be converted: expected one of {', '.join(SOURCES)}")
    conventions, target = SOURCES[source], target or Target()
    state = bare_names(state)
    try:
        # Before the rules, which see one tensor at a time: some of our weights combine two of theirs
        complete = conventions.prepare(state)
        places, unused = _places(conventions, complete, target)
        # Of the original state: an error has to give the name in the file
        _require_numbers({name: state[name] for name in state if name not in unused}, conventions.computed)
        converted = {}
        for ours, (name, rule) in places.items():
            converted[ours] = _transformed(rule, name, complete[name], target)
        # Last, because it pairs variances with weights under our names
        rescaled = normalisation.rescaled_weights(converted, conventions.norm_eps(state), target.norm_eps)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"these weights are not of {source}: {error}") from error
    if not converted:
        raise UserError(
            f"these weights are not of {source}: none of the {len(state)} names is known, for example "
            f"{next(iter(state), '')!r}; choose another source"
        )
    moves = []
    for ours, (name, rule) in places.items():
        if ours in rescaled:
            words = normalisation.WORDS
        else:
            words = "" if rule.transform is None else rule.transform.words
        moves.append(Move(name, ours, words))
    return Conversion(converted | rescaled, moves, unused, conventions.settings(state, target), conventions.partial)


def default_config(state: Mapping[str, Tensor], source: str) -> str:
    """The configuration, below configs/, of the model that the names are of.

    Raises:
        UserError: if that cannot be told.
    """
    try:
        return SOURCES[source].default_config(bare_names(state))
    except ValueError as error:
        raise UserError(f"no configuration is known for these weights ({error}): give one") from error


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the "module." of DistributedDataParallel.

    Raises:
        UserError: if a name is there with it and without.
    """
    bare = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if len(bare) < len(state):
        twice = next(name for name in state if f"module.{name}" in state)
        raise UserError(f"{f'module.{twice}'!r} is one of two tensors for {twice!r}: leave one out")
    return bare


def _places(
    conventions: Source, state: Mapping[str, Tensor], target: Target
) -> tuple[dict[str, tuple[str, Rule]], dict[str, tuple[int, ...]]]:
    """{vod2's name: (public name, its rule)}, and {public name: shape} of those that no rule knows."""
    rules = conventions.rules(state)
    places: dict[str, tuple[str, Rule]] = {}
    unused = {}
    for name, tensor in state.items():
        if re.fullmatch(conventions.computed, name):
            continue
        # The first match counts: rules for single layers precede those for groups
        rule = next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)
        if rule is None:
            unused[name] = tuple(tensor.shape)
            continue
        ours = _our_name(rule, name, target)
        if ours in places:
            raise ValueError(f"{name!r} is one of two tensors for {ours!r}")
        places[ours] = name, rule
    return places, unused


def _require_numbers(state: Mapping[str, Tensor], computed: str) -> None:
    state = {name: tensor for name, tensor in state.items() if not re.fullmatch(computed, name)}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise UserError(f"{name!r} is of {tensor.dtype}: expected floating point, as weights are trained")
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{len(broken)} of {len(state)} tensors hold values that are not finite: "
            f"{', '.join(map(repr, broken[:3]))}{', ...' * (len(broken) > 3)}; expected weights that were saved before "
            "their training diverged"
        )


def _transformed(rule: Rule, name: str, tensor: Tensor, target: Target) -> Tensor:
    if rule.transform is None:
        return tensor
    try:
        return rule.transform.apply(tensor, target)
    except (ValueError, RuntimeError, IndexError, TypeError) as error:  # of a shape that it was not made for
        raise ValueError(f"{name!r} of the shape {tuple(tensor.shape)}: {error}") from error


def _our_name(rule: Rule, name: str, target: Target) -> str:
    match = re.fullmatch(rule.pattern, name)
    assert match is not None  # or the rule would not have been chosen
    ours = match.expand(rule.name)
    # Rules name a bare ResNet; in a model with more on top it is `backbone.bottom_up`
    if target.bottom_up:
        ours = re.sub(r"^backbone\.(?=stem\.|res\d)", "backbone.bottom_up.", ours)
    return name_in_aggregator(ours, target.later_fcs)


def _group(name: str) -> str:
    """The module of a tensor: a stage of the backbone, a layer or a numbered block of the rest."""
    parts = name.split(".")[:-1] or [name]
    if parts[0] == "backbone":
        return ".".join(parts[: 3 if parts[1:2] == ["bottom_up"] else 2])
    return ".".join(parts[: 4 if len(parts) > 3 and parts[3].isdigit() else 3])


def _origin(names: Sequence[str]) -> str:
    """What the names have in common, and how they go on: "a.b.{c,d}"."""
    modules = [name.split(".")[:-1] for name in names]
    common = []
    for parts in zip(*modules, strict=False):  # the first part of all names, then the second
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    following = sorted({module[len(common)] for module in modules if len(module) > len(common)})
    if not following or all(part.isdigit() for part in following):
        return ".".join(common)
    more = ",..." if len(following) > 4 else ""
    return ".".join([*common, f"{{{','.join(following[:4])}{more}}}"])
