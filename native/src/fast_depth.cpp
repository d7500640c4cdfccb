#include "fast_depth.h"

#include <algorithm>
#include <cstring>

namespace picojoule {

DepthLayout::DepthLayout(const FastJob& job, int weight_planes, int sum_width, const WeightAt& weight)
    : planes(weight_planes), width(sum_width) {
  const FastShape& s = job.shape;
  const int64_t lists = job.weights.lists, lane_words = 4 / lists, blocks = lists > 1 ? 1 : (s.channels + 255) / 256;
  taps = s.taps == 9 ? 9 : (s.taps + 7) / 8 * 8;
  pixel_words = blocks * lane_words;
  image_words = job.image_size[0] * job.image_size[1] * job.image_size[2] * pixel_words;
  weights.assign(blocks * planes * taps * 4, 0);
  offsets.assign(taps, 0);
  for (int64_t tap = 0; tap < s.taps; ++tap) {
    const int64_t z = tap / (s.kernel[1] * s.kernel[2]) * s.dilation[0], y = tap / s.kernel[2] % s.kernel[1] * s.dilation[1];
    offsets[tap] = ((z * job.image_size[1] + y) * job.image_size[2] + tap % s.kernel[2] * s.dilation[2]) * pixel_words;
    for (int64_t c = 0; c < s.channels; ++c) {
      const auto code = static_cast<uint64_t>(weight(c, tap, 0));
      for (int j = 0; j < planes; ++j)
        for (int64_t l = 0; l < lists; ++l) {
          uint64_t* to = weights.data() + ((c / 256 * planes + j) * taps + tap) * 4 + l * lane_words;
          to[c % 256 / 64] |= (code >> j & 1) << (c % 64);
        }
    }
  }
}

void DepthLayout::use(FastJob& job) const {
  DepthJob& d = job.depth;
  d.weights = reinterpret_cast<const std::byte*>(weights.data());
  d.offsets = offsets.data();
  d.taps = taps, d.planes = planes, d.width = width;
  d.pixel_words = pixel_words, d.image_words = image_words;
}

// A vector may be read at the last pixel.
int64_t depth_words(const FastJob& job, int64_t rows) { return rows * job.in_planes * job.depth.image_words + 4; }

void lay_depth(const FastJob& job, int64_t begin, int64_t end) {
  const FastShape& s = job.shape;
  const int64_t words = job.depth.pixel_words, width = std::min(s.in[2], job.image_size[2] - s.before[2]);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t t = i / job.in_planes, q = i % job.in_planes;
    const uint64_t* from = reinterpret_cast<const uint64_t*>(job.in + t * job.in_row_bytes) + q * s.pixels_in * s.words;
    uint64_t* image = job.depth.image + i * job.depth.image_words;
    std::memset(image, 0, static_cast<size_t>(job.depth.image_words) * 8);
    for (int64_t z = 0; z < s.in[0]; ++z)
      for (int64_t y = 0; y < s.in[1]; ++y) {
        const int64_t to_z = z + s.before[0], to_y = y + s.before[1];
        if (to_z >= job.image_size[0] || to_y >= job.image_size[1] || width <= 0) continue;
        uint64_t* to = image + ((to_z * job.image_size[1] + to_y) * job.image_size[2] + s.before[2]) * words;
        const uint64_t* line = from + (z * s.in[1] + y) * s.in[2] * s.words;
        if (s.words == words) std::memcpy(to, line, static_cast<size_t>(width * words) * 8);
        else
          for (int64_t x = 0; x < width; ++x, to += words, line += s.words) std::memcpy(to, line, static_cast<size_t>(s.words) * 8);
      }
  }
}

}  // namespace picojoule
