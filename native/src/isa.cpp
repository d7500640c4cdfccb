#include "isa.h"

#include <algorithm>

#include "block.h"
#include "fast.h"
#include "picojoule/tensor.h"
#include "rows.h"

namespace picojoule {
namespace {

constexpr Isa kAll[] = {Isa::scalar, Isa::generic, Isa::neon, Isa::avx2, Isa::avx512};

bool runs_here(Isa isa) {
  if (isa == Isa::scalar || isa == Isa::generic) return true;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bitalg");
#elif defined(__aarch64__)
  if (isa == Isa::neon) return true;  // every 64-bit Arm processor has it
#endif
  return false;
}

}  // namespace

const char* name_of(Isa isa) {
  static const char* names[] = {"scalar", "generic", "neon", "avx2", "avx512"};
  return names[static_cast<int>(isa)];
}

std::vector<Isa> instruction_sets() {
  std::vector<Isa> found;
  std::copy_if(std::begin(kAll), std::end(kAll), std::back_inserter(found), runs_here);
  return found;
}

Isa parse_isa(const std::string& name) {
  const std::vector<Isa> here = instruction_sets();
  if (name == "auto") return here.back();
  const auto list = [](const auto& sets) {
    std::string text;
    for (Isa isa : sets) text += std::string(text.empty() ? "" : ", ") + name_of(isa);
    return text;
  };
  for (Isa isa : kAll) {
    if (name != name_of(isa)) continue;
    if (std::find(here.begin(), here.end(), isa) != here.end()) return isa;
    throw Error("this processor or build has no " + name + " (it has " + list(here) + "); use isa='auto'");
  }
  throw Error("isa must be auto, " + list(kAll) + ", got '" + name + "'");
}

const FastTable& fast_table(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kFastAvx512;
  if (isa == Isa::avx2) return kFastAvx2;
#elif defined(__aarch64__)
  if (isa == Isa::neon) return kFastNeon;
#endif
  (void)isa;
  return kFastGeneric;
}

const RowsTable* rows_table(Isa isa) {
  if (isa == Isa::scalar) return nullptr;
#if defined(__x86_64__)
  if (isa == Isa::avx512) return &kRowsAvx512;
  if (isa == Isa::avx2) return &kRowsAvx2;
#elif defined(__aarch64__)
  if (isa == Isa::neon) return &kRowsNeon;
#endif
  return &kRowsGeneric;
}

const BlockTable& block_table(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kBlockAvx512;
  if (isa == Isa::avx2) return kBlockAvx2;
#elif defined(__aarch64__)
  if (isa == Isa::neon) return kBlockNeon;
#endif
  (void)isa;
  return kBlockGeneric;
}

}  // namespace picojoule
