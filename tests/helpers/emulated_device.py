"""A device "emulated" whose memory and arithmetic are the CPU's, and whose rules are those of a GPU.

A tensor on it wraps a CPU tensor. Every operator checks its arguments as CUDA would, runs on the wrapped tensors, and
wraps what comes out, below autograd and autocast: forward, backward, views and in-place writes are PyTorch's own. What
a CPU forgives and a GPU does not is an error here:

- tensors of two devices in one operator, but for CPU scalars (0 axes) in pointwise operators and CPU indices;
- `.numpy()`, and whatever calls it, on a tensor of the device;
- a CPU generator that draws on the device;
- products of integer matrices.

It cannot show what only a GPU has: kernels of its own, another order of sums, asynchronous work, memory that runs out.
The compiled ops of vod2 have no kernels for it, so their Python versions run. It needs a PyTorch whose devices may be
written in Python. A process that has called `install` keeps the device, and PyTorch takes it for its accelerator.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from helpers.emulated_autocast import HALF_DTYPES, register_autocast

NAME = "emulated"

_CPU = torch.device("cpu")
_COPIES = {"copy_", "_to_copy", "_copy_from"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_TAKE_SCALARS = _INDEXING | {"fill", "fill_", "masked_fill", "masked_fill_", "index_fill", "index_fill_"}
_MATRIX_PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "mv", "addmv", "dot"}

# These PyTorch would make by resizing an empty tensor, which a wrapper cannot follow.
_FACTORIES = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "logspace", "randperm")
_FACTORIES += ("randperm.generator",)

_libraries: list[torch.library.Library] = []  # what they register is gone with them


class EmulatedTensor(Tensor):
    """A tensor on the emulated device; `on_cpu` is the CPU tensor that it wraps, with the same sizes and strides."""

    on_cpu: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> "EmulatedTensor":
        assert type(on_cpu) is Tensor and on_cpu.device == _CPU, f"cannot wrap {type(on_cpu)} on {on_cpu.device}"
        tensor = Tensor._make_wrapper_subclass(
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.on_cpu = on_cpu
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    # The next three do not reach an operator.

    def tolist(self) -> list:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, *, tensor_contents: str | None = None) -> str:
        return f"{self.on_cpu!r} on {self.device}"


class _Backend:
    """What PyTorch asks of the module torch.emulated."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Nothing to do: numbers are drawn by the CPU's generator, which `torch.manual_seed` seeds, too."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return list(HALF_DTYPES)


def install() -> torch.device:
    """Make `torch.device("emulated")` known to PyTorch, once in a process."""
    if not _libraries:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
        # What has no emulated tensor among its arguments, such as torch.arange(3, device="emulated"), comes this way.
        factories = torch.library.Library("_", "IMPL")
        factories.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
        # torch.tensor(..., device=...) copies to the device while subclasses are switched off.
        own = torch.library.Library("aten", "IMPL", "PrivateUse1")
        for name in ("copy_", *_FACTORIES):
            own.impl(name, _kernel(name))
        _libraries.extend([factories, own, *register_autocast(NAME)])
        # nn.Module.to then exchanges what a parameter is; a parameter on the CPU cannot become a subclass in place.
        torch.__future__.set_swap_module_params_on_conversion(True)
    return torch.device(NAME, 0)


def _kernel(name: str) -> Callable:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return lambda *args, **kwargs: _run(func, args, kwargs)


def _run(func: torch._ops.OpOverload, args: tuple, kwargs: dict) -> Any:
    """Run an operator by the rules of the device."""
    leaves = pytree.tree_leaves((args, kwargs))
    emulated = [leaf for leaf in leaves if isinstance(leaf, EmulatedTensor)]
    wanted = kwargs.get("device")
    on_device = bool(emulated) if wanted is None else wanted.type == NAME
    if emulated:
        _check_devices(func, args, kwargs, leaves)
    if on_device:
        _check_generator(func, leaves)
        _check_dtype(func, emulated)
    if wanted is not None and wanted.type == NAME:
        kwargs = kwargs | {"device": _CPU}
    wrappers = {id(tensor.on_cpu): tensor for tensor in emulated}
    inner_args, inner_kwargs = pytree.tree_map_only(EmulatedTensor, _unwrap, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if torch.Tag.inplace_view in func.tags and emulated:
        with no_dispatch():
            func(*args, **kwargs)  # the sizes and strides of the wrapper, which has no memory

    def wrap(tensor: Tensor) -> Tensor:
        if id(tensor) not in wrappers:
            return EmulatedTensor(tensor) if on_device else tensor
        wrapper = wrappers[id(tensor)]  # written in place, or handed through
        assert wrapper.shape == tensor.shape and wrapper.stride() == tensor.stride(), f"{func} has changed a shape"
        return wrapper

    return pytree.tree_map_only(Tensor, wrap, out)


def _unwrap(tensor: EmulatedTensor) -> Tensor:
    return tensor.on_cpu


def _check_devices(func: torch._ops.OpOverload, args: tuple, kwargs: dict, leaves: Iterable) -> None:
    """Refuse CPU tensors among emulated ones where CUDA does."""
    name = func.overloadpacket.__name__
    strangers = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, EmulatedTensor)]
    if not strangers or name in _COPIES:
        return
    first = args[0] if args else None
    if name in _INDEXING and isinstance(first, EmulatedTensor):
        indices = pytree.tree_leaves(args[1])
        strangers = [tensor for tensor in strangers if not any(tensor is index for index in indices)]
    writes_first = func._schema.is_mutable and not isinstance(first, EmulatedTensor)
    takes_scalars = torch.Tag.pointwise in func.tags or name in _TAKE_SCALARS
    for tensor in strangers:
        if tensor.dim() > 0 or not takes_scalars or writes_first:
            raise RuntimeError(
                f"Expected all tensors of {func} to be on the same device, but found {NAME}:0 and {tensor.device} "
                f"(of shape {list(tensor.shape)})"
            )


def _check_generator(func: torch._ops.OpOverload, leaves: Iterable) -> None:
    for leaf in leaves:
        if isinstance(leaf, torch.Generator) and leaf.device.type != NAME:
            raise RuntimeError(f"{func}: expected a '{NAME}' device type for generator but found '{leaf.device.type}'")


def _check_dtype(func: torch._ops.OpOverload, tensors: Iterable[Tensor]) -> None:
    if func.overloadpacket.__name__ in _MATRIX_PRODUCTS:
        for tensor in tensors:
            if not tensor.is_floating_point():
                raise NotImplementedError(f"{func} is not implemented for {tensor.dtype} on a GPU")
