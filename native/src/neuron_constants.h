#pragma once
// Constants of a snapped Neuron, checked and spread out, with the membrane range they imply.

#include "picojoule/graph.h"

namespace picojoule {

enum class Reset { hard, soft, none };

// A constant [T|1, C|1]; `at(t, c)` reads it with broadcasting.
struct Plane {
  int64_t t_stride = 0, c_stride = 0;
  Ints values{0};

  int64_t at(int64_t t, int64_t c) const { return values[t * t_stride + c * c_stride]; }
  bool steady() const { return t_stride == 0; }
  bool uniform() const;
};

// Inclusive range of a membrane or accumulator; kWide stands for "not bounded".
struct Range {
  static constexpr int64_t kWide = int64_t{1} << 60;
  int64_t low, high;

  bool fits(int bits) const { return low >= -(int64_t{1} << (bits - 1)) && high < (int64_t{1} << (bits - 1)); }
  int bits() const;
};

struct NeuronConstants {
  explicit NeuronConstants(const NodeDef& node);  // throws Error when a constant does not fit

  Plane decay, gain, bias, reset_value, v_init, neg;
  std::vector<Plane> thresholds;
  Reset reset = Reset::soft;
  bool ternary = false, half_up = false;
  int decay_shift = 0;
  Ints breaks, values;
  bool table = false;
  int64_t steps = 1, channels = 1, outer = 1, inner = 1;  // row = [outer, channels, inner]

  // Range of every intermediate of channel c over `steps` steps when the input stays in `x`; the range of
  // the membrane after the last step is left in `v` (start it at v_init).
  // With `tight`, the range of h, v and h - threshold alone is joined to it.
  // `charged` is joined with the range of h before firing.
  Range sweep(int64_t c, Range x, int64_t steps, Range& v, Range* tight = nullptr, Range* charged = nullptr) const;
  // That tight range over all channels; with `stream`, for any number of steps of a bounded neuron.
  Range membrane(const std::vector<Range>& x, int64_t steps, bool stream) const;
  static constexpr int64_t kForever = -1;

  // Channels that fire never, or all their levels at every step, get constants of the size of their input: the
  // spikes stay the same, and one such channel no longer asks for wide arithmetic everywhere.
  void settle(const std::vector<Range>& x, bool stream);
  // Leaks in two halves of v, (decay (v >> s)) + ((decay (v mod 2^s) + half) >> s), need no wider product.
  bool splittable() const;
  bool split = false;  // counted so by `sweep`
  // True when all of `count` steps fits 31 bits, with leaks in halves if need be.
  bool fit31(const std::vector<Range>& x, int64_t count);

  // Range of all intermediates of all channels over `steps` or forever; `x` holds one range or one a channel.
  Range reach(const std::vector<Range>& x, int64_t steps) const;
  // True when `reach` is the same for any number of steps.
  bool bounded(const std::vector<Range>& x) const;
  // True when spikes depend on the input of their own step alone.
  bool forgets(bool stream) const;
  // Smallest x from which a neuron that forgets has h >= threshold, or with a negative gain h < threshold;
  // without a gain +-kWide.
  int64_t first_input(int64_t c, int64_t threshold) const;
  bool timeless() const;  // no constant depends on the step

 private:
  static constexpr int kHullSteps = 256;
  bool affordable(int64_t count) const;  // to sweep all channels; else ranges count as unbounded
  bool charge_range(int64_t c, Range x, bool stream, Range& h) const;  // false when unbounded
  void settle_channel(int64_t c, Range x, bool stream, const std::vector<Plane*>& changed);
  bool hull(int64_t c, Range x, Range& v) const;  // membranes of any number of steps; false when unbounded
};

}  // namespace picojoule
