#include "train_events_lists.h"

#include <algorithm>
#include <cstring>

namespace picojoule::events {
namespace {

// `count` <= 64 bits from bit `from`; reads up to 9 bytes (see kSlack).
inline uint64_t bits_at(const uint8_t* bytes, int64_t from, int64_t count) {
  uint64_t word;
  std::memcpy(&word, bytes + from / 8, 8);
  const int shift = static_cast<int>(from % 8);
  word >>= shift;
  if (shift) word |= static_cast<uint64_t>(bytes[from / 8 + 8]) << (64 - shift);
  return count < 64 ? word & ((uint64_t{1} << count) - 1) : word;
}

// The value of bit `c` of a pixel whose first plane starts at `bytes`, without the scale.
inline float value_at(const Spikes& spikes, const uint8_t* bytes, int64_t plane, int64_t c) {
  int level = 0;
  for (int p = 0; p < spikes.planes; ++p) level |= (bytes[p * plane + c / 8] >> (c % 8) & 1) << p;
  const bool negative = spikes.sign && (bytes[spikes.planes * plane + c / 8] >> (c % 8) & 1);
  return static_cast<float>(negative ? -level : level);
}

// Calls each(c) for every spike of a pixel's channels [from, from + count).
template <class Each>
inline void each_spike(const Spikes& spikes, const uint8_t* bytes, int64_t plane, int64_t from, int64_t count,
                       const Each& each) {
  for (int64_t c = 0; c < count; c += 64) {
    const int64_t some = std::min<int64_t>(64, count - c);
    uint64_t word = bits_at(bytes, from + c, some);
    for (int p = 1; p < spikes.planes; ++p) word |= bits_at(bytes + p * plane, from + c, some);
    for (; word; word &= word - 1) each(c + __builtin_ctzll(word));
  }
}

bool plain(const Spikes& spikes) { return spikes.planes == 1 && !spikes.sign; }

}  // namespace

void PixelLists::read(const Shape& s, const Spikes& spikes, int64_t group, int64_t image, int64_t images) {
  const int64_t in = s.group_in(), plane = s.plane_bytes(), bytes = s.pixel_bytes();
  const int64_t most = images * s.height * s.width * in;
  const bool valued = !plain(spikes);
  if (static_cast<int64_t>(index_.size()) < most) index_.resize(most);
  if (valued && static_cast<int64_t>(value_.size()) < most) value_.resize(most);
  start_.resize(images * s.height * (s.width + 1));
  uint32_t n = 0;
  uint32_t* start = start_.data();
  uint32_t* index = index_.data();
  const uint8_t* pixel = spikes.bits + image * s.height * s.width * bytes;
  for (int64_t row = 0; row < images * s.height; ++row) {
    for (int64_t x = 0; x < s.width; ++x, pixel += bytes) {
      *start++ = n;
      each_spike(spikes, pixel, plane, group * in, in, [&](int64_t c) {
        if (valued) value_[n] = value_at(spikes, pixel, plane, group * in + c);
        index[n++] = static_cast<uint32_t>(x * in + c);
      });
    }
    *start++ = n;
  }
}

Tiles::Tiles(const Shape& s, int64_t position_bytes, int64_t budget)
    : y{s.height, s.out_height, s.kernel_y, s.stride_y, s.pad_y, s.dilation_y},
      x{s.width, s.out_width, s.kernel_x, s.stride_x, s.pad_x, s.dilation_x} {
  columns = x.place(s.width - 1) - x.place(0) + x.reach() + 1;
  const int64_t whole = y.place(s.height - 1) - y.place(0) + y.reach() + 1;
  const int64_t fitting = std::max<int64_t>(budget / (columns * position_bytes), 1);  // rows of positions
  if (whole <= fitting) {
    images = std::clamp<int64_t>(fitting / whole, 1, std::max<int64_t>(s.images, 1));
    rows = s.height;
    part_rows = whole;
    count = (s.images + images - 1) / images;
    return;
  }
  // bands at least four times as high as the rows that neighbours share
  const int64_t places = std::max(fitting - y.reach(), std::max<int64_t>(4 * y.reach(), 1));
  images = 1;
  rows = std::min(places * s.stride_y, s.height);
  bands = (s.height + rows - 1) / rows;
  part_rows = (rows + s.stride_y - 2) / s.stride_y + y.reach() + 1;
  count = s.images * bands;
}

int64_t Tiles::parts(int64_t tile, int64_t all_images) const {
  return bands > 1 ? 1 : std::min(images, all_images - tile * images);
}

Tiles::Part Tiles::part(int64_t tile, int64_t i) const {
  if (bands == 1) return {tile * images + i, 0, y.size};
  const int64_t first = tile % bands * rows;
  return {tile / bands, first, std::min(first + rows, y.size)};
}

void Tiles::copy(const Shape& s, const float* g, int64_t tile, int64_t from, int64_t live, int64_t block, float* to) const {
  const int64_t before = x.reach() - x.place(0);  // position of output column 0; negative where none reads it
  for (int64_t i = 0; i < parts(tile, s.images); ++i) {
    const Part p = part(tile, i);
    for (int64_t r = 0; r < part_rows; ++r, to += columns * block) {
      const int64_t row = r - y.reach() + y.place(p.first);
      const int64_t a = std::clamp<int64_t>(before, 0, columns), b = std::clamp<int64_t>(before + s.out_width, a, columns);
      if (row < 0 || row >= s.out_height) {
        std::memset(to, 0, columns * block * sizeof(float));
        continue;
      }
      std::memset(to, 0, a * block * sizeof(float));
      const float* source = g + ((p.image * s.out_height + row) * s.out_width + a - before) * s.out_channels + from;
      kernels().gather(source, s.out_channels, b - a, live, block, to + a * block);
      std::memset(to + b * block, 0, (columns - b) * block * sizeof(float));
    }
  }
}

void ChannelLists::read(const Shape& s, const Spikes& spikes, const Tiles& tiles, int64_t tile, bool with_pixels) {
  const int64_t plane = s.plane_bytes(), bytes = s.pixel_bytes(), channels = s.channels;
  const int64_t lists = s.stride_y * s.stride_x * channels;
  const auto each_pixel = [&](const auto& body) {
    for (int64_t i = 0; i < tiles.parts(tile, s.images); ++i) {
      const Tiles::Part p = tiles.part(tile, i);
      for (int64_t yy = p.first; yy < p.last; ++yy) {
        const int64_t row = i * tiles.part_rows + tiles.y.place(yy) - tiles.y.place(p.first) + tiles.y.reach();
        for (int64_t xx = 0; xx < s.width; ++xx) {
          const int64_t position = row * tiles.columns + tiles.x.place(xx) - tiles.x.place(0) + tiles.x.reach();
          body((p.image * s.height + yy) * s.width + xx, position,
               (tiles.y.phase(yy) * s.stride_x + tiles.x.phase(xx)) * channels);
        }
      }
    }
  };
  start.assign(lists + 1, 0);
  each_pixel([&](int64_t q, int64_t, int64_t list) {
    each_spike(spikes, spikes.bits + q * bytes, plane, 0, channels, [&](int64_t c) { ++start[list + c + 1]; });
  });
  for (int64_t i = 0; i < lists; ++i) start[i + 1] += start[i];
  at.resize(start[lists]);
  if (with_pixels) pixel.resize(start[lists]);
  const bool valued = !plain(spikes);
  if (valued) value.resize(start[lists]);
  std::vector<uint32_t> next(start.begin(), start.end() - 1);
  each_pixel([&](int64_t q, int64_t position, int64_t list) {
    const uint8_t* here = spikes.bits + q * bytes;
    each_spike(spikes, here, plane, 0, channels, [&](int64_t c) {
      const uint32_t n = next[list + c]++;
      at[n] = static_cast<uint32_t>(position);
      if (with_pixels) pixel[n] = static_cast<uint32_t>(q);
      if (valued) value[n] = value_at(spikes, here, plane, c);
    });
  });
}

}  // namespace picojoule::events
