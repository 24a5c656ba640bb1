#!/bin/sh
# Write the lock files in locks/ from setup.cfg: every package, its version and its hashes.
#
# usage: tools/lock.sh [--upgrade | --upgrade-package NAME]    without: keep the versions of today
set -eu
cd "$(dirname "$0")/.."

compile() { # OUTPUT INPUT...
    output=$1
    shift
    tools/uv.sh pip compile --quiet --universal --generate-hashes --no-annotate \
        --custom-compile-command "make lock" --output-file "$output" "$@"
}

for lock in locks/py310-sat0.0.20.txt locks/py311-sat0.0.19.txt; do
    minor=${lock#locks/py3}
    printf "stable-audio-tools==%s\ntinysoundfont\n" "$(basename "${lock#*-sat}" .txt)" |
        compile "$lock" setup.cfg - --python "3.${minor%%-*}" --python-version "3.${minor%%-*}" \
            --extra train --extra ui --extra minislakh --extra musdb --extra test \
            --constraints locks/limits.in --overrides locks/overrides.in "$@"
done
compile locks/build.txt locks/build.in --python-version 3.10 "$@"
compile locks/uv.txt locks/uv.in --python-version 3.8 "$@"
