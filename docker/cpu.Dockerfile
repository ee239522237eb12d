# vod2 for CPUs, with its operators compiled. From the checkout:
#   docker build --file docker/cpu.Dockerfile --tag vod2:cpu .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/mine:/data/mine:ro" --volume "$PWD/output:/work/output" \
#       vod2:cpu train --data /data/mine
FROM python:3.12-slim-bookworm AS build

RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/vod2
ENV PATH=/opt/vod2/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
# PyTorch in a layer of its own: it changes with constraints.txt alone. Its CPU wheels are a tenth of those of PyPI
COPY constraints.txt ./
RUN pip install -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu \
    setuptools wheel ninja torch torchvision
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY vod2 vod2
COPY projects projects
COPY configs configs
RUN pip install -c constraints.txt --no-build-isolation .
# A compiler that fails only warns, and the image would be slower; outside of /src, so that the installed one is asked
WORKDIR /
RUN python -c "from vod2.ops import compiled_device_types as types; assert 'cpu' in types(), types()"


FROM python:3.12-slim-bookworm

# What OpenCV's wheel loads, and the OpenMP of the operators
RUN apt-get update && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libgomp1 \
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
