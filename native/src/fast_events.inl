// Packed spikes to lists of weight-row offsets. Included by fast_impl.inl.

#include "fast_windows.inl"

namespace {

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
