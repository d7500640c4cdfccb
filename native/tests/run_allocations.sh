#!/bin/sh
# Counts what warm calls allocate.
#   native/tests/run_allocations.sh [graphs] [build folder]
set -eu
. "$(dirname -- "$0")/build_native.sh"
build=${2:-$here/../build/allocations}
CXX=${CXX:-g++}
build_native "$build" allocations -O2
"$build/allocations" "${1:-60}" "$here"/../tests/deploy/golden/*.pj
