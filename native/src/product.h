#pragma once
// Products of two integer matrices whose elements fit 16 bits, as attention has them; compiled once an
// instruction set. Sums wrap at 32 bits.

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace picojoule {

struct ProductTable {
  // Rows [m][k] of integers of `element` bytes as int16 [m][k rounded up to two].
  void (*words)(const void* a, int element, int64_t m, int64_t k, int16_t* to);
  // Rows [k][n] as pairs [k / 2 rounded up][padded][2]; `padded` is a multiple of 8, what lies beyond n and k is 0.
  void (*pairs)(const void* b, int element, int64_t k, int64_t n, int64_t padded, int16_t* to);
  // y [m][n] of `element` bytes from words and pairs.
  void (*multiply)(const int16_t* words, const int16_t* pairs, int64_t m, int64_t k, int64_t n, int64_t padded, void* y, int element);
};

// Each exists on processors of its kind (isa.h).
extern const ProductTable kProductGeneric, kProductNeon, kProductAvx2, kProductAvx512;
const ProductTable& product_table(Isa isa);

}  // namespace picojoule
