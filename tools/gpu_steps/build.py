"""The compiled ops: built for the card of this machine, with the resources of each kernel."""

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from gpu_steps.step import Failed, Step

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_FUNCTION = re.compile(r"Function properties for (\w+)")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_MANGLED = re.compile(r"\d([a-z_]+_kernel)I([fd])E")  # the name follows its length
_REGISTERS = re.compile(r"Used (\d+) registers")


def run(step: Step) -> None:
    step.case("package", partial(_build, step), needs=10)
    for name, resources in kernels(_log(step)).items():
        step.case(name, lambda resources=resources: resources)


def _log(step: Step) -> str:
    path = step.folder / "build.log"
    return path.read_text(errors="replace") if path.exists() else ""


def _build(step: Step) -> dict:
    """Build the whole package into the library folder, so that the checkout stays as it is."""
    environment = os.environ | {"VOD2_BUILD_OPS": "1", "FORCE_CUDA": "0", "MAX_JOBS": str(os.cpu_count())}
    if step.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        # For this card alone, which shortens the build; -v makes ptxas list the resources of each kernel.
        environment |= {
            "FORCE_CUDA": "1",
            "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}",
            "NVCC_APPEND_FLAGS": f"{os.environ.get('NVCC_APPEND_FLAGS', '')} -Xptxas=-v".strip(),
        }
    folders = ["--build-lib", step.settings.library, "--build-temp", str(step.folder / "objects")]
    begin = time.perf_counter()
    with open(step.folder / "build.log", "w") as log:
        command = [sys.executable, "setup.py", "build", *folders]
        code = subprocess.run(command, cwd=step.root, env=environment, stdout=log, stderr=log).returncode
    seconds = time.perf_counter() - begin
    types = _device_types(step)
    values = {"device_types": types, "seconds of the build": seconds}
    # setup.py only warns where the ops cannot be built.
    if code or step.device not in types:
        raise Failed(f"no ops for {step.device}: {_reason(_log(step))}", **values)
    return values


def _device_types(step: Step) -> list[str]:
    """What the built package says that it has kernels for; nothing if it found an extension that lies elsewhere."""
    program = "import vod2._C, vod2.ops; print(vod2._C.__file__, *vod2.ops.compiled_device_types(), sep='\\n')"
    # In PYTHONPATH the library comes first, and the folder in which it runs holds no package.
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=step.folder)
    path, *types = process.stdout.split("\n")[:-1] or [""]
    return types if Path(path).is_relative_to(step.settings.library) else []


def _reason(log: str) -> str:
    """The line that says why nothing was built."""
    lines = log.strip().splitlines() or ["the build said nothing"]
    reasons = [line for line in lines if line.startswith("WARNING: the compiled ops") or "error:" in line.lower()]
    return (reasons or lines)[-1].strip()


def kernels(log: str) -> dict[str, dict]:
    """Registers, stack and spills (bytes) of each kernel, from what ptxas says in a build's log."""
    resources_of_kernel: dict[str, dict] = {}
    kernel = function = ""
    for line in log.splitlines():
        if entry := _ENTRY.search(line):
            kernel = function = entry[1]
            resources_of_kernel[kernel] = {"architecture": entry[2]}
        elif named := _FUNCTION.search(line):
            function = named[1]  # of the kernel, or of a function that it calls
        elif (spills := _SPILLS.search(line)) and function == kernel:
            names = ("stack bytes", "spill stores", "spill loads")
            resources_of_kernel[kernel] |= dict(zip(names, map(int, spills.groups()), strict=True))
        elif (registers := _REGISTERS.search(line)) and kernel:
            resources_of_kernel[kernel]["registers"] = int(registers[1])
    return {_kernel_name(name): resources for name, resources in resources_of_kernel.items()}


def _kernel_name(mangled: str) -> str:
    """Such as "sum_kernel<float>": of a mangled name, the kernel and the type that it is for."""
    match = _MANGLED.search(mangled)
    if match is None:
        return mangled
    dtype = {"f": "float", "d": "double"}[match[2]]
    return f"{match[1]}<{dtype}>"
