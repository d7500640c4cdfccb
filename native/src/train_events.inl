// Spike-driven kernels on vectors of PJ_BYTES bytes. Includers define PJ_EVENTS, the table of their instruction
// set. Everything else has internal linkage, so that no function built for one set can stand in for another's.

#include <algorithm>
#include <cstring>

#include "train_events.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace picojoule::events {
namespace {

constexpr int64_t kLanes = PJ_BYTES / 4;
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

// The sums of four vectors.
inline void four_sums(V a, V b, V c, V d, float* out) {
#if PJ_BYTES >= 32
#if PJ_BYTES == 64
  const auto half = [](V v) {
    const __m512 w = (__m512)v;
    return _mm256_add_ps(_mm512_castps512_ps256(w), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(w), 1)));
  };
#else
  const auto half = [](V v) { return (__m256)v; };
#endif
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(half(a), half(b)), _mm256_hadd_ps(half(c), half(d)));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
#else
  const V all[] = {a, b, c, d};
  for (int k = 0; k < 4; ++k) out[k] = (all[k][0] + all[k][1]) + (all[k][2] + all[k][3]);
#endif
}

// -- bits ------------------------------------------------------------------------------------------------

int64_t pack(const float* x, int64_t n, float only, uint8_t* bits, bool* same) {
  int64_t count = 0, i = 0;
#if PJ_BYTES == 64
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(only);
  unsigned wrong = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    const __mmask16 set = _mm512_cmp_ps_mask(v, zero, _CMP_NEQ_UQ);
    wrong |= set ^ _mm512_cmp_ps_mask(v, one, _CMP_EQ_OQ);
    std::memcpy(bits + i / 8, &set, 2);
    count += __builtin_popcount(set);
  }
  if (wrong) *same = false;
#elif PJ_BYTES == 32
  const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(only);
  int wrong = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    const int set = _mm256_movemask_ps(_mm256_cmp_ps(v, zero, _CMP_NEQ_UQ));
    wrong |= set ^ _mm256_movemask_ps(_mm256_cmp_ps(v, one, _CMP_EQ_OQ));
    bits[i / 8] = static_cast<uint8_t>(set);
    count += __builtin_popcount(set);
  }
  if (wrong) *same = false;
#endif
  for (; i < n; i += 8) {
    uint8_t byte = 0;
    for (int64_t j = 0; j < std::min<int64_t>(8, n - i); ++j) {
      const float v = x[i + j];
      if (v == 0.0f) continue;
      byte |= 1 << j;
      if (!(v == only)) *same = false;
    }
    bits[i / 8] = byte;
    count += __builtin_popcount(byte);
  }
  return count;
}

int64_t window(const float* h, int64_t n, float centre, float half, bool closed, uint8_t* bits) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 8) {
    uint8_t byte = 0;
    const int64_t last = std::min<int64_t>(8, n - i);
    for (int64_t j = 0; j < last; ++j) {
      const float z = __builtin_fabsf(h[i + j] - centre);
      byte |= static_cast<uint8_t>(!(closed ? z > half : z >= half)) << j;  // NaN counts as open
    }
    bits[i / 8] = byte;
    count += __builtin_popcount(byte);
  }
  return count;
}

void unpack(const uint8_t* bits, int64_t n, float value, float* out) {
  int64_t i = 0;
#if PJ_BYTES == 64
  const __m512 v = _mm512_set1_ps(value);
  for (; i + 16 <= n; i += 16) {
    uint16_t set;
    std::memcpy(&set, bits + i / 8, 2);
    _mm512_storeu_ps(out + i, _mm512_maskz_mov_ps(set, v));
  }
#endif
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) out[i + j] = bits[i / 8] >> j & 1 ? value : 0.0f;
  for (; i < n; ++i) out[i] = bits[i / 8] >> (i % 8) & 1 ? value : 0.0f;
}

void masked(const float* __restrict x, const uint8_t* __restrict bits, int64_t n, bool add, float* __restrict out) {
  int64_t i = 0;
#if PJ_BYTES == 64
  for (; i + 16 <= n; i += 16) {
    uint16_t set;
    std::memcpy(&set, bits + i / 8, 2);
    __m512 v = _mm512_maskz_loadu_ps(set, x + i);
    if (add) v = _mm512_add_ps(v, _mm512_loadu_ps(out + i));
    _mm512_storeu_ps(out + i, v);
  }
#endif
  for (; i < n; i += 8)
    for (int j = 0; j < 8; ++j) {
      const float v = bits[i / 8] >> j & 1 ? x[i + j] : 0.0f;
      out[i + j] = add ? out[i + j] + v : v;
    }
}

// -- forward ---------------------------------------------------------------------------------------------

template <int vectors, bool valued>
inline void add_rows(V* sums, const RowLists& lists, uint32_t from, uint32_t to, const float* weights) {
  for (uint32_t i = from; i < to; ++i) {
    const float* row = weights + static_cast<int64_t>(lists.index[i]) * (vectors * kLanes);
    if constexpr (valued) {
      const V value = lists.value[i] - V{};
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) sums[j] = fma(load(row + j * kLanes), value, sums[j]);
    } else {
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) sums[j] += load(row + j * kLanes);
    }
  }
}

template <int vectors, bool valued>
void forward_block(const Shape& s, const RowLists& lists, int64_t images, const float* weights, const float* bias,
                   float* y, int64_t live) {
  constexpr int64_t block = vectors * kLanes;
  const int64_t in = s.group_in();
  const bool adjacent = s.dilation_x == 1;
  V start[vectors];
  for (int j = 0; j < vectors; ++j) start[j] = load(bias + j * kLanes);
  for (int64_t row = 0; row < images * s.out_height; ++row) {
    const int64_t image = row / s.out_height, top = row % s.out_height * s.stride_y - s.pad_y;
    for (int64_t x = 0; x < s.out_width; ++x, y += s.out_channels) {
      V sums[vectors];
      for (int j = 0; j < vectors; ++j) sums[j] = start[j];
      const int64_t left = x * s.stride_x - s.pad_x;
      for (int64_t ky = 0; ky < s.kernel_y; ++ky) {
        const int64_t at = top + ky * s.dilation_y;
        if (at < 0 || at >= s.height) continue;
        const uint32_t* starts = lists.start + (image * s.height + at) * (s.width + 1);
        const float* taps = weights + ky * s.kernel_x * in * block;
        if (adjacent) {
          const int64_t a = std::max<int64_t>(left, 0), b = std::min(left + s.kernel_x, s.width);
          if (a < b) add_rows<vectors, valued>(sums, lists, starts[a], starts[b], taps - left * in * block);
          continue;
        }
        for (int64_t kx = 0; kx < s.kernel_x; ++kx) {
          const int64_t a = left + kx * s.dilation_x;
          if (a >= 0 && a < s.width)
            add_rows<vectors, valued>(sums, lists, starts[a], starts[a + 1], taps + (kx - a) * in * block);
        }
      }
      if (live == block) {
        for (int j = 0; j < vectors; ++j) store(y + j * kLanes, sums[j]);
      } else {
        float all[block];
        for (int j = 0; j < vectors; ++j) store(all + j * kLanes, sums[j]);
        std::memcpy(y, all, live * sizeof(float));
      }
    }
  }
}

void forward(const Shape& s, const RowLists& lists, int64_t images, const float* weights, const float* bias, float* y,
             int vectors, int64_t live) {
  const auto run = [&]<int n>() {
    if (lists.value) {
      forward_block<n, true>(s, lists, images, weights, bias, y, live);
    } else {
      forward_block<n, false>(s, lists, images, weights, bias, y, live);
    }
  };
  switch (vectors) {
    case 8: return run.template operator()<8>();
    case 4: return run.template operator()<4>();
    case 2: return run.template operator()<2>();
    default: return run.template operator()<1>();
  }
}

// -- weights from one order to another -------------------------------------------------------------------

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int Places __attribute__((vector_size(16)));

inline Four four(const float* p) { return *reinterpret_cast<const Four*>(p); }
inline void put(float* p, Four v) { *reinterpret_cast<Four*>(p) = v; }

void turn(const float* from, int64_t from_row, int64_t rows, int64_t columns, float scale, float* to, int64_t to_row) {
  const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int64_t r = 0; r < whole_rows; r += 4)
    for (int64_t c = 0; c < whole_columns; c += 4) {
      const float* at = from + r * from_row + c;
      const Four a = four(at), b = four(at + from_row), d = four(at + 2 * from_row), e = four(at + 3 * from_row);
      const Four ab = __builtin_shuffle(a, b, Places{0, 4, 1, 5}), de = __builtin_shuffle(d, e, Places{0, 4, 1, 5});
      const Four ab_high = __builtin_shuffle(a, b, Places{2, 6, 3, 7}), de_high = __builtin_shuffle(d, e, Places{2, 6, 3, 7});
      float* out = to + c * to_row + r;
      put(out, __builtin_shuffle(ab, de, Places{0, 1, 4, 5}) * scale);
      put(out + to_row, __builtin_shuffle(ab, de, Places{2, 3, 6, 7}) * scale);
      put(out + 2 * to_row, __builtin_shuffle(ab_high, de_high, Places{0, 1, 4, 5}) * scale);
      put(out + 3 * to_row, __builtin_shuffle(ab_high, de_high, Places{2, 3, 6, 7}) * scale);
    }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) to[c * to_row + r] = from[r * from_row + c] * scale;
}

// -- tiles of the output gradient ------------------------------------------------------------------------

template <int vectors>
void gather_whole(const float* from, int64_t stride, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i, from += stride, to += vectors * kLanes)
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) store(to + j * kLanes, load(from + j * kLanes));
}

void gather(const float* from, int64_t stride, int64_t n, int64_t live, int64_t block, float* to) {
  if (live == block) {
    switch (block / kLanes) {  // a copy of the library each would cost more than the bytes
      case 8: return gather_whole<8>(from, stride, n, to);
      case 4: return gather_whole<4>(from, stride, n, to);
      case 2: return gather_whole<2>(from, stride, n, to);
      default: return gather_whole<1>(from, stride, n, to);
    }
  }
  for (int64_t i = 0; i < n; ++i, from += stride, to += block) {
    std::memcpy(to, from, live * sizeof(float));
    std::memset(to + live, 0, (block - live) * sizeof(float));
  }
}

// -- weight gradient -------------------------------------------------------------------------------------

template <int rows, int columns_, int vectors, bool valued>
void add_columns(const TapBlock& taps, const uint32_t* at, const float* value, int64_t n, const float* g, float* result,
                 int64_t result_row, int64_t result_column) {
  constexpr int64_t block = vectors * kLanes;
  V sums[rows][columns_][vectors];
  const float* from[rows];
  for (int r = 0; r < rows; ++r) {
    from[r] = g - r * taps.row_stride * block;
    for (int c = 0; c < columns_; ++c)
      for (int j = 0; j < vectors; ++j) sums[r][c][j] = V{};
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t here = static_cast<int64_t>(at[i]) * block;
    [[maybe_unused]] V factor;
    if constexpr (valued) factor = value[i] - V{};
#pragma GCC unroll 3
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
      for (int c = 0; c < columns_; ++c)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) {
          const V row = load(from[r] + here - c * block + j * kLanes);
          if constexpr (valued) {
            sums[r][c][j] = fma(row, factor, sums[r][c][j]);
          } else {
            sums[r][c][j] += row;
          }
        }
  }
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns_; ++c)
      for (int j = 0; j < vectors; ++j) {
        float* to = result + r * result_row + c * result_column + j * kLanes;
        store(to, load(to) + sums[r][c][j]);  // a tile's sum at a time: smaller rounding errors than spike by spike
      }
}

// Calls run<rows, columns, vectors>() for the sizes that exist: at most 9 sums are held in registers, save for one
// tap, which may have 8 vectors.
template <class Run>
void sized(int64_t rows, int64_t columns, int vectors, const Run& run) {
  const auto by_vectors = [&]<int r, int c>() {
    if constexpr (r * c <= 1)
      if (vectors == 8) return run.template operator()<r, c, 8>();
    if constexpr (r * c <= 2)
      if (vectors == 4) return run.template operator()<r, c, 4>();
    if constexpr (r * c <= 4)
      if (vectors == 2) return run.template operator()<r, c, 2>();
    run.template operator()<r, c, 1>();
  };
  const auto by_columns = [&]<int r>() {
    if (columns == 3) return by_vectors.template operator()<r, 3>();
    if (columns == 2) return by_vectors.template operator()<r, 2>();
    by_vectors.template operator()<r, 1>();
  };
  if (rows == 3) return by_columns.template operator()<3>();
  if (rows == 2) return by_columns.template operator()<2>();
  by_columns.template operator()<1>();
}

void columns(const TapBlock& taps, int vectors, const uint32_t* at, const float* value, int64_t n, const float* g,
             float* result, int64_t result_row, int64_t result_column) {
  sized(taps.rows, taps.columns, vectors, [&]<int r, int c, int v>() {
    if (value) {
      add_columns<r, c, v, true>(taps, at, value, n, g, result, result_row, result_column);
    } else {
      add_columns<r, c, v, false>(taps, at, value, n, g, result, result_row, result_column);
    }
  });
}

// -- input gradient --------------------------------------------------------------------------------------

constexpr int kTogether = 4;  // positions whose products share a load of the weights

template <int vectors>
void dots_of(const TapBlock& taps, const uint32_t* at, int64_t n, const float* g, const float* weights,
             int64_t weights_row, int64_t weights_column, float* out) {
  constexpr int64_t block = vectors * kLanes;
  for (int64_t i = 0; i < n; i += kTogether) {
    const int64_t some = std::min<int64_t>(kTogether, n - i);
    const float* from[kTogether];
    V sums[kTogether][vectors > 1 ? 2 : 1] = {};
    for (int64_t k = 0; k < kTogether; ++k) from[k] = g + static_cast<int64_t>(at[i + (k < some ? k : 0)]) * block;
    for (int64_t r = 0; r < taps.rows; ++r)
      for (int64_t c = 0; c < taps.columns; ++c) {
        const float* w = weights + r * weights_row + c * weights_column;
        const int64_t shift = (r * taps.row_stride + c * taps.column_stride) * block;
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) {
          const V row = load(w + j * kLanes);
#pragma GCC unroll 4
          for (int k = 0; k < kTogether; ++k) {
            V& to = sums[k][vectors > 1 ? j % 2 : 0];
            to = fma(row, load(from[k] - shift + j * kLanes), to);
          }
        }
      }
    if constexpr (vectors > 1)
      for (int k = 0; k < kTogether; ++k) sums[k][0] += sums[k][1];
    float all[kTogether];
    four_sums(sums[0][0], sums[1][0], sums[2][0], sums[3][0], all);
    for (int64_t k = 0; k < some; ++k) out[i + k] += all[k];
  }
}

void dots(const TapBlock& taps, int vectors, const uint32_t* at, int64_t n, const float* g, const float* weights,
          int64_t weights_row, int64_t weights_column, float* out) {
  switch (vectors) {
    case 8: return dots_of<8>(taps, at, n, g, weights, weights_row, weights_column, out);
    case 4: return dots_of<4>(taps, at, n, g, weights, weights_row, weights_column, out);
    case 2: return dots_of<2>(taps, at, n, g, weights, weights_row, weights_column, out);
    default: return dots_of<1>(taps, at, n, g, weights, weights_row, weights_column, out);
  }
}

}  // namespace

const Kernels PJ_EVENTS{kLanes, 64 / kLanes > 8 ? 8 : 64 / kLanes, pack, window, unpack, masked, forward, turn, gather, columns, dots};

}  // namespace picojoule::events
