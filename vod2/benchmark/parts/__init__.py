"""Single parts beside the plain way of doing the same."""

import argparse
from collections.abc import Callable

import torch
from tabulate import tabulate

from vod2.benchmark.comparing import HEADERS, Comparison, measure
from vod2.benchmark.parts.attention import patch_attention, pixel_attention
from vod2.benchmark.parts.evaluating import evaluation, evaluation_of_vid
from vod2.benchmark.parts.operators import deformable_convolution, geometry_bias, learned_sampling, roi_pooling
from vod2.benchmark.parts.streams import distillation, keyframe_interval, long_stream, long_streams
from vod2.errors import UserError

BENCHMARKS: dict[str, Callable[[torch.device], list[Comparison]]] = {
    function.__name__: function
    for function in (
        geometry_bias,
        patch_attention,
        pixel_attention,
        learned_sampling,
        roi_pooling,
        deformable_convolution,
        distillation,
        keyframe_interval,
        evaluation,
        evaluation_of_vid,
        long_stream,
        long_streams,
    )
}
"""In the order in which they run. Each takes the device, and is listed with the first line of its docstring."""


def run(args: argparse.Namespace) -> None:
    """Measure and print the parts, or list them."""
    unknown = sorted(set(args.names) - set(BENCHMARKS))
    if unknown:
        raise UserError(f"no benchmark is named {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    if args.list:
        for name, function in BENCHMARKS.items():
            print(f"{name}: {(function.__doc__ or '').splitlines()[0]}")
        return
    torch.set_num_threads(args.threads)
    for name in args.names or BENCHMARKS:
        rows = [measure(row, args.device, args.repeats) for row in BENCHMARKS[name](args.device)]
        print(f"{name} on {args.device}, threads: {args.threads}\n")
        print(tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True), end="\n\n")
