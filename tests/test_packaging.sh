#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# packaging.install: installs this build, moves the tree away, and builds a program against it with
# CMake and with pkg-config, shared and static. Also: every installed program and library finds what
# it needs, and none needs libcuda.so.1, so that it starts where no driver is.
# usage: test_packaging.sh BUILD CMAKE CC
set -euo pipefail
build=$1 cmake=$2 cc=$3
source=$(cd "$(dirname "$0")" && pwd)/test_packaging
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'echo "test_packaging.sh: failed at line $LINENO: $BASH_COMMAND" >&2' ERR

fail() {
    echo "test_packaging.sh: $*" >&2
    exit 1
}

# An outside program must see no launcher's variables and no way back into the build folder.
unset LD_LIBRARY_PATH
for variable in $(compgen -e | grep -E '^(TESS_|OMPI_|PMI|SLURM_|RANK$|WORLD_SIZE$)' || true); do
    unset "$variable"
done

# Installed in one place and moved: the package must not know where it was put.
"$cmake" --install "$build" --prefix "$work/first" >"$work/install.log"
mv "$work/first" "$work/prefix"
prefix=$work/prefix
libdir=$(dirname "$(find "$prefix" -name libtessera_core.a)")

if find "$prefix/include" -name '*internal*' | grep -q .; then fail "a private header is installed"; fi

version=$(sed -n 's/^#define TESS_VERSION "\(.*\)"/\1/p' "$prefix/include/tessera/version.h")
expected="tessera $version, self, host"
check() { # PROGRAM
    local output
    output=$("$1" "$work/outside.tiles")
    [ "$output" = "$expected" ] || fail "$1 printed '$output', expected '$expected'"
    echo "$(basename "$1"): $output"
}

"$cmake" -S "$source" -B "$work/outside" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" \
    >"$work/configure.log"
"$cmake" --build "$work/outside" >"$work/build.log" || { cat "$work/build.log" && false; }
check "$work/outside/outside_shared"
check "$work/outside/outside_static"

needed() { # FILE
    readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
}
needed "$work/outside/outside_shared" | grep -q '^libtessera_comm\.so' ||
    fail "outside_shared does not use the shared library"
if needed "$work/outside/outside_static" | grep -q tessera; then
    fail "outside_static uses a shared library of Tessera"
fi

if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$libdir/pkgconfig
    read -ra flags < <(pkg-config --cflags --libs tessera-comm tessera-offload tessera-optim)
    "$cc" "$source/main.c" -o "$work/pc_shared" "${flags[@]}" "-Wl,-rpath,$libdir"
    check "$work/pc_shared"
    read -ra flags < <(pkg-config --cflags --libs --static tessera-comm tessera-offload tessera-optim |
        sed 's/-ltessera_\([a-z]*\)/-l:libtessera_\1.a/g')
    "$cc" "$source/main.c" -o "$work/pc_static" "${flags[@]}"
    check "$work/pc_static"
    if needed "$work/pc_static" | grep -q tessera; then fail "pc_static uses a shared library"; fi
    [ "$(pkg-config --modversion tessera-core)" = "$version" ] || fail "tessera-core.pc: wrong version"
else
    echo "pkg-config is not installed; its half is left out"
fi

while read -r file; do
    if needed "$file" | grep -q '^libcuda\.so'; then fail "$file needs a CUDA driver to start"; fi
    if ldd "$file" | grep 'not found'; then fail "$file does not find the libraries above"; fi
done < <(find "$prefix" -type f \( -path '*/bin/*' -o -name '*.so.*' \))
