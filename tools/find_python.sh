#!/bin/sh
# Print "VERSION PATH" of a Python that can run mge_plugin, for example "3.10 /usr/bin/python3.10".
#
# usage: tools/find_python.sh [VERSION...]    versions in order of preference: 3.10 3.11 unless given
#
# PYTHON, if set, overrides the search: a path, a name on PATH, or a version (3.11, python3.11).
# Where no Python will do, one sentence on standard error says which will and how to get one.
set -eu

[ $# -gt 0 ] || set -- 3.10 3.11

PROBE='
import platform, sys
print("%s %d.%d" % ((platform.python_implementation(),) + tuple(sys.version_info[:2])))
import ensurepip, venv
print("venv")
'
without_venv=

# What the interpreter $1 is: "CPython 3.10 venv", "CPython 3.10" where Debian left out venv, or
# nothing where it does not run (a version manager's shim for a Python that is not installed).
describe() {
    [ -x "$1" ] && [ ! -d "$1" ] || return 0
    ("$1" -c "$PROBE" 2>/dev/null </dev/null || true) | tr '\n' ' ' | sed 's/ *$//'
}

# Print the interpreter $1 and stop, if it is a usable Python $2.
consider() {
    case $(describe "$1") in
        "CPython $2 venv")
            printf '%s %s\n' "$2" "$1"
            exit 0
            ;;
        "CPython $2") without_venv=${without_venv:-$1} ;;
    esac
}

# Consider every program of these names in every folder on PATH: a shim that fails may come first.
# usage: search_path VERSION NAME...
search_path() {
    version=$1
    shift
    rest=${PATH:-}:
    while [ -n "$rest" ]; do
        folder=${rest%%:*}
        rest=${rest#*:}
        for name in "$@"; do
            consider "${folder:-.}/$name" "$version"
        done
    done
}

# Consider every Python $1 on PATH, then in the folders of pyenv, uv, mise and asdf.
search() {
    search_path "$1" "python$1" python3 python
    data=${XDG_DATA_HOME:-${HOME:-}/.local/share}
    for candidate in \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/"python$1" \
        "${UV_PYTHON_INSTALL_DIR:-$data/uv/python}"/*/bin/"python$1" \
        "$data"/mise/installs/python/*/bin/"python$1" \
        "${ASDF_DATA_DIR:-${HOME:-}/.asdf}"/installs/python/*/bin/"python$1"; do
        consider "$candidate" "$1"
    done
}

fail() {
    printf '%s: mge_plugin needs CPython 3.10 (preferred; stable-audio-tools 0.0.20) or 3.11' "$1" >&2
    printf ' (stable-audio-tools 0.0.19) with venv, from `apt install python3.10-venv` on' >&2
    printf ' Ubuntu 22.04, `apt install python3.11-venv` on Debian 12, or `uv python install 3.10`' >&2
    printf ' or `pyenv install 3.10` anywhere; PYTHON=/path/to/python names one kept elsewhere.\n' >&2
    exit 1
}

wanted=$(printf '%s or ' "$@")
wanted=${wanted% or }
chosen=${PYTHON:-}
missing="no Python $wanted was found"

case $chosen in
    '')
        for version in "$@"; do search "$version"; done
        ;;
    */*)
        for version in "$@"; do consider "$chosen" "$version"; done
        ;;
    python3.[0-9]* | 3.[0-9]*)
        missing="PYTHON=$chosen is not Python $wanted"
        for version in "$@"; do
            [ "${chosen#python}" = "$version" ] || continue
            missing="no Python $version was found"
            search "$version"
        done
        ;;
    *)
        for version in "$@"; do search_path "$version" "$chosen"; done
        ;;
esac

[ -z "$without_venv" ] || fail "$without_venv has no venv"
case $chosen in
    '' | python3.[0-9]* | 3.[0-9]*) fail "$missing" ;;
esac
found=$(describe "$(command -v "$chosen" || echo "$chosen")")
[ -n "$found" ] || fail "PYTHON=$chosen does not run"
fail "PYTHON=$chosen is ${found% venv}, not $wanted"
