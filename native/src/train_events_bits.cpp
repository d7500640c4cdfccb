// Floats into bit-planes and back.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "pool.h"
#include "train_events_lists.h"

namespace picojoule::events {
namespace {

constexpr int64_t kPiece = 1 << 16;  // floats that a worker takes at once

// Bits of one kind for all of x: `bits_of(from, n, to)` writes those of n floats and returns how many are set.
// Pixels of planar arrays are put together from the bits of their planes.
template <class BitsOf>
int64_t pack_rows(const float* x, const Rows& rows, uint8_t* bits, int workers, const BitsOf& bits_of) {
  const int64_t bytes = (rows.channels + 7) / 8, pixels = rows.images * rows.pixels;
  if (!pixels || !rows.channels) return 0;
  const bool flat = !rows.planar && rows.channels % 8 == 0;
  const int64_t unit = rows.planar ? rows.pixels : std::max<int64_t>(kPiece / rows.channels, 1);
  std::vector<int64_t> counts((pixels + unit - 1) / unit, 0);
  split_over_workers(pixels, unit, workers, false, [&](int64_t begin, int64_t end, int) {
    std::vector<uint8_t> plane(rows.planar ? (rows.pixels + 7) / 8 : 0);
    for (int64_t from = begin; from < end; from += unit) {
      const int64_t last = std::min(from + unit, end);
      int64_t& count = counts[from / unit];
      if (flat) {
        count = bits_of(x + from * rows.channels, (last - from) * rows.channels, bits + from * bytes);
      } else if (!rows.planar) {
        for (int64_t p = from; p < last; ++p) count += bits_of(x + p * rows.channels, rows.channels, bits + p * bytes);
      } else {
        uint8_t* image = bits + from * bytes;
        std::memset(image, 0, rows.pixels * bytes);
        for (int64_t c = 0; c < rows.channels; ++c) {
          count += bits_of(x + from * rows.channels + c * rows.pixels, rows.pixels, plane.data());
          for (int64_t byte = 0; byte < static_cast<int64_t>(plane.size()); ++byte)
            for (unsigned set = plane[byte]; set; set &= set - 1)
              image[(byte * 8 + __builtin_ctz(set)) * bytes + c / 8] |= static_cast<uint8_t>(1 << (c % 8));
        }
      }
    }
  });
  int64_t count = 0;
  for (int64_t n : counts) count += n;
  return count;
}

// False where the first values cannot be multiples of one number: real inputs are told apart without reading all.
bool may_have_levels(const float* x, int64_t count) {
  std::vector<float> seen;
  for (int64_t i = 0; i < count && seen.size() < 256; ++i)
    if (x[i] != 0.0f) seen.push_back(std::fabs(x[i]));
  if (seen.empty()) return true;
  const double least = *std::min_element(seen.begin(), seen.end());
  for (int parts = 1; parts <= 16; ++parts)  // the least of them may itself be a multiple
    if (std::all_of(seen.begin(), seen.end(), [&](float v) {
          const double level = v / least * parts;
          return std::fabs(level - std::nearbyint(level)) < 1e-4 * parts;
        }))
      return true;
  return false;
}

}  // namespace

Found pack_binary(const float* x, const Rows& rows, uint8_t* bits, int workers) {
  const int64_t all = rows.images * rows.pixels * rows.channels;
  const float* first = std::find_if(x, x + all, [](float v) { return v != 0.0f; });
  Found found;
  found.scale = first == x + all ? 1.0f : *first;
  if (!(found.scale > 0) || std::isinf(found.scale)) return found;
  bool same = true;  // every worker only ever clears it
  const auto& pack = kernels().pack;
  found.nonzero = pack_rows(x, rows, bits, workers, [&](const float* from, int64_t n, uint8_t* to) -> int64_t {
    bool mine = true;
    if (!__atomic_load_n(&same, __ATOMIC_RELAXED)) return 0;
    const int64_t count = pack(from, n, found.scale, to, &mine);
    if (!mine) __atomic_store_n(&same, false, __ATOMIC_RELAXED);
    return count;
  });
  found.levels = same ? 1 : 0;
  return found;
}

Found find_levels(const float* x, int64_t count) {
  Found found;
  if (!may_have_levels(x, count)) return found;
  float least = INFINITY;
  for (int64_t i = 0; i < count; ++i) {
    const float size = std::fabs(x[i]);
    least = size > 0 && size < least ? size : least;
  }
  found.scale = std::isinf(least) ? 1.0f : least;
  int64_t most = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float v = x[i];
    if (v == 0.0f) continue;
    const float level = std::nearbyint(std::fabs(v) / found.scale);
    if (!(level <= kMostLevels) || level * found.scale != std::fabs(v)) return found;
    most = std::max(most, static_cast<int64_t>(level));
    found.sign |= v < 0;
    ++found.nonzero;
  }
  found.levels = std::max<int64_t>(most, 1);
  return found;
}

void pack_levels(const float* x, const Rows& rows, const Found& found, uint8_t* bits, int workers) {
  const int64_t plane = rows.images * rows.pixels * ((rows.channels + 7) / 8);
  int planes = 0;
  while (found.levels >> planes) ++planes;
  const auto by = [&](const auto& bit) {
    return [&, bit](const float* from, int64_t n, uint8_t* to) -> int64_t {
      for (int64_t i = 0; i < n; i += 8) {
        uint8_t byte = 0;
        for (int64_t j = 0; j < std::min<int64_t>(8, n - i); ++j) byte |= static_cast<uint8_t>(bit(from[i + j])) << j;
        to[i / 8] = byte;
      }
      return 0;
    };
  };
  for (int p = 0; p < planes; ++p)
    pack_rows(x, rows, bits + p * plane, workers,
              by([&, p](float v) { return static_cast<int>(std::fabs(v) / found.scale + 0.5f) >> p & 1; }));
  if (found.sign) pack_rows(x, rows, bits + planes * plane, workers, by([](float v) { return v < 0; }));
}

void unpack(const Spikes& spikes, const Rows& rows, float* out, int workers) {
  const int64_t bytes = (rows.channels + 7) / 8, pixels = rows.images * rows.pixels, plane = pixels * bytes;
  if (!pixels || !rows.channels) return;
  const bool flat = rows.channels % 8 == 0;
  split_over_workers(pixels, std::max<int64_t>(kPiece / rows.channels, 1), workers, false,
                     [&](int64_t begin, int64_t end, int) {
    const auto plain = kernels().unpack;
    if (spikes.planes == 1 && !spikes.sign && flat)
      return plain(spikes.bits + begin * bytes, (end - begin) * rows.channels, spikes.scale, out + begin * rows.channels);
    std::vector<float> one(rows.channels);
    for (int64_t p = begin; p < end; ++p) {
      float* to = out + p * rows.channels;
      const uint8_t* from = spikes.bits + p * bytes;
      plain(from, rows.channels, 1.0f, to);
      for (int i = 1; i < spikes.planes; ++i) {
        plain(from + i * plane, rows.channels, static_cast<float>(1 << i), one.data());
        for (int64_t c = 0; c < rows.channels; ++c) to[c] += one[c];
      }
      if (spikes.sign) {
        plain(from + spikes.planes * plane, rows.channels, 1.0f, one.data());
        for (int64_t c = 0; c < rows.channels; ++c) to[c] = one[c] != 0 ? -to[c] : to[c];
      }
      for (int64_t c = 0; c < rows.channels; ++c) to[c] *= spikes.scale;
    }
  });
}

int64_t pack_window(const float* h, const Rows& rows, float centre, float half, bool closed, uint8_t* bits, int workers) {
  return pack_rows(h, rows, bits, workers, [&](const float* from, int64_t n, uint8_t* to) {
    return kernels().window(from, n, centre, half, closed, to);
  });
}

}  // namespace picojoule::events
