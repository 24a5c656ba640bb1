#!/bin/sh
# Make the virtual environment VENV from its lock file, or bring it up to date.
#
# usage: tools/environment.sh VENV [PYTHON]    PYTHON: a version or a path, as uv takes them
#
# Without PYTHON: an installed Python 3.10, else an installed 3.11, else a 3.10 that uv downloads.
set -eu
cd "$(dirname "$0")/.."
venv=$1 wanted=${2:-}
python=$venv/bin/python stamp=$venv/.mge-plugin-installed

state() { (pwd -P && cat setup.* pyproject.toml locks/py*.txt tools/environment.sh) | cksum; }
version() { "$1" -c 'import sys; print("3%d" % sys.version_info[1])'; }
find_python() { tools/uv.sh python find --system --no-python-downloads "cpython@$1" 2>/dev/null; }

if [ -z "$wanted" ] && [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(state)" ]; then
    exit
fi

if [ ! -x "$python" ]; then
    [ ! -e "$venv/pyvenv.cfg" ] || rm -rf "$venv" # an environment whose Python is gone
    wanted=${wanted:-$(find_python 3.10 || find_python 3.11 || echo cpython@3.10)}
    tools/uv.sh venv --python "$wanted" "$venv" || {
        echo "$venv: install Python 3.10 or 3.11 (or name one with PYTHON=path) and try again" >&2
        exit 1
    }
elif [ -n "$wanted" ] && [ "$(version "$(tools/uv.sh python find --system "$wanted")")" != "$(version "$python")" ]; then
    echo "$venv: its Python is not $wanted: remove this folder or name another with VENV=" >&2
    exit 1
fi

set -- locks/py"$(version "$python")"-*.txt
[ -f "$1" ] || {
    echo "$venv: its Python has no lock file in locks/: use Python 3.10 or 3.11" >&2
    exit 1
}
tools/uv.sh pip install --python "$python" --no-deps --require-hashes \
    --build-constraints locks/build.txt --requirement "$1"
tools/uv.sh pip install --python "$python" --no-deps --no-build-isolation --editable .
state >"$stamp"
