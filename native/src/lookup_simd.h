#pragma once
// Vectors of bytes for table lookups. Included once an instruction set; everything has internal linkage.

#include <type_traits>

#include "simd.h"

namespace {

#if defined(__AVX512BW__)
constexpr int64_t kSpan = 64;
#else
constexpr int64_t kSpan = 32;
#endif

typedef uint8_t Bytes __attribute__((vector_size(kSpan), may_alias));
typedef uint16_t Shorts __attribute__((vector_size(kSpan), may_alias));
typedef int32_t Words __attribute__((vector_size(kSpan), may_alias));
typedef int16_t HalfShorts __attribute__((vector_size(kSpan / 2), may_alias));

template <class X>
inline X read(const void* from) {
  X x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
template <class X>
inline void write(void* to, const X& x) { std::memcpy(to, &x, sizeof x); }

// table[index] in every byte; indices are below 16.
inline Bytes lookup(const uint8_t* table, Bytes indices) {
#if defined(__AVX512BW__)
  const __m512i all = _mm512_maskz_broadcast_i32x4(0xffff, _mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return (Bytes)_mm512_shuffle_epi8(all, (__m512i)indices);
#elif defined(__AVX2__)
  const __m256i all = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return (Bytes)_mm256_shuffle_epi8(all, (__m256i)indices);
#elif defined(PJ_NEON)
  uint8x16_t parts[2];
  std::memcpy(parts, &indices, 32);
  const uint8x16_t all = vld1q_u8(table);
  parts[0] = vqtbl1q_u8(all, parts[0]), parts[1] = vqtbl1q_u8(all, parts[1]);
  return read<Bytes>(parts);
#else
  Bytes out;
  for (int i = 0; i < kSpan; ++i) out[i] = table[indices[i]];
  return out;
#endif
}
inline Bytes lookup(const uint8_t* table, const uint8_t* indices) { return lookup(table, read<Bytes>(indices)); }

// x in every 16-bit lane.
inline Shorts spread_short(uint16_t x) { return Shorts{} + x; }

// Set bits of 16-bit lanes, or of bytes where that is what an instruction counts.
#if defined(__AVX512BITALG__)
constexpr bool kCountsBytes = false;
#else
constexpr bool kCountsBytes = true;
#endif
inline Shorts count_bits(Shorts x) {
#if defined(__AVX512BITALG__)
  return (Shorts)_mm512_popcnt_epi16((__m512i)x);
#elif defined(__AVX2__)
  const __m256i counts = _mm256_setr_epi64x(0x0302020102010100, 0x0403030203020201, 0x0302020102010100, 0x0403030203020201);
  const __m256i low = _mm256_set1_epi8(15), a = (__m256i)x;
  return (Shorts)_mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(a, low)),
                                 _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(a, 4), low)));
#elif defined(PJ_NEON)
  uint8x16_t parts[2];
  std::memcpy(parts, &x, 32);
  parts[0] = vcntq_u8(parts[0]), parts[1] = vcntq_u8(parts[1]);
  return read<Shorts>(parts);
#else
  x -= x >> 1 & 0x5555;
  x = (x & 0x3333) + (x >> 2 & 0x3333);
  return (x + (x >> 4)) & 0x0f0f;
#endif
}

// Sign bits of 32-bit lanes.
inline uint32_t word_sign_bits(Words x) {
#if defined(__AVX512DQ__)
  return _mm512_movepi32_mask((__m512i)x);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)x));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kSpan / 4; ++i) bits |= static_cast<uint32_t>(x[i] < 0) << i;
  return bits;
#endif
}

// Bit c: a[c] > b[c], of 64.
inline uint64_t greater_bits(const int16_t* a, const int16_t* b) {
#if defined(__AVX512BW__)
  const auto half = [&](int at) { return _mm512_cmpgt_epi16_mask(_mm512_loadu_si512(a + at), _mm512_loadu_si512(b + at)); };
  return static_cast<uint64_t>(half(32)) << 32 | half(0);
#elif defined(__AVX2__)
  const auto some = [&](int at) { return _mm256_cmpgt_epi16((__m256i)read<V>(a + at), (__m256i)read<V>(b + at)); };
  // Packing works in halves of a vector: their order is put right.
  const auto half = [&](int at) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi16(some(at), some(at + 16)), 0xd8)));
  };
  return static_cast<uint64_t>(half(32)) << 32 | half(0);
#else
  uint64_t bits = 0;
  for (int c = 0; c < 64; ++c) bits |= static_cast<uint64_t>(a[c] > b[c]) << c;
  return bits;
#endif
}

typedef int16_t Eight __attribute__((vector_size(16), may_alias));

// Eight rows of eight: element j of row i becomes element i of row j.
inline void turn_eight(Eight* rows) {
#if defined(__SSE2__)
  __m128i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm_unpacklo_epi16((__m128i)rows[2 * i], (__m128i)rows[2 * i + 1]);
    a[2 * i + 1] = _mm_unpackhi_epi16((__m128i)rows[2 * i], (__m128i)rows[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; ++k) {
      b[i + 2 * k] = _mm_unpacklo_epi32(a[i + k], a[i + k + 2]);
      b[i + 2 * k + 1] = _mm_unpackhi_epi32(a[i + k], a[i + k + 2]);
    }
  for (int k = 0; k < 4; ++k) {
    rows[2 * k] = (Eight)_mm_unpacklo_epi64(b[k], b[k + 4]);
    rows[2 * k + 1] = (Eight)_mm_unpackhi_epi64(b[k], b[k + 4]);
  }
#else
  Eight out[8];
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) out[j][i] = rows[i][j];
  for (int i = 0; i < 8; ++i) rows[i] = out[i];
#endif
}

}  // namespace
