#pragma once
// The border between vector kernels on dense rows, compiled once an instruction set, and the rest of the engine.

#include <cstdint>

namespace picojoule {

// Spikes of neurons whose membrane does not matter: n = base + (#{l : x > edges[l][c]} ^ mask) - mask.
struct LevelsJob {
  int64_t outer = 1, channels = 1, inner = 1;  // row = [outer, channels, inner]
  int levels = 0;
  int element = 1;              // bytes of x and of an edge
  const void* edges = nullptr;  // [levels][channels], the largest value where a level is never reached
  const int8_t* base = nullptr;  // [channels]
  const int8_t* mask = nullptr;  // [channels], -1 where a larger x gives fewer spikes
};

// One step of neurons in 32-bit integers, constants spread over `channels`.
struct StepJob {
  int64_t outer = 1, channels = 1, inner = 1;
  const int32_t *decay = nullptr, *gain = nullptr, *bias = nullptr, *reset_value = nullptr, *neg = nullptr;
  const int32_t* thresholds = nullptr;  // [levels][channels]
  int levels = 1, shift = 0, reset = 0;  // reset: 0 hard, 1 soft, 2 none
  int32_t half = 0;
  bool ternary = false;
  bool split = false;  // leaks in two halves of v (NeuronConstants::split)
};

// y = (gain x + bias) >> shift in 32-bit or, when `wide`, in 64-bit integers; a rounding half is part of the bias.
struct AffineJob {
  int64_t outer = 1, channels = 1, inner = 1;
  const int32_t* gain = nullptr;  // [channels]
  const int64_t* bias = nullptr;
  int shift = 0;
  bool wide = false;
};

// Largest or smallest element of every window; what lies outside the image is never the one.
struct ExtremeJob {
  int64_t channels = 1, in[3], out[3], kernel[3], stride[3], before[3];
  const uint8_t* minimum = nullptr;  // [channels]
  int64_t line = 0;                  // elements of a padded line, a vector more than any window reads
};

struct Tap {
  int32_t offset, weight;
};

// Functions of one instruction set. Integers of `element` bytes are int8, int16, int32 or int64.
struct RowsTable {
  void (*levels)(const LevelsJob&, const void* x, int8_t* y);
  void (*step)(const StepJob&, const int32_t* x, int32_t* v, int32_t* spikes);
  void (*affine)(const AffineJob&, const void* x, int x_element, void* y, int y_element);
  void (*extreme)(const ExtremeJob&, const void* x, int element, void* line, void* y);
  void (*widen)(const void* x, int element, int64_t n, int32_t* y);
  void (*narrow)(const int32_t* x, int64_t n, int element, void* y);
  void (*accumulate)(const void* x, int element, int64_t n, int32_t factor, int32_t* y);  // y += factor * x
  void (*multiply)(const int32_t* a, const int32_t* b, int64_t n, int32_t* y);
  // y[i] = bias + sum of weight * x[i + offset] for i < n rounded up to 16; sums of 16 or of 32 bits.
  void (*shifted16)(const int16_t* x, const Tap* taps, int64_t count, int32_t bias, int64_t n, int16_t* y);
  void (*shifted32)(const int32_t* x, const Tap* taps, int64_t count, int32_t bias, int64_t n, int32_t* y);
  // Bytes [channels][pixels] to words [pixel][words] whose bit c is bit `bit` of channel c, or its sign turned.
  void (*pack)(const int8_t* x, int64_t channels, int64_t pixels, int bit, int sign, uint64_t* words);
  // Words [plane][pixel][words] to bytes [pixel][stride], stride a multiple of 8.
  void (*unpack)(const uint64_t* words, int64_t count, int planes, bool ternary, int64_t pixels, int64_t stride, int8_t* y);
  // y[c][r] = x[r][c].
  void (*transpose)(const int8_t* x, int64_t rows, int64_t columns, int64_t x_stride, int64_t y_stride, int8_t* y);
};

// Each exists on processors of its kind (isa.h).
extern const RowsTable kRowsGeneric, kRowsNeon, kRowsAvx2, kRowsAvx512;

}  // namespace picojoule
