#pragma once
// Spikes as lists of positions: by pixel for the forward pass, by channel for the gradients.

#include <cstdint>
#include <memory>
#include <vector>

#include "train_events.h"
#include "train_tiles.h"

namespace picojoule::events {

const Kernels& kernels();  // those in use
const tiles::Kernels& tile_kernels();

// Floats that nobody has written yet, aligned to a cache line.
class Buffer {
 public:
  explicit Buffer(int64_t count) : at_(static_cast<float*>(::operator new[](count * sizeof(float) + 64, std::align_val_t{64}))) {}
  float* get() const { return at_.get(); }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<float[], Free> at_;
};

// Weights of one group times `scale`, a block of output channels after the other; missing channels are zero.
// Rows of a block: [tap, c], or [c, tap] with `by_channel`.
Buffer block_weights(const Shape& s, const Weight& w, int64_t group, int64_t block, float scale, bool by_channel);

// Spikes pixel by pixel, channels in order: index is x * group_in + c.
class PixelLists {
 public:
  void read(const Shape& s, const Spikes& spikes, int64_t group, int64_t image, int64_t images);
  RowLists rows() const { return {index_.data(), value_.empty() ? nullptr : value_.data(), start_.data()}; }

 private:
  std::vector<uint32_t> index_, start_;
  std::vector<float> value_;
};

// One axis of a convolution as seen from the input. Inputs of one phase (their padded coordinate modulo the
// stride) reach the same taps j = 0..taps(phase), kernel index phase + j * stride, and these lie `step` outputs
// apart, backwards.
struct Axis {
  int64_t size, out, kernel, stride, pad, dilation;

  int64_t step() const { return dilation; }  // stride or dilation is 1
  int64_t taps(int64_t phase) const { return phase < kernel ? (kernel - 1 - phase) / stride + 1 : 0; }
  int64_t reach() const { return (taps(0) - 1) * step(); }
  int64_t phase(int64_t i) const { return (i + pad) % stride; }
  int64_t place(int64_t i) const { return (i + pad) / stride; }
};

// A tile of the zero-padded output gradient, small enough for a near cache: whole images one below the other, or a
// band of rows of one image. Position (r, c) of a part holds output row r - reach + place(first input row).
struct Tiles {
  Axis y, x;
  int64_t images = 0, rows = 0;                 // of a tile: input images, or input rows of a band (images 1)
  int64_t part_rows = 0, columns = 0;           // positions of a part
  int64_t bands = 1, count = 0;                 // a image, in all
  int64_t positions() const { return images * part_rows * columns; }

  Tiles(const Shape& s, int64_t position_bytes, int64_t budget);
  struct Part {
    int64_t image, first, last;  // input rows [first, last)
  };
  int64_t parts(int64_t tile, int64_t all_images) const;
  Part part(int64_t tile, int64_t i) const;
  // Gradient rows g [N, OH, OW, O] of channels [from, from + live) into `to`, `block` floats a position.
  void copy(const Shape& s, const float* g, int64_t tile, int64_t from, int64_t live, int64_t block, float* to) const;
};

// Spikes of one tile by phase and channel: positions of tap 0 in the tile.
struct ChannelLists {
  std::vector<uint32_t> at, pixel, start;  // start [phases * channels + 1]; pixel: index of the input pixel
  std::vector<float> value;

  void read(const Shape& s, const Spikes& spikes, const Tiles& tiles, int64_t tile, bool with_pixels);
};

}  // namespace picojoule::events
