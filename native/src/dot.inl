// Sums as dot products of packed words: AND and bit count of sixteen channels for a vector of outputs at once.
// Included by lookup.inl.

namespace {

using namespace picojoule;

constexpr int64_t kCounted = 31;  // words whose bits are counted in bytes before they are added up

inline Shorts bytes_added(Shorts x) { return kCountsBytes ? (Shorts)((x & 255) + (x >> 8)) : x; }

// What M vectors of weight words have in common with the spikes of one plane in a window.
template <int M>
[[gnu::always_inline]] inline void add_dots(const FastJob& job, const uint64_t* plane, const Slice* slices, int64_t count, int64_t first, Shorts* sums) {
  const int64_t words = job.shape.words * 4, groups = job.lookup.groups, row_bytes = job.lookup.row_bytes;
  const int64_t width = job.shape.in[2];
  Shorts sum[M];
  for (int m = 0; m < M; ++m) sum[m] = Shorts{};
  for (int64_t i = 0; i < count; ++i) {
    const Slice slice = slices[i];
    const uint32_t offset = slice.shift + static_cast<uint32_t>(slice.from) * job.weights.pixel_step;
    const uint8_t* row = job.lookup.rows + offset + first * kSpan;
    const uint16_t* x = reinterpret_cast<const uint16_t*>(plane) + (slice.line * width + slice.from) * words;
    for (int64_t pixel = slice.from; pixel < slice.until; ++pixel, x += words)
      for (int64_t g = 0; g < groups;) {
        const int64_t until = kCountsBytes ? least(groups, g + kCounted) : groups;
        Shorts bits[M];
        for (int m = 0; m < M; ++m) bits[m] = Shorts{};
        for (; g < until; ++g, row += row_bytes) {
          const Shorts spikes = spread_short(read<uint16_t>(x + g));
          for (int m = 0; m < M; ++m) bits[m] += count_bits(spikes & read<Shorts>(row + m * kSpan));
        }
        for (int m = 0; m < M; ++m) sum[m] += bytes_added(bits[m]);
      }
  }
  for (int m = 0; m < M; ++m) sums[m] = sum[m];
}

void add_some_dots(const FastJob& job, const uint64_t* plane, const Slice* slices, int64_t count, int64_t first, int m, Shorts* sums) {
  static_assert(kLookupVectors == 8);
  if (m == 1) return add_dots<1>(job, plane, slices, count, first, sums);
  if (m == 2) return add_dots<2>(job, plane, slices, count, first, sums);
  if (m == 3) return add_dots<3>(job, plane, slices, count, first, sums);
  if (m == 4) return add_dots<4>(job, plane, slices, count, first, sums);
  if (m <= 6) return add_dots<6>(job, plane, slices, count, first, sums);
  add_dots<8>(job, plane, slices, count, first, sums);
}

// Spikes of one plane in a window.
int32_t window_spikes(const FastJob& job, const uint64_t* plane, const Slice* slices, int64_t count) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t* words = plane + (slices[i].line * job.shape.in[2] + slices[i].from) * job.shape.words;
    for (int64_t w = 0; w < (slices[i].until - slices[i].from) * job.shape.words; ++w) n += __builtin_popcountll(words[w]);
  }
  return static_cast<int32_t>(n);
}

// Sums of one window at step t, modulo 2^16 but known to fit.
void window_dots(const FastJob& job, int64_t t, const Slice* slices, int64_t count, int64_t, const LookupWork&, int16_t* sums) {
  const LookupRows& l = job.lookup;
  const uint64_t* in = reinterpret_cast<const uint64_t*>(job.in + t * job.in_row_bytes);
  const int64_t apart = job.shape.pixels_in * job.shape.words, lanes = kSpan / 2;
  const int64_t blocks = (job.shape.out_channels + lanes - 1) / lanes, some = kLookupVectors / l.weight_planes;
  int32_t total = 0;
  for (int q = 0; q < l.spike_planes; ++q) {
    const int32_t n = window_spikes(job, in + q * apart, slices, count);
    total += job.in_ternary ? (q ? -n : n) : n << q;
  }
  const uint16_t rest = static_cast<uint16_t>(l.offset * total);
  for (int64_t b = 0; b < blocks; b += some) {
    const int64_t live = least(some, blocks - b);
    Shorts all[kLookupVectors], one[kLookupVectors];
    add_some_dots(job, in, slices, count, b * l.weight_planes, static_cast<int>(live) * l.weight_planes, all);
    for (int q = 1; q < l.spike_planes; ++q) {
      add_some_dots(job, in + q * apart, slices, count, b * l.weight_planes, static_cast<int>(live) * l.weight_planes, one);
      for (int64_t m = 0; m < live * l.weight_planes; ++m) all[m] += job.in_ternary ? -one[m] : one[m] << q;
    }
    for (int64_t i = 0; i < live; ++i) {
      Shorts sum = all[i * l.weight_planes];
      for (int j = 1; j < l.weight_planes; ++j) sum += all[i * l.weight_planes + j] << j;
      write(sums + (b + i) * lanes, (Shorts)((sum << l.double_shift) + rest));
    }
  }
}

// The same for one plane of spikes and of weights in M vectors.
template <int M>
void plain_dots(const FastJob& job, int64_t t, const Slice* slices, int64_t count, int64_t, const LookupWork&, int16_t* sums) {
  const LookupRows& l = job.lookup;
  const uint64_t* in = reinterpret_cast<const uint64_t*>(job.in + t * job.in_row_bytes);
  Shorts all[M];
  add_dots<M>(job, in, slices, count, 0, all);
  const uint16_t rest = static_cast<uint16_t>(l.offset * window_spikes(job, in, slices, count));
  for (int m = 0; m < M; ++m) write(sums + m * (kSpan / 2), (Shorts)((all[m] << l.double_shift) + rest));
}

void dot_sums(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  static WindowSums* const plain[] = {plain_dots<1>, plain_dots<2>, plain_dots<3>, plain_dots<4>};
  const int64_t blocks = (job.shape.out_channels + kSpan / 2 - 1) / (kSpan / 2);
  const bool single = job.lookup.weight_planes == 1 && job.lookup.spike_planes == 1;
  all_pieces(job, begin, end, 0, cut_lookup(job, work, nullptr), single && blocks <= 4 ? plain[blocks - 1] : window_dots);
}

}  // namespace
