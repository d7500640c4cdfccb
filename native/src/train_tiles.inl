// Minimal filtering of 4x4 outputs by 3x3 taps on vectors of PJ_BYTES bytes. Includers define PJ_TILES, the table of
// their instruction set. Everything else has internal linkage.

#include <cstring>

#include "train_tiles.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace picojoule::tiles {
namespace {

constexpr int64_t kLanes = PJ_BYTES / 4;
constexpr int kVectors = PJ_BYTES == 64 ? 4 : 2;  // of a block: with kGroup tiles the sums fill the registers
constexpr int kGroup = 6;
constexpr int64_t kBlock = kVectors * kLanes;
typedef float V __attribute__((vector_size(PJ_BYTES), aligned(4), may_alias));

inline V load(const float* p) { return *reinterpret_cast<const V*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<V*>(p) = v; }

inline V fma(V a, V b, V c) {
#if PJ_BYTES == 64
  return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif PJ_BYTES == 32
  return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
inline V fma(float a, V b, V c) { return fma(a - V{}, b, c); }

// Polynomials are evaluated at 0, +-a, +-b and infinity. These points, exact in binary, keep the rounding error within
// twice that of the direct sum; the usual 1 and 2 make it four times.
constexpr double a = 0.625, b = 1.5, a2 = a * a, b2 = b * b;
constexpr float kA = a, kB = b, kA2 = a2, kB2 = b2, kBoth = a2 * b2, kSum = a2 + b2;

// Six inputs of one axis, `step` vectors apart, to values at the points.
inline void enter_axis(const V* in, int64_t step, V* out, int64_t out_step) {
  const V d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step], d4 = in[4 * step], d5 = in[5 * step];
  const V even_a = fma(-kB2, d2, d4), odd_a = fma(-kB2, d1, d3);
  const V even_b = fma(-kA2, d2, d4), odd_b = fma(-kA2, d1, d3);
  out[0] = fma(kBoth, d0, fma(-kSum, d2, d4));
  out[out_step] = fma(kA, odd_a, even_a);
  out[2 * out_step] = fma(-kA, odd_a, even_a);
  out[3 * out_step] = fma(kB, odd_b, even_b);
  out[4 * out_step] = fma(-kB, odd_b, even_b);
  out[5 * out_step] = fma(kBoth, d1, fma(-kSum, d3, d5));
}

// Three taps of one axis to values at the points.
inline void weights_axis(const V* in, int64_t step, V* out, int64_t out_step) {
  constexpr float zero = 1 / (a2 * b2), at_a = 1 / (2 * a2 * (a2 - b2)), at_b = 1 / (2 * b2 * (b2 - a2));
  const V w0 = in[0], w1 = in[step], w2 = in[2 * step];
  const V even_a = fma(kA2, w2, w0), even_b = fma(kB2, w2, w0);
  out[0] = w0 * zero;
  out[out_step] = fma(kA, w1, even_a) * at_a;
  out[2 * out_step] = fma(-kA, w1, even_a) * at_a;
  out[3 * out_step] = fma(kB, w1, even_b) * at_b;
  out[4 * out_step] = fma(-kB, w1, even_b) * at_b;
  out[5 * out_step] = w2;
}

// Values at the points to four outputs of one axis.
inline void leave_axis(const V* in, int64_t step, V* out, int64_t out_step) {
  constexpr float a3 = a * a2, b3 = b * b2;
  const V m0 = in[0], m5 = in[5 * step];
  const V even_a = in[step] + in[2 * step], odd_a = in[step] - in[2 * step];
  const V even_b = in[3 * step] + in[4 * step], odd_b = in[3 * step] - in[4 * step];
  out[0] = m0 + even_a + even_b;
  out[out_step] = fma(kB, odd_b, kA * odd_a);
  out[2 * out_step] = fma(kB2, even_b, kA2 * even_a);
  out[3 * out_step] = fma(b3, odd_b, fma(a3, odd_a, m5));
}

void weights(const float* taps, int64_t tap_stride, int64_t rows, float* panel, int64_t points) {
  for (int64_t k = 0; k < rows; ++k)
    for (int64_t j = 0; j < kBlock; j += kLanes) {
      V w[9], half[kReach * 3], all[kPoints];
      for (int t = 0; t < 9; ++t) w[t] = load(taps + t * tap_stride + k * kBlock + j);
      for (int x = 0; x < 3; ++x) weights_axis(w + x, 3, half + x, 3);
      for (int y = 0; y < kReach; ++y) weights_axis(half + y * 3, 1, all + y * kReach, 1);
      for (int p = 0; p < kPoints; ++p) store(panel + p * points + k * kBlock + j, all[p]);
    }
}

inline void enter_lanes(const V* in, V* all) {
  V half[kPoints];
#pragma GCC unroll 6
  for (int x = 0; x < kReach; ++x) enter_axis(in + x, kReach, half + x, kReach);
#pragma GCC unroll 6
  for (int y = 0; y < kReach; ++y) enter_axis(half + y * kReach, 1, all + y * kReach, 1);
}

void enter(const float* const* pixels, const float* const* soon, int64_t channels, float* out, int64_t points) {
  V in[kPoints], all[kPoints];
  int64_t k = 0;
  for (; k + kLanes <= channels; k += kLanes) {
    for (int p = 0; p < kPoints; ++p) in[p] = load(pixels[p] + k);
    for (int p = 0; p < kPoints; ++p)
      if (p % kReach >= kReach - kSide) __builtin_prefetch(soon[p] + k, 0, 2);  // the rest is in this tile
    enter_lanes(in, all);
    for (int p = 0; p < kPoints; ++p) store(out + p * points + k, all[p]);
  }
  if (k == channels) return;
  const size_t bytes = (channels - k) * sizeof(float);
  for (int p = 0; p < kPoints; ++p) {
    in[p] = V{};
    std::memcpy(&in[p], pixels[p] + k, bytes);
  }
  enter_lanes(in, all);
  for (int p = 0; p < kPoints; ++p) std::memcpy(out + p * points + k, &all[p], bytes);
}

template <int rows>
inline void multiply_rows(const float* in, int64_t in_row, const float* panel, int64_t depth, float* out, int64_t out_row) {
  V sums[rows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k, panel += kBlock) {
    V w[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) w[j] = load(panel + j * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
      const V x = in[r * in_row + k] - V{};
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[r][j] = fma(x, w[j], sums[r][j]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(out + r * out_row + j * kLanes, sums[r][j]);
}

void multiply(const float* in, int64_t in_row, const float* panel, int64_t depth, int64_t tiles, float* out,
              int64_t out_row) {
  for (; tiles >= kGroup; tiles -= kGroup, in += kGroup * in_row, out += kGroup * out_row)
    multiply_rows<kGroup>(in, in_row, panel, depth, out, out_row);
  switch (tiles) {
    case 5: return multiply_rows<5>(in, in_row, panel, depth, out, out_row);
    case 4: return multiply_rows<4>(in, in_row, panel, depth, out, out_row);
    case 3: return multiply_rows<3>(in, in_row, panel, depth, out, out_row);
    case 2: return multiply_rows<2>(in, in_row, panel, depth, out, out_row);
    case 1: return multiply_rows<1>(in, in_row, panel, depth, out, out_row);
    default: return;
  }
}

void leave(const float* in, int64_t points, const float* bias, int64_t channels, float* const* pixels) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    V m[kPoints], half[kSide * kReach], y[kSide * kSide];
    for (int p = 0; p < kPoints; ++p) m[p] = load(in + p * points + c);
#pragma GCC unroll 6
    for (int x = 0; x < kReach; ++x) leave_axis(m + x, kReach, half + x, kReach);
#pragma GCC unroll 4
    for (int i = 0; i < kSide; ++i) leave_axis(half + i * kReach, 1, y + i * kSide, 1);
    const int64_t live = channels - c < kLanes ? channels - c : kLanes;
    if (bias) {
      V shift{};
      std::memcpy(&shift, bias + c, live * sizeof(float));
      for (V& v : y) v += shift;
    }
    for (int i = 0; i < kSide * kSide; ++i) {
      if (!pixels[i]) continue;
      if (live == kLanes) {
        store(pixels[i] + c, y[i]);
      } else {
        std::memcpy(pixels[i] + c, &y[i], live * sizeof(float));
      }
    }
  }
}

}  // namespace

const Kernels PJ_TILES{kBlock, kGroup, weights, enter, multiply, leave};

}  // namespace picojoule::tiles
