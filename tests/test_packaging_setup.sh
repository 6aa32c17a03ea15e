#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# packaging.setup: cmake/setup.sh on machines of our making. Each has a PATH of its own, where
# apt-get, sudo and id are small programs that write down what was asked of them.
set -euo pipefail
script=$(cd "$(dirname "$0")/.." && pwd)/cmake/setup.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset JANSSON_ROOT CMOCKA_ROOT UCX_ROOT URING_ROOT BLAS_ROOT

fail() {
    echo "test_packaging_setup.sh: $machine: $*" >&2
    sed 's/^/  | /' "$work/output" "$work/calls" >&2
    exit 1
}

program() { # NAME BODY
    printf '#!/bin/sh\n%s\n' "$2" >"$bin/$1"
    chmod +x "$bin/$1"
}

# A machine with a shell, and apt-get; everything else is added by the case.
machine() { # NAME UID
    machine=$1
    bin=$work/$1/bin
    mkdir -p "$bin" "$work/$1/tree/cmake"
    cp "$script" "$work/$1/tree/cmake/setup.sh"
    for tool in sh sed dirname cat mkdir ln env true tail; do ln -s "$(type -P $tool)" "$bin/$tool"; done
    program id "echo $2"
    program apt-get "echo apt-get \"\$@\" >>$work/calls"
    : >"$work/calls"
}

complete() {
    for tool in cc gcc c++ g++ make ninja gnuplot ip; do program $tool 'exit 0'; done
    program pkg-config 'exit 0'
    program cmake 'echo cmake version 3.25.1'
}

setup() { # EXPECTED-STATUS ARGUMENTS...
    local expected=$1 status=0
    shift
    PATH=$bin "$work/$machine/tree/cmake/setup.sh" "$@" >"$work/output" 2>&1 </dev/null || status=$?
    [ $status -eq "$expected" ] || fail "exit status $status, expected $expected"
}

calls() { # PATTERN COUNT
    local count
    count=$(grep -c -e "$1" "$work/calls" || true)
    [ "$count" -eq "$2" ] || fail "'$1' was called $count times, expected $2"
}

says() { # PATTERN
    grep -q -e "$1" "$work/output" || fail "the output does not say '$1'"
}

machine complete 0
complete
setup 0
calls . 0
[ ! -s "$work/output" ] || fail "it should have nothing to say"

machine bare-root 0
setup 1
calls '^apt-get .*update' 1
calls '^apt-get .*install -y .* gcc g++ .*cmake pkg-config libjansson-dev libcmocka-dev libucx-dev' 1
says "sudo sh -c 'apt-get update && apt-get install -y .*libucx-dev"

machine bare-user 1000
setup 1
calls . 0
says "sudo sh -c 'apt-get update && apt-get install -y .*libjansson-dev"

machine user-with-sudo 1000
program sudo "echo sudo \"\$@\" >>$work/calls; [ \"\$1\" = -n ] && shift; exec \"\$@\""
setup 1
calls '^sudo -n env .*apt-get .*install -y' 1
calls '^apt-get .*update' 1

machine asks-for-a-password 1000
program sudo 'exit 1'
setup 1
calls . 0

# Installing works: what apt-get brings is found, and the set-up goes on.
machine installs 0
program apt-get "echo apt-get \"\$@\" >>$work/calls; case \$* in *libucx-dev*) echo >$work/ucx ;; esac"
complete
program pkg-config "case \$* in *ucx*) [ -e $work/ucx ] ;; esac"
setup 0
calls 'install -y --no-install-recommends libucx-dev$' 1

# What is only useful does not stop anyone who cannot install it.
machine no-plots 1000
complete
rm "$bin/gnuplot"
setup 0
says 'going on without: gnuplot-nox'
setup 0 --print
says '^apt-get update && apt-get install -y --no-install-recommends gnuplot-nox$'
calls . 0

machine no-apt 0
rm "$bin/apt-get"
setup 1
says 'has no apt-get'

# An old cmake is supplemented in build/tools by one from PyPI.
machine old-cmake 1000
complete
program cmake 'echo cmake version 3.22.1'
program pip "echo pip \"\$@\" >>$work/calls"
program newer-cmake 'echo cmake version 3.31.6'
program python3 "[ \"\$2\" = venv ] || exit 0
mkdir -p \"\$3/bin\"
ln -s $bin/pip $bin/newer-cmake \"\$3/bin\"
ln -s newer-cmake \"\$3/bin/cmake\""
setup 0
calls '^pip install' 1
"$work/$machine/tree/build/tools/bin/cmake" --version | grep -q 3.31 || fail "no newer cmake"
setup 0
calls '^pip install' 1

machine old-cmake-offline 1000
complete
program cmake 'echo cmake version 3.22.1'
program python3 'exit 1'
setup 1
says "pip install 'cmake>=3.25,<4'"

machine wrong-argument 0
complete
setup 2 --instal
says "unknown argument '--instal'"
echo "all machines behaved"
