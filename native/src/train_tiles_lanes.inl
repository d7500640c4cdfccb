// Vectors of PJ_BYTES bytes for minimal filtering, and what its forms share. Internal linkage.
#pragma once

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

// lanes(in, all) on every vector of the channels: from reach * reach pixels to `slots` rows.
template <int reach, int side, int slots, class Lanes>
inline void enter_tile(const float* const* pixels, const float* const* soon, int64_t channels, float* out, int64_t points,
                       const Lanes& lanes) {
  V in[reach * reach], all[slots];
  int64_t k = 0;
  for (; k + kLanes <= channels; k += kLanes) {
    for (int p = 0; p < reach * reach; ++p) in[p] = load(pixels[p] + k);
    for (int p = 0; p < reach * reach; ++p)
      if (p % reach >= reach - side) __builtin_prefetch(soon[p] + k, 0, 2);  // the rest is in this tile
    lanes(in, all);
    for (int p = 0; p < slots; ++p) store(out + p * points + k, all[p]);
  }
  if (k == channels) return;
  const size_t bytes = (channels - k) * sizeof(float);
  for (int p = 0; p < reach * reach; ++p) {
    in[p] = V{};
    std::memcpy(&in[p], pixels[p] + k, bytes);
  }
  lanes(in, all);
  for (int p = 0; p < slots; ++p) std::memcpy(out + p * points + k, &all[p], bytes);
}

// lanes(in, y) on every vector of the channels: from `slots` rows to side * side pixels, those that exist.
template <int side, int slots, class Lanes>
inline void leave_tile(const float* in, int64_t points, const float* bias, int64_t channels, float* const* pixels,
                       const Lanes& lanes) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    V m[slots], y[side * side];
    for (int p = 0; p < slots; ++p) m[p] = load(in + p * points + c);
    lanes(m, y);
    const int64_t live = channels - c < kLanes ? channels - c : kLanes;
    if (bias) {
      V shift{};
      std::memcpy(&shift, bias + c, live * sizeof(float));
      for (V& v : y) v += shift;
    }
    for (int i = 0; i < side * side; ++i) {
      if (!pixels[i]) continue;
      if (live == kLanes) {
        store(pixels[i] + c, y[i]);
      } else {
        std::memcpy(pixels[i] + c, &y[i], live * sizeof(float));
      }
    }
  }
}

// axis(in, step, out, out_step) along both axes of nine taps, from three values to six.
template <auto axis>
void weigh(const float* taps, int64_t tap_stride, int64_t rows, float* panel, int64_t points) {
  for (int64_t k = 0; k < rows; ++k)
    for (int64_t j = 0; j < kBlock; j += kLanes) {
      V w[9], half[18], all[kPanels];
      for (int t = 0; t < 9; ++t) w[t] = load(taps + t * tap_stride + k * kBlock + j);
      for (int x = 0; x < 3; ++x) axis(w + x, 3, half + x, 3);
      for (int y = 0; y < 6; ++y) axis(half + y * 3, 1, all + y * 6, 1);
      for (int p = 0; p < kPanels; ++p) store(panel + p * points + k * kBlock + j, all[p]);
    }
}

}  // namespace
}  // namespace picojoule::tiles
