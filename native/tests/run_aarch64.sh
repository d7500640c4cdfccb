#!/bin/sh
# Cross-compiles the engine for 64-bit Arm and forces every kernel under qemu's user emulation.
#   native/tests/run_aarch64.sh [graphs] [build folder]
# Needs Debian's g++-aarch64-linux-gnu and qemu-user (or $CXX and $QEMU).
set -eu
. "$(dirname -- "$0")/build_native.sh"
build=${2:-$here/../build/aarch64}
CXX=${CXX:-aarch64-linux-gnu-g++}
for tool in "$CXX" "${QEMU:-qemu-aarch64}"; do
  command -v "$tool" >/dev/null || { echo "run_aarch64.sh: $tool is missing" >&2; exit 77; }
done
build_native "$build" forced_kernels -O2 -static
"${QEMU:-qemu-aarch64}" "$build/forced_kernels" "${1:-20}"
