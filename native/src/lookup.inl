// Sums by table lookup, compiled once an instruction set by lookup_*.cpp, which name the table PJ_LOOKUP. The cost
// of a window is one lookup and one addition of bytes a vector of outputs for every four channels that spike.

#include "lookup.h"
#include "lookup_simd.h"

#include "fast_windows.inl"
#include "fast_finish.inl"
#include "lookup_neuron.inl"
#include "lookup_out.inl"
#include "lookup_pieces.inl"
#include "dot.inl"

namespace {

constexpr int64_t kUnrolled = 4;  // lookups of one turn: lists end in as many empty patterns
constexpr uint32_t kPattern = (1u << kPatternBits) - 1;

// -- lists of patterns ---------------------------------------------------------------------------------

// Entries of 64 channels of one pixel, `planes` words `apart`; returns their end. Up to kOverrun entries behind it
// are overwritten.
inline uint32_t* patterns_of(const uint64_t* word, int planes, int64_t apart, uint32_t base, uint32_t step, uint32_t* out) {
#if defined(__AVX512BW__)
  // Lane 2i takes nibble i of the low half, lane 2i + 1 that of the high half.
  const __m512i by = _mm512_set_epi32(28, 28, 24, 24, 20, 20, 16, 16, 12, 12, 8, 8, 4, 4, 0, 0);
  const __m512i group = _mm512_set_epi32(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0), low = _mm512_set1_epi32(15);
  __m512i pattern = _mm512_setzero_si512();
  for (int q = 0; q < planes; ++q) {
    const __m512i all = _mm512_set1_epi64(static_cast<int64_t>(word[q * apart]));
    const __m512i nibble = _mm512_and_si512(_mm512_maskz_srlv_epi32(0xffff, all, by), low);
    pattern = _mm512_or_si512(pattern, _mm512_maskz_sll_epi32(0xffff, nibble, _mm_cvtsi32_si128(4 * q)));
  }
  const __mmask16 some = _mm512_test_epi32_mask(pattern, pattern);
  const __m512i place = _mm512_add_epi32(_mm512_mullo_epi32(group, _mm512_set1_epi32(static_cast<int>(step))),
                                         _mm512_set1_epi32(static_cast<int>(base)));
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(some, _mm512_add_epi32(place, pattern)));
  return out + __builtin_popcount(some);
#else
  uint64_t any = 0;
  for (int q = 0; q < planes; ++q) any |= word[q * apart];
  any |= any >> 2;
  any |= any >> 1;
  for (any &= 0x1111111111111111ull; any; any &= any - 1) {
    const int at = __builtin_ctzll(any);
    uint32_t pattern = 0;
    for (int q = 0; q < planes; ++q) pattern |= static_cast<uint32_t>(word[q * apart] >> at & 15) << (4 * q);
    *out++ = base + static_cast<uint32_t>(at / 4) * step + pattern;
  }
  return out;
#endif
}

// Image rows [begin, end) of all steps as lists, with the spikes before every pixel.
void decode_patterns(const FastJob& job, int64_t begin, int64_t end) {
  const FastShape& s = job.shape;
  const LookupRows& l = job.lookup;
  const int64_t lines = s.in[0] * s.in[1], width = s.in[2], apart = s.pixels_in * s.words;
  for (int64_t r = begin; r < end; ++r) {
    const uint64_t* pixel = reinterpret_cast<const uint64_t*>(job.in + r / lines * job.in_row_bytes) + r % lines * width * s.words;
    uint32_t *list = job.events.list + r * job.events.row, *out = list, base = 0;
    int32_t *starts = job.events.starts + r * (width + 1), *totals = l.totals + r * (width + 1), total = 0;
    for (int64_t x = 0; x < width; ++x, base += job.weights.pixel_step) {
      starts[x] = static_cast<int32_t>(out - list);
      totals[x] = total;
      for (int64_t w = 0; w < s.words; ++w, ++pixel) {
        out = patterns_of(pixel, l.spike_planes, apart, base + static_cast<uint32_t>(w * 16) * l.group_step, l.group_step, out);
        for (int q = 0; q < l.spike_planes; ++q) {
          const int32_t n = __builtin_popcountll(pixel[q * apart]);
          total += job.in_ternary ? (q ? -n : n) : n << q;
        }
      }
    }
    starts[width] = static_cast<int32_t>(out - list);
    totals[width] = total;
  }
}

// -- sums ----------------------------------------------------------------------------------------------

// What M vectors of bytes add up to over a list, as 16 bits: even bytes in low, odd ones in high.
template <int M>
void add_lookups(const LookupRows& l, const uint32_t* list, const uint32_t* patterns, int64_t n, int64_t first, Shorts* low, Shorts* high) {
  const uint8_t *rows = l.rows + first * kSpan, *tables = l.tables;
  for (int m = 0; m < M; ++m) low[m] = high[m] = Shorts{};
  for (int64_t from = 0; from < n; from += l.together) {
    const int64_t until = least(n, from + l.together);
    Bytes sum[M];
    for (int m = 0; m < M; ++m) sum[m] = Bytes{};
    for (int64_t i = from; i < until; i += kUnrolled)
      for (int64_t k = 0; k < kUnrolled; ++k) {
        const uint8_t *table = tables + patterns[i + k], *row = rows + list[i + k];
        for (int m = 0; m < M; ++m) sum[m] += lookup(table, row + m * kSpan);
      }
    for (int m = 0; m < M; ++m) {
      low[m] += (Shorts)sum[m] & 255;
      high[m] += (Shorts)sum[m] >> 8;
    }
  }
}

void add_some(const LookupRows& l, const uint32_t* list, const uint32_t* patterns, int64_t n, int64_t first, int m, Shorts* low, Shorts* high) {
  static_assert(kLookupVectors == 8);
  if (m == 1) return add_lookups<1>(l, list, patterns, n, first, low, high);
  if (m == 2) return add_lookups<2>(l, list, patterns, n, first, low, high);
  if (m == 3) return add_lookups<3>(l, list, patterns, n, first, low, high);
  if (m == 4) return add_lookups<4>(l, list, patterns, n, first, low, high);
  if (m <= 6) return add_lookups<6>(l, list, patterns, n, first, low, high);
  add_lookups<8>(l, list, patterns, n, first, low, high);
}

// Entries [from, from + n) moved by `shift` and taken apart: bytes from the first row and from the first table.
inline void append_entries(uint32_t* rows, uint32_t* patterns, const uint32_t* from, int64_t n, uint32_t shift, int64_t chunks) {
  for (int64_t i = 0; i < n || i < chunks * 16; i += 16) {
    typedef uint32_t Entries __attribute__((vector_size(kSpan), may_alias));
    for (int64_t k = 0; k < 16; k += kSpan / 4) {
      const Entries entry = read<Entries>(from + i + k) + shift;
      write(rows + i + k, (Entries)(entry >> kPatternBits << 5));
      write(patterns + i + k, (Entries)((entry & kPattern) << 4));
    }
  }
}

// Entries that touch a window, and what its spikes add up to; returns their number. What follows them adds nothing.
int64_t window_entries(const FastJob& job, int64_t t, const Slice* slices, int64_t count, int64_t chunks, const LookupWork& w,
                       int32_t& total) {
  const int64_t first = t * job.shape.in[0] * job.shape.in[1], width = job.shape.in[2];
  int64_t n = 0;
  total = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = first + slices[i].line;
    const int32_t *starts = job.events.starts + r * (width + 1), *totals = job.lookup.totals + r * (width + 1);
    const int32_t from = starts[slices[i].from], until = starts[slices[i].until];
    append_entries(w.list + n, w.patterns + n, job.events.list + r * job.events.row + from, until - from, slices[i].shift, chunks);
    n += until - from;
    total += totals[slices[i].until] - totals[slices[i].from];
  }
  std::memset(w.list + n, 0, kUnrolled * 4);
  std::memset(w.patterns + n, 0, kUnrolled * 4);
  return n;
}

// One plane of weights in M vectors.
template <int M>
void plain_lookups(const FastJob& job, int64_t t, const Slice* slices, int64_t count, int64_t chunks, const LookupWork& w, int16_t* sums) {
  const LookupRows& l = job.lookup;
  int32_t total;
  const int64_t n = window_entries(job, t, slices, count, chunks, w, total);
  const uint16_t rest = static_cast<uint16_t>(l.offset * total - (static_cast<int32_t>(n) * l.lift << l.double_shift));
  Shorts low[M], high[M];
  add_lookups<M>(l, w.list, w.patterns, n, 0, low, high);
  for (int m = 0; m < M; ++m) {
    write(sums + m * kSpan, (Shorts)((low[m] << l.double_shift) + rest));
    write(sums + m * kSpan + kSpan / 2, (Shorts)((high[m] << l.double_shift) + rest));
  }
}

void window_lookups(const FastJob& job, int64_t t, const Slice* slices, int64_t count, int64_t chunks, const LookupWork& w, int16_t* sums) {
  const LookupRows& l = job.lookup;
  int32_t total;
  const int64_t n = window_entries(job, t, slices, count, chunks, w, total);
  const int planes = l.weight_planes, all = (1 << planes) - 1;
  const uint16_t rest = static_cast<uint16_t>(l.offset * total - (static_cast<int32_t>(n) * l.lift * all << l.double_shift));
  const int64_t blocks = (job.shape.out_channels + kSpan - 1) / kSpan, some = kLookupVectors / planes;
  for (int64_t b = 0; b < blocks; b += some) {
    const int64_t live = least(some, blocks - b);
    Shorts low[kLookupVectors], high[kLookupVectors];
    add_some(l, w.list, w.patterns, n, b * planes, static_cast<int>(live) * planes, low, high);
    for (int64_t i = 0; i < live; ++i) {
      Shorts even = low[i * planes], odd = high[i * planes];
      for (int j = 1; j < planes; ++j) even += low[i * planes + j] << j, odd += high[i * planes + j] << j;
      write(sums + (b + i) * kSpan, (Shorts)((even << l.double_shift) + rest));
      write(sums + (b + i) * kSpan + kSpan / 2, (Shorts)((odd << l.double_shift) + rest));
    }
  }
}

void lookup_sums(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  static WindowSums* const plain[] = {plain_lookups<1>, plain_lookups<2>, plain_lookups<3>, plain_lookups<4>};
  const int64_t blocks = (job.shape.out_channels + kSpan - 1) / kSpan;
  all_pieces(job, begin, end, usual_chunks(job), cut_lookup(job, work, nullptr),
             job.lookup.weight_planes == 1 && blocks <= 4 ? plain[blocks - 1] : window_lookups);
}

}  // namespace

namespace picojoule {
const LookupTable PJ_LOOKUP = {kSpan, lookup_work, decode_patterns, lookup_sums, dot_sums};
}
