// Weights and tables of the lookups, and the constants of the neurons behind them.

#include <algorithm>

#include "fast_synapse.h"
#include "lookup.h"

namespace picojoule {
namespace {

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// For every pattern of 3 x 4 bits, counts of four channels by their digits: what each set of channels adds up to.
const uint8_t* count_tables() {
  static const std::vector<uint8_t> made = [] {
    std::vector<uint8_t> all((size_t{16} << kPatternBits) + 64);
    uint8_t* to = all.data() + (64 - reinterpret_cast<uintptr_t>(all.data()) % 64) % 64;
    for (int pattern = 0; pattern < 1 << kPatternBits; ++pattern)
      for (int set = 0; set < 16; ++set)
        for (int q = 0; q < 3; ++q)
          to[pattern * 16 + set] = static_cast<uint8_t>(to[pattern * 16 + set] + (__builtin_popcount(pattern >> 4 * q & set) << q));
    return all;
  }();
  return made.data() + (64 - reinterpret_cast<uintptr_t>(made.data()) % 64) % 64;
}

constexpr int kTernaryLift = 4;

// The same for positive spikes in the low and negative ones in the high nibble, lifted above zero.
const uint8_t* ternary_tables() {
  alignas(64) static uint8_t sums[256][16];
  static const bool made = [] {
    for (int pattern = 1; pattern < 256; ++pattern)
      for (int set = 0; set < 16; ++set)
        sums[pattern][set] = static_cast<uint8_t>(kTernaryLift + __builtin_popcount(pattern & set) - __builtin_popcount(pattern >> 4 & set));
    return true;
  }();
  (void)made;
  return sums[0];
}

}  // namespace

LookupLayout::LookupLayout(FastJob& job, const WeightFacts& facts, const Kind& input, const WeightAt& weight,
                           const std::vector<int32_t>& bias, int64_t span, bool dots) {
  const FastShape& s = job.shape;
  LookupRows& l = job.lookup;
  const bool ternary = input.name == KindName::ternary;
  l.groups = (s.channels + (dots ? 15 : 3)) / (dots ? 16 : 4);
  l.weight_planes = facts.planes();
  l.row_bytes = row_bytes(s.out_channels, l.weight_planes, span) * (dots ? 2 : 1);
  l.tables = ternary ? ternary_tables() : count_tables();
  l.lift = ternary ? kTernaryLift : 0;
  l.together = 255 / (ternary ? 2 * kTernaryLift : 4 * input.high()) / 4 * 4;
  l.double_shift = facts.signs ? 1 : 0;
  l.offset = static_cast<int32_t>(facts.signs ? -1 : facts.low);
  l.group_step = dots ? static_cast<uint32_t>(l.row_bytes) : static_cast<uint32_t>(l.row_bytes / 32) << kPatternBits;
  FastWeights& w = job.weights;
  w.pixel_step = w.tap_step = l.group_step * static_cast<uint32_t>(l.groups), w.window_step = 0 - w.pixel_step;
  w.slice_step = w.pixel_step * static_cast<uint32_t>(s.kernel[2]);

  uint8_t* rows = aligned_rows(s.taps * l.groups * l.row_bytes + 64);
  if (dots) lay_words(job, facts, weight, span, rows);
  else lay_nibbles(job, facts, weight, span, rows);
  l.rows = rows;
  follow(job, bias);
}

// Even bytes of a vector are the first half of its outputs, odd ones the second.
void LookupLayout::lay_nibbles(const FastJob& job, const WeightFacts& facts, const WeightAt& weight, int64_t span, uint8_t* rows) {
  const FastShape& s = job.shape;
  const LookupRows& l = job.lookup;
  const int64_t low = facts.signs ? -1 : facts.low;
  for (int64_t o = 0; o < s.out_channels; ++o) {
    const int64_t lane = o % span, half = span / 2, byte = lane < half ? 2 * lane : 2 * (lane - half) + 1;
    for (int64_t tap = 0; tap < s.taps; ++tap)
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t code = (weight(o, tap, c) - low) >> l.double_shift;
        uint8_t* at = rows + (tap * l.groups + c / 4) * l.row_bytes + o / span * l.weight_planes * span + byte;
        for (int j = 0; j < l.weight_planes; ++j) at[j * span] |= static_cast<uint8_t>((code >> j & 1) << (c % 4));
      }
  }
}

void LookupLayout::lay_words(const FastJob& job, const WeightFacts& facts, const WeightAt& weight, int64_t span, uint8_t* rows) {
  const FastShape& s = job.shape;
  const LookupRows& l = job.lookup;
  const int64_t low = facts.signs ? -1 : facts.low, lanes = span / 2;
  for (int64_t o = 0; o < s.out_channels; ++o)
    for (int64_t tap = 0; tap < s.taps; ++tap)
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t code = (weight(o, tap, c) - low) >> l.double_shift;
        uint8_t* at = rows + (tap * l.groups + c / 16) * l.row_bytes + o / lanes * l.weight_planes * span + o % lanes * 2 + c % 16 / 8;
        for (int j = 0; j < l.weight_planes; ++j) at[j * span] |= static_cast<uint8_t>((code >> j & 1) << (c % 8));
      }
}

uint8_t* ShortSums::aligned_rows(int64_t bytes) {
  rows_.reset(new (std::align_val_t(64)) uint8_t[static_cast<size_t>(bytes)]());
  row_bytes_ = bytes;
  return rows_.get();
}

void ShortSums::follow(FastJob& job, const std::vector<int32_t>& bias) {
  const FastShape& s = job.shape;
  const int64_t words = round_up(s.out_channels, 64);
  bias_.assign(static_cast<size_t>(words), 0);
  for (int64_t o = 0; o < s.out_channels; ++o) bias_[o] = static_cast<int16_t>(bias[o]);
  valid_.assign(static_cast<size_t>(words / 64), ~uint64_t{0});
  if (s.out_channels % 64) valid_.back() = (uint64_t{1} << s.out_channels % 64) - 1;
  flips_.assign(valid_.size(), 0);
  LookupRows& l = job.lookup;
  l.bias = bias_.data(), l.valid = valid_.data(), l.flips = flips_.data();
}

void ShortSums::fuse(FastJob& job, const NeuronConstants& n, const WeightFacts& facts, const std::vector<int32_t>& bias, bool stream) {
  LookupRows& l = job.lookup;
  const Epilogue& e = job.end;
  const int levels = static_cast<int>(n.thresholds.size()) + n.ternary;
  if (!n.forgets(stream) || levels > kMaxLevels) {
    const FireJob& f = *e.fire;
    const bool shifts = f.leak == Leak::whole || f.leak == Leak::shift;
    l.at_once = f.lane == 4 && shifts && f.set_bytes == 0 && f.levels == 1 && !f.ternary && f.out_planes == 1 && !f.table.count;
    return;
  }
  l.levels = levels;
  edges_.assign(static_cast<size_t>(levels * e.out_words * 64), INT16_MAX);
  for (int level = 0; level < levels; ++level)
    for (int64_t c = 0; c < n.channels; ++c) {
      const bool down = level == static_cast<int>(n.thresholds.size());
      const int64_t threshold = down ? n.neg.at(0, c) + 1 : n.thresholds[level].at(0, c);
      const Range sums{facts.outputs[c].low - bias[c], facts.outputs[c].high - bias[c]};
      const int64_t first = std::clamp(n.first_input(c, threshold) - bias[c], sums.low, sums.high + 1);
      edges_[level * e.out_words * 64 + c] = static_cast<int16_t>(first - 1);
      if (n.gain.at(0, c) < 0) flips_[c / 64] |= uint64_t{1} << c % 64;
    }
  l.edges = edges_.data();
}

const LookupTable& lookup_table(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kLookupAvx512;
  if (isa == Isa::avx2) return kLookupAvx2;
#elif defined(__aarch64__)
  if (isa == Isa::neon) return kLookupNeon;
#endif
  (void)isa;
  return kLookupGeneric;
}

void run_lookups(const Call& call, FastJob& job, Isa isa, bool dots) {
  const FastShape& s = job.shape;
  const LookupTable& table = lookup_table(isa);
  if (!dots) {
    const int64_t lines = call.in[0].rows * s.in[0] * s.in[1], slack = 2 * s.kernel[2] * job.lookup.groups + 4 * kOverrun;  // read, not used
    job.events.row = s.in[2] * job.lookup.groups + kOverrun;
    job.events.list = call.scratch[0].take<uint32_t>(lines * job.events.row + slack);
    job.events.starts = call.scratch[0].take<int32_t>(lines * (s.in[2] + 1));
    job.lookup.totals = call.scratch[0].take<int32_t>(lines * (s.in[2] + 1));
    call.parallel->run(lines, [&](int64_t begin, int64_t end, int) { table.decode(job, begin, end); });
  }
  const auto body = dots ? table.dots : table.sums;
  std::byte** work = works(call, table.work_bytes(job));
  const int64_t pieces = (s.pixels_out + kLookupPixels - 1) / kLookupPixels;
  call.parallel->run(pieces, [&](int64_t begin, int64_t end, int worker) { body(job, begin, end, work[worker]); });
}

}  // namespace picojoule
