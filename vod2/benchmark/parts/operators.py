"""The operators of vod2.ops against their plain versions."""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor

from vod2.benchmark.comparing import Comparison, assert_same, random_boxes, require_kernels
from vod2.ops import (
    deform_conv2d,
    relation_geometry_bias,
    relation_geometry_bias_reference,
    roi_align,
    st_sampling,
    st_sampling_reference,
)


def geometry_bias(device: torch.device) -> list[Comparison]:
    """The bias of 300 key boxes against 2775 support boxes, 16 heads: compiled op against whole embedding."""
    require_kernels(device)
    generator = torch.Generator().manual_seed(0)
    query, key = (random_boxes(count, generator).to(device) for count in (300, 2775))
    weight = (torch.randn(16, 64, generator=generator) / 8).to(device).requires_grad_()
    bias = torch.ones(16, device=device, requires_grad=True)
    grad = torch.randn(16, 300, 2775, generator=generator).to(device)

    def forward(function: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            function(query, key, weight, bias)

    def forward_backward(function: Callable[..., Tensor]) -> None:
        torch.autograd.grad(function(query, key, weight, bias), (weight, bias), grad)

    return [
        Comparison(
            step.__name__.replace("_", " + "),
            partial(step, relation_geometry_bias_reference),
            partial(step, relation_geometry_bias),
        )
        for step in (forward, forward_backward)
    ]


def learned_sampling(device: torch.device) -> list[Comparison]:
    """LSTS at 38 x 63 cells, 1024 channels, embeddings of 256: whole offsets, each once, against grid_sample."""
    generator = torch.Generator().manual_seed(0)
    value, key, query = (torch.randn(1, size, 38, 63, generator=generator).to(device) for size in (1024, 256, 256))
    # Divided by the root of 256, so that the similarities are of the size of one.
    maps, grad = (value, key / 16, query), torch.randn(value.shape, generator=generator).to(device)
    ops: Any = importlib.import_module("vod2.ops.st_sampling")  # the function has the same name

    def without_kernels(value: Tensor, key: Tensor, query: Tensor, locations: Tensor) -> Tensor:
        # Without kernels the op runs its Python version.
        kernels, ops.COMPILED = ops.COMPILED, ()
        try:
            return st_sampling(value, key, query, locations)
        finally:
            ops.COMPILED = kernels

    def forward(function: Callable[..., Tensor], locations: Tensor) -> Tensor:
        with torch.no_grad():
            return function(*maps, locations)

    def forward_backward(function: Callable[..., Tensor], locations: Tensor) -> Sequence[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in (*maps, locations)]
        return torch.autograd.grad(function(*leaves), leaves, grad)

    rows = []
    for count in (40, 81):
        locations = torch.randn(count, 2, generator=generator).to(device)
        assert_same(forward(st_sampling_reference, locations), forward(st_sampling, locations))
        for step in (forward, forward_backward):
            for name, ours in (("op", st_sampling), ("Python", without_kernels)):
                rows.append(
                    Comparison(
                        f"{count} locations, {step.__name__.replace('_', ' + ')}, {name}",
                        # The reference is timed once for both rows.
                        partial(step, st_sampling_reference, locations) if name == "op" else None,
                        partial(step, ours, locations),
                    )
                )
    return rows


def roi_pooling(device: torch.device) -> list[Comparison]:
    """RoIAlign, 7 x 7 bins of 2 x 2 samples at stride 16: our kernels against torchvision's operator."""
    require_kernels(device)
    generator = torch.Generator().manual_seed(0)
    return [
        *_pooling("training, 8 x 64 RoIs of 128 x 192", (8, 512, 8, 12), 64, generator, device),
        *_pooling("600 x 1000, 300 RoIs", (1, 2048, 38, 63), 300, generator, device),
    ]


def _pooling(
    name: str, shape: tuple[int, int, int, int], count: int, generator: torch.Generator, device: torch.device
) -> list[Comparison]:
    """Forward and backward of `count` RoIs in each map; `shape`: maps, channels, height, width."""
    options = ((7, 7), 1 / 16, 2, True)
    maps, _, height, width = shape
    features = torch.randn(shape, generator=generator).to(device).requires_grad_()
    image = 16.0 * torch.tensor([width, height, width, height])
    places = torch.rand(maps * count, 2, 2, generator=generator).sort(dim=1).values.flatten(1) * image  # xyxy
    numbers = torch.arange(maps).repeat_interleave(count)[:, None]
    rois = torch.cat([numbers, places], dim=1).to(device)

    def forward(function: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return function(features, rois, *options)

    pooled = {function: function(features, rois, *options) for function in (torchvision.ops.roi_align, roi_align)}
    grad = torch.randn(*pooled[roi_align].shape, generator=generator).to(device)

    def backward(function: Callable[..., Tensor]) -> Tensor:
        # Only the backward pass is timed: the graph of one forward pass serves all runs.
        return torch.autograd.grad(pooled[function], features, grad, retain_graph=True)[0]

    rows = []
    for step in (forward, backward):
        assert_same(step(torchvision.ops.roi_align), step(roi_align))
        plain, ours = partial(step, torchvision.ops.roi_align), partial(step, roi_align)
        rows.append(Comparison(f"{name}, {step.__name__}", plain, ours))
    return rows


def deformable_convolution(device: torch.device) -> list[Comparison]:
    """3x3, 256 channels, 36 maps of 20 x 32 cells, as MST aligns at 320 x 512, no gradients: against torchvision."""
    require_kernels(device)
    generator = torch.Generator().manual_seed(0)
    shapes = {"input": (36, 256, 20, 32), "offset": (36, 18, 20, 32), "weight": (256, 256, 3, 3), "bias": (256,)}
    given = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    given["mask"] = torch.rand(36, 9, 20, 32, generator=generator).to(device)

    def forward(function: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return function(**given, padding=1)

    assert_same(forward(torchvision.ops.deform_conv2d), forward(deform_conv2d))
    return [Comparison("forward", partial(forward, torchvision.ops.deform_conv2d), partial(forward, deform_conv2d))]
