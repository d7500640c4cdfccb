// Dense small integers times int8 weights, several windows at a time. Included by fast_impl.inl.

namespace {

// First elements of the windows of output pixels in turn; `skip` is what of the stride the image leaves out.
class Walk {
 public:
  Walk(const FastJob& job, int64_t p, const int64_t* skip) : line_(job.shape.out[2]), plane_(job.shape.out[1]) {
    const FastShape& s = job.shape;
    const int64_t size[3] = {job.image_size[1] * job.image_size[2], job.image_size[2], 1};
    for (int i = 0; i < 3; ++i) step_[i] = s.stride[i] / skip[i] * size[i] * s.channels;
    x_ = p % line_, y_ = p / line_ % plane_, z_ = p / line_ / plane_;
  }
  int64_t next() {
    const int64_t at = z_ * step_[0] + y_ * step_[1] + x_ * step_[2];
    if (++x_ == line_) {
      x_ = 0;
      if (++y_ == plane_) y_ = 0, ++z_;
    }
    return at;
  }

 private:
  int64_t line_, plane_, step_[3], x_, y_, z_;
};

inline int32_t four_bytes(const uint8_t* from) {
  int32_t four;
  std::memcpy(&four, from, 4);
  return four;
}

#if defined(__AVX512VNNI__)

constexpr int64_t kChannels = 16;  // of one vector of sums
typedef int32_t Wide32 __attribute__((vector_size(64), may_alias));

// Sums of kChannels N channels of M windows; four products are added to a lane of 32 bits at once.
template <ByteSums, int M, int N>
void multiply_bytes(const FastJob& job, const uint8_t* const* window, int64_t channel, int32_t* sums) {
  const FastWeights& w = job.weights;
  const int64_t padded = job.shape.padded;
  Wide32 acc[M][N];
  for (int j = 0; j < N; ++j) {
    std::memcpy(&acc[0][j], w.lift + channel + 16 * j, 64);
    for (int m = 1; m < M; ++m) acc[m][j] = acc[0][j];
  }
  const int8_t* row = w.quads + channel * w.runs * w.run;
  for (int64_t r = 0; r < w.runs; ++r) {
    const int64_t offset = w.run_offsets[r];
    for (int64_t i = 0; i < w.run; i += 4, row += kByteTile * 4) {
      __m512i weight[N];
      for (int j = 0; j < N; ++j) weight[j] = _mm512_loadu_si512(row + 64 * j);
      for (int m = 0; m < M; ++m) {
        const __m512i quad = _mm512_set1_epi32(four_bytes(window[m] + offset + i));
        for (int j = 0; j < N; ++j) acc[m][j] = (Wide32)_mm512_dpbusd_epi32((__m512i)acc[m][j], quad, weight[j]);
      }
    }
  }
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < N; ++j) std::memcpy(sums + m * padded + channel + 16 * j, &acc[m][j], 64);
}

#else

constexpr int64_t kChannels = 8;

// Four products in each lane of 32 bits, exact whatever they are.
template <ByteSums Sums>
inline V32 four_products(V quad, V weights) {
  const V16 ones = V16{} + 1;
  if constexpr (Sums != ByteSums::halves) return madd(madd_bytes(quad, weights), ones);
  // Two products of a byte below 128 fit 16 bits; its top bit counts apart.
  const V low = quad & 0x7f7f7f7f7f7f7f7full, top = quad >> 7 & 0x0101010101010101ull;
  return madd(madd_bytes(low, weights), ones) + madd(madd_bytes(top, weights), ones * 128);
}

// Sums of kChannels N channels of M windows; four products share a lane of 32 bits.
template <ByteSums Sums, int M, int N>
void multiply_bytes(const FastJob& job, const uint8_t* const* window, int64_t channel, int32_t* sums) {
  const FastWeights& w = job.weights;
  const int64_t padded = job.shape.padded;
  V acc[M][N] = {};
  const int8_t* row = w.quads + channel / kByteTile * kByteTile * w.runs * w.run + channel % kByteTile * 4;
  for (int64_t r = 0; r < w.runs; ++r) {
    const int64_t offset = w.run_offsets[r];
    for (int64_t i = 0; i < w.run; i += 4, row += kByteTile * 4)
      for (int m = 0; m < M; ++m) {
        const int32_t four = four_bytes(window[m] + offset + i);
        const V quad = (V)V32{four, four, four, four, four, four, four, four};
        for (int j = 0; j < N; ++j) {
          if constexpr (Sums == ByteSums::sixteen) acc[m][j] = (V)((V16)acc[m][j] + madd_bytes(quad, load(row + 32 * j)));
          else acc[m][j] = (V)((V32)acc[m][j] + four_products<Sums>(quad, load(row + 32 * j)));
        }
      }
  }
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < N; ++j) {
      V32 sum = (V32)load(w.lift + channel + 8 * j);
      if constexpr (Sums == ByteSums::sixteen) sum += madd((V16)acc[m][j], V16{} + 1);
      else sum += (V32)acc[m][j];
      std::memcpy(sums + m * padded + channel + 8 * j, &sum, 32);
    }
}

#endif

// Sums of all channels of M windows.
template <ByteSums Sums, int M>
void windows_of_bytes(const FastJob& job, const uint8_t* const* window, int32_t* sums) {
  int64_t c = 0;
  for (; c + kChannels < job.shape.out_channels; c += 2 * kChannels) multiply_bytes<Sums, M, 2>(job, window, c, sums);
  if (c < job.shape.out_channels) multiply_bytes<Sums, M, 1>(job, window, c, sums);
}

template <ByteSums Sums>
void some_windows(const FastJob& job, const uint8_t* const* window, int64_t n, int32_t* sums) {
  const int64_t padded = job.shape.padded;
  int64_t i = 0;
  for (; i + kTogether <= n; i += kTogether) windows_of_bytes<Sums, kTogether>(job, window + i, sums + i * padded);
  for (; i + 2 <= n; i += 2) windows_of_bytes<Sums, 2>(job, window + i, sums + i * padded);
  for (; i < n; ++i) windows_of_bytes<Sums, 1>(job, window + i, sums + i * padded);
}

// kTogether pixels step by step; of the pixels left over, kTogether steps of one.
template <ByteSums Sums>
void dense_bytes_of(const FastJob& job, int64_t begin, int64_t end, const Work& w) {
  const int64_t padded = job.shape.padded, fresh = job.in_row_bytes ? job.steps : least(1, job.steps);
  const int64_t whole[3] = {1, 1, 1};
  Walk walk(job, begin, whole);
  const uint8_t *window[kTogether], *corner[kTogether];
  int64_t p = begin;
  for (; p + kTogether <= end; p += kTogether) {
    for (int64_t m = 0; m < kTogether; ++m) {
      start_rows(job.end, p + m, w.v + m * padded);
      corner[m] = job.image + walk.next();
    }
    for (int64_t t = 0; t < job.steps; ++t) {
      if (t < fresh) {
        for (int64_t m = 0; m < kTogether; ++m) window[m] = corner[m] + t * job.image_row_bytes;
        some_windows<Sums>(job, window, kTogether, w.sums);
      }
      finish_group(job, t, p, kTogether, w, padded);
    }
    for (int64_t m = 0; m < kTogether; ++m) end_rows(job.end, p + m, w.v + m * padded);
  }
  for (; p < end; ++p) {
    start_rows(job.end, p, w.v);
    corner[0] = job.image + walk.next();
    for (int64_t t = 0; t < job.steps; ++t) {
      const int64_t n = t % kTogether ? 0 : least(kTogether, fresh - t);
      for (int64_t m = 0; m < n; ++m) window[m] = corner[0] + (t + m) * job.image_row_bytes;
      some_windows<Sums>(job, window, n, w.sums);
      finish_rows(job, t, p, w.sums + least(t, fresh - 1) % kTogether * padded, w.v);
    }
    end_rows(job.end, p, w.v);
  }
}

void dense_bytes(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  const Work w = cut(job, work, nullptr);
  std::memset(w.sums, 0, static_cast<size_t>(kTogether * job.shape.padded) * 4);
#if defined(__AVX512VNNI__)
  dense_bytes_of<ByteSums::sixteen>(job, begin, end, w);  // one instruction is exact for all
#else
  if (job.weights.byte_sums == ByteSums::sixteen) return dense_bytes_of<ByteSums::sixteen>(job, begin, end, w);
  if (job.weights.byte_sums == ByteSums::pairs) return dense_bytes_of<ByteSums::pairs>(job, begin, end, w);
  dense_bytes_of<ByteSums::halves>(job, begin, end, w);
#endif
}

}  // namespace
