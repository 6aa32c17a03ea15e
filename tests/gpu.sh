#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds in build/gpu, runs every test that needs a GPU and each benchmark briefly, and ends with
# one line: "gpu tests: PASS" or "gpu tests: FAIL (what failed)". Exit status 0, 1, or 77 where
# there is no GPU.
# usage: tests/gpu.sh [--debs DIR] [--jobs N]
#   --debs DIR  first unpacks the Debian packages in DIR over /, for a machine that has a GPU and
#               no package registry; as root
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

debs='' jobs=$(nproc 2>/dev/null || echo 4)
while [ $# -gt 0 ]; do
    case $1 in
    --debs) debs=${2:?--debs needs a folder} && shift 2 ;;
    --jobs) jobs=${2:?--jobs needs a number} && shift 2 ;;
    *)
        echo "gpu.sh: unknown argument '$1'; usage: tests/gpu.sh [--debs DIR] [--jobs N]" >&2
        exit 2
        ;;
    esac
done

# One character device a GPU; nvidia-smi need not be on PATH.
gpus=$(find /dev -maxdepth 1 -name 'nvidia[0-9]*' 2>/dev/null | wc -l)
if [ "$gpus" -eq 0 ]; then
    echo "gpu tests: SKIPPED (no /dev/nvidia0 on this machine)"
    exit 77
fi

failed=() skipped=''
run() { # NAME COMMAND...
    local name=$1 start=$SECONDS
    shift
    printf '\n=== %s: %s\n' "$name" "$*"
    "$@" </dev/null || failed+=("$name")
    echo "=== $name: $((SECONDS - start)) s"
}

verdict() {
    echo
    if [ ${#failed[@]} -gt 0 ]; then
        local IFS=,
        echo "gpu tests: FAIL (${failed[*]})"
        exit 1
    fi
    echo "gpu tests: PASS ($gpus GPUs${skipped:+, skipped: $skipped})"
    exit 0
}

# shellcheck disable=SC2317  # called through run
# By way of a folder, because /lib may be a link here and a folder in the package.
unpack() {
    local file folder
    folder=$(mktemp -d)
    for file in "$debs"/*.deb; do dpkg -x "$file" "$folder" || return 1; done
    tar -C "$folder" -cf - . | tar -C / --keep-directory-symlink --no-overwrite-dir -xf - || return 1
    rm -rf "$folder"
    ldconfig
}

# shellcheck disable=SC2317  # called through run
build() {
    cmake --preset gpu --log-level=NOTICE >/dev/null && cmake --build --preset gpu -j "$jobs"
}

if command -v ninja >/dev/null; then export CMAKE_GENERATOR="${CMAKE_GENERATOR:-Ninja}"; fi
if [ -n "$debs" ]; then run unpack unpack; fi
run build build
if [ ${#failed[@]} -gt 0 ]; then verdict; fi

bin=build/gpu/bin
run tessera-info "$bin/tessera-info"
run ctest ctest --preset gpu
# A test may need more GPUs than there are; all of them skipped would mean that none was usable.
skipped=$(sed -n 's/.*<testcase name="\([^"]*\)".*status="notrun".*/\1/p' build/gpu/junit.xml | paste -sd' ')
if ! grep -q 'status="run"' build/gpu/junit.xml; then failed+=("every test was skipped"); fi
run bench_allgather "$bin/bench_allgather" --device cuda --ranks "$gpus" -b 1M -e 64M -f 8 -n 5
run bench_reduce_scatter "$bin/bench_reduce_scatter" --device cuda --ranks "$gpus" -b 1M -e 64M -f 8 -n 5
run bench_overlap "$bin/bench_overlap" --device cuda --ranks "$gpus" -b 64M -e 64M
run bench_adam "$bin/bench_adam" --device cuda --params 1e5,1e8 --layout all --repeat 3
run bench_offload "$bin/bench_offload" --device cuda --ranks "$gpus" -b 1M -e 256M -f 16 --repeat 3
tiles=$(mktemp -u)
run bench_offload_file "$bin/bench_offload" --device cuda --file "$tiles" --what file --file-bytes 1G --repeat 3
run tune "$bin/bench_allgather" --tune --device cuda --ranks "$gpus" --budget 10
verdict
