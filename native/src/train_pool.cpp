// Max-pooling of binary spikes: OR of bits forward; backward the gradient of a window goes to its first spike, or, where
// nothing fires, to its first position, which is the choice of an ordinary max-pool.

#include <algorithm>
#include <cstring>
#include <vector>

#include "pool.h"
#include "train_events_lists.h"

namespace picojoule::events {
namespace {

struct Range {
  int64_t first, last;  // taps inside the image
};

Range taps_inside(int64_t out, int64_t size, int64_t kernel, int64_t stride, int64_t pad) {
  const int64_t start = out * stride - pad;
  return {std::max<int64_t>(-start, 0), std::min(kernel, size - start)};
}

// Eight bytes of bits; those behind a pixel's last channel are of no account.
uint64_t word_at(const uint8_t* bits) {
  uint64_t word;
  std::memcpy(&word, bits, 8);
  return word;
}

// Output columns, which are the same in every row.
std::vector<Range> columns_of(const Shape& s) {
  std::vector<Range> all;
  for (int64_t x = 0; x < s.out_width; ++x)
    all.push_back(taps_inside(x, s.width, s.kernel_x, s.stride_x, s.pad_x));
  return all;
}

Range rows_of(const Shape& s, int64_t y) { return taps_inside(y, s.height, s.kernel_y, s.stride_y, s.pad_y); }

// True where one input may lie in two windows, or in none.
bool overlaps(const Shape& s) { return s.stride_y < s.kernel_y || s.stride_x < s.kernel_x; }
bool leaves_out(const Shape& s) {
  return s.stride_y > s.kernel_y || s.stride_x > s.kernel_x ||
         s.out_height * s.stride_y - s.pad_y < s.height || s.out_width * s.stride_x - s.pad_x < s.width;
}

}  // namespace

bool pool_serves(const Shape& s) {
  const auto reach = [](int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t out) {
    return pad < kernel && out > 0 && (out - 1) * stride - pad < size;
  };
  return s.channels % 8 == 0 && s.channels == s.out_channels && s.groups == 1 && s.dilation_y == 1 && s.dilation_x == 1 &&
         reach(s.height, s.kernel_y, s.stride_y, s.pad_y, s.out_height) &&
         reach(s.width, s.kernel_x, s.stride_x, s.pad_x, s.out_width);
}

void pool_forward(const Shape& s, const uint8_t* bits, float size, uint8_t* out, float* y, int workers) {
  const int64_t bytes = s.pixel_bytes(), line = s.width * bytes, rows = s.images * s.out_height;
  const std::vector<Range> columns = columns_of(s);
  split_over_workers(rows, 1, workers, false, [&](int64_t begin, int64_t end, int) {
    std::vector<uint8_t> any(line);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / s.out_height, oy = row % s.out_height;
      const Range taps = rows_of(s, oy);
      std::fill(any.begin(), any.end(), 0);
      for (int64_t k = taps.first; k < taps.last; ++k) {
        const uint8_t* from = bits + (image * s.height + oy * s.stride_y - s.pad_y + k) * line;
        for (int64_t i = 0; i < line; ++i) any[i] |= from[i];
      }
      uint8_t* to = out + row * s.out_width * bytes;
      for (int64_t ox = 0; ox < s.out_width; ++ox, to += bytes) {
        std::fill(to, to + bytes, 0);
        for (int64_t k = columns[ox].first; k < columns[ox].last; ++k) {
          const uint8_t* from = any.data() + (ox * s.stride_x - s.pad_x + k) * bytes;
          for (int64_t i = 0; i < bytes; ++i) to[i] |= from[i];
        }
      }
      kernels().unpack(out + row * s.out_width * bytes, s.out_width * s.channels, size, y + row * s.out_width * s.channels);
    }
  });
}

void pool_gradient(const Shape& s, const uint8_t* bits, const float* g, float* dx, int workers) {
  const int64_t bytes = s.pixel_bytes(), line = s.width * bytes;
  const bool add = overlaps(s), clear = add || leaves_out(s);
  const std::vector<Range> columns = columns_of(s);
  const auto masked = kernels().masked;
  split_over_workers(s.images, 1, workers, false, [&](int64_t begin, int64_t end, int) {
    for (int64_t image = begin; image < end; ++image) {
      const uint8_t* const from = bits + image * s.height * line;
      float* const to = dx + image * s.height * s.width * s.channels;
      const float* up = g + image * s.out_height * s.out_width * s.channels;
      if (clear) std::fill(to, to + s.height * s.width * s.channels, 0.0f);
      for (int64_t oy = 0; oy < s.out_height; ++oy) {
        const Range down = rows_of(s, oy);
        for (int64_t ox = 0; ox < s.out_width; ++ox, up += s.channels) {
          const Range across = columns[ox];
          const int64_t corner = (oy * s.stride_y - s.pad_y) * s.width + ox * s.stride_x - s.pad_x;
          const auto each = [&](const auto& body) {
            for (int64_t ky = down.first; ky < down.last; ++ky)
              for (int64_t kx = across.first; kx < across.last; ++kx) body(corner + ky * s.width + kx);
          };
          for (int64_t c = 0; c < s.channels; c += 64) {
            const int64_t live = std::min<int64_t>(64, s.channels - c);
            const uint8_t* const here = from + c / 8;
            uint64_t any = 0, seen = 0;
            each([&](int64_t pixel) { any |= word_at(here + pixel * bytes); });
            const uint64_t none = ~any;
            bool first = true;
            each([&](int64_t pixel) {
              uint64_t mine = word_at(here + pixel * bytes) & ~seen;
              if (first) mine |= none;  // where nothing fires
              first = false, seen |= mine;
              if (mine || !add) masked(up + c, reinterpret_cast<const uint8_t*>(&mine), live, add, to + pixel * s.channels + c);
            });
          }
        }
      }
    }
  });
}

}  // namespace picojoule::events
