#!/bin/sh
# Builds the engine with sanitizers and runs random and damaged graphs through it, then every kernel forced.
#   native/tests/run_sanitizers.sh [cases] [build folder] [graphs]
# AddressSanitizer + UBSan and ThreadSanitizer in turn; any finding ends with a non-zero status.
set -eu
. "$(dirname -- "$0")/build_native.sh"
cases=${1:-2000}
build=${2:-$here/../build/sanitizers}
graphs=${3:-$((cases / 20))}
CXX=${CXX:-g++}
run() {
  name=$1
  shift
  for program in fuzz_engine forced_kernels; do
    build_native "$build/$name" $program -O1 -g -fno-omit-frame-pointer "$@"
  done
  echo "$name: $("$build/$name/fuzz_engine" "$cases")"
  echo "$name: $("$build/$name/forced_kernels" "$graphs")"
}
run address -fsanitize=address,undefined -fno-sanitize-recover=all
run thread -fsanitize=thread
