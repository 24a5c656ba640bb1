#!/bin/sh
# Make the virtual environment VENV, or bring it up to date; at once where nothing has changed.
#
# usage: tools/install.sh VENV    a path, relative to the project; PYTHON is as in find_python.sh
#
# Two files in VENV tell its state. .made-by-mge-plugin: this script made it, so it may remove it.
# .mge-plugin-installed: an installation came to its end, with what it was made from; without it, an
# environment that this script made is half-made and is made again.
set -eu

cd "$(dirname "$0")/.."
project=$(pwd -P)
case $1 in
    /*) venv=$1 ;;
    *) venv=$project/$1 ;;
esac
made=$venv/.made-by-mge-plugin
installed=$venv/.mge-plugin-installed

say() { printf '%s: %s\n' "$1" "$2" >&2; }

# "VERSION PATH" of the interpreter $1, nothing where it cannot be used.
inspect() { PYTHON=$1 tools/find_python.sh 2>/dev/null || true; }

# What an installation is made from: where this copy of the project is, what it asks for and how.
fingerprint() {
    printf '%s\n%s\n' "$venv" "$project"
    cat setup.cfg pyproject.toml constraints/*.txt tools/install.sh | cksum
}

# -I: neither PYTHONPATH nor the user's own site-packages count as installed
pip() { "$venv/bin/python" -I -m pip --disable-pip-version-check "$@"; }

# One installation at a time: another would take this one for half-made.
exec 9<.
if command -v flock >/dev/null && ! flock -n 9; then
    say "$venv" "waiting for another installation in this project to end"
    flock 9
fi

venv_version=$(inspect "$venv/bin/python")
venv_version=${venv_version%% *}
wanted=$venv_version
if [ -n "${PYTHON:-}" ]; then
    wanted=$(tools/find_python.sh)
    wanted=${wanted%% *}
fi

# Why the environment that is there cannot be used, or nothing.
fault() {
    if [ -z "$venv_version" ]; then
        echo "its Python does not run, or is not one that mge_plugin can use"
    elif [ "$venv_version" != "$wanted" ]; then
        echo "it has Python $venv_version, not $wanted"
    elif ! pip --version >/dev/null 2>&1; then
        echo "it has no pip"
    elif [ -e "$made" ] && [ ! -e "$installed" ]; then
        echo "its installation did not come to an end"
    elif [ -e "$made" ] && [ "$(sed 2q "$installed")" != "$(fingerprint | sed 2q)" ]; then
        echo "it was moved, or made for another copy of the project"
    fi
}

if [ -n "$venv_version" ] && [ "$venv_version" = "$wanted" ] && [ -e "$installed" ] &&
    [ "$(cat "$installed")" = "$(fingerprint)" ]; then
    exit 0
fi

if [ -n "$(ls -A "$venv" 2>/dev/null || true)" ]; then
    reason=$(fault)
    if [ -n "$reason" ] && [ -e "$made" ]; then
        say "$venv" "made again, because $reason"
        rm -rf "$venv"
    elif [ -n "$reason" ]; then
        say "$venv" "remove this folder or name another one with VENV=..., because $reason"
        exit 1
    fi
fi

start=$(date +%s)
if [ ! -e "$venv/bin/python" ]; then
    found=$(tools/find_python.sh)
    venv_version=${found%% *}
    mkdir -p "$venv"
    : >"$made"
    "${found#* }" -m venv "$venv"
fi

set -- "constraints/py$(printf '%s' "$venv_version" | tr -d .)"-*.txt
say "$venv" "installing by $1, several GB, which takes some minutes"
rm -f "$installed"
pip install --quiet --constraint "$1" pip setuptools
pip install --constraint "$1" --build-constraint constraints/build.txt \
    --editable ".[train,ui,minislakh,musdb,test]"
pip install --constraint "$1" --no-deps tinysoundfont
fingerprint >"$installed"
say "$venv" "installed in $(($(date +%s) - start)) s"
