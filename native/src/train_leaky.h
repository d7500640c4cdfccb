#pragma once
// The border between the leaky kernels, compiled once an instruction set, and their dispatcher.

#include "picojoule/train_leaky.h"

namespace picojoule::train {

// Neurons whose steps are taken together: two pages a row, so that a page is opened once.
inline constexpr int64_t kPiece = 2048;
// Values between two visits to memory: all rows of a block stay in the first cache level.
inline constexpr int64_t kBlock = 256;

// Floats of scratch memory that a backward piece of `piece` neurons needs.
inline int64_t scratch_floats(int64_t steps, int64_t piece) { return 2 * steps * piece; }

struct LeakyTable {
  // Neurons [begin, begin + n), n <= kPiece. `far`: results are too large for the caches and pass them by.
  // `scratch` holds scratch_floats(steps, n); `sums`, where the rule is normalised, 2 * norm.count values to add to.
  void (*forward)(const Leaky&, const Forward&, int64_t steps, int64_t width, int64_t begin, int64_t n, bool far);
  void (*backward)(const Leaky&, const Backward&, int64_t steps, int64_t width, int64_t begin, int64_t n, bool far,
                   float* scratch, double* sums);
  // Values [begin, begin + n) of rows: sums of x - anchor and of its square by channel, added to sums[2 * count].
  void (*moments)(const Rows&, const float* anchor, int64_t begin, int64_t n, double* sums);
  // out = dy * norm.scale + (x * slope + bias) by channel.
  void (*input_gradient)(const Rows&, const InputGradient&, int64_t begin, int64_t n, bool far);
};

extern const LeakyTable kLeakyGeneric;
extern const LeakyTable kLeakyAvx2;
extern const LeakyTable kLeakyAvx512;

}  // namespace picojoule::train
