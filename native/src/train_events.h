#pragma once
// The border between the spike-driven kernels, compiled once an instruction set, and their dispatcher.

#include "picojoule/train_events.h"

namespace picojoule::events {

// Spikes of some image rows, pixel by pixel.
struct RowLists {
  const uint32_t* index;  // x * group_in + c
  const float* value;     // null: all 1
  const uint32_t* start;  // [rows, width + 1], ends included
};

// One tap of a kernel: its weights, and how many rows and columns of the padded gradient it lies further up and left.
struct TapBlock {
  int64_t rows, columns;    // of taps
  int64_t row_stride;       // positions between taps of neighbouring rows
  int64_t column_stride;    // and columns
};

struct Kernels {
  int64_t lanes;        // floats a vector
  int64_t most_vectors; // of a block of output channels

  // Bits of x[0..n) != 0, n a multiple of 8 except at the end; `same` is cleared where a nonzero value is not `only`.
  int64_t (*pack)(const float* x, int64_t n, float only, uint8_t* bits, bool* same);
  int64_t (*window)(const float* h, int64_t n, float centre, float half, bool closed, uint8_t* bits);
  void (*unpack)(const uint8_t* bits, int64_t n, float value, float* out);
  // out[0..n) = x where a bit is set, else 0; or added to what is there. n is a multiple of 8.
  void (*masked)(const float* x, const uint8_t* bits, int64_t n, bool add, float* out);

  // All output pixels of `images` images and one block of `vectors` * lanes output channels, of which `live` exist.
  void (*forward)(const Shape&, const RowLists&, int64_t images, const float* weights, const float* bias, float* y,
                  int vectors, int64_t live);
  // to[c * to_row + r] = from[r * from_row + c] * scale.
  void (*turn)(const float* from, int64_t from_row, int64_t rows, int64_t columns, float scale, float* to, int64_t to_row);
  // to[i, 0..live) = from[i * stride, 0..live), then zeros, `block` floats a position.
  void (*gather)(const float* from, int64_t stride, int64_t n, int64_t live, int64_t block, float* to);
  // result[tap] += sum over events of value * g[at - tap offset], for one input channel.
  void (*columns)(const TapBlock&, int vectors, const uint32_t* at, const float* value, int64_t n, const float* g,
                  float* result, int64_t result_row, int64_t result_column);
  // out[i] += sum over taps of weights[tap] . g[at[i] - tap offset], for one input channel; `n` positions.
  void (*dots)(const TapBlock&, int vectors, const uint32_t* at, int64_t n, const float* g, const float* weights,
               int64_t weights_row, int64_t weights_column, float* out);
};

extern const Kernels kEventsGeneric, kEventsAvx2, kEventsAvx512;

}  // namespace picojoule::events
