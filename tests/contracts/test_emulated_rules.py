"""The emulated device refuses what a GPU refuses, and computes what the CPU computes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision import ops

from helpers.device import autocast, device, on_device

pytestmark = [
    pytest.mark.device_sample,
    pytest.mark.skipif(
        device().type != "emulated", reason="the rules of the emulated device: test_emulated_device.py runs them"
    ),
]
BOXES = [[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [3.0, 2.0, 9.0, 12.0]]


def here(*shape) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def there(*shape) -> torch.Tensor:
    return here(*shape).to(device())


TWO_DEVICES = {
    "sum": lambda: there(3) + here(3),
    "sum, the other way round": lambda: here(3) + there(3),
    "sum in place": lambda: there(3).add_(here(3)),
    "sum in place on the CPU": lambda: here(3).add_(there(3)),
    "sum into a CPU scalar": lambda: torch.tensor(1.0).add_(there(1)[0]),
    "product of matrices": lambda: there(2, 3) @ here(3, 2),
    "layer": lambda: F.linear(there(2, 3), there(4, 3), here(4)),
    "convolution": lambda: F.conv2d(there(1, 2, 4, 4), here(2, 2, 3, 3)),
    "concatenation": lambda: torch.cat([there(2), here(2)]),
    "stack with a CPU scalar": lambda: torch.stack([there(1)[0], torch.tensor(1.0)]),
    "arange without a device": lambda: there(3) * torch.arange(3),
    "where": lambda: torch.where(here(3) > 0.5, there(3), 0.0),
    "masked_fill": lambda: there(3).masked_fill(here(3) > 0.5, 0.0),
    "index_add": lambda: there(3).index_add(0, torch.tensor([0]), there(1)),
    "gather": lambda: there(3).gather(0, torch.tensor([0, 1])),
    "index on the device of a CPU tensor": lambda: here(3)[torch.tensor([0], device=device())],
    "values of another device": lambda: there(3).index_put((torch.tensor([0, 1]),), here(2)),
    "lookup": lambda: F.embedding(torch.tensor([0]), there(2, 3)),
    "clamp": lambda: there(3).clamp(min=here(3)),
    "equal": lambda: torch.equal(there(3), here(3)),
    "nms": lambda: ops.nms(torch.tensor(BOXES, device=device()), here(3), 0.5),
    "roi_align": lambda: ops.roi_align(there(1, 2, 8, 8), [torch.tensor(BOXES)], 2),
    "deform_conv2d": lambda: ops.deform_conv2d(there(1, 2, 4, 4), here(1, 18, 4, 4), there(2, 2, 3, 3), padding=1),
}


@pytest.mark.parametrize("operation", TWO_DEVICES.values(), ids=TWO_DEVICES.keys())
def test_tensors_of_two_devices_are_refused(operation):
    with pytest.raises(RuntimeError, match="to be on the same device"):
        operation()


def test_tensors_of_two_devices_are_refused_in_a_backward():
    class Faulty(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.arange(3)

    x = there(3).requires_grad_()
    with pytest.raises(RuntimeError, match="to be on the same device"):
        Faulty.apply(x).sum().backward()


def test_a_cpu_scalar_may_join_in_pointwise_operators():
    x, two = there(3), torch.tensor(2.0)
    doubled = (2 * here(3)).tolist()
    assert (x * two).tolist() == (two * x).tolist() == doubled
    assert (x * two).device == (two * x).device == x.device
    assert torch.where(x < 2, two, x).tolist() == [2.0] * 3
    assert x.clone().masked_fill_(x < 2, two).tolist() == [2.0] * 3


def test_cpu_indices_and_masks_may_index_a_tensor_of_the_device():
    x, mask = there(3), torch.tensor([True, False, True])
    assert x[torch.tensor([2, 0])].tolist() == here(3)[[2, 0]].tolist()
    assert x[mask].tolist() == here(3)[mask].tolist()
    x[mask] = 5.0
    assert x.tolist() == [5.0, here(3)[1].item(), 5.0]


def test_copies_cross_devices():
    x, y = there(3), torch.zeros(3)
    assert y.copy_(x).equal(here(3)) and x.cpu().equal(here(3)) and type(x.cpu()) is torch.Tensor
    assert torch.zeros(3, device=device()).copy_(here(3)).tolist() == here(3).tolist()
    assert torch.tensor([1.0, 2.0], device=device()).device == x.new_tensor([1.0]).device == x.device


@pytest.mark.parametrize("convert", [lambda x: x.numpy(), np.asarray])
def test_a_conversion_to_numpy_is_refused(convert):
    with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\)"):
        convert(there(3))


@pytest.mark.parametrize("draw", [torch.rand, torch.randn, torch.randperm])
def test_a_cpu_generator_does_not_draw_on_the_device(draw):
    assert draw(4, device=device()).device.type == "emulated"
    with pytest.raises(RuntimeError, match="device type for generator"):
        draw(4, generator=torch.Generator(), device=device())


def test_integer_matrices_are_not_multiplied():
    with pytest.raises(NotImplementedError, match="not implemented for torch.int64"):
        torch.ones(2, 2, dtype=torch.int64, device=device()) @ torch.ones(2, 2, dtype=torch.int64, device=device())


def test_a_view_writes_to_what_it_views():
    x = there(2, 3)
    x[:, 1].fill_(7.0)
    x.t()[2].mul_(0.0)
    assert x[:, 1:].tolist() == [[7.0, 0.0], [7.0, 0.0]]


def test_a_shape_that_is_changed_in_place_is_that_of_the_tensor():
    x = there(2, 3).unsqueeze_(0).transpose_(1, 2)
    assert x.shape == (1, 3, 2) and x.stride() == (6, 1, 3)
    assert x.tolist() == here(2, 3).t()[None].tolist()


def test_a_module_moves_with_its_parameters_and_trains():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    parameters = list(layer.parameters())
    layer.to(device())
    assert all(a is b for a, b in zip(parameters, layer.parameters(), strict=True))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        losses.append(layer(there(4, 3)).square().sum())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[1].item() < losses[0].item()


OPERATIONS = {
    "linear": (F.linear, [(2, 3), (4, 3), (4,)]),
    "convolution": (lambda x, w: F.conv2d(x, w, stride=2, padding=1), [(2, 3, 6, 6), (4, 3, 3, 3)]),
    "attention": (F.scaled_dot_product_attention, [(1, 2, 4, 8)] * 3),
    "checkpoint": (lambda x: checkpoint(lambda y: y.sin().exp(), x, use_reentrant=False), [(3,)]),
    "advanced index": (lambda x: x[torch.tensor([0, 1, 1])] * x[:3].t().contiguous().t(), [(4, 2)]),
    "roi_align": (lambda x: ops.roi_align(x, [torch.tensor(BOXES, device=x.device)], 2), [(1, 2, 12, 12)]),
    "ps_roi_align": (lambda x: ops.ps_roi_align(x, [torch.tensor(BOXES, device=x.device)], 2), [(1, 4, 12, 12)]),
    "deform_conv2d": (
        lambda x, offset, w, mask: ops.deform_conv2d(x, offset, w, padding=1, mask=mask),
        [(1, 2, 4, 4), (1, 18, 4, 4), (2, 2, 3, 3), (1, 9, 4, 4)],
    ),
}


@pytest.mark.parametrize(("function", "shapes"), OPERATIONS.values(), ids=OPERATIONS.keys())
def test_results_and_gradients_are_the_cpus(function, shapes):
    def run(*inputs):
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = function(*inputs)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    drawn = [here(*shape) for shape in shapes]
    for actual, expected in zip(run(*on_device(*drawn)), run(*drawn), strict=True):
        assert actual.device.type == "emulated" and actual.dtype == expected.dtype
        torch.testing.assert_close(actual.cpu(), expected)


def test_nms_keeps_what_it_keeps_on_the_cpu():
    boxes, scores = torch.tensor(BOXES), torch.tensor([0.8, 0.9, 0.7])
    kept = ops.nms(*on_device(boxes, scores), 0.5)
    assert kept.tolist() == ops.nms(boxes, scores, 0.5).tolist() and kept.device.type == "emulated"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_on_a_gpu(dtype):
    x, weight = there(3, 3), there(3, 3).requires_grad_()
    with autocast(dtype):
        product = x @ weight
        assert product.dtype == (product + product).dtype == dtype  # half precision, and whatever comes
        assert product.exp().dtype == product.softmax(dim=0).dtype == torch.float32  # float32
        assert there(3).to(dtype).addcmul(there(3), there(3)).dtype == torch.float32  # the widest
        pooled = ops.roi_align(there(1, 2, 8, 8).to(dtype), [torch.tensor(BOXES, device=device())], 2)
        assert pooled.dtype == dtype  # computed in float32, and back
        with torch.autocast(device().type, enabled=False):
            assert (x @ weight).dtype == torch.float32
    product.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    assert (x @ weight).dtype == torch.float32
