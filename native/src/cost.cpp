#include "cost.h"

#include <algorithm>
#include <cmath>

#include "moves.h"

namespace picojoule {
namespace {

// Nanoseconds on the machines they were fitted on; only their ratios matter.
struct Prices {
  double shared, alone;  // an event of one pixel: its place in a list that neighbours share, or have alone
  double event_row;      // and its row, a vector of 256 outputs
  double fixed_row;      // a row of static counting, a vector of 256 pixels
  double turn;           // turning 64 channels of one pixel, in or out
  double gather;         // static counts of one pixel into its part of a vector
  double window;         // a tap of the list of one pixel's window
  double small_row, byte_row;  // 32 outputs of an event's int8 row, when bytes hold some sums and when not
  double products[3];    // of one input with 32 int8 weights, by ByteSums
  double strip;          // 64 bytes of the bit-planes of an event's row
};

Prices prices(Isa isa) {
  if (isa == Isa::avx512) return {0.05, 0.2, 0.48, 0.65, 2.2, 12, 2, 0.3, 0.45, {0.15, 0.15, 0.15}, 0.6};
  if (isa == Isa::avx2) return {0.2, 0.3, 0.45, 0.85, 2.2, 12, 2, 0.3, 0.45, {0.19, 0.38, 0.9}, 1.3};
  return {0.3, 0.5, 1.2, 2.2, 5, 12, 2, 0.6, 0.9, {20, 25, 50}, 2.4};
}

// A boundary is drawn where static counting wins clearly: an estimate that errs costs less on this side.
constexpr double kCaution = 1.1;

int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

}  // namespace

double static_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa) {
  const Window w = window_of(node, input);
  const Prices cost = prices(isa);
  const double k = static_cast<double>(w.taps() * w.channels_in), weight_planes = facts.planes(), spikes = planes_of(input.kind);
  const int64_t steps = std::max<int64_t>(1, node.steps), pixels = w.out_pixels();
  const double lists = w.channels_out > 128 ? 1 : w.channels_out > 64 ? 2 : 4;
  const double outputs = static_cast<double>(w.channels_out);
  const bool shared = lists > 1 && w.kernel[2] > 1 && w.stride[2] == 1 && w.dilation[2] == 1;
  const double event = k * spikes * ((shared ? cost.shared : cost.alone) + cost.event_row * weight_planes * static_cast<double>(blocks(w.channels_out, 256)) / lists);
  const double vectors = static_cast<double>(blocks(steps * pixels, 256)) / static_cast<double>(steps * pixels);
  const double rows = facts.density * k * spikes * outputs * vectors * cost.fixed_row;
  const double count_planes = std::log2(k + 1) + weight_planes + spikes - 2;
  const double turned = static_cast<double>(w.taps() * blocks(w.channels_in, 64)) * spikes + count_planes * static_cast<double>(blocks(w.channels_out, 64));
  const double fixed = rows + cost.turn * turned * 256 * vectors + cost.gather * lists;
  return std::max(0.0, kCaution * fixed - cost.window * static_cast<double>(w.taps())) / event;
}

double dense_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa) {
  const Window w = window_of(node, input);
  const Prices cost = prices(isa);
  const double vectors = static_cast<double>(blocks(w.channels_out, 32)), spikes = planes_of(input.kind);
  const double event = cost.alone + vectors * (facts.small() ? cost.small_row : cost.byte_row);
  return kCaution * vectors * cost.products[static_cast<int>(facts.byte_sums(input.kind))] / (spikes * event);
}

double planes_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa) {
  const Window w = window_of(node, input);
  const Prices cost = prices(isa);
  const int64_t lists = w.channels_out > 128 ? 1 : w.channels_out > 64 ? 2 : 4, bytes = blocks(w.channels_out, 256) * facts.planes() * 32 / lists;
  const double event = cost.alone + cost.strip * static_cast<double>(blocks(bytes, 64));
  const double product = cost.products[static_cast<int>(facts.byte_sums(input.kind))];
  return static_cast<double>(blocks(w.channels_out, 32)) * product / (planes_of(input.kind) * event);
}

}  // namespace picojoule
