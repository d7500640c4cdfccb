// Sums of code words, compiled once an instruction set by lookup_words_*.cpp, which name the table PJ_WORDS. The cost
// of a window is one lookup and one addition of bytes a vector of outputs for every input channel, whatever fires.

#include "lookup_words.h"
#include "lookup_simd.h"

#include "fast_windows.inl"
#include "fast_finish.inl"
#include "lookup_neuron.inl"
#include "lookup_out.inl"

namespace {

// Windows whose sums are made together, two vectors of outputs each: all share the words read for one channel.
constexpr int64_t kWindows = kSpan == 64 ? 8 : 4;

// -- images of spikes ----------------------------------------------------------------------------------

// 64 bits as bytes of 0 or 255.
inline void bits_to_bytes(uint64_t bits, uint8_t* to) {
#if defined(__AVX512BW__)
  _mm512_store_si512(to, _mm512_movm_epi8(bits));
#elif defined(__AVX2__)
  const __m256i from = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  for (int i = 0; i < 2; ++i) {
    const __m256i all = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits >> 32 * i)), from);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + 32 * i), _mm256_cmpeq_epi8(_mm256_and_si256(all, bit), bit));
  }
#else
  for (int i = 0; i < 8; ++i) {
    uint64_t byte = (bits >> 8 * i & 255) * 0x0101010101010101 & 0x8040201008040201;
    byte = ((byte + 0x7f7f7f7f7f7f7f7f) >> 7 & 0x0101010101010101) * 255;
    std::memcpy(to + 8 * i, &byte, 8);
  }
#endif
}

// Image rows [begin, end) of all steps as bytes, and what is too much in the sums of every pixel's tables.
void lay_bytes(const FastJob& job, int64_t begin, int64_t end) {
  const FastShape& s = job.shape;
  const WordRows& l = job.code_words;
  const int64_t lines = s.in[0] * s.in[1], width = s.in[2], row = s.words * 64;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t t = r / lines, first = r % lines * width;
    const uint64_t* in = reinterpret_cast<const uint64_t*>(job.in + t * job.in_row_bytes) + first * s.words;
    int32_t* totals = l.totals + t * s.pixels_in + first;
    std::memset(totals, 0, static_cast<size_t>(width) * 4);
    for (int q = 0; q < job.lookup.spike_planes; ++q, in += s.pixels_in * s.words) {
      uint8_t* to = l.image + ((t * job.lookup.spike_planes + q) * s.pixels_in + first) * row;
      const int32_t weight = job.in_ternary ? (q ? l.offset_negative : l.offset_positive) : l.offset_positive << q;
      for (int64_t x = 0; x < width; ++x)
        for (int64_t w = 0; w < s.words; ++w) {
          const uint64_t word = in[x * s.words + w];
          bits_to_bytes(word, to + (x * s.words + w) * 64);
          totals[x] += weight * __builtin_popcountll(word);
        }
    }
  }
}

// -- windows -------------------------------------------------------------------------------------------

// Memory of one worker, cut from `work`. Entries are channels in whole words, plane after plane.
struct WordWork {
  uint16_t* places;   // [kWindows][entries]: where the table of the window's spikes begins
  uint32_t *entries, *rows;  // those that any window has spikes of, and their indices
  int32_t* pixels;    // [kLookupPixels][taps]: those that a window sees, -1 outside
  uint8_t* nothing;   // [channels in whole words] of a pixel outside
  int16_t* sums;      // [kLookupPixels][row]
  int64_t row;        // outputs in whole vectors, in whole words
  int32_t *wide, *v;
};

WordWork cut_words(const FastJob& job, std::byte* work, int64_t* bytes) {
  int64_t at = 0;
  const auto take = [&](int64_t n) {
    std::byte* p = work ? work + at : nullptr;
    at += (n + 63) / 64 * 64;
    return p;
  };
  WordWork w;
  const FastShape& s = job.shape;
  const int64_t channels = s.words * 64, entries = channels * job.lookup.spike_planes;
  w.row = (s.out_channels + 63) / 64 * 64;
  w.places = reinterpret_cast<uint16_t*>(take(kWindows * entries * 2));
  w.entries = reinterpret_cast<uint32_t*>(take(entries * 4));
  w.rows = reinterpret_cast<uint32_t*>(take(entries * 4));
  w.pixels = reinterpret_cast<int32_t*>(take(kLookupPixels * s.taps * 4));
  w.nothing = reinterpret_cast<uint8_t*>(take(channels));
  w.sums = reinterpret_cast<int16_t*>(take(kLookupPixels * w.row * 2));
  w.wide = reinterpret_cast<int32_t*>(take(w.row * 4));
  w.v = reinterpret_cast<int32_t*>(take(w.row * 4));
  if (bytes) *bytes = at;
  return w;
}

int64_t words_work(const FastJob& job) {
  int64_t bytes = 0;
  cut_words(job, nullptr, &bytes);
  return bytes;
}

void window_pixels(const FastJob& job, int64_t p, int32_t* to) {
  const FastShape& s = job.shape;
  const int64_t oz = p / (s.out[1] * s.out[2]), oy = p / s.out[2] % s.out[1], ox = p % s.out[2];
  const auto inside = [&](int axis, int64_t at, int64_t tap) {
    const int64_t x = at * s.stride[axis] - s.before[axis] + tap * s.dilation[axis];
    return x < 0 || x >= s.in[axis] ? -1 : x;
  };
  for (int64_t a = 0; a < s.kernel[0]; ++a)
    for (int64_t b = 0; b < s.kernel[1]; ++b)
      for (int64_t c = 0; c < s.kernel[2]; ++c) {
        const int64_t z = inside(0, oz, a), y = inside(1, oy, b), x = inside(2, ox, c);
        *to++ = z < 0 || y < 0 || x < 0 ? -1 : static_cast<int32_t>((z * s.in[1] + y) * s.in[2] + x);
      }
}

// Tables of one window in one plane of a step: its taps are bits above the four of a word.
void place_windows(const FastJob& job, const uint8_t* image, const int32_t* pixels, const WordWork& w, uint16_t base, uint16_t* to) {
  const int64_t taps = job.shape.taps, channels = job.shape.words * 64, low = least(taps, 8);
  const uint8_t* from[kWordTaps];
  for (int64_t k = 0; k < taps; ++k) from[k] = pixels[k] < 0 ? w.nothing : image + pixels[k] * channels;
  for (int64_t c = 0; c < channels; c += kSpan) {
    Bytes bits{}, ninth{};
    for (int64_t k = low; k-- > 0;) bits = bits + bits - read<Bytes>(from[k] + c);
    if (taps > 8) ninth = read<Bytes>(from[8] + c) & 16;
    typedef uint8_t HalfBytes __attribute__((vector_size(kSpan / 2), may_alias));
    HalfBytes parts[2], ninths[2];
    std::memcpy(parts, &bits, kSpan);
    std::memcpy(ninths, &ninth, kSpan);
    for (int i = 0; i < 2; ++i)
      write(to + c + i * kSpan / 2,
            (Shorts)((__builtin_convertvector(parts[i], Shorts) << 4 | __builtin_convertvector(ninths[i], Shorts) << 8) + base));
  }
}

// Lists the entries that any of kWindows windows has spikes of; their number.
int64_t list_entries(const FastJob& job, const WordWork& w) {
  const WordRows& l = job.code_words;
  const int64_t channels = job.shape.words * 64, all = channels * job.lookup.spike_planes;
  alignas(64) static const int16_t none[64] = {};
  uint32_t *entries = w.entries, *rows = w.rows;
  for (int64_t e = 0; e < all; e += 64) {
    const int64_t plane = e / channels;
    const uint32_t base = static_cast<uint32_t>(plane * l.table_bytes), row = static_cast<uint32_t>((e - plane * channels) * l.row_bytes);
    alignas(64) int16_t any[64];
    for (int c = 0; c < 64; ++c) {
      uint16_t places = 0;
      for (int64_t i = 0; i < kWindows; ++i) places |= w.places[i * all + e + c];
      any[c] = static_cast<int16_t>(places ^ base);
    }
    uint64_t some = greater_bits(any, none);
    const int n = __builtin_popcountll(some);
    if (n == 64) {
      for (uint32_t c = 0; c < 64; ++c) entries[c] = static_cast<uint32_t>(e) + c, rows[c] = row + c * static_cast<uint32_t>(l.row_bytes);
    } else {
      for (int i = 0; some; some &= some - 1, ++i) {
        const auto c = static_cast<uint32_t>(__builtin_ctzll(some));
        entries[i] = static_cast<uint32_t>(e) + c, rows[i] = row + c * static_cast<uint32_t>(l.row_bytes);
      }
    }
    entries += n, rows += n;
  }
  return entries - w.entries;
}

// -- sums ----------------------------------------------------------------------------------------------

// What M vectors of outputs from byte `first` of their indices on add up to in kWindows windows, as 16 bits: even bytes
// in low, odd ones in high. One load of indices serves all windows.
template <int M>
void add_words(const FastJob& job, const WordWork& w, int64_t n, int64_t first, Shorts (*low)[M], Shorts (*high)[M]) {
  const WordRows& l = job.code_words;
  const uint8_t *rows = l.rows + first, *tables = l.tables;
  const int64_t all = job.shape.words * 64 * job.lookup.spike_planes;
  const uint16_t* places = w.places;
  for (int i = 0; i < kWindows; ++i)
    for (int m = 0; m < M; ++m) low[i][m] = high[i][m] = Shorts{};
  for (int64_t from = 0; from < n; from += l.together) {
    const int64_t until = least(n, from + l.together);
    Bytes sum[kWindows][M];
    for (int i = 0; i < kWindows; ++i)
      for (int m = 0; m < M; ++m) sum[i][m] = Bytes{};
    for (int64_t k = from; k < until; ++k) {
      const uint8_t* row = rows + w.rows[k];
      const uint16_t* place = places + w.entries[k];
      Bytes words[M];
      for (int m = 0; m < M; m += 2) {
        const Bytes two = read<Bytes>(row + m / 2 * kSpan);
        words[m] = two & 15;
        if (m + 1 < M) words[m + 1] = (Bytes)((Shorts)two >> 4) & 15;
      }
      for (int i = 0; i < kWindows; ++i) {
        const uint8_t* table = tables + place[i * all];
        for (int m = 0; m < M; ++m) sum[i][m] += lookup(table, words[m]);
      }
    }
    for (int i = 0; i < kWindows; ++i)
      for (int m = 0; m < M; ++m) {
        low[i][m] += (Shorts)sum[i][m] & 255;
        high[i][m] += (Shorts)sum[i][m] >> 8;
      }
  }
}

// Outputs of M vectors from block b on of all windows, `rests` less.
template <int M>
void some_words(const FastJob& job, const WordWork& w, int64_t n, int64_t b, const int32_t* rests, int16_t* sums) {
  Shorts low[kWindows][M], high[kWindows][M];
  add_words<M>(job, w, n, b / 2 * kSpan, low, high);
  const int shift = job.code_words.double_shift;
  for (int i = 0; i < kWindows; ++i)
    for (int m = 0; m < M; ++m) {
      int16_t* to = sums + i * w.row + (b + m) * kSpan;
      const auto rest = static_cast<uint16_t>(rests[i]);
      write(to, (Shorts)((low[i][m] << shift) - rest));
      write(to + kSpan / 2, (Shorts)((high[i][m] << shift) - rest));
    }
}

struct OneWindow {
  int64_t t;
  const int32_t* pixels;  // its taps
};

// Sums of up to kWindows windows, modulo 2^16 but known to fit.
void window_words(const FastJob& job, const OneWindow* windows, int64_t live, const WordWork& w, int16_t* sums) {
  const FastShape& s = job.shape;
  const WordRows& l = job.code_words;
  const int planes = job.lookup.spike_planes;
  const int64_t channels = s.words * 64, all = channels * planes;
  int32_t rests[kWindows] = {};
  for (int64_t i = 0; i < live; ++i) {
    const int64_t t = windows[i].t;
    for (int q = 0; q < planes; ++q)
      place_windows(job, l.image + (t * planes + q) * s.pixels_in * channels, windows[i].pixels, w, static_cast<uint16_t>(q * l.table_bytes),
                    w.places + i * all + q * channels);
    for (int64_t k = 0; k < s.taps; ++k)
      if (windows[i].pixels[k] >= 0) rests[i] += l.totals[t * s.pixels_in + windows[i].pixels[k]];
  }
  for (int64_t i = live; i < kWindows; ++i) std::memcpy(w.places + i * all, w.places, static_cast<size_t>(all) * 2);
  const int64_t n = list_entries(job, w), blocks = (s.out_channels + kSpan - 1) / kSpan;
  int64_t b = 0;
  for (; b + 2 <= blocks; b += 2) some_words<2>(job, w, n, b, rests, sums);
  if (b < blocks) some_words<1>(job, w, n, b, rests, sums);
}

// -- one piece of work ---------------------------------------------------------------------------------

void raw_words(const FastJob& job, int64_t p, int64_t live, const WordWork& w) {
  for (int64_t t = 0; t < job.steps; ++t) {
    for (int64_t i = 0; i < live && (t == 0 || job.in_row_bytes); i += kWindows) {
      OneWindow windows[kWindows];
      const int64_t some = least(kWindows, live - i);
      for (int64_t k = 0; k < some; ++k) windows[k] = {t, w.pixels + (i + k) * job.shape.taps};
      window_words(job, windows, some, w, w.sums + i * w.row);
    }
    put_pixels(job, t, p, live, w.sums, w.row);
  }
}

// All steps of a pixel, then those of the next: windows of several pixels may share their sums' indices.
void fused_words(const FastJob& job, int64_t p, int64_t live, const WordWork& w) {
  const int64_t steps = job.in_row_bytes ? job.steps : 1, all = live * steps;
  for (int64_t at = 0; at < all; at += kWindows) {
    OneWindow windows[kWindows];
    const int64_t some = least(kWindows, all - at);
    for (int64_t k = 0; k < some; ++k) windows[k] = {(at + k) % steps, w.pixels + (at + k) / steps * job.shape.taps};
    window_words(job, windows, some, w, w.sums);
    for (int64_t k = 0; k < some;) {
      const int64_t pixel = p + (at + k) / steps, t = (at + k) % steps, n = least(some - k, steps - t);
      if (t == 0) start_rows(job.end, pixel, w.v);
      if (job.in_row_bytes) fire(job, t, n, w.sums + k * w.row, w.row, w.wide, w.v, pixel);
      else fire(job, 0, job.steps, w.sums + k * w.row, 0, w.wide, w.v, pixel);
      if (t + n == steps) end_rows(job.end, pixel, w.v);
      k += n;
    }
  }
}

// Pieces of kLookupPixels pixels.
void word_sums(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  const WordWork w = cut_words(job, work, nullptr);
  std::memset(w.sums, 0, static_cast<size_t>(kLookupPixels * w.row) * 2);
  std::memset(w.nothing, 0, static_cast<size_t>(job.shape.words * 64));
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t p = piece * kLookupPixels, live = least(kLookupPixels, job.shape.pixels_out - p);
    for (int64_t i = 0; i < live; ++i) window_pixels(job, p + i, w.pixels + i * job.shape.taps);
    if (job.end.finish == Finish::raw) raw_words(job, p, live, w);
    else fused_words(job, p, live, w);
  }
}

}  // namespace

namespace picojoule {
const WordTable PJ_WORDS = {kSpan, words_work, lay_bytes, word_sums};
}
