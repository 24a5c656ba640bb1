#!/bin/sh
# Run uv with these arguments: the one on PATH, else one in .uv/, which is installed first.
set -eu
folder=$(cd "$(dirname "$0")/.." && pwd -P)

with_pip() {
    for python in python3 python python3.13 python3.12 python3.11 python3.10; do
        "$python" -m pip install --quiet --disable-pip-version-check --target "$folder/.uv" \
            --require-hashes --requirement "$folder/locks/uv.txt" 2>/dev/null && return
    done
    return 1
}

with_curl() { # uv's own installer brings a program that needs no Python
    version=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' "$folder/locks/uv.txt")
    curl -fsSL "https://astral.sh/uv/$version/install.sh" | UV_UNMANAGED_INSTALL="$folder/.uv/bin" sh >&2
}

uv=$(command -v uv || echo "$folder/.uv/bin/uv")
if [ ! -x "$uv" ]; then
    echo "uv is not on PATH: installing it into .uv/" >&2
    with_pip || with_curl || true
    [ -x "$uv" ] || {
        echo "uv could not be installed: it needs Python 3.8 or newer with pip, or curl" >&2
        exit 1
    }
fi

# pyenv's folders: its shims may be switched off or hide the versions that are not selected.
for bin in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin; do
    PATH=$PATH:$bin
done
export PATH
exec "$uv" "$@"
