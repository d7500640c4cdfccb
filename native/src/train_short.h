#pragma once
// Leaky neurons over four steps, the usual number: a neuron's membranes stay in registers from the first step to the
// last and back, and memory sees the rows and nothing else. Results are those of train_leaky.inl, bit for bit.

#include "train_leaky.h"

namespace picojoule::train {

inline constexpr int64_t kShort = 4;  // steps

struct ShortTable {
  // As in LeakyTable.
  void (*forward)(const Leaky&, const Forward&, int64_t width, int64_t begin, int64_t n, bool far);
  void (*backward)(const Leaky&, const Backward&, int64_t width, int64_t begin, int64_t n, bool far, double* sums);
};

extern const ShortTable kShortAvx2, kShortAvx512;

// The rules and calls that these kernels serve.
inline bool short_rule(const Leaky& p, int64_t steps) {
  const bool numbers = !p.decay.each && !p.gain.each && !p.bias.each;
  return steps == kShort && numbers && p.memory && p.fires == Fires::binary && !p.strict;
}
inline bool short_forward(const Leaky& p, const Forward& call, int64_t steps) {
  return short_rule(p, steps) && !call.brief && !call.saved && call.spikes;
}
inline bool short_backward(const Leaky& p, const Backward& call, int64_t steps) {
  const bool formula = p.slope == Slope::sigmoid || p.slope == Slope::atan || p.slope == Slope::triangle || p.slope == Slope::rect;
  const bool constants = call.decay || call.gain || call.bias;
  return short_rule(p, steps) && formula && !call.brief && call.form == Saved::recompute && call.spikes && call.dx &&
         !call.h && !constants && !call.through;
}

}  // namespace picojoule::train
