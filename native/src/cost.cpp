#include "cost.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "fast_groups.h"

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
};

Prices prices(Isa isa) {
  if (isa == Isa::avx512) return {0.05, 0.2, 0.48, 0.65, 2.2, 12, 2, 0.3, 0.45, {0.15, 0.15, 0.15}};
  if (isa == Isa::avx2) return {0.2, 0.3, 0.45, 0.85, 2.2, 12, 2, 0.3, 0.45, {0.19, 0.38, 0.9}};
  return {0.3, 0.5, 1.2, 2.2, 5, 12, 2, 0.6, 0.9, {20, 25, 50}};
}

// A boundary is drawn where static counting wins clearly: an estimate that errs costs less on this side.
constexpr double kCaution = 1.1;

int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

constexpr double kPack = 5, kUnpack = 8;  // nanoseconds of a word of 64 channels in one plane

constexpr int kCounts = 9;
using Row = std::array<double, kCounts>;

// Printed by benchmarks/engine/prices.py; the first four: of a pixel, of 32 outputs fired by membranes, of 32 outputs
// compared with a level, of 32 dense outputs.
struct Fitted {
  Row event_bits, event_rows, dense_bytes, lookup_bits, dot_bits, lookup_words;
};

constexpr Fitted kAvx512 = {{8.71, 24.9, 16, 19.7, 0.72, 0.322, 0.135, 7.73, 20.5},
                            {13.3, 4.42, 4.32, 12.3, 4.36, 0.0813, 0.25, 6.18, 0},
                            {0, 1.87, 2.34, 5.42, 0.109, 0.0635, 7.88, 0, 0},
                            {22.1, 3.43, 3.39, 2.01, 2.84, 0.0991, 0.416, 7.09, 3},
                            {10.3, 1.98, 2.21, 0, 0.57, 0.0808, 0.341, 5.04, 9.42},
                            {36.9, 2.71, 3.3, 2.44, 0.258, 0.138, 0.354, 2.4, 4.13}};
constexpr Fitted kAvx2 = {{9.56, 47.3, 18.6, 25.5, 0, 0.344, 0.391, 8.53, 17.3},
                          {6.17, 13.8, 7.96, 25.4, 3.41, 0.191, 0.278, 6.05, 0},
                          {0, 1.99, 3.46, 7.27, 0.146, 0.0639, 10.1, 0, 0},
                          {21.2, 6.29, 3.7, 1.92, 0, 0.34, 0.314, 16.2, 2.34},
                          {5.78, 4.94, 2.46, 0, 1.14, 0.137, 0.497, 5.43, 9.59},
                          {37.9, 2.45, 2.78, 0.108, 0.519, 0.288, 0.174, 2.49, 3.25}};
constexpr Fitted kGeneric = {{19.2, 0, 12.4, 177, 25.1, 0.892, 0.555, 9.2, 64.5},
                             {0, 22.7, 10.9, 26.8, 18.2, 2.89, 1.09, 7.06, 0},
                             {0, 13.6, 7.52, 4.18, 5.01, 0, 19.7, 0, 0},
                             {20.1, 20.6, 29, 0, 7.77, 0, 15.2, 17.3, 29.2},
                             {5.12, 23.6, 26.6, 3.23, 2.97, 0.747, 1.77, 4.55, 12.1},
                             {0, 189, 52, 0, 0, 0, 15.9, 0, 129}};

const Row& prices_of(Synapse kernel, Isa isa) {
  const Fitted& all = isa == Isa::avx512 ? kAvx512 : isa == Isa::avx2 ? kAvx2 : kGeneric;
  if (kernel == Synapse::event_bits) return all.event_bits;
  if (kernel == Synapse::event_rows) return all.event_rows;
  if (kernel == Synapse::lookup_bits) return all.lookup_bits;
  if (kernel == Synapse::lookup_words) return all.lookup_words;
  return kernel == Synapse::dot_bits ? all.dot_bits : all.dense_bytes;
}

// What a kernel does in one pixel at one step; the same as `counts` of benchmarks/engine/prices.py.
Row counts_of(const Window& w, const WeightFacts& facts, const FinishFacts& finish, double steps, double planes, double rate,
              Synapse kernel, Isa isa) {
  const auto whole = [](int64_t n, int64_t size) { return static_cast<double>(blocks(n, size)); };
  const double taps = static_cast<double>(w.taps()), rows = taps / static_cast<double>(w.kernel[2]);
  const double channels = static_cast<double>(w.channels_in), outputs = whole(w.channels_out, 32), weights = facts.planes();
  const double entering = static_cast<double>(w.in_pixels()) / static_cast<double>(w.out_pixels()), words = whole(w.channels_in, 64);
  const double events = taps * channels * planes * rate;
  const int64_t span = isa == Isa::avx512 ? 64 : 32;
  Row row{1, 0, 0, 0, 0, 0, 0, 0, 0};
  if (!finish.fused) row[3] = outputs;
  else if (finish.membrane) row[1] = outputs;
  else row[2] = outputs * static_cast<double>(finish.levels);
  const auto work = [&](double a, double b, double c, double d, double e) { row[4] = a, row[5] = b, row[6] = c, row[7] = d, row[8] = e; };
  if (kernel == Synapse::event_bits) {
    const double lists = w.channels_out > 128 ? 1 : w.channels_out > 64 ? 2 : 4, reach = static_cast<double>(w.kernel[2]);
    const bool shared = lists > 1 && w.kernel[2] > 1 && w.stride[2] == 1 && w.dilation[2] == 1 && w.out[2] % static_cast<int64_t>(lists) == 0;
    const double listed = shared ? events * (reach + lists - 1) / (reach * lists) : events, size = whole(w.channels_out, 256) / lists;
    if (finish.fused) row[1] = finish.membrane ? size : 0, row[2] = finish.membrane ? 0 : size * static_cast<double>(finish.levels);
    work(rows / lists, listed, (shared ? listed * lists : events) * weights * size, entering * words * planes, weights * size);
  } else if (kernel == Synapse::event_rows) {
    work(rows, events, events * outputs, entering * words * planes, 0);
  } else if (kernel == Synapse::lookup_bits) {
    const double found = taps * whole(w.channels_in, 4) * (1 - std::pow(1 - rate, 4 * planes));
    const double vectors = weights * whole(w.channels_out, span);
    work(rows, found, found * vectors, entering * words, vectors);
  } else if (kernel == Synapse::dot_bits) {
    const double groups = taps * whole(w.channels_in, 16) * planes;
    const double vectors = weights * whole(w.channels_out, span / 2);
    work(taps * planes, groups, groups * vectors, planes * vectors, rows / steps);
  } else if (kernel == Synapse::lookup_words) {
    const double windows = span == 64 ? 8 : 4;  // whose sums are made together
    const double found = channels * planes * (1 - std::pow(1 - rate, taps * windows)), vectors = whole(w.channels_out, span);
    work(taps * words * planes, found, found * vectors, entering * words * planes, vectors);
  } else {
    work(taps * channels * outputs, entering * channels, outputs, 0, 0);
  }
  return row;
}

}  // namespace

double price_of(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, const FinishFacts& finish, double rate,
                Synapse kernel, const Arrival& arrival, Isa isa) {
  const Window w = window_of(node, input);
  if (w.groups > 1 && kernel != Synapse::depth_bits) return price_of_groups(node, input, facts, finish, rate, kernel, arrival, isa);
  const Row counts = counts_of(w, facts, finish, static_cast<double>(std::max<int64_t>(1, node.steps)), planes_of(input.kind), rate, kernel, isa), &prices = prices_of(kernel, isa);
  const double words = static_cast<double>(w.in_pixels() * blocks(w.channels_in, 64) * planes_of(input.kind)) / static_cast<double>(w.out_pixels());
  const bool bytes = kernel == Synapse::dense_bytes;
  double sum = bytes && !arrival.dense ? kUnpack * words : !bytes && !arrival.words ? kPack * words : 0;
  for (int i = 0; i < kCounts; ++i) sum += counts[i] * prices[i];
  return sum;
}

double static_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa) {
  const Window w = window_of(node, input);
  if (w.groups > 1) {
    const GroupLayer layer = layer_of(node, input, facts, groups_together(node, input, facts, Synapse::event_bits, isa));
    return static_boundary(layer.node, layer.input, layer.facts, isa);
  }
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
  if (w.groups > 1) {
    const GroupLayer layer = layer_of(node, input, facts, groups_together(node, input, facts, Synapse::event_rows, isa));
    return dense_boundary(layer.node, layer.input, layer.facts, isa);
  }
  const Prices cost = prices(isa);
  const double vectors = static_cast<double>(blocks(w.channels_out, 32)), spikes = planes_of(input.kind);
  const double event = cost.alone + vectors * (facts.small() ? cost.small_row : cost.byte_row);
  return kCaution * vectors * cost.products[static_cast<int>(facts.byte_sums(input.kind))] / (spikes * event);
}

}  // namespace picojoule
