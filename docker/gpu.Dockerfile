# vod2 for NVIDIA GPUs, with its operators compiled for them. From the checkout; building needs no GPU:
#   docker build --file docker/gpu.Dockerfile --tag vod2:gpu .
#   docker run --rm --gpus all --ipc host --user "$(id -u):$(id -g)" --volume "$PWD/mine:/data/mine:ro" \
#       --volume "$PWD/output:/work/output" vod2:gpu train --data /data/mine
# The toolkit must be that of the pinned PyTorch: python -c "import torch; print(torch.version.cuda)"
ARG CUDA=13.0.2
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS build

RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/vod2
ENV PATH=/opt/vod2/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
# PyTorch in a layer of its own: it changes with constraints.txt alone
COPY constraints.txt ./
RUN pip install -c constraints.txt setuptools wheel ninja torch torchvision
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY vod2 vod2
COPY projects projects
COPY configs configs
# Without a GPU in sight nobody can ask it for its architecture: from Turing to Blackwell, later ones by PTX
ENV FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
RUN pip install -c constraints.txt --no-build-isolation .
# A compiler that fails only warns, and the image would be slower; outside of /src, so that the installed one is asked
WORKDIR /
RUN python -c "from vod2.ops import compiled_device_types as types; assert 'cuda' in types(), types()"


# The wheels of PyTorch bring the libraries of CUDA along: the image has only to let the driver in
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04

# What OpenCV's wheel loads, and the OpenMP of the operators
RUN apt-get update && apt-get install --yes --no-install-recommends python3 libgl1 libglib2.0-0t64 libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home vod2 \
    && install --directory --owner vod2 /data /work /work/output
COPY --from=build /opt/vod2 /opt/vod2
# A home that any user may write to: the container may run as the owner of the mounted folders
ENV PATH=/opt/vod2/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1

USER vod2
WORKDIR /work
VOLUME ["/data", "/work/output"]
ENTRYPOINT ["vod2"]
CMD ["--help"]
