// The gradient of the input of a convolution with one tap and a stride: products for the inputs that are read, zeros for
// the others, in one pass over the gradient.

#include <algorithm>
#include <vector>

#include "pool.h"
#include "train_events_lists.h"
#include "train_tiles.h"

namespace picojoule::events {
namespace {

constexpr int64_t kPixels = 96;  // of g at a time, of whole rows: a multiple of the tiles that share weights

}  // namespace

bool sampled_serve(const Shape& s) {
  const bool skips = s.stride_y > 1 || s.stride_x > 1;
  return s.kernel_y == 1 && s.kernel_x == 1 && skips && s.groups == 1 && s.pad_y == 0 && s.pad_x == 0;
}

void sampled_input_gradient(const Shape& s, const float* g, const Weight& w, float* dx, int workers) {
  const tiles::Kernels& k = tile_kernels();
  const int64_t in = s.channels, out = s.out_channels, blocks = (in + k.block - 1) / k.block, width = blocks * k.block;
  const int64_t rows = s.images * s.out_height, some = std::max<int64_t>(kPixels / std::max<int64_t>(s.out_width, 1), 1);
  Buffer panel(out * width);
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t o = 0; o < out; ++o)
      for (int64_t j = 0; j < k.block; ++j) {
        const int64_t c = b * k.block + j;
        panel.get()[(b * out + o) * k.block + j] = c < in ? w.at[o * w.out + c * w.in] : 0.0f;
      }
  split_over_workers((rows + some - 1) / some, 1, workers, false, [&](int64_t begin, int64_t end, int) {
    Buffer found(some * s.out_width * width);
    for (int64_t row = begin * some; row < std::min(end * some, rows); row += some) {
      const int64_t count = std::min(some, rows - row);
      for (int64_t b = 0; b < blocks; ++b)
        k.multiply(g + row * s.out_width * out, out, panel.get() + b * out * k.block, out, count * s.out_width,
                   found.get() + b * k.block, width);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t image = (row + r) / s.out_height, oy = (row + r) % s.out_height, first = oy * s.stride_y;
        const int64_t last = oy + 1 == s.out_height ? s.height : first + s.stride_y;  // rows up to the next that is read
        float* to = dx + (image * s.height + first) * s.width * in;
        const float* from = found.get() + r * s.out_width * width;
        for (int64_t x = 0; x < s.out_width; ++x, from += width) {
          const int64_t next = x + 1 == s.out_width ? s.width : (x + 1) * s.stride_x;
          float* const pixel = to + x * s.stride_x * in;
          std::copy(from, from + in, pixel);
          std::fill(pixel + in, to + next * in, 0.0f);
        }
        std::fill(to + s.width * in, to + (last - first) * s.width * in, 0.0f);
      }
    }
  });
}

}  // namespace picojoule::events
