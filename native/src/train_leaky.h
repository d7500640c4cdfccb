#pragma once
// The border between the leaky kernels, compiled once an instruction set, and their dispatcher.

#include "picojoule/train_leaky.h"

namespace picojoule::train {

// Neurons of one piece: every row of a piece stays in the first cache level.
inline constexpr int64_t kPiece = 512;

// Floats of scratch memory that a backward piece of `piece` neurons needs.
inline int64_t scratch_floats(int64_t steps, int64_t piece) { return 2 * steps * piece; }

struct LeakyTable {
  // Neurons [begin, begin + n), n <= kPiece. `far`: results are too large for the caches and pass them by.
  // `scratch` holds scratch_floats(steps, n).
  void (*forward)(const Leaky&, const Forward&, int64_t steps, int64_t width, int64_t begin, int64_t n, bool far);
  void (*backward)(const Leaky&, const Backward&, int64_t steps, int64_t width, int64_t begin, int64_t n, bool far,
                   float* scratch);
};

extern const LeakyTable kLeakyGeneric;
extern const LeakyTable kLeakyAvx2;

}  // namespace picojoule::train
