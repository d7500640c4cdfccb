#include "cost.h"

#include <algorithm>
#include <array>
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

// Bytes that arrive channel last are copied by lines, not turned as those of the fit: a share of the price.
constexpr double kLines = 0.2;
constexpr double kPack = 5, kUnpack = 8;  // nanoseconds of a word of 64 channels in one plane

constexpr int kCounts = 9;
using Row = std::array<double, kCounts>;

// Printed by benchmarks/engine/prices.py; the first four: of a pixel, of 32 outputs fired by membranes, of 32 outputs
// compared with a level, of 32 dense outputs.
struct Fitted {
  Row event_bits, event_rows, dense_bytes, lookup_bits, dot_bits;
};

constexpr Fitted kAvx512 = {{5.46, 19.5, 17.8, 20.5, 3.67, 0.281, 0.155, 7.15, 22.8},
                            {13.1, 3.87, 3.94, 11.6, 4.57, 0.0818, 0.242, 5.88, 0},
                            {0, 1.25, 2.51, 5.46, 0.115, 0.213, 7.34, 0, 0},
                            {22.7, 2.36, 3.07, 1.58, 3.72, 0.0875, 0.41, 5.82, 2.49},
                            {8.85, 2.51, 2.32, 0, 0.551, 0.122, 0.336, 4.85, 7.9}};
constexpr Fitted kAvx2 = {{12.5, 1.49, 7.25, 20.1, 0, 0.349, 0.291, 6.11, 40.2},
                          {0.982, 12.7, 7.94, 25.3, 4.89, 0.161, 0.258, 4.67, 0},
                          {0, 1.44, 3.52, 9.34, 0.138, 0.2, 11.7, 0, 0},
                          {21.8, 3.35, 3.18, 2.5, 0, 0.251, 0.313, 13.7, 1.81},
                          {5.52, 3.53, 2.31, 0.171, 0.996, 0.0707, 0.49, 4.87, 8.93}};
constexpr Fitted kGeneric = {{24, 0, 9.98, 171, 0, 0.776, 0.562, 15.8, 79.1},
                             {31.9, 7.17, 9.69, 17.9, 6.45, 2.03, 2.15, 5.92, 0},
                             {0, 0, 6.75, 49.5, 5.02, 0, 19.4, 0, 0},
                             {33.8, 0, 31.1, 0, 0, 0, 14.6, 37, 28.5},
                             {24.5, 14, 26.7, 0, 3.39, 0.59, 1.71, 4.55, 4.18}};

const Row& prices_of(Synapse kernel, Isa isa) {
  const Fitted& all = isa == Isa::avx512 ? kAvx512 : isa == Isa::avx2 ? kAvx2 : kGeneric;
  if (kernel == Synapse::event_bits) return all.event_bits;
  if (kernel == Synapse::event_rows) return all.event_rows;
  if (kernel == Synapse::lookup_bits) return all.lookup_bits;
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
  } else {
    work(taps * channels * outputs, entering * channels, outputs, 0, 0);
  }
  return row;
}

}  // namespace

double price_of(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, const FinishFacts& finish, double rate,
                Synapse kernel, const Arrival& arrival, Isa isa) {
  const Window w = window_of(node, input);
  const Row counts = counts_of(w, facts, finish, static_cast<double>(std::max<int64_t>(1, node.steps)), planes_of(input.kind), rate, kernel, isa), &prices = prices_of(kernel, isa);
  const double words = static_cast<double>(w.in_pixels() * blocks(w.channels_in, 64) * planes_of(input.kind)) / static_cast<double>(w.out_pixels());
  const bool bytes = kernel == Synapse::dense_bytes;
  double sum = bytes && !arrival.dense ? kUnpack * words : !bytes && !arrival.words ? kPack * words : 0;
  for (int i = 0; i < kCounts; ++i) sum += counts[i] * prices[i];
  if (bytes && arrival.dense) sum -= (1 - kLines) * counts[5] * prices[5];
  return sum;
}

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
