// Lanes of 16 and 32 bits for the neurons of fire.h, kFireGroup channels in kVectors vectors. Included by
// fire_impl.inl.

namespace {

#if defined(__AVX512BW__)

struct Lanes16 {
  using E = int16_t;
  using X = __m512i;
  using M = __mmask32;
  static constexpr int kVectors = 1;
  static X load(const E* from) { return _mm512_loadu_si512(from); }
  static void store(E* to, X x) { _mm512_storeu_si512(to, x); }
  // Low words of 32 sums.
  static X sums(const int32_t* from) {
    const X even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24, 22,
                                    20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(from), even, _mm512_loadu_si512(from + 16));
  }
  static X zero() { return _mm512_setzero_si512(); }
  static X add(X a, X b) { return _mm512_add_epi16(a, b); }
  static X subtract(X a, X b) { return _mm512_sub_epi16(a, b); }
  static X multiply(X a, X b) { return _mm512_mullo_epi16(a, b); }
  static X both(X a, X b) { return _mm512_and_si512(a, b); }
  static X down(X a, int by) { return (X)((__v32hi)a >> by); }
  static X bit(X a, int by) { return both(down(a, by), _mm512_set1_epi16(1)); }
  static X high_product(X a, X b) { return _mm512_mulhi_epi16(a, b); }
  static X rounded_product(X a, X b) { return _mm512_mulhrs_epi16(a, b); }
  static M above(X a, X b) { return _mm512_cmpgt_epi16_mask(a, b); }
  static M some(X a) { return _mm512_test_epi16_mask(a, a); }
  static X select(M m, X a, X b) { return _mm512_mask_blend_epi16(m, b, a); }
  static X less_where(X a, M m, X b) { return _mm512_mask_sub_epi16(a, m, a, b); }
  static X count(X a, M m) { return _mm512_mask_add_epi16(a, m, a, _mm512_set1_epi16(1)); }
  static uint32_t bits(const M* m) { return m[0]; }
  static uint32_t bits(const X* x, int bit) { return _mm512_test_epi16_mask(x[0], _mm512_set1_epi16(static_cast<int16_t>(1u << bit))); }
};

struct Lanes32 {
  using E = int32_t;
  using X = __m512i;
  using M = __mmask16;
  static constexpr int kVectors = 2;
  static X load(const E* from) { return _mm512_loadu_si512(from); }
  static void store(E* to, X x) { _mm512_storeu_si512(to, x); }
  static X sums(const int32_t* from) { return load(from); }
  static X zero() { return _mm512_setzero_si512(); }
  static X add(X a, X b) { return _mm512_add_epi32(a, b); }
  static X subtract(X a, X b) { return _mm512_sub_epi32(a, b); }
  static X multiply(X a, X b) { return _mm512_mullo_epi32(a, b); }
  static X both(X a, X b) { return _mm512_and_si512(a, b); }
  static X down(X a, int by) { return (X)((__v16si)a >> by); }
  static X bit(X a, int by) { return both(down(a, by), every(1)); }
  static X every(int32_t x) { return _mm512_set1_epi32(x); }
  static M above(X a, X b) { return _mm512_cmpgt_epi32_mask(a, b); }
  static M some(X a) { return _mm512_test_epi32_mask(a, a); }
  static X select(M m, X a, X b) { return _mm512_mask_blend_epi32(m, b, a); }
  static X less_where(X a, M m, X b) { return _mm512_mask_sub_epi32(a, m, a, b); }
  static X count(X a, M m) { return _mm512_mask_add_epi32(a, m, a, every(1)); }
  static uint32_t bits(const M* m) { return m[0] | static_cast<uint32_t>(m[1]) << 16; }
  static uint32_t bits(const X* x, int bit) {
    const X mask = every(static_cast<int32_t>(1u << bit));
    return _mm512_test_epi32_mask(x[0], mask) | static_cast<uint32_t>(_mm512_test_epi32_mask(x[1], mask)) << 16;
  }
};

#else

#if defined(__AVX2__)
constexpr int kLaneBytes = 32;
#else
constexpr int kLaneBytes = 16;  // wider vectors would be taken apart
#endif
typedef int16_t W16 __attribute__((vector_size(kLaneBytes), may_alias));
typedef int32_t W32 __attribute__((vector_size(kLaneBytes), may_alias));

// (a b) >> 16, and (a b + 2^14) >> 15.
inline W16 high_words(W16 a, W16 b) {
#if defined(__AVX2__)
  return (W16)_mm256_mulhi_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (W16)_mm_mulhi_epi16((__m128i)a, (__m128i)b);
#else
  W16 out;
  for (int i = 0; i < 8; ++i) out[i] = static_cast<int16_t>(a[i] * b[i] >> 16);
  return out;
#endif
}
inline W16 rounded_words(W16 a, W16 b) {
#if defined(__AVX2__)
  return (W16)_mm256_mulhrs_epi16((__m256i)a, (__m256i)b);
#else
  const W16 low = a * b;
  return (high_words(a, b) << 1) + ((low >> 15) & 1) + ((low >> 14) & 1);
#endif
}

// Low words of the sums of a vector of words.
inline W16 low_words(const int32_t* from) {
#if defined(__AVX2__)
  const __m256i word = _mm256_set1_epi32(65535);
  const __m256i low = _mm256_and_si256((__m256i)load(from), word), high = _mm256_and_si256((__m256i)load(from + 8), word);
  return (W16)_mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
#elif defined(__SSE2__)
  W32 x[2];
  std::memcpy(x, from, 32);
  for (W32& some : x) some = some << 16 >> 16;
  return (W16)_mm_packs_epi32((__m128i)x[0], (__m128i)x[1]);
#else
  V32 x = (V32)load(from);
  return __builtin_convertvector(x, W16);
#endif
}

// Signs of kFireGroup lanes.
inline uint32_t sign_bits(const W16* x) {
#if defined(__AVX2__)
  const __m256i bytes = _mm256_packs_epi16((__m256i)x[0], (__m256i)x[1]);
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0xd8)));
#elif defined(__SSE2__)
  const __m128i low = _mm_packs_epi16((__m128i)x[0], (__m128i)x[1]), high = _mm_packs_epi16((__m128i)x[2], (__m128i)x[3]);
  return static_cast<uint32_t>(_mm_movemask_epi8(low)) | static_cast<uint32_t>(_mm_movemask_epi8(high)) << 16;
#else
  Quarter8 bytes[4];
  for (int i = 0; i < 4; ++i) bytes[i] = __builtin_convertvector(x[i] >> 8, Quarter8);
  return byte_sign_bits(load(bytes));
#endif
}
inline uint32_t sign_bits(const W32* x) {
#if defined(__SSE2__)
  constexpr int vectors = 128 / kLaneBytes, lanes = kLaneBytes / 4;
  uint32_t bits = 0;
  for (int i = 0; i < vectors; ++i) {
#if defined(__AVX2__)
    const int some = _mm256_movemask_ps(_mm256_castsi256_ps((__m256i)x[i]));
#else
    const int some = _mm_movemask_ps(_mm_castsi128_ps((__m128i)x[i]));
#endif
    bits |= static_cast<uint32_t>(some) << (lanes * i);
  }
  return bits;
#else
  W16 words[4];
  typedef int16_t Half16 __attribute__((vector_size(8), may_alias));
  for (int i = 0; i < 8; ++i) {
    const Half16 half = __builtin_convertvector(x[i] >> 16, Half16);
    std::memcpy(reinterpret_cast<char*>(words) + 8 * i, &half, 8);
  }
  return sign_bits(words);
#endif
}

// What lanes of both widths share; a mask is a vector of -1 and 0.
template <class Element>
struct Lanes {
  using E = Element;
  typedef Element X __attribute__((vector_size(kLaneBytes), may_alias));
  using M = X;
  static constexpr int kVectors = 32 * sizeof(E) / kLaneBytes;
  static X load(const E* from) {
    X x;
    std::memcpy(&x, from, kLaneBytes);
    return x;
  }
  static void store(E* to, X x) { std::memcpy(to, &x, kLaneBytes); }
  static X zero() { return X{}; }
  static X add(X a, X b) { return a + b; }
  static X subtract(X a, X b) { return a - b; }
  static X multiply(X a, X b) { return a * b; }
  static X both(X a, X b) { return a & b; }
  static X down(X a, int by) { return a >> by; }
  static X bit(X a, int by) { return (a >> by) & 1; }
  static X every(E x) { return X{} + x; }
  static M above(X a, X b) { return a > b; }
  static M some(X a) { return a != 0; }
  static X select(M m, X a, X b) { return (a & m) | (b & ~m); }
  static X less_where(X a, M m, X b) { return a - (b & m); }
  static X count(X a, M m) { return a - m; }
  static uint32_t bits(const M* m) { return sign_bits(m); }
  static uint32_t bits(const X* x, int bit) {
    X up[kVectors];
    for (int i = 0; i < kVectors; ++i) up[i] = x[i] << static_cast<int>(8 * sizeof(E) - 1 - bit);
    return sign_bits(up);
  }
};

struct Lanes16 : Lanes<int16_t> {
  static X sums(const int32_t* from) { return low_words(from); }
  static X high_product(X a, X b) { return high_words(a, b); }
  static X rounded_product(X a, X b) { return rounded_words(a, b); }
};

struct Lanes32 : Lanes<int32_t> {
  static X sums(const int32_t* from) { return load(from); }
};

#endif

}  // namespace
