"""Autocast on the emulated device: the operators that CUDA casts, cast in the same way."""

from collections.abc import Callable

import torch
import torchvision  # noqa: F401  (registers its operators)
from torch import Tensor
from torch.utils import _pytree as pytree

HALF_DTYPES = (torch.bfloat16, torch.float16)

_KEY = "AutocastPrivateUse1"

# Of the operators that have a kernel under CUDA's autocast, these compute in half precision, ...
_HALF = {
    *("addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "einsum", "linalg_multi_dot"),
    *("linalg_vecdot", "linear", "matmul", "mm", "mv", "prelu", "scaled_dot_product_attention"),
    *("conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("convolution", "_convolution", "gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"),
}
# ... these in the widest dtype of their arguments, and all others in float32.
_WIDEST = {"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sampler", "index_put", "scatter_add"}
_WIDEST |= {"tensordot", "vdot"}


def register_autocast(device_type: str) -> list[torch.library.Library]:
    """Give every operator that CUDA's autocast knows a kernel for that of the device; keep what is returned."""
    everything_else = torch.library.Library("_", "IMPL")
    everything_else.fallback(torch.library.fallthrough_kernel, _KEY)
    libraries = {name: torch.library.Library(name, "IMPL", _KEY) for name in ("aten", "torchvision")}
    for full_name in torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA"):
        namespace, name = full_name.split("::")
        if namespace in libraries:
            packet, _, overload = name.partition(".")
            func = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
            libraries[namespace].impl(name, _casting_kernel(func, namespace, packet, device_type))
    return [everything_else, *libraries.values()]


def _casting_kernel(func: torch._ops.OpOverload, namespace: str, packet: str, device_type: str) -> Callable:
    def kernel(*args, **kwargs):
        floats = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if _is_cast(leaf, device_type)]
        if packet in _HALF:
            dtype = torch.get_autocast_dtype(device_type)
        elif packet in _WIDEST:
            dtype = _widest(floats)
        else:
            dtype = torch.float32

        def cast(leaf):
            return leaf.to(dtype) if _is_cast(leaf, device_type) else leaf

        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args, kwargs = pytree.tree_map(cast, (args, kwargs))
            out = func(*args, **kwargs)
            # torchvision's operators give back what came in.
            return out.to(floats[0].dtype) if namespace == "torchvision" and out.is_floating_point() else out

    return kernel


def _is_cast(leaf: object, device_type: str) -> bool:
    is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return is_float and leaf.device.type == device_type and leaf.dtype != torch.float64


def _widest(tensors: list[Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in tensors}
    return torch.float32 if torch.float32 in dtypes or len(dtypes) != 1 else dtypes.pop()
