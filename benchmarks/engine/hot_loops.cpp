// The inner loops of event_bits by themselves, made of the engine's own pieces: compiled by bounds.py, which reads
// the marked regions with llvm-mca and runs the program for what they take. Prints JSON.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "fast.h"
#include "simd.h"

#include "fast_events.inl"
#include "fast_planes.inl"

#define REGION_BEGIN(name) asm volatile("# LLVM-MCA-BEGIN " name ::: "memory")
#define REGION_END(name) asm volatile("# LLVM-MCA-END " name ::: "memory")

namespace {

constexpr int kWidth = 16;

// 32 rows of one window a turn.
[[gnu::noinline]] void count_rows(const Rows<1>& rows, int64_t n, V* out) {
  V ones{}, twos{}, fours{}, eights{}, sixteens{}, high[3] = {};
  for (int64_t i = 0; i + 32 <= n; i += 32) {
    REGION_BEGIN("count");
    const V a = add_sixteen(rows, i, ones, twos, fours, eights), b = add_sixteen(rows, i + 16, ones, twos, fours, eights);
    V carry;
    full_add(carry, sixteens, sixteens, a, b);
    ripple<3>(high, carry);
    REGION_END("count");
  }
  const V all[] = {ones, twos, fours, eights, sixteens, high[0], high[1], high[2]};
  std::memcpy(out, all, sizeof all);
}

// 16 entries a turn.
[[gnu::noinline]] void move_entries(uint32_t* to, const uint32_t* from, int64_t n, uint32_t by) {
  for (int64_t i = 0; i < n; i += 16) {
    REGION_BEGIN("list");
    add_sixteen_to(to + i, from + i, by);
    REGION_END("list");
  }
}

// One step of 256 neurons with 16 membrane planes, leak and hard reset to zero.
[[gnu::noinline, gnu::flatten]] V fire(const Epilogue& e, const V* x, V lanes, V* v) {
  if (e.reset != 0 || !e.resets_to_zero || !e.leak || e.half_up || e.decay_shift != 1) __builtin_unreachable();
  REGION_BEGIN("neuron");
  const V fired = plane_step<kWidth, false>(e, 0, 0, x, lanes, v);
  REGION_END("neuron");
  return fired;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Least nanoseconds of one call.
template <class F>
double best(F&& body, int calls) {
  double least_time = 1e9;
  for (int round = 0; round < 300; ++round) {
    const double start = now();
    for (int i = 0; i < calls; ++i) body(i);
    least_time = std::min(least_time, (now() - start) / calls);
  }
  return least_time * 1e9;
}

// Clock: a chain of additions that takes a cycle each.
double ghz() {
  uint64_t x = 1;
  const double ns = best([&](int) {
#pragma GCC unroll 100
    for (int i = 0; i < 100; ++i) asm volatile("add $3, %0" : "+r"(x));
  }, 1000);
  return 100 / ns;
}

}  // namespace

int main(int count, char** words) {
  const double rate = count > 1 ? std::atof(words[1]) : 0.1;
  std::mt19937 dice(1);
  for (const int64_t k : {512, 1152, 2304}) {
    constexpr int kLists = 64;
    std::vector<uint8_t> table((k + 1) * 32 + 64);
    for (auto& b : table) b = static_cast<uint8_t>(dice());
    std::vector<std::vector<uint32_t>> lists(kLists);
    double rows = 0, entries = 0;
    for (auto& list : lists) {
      for (int64_t i = 0; i < k; ++i)
        if (dice() < rate * 4294967296.0) list.push_back(static_cast<uint32_t>(i * 32));
      list.resize((list.size() + 31) / 32 * 32, static_cast<uint32_t>(k * 32));
      rows += static_cast<double>(list.size());
      entries += static_cast<double>(list.size());
    }
    std::vector<uint32_t> to(k + 64);
    V out[8];
    const double counting = best([&](int i) {
      count_rows(Rows<1>{table.data(), {lists[i % kLists].data()}}, static_cast<int64_t>(lists[i % kLists].size()), out);
    }, kLists);
    const double moving = best([&](int i) {
      move_entries(to.data(), lists[i % kLists].data(), static_cast<int64_t>(lists[i % kLists].size()), 32);
    }, kLists);
    std::printf("{\"table_bytes\": %lld, \"ghz\": %.3f, \"count_ns\": %.4f, \"list_ns\": %.4f}\n", static_cast<long long>(table.size()),
                ghz(), counting / (rows / kLists), moving / (entries / kLists));
  }
  Epilogue e;
  e.leak = e.resets_to_zero = true;
  e.decay_shift = 1;
  alignas(64) static V constants[4 * kWidth], x[kWidth], v[kWidth];
  e.charge_planes = e.threshold_planes = e.valid_mask = reinterpret_cast<const std::byte*>(constants);
  const double firing = best([&](int i) { fire(e, x, V{} + static_cast<uint64_t>(i), v); }, 100);
  std::printf("{\"ghz\": %.3f, \"neuron_ns\": %.3f}\n", ghz(), firing);
}
