// Blocks of a row in and out of memory: float or bfloat16, ahead of time, and past the caches.
#pragma once

#include "train_leaky.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace picojoule::train {
namespace {

struct Row {
  alignas(64) float at[kBlock];
  operator float*() { return at; }
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float magnitude(float x) { return of_bits(bits_of(x) & 0x7fffffffu); }

// x >= 0 and below 2^22, rounded half to even; the addition rounds to the unit of 2^23.
inline float round_even(float x) {
  constexpr float unit = 8388608.0f;
  return (x + unit) - unit;
}

void copy_row(const float* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

void fill_row(float* to, float value, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// Calls f(i, length, c) for the stretches of [begin, begin + n) whose flat index belongs to one constant each (inner
// above 1) or, stretch by stretch, to c, c + 1, ... (inner 1); i counts from 0.
template <class F>
void by_stretch(int64_t begin, int64_t n, int64_t inner, int64_t count, F f) {
  if (inner == 1) {
    int64_t c = begin % count;
    for (int64_t i = 0; i < n; c = 0) {
      const int64_t length = std::min(n - i, count - c);
      f(i, length, c);
      i += length;
    }
    return;
  }
  int64_t c = begin / inner % count, left = inner - begin % inner;
  for (int64_t i = 0; i < n; left = inner, c = c + 1 == count ? 0 : c + 1) {
    const int64_t length = std::min(n - i, left);
    f(i, length, c);
    i += length;
  }
}

// -- ahead of time -----------------------------------------------------------------------------------------

// What the next block of work will read is asked for while this one is computed, into the second cache level: rows of
// T steps are T distant streams, each too short for the processor's own prefetching. Asking a line at a time beside
// the arithmetic beats a burst, which fills the miss buffers.
struct Ahead {
  const void* row = nullptr;  // float or bfloat16 at the first neuron of the piece; null: nothing
  int64_t size = 4;           // bytes a value

  void ask(int64_t j, int64_t n) const {
    if (!row) return;
    const char* line = static_cast<const char*>(row) + j * size;
    for (int64_t i = 0; i < n * size; i += 64) __builtin_prefetch(line + i, 0, 2);
  }
};

// -- values ------------------------------------------------------------------------------------------------

inline const void* offset(const void* base, int64_t at, bool brief) {
  return base ? static_cast<const char*>(base) + at * (brief ? 2 : 4) : nullptr;
}

// n values at `at`: where they are, or widened to `buffer`.
inline const float* read(const void* base, int64_t at, bool brief, float* buffer, int64_t n) {
  if (!brief) return static_cast<const float*>(base) + at;
  const uint16_t* __restrict in = static_cast<const uint16_t*>(base) + at;
  float* __restrict out = buffer;
  for (int64_t i = 0; i < n; ++i) out[i] = of_bits(static_cast<uint32_t>(in[i]) << 16);
  return buffer;
}

// bfloat16, half to even; NaN stays NaN.
inline uint16_t to_brief(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// A block to memory that will not be read soon: past the caches where the instruction set can.
inline void put_far(const float* __restrict from, float* __restrict to, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i < n && reinterpret_cast<uintptr_t>(to + i) % 64; ++i) to[i] = from[i];
  for (; i + 16 <= n; i += 16) _mm512_stream_ps(to + i, _mm512_loadu_ps(from + i));
#elif defined(__AVX2__)
  for (; i < n && reinterpret_cast<uintptr_t>(to + i) % 32; ++i) to[i] = from[i];
  for (; i + 8 <= n; i += 8) _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
#endif
  for (; i < n; ++i) to[i] = from[i];
}

inline void write(const float* __restrict from, void* base, int64_t at, bool brief, bool far, int64_t n) {
  if (brief) {
    uint16_t* __restrict out = static_cast<uint16_t*>(base) + at;
    for (int64_t i = 0; i < n; ++i) out[i] = to_brief(from[i]);
  } else if (far) {
    put_far(from, static_cast<float*>(base) + at, n);
  } else {
    copy_row(from, static_cast<float*>(base) + at, n);
  }
}

// Where a block of results is made: in place, or in `buffer`, from which `write` takes it on.
inline float* place(void* base, int64_t at, bool brief, bool far, float* buffer) {
  return base && !brief && !far ? static_cast<float*>(base) + at : buffer;
}

// -- bits of spikes: n a multiple of 8 -----------------------------------------------------------------------

inline void to_bits(const float* spikes, uint8_t* bits, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    const __mmask16 set = _mm512_cmp_ps_mask(_mm512_loadu_ps(spikes + i), _mm512_setzero_ps(), _CMP_NEQ_UQ);
    std::memcpy(bits + i / 8, &set, 2);
  }
#elif defined(__AVX2__)
  for (; i < n; i += 8) {
    const __m256 set = _mm256_cmp_ps(_mm256_loadu_ps(spikes + i), _mm256_setzero_ps(), _CMP_NEQ_UQ);
    bits[i / 8] = static_cast<uint8_t>(_mm256_movemask_ps(set));
  }
#endif
  for (; i < n; i += 8) {
    uint8_t byte = 0;
    for (int k = 0; k < 8; ++k) byte |= static_cast<uint8_t>(spikes[i + k] != 0.0f) << k;
    bits[i / 8] = byte;
  }
}

inline void of_bits(const uint8_t* bits, float size, float* out, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m512 one = _mm512_set1_ps(size);
  for (; i + 16 <= n; i += 16) {
    __mmask16 set;
    std::memcpy(&set, bits + i / 8, 2);
    _mm512_storeu_ps(out + i, _mm512_maskz_mov_ps(set, one));
  }
#elif defined(__AVX2__)
  const __m256i places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (; i < n; i += 8) {
    const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits[i / 8]), places), places);
    _mm256_storeu_ps(out + i, _mm256_and_ps(_mm256_castsi256_ps(set), _mm256_set1_ps(size)));
  }
#endif
  for (; i < n; ++i) out[i] = bits[i / 8] >> (i % 8) & 1 ? size : 0.0f;
}

// Orders stores that passed the caches before whatever tells another thread that they are done.
inline void settle(bool far) {
#if defined(__AVX2__)
  if (far) _mm_sfence();
#else
  (void)far;
#endif
}

// -- input currents ----------------------------------------------------------------------------------------

void affine(const float* __restrict x, const Norm& norm, const float* scales, const float* shifts, float* __restrict y,
            int64_t begin, int64_t n) {
  by_stretch(begin, n, norm.inner, norm.count, [&](int64_t i, int64_t length, int64_t c) {
    if (norm.inner == 1) {
      const float *__restrict a = scales + c, *__restrict b = shifts + c;
      for (int64_t k = 0; k < length; ++k) y[i + k] = x[i + k] * a[k] + b[k];
    } else {
      const float a = scales[c], b = shifts[c];
      for (int64_t k = 0; k < length; ++k) y[i + k] = x[i + k] * a + b;
    }
  });
}

// Input currents of a call: x, or what the normalisation and the added rows make of it.
struct Current {
  const void* x;
  const Norm& norm;
  bool brief;
  Row wide, added, made;

  Current(const void* x, const Norm& norm, bool brief) : x(x), norm(norm), brief(brief) {}

  // Step-local neurons [first, first + n) of the step that starts at `at`.
  const float* block(int64_t at, int64_t first, int64_t n) {
    const float* values = read(x, at + first, brief, wide, n);
    if (!norm.scale) return values;
    affine(values, norm, norm.scale, norm.shift, made, first, n);
    if (norm.added || norm.bits) {
      if (norm.bits) of_bits(norm.bits + (at + first) / 8, norm.size, added, n);
      const float* __restrict r = norm.bits ? added.at : read(norm.added, at + first, brief, added, n);
      float* __restrict y = made;
      for (int64_t i = 0; i < n; ++i) y[i] += r[i];
    }
    return made;
  }
};

// What the steps of one array's rows ask for next.
inline Ahead ahead_of(const void* base, int64_t at, bool brief) { return {offset(base, at, brief), brief ? 2 : 4}; }

}  // namespace
}  // namespace picojoule::train
