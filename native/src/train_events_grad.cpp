// The gradients: by input channel, over tiles of the output gradient that stay in a near cache.

#include <algorithm>
#include <cstring>
#include <vector>

#include "pool.h"
#include "train_events_lists.h"

namespace picojoule::events {
namespace {

constexpr int64_t kNear = 24 << 10;   // of the first cache level
constexpr int64_t kSecond = 96 << 10; // of the second, for the input gradient, which uses a tile longer
constexpr int64_t kChannels = 64;     // input channels of a unit of work
constexpr int64_t kSums = 320 << 10;  // of a unit

// Calls body(phase, ky, kx, block, back) for groups of taps that share their reads: kernel index of the first tap,
// and how many positions further back the first tap reads.
template <class Body>
void each_tap_block(const Tiles& tiles, int64_t most_rows, int64_t most_columns, const Body& body) {
  const Axis &y = tiles.y, &x = tiles.x;
  for (int64_t py = 0; py < y.stride; ++py)
    for (int64_t px = 0; px < x.stride; ++px)
      for (int64_t jy = 0; jy < y.taps(py); jy += most_rows)
        for (int64_t jx = 0; jx < x.taps(px); jx += most_columns) {
          const TapBlock block{std::min(most_rows, y.taps(py) - jy), std::min(most_columns, x.taps(px) - jx),
                               y.step() * tiles.columns, x.step()};
          body(py * x.stride + px, py + jy * y.stride, px + jx * x.stride, block,
               jy * y.step() * tiles.columns + jx * x.step());
        }
}

// The most vectors whose sums fit the registers beside `taps` taps, without a block that is mostly empty.
int gradient_vectors(int64_t taps, int64_t out) {
  int64_t vectors = taps <= 1 ? 8 : taps <= 2 ? 4 : taps <= 4 ? 2 : 1;
  vectors = std::min(vectors, kernels().most_vectors);
  while (vectors > 1 && vectors * kernels().lanes / 2 >= out) vectors /= 2;
  return static_cast<int>(vectors);
}

std::vector<ChannelLists> all_lists(const Shape& s, const Spikes& spikes, const Tiles& tiles, int workers) {
  std::vector<ChannelLists> lists(tiles.count);
  split_over_workers(tiles.count, 1, workers, false, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) lists[t].read(s, spikes, tiles, t, false);
  });
  return lists;
}

}  // namespace

void weight_gradient(const Shape& s, const Spikes& spikes, const float* g, const Weight& result, int workers) {
  const Kernels& k = kernels();
  const int64_t in = s.group_in(), out = s.group_out(), taps = s.kernel_y * s.kernel_x;
  if (!in || !out) return;
  const Axis y{s.height, s.out_height, s.kernel_y, s.stride_y, s.pad_y, s.dilation_y};
  const Axis x{s.width, s.out_width, s.kernel_x, s.stride_x, s.pad_x, s.dilation_x};
  const int64_t most_rows = std::min<int64_t>(3, y.taps(0));
  const int64_t most_columns = x.step() == 1 ? std::min<int64_t>(3, x.taps(0)) : 1;
  const int vectors = gradient_vectors(most_rows * most_columns, out);
  const int64_t block = vectors * k.lanes, blocks = (out + block - 1) / block;
  const Tiles tiles(s, block * sizeof(float), kNear);
  const std::vector<ChannelLists> lists = all_lists(s, spikes, tiles, workers);
  const int64_t some = taps > 1 ? std::min(kChannels, in) : in, pieces = (in + some - 1) / some;
  // Neighbouring blocks of a tile lie in the same pages of g, and are taken together as far as workers and cache allow.
  const int64_t sum_bytes = taps * some * block * static_cast<int64_t>(sizeof(float));
  const int64_t together = std::clamp<int64_t>(std::min(kSums / sum_bytes, blocks * pieces / workers), 1, blocks);
  const int64_t spans = (blocks + together - 1) / together;
  // A unit owns its part of the result and reads the tiles in order: sums do not depend on the threads.
  split_over_workers(s.groups * spans * pieces, 1, workers, false, [&](int64_t begin, int64_t end, int) {
    Buffer near(tiles.positions() * block), sums(together * taps * some * block);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % pieces * some, last = std::min(first + some, in);
      const int64_t from = unit / pieces % spans * together, to = std::min(from + together, blocks);
      const int64_t group = unit / pieces / spans;
      std::memset(sums.get(), 0, (to - from) * sum_bytes);
      for (int64_t t = 0; t < tiles.count; ++t) {
        const ChannelLists& list = lists[t];
        for (int64_t b = from; b < to && !list.at.empty(); ++b) {
          tiles.copy(s, g, t, group * out + b * block, std::min(block, out - b * block), block, near.get());
          float* block_sums = sums.get() + (b - from) * taps * some * block;
          each_tap_block(tiles, most_rows, most_columns,
                         [&](int64_t phase, int64_t ky, int64_t kx, const TapBlock& tap, int64_t back) {
            float* tap_sums = block_sums + (ky * s.kernel_x + kx) * some * block;
            const uint32_t* start = list.start.data() + phase * s.channels + group * in;
            for (int64_t c = first; c < last; ++c) {
              const uint32_t n = start[c + 1] - start[c];
              if (!n) continue;
              const float* value = list.value.empty() ? nullptr : list.value.data() + start[c];
              k.columns(tap, vectors, list.at.data() + start[c], value, n, near.get() - back * block,
                        tap_sums + (c - first) * block, y.stride * s.kernel_x * some * block, x.stride * some * block);
            }
          });
        }
      }
      for (int64_t b = from; b < to; ++b) {
        const int64_t o = group * out + b * block, live = std::min(block, out - b * block);
        if (result.in == 1) {  // as a weight lies channels last
          float* const at = result.at + o * result.out + first;
          for (int64_t tap = 0; tap < taps; ++tap)
            k.turn(sums.get() + ((b - from) * taps + tap) * some * block, block, last - first, live, spikes.scale,
                   at + tap / s.kernel_x * result.y + tap % s.kernel_x * result.x, result.out);
          continue;
        }
        for (int64_t i = 0; i < live; ++i)  // an output's weights lie together
          for (int64_t tap = 0; tap < taps; ++tap) {
            float* at = result.at + (o + i) * result.out + tap / s.kernel_x * result.y + tap % s.kernel_x * result.x;
            const float* row = sums.get() + ((b - from) * taps + tap) * some * block + i;
            for (int64_t c = first; c < last; ++c) at[c * result.in] = row[(c - first) * block] * spikes.scale;
          }
      }
    }
  });
}

void input_gradient(const Shape& s, const uint8_t* open, const float* g, const Weight& weight, float* dx, int workers) {
  const Kernels& k = kernels();
  const int64_t in = s.group_in(), out = s.group_out(), taps = s.kernel_y * s.kernel_x;
  if (!s.images || !s.channels) return;
  int64_t vectors = std::min<int64_t>(taps > 1 ? 2 * (16 / k.lanes) : 8, k.most_vectors);
  while (vectors > 1 && vectors * k.lanes / 2 >= out) vectors /= 2;
  const int64_t block = vectors * k.lanes, blocks = (out + block - 1) / block;
  const Tiles tiles(s, block * sizeof(float), kSecond);
  std::vector<Buffer> weights;
  for (int64_t group = 0; group < s.groups; ++group) weights.push_back(block_weights(s, weight, group, block, 1, true));
  const Spikes bits{open, 1, false, 1};
  const int64_t image = s.height * s.width * s.channels;
  split_over_workers(tiles.count, 1, workers, false, [&](int64_t begin, int64_t end, int) {
    Buffer near(tiles.positions() * block);
    ChannelLists list;
    std::vector<float> sums;
    for (int64_t t = begin; t < end; ++t) {
      list.read(s, bits, tiles, t, true);
      sums.assign(list.at.size(), 0.0f);
      for (int64_t group = 0; group < s.groups && !list.at.empty(); ++group)
        for (int64_t b = 0; b < blocks; ++b) {
          tiles.copy(s, g, t, group * out + b * block, std::min(block, out - b * block), block, near.get());
          const float* rows = weights[group].get() + b * taps * in * block;
          each_tap_block(tiles, s.kernel_y, s.kernel_x,
                         [&](int64_t phase, int64_t ky, int64_t kx, const TapBlock& tap, int64_t back) {
            const uint32_t* start = list.start.data() + phase * s.channels + group * in;
            for (int64_t c = 0; c < in; ++c)
              if (start[c + 1] > start[c])
                k.dots(tap, static_cast<int>(vectors), list.at.data() + start[c], start[c + 1] - start[c],
                       near.get() - back * block, rows + (c * taps + ky * s.kernel_x + kx) * block,
                       tiles.y.stride * s.kernel_x * block, tiles.x.stride * block, sums.data() + start[c]);
          });
        }
      for (int64_t i = 0; i < tiles.parts(t, s.images); ++i) {
        const Tiles::Part p = tiles.part(t, i);
        std::memset(dx + p.image * image + p.first * s.width * s.channels, 0,
                    (p.last - p.first) * s.width * s.channels * sizeof(float));
      }
      for (int64_t l = 0; l + 1 < static_cast<int64_t>(list.start.size()); ++l)
        for (uint32_t n = list.start[l]; n < list.start[l + 1]; ++n)
          dx[static_cast<int64_t>(list.pixel[n]) * s.channels + l % s.channels] = sums[n];
    }
  });
}

}  // namespace picojoule::events
