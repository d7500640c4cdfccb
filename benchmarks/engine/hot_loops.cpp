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

#if defined(__AVX512F__)
// The same of 512 bits: several weight planes, or 512 outputs.
struct WideRows {
  using Vector = Wide;
  const uint8_t* base;
  const uint32_t* list;
  Wide at(int64_t i) const {
    Wide x;
    std::memcpy(&x, base + list[i], sizeof x);
    return x;
  }
};

[[gnu::noinline]] void count_wide(const WideRows& rows, int64_t n, Wide* out) {
  Wide ones{}, twos{}, fours{}, eights{}, sixteens{}, high[3] = {};
  for (int64_t i = 0; i + 32 <= n; i += 32) {
    REGION_BEGIN("wide");
    const Wide a = add_sixteen(rows, i, ones, twos, fours, eights), b = add_sixteen(rows, i + 16, ones, twos, fours, eights);
    Wide carry;
    full_add(carry, sixteens, sixteens, a, b);
    ripple<3>(high, carry);
    REGION_END("wide");
  }
  const Wide all[] = {ones, twos, fours, eights, sixteens, high[0], high[1], high[2]};
  std::memcpy(out, all, sizeof all);
}
#endif

#if defined(__AVX512VNNI__)
// dense_bytes: four inputs of eight windows with 32 outputs a turn.
[[gnu::noinline]] void multiply(const uint8_t* const* window, const int8_t* row, int64_t n, __m512i* out) {
  __m512i acc[8][2] = {};
  for (int64_t i = 0; i < n; i += 4, row += 128) {
    REGION_BEGIN("products");
    const __m512i low = _mm512_loadu_si512(row), high = _mm512_loadu_si512(row + 64);
    for (int m = 0; m < 8; ++m) {
      int32_t four;
      std::memcpy(&four, window[m] + i, 4);
      const __m512i quad = _mm512_set1_epi32(four);
      acc[m][0] = _mm512_dpbusd_epi32(acc[m][0], quad, low);
      acc[m][1] = _mm512_dpbusd_epi32(acc[m][1], quad, high);
    }
    REGION_END("products");
  }
  std::memcpy(out, acc, sizeof acc);
}
#endif

// event_rows: the int8 row of 128 outputs a turn, kept as sums of 16-bit lanes and of their high bytes.
[[gnu::noinline]] void add_bytes(const int8_t* rows, const uint32_t* list, int64_t n, V16* out) {
  V16 all[4] = {}, top[4] = {};
  for (int64_t i = 0; i < n; ++i) {
    REGION_BEGIN("bytes");
    for (int j = 0; j < 4; ++j) {
      const V16 row = (V16)load(rows + list[i] + 32 * j);
      all[j] += row, top[j] += row >> 8;
    }
    REGION_END("bytes");
  }
  std::memcpy(out, all, sizeof all);
  std::memcpy(out + 4, top, sizeof top);
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
    std::printf("{\"table_bytes\": %lld, \"ghz\": %.3f, \"count_ns\": %.4f, \"list_ns\": %.4f", static_cast<long long>(table.size()),
                ghz(), counting / (rows / kLists), moving / (entries / kLists));
    // Rows of 64 and 128 bytes: a strip of 512 bits, and 128 outputs of 8 bits.
    std::vector<uint8_t> large((k + 1) * 128 + 64);
    for (auto& b : large) b = static_cast<uint8_t>(dice());
    std::vector<std::vector<uint32_t>> twice = lists, fourfold = lists;
    for (int i = 0; i < kLists; ++i)
      for (size_t j = 0; j < lists[i].size(); ++j) twice[i][j] *= 2, fourfold[i][j] *= 4;
    alignas(64) V16 sums[8];
    const double adding = best([&](int i) {
      add_bytes(reinterpret_cast<const int8_t*>(large.data()), fourfold[i % kLists].data(), static_cast<int64_t>(lists[i % kLists].size()), sums);
    }, kLists);
    std::printf(", \"bytes_ns\": %.4f", adding / (rows / kLists));
#if defined(__AVX512F__)
    alignas(64) Wide wide[8];
    const double widely = best([&](int i) {
      count_wide(WideRows{large.data() + (64 - reinterpret_cast<uintptr_t>(large.data()) % 64) % 64, twice[i % kLists].data()},
                 static_cast<int64_t>(lists[i % kLists].size()), wide);
    }, kLists);
    std::printf(", \"wide_ns\": %.4f", widely / (rows / kLists));
#endif
#if defined(__AVX512VNNI__)
    alignas(64) __m512i products[16];
    const uint8_t* window[8];
    for (int m = 0; m < 8; ++m) window[m] = large.data() + m * 64;
    const double multiplying = best([&](int) { multiply(window, reinterpret_cast<const int8_t*>(large.data()), k, products); }, kLists);
    std::printf(", \"products_ns\": %.4f", multiplying / (static_cast<double>(k) / 4));
#endif
    std::printf("}\n");
  }
  Epilogue e;
  e.leak = e.resets_to_zero = true;
  e.decay_shift = 1;
  alignas(64) static V constants[4 * kWidth], x[kWidth], v[kWidth];
  e.charge_planes = e.threshold_planes = e.valid_mask = reinterpret_cast<const std::byte*>(constants);
  const double firing = best([&](int i) { fire(e, x, V{} + static_cast<uint64_t>(i), v); }, 100);
  std::printf("{\"ghz\": %.3f, \"neuron_ns\": %.3f}\n", ghz(), firing);
}
