// Packed spikes to lists of weight-row offsets, and the list of one output window. Included by fast_impl.inl.

namespace {

using namespace picojoule;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t popcount(const uint64_t* words, int64_t n) {
  int64_t bits = 0;
  for (int64_t i = 0; i < n; ++i) bits += __builtin_popcountll(words[i]);
  return bits;
}

// Set bits of one word as entries; returns their end. Up to kOverrun entries behind it are overwritten.
inline uint32_t* decode_word(uint64_t bits, uint32_t base, uint32_t step, uint32_t* out) {
#if defined(__AVX512VBMI2__)
  // Masks of ones spare the compiler's headers their undefined vectors, of which it warns.
  static const uint64_t numbers[8] = {0x0706050403020100, 0x0f0e0d0c0b0a0908, 0x1716151413121110, 0x1f1e1d1c1b1a1918,
                                      0x2726252423222120, 0x2f2e2d2c2b2a2928, 0x3736353433323130, 0x3f3e3d3c3b3a3938};
  __m512i found = _mm512_maskz_compress_epi8(bits, _mm512_loadu_si512(numbers));
  const int n = __builtin_popcountll(bits);
  for (int i = 0;;) {
    const __m512i channel = _mm512_maskz_cvtepu8_epi32(0xffff, _mm512_castsi512_si128(found));
    const __m512i entry = _mm512_add_epi32(_mm512_mullo_epi32(channel, _mm512_set1_epi32(static_cast<int>(step))),
                                           _mm512_set1_epi32(static_cast<int>(base)));
    _mm512_storeu_si512(out + i, entry);
    if ((i += 16) >= n) return out + n;
    found = _mm512_maskz_alignr_epi32(0xffff, found, found, 4);
  }
#else
  for (; bits; bits &= bits - 1) *out++ = base + static_cast<uint32_t>(__builtin_ctzll(bits)) * step;
  return out;
#endif
}

void decode(const FastJob& job, int64_t begin, int64_t end) {
  const FastShape& s = job.shape;
  const FastWeights& weights = job.weights;
  const int64_t image_rows = s.in[0] * s.in[1], width = s.in[2];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t t = r / (job.in_planes * image_rows), plane = r / image_rows % job.in_planes, line = r % image_rows;
    const uint64_t* pixel = reinterpret_cast<const uint64_t*>(job.in + t * job.in_row_bytes) +
                            (plane * s.pixels_in + line * width) * s.words;
    uint32_t* list = job.events.list + r * job.events.row;
    int32_t* starts = job.events.starts + r * (width + 1);
    uint32_t* out = list;
    uint32_t base = 0;
    for (int64_t x = 0; x < width; ++x, pixel += s.words, base += weights.pixel_step) {
      starts[x] = static_cast<int32_t>(out - list);
      for (int64_t w = 0; w < s.words; ++w)
        out = decode_word(pixel[w], base + static_cast<uint32_t>(w * 64) * weights.channel_step, weights.channel_step, out);
    }
    starts[width] = static_cast<int32_t>(out - list);
  }
}

// Pixels [from, until) of one image row of step 0 that a window sees, and what moves their entries to its taps.
struct Slice {
  int64_t line;
  int32_t from, until, first;  // first: x of the window's first tap
  uint32_t shift;
};

// Slices of the window of output pixel p, or of the `lists` pixels from p on when they share one; their number.
int64_t window_slices(const FastJob& job, int64_t p, Slice* to) {
  const FastShape& s = job.shape;
  const FastWeights& weights = job.weights;
  const int64_t oz = p / (s.out[1] * s.out[2]), oy = p / s.out[2] % s.out[1], ox = p % s.out[2];
  const int64_t x0 = ox * s.stride[2] - s.before[2], width = s.in[2];
  const int64_t reach = s.kernel[2] + (weights.shared ? weights.lists - 1 : 0);
  const auto step = [](uint32_t by, int64_t n) { return by * static_cast<uint32_t>(n); };
  int64_t n = 0;
  for (int64_t a = 0; a < s.kernel[0]; ++a) {
    const int64_t z = oz * s.stride[0] - s.before[0] + a * s.dilation[0];
    if (z < 0 || z >= s.in[0]) continue;
    for (int64_t b = 0; b < s.kernel[1]; ++b) {
      const int64_t y = oy * s.stride[1] - s.before[1] + b * s.dilation[1];
      if (y < 0 || y >= s.in[1]) continue;
      const uint32_t shift = step(weights.slice_step, a * s.kernel[1] + b) + weights.window_base;
      const bool whole = s.dilation[2] == 1;
      for (int64_t e = 0; e < (whole ? 1 : s.kernel[2]); ++e) {
        const int64_t x = x0 + e * s.dilation[2], from = most(0, x), until = least(width, x + (whole ? reach : 1));
        if (from < until)
          to[n++] = {z * s.in[1] + y, static_cast<int32_t>(from), static_cast<int32_t>(until), static_cast<int32_t>(x),
                     shift + step(weights.window_step, x) + step(weights.tap_step, e)};
      }
    }
  }
  return n;
}

// Entries [from, from + n) moved by `shift`. `chunks` vectors are written in any case: a count that seldom differs
// costs no mispredicted branch.
inline int64_t append(uint32_t* to, const uint32_t* from, int64_t n, uint32_t shift, int64_t chunks) {
  int64_t i = 0;
  do add_sixteen_to(to + i, from + i, shift);
  while ((i += 16) < chunks * 16);
  for (; i < n; i += 16) add_sixteen_to(to + i, from + i, shift);
  return n;
}

// Vectors that most slices of a window need: the mean and two standard deviations of a Poisson count.
int64_t usual_chunks(const FastJob& job) {
  const FastShape& s = job.shape;
  const int64_t lines = (job.in_row_bytes ? job.steps : 1) * job.in_planes * s.in[0] * s.in[1];
  int64_t events = 0;
  for (int64_t r = 0; r < lines; ++r) events += job.events.starts[r * (s.in[2] + 1) + s.in[2]];
  const int64_t reach = s.dilation[2] == 1 ? s.kernel[2] + (job.weights.shared ? job.weights.lists - 1 : 0) : 1;
  const int64_t mean = events * least(reach, s.in[2]) / (lines * s.in[2]);
  int64_t root = 0;
  while ((root + 1) * (root + 1) <= mean) ++root;
  return least((mean + 2 * root + 15) / 16, least(reach, s.in[2]) * s.channels / 16);
}

// Rows that touch a window at step t in one spike plane; returns their number.
int64_t window_list(const FastJob& job, int64_t t, int plane, const Slice* slices, int64_t count, int64_t chunks,
                    uint32_t extra, uint32_t* to) {
  const int64_t width = job.shape.in[2], first = (t * job.in_planes + plane) * job.shape.in[0] * job.shape.in[1];
  int64_t n = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = first + slices[i].line;
    const int32_t* starts = job.events.starts + r * (width + 1);
    const int32_t from = starts[slices[i].from], until = starts[slices[i].until];
    n += append(to + n, job.events.list + r * job.events.row + from, until - from, slices[i].shift + extra, chunks);
  }
  return n;
}

// Of the events that a shared window sees, those in the window of its pixel l.
int64_t window_count(const FastJob& job, int64_t t, int plane, const Slice* slices, int64_t count, int64_t l) {
  const int64_t width = job.shape.in[2], first = (t * job.in_planes + plane) * job.shape.in[0] * job.shape.in[1];
  int64_t n = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* starts = job.events.starts + (first + slices[i].line) * (width + 1);
    const auto inside = [&](int64_t x) { return most(slices[i].from, least(slices[i].until, x)); };
    const int64_t first_x = slices[i].first + l;
    n += starts[inside(first_x + job.shape.kernel[2])] - starts[inside(first_x)];
  }
  return n;
}

}  // namespace
