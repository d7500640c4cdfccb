#!/bin/sh
# Every kernel forced on random graphs while each block of memory lies against a page that may not be touched.
#   native/tests/run_guarded.sh [graphs] [build folder]
set -eu
. "$(dirname -- "$0")/build_native.sh"
build=${2:-$here/../build/guarded}
CXX=${CXX:-g++}
EXTRA=$here/tests/guard_pages.cpp
build_native "$build" forced_kernels -O2
"$build/forced_kernels" "${1:-100}"
