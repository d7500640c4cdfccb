// The transpose of a convolution with 3x3 taps and stride 2, on vectors of PJ_BYTES bytes: from 5x5 inputs to 8x8
// outputs. Along an axis, with w the taps and d the inputs,
//
//   y[2t]     = w1 d[t]                    t = 0..3: as it stands
//   y[2t + 1] = w2 d[t] + w0 d[t + 1]      four outputs of two taps: five products by minimal filtering instead of eight
//
// so that both axes take 9 * 9 products instead of 12 * 12. Internal linkage.
#pragma once

#include "train_tiles_lanes.inl"

namespace picojoule::tiles {
namespace {
namespace doubled {

constexpr int kReach = 5, kSide = 8, kRaw = 4, kValues = 9, kSlots = kValues * kValues;

// Polynomials are evaluated at +-a, +-b and infinity, points exact in binary; the usual 0, 1 and 2 double the error.
constexpr double a = 0.375, b = 1.375, a2 = a * a, b2 = b * b;
constexpr float kA = a, kB = b, kA2 = a2, kB2 = b2, kBoth = a2 * b2, kSum = a2 + b2;

// Five inputs of one axis, `step` vectors apart: the first four as they are, then values at the points.
inline void enter_axis(const V* in, int64_t step, V* out, int64_t out_step) {
  const V d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step], d4 = in[4 * step];
  const V even_a = fma(-kB2, d0, d2), odd_a = fma(-kB2, d1, d3);
  const V even_b = fma(-kA2, d0, d2), odd_b = fma(-kA2, d1, d3);
  out[0] = d0, out[out_step] = d1, out[2 * out_step] = d2, out[3 * out_step] = d3;
  out[4 * out_step] = fma(kA, even_a, odd_a);
  out[5 * out_step] = fma(-kA, even_a, odd_a);
  out[6 * out_step] = fma(kB, even_b, odd_b);
  out[7 * out_step] = fma(-kB, even_b, odd_b);
  out[8 * out_step] = fma(kBoth, d0, fma(-kSum, d2, d4));
}

// Three taps of one axis: the middle one, and the outer two to values at the points.
inline void weights_axis(const V* in, int64_t step, V* out, int64_t out_step) {
  constexpr float at_a = 1 / (2 * a * (a2 - b2)), at_b = 1 / (2 * b * (b2 - a2));
  const V w0 = in[2 * step], w1 = in[0];
  out[0] = in[step];
  out[out_step] = fma(kA, w1, w0) * at_a;
  out[2 * out_step] = fma(-kA, w1, w0) * -at_a;
  out[3 * out_step] = fma(kB, w1, w0) * at_b;
  out[4 * out_step] = fma(-kB, w1, w0) * -at_b;
  out[5 * out_step] = w1;
}

// Nine products of one axis to eight outputs.
inline void leave_axis(const V* in, int64_t step, V* out, int64_t out_step) {
  constexpr float a3 = a * a2, b3 = b * b2;
  const V even_a = in[4 * step] + in[5 * step], odd_a = in[4 * step] - in[5 * step];
  const V even_b = in[6 * step] + in[7 * step], odd_b = in[6 * step] - in[7 * step];
  for (int t = 0; t < kRaw; ++t) out[2 * t * out_step] = in[t * step];
  out[out_step] = even_a + even_b;
  out[3 * out_step] = fma(kB, odd_b, kA * odd_a);
  out[5 * out_step] = fma(kB2, even_b, kA2 * even_a);
  out[7 * out_step] = fma(b3, odd_b, fma(a3, odd_a, in[8 * step]));
}

void enter(const float* const* pixels, const float* const* soon, int64_t channels, float* out, int64_t points) {
  enter_tile<kReach, kReach - 1, kSlots>(pixels, soon, channels, out, points, [](const V* in, V* all) {
    V half[kValues * kReach];
#pragma GCC unroll 5
    for (int x = 0; x < kReach; ++x) enter_axis(in + x, kReach, half + x, kReach);
#pragma GCC unroll 9
    for (int y = 0; y < kValues; ++y) enter_axis(half + y * kReach, 1, all + y * kValues, 1);
  });
}

void leave(const float* in, int64_t points, const float* bias, int64_t channels, float* const* pixels) {
  leave_tile<kSide, kSlots>(in, points, bias, channels, pixels, [](const V* m, V* y) {
    V half[kSide * kValues];
#pragma GCC unroll 9
    for (int x = 0; x < kValues; ++x) leave_axis(m + x, kValues, half + x, kValues);
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i) leave_axis(half + i * kValues, 1, y + i * kSide, 1);
  });
}

// All rows of unchanged inputs share the weights of the middle tap.
struct Panels {
  uint8_t of[kSlots];

  constexpr Panels() : of{} {
    for (int s = 0; s < kSlots; ++s) {
      const int y = s / kValues, x = s % kValues;
      of[s] = static_cast<uint8_t>((y < kRaw ? 0 : y - kRaw + 1) * 6 + (x < kRaw ? 0 : x - kRaw + 1));
    }
  }
};
constexpr Panels kPanel;

}  // namespace doubled
}  // namespace
}  // namespace picojoule::tiles
