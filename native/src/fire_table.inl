// Membrane tables of the neurons of fire.h: v becomes values[#{j : v > edges[j]}]. Included by fire_impl.inl.

namespace {

using namespace picojoule;

#if defined(__AVX512BW__)

// 2^Log values and their edges in registers: a search of Log permutations.
template <int Log>
void search_words(const FireTable& table, int16_t* v, int64_t n) {
  const int16_t *edges = static_cast<const int16_t*>(table.edges), *values = static_cast<const int16_t*>(table.values);
  const __m512i low = _mm512_loadu_si512(edges), high = _mm512_loadu_si512(edges + 32);
  const __m512i first = _mm512_loadu_si512(values), second = _mm512_loadu_si512(values + 32);
  for (int64_t i = 0; i < n; i += 32) {
    const __m512i x = _mm512_loadu_si512(v + i);
    __m512i at = _mm512_setzero_si512();
    for (int step = 1 << (Log - 1); step > 0; step /= 2) {
      const __m512i probe = _mm512_add_epi16(at, _mm512_set1_epi16(static_cast<int16_t>(step - 1)));
      const __m512i edge = Log > 5 ? _mm512_permutex2var_epi16(low, probe, high) : _mm512_permutexvar_epi16(probe, low);
      at = _mm512_mask_add_epi16(at, _mm512_cmpgt_epi16_mask(x, edge), at, _mm512_set1_epi16(static_cast<int16_t>(step)));
    }
    _mm512_storeu_si512(v + i, Log > 5 ? _mm512_permutex2var_epi16(first, at, second) : _mm512_permutexvar_epi16(at, first));
  }
}

#endif

#if defined(__AVX2__)

// Membranes of eight lanes of 32 bits; what lies past the ends (lanes beyond the channels) reads an end.
inline __m256i direct_eight(const FireTable& table, __m256i x, int scale16) {
  const __m256i low = _mm256_set1_epi32(static_cast<int32_t>(table.low)), high = _mm256_set1_epi32(static_cast<int32_t>(table.high));
  const __m256i at = _mm256_sub_epi32(_mm256_min_epi32(_mm256_max_epi32(x, low), high), low);
  const int* from = static_cast<const int*>(table.direct);
  return scale16 ? _mm256_i32gather_epi32(from, at, 2) : _mm256_i32gather_epi32(from, at, 4);
}

void direct(const FireTable& table, int16_t* v, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const __m256i low = direct_eight(table, _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(v + i))), 1);
    const __m256i high = direct_eight(table, _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(v + i + 8))), 1);
    const __m256i words = _mm256_set1_epi32(65535);
    const __m256i both = _mm256_packus_epi32(_mm256_and_si256(low, words), _mm256_and_si256(high, words));
    store(v + i, (V)_mm256_permute4x64_epi64(both, 0xd8));
  }
}
void direct(const FireTable& table, int32_t* v, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) store(v + i, (V)direct_eight(table, (__m256i)load(v + i), 0));
}

void search(const FireTable& table, int32_t* v, int64_t n) {
  const int32_t *edges = static_cast<const int32_t*>(table.edges), *values = static_cast<const int32_t*>(table.values);
  for (int64_t i = 0; i < n; i += 8) {
    const __m256i x = (__m256i)load(v + i);
    __m256i at = _mm256_setzero_si256();
    for (int64_t step = table.count / 2; step > 0; step /= 2) {
      const __m256i probe = _mm256_add_epi32(at, _mm256_set1_epi32(static_cast<int32_t>(step - 1)));
      const __m256i past = _mm256_cmpgt_epi32(x, _mm256_i32gather_epi32(edges, probe, 4));
      at = _mm256_add_epi32(at, _mm256_and_si256(past, _mm256_set1_epi32(static_cast<int32_t>(step))));
    }
    store(v + i, (V)_mm256_i32gather_epi32(values, at, 4));
  }
}

#else

template <class E>
void direct(const FireTable& table, E* v, int64_t n) {
  const E* values = static_cast<const E*>(table.direct);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t x = v[i] < table.low ? table.low : v[i] > table.high ? table.high : v[i];
    v[i] = values[x - table.low];
  }
}

void search(const FireTable& table, int32_t* v, int64_t n) {
  const int32_t *edges = static_cast<const int32_t*>(table.edges), *values = static_cast<const int32_t*>(table.values);
  for (int64_t i = 0; i < n; ++i) {
    int64_t at = 0;
    for (int64_t step = table.count / 2; step > 0; step /= 2) at += v[i] > edges[at + step - 1] ? step : 0;
    v[i] = values[at];
  }
}

#endif

void look_up(const FireTable& table, int16_t* v, int64_t n) {
#if defined(__AVX512BW__)
  if (table.count <= 32) return search_words<5>(table, v, n);
  if (table.count <= kEdges) return search_words<6>(table, v, n);
#endif
  direct(table, v, n);
}
void look_up(const FireTable& table, int32_t* v, int64_t n) {
  if (table.direct) direct(table, v, n);
  else search(table, v, n);
}

}  // namespace
