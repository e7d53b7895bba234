#!/bin/sh
# Put uv, which installs everything else from uv.lock, into build/tools. Called by the Makefile.
set -eu
version=0.13.9
target=build/tools
python=${UV_PYTHON:-/usr/bin/python3.11}
if ! command -v "$python" >/dev/null 2>&1; then
    echo "bootstrap: $python not found; pods need a Python that every user can read. hint: apt-get install python3.11, or make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
mkdir -p "$target/bin"
if command -v uv >/dev/null 2>&1; then
    ln -sf "$(command -v uv)" "$target/bin/uv"
    exit 0
fi
for candidate in python3 "$python"; do
    if "$candidate" -m pip --version >/dev/null 2>&1; then
        "$candidate" -m pip install --quiet --disable-pip-version-check --target "$target/packages" "uv==$version"
        ln -sf ../packages/bin/uv "$target/bin/uv"
        exit 0
    fi
done
echo "bootstrap: no pip found, installing Debian's python3-pip" >&2
apt-get install --yes --quiet python3-pip >/dev/null || { apt-get update --quiet && apt-get install --yes --quiet python3-pip; } >/dev/null
/usr/bin/python3 -m pip install --quiet --break-system-packages --disable-pip-version-check --target "$target/packages" "uv==$version"
ln -sf ../packages/bin/uv "$target/bin/uv"
