#include "cost.h"

#include <algorithm>
#include <cmath>

#include "moves.h"

namespace picojoule {
namespace {

// Nanoseconds on the machines they were fitted on; only their ratios matter.
struct Prices {
  double event;      // an event of one pixel: its place in the list
  double event_row;  // and its row, a vector of 256 outputs
  double fixed_row;  // a row of static counting, a vector of 256 pixels
  double window;     // a tap of the list of one pixel's window
  double turn;       // turning 64 channels of one pixel, in or out
};

Prices prices(Isa isa) {
  if (isa == Isa::avx512) return {0.25, 0.38, 0.75, 5, 2};
  if (isa == Isa::avx2) return {0.25, 0.4, 0.85, 5, 2};
  return {0.5, 1.9, 2.4, 5, 5};
}

int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

}  // namespace

double static_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa) {
  const Window w = window_of(node, input);
  const Prices cost = prices(isa);
  const double k = static_cast<double>(w.taps() * w.channels_in), weight_planes = facts.planes(), spikes = planes_of(input.kind);
  const int64_t steps = std::max<int64_t>(1, node.steps), pixels = w.out_pixels();
  const double lists = w.channels_out > 128 ? 1 : w.channels_out > 64 ? 2 : 4;
  const double outputs = static_cast<double>(w.channels_out);
  const double event = k * spikes * (cost.event + cost.event_row * weight_planes * static_cast<double>(blocks(w.channels_out, 256)) / lists);
  const double vectors = static_cast<double>(blocks(steps * pixels, 256)) / static_cast<double>(steps * pixels);
  const double rows = facts.density * k * spikes * outputs * vectors * cost.fixed_row;
  const double count_planes = std::log2(k + 1) + weight_planes + spikes - 2;
  const double turned = static_cast<double>(w.taps() * blocks(w.channels_in, 64)) * spikes + count_planes * static_cast<double>(blocks(w.channels_out, 64));
  return std::max(0.0, rows + cost.turn * turned * 256 * vectors - cost.window * static_cast<double>(w.taps())) / event;
}

}  // namespace picojoule
