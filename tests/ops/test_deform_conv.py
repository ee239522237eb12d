"""`deform_conv2d`: torchvision's numbers, in the fast form and in the other, and safe for any offset."""

import pytest
import torch
from torchvision.ops import deform_conv2d as plain

from vod2.ops import deform_conv, deform_conv2d, portable

compiled = pytest.mark.skipif("cpu" not in deform_conv.COMPILED, reason="needs the compiled extension vod2._C")

CASES = {
    "3x3": {"padding": 1},
    "strided": {"stride": 2, "padding": 1},
    "dilated": {"padding": 2, "dilation": 2},
    "5x3": {"kernel": (5, 3), "padding": (2, 0)},
    "groups of offsets": {"padding": 1, "groups": 2},
    "without mask": {"padding": 1, "mask": False},
    "without bias": {"padding": 1, "bias": False},
    "one tap": {"kernel": (1, 1)},
}


def make(dtype=torch.float64, maps=3, kernel=(3, 3), groups=1, mask=True, bias=True, far=2.0, **options):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    channels, height, width = 6, 9, 11
    taps = kernel[0] * kernel[1]
    pairs = {name: (one, one) if isinstance(one, int) else one for name, one in options.items()}
    stride, padding = pairs.get("stride", (1, 1)), pairs.get("padding", (0, 0))
    dilation = pairs.get("dilation", (1, 1))
    size = [
        (length + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis, length in enumerate((height, width))
    ]
    given = {
        "input": normal(maps, channels, height, width),
        "offset": far * normal(maps, 2 * taps * groups, *size),
        "weight": normal(5, channels, *kernel),
        "bias": normal(5) if bias else None,
        "mask": normal(maps, taps * groups, *size).sigmoid() if mask else None,
    }
    return given, options


@compiled
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_has_the_numbers_of_torchvision(case, dtype, tolerance, channels_last):
    given, options = make(dtype, **CASES[case])
    if channels_last:
        given["input"] = given["input"].contiguous(memory_format=torch.channels_last)
    wanted = plain(**given, **options)
    torch.testing.assert_close(deform_conv2d(**given, **options), wanted, rtol=tolerance, atol=10 * tolerance)


@compiled
@pytest.mark.parametrize("most", [1, 10**9])
def test_maps_are_convolved_one_by_one_or_together(monkeypatch, most):
    monkeypatch.setattr(deform_conv, "_MOST_NUMBERS", most)
    given, options = make(padding=1)
    torch.testing.assert_close(deform_conv2d(**given, **options), plain(**given, **options), rtol=1e-12, atol=1e-11)


@compiled
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, 1e30, -1e30, torch.nan])
def test_what_is_not_on_the_map_is_0(value):
    given, options = make(padding=1, bias=False)
    given["offset"][:, :, 4, 5] = value
    out = deform_conv2d(**given, **options)
    assert out.isfinite().all() and (out[:, :, 4, 5] == 0).all() and (out[:, :, 4, 6] != 0).any()


@compiled
def test_places_at_the_border_are_half_on_the_map():
    taps = {"weight": torch.ones(1, 1, 1, 1), "bias": None}
    for offset, wanted in ((-0.5, 0.5), (-1.0, 0.0), (3.5, 0.5), (4.0, 0.0), (3.0, 1.0)):
        moved = torch.zeros(1, 2, 4, 4)
        moved[0, 0, 0, 0] = offset
        assert deform_conv2d(torch.ones(1, 1, 4, 4), moved, **taps)[0, 0, 0, 0] == pytest.approx(wanted)


def test_without_maps_there_is_no_result():
    given, options = make(maps=0, padding=1)
    assert deform_conv2d(**given, **options).shape == (0, 5, 9, 11)


@compiled
def test_which_form_runs(monkeypatch):
    calls = []
    monkeypatch.setattr(deform_conv, "plain_deform_conv2d", lambda *given: calls.append(given) or plain(*given))
    given, options = make(padding=1)
    deform_conv2d(**given, **options)
    assert not calls
    with portable():
        deform_conv2d(**given, **options)
    assert len(calls) == 1
    # Somebody wants a gradient; under no_grad nobody does.
    leaf = given["weight"].requires_grad_()
    deform_conv2d(**given, **options).sum().backward()
    assert len(calls) == 2 and leaf.grad is not None
    with torch.no_grad():
        deform_conv2d(**given, **options)
    assert len(calls) == 2


@compiled
def test_grouped_kernels_are_torchvisions():
    given, options = make(padding=1)
    given["weight"] = given["weight"][:4, :3]
    given["bias"] = None
    torch.testing.assert_close(deform_conv2d(**given, **options), plain(**given, **options))


@compiled
def test_shapes_that_do_not_fit_are_refused():
    given, options = make(padding=1)
    with pytest.raises(ValueError, match="offsets must have shape"):
        deform_conv2d(**given | {"offset": given["offset"][:, :17]}, **options)
    with pytest.raises(ValueError, match="mask must have shape"):
        deform_conv2d(**given | {"mask": given["mask"][:, :8]}, **options)


@compiled
def test_the_operator_is_registered_whole():
    given, _ = make(padding=1)
    operator = torch.ops.vod2.deform_columns.default
    pairs = ((3, 3), (1, 1), (1, 1), (1, 1))
    torch.library.opcheck(
        operator,
        (given["input"], given["offset"], given["mask"], *pairs),
        test_utils=("test_schema", "test_faketensor"),
    )
