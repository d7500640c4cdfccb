#pragma once
// Convolution for training that is driven by spikes: the forward pass adds a row of weights for every spike and
// tap, the weight gradient adds a row of output gradients, the input gradient is computed where it is wanted.
//
//   y[o] = b + sum over spikes (q, c) and taps k with q = o * stride - pad + k * dilation of s[q, c] W[k, c]
//
// Float32. Images and gradients are rows [N, H, W, C]; spikes are bits of the same order, every pixel's channels
// starting at a whole byte. A linear layer is a 1x1 convolution over one pixel. Results do not depend on the
// number of threads. src/picojoule/layers/event_reference.py is the readable reference.

#include <cstdint>
#include <string>
#include <vector>

namespace picojoule::events {

struct Shape {
  int64_t images = 0, height = 1, width = 1, channels = 0;  // of the input
  int64_t out_height = 1, out_width = 1, out_channels = 0;
  int64_t kernel_y = 1, kernel_x = 1, stride_y = 1, stride_x = 1, pad_y = 0, pad_x = 0, dilation_y = 1, dilation_x = 1;
  int64_t groups = 1;

  int64_t pixel_bytes() const { return (channels + 7) / 8; }
  int64_t plane_bytes() const { return images * height * width * pixel_bytes(); }
  int64_t group_in() const { return channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
};

// Bytes that kernels may read behind the last plane.
inline constexpr int64_t kSlack = 16;

// Spikes as bit-planes: value = scale * (sum of 2^i over the planes that hold the bit), negative where the bit
// of the last plane is set, if there is such a plane (`sign`).
struct Spikes {
  const uint8_t* bits = nullptr;
  int planes = 1;  // without the sign
  bool sign = false;
  float scale = 1;
};

// What a tensor holds. `levels` is the largest multiple of `scale`; 0 means that it is no spike tensor.
struct Found {
  int64_t levels = 0;
  bool sign = false;
  float scale = 1;
  int64_t nonzero = 0;
};

// An array [N, C, P] of floats in one of two orders: channels last (each pixel's channels adjacent), or planes.
struct Rows {
  int64_t images = 0, pixels = 0, channels = 0;
  bool planar = false;
};

inline constexpr int64_t kMostLevels = 255;

// Spikes of one height, the frequent case: bits of `x` and its only value, levels 0 where there are others.
Found pack_binary(const float* x, const Rows& rows, uint8_t* bits, int workers);
// Multiples of the smallest value up to kMostLevels, or -1, 0, 1 times it; levels 0 where there is something else.
Found find_levels(const float* x, int64_t count);
// Planes for what find_levels found, of `plane` bytes each.
void pack_levels(const float* x, const Rows& rows, const Found& found, uint8_t* bits, int workers);
// Back to floats, channels last.
void unpack(const Spikes& spikes, const Rows& rows, float* out, int workers);
// Bits where |h - centre| < half (<= when closed): the positions where a compact surrogate has a slope.
int64_t pack_window(const float* h, const Rows& rows, float centre, float half, bool closed, uint8_t* bits, int workers);

// A weight [O, C / groups, Ky, Kx] with any strides.
struct Weight {
  float* at = nullptr;
  int64_t out = 0, in = 0, y = 0, x = 0;
};

// True where the kernels have a form for this shape; elsewhere the caller uses an ordinary convolution.
bool supported(const Shape& shape);

void forward(const Shape& shape, const Spikes& spikes, const Weight& weight, const float* bias, float* y, int workers);
void weight_gradient(const Shape& shape, const Spikes& spikes, const float* g, const Weight& result, int workers);
// Input gradient where the bits of `open` are set, zero elsewhere.
void input_gradient(const Shape& shape, const uint8_t* open, const float* g, const Weight& weight, float* dx, int workers);

// Real values instead of spikes, where taps are 3x3 and strides 1: a quarter of the products, see train_tiles.cpp; for the
// gradient of x also where strides are 2, nine sixteenths. Sums are exact to rounding, about twice the error of the direct
// sum; a value that is not finite spreads over its tile.
bool tiles_serve(const Shape& shape, bool gradient);
// Over a direct convolution that is limited by its products: for y, or for the gradient of x.
bool tiles_win(const Shape& shape, bool gradient);
void tiled(const Shape& shape, const float* x, const Weight& weight, const float* bias, float* y, int workers);
void tiled_input_gradient(const Shape& shape, const float* g, const Weight& weight, float* dx, int workers);

// One tap, strides above 1 and no padding: most inputs are not read, and their gradient is zero.
bool sampled_serve(const Shape& shape);
void sampled_input_gradient(const Shape& shape, const float* g, const Weight& weight, float* dx, int workers);

// Max-pooling of binary spikes whose channels are whole bytes: bits and spikes of `size`; the gradient of x, from its bits.
// Padding, which is no spike, is never chosen; every window must reach into the image.
bool pool_serves(const Shape& shape);
void pool_forward(const Shape& shape, const uint8_t* bits, float size, uint8_t* out, float* y, int workers);
void pool_gradient(const Shape& shape, const uint8_t* bits, const float* g, float* dx, int workers);

// Names of the instruction sets that run here, and the choice of one, "auto" at first; answers the one before.
// Sets without kernels of their own run the generic ones.
std::vector<std::string> instruction_sets();
std::string use(const std::string& name);

}  // namespace picojoule::events
