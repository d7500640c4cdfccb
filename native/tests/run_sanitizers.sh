#!/bin/sh
# Builds the engine with sanitizers and runs random and damaged graphs through it.
#   native/tests/run_sanitizers.sh [cases] [build folder]
# Passes AddressSanitizer + UBSan and ThreadSanitizer in turn; any finding ends with a non-zero status.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cases=${1:-2000}
build=${2:-$here/../build/sanitizers}
CXX=${CXX:-g++}
avx2="-mavx2 -mbmi -mbmi2 -mlzcnt"
avx512="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi2 -mavx512vnni -mavx512vpopcntdq"
run() {
  name=$1
  shift
  out=$build/$name
  mkdir -p "$out"
  for source in "$here"/src/*.cpp "$here/tests/fuzz_engine.cpp"; do
    object=$out/$(basename "$source" .cpp).o
    [ "$object" -nt "$source" ] && [ -z "$(find "$here/src" "$here/include" -newer "$object" -print | head -1)" ] && continue
    extra=
    case $(uname -m)-$source in
      x86_64-*_avx2.cpp) extra=$avx2 ;;
      x86_64-*_avx512.cpp) extra="$avx2 $avx512" ;;
    esac
    # shellcheck disable=SC2086
    "$CXX" -std=c++20 -O1 -g -fno-omit-frame-pointer -ffp-contract=off -fwrapv -Wno-psabi "$@" $extra \
      -I"$here/include" -I"$here/src" -c "$source" -o "$object"
  done
  "$CXX" "$@" "$out"/*.o -lpthread -o "$out/fuzz_engine"
  echo "$name: $("$out/fuzz_engine" "$cases")"
}
run address -fsanitize=address,undefined -fno-sanitize-recover=all
run thread -fsanitize=thread
