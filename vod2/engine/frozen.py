"""What MODEL.FREEZE means for a training: it is told, and what stays as it is must be something."""

import logging

from torch import nn

from vod2.checkpoint import LoadReport
from vod2.errors import UserError
from vod2.modeling.freezing import is_of_aggregator

_LOGGER = logging.getLogger("vod2.engine")


def tell_frozen(model: nn.Module, value: str) -> None:
    """Log what MODEL.FREEZE leaves to learn; nothing where it is ""."""
    if not value:
        return
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total = sum(parameter.numel() for parameter in model.parameters())
    count = sum(parameter.numel() for parameter in learned.values())
    parts = sorted({".".join(name.split(".")[:2]) for name in learned})
    _LOGGER.info(
        "MODEL.FREEZE is %r: %.1f of %.1f million parameters learn (%s); the others, and the statistics of "
        "normalisation among them, stay as MODEL.WEIGHTS has them",
        value,
        count / 1e6,
        total / 1e6,
        ", ".join(parts),
    )


def require_frozen_weights(model: nn.Module, value: str, report: LoadReport | None) -> None:
    """Make sure that nothing that is frozen would keep its initial value.

    Args:
        model: that is to be trained.
        value: of MODEL.FREEZE.
        report: of the weights that it begins with; None if there are none.

    Raises:
        UserError: one would.
    """
    if not value:
        return
    start = f"MODEL.FREEZE is {value!r}, but "
    if report is None:
        raise UserError(
            f"{start}MODEL.WEIGHTS is empty: a detector that stays random detects nothing, give the weights of one"
        )
    # Buffers among them: the statistics and factors of a frozen normalisation.
    missing = [name for name in (*report.new, *report.other_shape) if not is_of_aggregator(name)]
    if not missing:
        return
    total = len(missing) + sum(not is_of_aggregator(name) for name in report.loaded)
    reason = f"{len(missing)} of {total} tensors of the detector are not in {report.path}, {missing[0]!r} first"
    shapes = report.other_shape.get(missing[0])
    if shapes:
        reason += f", whose shape is {shapes[0]} there and {shapes[1]} here"
    raise UserError(
        f"{start}{reason}: they would stay random; give the weights of the whole detector, with its "
        "MODEL.ROI_HEADS.NUM_CLASSES, or train it first with MODEL.FREEZE ''"
    )
