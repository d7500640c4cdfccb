// Dense small integers times int8 weights, several pixels at a time. Included by fast_impl.inl.

namespace {

// First byte of the window of output pixel p.
int64_t corner(const FastJob& job, int64_t p) {
  const FastShape& s = job.shape;
  const int64_t z = p / (s.out[1] * s.out[2]) * s.stride[0], y = p / s.out[2] % s.out[1] * s.stride[1];
  return ((z * job.image_size[1] + y) * job.image_size[2] + p % s.out[2] * s.stride[2]) * s.channels;
}

// Sums of 8 N channels of M pixels; four products share a lane of 32 bits.
template <int M, int N>
void multiply_bytes(const FastJob& job, const uint8_t* const* window, int64_t channel, int32_t* sums) {
  const FastWeights& w = job.weights;
  const int64_t padded = job.shape.padded;
  V16 acc[M][N] = {};
  const int8_t* row = w.quads + channel * 4;
  for (int64_t r = 0; r < w.runs; ++r) {
    const int64_t offset = w.run_offsets[r];
    for (int64_t i = 0; i < w.run; i += 4, row += padded * 4)
      for (int m = 0; m < M; ++m) {
        int32_t four;
        std::memcpy(&four, window[m] + offset + i, 4);
        const V32 quad = {four, four, four, four, four, four, four, four};
        for (int j = 0; j < N; ++j) acc[m][j] += madd_bytes((V)quad, load(row + 32 * j));
      }
  }
  const V16 ones = V16{} + 1;
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < N; ++j) {
      const V32 sum = madd(acc[m][j], ones) + (V32)load(w.lift + channel + 8 * j);
      std::memcpy(sums + m * padded + channel + 8 * j, &sum, 32);
    }
}

template <int M>
void pixels_of_bytes(const FastJob& job, int64_t p, const Work& w) {
  const int64_t padded = job.shape.padded;
  for (int m = 0; m < M; ++m) start_rows(job.end, p + m, w.v + m * padded, padded);
  for (int64_t t = 0; t < job.steps; ++t) {
    if (t == 0 || job.in_row_bytes) {
      const uint8_t* window[M];
      for (int m = 0; m < M; ++m) window[m] = job.image + t * job.image_row_bytes + corner(job, p + m);
      int64_t c = 0;
      for (; c + 8 < job.shape.out_channels; c += 16) multiply_bytes<M, 2>(job, window, c, w.sums);
      if (c < job.shape.out_channels) multiply_bytes<M, 1>(job, window, c, w.sums);
    }
    finish_group(job, t, p, M, w, padded);
  }
  for (int m = 0; m < M; ++m) end_rows(job.end, p + m, w.v + m * padded, padded);
}

void dense_bytes(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  const Work w = cut(job, work, nullptr);
  std::memset(w.sums, 0, static_cast<size_t>(kTogether * job.shape.padded) * 4);
  int64_t p = begin;
  for (; p + 4 <= end; p += 4) pixels_of_bytes<4>(job, p, w);
  for (; p < end; ++p) pixels_of_bytes<1>(job, p, w);
}

}  // namespace
