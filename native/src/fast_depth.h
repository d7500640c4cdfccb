#pragma once
// Weights and padded images of depthwise convolutions on packed spikes (fast_depth.inl).

#include "fast.h"
#include "fast_layouts.h"

namespace picojoule {

struct DepthLayout {
  // `job` has its shape and the pixels of a vector; `width` planes hold every sum.
  DepthLayout(const FastJob& job, int planes, int width, const WeightAt& weight);
  void use(FastJob& job) const;

  int planes, width;
  int64_t taps, pixel_words, image_words;
  std::vector<uint64_t, Lines<uint64_t>> weights;
  std::vector<int64_t> offsets;
};

int64_t depth_words(const FastJob& job, int64_t rows);  // of the images of that many steps
// Images [begin, end) of all steps and spike planes.
void lay_depth(const FastJob& job, int64_t begin, int64_t end);

}  // namespace picojoule
