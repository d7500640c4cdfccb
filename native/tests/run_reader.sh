#!/bin/sh
# The reader of packed files and the C interface under sanitizers: damaged files with AddressSanitizer and UBSan, and
# several threads on one loaded model with ThreadSanitizer.
#   native/tests/run_reader.sh [mutants] [build folder] [seed]
set -eu
. "$(dirname -- "$0")/build_native.sh"
mutants=${1:-200000}
build=${2:-$here/../build/sanitizers}
CXX=${CXX:-g++}
files=$here/../tests/deploy/golden
build_native "$build/address" fuzz_reader -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
ASAN_OPTIONS=allocator_may_return_null=1 "$build/address/fuzz_reader" "$mutants" "${3:-1}" "$files"/*.pj
build_native "$build/thread" share_streams -O1 -g -fno-omit-frame-pointer -fsanitize=thread
"$build/thread/share_streams" 3 "$files"/*.pj
