// Code words of a synapse, the tables of their sums, and where each output finds its word.

#include "lookup_words.h"

#include <algorithm>

#include "fast_synapse.h"

namespace picojoule {

std::optional<CodeWords> CodeWords::of(const Tensor& weight, int64_t taps, int64_t low, int64_t high) {
  if (taps < 1 || taps > kWordTaps || high - low >= 1 << kBits) return {};
  CodeWords found;
  found.taps_ = taps, found.low_ = low;
  for (int64_t kernel = 0; kernel < weight.size() / taps; ++kernel) {
    const uint64_t key = found.key(weight, kernel);
    if (std::find(found.keys_.begin(), found.keys_.end(), key) != found.keys_.end()) continue;
    if (found.keys_.size() == kMost) return {};
    found.keys_.push_back(key);
  }
  return found;
}

uint64_t CodeWords::key(const Tensor& weight, int64_t kernel) const {
  uint64_t key = 0;
  for (int64_t tap = 0; tap < taps_; ++tap) key |= static_cast<uint64_t>(weight.at(kernel * taps_ + tap) - low_) << (kBits * tap);
  return key;
}

size_t CodeWords::index(const Tensor& weight, int64_t kernel) const {
  return static_cast<size_t>(std::find(keys_.begin(), keys_.end(), key(weight, kernel)) - keys_.begin());
}

int64_t largest_word_sum(const Window& w, const Kind& input, const WeightFacts& facts) {
  return w.taps() * (facts.signs ? 1 : facts.high - facts.low) << (input.name == KindName::ternary ? 0 : planes_of(input) - 1);
}

// The even byte of a pair of lanes belongs to the first half of a block's outputs, the odd one to the second; the low
// nibble to the first block of two, the high one to the second.
WordLayout::WordLayout(FastJob& job, const WeightFacts& facts, const Kind& input, const Tensor& weight, const std::vector<int32_t>& bias,
                       int64_t span) {
  const FastShape& s = job.shape;
  WordRows& l = job.code_words;
  const CodeWords words = *CodeWords::of(weight, s.taps, facts.low, facts.high);
  const int planes = planes_of(input);
  l.row_bytes = row_bytes(s.out_channels, span);
  l.table_bytes = int64_t{16} << s.taps;
  const int64_t indices = s.channels * l.row_bytes;
  uint8_t* to = aligned_rows(indices + planes * l.table_bytes);
  for (int64_t o = 0; o < s.out_channels; ++o) {
    const int64_t lane = o % span, half = span / 2, byte = lane < half ? 2 * lane : 2 * (lane - half) + 1;
    for (int64_t c = 0; c < s.channels; ++c)
      to[c * l.row_bytes + o / (2 * span) * span + byte] |=
          static_cast<uint8_t>(words.index(weight, o * s.channels + c) << (o / span % 2 * 4));
  }
  lay_tables(job, facts, words, to + indices);
  l.rows = to, l.tables = to + indices;
  const int64_t largest = *std::max_element(l.tables, l.tables + planes * l.table_bytes);
  l.together = 255 / std::max<int64_t>(1, largest);
  l.double_shift = facts.signs ? 1 : 0;
  l.offset_positive = static_cast<int32_t>(facts.signs ? 1 : -facts.low);
  l.offset_negative = static_cast<int32_t>(facts.signs ? 1 : facts.high);
  follow(job, bias);
}

// Plane after plane of the spikes; negative spikes add high - w.
void WordLayout::lay_tables(const FastJob& job, const WeightFacts& facts, const CodeWords& words, uint8_t* to) const {
  const int64_t low = facts.signs ? -1 : facts.low, high = facts.signs ? 1 : facts.high, taps = job.shape.taps;
  for (int q = 0; q < job.lookup.spike_planes; ++q)
    for (int64_t pattern = 0; pattern < int64_t{1} << taps; ++pattern)
      for (size_t word = 0; word < words.count(); ++word) {
        int64_t sum = 0;
        for (int64_t tap = 0; tap < taps; ++tap)
          if (pattern >> tap & 1) sum += job.in_ternary && q ? high - words.at(word, tap) : words.at(word, tap) - low;
        to[(q * (int64_t{1} << taps) + pattern) * 16 + static_cast<int64_t>(word)] =
            static_cast<uint8_t>((facts.signs ? sum / 2 : sum) << (job.in_ternary ? 0 : q));
      }
}

const WordTable& word_table(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kWordsAvx512;
  if (isa == Isa::avx2) return kWordsAvx2;
#elif defined(__aarch64__)
  if (isa == Isa::neon) return kWordsNeon;
#endif
  (void)isa;
  return kWordsGeneric;
}

void run_words(const Call& call, FastJob& job, Isa isa) {
  const FastShape& s = job.shape;
  const WordTable& table = word_table(isa);
  const int64_t images = call.in[0].row_bytes ? call.in[0].rows : 1, pixels = images * s.pixels_in;
  job.code_words.image = call.scratch[0].take<uint8_t>(pixels * job.lookup.spike_planes * s.words * 64);
  job.code_words.totals = call.scratch[0].take<int32_t>(pixels);
  call.parallel->run(images * s.in[0] * s.in[1], [&](int64_t begin, int64_t end, int) { table.decode(job, begin, end); });
  std::byte** work = works(call, table.work_bytes(job));
  const int64_t pieces = (s.pixels_out + kLookupPixels - 1) / kLookupPixels;
  call.parallel->run(pieces, [&](int64_t begin, int64_t end, int worker) { table.sums(job, begin, end, work[worker]); });
}

}  // namespace picojoule
