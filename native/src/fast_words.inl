// Dense integers times int16 weights, several pixels at a time. Inputs beyond 16 bits come in two pieces,
// x = high * 2^15 + low; sums wrap, which leaves those right that fit at the end. Included by fast_impl.inl.

namespace {

// Elements that lie together, in one piece or two.
template <class E>
void lay_part(const E* __restrict from, int64_t n, const FastJob::Words& words, int16_t* __restrict line) {
  if (words.pieces == 1) {
    for (int64_t i = 0; i < n; ++i) line[i] = static_cast<int16_t>(from[i]);
    return;
  }
  int16_t* __restrict high = line + words.piece;
  for (int64_t i = 0; i < n; ++i) line[i] = static_cast<int16_t>(from[i] & 32767);
  for (int64_t i = 0; i < n; ++i) high[i] = static_cast<int16_t>(static_cast<int32_t>(from[i]) >> 15);
}

// Images of every step: padded, channels last, one a piece.
template <class E>
void lay_step(const FastJob& job, int64_t t) {
  const FastShape& s = job.shape;
  const E* in = reinterpret_cast<const E*>(job.in + t * job.in_row_bytes);
  int16_t* image = job.words.image + t * job.words.step;
  const int64_t C = s.channels, skip = job.words.skip[2];
  for (int64_t z = 0; z < s.in[0]; z += job.words.skip[0])
    for (int64_t y = 0; y < s.in[1]; y += job.words.skip[1]) {
      const int64_t to_z = z / job.words.skip[0] + s.before[0], to_y = y / job.words.skip[1] + s.before[1];
      const int64_t n = least((s.in[2] + skip - 1) / skip, job.image_size[2] - s.before[2]);
      if (to_z >= job.image_size[0] || to_y >= job.image_size[1]) continue;
      int16_t* line = image + ((to_z * job.image_size[1] + to_y) * job.image_size[2] + s.before[2]) * C;
      const E* from = in + (z * s.in[1] + y) * s.in[2] * job.in_pixel_stride;
      if (job.in_channel_stride == 1) {
        const bool together = skip * job.in_pixel_stride == C;
        for (int64_t i = 0; i < (together ? 1 : n); ++i)
          lay_part(from + i * skip * job.in_pixel_stride, together ? n * C : C, job.words, line + i * C);
        continue;
      }
      for (int64_t c = 0; c < C; ++c) {
        const E* x = from + c * job.in_channel_stride;
        for (int64_t i = 0; i < n; ++i) {
          const E value = x[i * skip * job.in_pixel_stride];
          if (job.words.pieces == 1) {
            line[i * C + c] = static_cast<int16_t>(value);
            continue;
          }
          line[i * C + c] = static_cast<int16_t>(value & 32767);
          line[i * C + c + job.words.piece] = static_cast<int16_t>(static_cast<int32_t>(value) >> 15);
        }
      }
    }
}

void lay_words(const FastJob& job, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    if (job.in_element == 1) lay_step<int8_t>(job, t);
    else if (job.in_element == 2) lay_step<int16_t>(job, t);
    else lay_step<int32_t>(job, t);
  }
}

// Sums of 8 N channels of M pixels over pieces [begin, end); two products share a lane of 32 bits.
template <int M, int N>
void multiply_words(const FastJob& job, const int16_t* const* window, int64_t channel, int begin, int end, int32_t* sums) {
  const FastWeights& w = job.weights;
  const int64_t padded = job.shape.padded;
  V32 acc[M][N] = {};
  for (int piece = end; piece-- > begin;) {
    if (piece + 1 < end)
      for (int m = 0; m < M; ++m)
        for (int j = 0; j < N; ++j) acc[m][j] <<= 15;
    const int16_t* row = w.pairs + channel * 2;
    for (int64_t r = 0; r < w.runs; ++r) {
      const int64_t offset = w.run_offsets[r] + piece * job.words.piece;
      for (int64_t i = 0; i < w.run; i += 2, row += padded * 2) {
        V16 weights[N];
        for (int j = 0; j < N; ++j) weights[j] = (V16)load(row + 16 * j);
        for (int m = 0; m < M; ++m) {
          int32_t two;
          std::memcpy(&two, window[m] + offset + i, 4);
          const V32 pair = {two, two, two, two, two, two, two, two};
          for (int j = 0; j < N; ++j) acc[m][j] = add_madd(acc[m][j], (V16)pair, weights[j]);
        }
      }
    }
  }
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < N; ++j) std::memcpy(sums + m * padded + channel + 8 * j, &acc[m][j], 32);
}

template <int M>
void sums_of_words(const FastJob& job, const int16_t* const* window, int begin, int end, int32_t* sums) {
  int64_t c = 0;
  for (; c + 8 < job.shape.out_channels; c += 16) multiply_words<M, 2>(job, window, c, begin, end, sums);
  if (c < job.shape.out_channels) multiply_words<M, 1>(job, window, c, begin, end, sums);
}

// Sums beyond 32 bits: those of the pieces fit, and meet in 64.
void put_wide(const Epilogue& e, int64_t t, int64_t p, const int32_t* low, const int32_t* high, int64_t channels) {
  int64_t* to = reinterpret_cast<int64_t*>(e.out + t * e.out_row_bytes) + p * e.pixel_stride;
  for (int64_t c = 0; c < channels; ++c) to[c * e.channel_stride] = (static_cast<int64_t>(high[c]) << 15) + low[c] + e.bias[c];
}

template <int M>
void pixels_of_words(const FastJob& job, int64_t p, Walk& walk, const Work& w) {
  const int64_t padded = job.shape.padded;
  int64_t corner[M];
  for (int m = 0; m < M; ++m) corner[m] = walk.next();
  for (int m = 0; m < M; ++m) start_rows(job.end, p + m, w.v + m * padded);
  for (int64_t t = 0; t < job.steps; ++t) {
    if (t == 0 || job.in_row_bytes) {
      const int16_t* window[M];
      for (int m = 0; m < M; ++m) window[m] = job.words.image + t * job.words.step + corner[m];
      sums_of_words<M>(job, window, 0, job.words.wide ? 1 : job.words.pieces, w.sums);
      if (job.words.wide) sums_of_words<M>(job, window, 1, 2, w.v);
    }
    if (job.words.wide) {
      for (int m = 0; m < M; ++m) put_wide(job.end, t, p + m, w.sums + m * padded, w.v + m * padded, job.shape.out_channels);
      continue;
    }
    finish_group(job, t, p, M, w, padded);
  }
  for (int m = 0; m < M; ++m) end_rows(job.end, p + m, w.v + m * padded);
}

void dense_rows(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  const Work w = cut(job, work, nullptr);
  std::memset(w.sums, 0, static_cast<size_t>(kTogether * job.shape.padded) * 4);
  Walk walk(job, begin, job.words.skip);
  int64_t p = begin;
  for (; p + kTogether <= end; p += kTogether) pixels_of_words<kTogether>(job, p, walk, w);
  if (p + 4 <= end) pixels_of_words<4>(job, p, walk, w), p += 4;
  for (; p < end; ++p) pixels_of_words<1>(job, p, walk, w);
}

}  // namespace
