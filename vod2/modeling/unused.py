"""A gradient for every parameter in every training step, whatever the clips of this process are."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def with_zero_gradients(losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """The same losses, through which the parameters that none of them depends on get a gradient of 0.

    What a clip uses depends on what it is: a still image has no support to align. DistributedDataParallel waits for the
    gradient of every parameter, so that a process without it would hang; and a step would depend on how its clips are
    spread over processes, as an optimizer skips parameters without a gradient, with their momentum and weight decay.

    Args:
        losses: {name: scalar}.
        parameters: those that do not require a gradient are left alone.

    Returns:
        The losses with their values.

    Example:
        >>> import torch
        >>> from vod2.modeling.unused import with_zero_gradients
        >>> used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        >>> losses = with_zero_gradients({"loss": used.sum()}, [used, unused])
        >>> losses["loss"].backward()
        >>> used.grad, unused.grad
        (tensor([1., 1.]), tensor([0., 0.]))
    """
    losses = dict(losses)
    if not losses or not torch.is_grad_enabled():
        return losses
    reached = parameters_of(losses.values())
    unused = [parameter for parameter in parameters if parameter.requires_grad and parameter not in reached]
    first = next(iter(losses))
    for parameter in unused:
        # The sum of no elements: its value is 0 and its gradient is 0 everywhere, also of a weight that is not finite.
        losses[first] = losses[first] + torch.atleast_1d(parameter)[:0].sum().to(losses[first])
    return losses


def parameters_of(values: Iterable[Tensor]) -> set[Tensor]:
    """The leaves that the values depend on, as their graphs of gradients tell."""
    # A loop, not a recursion: the graph of a deep backbone goes beyond Python's limit.
    waiting = [value.grad_fn for value in values if value.grad_fn is not None]
    seen, leaves = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):  # AccumulateGrad: where a graph ends
            leaves.add(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return leaves
