#pragma once
// The border between the kernels of train_tiles.cpp, compiled once an instruction set, and their dispatcher.

#include <cstdint>

namespace picojoule::tiles {

inline constexpr int64_t kSide = 4, kReach = 6, kPoints = kReach * kReach;  // of a tile: outputs, inputs a side

struct Kernels {
  int64_t block;  // columns of a panel of weights
  int64_t group;  // tiles whose products share a load of the weights

  // Rows [k] of nine taps, taps[tap * tap_stride + k * block], into rows of kPoints panels, `points` floats apart.
  void (*weights)(const float* taps, int64_t tap_stride, int64_t rows, float* panel, int64_t points);
  // One tile from its pixels [kPoints][channels] into out[point * points + k]; those of the next tile are asked for.
  void (*enter)(const float* const* pixels, const float* const* soon, int64_t channels, float* out, int64_t points);
  // out[t, :] = sum over k of in[t * in_row + k] panel[k, :], a block wide; t < tiles.
  void (*multiply)(const float* in, int64_t in_row, const float* panel, int64_t depth, int64_t tiles, float* out,
                   int64_t out_row);
  // One tile from in[point * points + c] (+ bias[c]) to its pixels [kSide * kSide][channels], null where it has none.
  void (*leave)(const float* in, int64_t points, const float* bias, int64_t channels, float* const* pixels);
};

extern const Kernels kTilesGeneric, kTilesAvx2, kTilesAvx512;

}  // namespace picojoule::tiles
