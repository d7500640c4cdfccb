// Dispatch, the forward pass and what its neighbours share: bits as lists, weights as blocks.

#include "train_events.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "isa.h"
#include "pool.h"
#include "train_events_lists.h"

namespace picojoule::events {
namespace {

Isa& chosen() {
  static Isa isa = parse_isa("auto");
  return isa;
}

// Images of a unit of forward work: enough pixels to use each block of weights that comes from a farther cache.
constexpr int64_t kUnitPixels = 512;

int block_vectors(const Shape& s) {
  const int64_t lanes = kernels().lanes, tile = s.kernel_y * s.kernel_x * s.group_in() * sizeof(float);
  int vectors = static_cast<int>(kernels().most_vectors);
  // a block of weights shall stay in the second cache level, and no block be mostly empty
  while (vectors > 1 && (vectors * lanes * tile > (640 << 10) || vectors * lanes / 2 >= s.group_out())) vectors /= 2;
  return vectors;
}

}  // namespace

const Kernels& kernels() {
#if defined(__x86_64__)
  static const bool fma = __builtin_cpu_supports("fma");
  if (chosen() == Isa::avx512 && fma) return kEventsAvx512;
  if (chosen() == Isa::avx2 && fma) return kEventsAvx2;
#endif
  return kEventsGeneric;
}

const tiles::Kernels& tile_kernels() {
#if defined(__x86_64__)
  if (&kernels() == &kEventsAvx512) return tiles::kTilesAvx512;
  if (&kernels() == &kEventsAvx2) return tiles::kTilesAvx2;
#endif
  return tiles::kTilesGeneric;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (Isa isa : picojoule::instruction_sets()) names.push_back(name_of(isa));
  return names;
}

std::string use(const std::string& name) {
  const std::string before = name_of(chosen());
  chosen() = parse_isa(name);
  return before;
}

bool supported(const Shape& s) {
  const auto axis = [](int64_t stride, int64_t dilation) { return stride == 1 || dilation == 1; };
  return axis(s.stride_y, s.dilation_y) && axis(s.stride_x, s.dilation_x) &&
         s.width * s.group_in() < (int64_t{1} << 31);
}

Buffer block_weights(const Shape& s, const Weight& w, int64_t group, int64_t block, float scale, bool by_channel) {
  const int64_t in = s.group_in(), out = s.group_out(), taps = s.kernel_y * s.kernel_x;
  const int64_t blocks = (out + block - 1) / block;
  Buffer packed(blocks * taps * in * block);
  const int64_t some = w.in == 1 ? 64 : 16;  // input channels at a time: their cache lines are read whole
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t live = std::min(block, out - b * block);
    const float* from = w.at + (group * out + b * block) * w.out;
    float* to = packed.get() + b * taps * in * block;
    for (int64_t c0 = 0; c0 < in; c0 += some)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t depth = std::min(some, in - c0);
        if (w.in == 1 && live == block) {  // as a weight lies channels last
          kernels().turn(from + tap / s.kernel_x * w.y + tap % s.kernel_x * w.x + c0, w.out, live, depth, scale,
                         to + (by_channel ? c0 * taps + tap : tap * in + c0) * block, (by_channel ? taps : 1) * block);
          continue;
        }
        for (int64_t c = c0; c < c0 + depth; ++c) {
          const float* source = from + tap / s.kernel_x * w.y + tap % s.kernel_x * w.x + c * w.in;
          float* row = to + (by_channel ? c * taps + tap : tap * in + c) * block;
          for (int64_t o = 0; o < live; ++o) row[o] = source[o * w.out] * scale;
          std::fill(row + live, row + block, 0.0f);
        }
      }
  }
  return packed;
}

void forward(const Shape& s, const Spikes& spikes, const Weight& weight, const float* bias, float* y, int workers) {
  if (!s.images || !s.out_height || !s.out_width || !s.out_channels) return;
  const Kernels& k = kernels();
  const int vectors = block_vectors(s);
  const int64_t block = vectors * k.lanes, out = s.group_out(), in = s.group_in();
  const int64_t blocks = (out + block - 1) / block, out_pixels = s.out_height * s.out_width;
  const int64_t unit = std::clamp<int64_t>(kUnitPixels / out_pixels, 1, s.images);
  for (int64_t group = 0; group < s.groups; ++group) {
    const Buffer weights = block_weights(s, weight, group, block, spikes.scale, false);
    Buffer offsets(blocks * block);
    std::fill(offsets.get(), offsets.get() + blocks * block, 0.0f);
    if (bias) std::copy(bias + group * out, bias + (group + 1) * out, offsets.get());
    split_over_workers(s.images, unit, workers, false, [&](int64_t begin, int64_t end, int) {
      PixelLists lists;
      for (int64_t image = begin; image < end; image += unit) {
        const int64_t images = std::min(unit, end - image);
        lists.read(s, spikes, group, image, images);
        for (int64_t b = 0; b < blocks; ++b)
          k.forward(s, lists.rows(), images, weights.get() + b * s.kernel_y * s.kernel_x * in * block,
                    offsets.get() + b * block, y + image * out_pixels * s.out_channels + group * out + b * block,
                    vectors, std::min(block, out - b * block));
      }
    });
  }
}

}  // namespace picojoule::events
