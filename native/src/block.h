#pragma once
// The border between block kernels, compiled once an instruction set, and the rest of the engine. A block is some
// pixels of a row with all their channels, [pixel][channel], small enough to stay in the first cache while a chain of
// element-wise nodes works on it. Constants are spread over a block beforehand, so that every loop is one plain pass.

#include <cstdint>

#include "isa.h"

namespace picojoule {

inline constexpr int64_t kBlock = 512;       // elements of a block, or one pixel when that is more
inline constexpr int64_t kBlockSlack = 64;   // bytes past the spike counts of a block that may be read

// n integers of 1, 2 or 4 bytes.
struct BlockSource {
  const void* data;
  int element;
};

// y = (gain x + bias) >> shift in 32-bit or, when `wide`, in 64-bit integers; a rounding half is part of the bias.
struct BlockAffine {
  const int32_t* gain = nullptr;
  const int64_t* bias = nullptr;
  const int32_t* bias32 = nullptr;  // when not wide
  int shift = 0;
  bool wide = false;
};

// Spikes of neurons whose membrane does not matter: n = base + (#{l : x > edges[l]} ^ mask) - mask.
struct BlockLevels {
  int levels = 0;
  const void* edges = nullptr;  // [levels][stride] integers as wide as x
  int64_t stride = 0;
  const int8_t *base = nullptr, *mask = nullptr;  // null: all zero
};

// One step of neurons in 32-bit integers.
struct BlockStep {
  const int32_t *decay = nullptr, *gain = nullptr, *bias = nullptr, *reset_value = nullptr, *neg = nullptr;
  const int32_t* thresholds = nullptr;  // [levels][stride]
  int64_t stride = 0;
  int levels = 1, shift = 0, reset = 0;  // reset: 0 hard, 1 soft, 2 none
  int32_t half = 0;
  bool ternary = false;
  bool split = false;  // leaks in two halves of v (NeuronConstants::split)
  int uniform = 0;  // 1: decay, gain and reset value are those of the first element; 2: bias and thresholds too
};

// Bytes or numbers of a row of the input, [channels][inner] or, when `last`, turned to [inner][channels].
struct BorderRow {
  int64_t channels = 1, inner = 1;
  bool last = false;
  int32_t low = 0, high = 0;  // the kind's
  float scale = 1;
};

// Functions of one instruction set; sums and results are int32.
struct BlockTable {
  void (*affine)(const BlockAffine&, BlockSource x, int64_t n, int32_t* y);
  void (*add)(BlockSource a, int32_t factor_a, BlockSource b, int32_t factor_b, int64_t n, int32_t* y);
  void (*levels)(const BlockLevels&, BlockSource x, int64_t n, int8_t* spikes);
  void (*step)(const BlockStep&, BlockSource x, int64_t n, int32_t* v, int32_t* room, int8_t* spikes);
  void (*widen)(const int8_t* x, int64_t n, int32_t* y);
  void (*narrow)(const int32_t* x, int64_t n, int element, void* y);
  // Spike counts [pixels][channels] to words [plane][pixel][words], `plane_words` from plane to plane.
  void (*words)(const int8_t* spikes, int64_t pixels, int64_t channels, int planes, bool ternary, int64_t plane_words, uint64_t* to);
  // y[c][r] = x[r][c], elements of 1, 2 or 4 bytes.
  void (*turn)(const void* x, int element, int64_t rows, int64_t columns, void* y);
  // table: [channels][256] integers of `element` bytes, as y's.
  void (*look_up)(const BorderRow&, const uint8_t* x, const void* table, int element, void* y);
  // floor(x scale + 1/2) clamped, exact for |low|, |high| < 2^23; false when some x is NaN or infinite.
  bool (*quantise)(const BorderRow&, const float* x, int element, void* y);
  // Spikes of a kind of low..high in bytes; false when one is outside or no whole number, y is then undefined.
  bool (*spike_bytes)(const void* x, bool is_signed, int64_t n, int low, int high, int8_t* y);
  bool (*spike_floats)(const float* x, int64_t n, int low, int high, int8_t* y);
  // y[c] = sum of x[r][c] over rows.
  void (*columns)(BlockSource x, int64_t rows, int64_t columns, int32_t* y);
};

// Each exists on processors of its kind (isa.h).
extern const BlockTable kBlockGeneric, kBlockNeon, kBlockAvx2, kBlockAvx512;

}  // namespace picojoule
