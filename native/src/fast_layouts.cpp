#include "fast_layouts.h"

#include <algorithm>

namespace picojoule {
namespace {

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

}  // namespace

void set_image(FastJob& job) {
  const FastShape& s = job.shape;
  for (int i = 0; i < 3; ++i) job.image_size[i] = (s.out[i] - 1) * s.stride[i] + (s.kernel[i] - 1) * s.dilation[i] + 1;
  job.image_row_bytes = job.image_size[0] * job.image_size[1] * job.image_size[2] * s.channels;
}

void set_words(FastJob& job, const Kind& kind) {
  const FastShape& s = job.shape;
  FastJob::Words& words = job.words;
  set_image(job);
  for (int i = 0; i < 3; ++i)
    if (s.taps == 1 && s.before[i] == 0) words.skip[i] = s.stride[i], job.image_size[i] = s.out[i];
  words.pieces = kind.low() < -32768 || kind.high() > 32767 ? 2 : 1;
  words.piece = job.image_size[0] * job.image_size[1] * job.image_size[2] * s.channels;
  words.step = words.piece * words.pieces;
}

Runs::Runs(const FastJob& job, int64_t multiple) {
  const FastShape& s = job.shape;
  together = s.dilation[2] == 1 ? s.kernel[2] : 1;
  run = round_up(together * s.channels, multiple);
  runs = s.taps / together;
  for (int64_t r = 0; r < runs; ++r) {
    const int64_t tap = r * together, a = tap / (s.kernel[1] * s.kernel[2]), b = tap / s.kernel[2] % s.kernel[1];
    const int64_t place = (a * s.dilation[0] * job.image_size[1] + b * s.dilation[1]) * job.image_size[2] +
                          tap % s.kernel[2] * s.dilation[2];
    offsets.push_back(static_cast<int32_t>(place * s.channels));
  }
}

void Runs::use(FastJob& job) const {
  job.weights.run = run, job.weights.runs = runs;
  job.weights.run_offsets = offsets.data();
}

PairLayout::PairLayout(const FastJob& job, const WeightAt& weight) : runs(job, 2) {
  const FastShape& s = job.shape;
  pairs.assign(runs.runs * runs.run * s.padded + 64, 0);
  for (int64_t r = 0; r < runs.runs; ++r)
    for (int64_t o = 0; o < s.out_channels; ++o)
      for (int64_t i = 0; i < runs.together * s.channels; ++i)
        pairs[((r * runs.run + i) / 2 * s.padded + o) * 2 + i % 2] =
            static_cast<int16_t>(weight(o, r * runs.together + i / s.channels, i % s.channels));
}

void PairLayout::use(FastJob& job) const {
  runs.use(job);
  job.weights.pairs = pairs.data();
}

QuadLayout::QuadLayout(const FastJob& job, int64_t low, const WeightAt& weight) : runs(job, 4) {
  const FastShape& s = job.shape;
  quads.assign(runs.runs * runs.run * s.padded + 64, 0);
  lift.assign(s.padded, 0);
  for (int64_t r = 0; r < runs.runs; ++r)
    for (int64_t o = 0; o < s.out_channels; ++o)
      for (int64_t i = 0; i < runs.together * s.channels; ++i) {
        const int64_t code = weight(o, r * runs.together + i / s.channels, i % s.channels);
        quads[((o / kByteTile * runs.runs + r) * runs.run / 4 + i / 4) * kByteTile * 4 + o % kByteTile * 4 + i % 4] = static_cast<int8_t>(code);
        lift[o] += static_cast<int32_t>(code * low);
      }
}

void QuadLayout::use(FastJob& job) const {
  runs.use(job);
  job.weights.quads = quads.data();
  job.weights.lift = lift.data();
}

FixedLayout::FixedLayout(const FastJob& job) {
  const FastWeights& w = job.weights;
  const int64_t k = job.shape.taps * job.shape.channels;
  for (int64_t o = 0; o < job.shape.out_channels; ++o)
    for (int j = 0; j < w.planes; ++j)
      for (int sign = 0; sign < (job.in_ternary ? 2 : 1); ++sign) {
        starts.push_back(static_cast<uint32_t>(rows.size()));
        const uint8_t* from = w.rows + w.byte_of(j, o) + (sign ? w.negative : 0);
        for (int64_t i = 0; i < k; ++i)
          if (from[w.row_of(job.shape, i / job.shape.channels, i % job.shape.channels)] >> (o % 8) & 1) rows.push_back(static_cast<uint32_t>(i));
        while ((rows.size() - starts.back()) % 8) rows.push_back(static_cast<uint32_t>(k));
      }
  starts.push_back(static_cast<uint32_t>(rows.size()));
  const uint64_t spikes = job.in_ternary ? 1 : (uint64_t{1} << job.in_planes) - 1;
  const uint64_t most = static_cast<uint64_t>(k) * ((uint64_t{1} << w.planes) - 1) * spikes;
  planes = 64 - __builtin_clzll(most);
}

// As many pixels as fill the lanes of a vector with all their steps, in groups that share a vector of channels.
void FixedLayout::use(FastJob& job, int64_t lanes) const {
  const int64_t steps = job.in_row_bytes ? job.steps : 1;
  job.fixed.chunk = std::max<int64_t>(4, lanes / steps / 4 * 4);
  job.fixed.planes = planes;
  job.fixed.rows = rows.data();
  job.fixed.starts = starts.data();
}

}  // namespace picojoule
