// Minimal filtering of 4x4 outputs by 3x3 taps on vectors of PJ_BYTES bytes. Includers define PJ_TILES, the table of
// their instruction set. Everything else has internal linkage.

#include "train_doubled.inl"
#include "train_tiles_lanes.inl"

namespace picojoule::tiles {
namespace {

constexpr int kReach = 6, kSide = 4, kPoints = kReach * kReach;

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

void enter(const float* const* pixels, const float* const* soon, int64_t channels, float* out, int64_t points) {
  enter_tile<kReach, kSide, kPoints>(pixels, soon, channels, out, points, [](const V* in, V* all) {
    V half[kPoints];
#pragma GCC unroll 6
    for (int x = 0; x < kReach; ++x) enter_axis(in + x, kReach, half + x, kReach);
#pragma GCC unroll 6
    for (int y = 0; y < kReach; ++y) enter_axis(half + y * kReach, 1, all + y * kReach, 1);
  });
}

void leave(const float* in, int64_t points, const float* bias, int64_t channels, float* const* pixels) {
  leave_tile<kSide, kPoints>(in, points, bias, channels, pixels, [](const V* m, V* y) {
    V half[kSide * kReach];
#pragma GCC unroll 6
    for (int x = 0; x < kReach; ++x) leave_axis(m + x, kReach, half + x, kReach);
#pragma GCC unroll 4
    for (int i = 0; i < kSide; ++i) leave_axis(half + i * kReach, 1, y + i * kSide, 1);
  });
}

constexpr uint8_t kPanel[kPoints] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17,
                                     18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35};

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

}  // namespace

const Kernels PJ_TILES{kBlock,
                       kGroup,
                       {kReach, kSide, kPoints, kPanel, weigh<weights_axis>, enter, leave},
                       {doubled::kReach, doubled::kSide, doubled::kSlots, doubled::kPanel.of, weigh<doubled::weights_axis>,
                        doubled::enter, doubled::leave},
                       multiply};

}  // namespace picojoule::tiles
