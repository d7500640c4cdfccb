#pragma once
// 256 bits as compiler vectors, and the few instructions that vectors of the compiler cannot spell. Included
// only by files compiled once an instruction set; everything has internal linkage, so that no function built
// for AVX2 can stand in for a generic one.

#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(PJ_NEON)
#include <arm_neon.h>
#endif

namespace {

typedef uint64_t V __attribute__((vector_size(32), may_alias));
typedef int32_t V32 __attribute__((vector_size(32), may_alias));
typedef int8_t V8 __attribute__((vector_size(32), may_alias));
typedef int16_t V16 __attribute__((vector_size(32), may_alias));
typedef int8_t Half8 __attribute__((vector_size(16), may_alias));
typedef int8_t Quarter8 __attribute__((vector_size(8), may_alias));

inline V load(const void* from) {
  V v;
  std::memcpy(&v, from, 32);
  return v;
}
inline void store(void* to, V v) { std::memcpy(to, &v, 32); }

// All bits of a 64-bit lane as its sign.
inline V sign_mask(V x) {
#if defined(__AVX2__) && !defined(__AVX512VL__)
  return (V)_mm256_cmpgt_epi64(_mm256_setzero_si256(), (__m256i)x);
#else
  typedef int64_t Signed __attribute__((vector_size(32)));
  return (V)((Signed)x >> 63);
#endif
}

// to[i] = from[i] + by for sixteen words of 32 bits; in halves, since lists begin anywhere and a store of 64 bytes nearly
// always crosses a line of the caches.
[[gnu::always_inline]] inline void add_sixteen_to(uint32_t* to, const uint32_t* from, uint32_t by) {
  const V32 low = (V32)load(from) + static_cast<int32_t>(by), high = (V32)load(from + 8) + static_cast<int32_t>(by);
  store(to, (V)low);
  store(to + 8, (V)high);
}

// sum + 2 carry = a + b + c in every bit.
inline void full_add(V& carry, V& sum, V a, V b, V c) {
#if defined(__AVX512VL__)
  // Making the majority from the parity would save a copy of a register, but waits for it: slower on Zen 4.
  carry = (V)_mm256_ternarylogic_epi64((__m256i)a, (__m256i)b, (__m256i)c, 0xe8);
  sum = (V)_mm256_ternarylogic_epi64((__m256i)a, (__m256i)b, (__m256i)c, 0x96);
#elif defined(PJ_NEON)
  const V u = a ^ b;
  carry = ((a ^ c) & u) ^ a;  // c where a and b differ: one instruction (BSL)
  sum = u ^ c;
#else
  const V u = a ^ b;
  carry = (a & b) | (u & c);
  sum = u ^ c;
#endif
}

#if defined(__AVX512F__)
// 512 bits, for loops whose loads and instructions count more than their width.
typedef uint64_t Wide __attribute__((vector_size(64), may_alias));

inline void full_add(Wide& carry, Wide& sum, Wide a, Wide b, Wide c) {
  carry = (Wide)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0xe8);
  sum = (Wide)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
}
#endif

inline V majority(V a, V b, V c) {
#if defined(__AVX512VL__)
  return (V)_mm256_ternarylogic_epi64((__m256i)a, (__m256i)b, (__m256i)c, 0xe8);
#else
  return (a & b) | ((a ^ b) & c);
#endif
}

inline V16 widen16(const int8_t* from) {
#if defined(__AVX2__)
  return (V16)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Half8 h;
  std::memcpy(&h, from, 16);
  return __builtin_convertvector(h, V16);
#endif
}

// Sums of neighbouring int16 products: out[i] = a[2i] b[2i] + a[2i+1] b[2i+1].
inline V32 madd(V16 a, V16 b) {
#if defined(__AVX2__)
  return (V32)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  __m128i x[2], y[2];
  std::memcpy(x, &a, 32);
  std::memcpy(y, &b, 32);
  const __m128i sums[2] = {_mm_madd_epi16(x[0], y[0]), _mm_madd_epi16(x[1], y[1])};
  V32 out;
  std::memcpy(&out, sums, 32);
  return out;
#else
  V32 out;
  for (int i = 0; i < 8; ++i) out[i] = static_cast<int32_t>(a[2 * i]) * b[2 * i] + static_cast<int32_t>(a[2 * i + 1]) * b[2 * i + 1];
  return out;
#endif
}

inline V32 add_madd(V32 sum, V16 a, V16 b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return (V32)_mm256_dpwssd_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#else
  return sum + madd(a, b);
#endif
}

// Sums of neighbouring products of unsigned and signed bytes; sums that pass 16 bits are the caller's fault.
inline V16 madd_bytes(V unsigned_bytes, V signed_bytes) {
#if defined(__AVX2__)
  return (V16)_mm256_maddubs_epi16((__m256i)unsigned_bytes, (__m256i)signed_bytes);
#else
  const V16 a = (V16)unsigned_bytes, b = (V16)signed_bytes;
  return (a & 255) * ((b << 8) >> 8) + ((a >> 8) & 255) * (b >> 8);
#endif
}

// Bit i to byte i, 0 or -1.
inline V8 bytes_of_bits(uint32_t bits) {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  return (V8)_mm256_movm_epi8(bits);
#elif defined(__AVX2__)
  const __m256i from = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i one = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(bits)), from);
  return (V8)_mm256_cmpeq_epi8(_mm256_and_si256(spread, one), one);
#else
  V v;
  for (int i = 0; i < 4; ++i) {
    const uint64_t apart = ((bits >> 8 * i & 255) * 0x0101010101010101ull) & 0x8040201008040201ull;
    v[i] = ((apart + 0x00406070787c7e7full) >> 7 & 0x0101010101010101ull) * 255;
  }
  return (V8)v;
#endif
}

// Sign bits of 32 bytes.
inline uint32_t byte_sign_bits(V x) {
#if defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_epi8((__m256i)x));
#else
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i)  // the product gathers the bits of eight bytes in its top byte
    bits |= static_cast<uint32_t>(((x[i] >> 7 & 0x0101010101010101ull) * 0x0102040810204080ull) >> 56) << (8 * i);
  return bits;
#endif
}

// One vector from rows of 16 or 8 bytes that belong to two or four pixels.
inline V join2(const void* a, const void* b) {
#if defined(__AVX2__)
  return (V)_mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(a))),
                                    _mm_loadu_si128(static_cast<const __m128i*>(b)), 1);
#else
  V v;
  std::memcpy(&v, a, 16);
  std::memcpy(reinterpret_cast<char*>(&v) + 16, b, 16);
  return v;
#endif
}
inline V join4(const void* a, const void* b, const void* c, const void* d) {
  uint64_t w[4];
  std::memcpy(w, a, 8);
  std::memcpy(w + 1, b, 8);
  std::memcpy(w + 2, c, 8);
  std::memcpy(w + 3, d, 8);
  return V{w[0], w[1], w[2], w[3]};
}

}  // namespace
