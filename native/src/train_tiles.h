#pragma once
// The border between the kernels of train_tiles.cpp, compiled once an instruction set, and their dispatcher.

#include <cstdint>

namespace picojoule::tiles {

inline constexpr int64_t kPanels = 36;  // of transformed weights: six values an axis, of three taps
inline constexpr int64_t kMostReach = 6, kMostSide = 8;

// How tiles of one kind become rows of products, and these become outputs.
struct Form {
  int64_t reach, side;   // inputs and outputs of a tile, an axis
  int64_t slots;         // rows a tile
  const uint8_t* panel;  // [slots]: whose weights a row is multiplied with

  // Rows [k] of nine taps, taps[tap * tap_stride + k * block], into rows of kPanels panels, `points` floats apart.
  void (*weights)(const float* taps, int64_t tap_stride, int64_t rows, float* panel, int64_t points);
  // One tile from its pixels [reach * reach][channels] into out[slot * points + k]; those of the next tile are asked for.
  void (*enter)(const float* const* pixels, const float* const* soon, int64_t channels, float* out, int64_t points);
  // One tile from in[slot * points + c] (+ bias[c]) to its pixels [side * side][channels], null where it has none.
  void (*leave)(const float* in, int64_t points, const float* bias, int64_t channels, float* const* pixels);
};

struct Kernels {
  int64_t block;  // columns of a panel of weights
  int64_t group;  // tiles whose products share a load of the weights
  Form plain;     // stride 1
  Form doubled;   // the transpose of stride 2: twice as many outputs as inputs

  // out[t, :] = sum over k of in[t * in_row + k] panel[k, :], a block wide; t < tiles.
  void (*multiply)(const float* in, int64_t in_row, const float* panel, int64_t depth, int64_t tiles, float* out,
                   int64_t out_row);
};

extern const Kernels kTilesGeneric, kTilesAvx2, kTilesAvx512;

}  // namespace picojoule::tiles
