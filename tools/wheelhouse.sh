#!/bin/sh
# Collect the wheels of everything that VENV's lock file names, and of this package, in wheelhouse/.
#
# usage: tools/wheelhouse.sh VENV PLATFORM    linux-x86_64, linux-aarch64, macos-arm64 or macos-x86_64
#
# Run it on the operating system that PLATFORM names: requirements may depend on it.
set -eu
cd "$(dirname "$0")/.."
python=$1/bin/python platform=$2 folder=wheelhouse/$2

arch=${platform#*-}
case $platform in
    linux-*) # from glibc 2.34 down, and the older names of three of them
        tags="manylinux2014_$arch manylinux2010_$arch manylinux1_$arch"
        glibc=34
        while [ $glibc -ge 5 ]; do
            tags="$tags manylinux_2_${glibc}_$arch"
            glibc=$((glibc - 1))
        done
        ;;
    macos-*)
        tags=
        for release in 14_0 13_0 12_0 11_0 10_15 10_14 10_13 10_12 10_9; do
            tags="$tags macosx_${release}_$arch macosx_${release}_universal2"
        done
        ;;
    *)
        echo "PLATFORM: expected linux-x86_64, linux-aarch64, macos-arm64 or macos-x86_64, found $platform" >&2
        exit 1
        ;;
esac

version=$("$python" -c 'import sys; print("3%d" % sys.version_info[1])')
set --
for tag in $tags; do
    set -- "$@" --platform "$tag"
done
mkdir -p "$folder"
"$python" -m pip download --quiet --no-deps --require-hashes --requirement locks/py"$version"-*.txt \
    "$@" --implementation cp --python-version "$version" --dest "$folder"

set -- # packages without a wheel are built here
for source in "$folder"/*.tar.gz "$folder"/*.zip; do
    [ ! -e "$source" ] || set -- "$@" "$source"
done
if [ $# -gt 0 ]; then
    "$python" -m pip wheel --quiet --no-deps --build-constraint locks/build.txt \
        --wheel-dir "$folder" "$@"
    rm "$@"
fi
tools/uv.sh build --quiet --wheel --build-constraints locks/build.txt --out-dir "$folder"
echo "$folder: $(ls "$folder" | wc -l) wheels, $(du -sh "$folder" | cut -f1)"
