#!/usr/bin/env bash
# Fills a folder with what a machine without network lacks for tools/gpu_report.py --wheels:
#
#   tools/gpu_wheels.sh FOLDER [PACKAGE ...]
#
# Wheels for Python 3.12 on Linux x86-64 (PYTHON_VERSION=3.11 for another) in the versions of constraints.txt; without
# PACKAGE those that an installation of PyTorch, torchvision and OpenCV does not bring. What the folder holds already is
# kept. With the tree they should stay below 60 MB, which is printed.
set -euo pipefail
if [ $# -lt 1 ]; then
  sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$1
shift
packages=("$@")
[ $# -gt 0 ] || packages=(fvcore iopath yacs pycocotools av termcolor)
version=${PYTHON_VERSION:-3.12}
python=${PYTHON:-python3}
mkdir -p "$folder"

# Constraints of another Python must not count: the markers are those of the target, not of the Python that runs pip.
pinned() {
  "$python" - "$1" "$version" "$root/constraints.txt" <<'PY'
import re, sys
name, version, path = sys.argv[1:]
minor = int(version.split(".")[1])
for line in open(path):
    requirement, _, marker = line.partition(";")
    bound = re.search(r'python_version ([<>]=?) "3\.(\d+)"', marker)
    fits = bound is None or {">=": minor >= int(bound[2]), "<": minor < int(bound[2])}[bound[1]]
    if fits and re.match(rf"{re.escape(name)}==", requirement.strip()):
        print(requirement.strip())
        sys.exit()
print(name)
PY
}

for package in "${packages[@]}"; do
  requirement=$(pinned "$package")
  platforms=()
  for libc in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${libc}_x86_64"); done
  if "$python" -m pip download --quiet --no-deps --dest "$folder" --only-binary=:all: --python-version "$version" \
      --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 "$requirement" 2>/dev/null; then
    continue
  fi
  # No wheel is published: a pure Python package is made into one here.
  "$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$requirement"
done
ls "$folder"/*.whl
wheels=$(du -cm "$folder"/*.whl | tail -n 1 | cut -f1)
tree=$(cd "$root" && git ls-files -z | xargs -0 du -cm 2>/dev/null | tail -n 1 | cut -f1)
echo "$wheels MB of wheels, $tree MB of files in the tree"
