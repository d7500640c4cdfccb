// Matrix products of product.h; compiled once an instruction set by product_generic.cpp and its neighbours, which
// name the table PJ_PRODUCT.

#include "product.h"
#include "simd.h"

namespace {

using namespace picojoule;

typedef int8_t Bytes16 __attribute__((vector_size(16), may_alias));
typedef int16_t Words8 __attribute__((vector_size(16), may_alias));
typedef int8_t Bytes8 __attribute__((vector_size(8), may_alias));

template <class X>
X get(const void* from) {
  X x;
  std::memcpy(&x, from, sizeof(X));
  return x;
}
template <class X>
void put(void* to, X x) {
  std::memcpy(to, &x, sizeof(X));
}

template <class E>
void words_of(const E* __restrict a, int64_t m, int64_t k, int16_t* __restrict to) {
  const int64_t even = (k + 1) / 2 * 2;
  if (even == k) {  // one long row
    for (int64_t i = 0; i < m * k; ++i) to[i] = static_cast<int16_t>(a[i]);
    return;
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) to[i * even + j] = static_cast<int16_t>(a[i * k + j]);
    to[i * even + k] = 0;
  }
}

void words(const void* a, int element, int64_t m, int64_t k, int16_t* to) {
  if (element == 1) words_of(static_cast<const int8_t*>(a), m, k, to);
  else if (element == 2) words_of(static_cast<const int16_t*>(a), m, k, to);
  else if (element == 4) words_of(static_cast<const int32_t*>(a), m, k, to);
  else words_of(static_cast<const int64_t*>(a), m, k, to);
}

// Two rows side by side, element by element; those of vectors first. Returns how many columns are done.
int64_t pair_vectors(const int8_t* a, const int8_t* b, int64_t n, int16_t* to) {
  int64_t j = 0;
  for (; j + 16 <= n; j += 16) {
    const Bytes16 x = get<Bytes16>(a + j), y = get<Bytes16>(b + j);
    const Bytes16 low = __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const Bytes16 high = __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    put(to + 2 * j, widen16(reinterpret_cast<const int8_t*>(&low)));
    put(to + 2 * j + 16, widen16(reinterpret_cast<const int8_t*>(&high)));
  }
  for (; j + 8 <= n; j += 8) {
    const Bytes8 x = get<Bytes8>(a + j), y = get<Bytes8>(b + j);
    const Bytes16 both = __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    put(to + 2 * j, widen16(reinterpret_cast<const int8_t*>(&both)));
  }
  return j;
}
int64_t pair_vectors(const int16_t* a, const int16_t* b, int64_t n, int16_t* to) {
  int64_t j = 0;
  for (; j + 8 <= n; j += 8) {
    const Words8 x = get<Words8>(a + j), y = get<Words8>(b + j);
    put(to + 2 * j, Words8(__builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11)));
    put(to + 2 * j + 8, Words8(__builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15)));
  }
  return j;
}
template <class E>
int64_t pair_vectors(const E*, const E*, int64_t, int16_t*) {
  return 0;
}

template <class E>
void pairs_of(const E* b, int64_t k, int64_t n, int64_t padded, int16_t* to) {
  for (int64_t i = 0; i < k; i += 2, b += 2 * n, to += 2 * padded) {
    const bool last = i + 1 == k;
    int64_t j = last ? 0 : pair_vectors(b, b + n, n, to);
    for (; j < n; ++j) {
      to[2 * j] = static_cast<int16_t>(b[j]);
      to[2 * j + 1] = last ? int16_t{0} : static_cast<int16_t>(b[n + j]);
    }
    for (; j < padded; ++j) to[2 * j] = to[2 * j + 1] = 0;
  }
}

void pairs(const void* b, int element, int64_t k, int64_t n, int64_t padded, int16_t* to) {
  if (element == 1) pairs_of(static_cast<const int8_t*>(b), k, n, padded, to);
  else if (element == 2) pairs_of(static_cast<const int16_t*>(b), k, n, padded, to);
  else if (element == 4) pairs_of(static_cast<const int32_t*>(b), k, n, padded, to);
  else pairs_of(static_cast<const int64_t*>(b), k, n, padded, to);
}

// Eight sums to as many as `n` elements.
void leave(V32 sums, int64_t n, void* y, int64_t at, int element) {
  if (n >= 8 && element == 4) return put(static_cast<int32_t*>(y) + at, sums);
  if (n >= 8 && element == 2) return put(static_cast<int16_t*>(y) + at, __builtin_convertvector(sums, Words8));
  for (int64_t i = 0; i < n && i < 8; ++i) {
    if (element == 1) static_cast<int8_t*>(y)[at + i] = static_cast<int8_t>(sums[i]);
    else if (element == 2) static_cast<int16_t*>(y)[at + i] = static_cast<int16_t>(sums[i]);
    else if (element == 4) static_cast<int32_t*>(y)[at + i] = sums[i];
    else static_cast<int64_t*>(y)[at + i] = sums[i];
  }
}

// M rows of 8 N columns from column c.
template <int M, int N>
void block(const int16_t* a, const int16_t* b, int64_t even, int64_t n, int64_t padded, int64_t c, void* y, int64_t at, int element) {
  V32 acc[M][N] = {};
  b += 2 * c;
  for (int64_t i = 0; i < even; i += 2, b += 2 * padded) {
    V16 column[N];
    for (int j = 0; j < N; ++j) column[j] = (V16)load(b + 16 * j);
    for (int r = 0; r < M; ++r) {
      int32_t two;
      std::memcpy(&two, a + r * even + i, 4);
      const V32 pair = {two, two, two, two, two, two, two, two};
      for (int j = 0; j < N; ++j) acc[r][j] = add_madd(acc[r][j], (V16)pair, column[j]);
    }
  }
  for (int r = 0; r < M; ++r)
    for (int j = 0; j < N; ++j) leave(acc[r][j], n - c - 8 * j, y, at + r * n + c + 8 * j, element);
}

template <int M>
void rows_of(const int16_t* a, const int16_t* b, int64_t even, int64_t n, int64_t padded, void* y, int64_t at, int element) {
  int64_t c = 0;
  for (; c + 16 <= padded; c += 16) block<M, 2>(a, b, even, n, padded, c, y, at, element);
  if (c < padded) block<M, 1>(a, b, even, n, padded, c, y, at, element);
}

void multiply(const int16_t* a, const int16_t* b, int64_t m, int64_t k, int64_t n, int64_t padded, void* y, int element) {
  const int64_t even = (k + 1) / 2 * 2;
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) rows_of<4>(a + i * even, b, even, n, padded, y, i * n, element);
  for (; i < m; ++i) rows_of<1>(a + i * even, b, even, n, padded, y, i * n, element);
}

}  // namespace

namespace picojoule {
const ProductTable PJ_PRODUCT = {words, pairs, multiply};
}
