# Sourced by the scripts beside it: compiles the engine and one test program, incrementally.
#   build_native FOLDER PROGRAM FLAGS...   objects and the program end up in FOLDER
# $CXX is the compiler, $LAUNCH may hold ccache, $EXTRA further sources of tests.
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
avx2="-mavx2 -mbmi -mbmi2 -mlzcnt"
avx512="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi2 -mavx512vnni -mavx512vpopcntdq -mavx512bitalg"

build_native() {
  folder=$1
  program=$2
  shift 2
  mkdir -p "$folder"
  objects=
  for source in "$here"/src/*.cpp "$here/tests/$program.cpp" ${EXTRA:-}; do
    case $source in */train_*) continue ;; esac  # the kernels of training are tested from Python
    object=$folder/$(basename "$source" .cpp).o
    objects="$objects $object"
    if [ "$object" -nt "$source" ] && [ -z "$(find "$here/src" "$here/include" "$here/tests" -name '*.h' -newer "$object" -o -name '*.inl' -newer "$object" | head -1)" ]; then
      continue
    fi
    extra=
    case $("$CXX" -dumpmachine)-$source in
      x86_64-*_avx2.cpp) extra=$avx2 ;;
      x86_64-*_avx512.cpp) extra="$avx2 $avx512" ;;
    esac
    # shellcheck disable=SC2086
    ${LAUNCH:-} "$CXX" -std=c++20 -ffp-contract=off -fwrapv -Wall -Wextra -Wno-psabi "$@" $extra \
      -I"$here/include" -I"$here/src" -I"$here/tests" -c "$source" -o "$object"
  done
  # shellcheck disable=SC2086
  "$CXX" "$@" $objects -lpthread -o "$folder/$program"
}
