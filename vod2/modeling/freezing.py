"""Which parts of a detector learn: MODEL.FREEZE."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vod2.errors import UserError

FREEZE = ("", "detector")
"""Values of MODEL.FREEZE: "" for MODEL.BACKBONE.FREEZE_AT alone, "detector" for all but the aggregators."""

_AGGREGATORS = ("pixel_aggregator.", "roi_heads.aggregator.")  # how the names of their parameters begin


def is_of_aggregator(name: str) -> bool:
    """Whether a parameter or module of that name belongs to level 1 or level 2, not to the image detector.

    Example:
        >>> from vod2.modeling.freezing import is_of_aggregator
        >>> is_of_aggregator("roi_heads.aggregator.basic.0.query.weight")
        True
        >>> is_of_aggregator("roi_heads.box_head.fc1.bias")
        False
    """
    return f"{name}.".startswith(_AGGREGATORS)


def freeze_detector(model: nn.Module) -> None:
    """Let no parameter of the image detector learn; the aggregators stay as they are.

    Raises:
        UserError: without aggregators nothing is left to learn.
    """
    if not any(is_of_aggregator(name) for name, _ in model.named_parameters()):
        raise UserError(
            "MODEL.FREEZE is 'detector', and the detector has no aggregator, so that nothing could learn: set "
            "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME or MODEL.VIDEO.PIXEL_AGGREGATOR.NAME, or MODEL.FREEZE ''"
        )
    for name, parameter in model.named_parameters():
        if not is_of_aggregator(name):
            parameter.requires_grad_(False)


def keep_statistics(model: nn.Module) -> None:
    """Set the normalisation of the image detector to evaluation mode: it neither uses nor changes those of a batch."""
    for name, module in model.named_modules():
        # Not its parent: what an RPN or a head computes depends on its own mode.
        if isinstance(module, _BatchNorm | nn.Dropout) and not is_of_aggregator(name):
            module.eval()
