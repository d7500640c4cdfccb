// Vertical counting by strips: a vector of a row holds several bit-planes of the weights, several blocks of outputs or
// the pixels that share a window, and one walk over the events of a pixel counts them all. Included by fast_bits.inl.

namespace {

struct Strip32 {
  using Vector = V;
  const uint8_t* base;
  const uint32_t* list;
  V at(int64_t i) const { return load(base + list[i]); }
};

#if defined(__AVX512F__)
struct Strip64 {
  using Vector = Wide;
  const uint8_t* base;
  const uint32_t* list;
  Wide at(int64_t i) const {
    Wide x;
    std::memcpy(&x, base + list[i], 64);
    return x;
  }
};
constexpr int64_t kStripVector = 64;
#else
constexpr int64_t kStripVector = 32;
#endif

// Counts of all bytes of a strip: [vectors of the strip][planes].
template <int H>
void count_strip(const FastWeights& weights, int64_t strip, const uint32_t* list, int64_t n, std::byte* to) {
  const uint8_t* rows = weights.rows + strip * weights.strip_bytes;
#if defined(__AVX512F__)
  if (weights.strip_width == 64) {
    count_within<H>(Strip64{rows, list}, n, reinterpret_cast<Wide*>(to));
    return;
  }
#endif
  for (int64_t at = 0; at < weights.strip_width; at += 32)
    count_within<H>(Strip32{rows + at, list}, n, reinterpret_cast<V*>(to + at * (kLeastPlanes + H)));
}

template <int Lists, bool Shared>
struct StripGroup {
  static constexpr int kLists = Lists, kUnits = Shared ? 1 : Lists;
  const FastJob& job;
  const Work& w;
  int64_t chunks = usual_chunks(job), live = 0, slices[Lists] = {}, lengths[64][Lists] = {};
  int planes = 0;

  int spike_planes() const { return job.in_ternary ? 1 : job.in_planes; }
  int64_t state_size() const { return planes * job.weights.strip_width; }
  std::byte* state(int64_t strip, int q, int64_t unit) const {
    return w.states + ((strip * spike_planes() + q) * kUnits + unit) * state_size();
  }

  void look(int64_t p) {
    live = least(Lists, job.shape.pixels_out - p);
    for (int64_t u = 0; u < least(kUnits, live); ++u) slices[u] = window_slices(job, p + u, w.slices + u * job.shape.taps);
    for (int64_t u = live; u < kUnits; ++u) slices[u] = 0;
  }

  // Lists of the group in every spike plane, and their counts; `offset` gets what each pixel subtracts.
  void list(int64_t t, int64_t* offset) {
    const FastWeights& weights = job.weights;
    int64_t longest = 0;
    for (int l = 0; l < Lists; ++l) offset[l] = 0;
    for (int q = 0; q < spike_planes(); ++q)
      for (int64_t u = 0; u < kUnits; ++u) {
        uint32_t* to = w.lists + (q * Lists + u) * w.capacity;
        const Slice* from = w.slices + u * job.shape.taps;
        int64_t n = window_list(job, t, q, from, slices[u], chunks, 0, to);
        if (!Shared) offset[u] += weights.offset_positive * (n << q);
        if (job.in_ternary) {
          const int64_t more = window_list(job, t, 1, from, slices[u], chunks, weights.negative, to + n);
          if (!Shared) offset[u] += weights.offset_negative * more;
          n += more;
        }
        longest = most(longest, n);
        lengths[q][u] = (n + 7) / 8 * 8;
        for (int64_t i = n; i < lengths[q][u]; ++i) to[i] = weights.zero;
      }
    if (Shared)
      for (int q = 0; q < spike_planes(); ++q)
        for (int l = 0; l < Lists; ++l) {
          offset[l] += weights.offset_positive * (window_count(job, t, q, w.slices, slices[0], l) << q);
          if (job.in_ternary) offset[l] += weights.offset_negative * window_count(job, t, 1, w.slices, slices[0], l);
        }
    const int high = planes_above((longest + 7) / 8 * 8);
    planes = kLeastPlanes + high;
    if (high == 2) count_strips<2>();
    else if (high == 3) count_strips<3>();
    else if (high == 4) count_strips<4>();
    else if (high == 6) count_strips<6>();
    else count_strips<26>();
  }

  template <int H>
  void count_strips() const {
    for (int q = 0; q < spike_planes(); ++q)
      for (int64_t u = 0; u < kUnits; ++u)
        for (int64_t strip = 0; strip < job.weights.strips; ++strip)
          count_strip<H>(job.weights, strip, w.lists + (q * Lists + u) * w.capacity, lengths[q][u], state(strip, q, u));
  }

  // Counts of block b over all weight and spike planes; returns their number.
  int total(int64_t b, V* out) const {
    if (spike_planes() == 1) {
      if (planes == 7) return slide<7>(b, out);
      if (planes == 8) return slide<8>(b, out);
      if (planes == 9) return slide<9>(b, out);
      if (planes == 11) return slide<11>(b, out);
    }
    const int64_t vector = step_of_planes();
    int n = 0;
    for (int q = 0; q < spike_planes(); ++q)
      for (int j = 0; j < job.weights.planes; ++j) {
        const std::byte* from = counts_of(b, q, j);
        V term[kMaxPlanes];
        V* to = n ? term : out;
        for (int i = 0; i < planes; ++i) to[i] = join(from + i * vector);
        n = n ? add_shifted(out, n, term, planes, j + q) : planes;
      }
    return n;
  }
  // The same of N planes a count: those of the sum that a further weight plane still changes move through registers.
  template <int N>
  int slide(int64_t b, V* out) const {
    const int64_t vector = step_of_planes();
    V sum[N + 1];
    const std::byte* from = counts_of(b, 0, 0);
    for (int i = 0; i < N; ++i) sum[i] = join(from + i * vector);
    sum[N] = V{};
    const int last = job.weights.planes - 1;
    for (int j = 1; j <= last; ++j) {
      from = counts_of(b, 0, j);
      out[j - 1] = sum[0];
      V carry{};
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) full_add(carry, sum[i], sum[i + 1], join(from + i * vector), carry);
      sum[N] = carry;
    }
    for (int i = 0; i <= N; ++i) out[last + i] = sum[i];
    return last + N + (last > 0);
  }
  int64_t step_of_planes() const { return least(job.weights.strip_width, kStripVector); }
  // Planes of the counts of weight plane j for the first pixel of the group.
  const std::byte* counts_of(int64_t b, int q, int j) const {
    const int64_t width = job.weights.strip_width, vector = step_of_planes();
    const int64_t at = Shared ? j * width : (b * job.weights.planes + j) * (32 / Lists), in = at % width;
    return state(at / width, q, 0) + in / vector * planes * vector + in % vector;
  }
  V join(const std::byte* from) const {
    const int64_t apart = state_size();
    if constexpr (kUnits == 1) return load(from);
    if constexpr (kUnits == 2) return join2(from, from + apart);
    if constexpr (kUnits == 4) return join4(from, from + apart, from + 2 * apart, from + 3 * apart);
  }
};

}  // namespace
