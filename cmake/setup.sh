#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes sure that the packages are there which a command needs, and installs those that are not.
#
#   cmake/setup.sh            what make demo and make check need
#   cmake/setup.sh --lint     also what .ci/run needs to check style
#   cmake/setup.sh --print    only prints the line that would install what is missing
#
# Nothing is installed, and nothing is asked of the network, when everything is there. Installing
# needs root or a sudo that asks for no password; otherwise the line to type is printed, and the
# exit status is 1. A cmake older than 3.25 is supplemented by one in build/tools, which touches
# nothing outside this folder.
set -eu
cd "$(dirname "$0")/.."

lint=0
print=0
for argument in "$@"; do
    case $argument in
    --lint) lint=1 ;;
    --print) print=1 ;;
    *)
        echo "setup.sh: unknown argument '$argument'; usage: cmake/setup.sh [--lint] [--print]" >&2
        exit 2
        ;;
    esac
done

have() {
    command -v "$1" >/dev/null 2>&1
}

have_library() { # NAME MINIMUM ROOT
    if [ -n "$3" ]; then return 0; fi # the user says where it is; cmake checks it
    have pkg-config && pkg-config --exists "$1 >= $2"
}

cmake_is_new() { # PROGRAM
    version=$("$1" --version 2>/dev/null | sed -n '1s/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
    # shellcheck disable=SC2086  # two words on purpose
    set -- $version
    [ $# -eq 2 ] && { [ "$1" -gt 3 ] || { [ "$1" -eq 3 ] && [ "$2" -ge 25 ]; }; }
}

needed=''   # without these nothing is built
useful=''   # without these a part is left out or a test is skipped
need() {
    needed="$needed $1"
}
want() {
    useful="$useful $1"
}

look() {
    needed=''
    useful=''
    have cc || need gcc
    have c++ || need g++
    [ -e /usr/include/stdio.h ] || need libc6-dev
    have make || need make
    have cmake || [ -x build/tools/bin/cmake ] || need cmake
    have pkg-config || need pkg-config
    have_library jansson 2.10 "${JANSSON_ROOT:-}" || need libjansson-dev
    have_library cmocka 1.1.5 "${CMOCKA_ROOT:-}" || need libcmocka-dev
    have_library ucx 1.12 "${UCX_ROOT:-}" || need libucx-dev
    have ninja || want ninja-build
    have_library liburing 2.2 "${URING_ROOT:-}" || want liburing-dev
    have_library openblas 0.3 "${BLAS_ROOT:-}" || want libopenblas-dev
    have gnuplot || want gnuplot-nox
    have ip || want iproute2
    if [ $lint -eq 1 ]; then
        have clang-format || want clang-format
        have clang-tidy || want clang-tidy
    fi
}

install_line() { # PACKAGES...
    echo "apt-get update && apt-get install -y --no-install-recommends $*"
}

root=no # how to become root without a question: "" when root already
if [ "$(id -u)" -eq 0 ]; then
    root=''
elif have sudo && sudo -n true 2>/dev/null; then
    root='sudo -n'
fi

apt_install() { # PACKAGES...
    have apt-get && [ "$root" != no ] || return 1
    echo "setup: installing $* (log: build/setup.log)" >&2
    mkdir -p build
    if [ -z "${updated:-}" ]; then
        updated=1
        # A stale or broken list need not matter: the packages may be known already.
        apt_get update || echo "setup: apt-get update failed; trying with what is known" >&2
    fi
    apt_get install -y --no-install-recommends "$@" || {
        tail -n 5 build/setup.log >&2
        return 1
    }
}

apt_get() {
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 \
        -o DPkg::Lock::Timeout=120 "$@" </dev/null >>build/setup.log 2>&1
}

look
# shellcheck disable=SC2086  # lists of words on purpose, here and below
set -- $needed $useful
if [ $print -eq 1 ]; then
    [ $# -eq 0 ] || install_line "$@"
    exit 0
fi
if [ $# -gt 0 ]; then
    apt_install "$@" || true
    look
    # shellcheck disable=SC2086
    set -- $needed $useful
fi
if [ -n "$needed" ]; then
    {
        echo "setup: missing:$needed"
        if have apt-get; then
            echo "Type this, then start again:"
            echo
            echo "    sudo sh -c '$(install_line "$@")'"
            echo
        else
            echo "This machine has no apt-get. Install what these Debian packages hold by your own"
            echo "means, then start again. Libraries in folders of their own are named by"
            echo "JANSSON_ROOT, CMOCKA_ROOT, UCX_ROOT, URING_ROOT and BLAS_ROOT."
        fi
    } >&2
    exit 1
fi
if [ -n "$useful" ]; then
    echo "setup: going on without:$useful" >&2
    if have apt-get; then
        echo "setup: to have them: sudo sh -c '$(install_line "$@")'" >&2
    fi
fi

# Ubuntu 22.04 and Debian 11 offer an older cmake; PyPI has a current one.
if ! cmake_is_new cmake && ! { [ -x build/tools/bin/cmake ] && cmake_is_new build/tools/bin/cmake; }; then
    echo "setup: cmake $(cmake --version | sed -n '1s/cmake version //p') is older than 3.25;" \
        "putting a newer one into build/tools" >&2
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv || true
    mkdir -p build/tools/bin
    if python3 -m venv build/tools/venv >&2 &&
        build/tools/venv/bin/pip install -q 'cmake>=3.25,<4' </dev/null >&2; then
        ln -sf ../venv/bin/cmake ../venv/bin/ctest build/tools/bin/
    else
        {
            echo "setup: that failed. Type this, then start again:"
            echo
            echo "    sudo apt-get install -y python3-venv; python3 -m venv build/tools/venv &&" \
                "build/tools/venv/bin/pip install 'cmake>=3.25,<4' &&" \
                "ln -sf ../venv/bin/cmake ../venv/bin/ctest build/tools/bin/"
            echo
        } >&2
        exit 1
    fi
fi
