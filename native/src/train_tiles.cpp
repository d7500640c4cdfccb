// Convolutions of 3x3 taps and stride 1 over real values, by minimal filtering: a tile of 4x4 outputs needs 36 products
// a pair of channels instead of 144.
//
//   y = A^T [ (G w G^T) * (B^T d B) summed over input channels ] A
//
// A tile's 6x6 inputs become values at 36 points, the sums over channels are 36 products of matrices, and what they give
// becomes outputs again. Source: Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308; the points are
// others than there (train_tiles.inl). The gradient of the input of stride 2 goes the same way, with 81 products for
// 144 (train_doubled.inl).

#include "train_tiles.h"

#include <algorithm>
#include <vector>

#include "pool.h"
#include "train_events_lists.h"

namespace picojoule::events {
namespace {

using tiles::Form, tiles::kPanels;

constexpr int64_t kLine = 16;                 // floats: keeps the points of a tile out of one cache set
constexpr int64_t kWeightBytes = 10 << 20;    // of transformed weights in use at once
constexpr int64_t kChunkBytes = 256 << 10;    // of transformed tiles: with the weights of a point they stay in the second cache level
constexpr int64_t kDepth = 16;                // input channels whose weights are taken together
constexpr int64_t kLeastTiles = 16;           // that transformed weights must serve
constexpr double kMostPlain = 2, kMostDoubled = 4.0 / 3;  // outputs of the tiles for one that exists
constexpr int64_t kLeastChannels = 32;        // of either side: below, the way to the points and back costs more

// Tiles along an axis: their number, and the first input and output of the first; negative where it begins outside.
struct Axis {
  int64_t in, out, count;
};

Axis plain_axis(int64_t out_size, int64_t pad) { return {-pad, 0, (out_size + 3) / 4}; }

// The first output is one that reads a single input, so that padding of 1 leaves nothing unused.
Axis doubled_axis(int64_t out_size, int64_t pad) {
  const int64_t in = (pad + 1) / 2 - 1, out = 2 * in + 1 - pad;
  return {in, out, (out_size - out + 7) / 8};
}

struct Plan {
  const Shape& s;
  const tiles::Kernels& k;
  const Form& form;
  Axis y, x;
  int64_t in, block, blocks, some, count;

  Plan(const Shape& shape, bool doubled)
      : s(shape), k(tile_kernels()), form(doubled ? k.doubled : k.plain),
        y(doubled ? doubled_axis(s.out_height, s.pad_y) : plain_axis(s.out_height, s.pad_y)),
        x(doubled ? doubled_axis(s.out_width, s.pad_x) : plain_axis(s.out_width, s.pad_x)), in(s.channels), block(k.block),
        blocks((s.out_channels + block - 1) / block),
        some(std::clamp<int64_t>(kWeightBytes / (kPanels * 4 * in * block), 1, blocks)), count(s.images * y.count * x.count) {}

  int64_t points() const { return in * block + kLine; }        // between the panels of a block
  int64_t panels() const { return kPanels * points(); }        // of a block

  // The weights of blocks [first, last) at the points.
  void weigh(const Weight& w, int64_t first, int64_t last, float* panel, int workers) const {
    const int64_t slices = (in + kDepth - 1) / kDepth;
    split_over_workers((last - first) * slices, 1, workers, false, [&](int64_t begin, int64_t end, int) {
      Buffer taps(9 * kDepth * block);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t b = first + unit / slices, k0 = unit % slices * kDepth, depth = std::min(kDepth, in - k0);
        const int64_t live = std::min(block, s.out_channels - b * block);
        for (int64_t tap = 0; tap < 9; ++tap)
          for (int64_t c = 0; c < depth; ++c) {
            const float* from = w.at + b * block * w.out + (k0 + c) * w.in + tap / 3 * w.y + tap % 3 * w.x;
            float* to = taps.get() + (tap * kDepth + c) * block;
            if (w.out == 1) {
              std::copy(from, from + live, to);
            } else {
              for (int64_t o = 0; o < live; ++o) to[o] = from[o * w.out];
            }
            std::fill(to + live, to + block, 0.0f);
          }
        form.weights(taps.get(), kDepth * block, depth, panel + (b - first) * panels() + k0 * block, points());
      }
    });
  }

  // Tiles [first, last) through blocks [from, to).
  struct Chunk {
    int64_t first, last, from, to;
  };

  // Image, and first row and column of a tile, counted from those of the first in steps of `step`.
  struct At {
    int64_t image, top, left;
  };
  At at(int64_t t, int64_t step) const {
    return {t / (y.count * x.count), t / x.count % y.count * step, t % x.count * step};
  }

  void enter(const float* from, const float* nothing, const Chunk& c, float* to, int64_t points) const {
    const float* both[2][tiles::kMostReach * tiles::kMostReach];
    const auto look = [&](int64_t t) {
      const float** pixels = both[t % 2];
      const At tile = at(t, 4);
      for (int64_t i = 0; i < form.reach * form.reach; ++i) {
        const int64_t yy = tile.top + y.in + i / form.reach, xx = tile.left + x.in + i % form.reach;
        const bool inside = yy >= 0 && yy < s.height && xx >= 0 && xx < s.width;
        pixels[i] = inside ? from + ((tile.image * s.height + yy) * s.width + xx) * in : nothing;
      }
    };
    look(c.first);
    for (int64_t t = c.first; t < c.last; ++t) {
      const int64_t soon = std::min(t + 1, c.last - 1);
      look(soon);
      form.enter(both[t % 2], both[soon % 2], in, to + (t - c.first) * in, points);
    }
  }

  void leave(const float* from, int64_t points, const float* bias, const Chunk& c, float* to) const {
    float* pixels[tiles::kMostSide * tiles::kMostSide];
    const int64_t width = (c.to - c.from) * block, o = c.from * block, live = std::min(s.out_channels - o, width);
    for (int64_t t = c.first; t < c.last; ++t) {
      const At tile = at(t, form.side);
      for (int64_t i = 0; i < form.side * form.side; ++i) {
        const int64_t yy = tile.top + y.out + i / form.side, xx = tile.left + x.out + i % form.side;
        const bool inside = yy >= 0 && yy < s.out_height && xx >= 0 && xx < s.out_width;
        pixels[i] = inside ? to + ((tile.image * s.out_height + yy) * s.out_width + xx) * s.out_channels + o : nullptr;
      }
      form.leave(from + (t - c.first) * width, points, bias ? bias + o : nullptr, live, pixels);
    }
  }
};

// As the gradient of the input sees it: inputs and outputs in each other's place.
Shape turned(const Shape& s) {
  Shape back = s;
  back.height = s.out_height, back.width = s.out_width, back.channels = s.out_channels;
  back.out_height = s.height, back.out_width = s.width, back.out_channels = s.channels;
  if (s.stride_y == 1) back.pad_y = 2 - s.pad_y, back.pad_x = 2 - s.pad_x;
  return back;
}

void run(const Shape& s, bool doubled, const float* x, const Weight& weight, const float* bias, float* y, int workers) {
  const Plan plan(s, doubled);
  if (!plan.count || !s.out_channels) return;
  const int64_t slots = plan.form.slots;
  const int64_t most = kChunkBytes / (slots * 4 * (plan.in + plan.some * plan.block)) / plan.k.group * plan.k.group;
  const int64_t share = (plan.count + workers - 1) / workers;
  const int64_t chunk = std::min(std::max(most, 2 * plan.k.group), std::max(share, plan.k.group));
  const std::vector<float> nothing(std::max<int64_t>(plan.in, 1), 0.0f);
  Buffer panel(plan.some * plan.panels());
  for (int64_t from = 0; from < plan.blocks; from += plan.some) {
    const int64_t to = std::min(from + plan.some, plan.blocks), width = (to - from) * plan.block;
    plan.weigh(weight, from, to, panel.get(), workers);
    split_over_workers((plan.count + chunk - 1) / chunk, 1, workers, false, [&](int64_t begin, int64_t end, int) {
      const int64_t in_points = chunk * plan.in + kLine, out_points = chunk * width + kLine;
      Buffer in(slots * in_points), out(slots * out_points);
      for (int64_t unit = begin; unit < end; ++unit) {
        const Plan::Chunk c{unit * chunk, std::min((unit + 1) * chunk, plan.count), from, to};
        plan.enter(x, nothing.data(), c, in.get(), in_points);
        for (int64_t p = 0; p < slots; ++p)
          for (int64_t b = 0; b < to - from; ++b)
            plan.k.multiply(in.get() + p * in_points, plan.in,
                            panel.get() + b * plan.panels() + plan.form.panel[p] * plan.points(), plan.in,
                            c.last - c.first, out.get() + p * out_points + b * plan.block, width);
        plan.leave(out.get(), out_points, bias, c, y);
      }
    });
  }
}

}  // namespace

bool tiles_serve(const Shape& s, bool gradient) {
  const bool taps = s.kernel_y == 3 && s.kernel_x == 3 && s.dilation_y == 1 && s.dilation_x == 1 && s.groups == 1;
  const bool stride = s.stride_y == s.stride_x && (s.stride_y == 1 || (gradient && s.stride_y == 2));
  return taps && stride && s.pad_y <= 2 && s.pad_x <= 2;
}

bool tiles_win(const Shape& shape, bool gradient) {
  if (!tiles_serve(shape, gradient) || shape.channels < kLeastChannels || shape.out_channels < kLeastChannels) return false;
  const Shape s = gradient ? turned(shape) : shape;
  const Plan plan(s, shape.stride_y == 2);
  const int64_t pixels = s.images * s.out_height * s.out_width, side = plan.form.side;
  const double waste = static_cast<double>(plan.count * side * side) / static_cast<double>(std::max<int64_t>(pixels, 1));
  return plan.count >= kLeastTiles && waste <= (&plan.form == &plan.k.doubled ? kMostDoubled : kMostPlain);
}

void tiled(const Shape& s, const float* x, const Weight& weight, const float* bias, float* y, int workers) {
  run(s, false, x, weight, bias, y, workers);
}

void tiled_input_gradient(const Shape& s, const float* g, const Weight& w, float* dx, int workers) {
  if (s.stride_y == 2) return run(turned(s), true, g, {w.at, w.in, w.out, w.y, w.x}, nullptr, dx, workers);
  run(turned(s), false, g, {w.at + 2 * w.y + 2 * w.x, w.in, w.out, -w.y, -w.x}, nullptr, dx, workers);
}

}  // namespace picojoule::events
