"""LSTS sections 3.3 and 3.4, equations 7 and 8, frame by frame as the paper tells them.

A frame is (map of conv4, low-level map): a keyframe uses the first, a frame between two keyframes the second.
"""

from collections.abc import Callable

from torch import Tensor


def weigh(quality: Callable[[Tensor], Tensor] | None, first: Tensor, second: Tensor) -> Tensor:
    """Equation 7 and 8: W_1 + W_2 = 1 at every cell, from the exponentials of two scores; .5 without a quality net."""
    if quality is None:
        return 0.5 * first + 0.5 * second
    one, two = quality(first).exp(), quality(second).exp()  # (1, 1, H, W)
    return one / (one + two) * first + two / (one + two) * second


def run_video(
    frames: list[tuple[Tensor, Tensor]],
    interval: int,
    align: Callable[[Tensor, Tensor], Tensor],
    update: Callable[[Tensor, Tensor], Tensor],
    dense: Callable[[Tensor, Tensor], Tensor],
    transform: Callable[[Tensor], Tensor],
    dense_align: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """The task feature of every frame of a video, from its beginning.

    `align` brings the memory to a keyframe, and to the frames between where `dense_align` is None.
    """
    tasks, memory = [], None
    for t, (high, low) in enumerate(frames):
        if t == 0:
            memory = high
            tasks.append(high)
        elif t % interval == 0:
            aligned = align(memory, high)
            memory = update(high, aligned)
            tasks.append(update(high, memory))
        else:
            own = transform(low)
            tasks.append(dense((dense_align or align)(memory, own), own))
    return tasks
