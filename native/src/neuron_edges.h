#pragma once
// Edges of neurons whose spikes depend on x alone: h >= threshold becomes x > edge or its opposite.

#include <limits>

#include "neuron_constants.h"

namespace picojoule {

class Edges {
 public:
  Edges(const NeuronConstants& n, const Kind& input)
      : n_(n), low_(input.low()), high_(input.high()), levels_(static_cast<int64_t>(n.thresholds.size()) + n.ternary),
        edges(static_cast<size_t>(levels_ * n.channels), kNever), base(n.channels, 0), mask(n.channels, 0) {
    for (int64_t c = 0; c < n.channels; ++c) {
      mask[c] = n.gain.at(0, c) < 0 ? -1 : 0;
      int64_t l = 0;
      for (auto& threshold : n.thresholds) reach(l++, c, threshold.at(0, c));
      // h <= neg is the opposite of h >= neg + 1.
      if (n.ternary) {
        base[c] -= 1;
        reach(l, c, n.neg.at(0, c) + 1);
      }
    }
  }

  // Edge of a level and channel as an integer of type E; none is larger where the level is never reached.
  template <class E>
  E at(int64_t level, int64_t channel) const {
    const int64_t edge = edges[level * n_.channels + channel];
    return edge == kNever ? std::numeric_limits<E>::max() : static_cast<E>(edge);
  }
  int64_t levels() const { return levels_; }

 private:
  static constexpr int64_t kNever = INT64_MAX;

  // Adds [h >= threshold] to the spikes of channel c.
  void reach(int64_t level, int64_t c, int64_t threshold) {
    const int64_t edge = n_.first_input(c, threshold) - 1;
    const bool always_above = edge < low_, never_above = edge >= high_;
    base[c] += always_above == (mask[c] == 0) ? 1 : 0;
    if (!always_above && !never_above) edges[level * n_.channels + c] = edge;
  }

  const NeuronConstants& n_;
  int64_t low_, high_;
  int64_t levels_;
  Ints edges;

 public:
  std::vector<int8_t> base, mask;  // [channels]
};

}  // namespace picojoule
