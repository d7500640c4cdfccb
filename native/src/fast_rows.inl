// Counting int8 weight rows of events. Bytes of a row lie so that a lane of 16 bits holds output i in its low byte and
// i + 16 in its high one. Included by fast_impl.inl.

namespace {

typedef int16_t Half16 __attribute__((vector_size(16), may_alias));

inline void add_sixteen(int32_t* sums, V16 x, bool minus) {
  for (int i = 0; i < 2; ++i) {
    Half16 half;
    std::memcpy(&half, reinterpret_cast<const char*>(&x) + 16 * i, 16);
    const V32 more = __builtin_convertvector(half, V32), sum = (V32)load(sums + 8 * i);
    store(sums + 8 * i, (V)(minus ? sum - more : sum + more));
  }
}

// Rows of small weights: added as bytes as long as those hold the sum.
template <int N>
void add_small(const FastWeights& w, const int8_t* rows, const uint32_t* list, int64_t n, V16* low, V16* high) {
  typedef int8_t Bytes __attribute__((vector_size(32), may_alias));
  for (int64_t from = 0; from < n; from += w.byte_rows) {
    const int64_t until = least(n, from + w.byte_rows);
    Bytes acc[N] = {};
    for (int64_t i = from; i < until; ++i)
      for (int j = 0; j < N; ++j) acc[j] += (Bytes)load(rows + list[i] + 32 * j);
    for (int j = 0; j < N; ++j) low[j] += (V16)acc[j] << 8 >> 8, high[j] += (V16)acc[j] >> 8;
  }
}

// Any weights: lanes of 16 bits hold 256 high + low + 128. Their sum modulo 2^16 less the high bytes gives the low.
template <int N>
void add_split(const int8_t* rows, const uint32_t* list, int64_t n, V16* low, V16* high) {
  V16 all[N] = {}, top[N] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int j = 0; j < N; ++j) {
      const V16 row = (V16)load(rows + list[i] + 32 * j);
      all[j] += row, top[j] += row >> 8;
    }
  const V16 lift = V16{} + static_cast<int16_t>(128 * n);
  for (int j = 0; j < N; ++j) low[j] = all[j] - (top[j] << 8) - lift, high[j] = top[j];
}

// sums[0..32 N) of the lists of all planes, most significant first.
template <int N>
void add_rows(const FastJob& job, const Work& w, const int64_t* lengths, int64_t channel, int32_t* sums) {
  const FastWeights& weights = job.weights;
  const int8_t* rows = reinterpret_cast<const int8_t*>(weights.rows) + channel;
  for (int64_t i = 0; i < 32 * N; i += 8) store(sums + i, V{});
  for (int q = job.in_planes; q-- > 0;) {
    const uint32_t* list = w.lists + q * w.capacity;
    const bool minus = job.in_ternary && q == 1;
    if (!job.in_ternary && q + 1 < job.in_planes)
      for (int64_t i = 0; i < 32 * N; i += 8) store(sums + i, (V)((V32)load(sums + i) << 1));
    for (int64_t from = 0; from < lengths[q]; from += weights.short_rows) {
      const int64_t n = least(weights.short_rows, lengths[q] - from);
      V16 low[N] = {}, high[N] = {};
      if (weights.byte_rows) add_small<N>(weights, rows, list + from, n, low, high);
      else add_split<N>(rows, list + from, n, low, high);
      for (int j = 0; j < N; ++j) {
        add_sixteen(sums + 32 * j, low[j], minus);
        add_sixteen(sums + 32 * j + 16, high[j], minus);
      }
    }
  }
}

template <int M>
void pixels_of_rows(const FastJob& job, int64_t p, int64_t chunks, const Work& w) {
  const int64_t padded = job.shape.padded;
  for (int m = 0; m < M; ++m) start_rows(job.end, p + m, w.v + m * padded);
  int64_t slices = 0;
  for (int64_t t = 0; t < job.steps; ++t) {
    for (int m = 0; m < M && (t == 0 || job.in_row_bytes); ++m) {
      if (M > 1 || t == 0) slices = window_slices(job, p + m, w.slices);
      int64_t lengths[64];
      for (int q = 0; q < job.in_planes; ++q) lengths[q] = window_list(job, t, q, w.slices, slices, chunks, 0, w.lists + q * w.capacity);
      int32_t* sums = w.sums + m * padded;
      int64_t c = 0;
      for (; c + 128 <= padded; c += 128) add_rows<4>(job, w, lengths, c, sums + c);
      for (; c + 64 <= padded; c += 64) add_rows<2>(job, w, lengths, c, sums + c);
      for (; c < padded; c += 32) add_rows<1>(job, w, lengths, c, sums + c);
    }
    finish_group(job, t, p, M, w, padded);
  }
  for (int m = 0; m < M; ++m) end_rows(job.end, p + m, w.v + m * padded);
}

// Sums that leave as they are leave four pixels at a time; neurons keep one pixel's lists.
void event_rows(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  const Work w = cut(job, work, nullptr);
  const int64_t chunks = usual_chunks(job);
  int64_t p = begin;
  if (job.end.finish == Finish::raw)
    for (; p + 4 <= end; p += 4) pixels_of_rows<4>(job, p, chunks, w);
  for (; p < end; ++p) pixels_of_rows<1>(job, p, chunks, w);
}

}  // namespace
