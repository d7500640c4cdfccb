// Block kernels; compiled once an instruction set into the table PJ_BLOCK. Plain loops that the compiler turns into
// vectors wherever it can.

#include "block.h"
#include "simd.h"

namespace {

using namespace picojoule;

template <class F>
void by_block_element(int element, F&& f) {
  if (element == 1) f(int8_t{});
  else if (element == 2) f(int16_t{});
  else f(int32_t{});
}

// -- sums and affine maps ------------------------------------------------------------------------------

template <class X>
void block_affine_of(const BlockAffine& job, const X* __restrict x, int64_t n, int32_t* __restrict y) {
  const int32_t* __restrict gain = job.gain;
  const int shift = job.shift;
  if (!job.wide) {
    const int32_t* __restrict bias = job.bias32;
    for (int64_t i = 0; i < n; ++i) y[i] = (gain[i] * static_cast<int32_t>(x[i]) + bias[i]) >> shift;
    return;
  }
  // The low half of a shift by up to 32 is the same for signed and unsigned, and unsigned ones are vectors everywhere.
  const int64_t* __restrict bias = job.bias;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t sum = static_cast<int64_t>(gain[i]) * static_cast<int64_t>(x[i]) + bias[i];
    y[i] = static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint64_t>(sum) >> shift));
  }
}

void block_affine(const BlockAffine& job, BlockSource x, int64_t n, int32_t* y) {
  by_block_element(x.element, [&](auto zero) { block_affine_of(job, static_cast<const decltype(zero)*>(x.data), n, y); });
}

void block_add(BlockSource a, int32_t factor_a, BlockSource b, int32_t factor_b, int64_t n, int32_t* y) {
  by_block_element(a.element, [&](auto first) {
    by_block_element(b.element, [&](auto second) {
      const auto* p = static_cast<const decltype(first)*>(a.data);
      const auto* q = static_cast<const decltype(second)*>(b.data);
      int32_t* __restrict to = y;
      if (factor_a == 1 && factor_b == 1)
        for (int64_t i = 0; i < n; ++i) to[i] = static_cast<int32_t>(p[i]) + static_cast<int32_t>(q[i]);
      else
        for (int64_t i = 0; i < n; ++i) to[i] = factor_a * static_cast<int32_t>(p[i]) + factor_b * static_cast<int32_t>(q[i]);
    });
  });
}

void block_columns(BlockSource x, int64_t rows, int64_t columns, int32_t* y) {
  for (int64_t c = 0; c < columns; ++c) y[c] = 0;
  by_block_element(x.element, [&](auto zero) {
    const auto* __restrict from = static_cast<const decltype(zero)*>(x.data);
    int32_t* __restrict to = y;
    for (int64_t r = 0; r < rows; ++r, from += columns)
      for (int64_t c = 0; c < columns; ++c) to[c] += static_cast<int32_t>(from[c]);
  });
}

// -- neurons -------------------------------------------------------------------------------------------

// Levels as a template constant keep the count in a register.
template <class E, int L>
void block_levels_few(const BlockLevels& job, const E* __restrict x, int64_t n, int8_t* __restrict y) {
  const E* __restrict edges = static_cast<const E*>(job.edges);
  const int64_t stride = job.stride;
  for (int64_t i = 0; i < n; ++i) {
    E count = 0;
    for (int l = 0; l < L; ++l) count = static_cast<E>(count + (x[i] > edges[l * stride + i] ? 1 : 0));
    y[i] = static_cast<int8_t>(count);
  }
}

template <class E>
void block_levels_of(const BlockLevels& job, const E* __restrict x, int64_t n, int8_t* __restrict y) {
  if (job.levels == 1) block_levels_few<E, 1>(job, x, n, y);
  else if (job.levels == 2) block_levels_few<E, 2>(job, x, n, y);
  else if (job.levels == 4) block_levels_few<E, 4>(job, x, n, y);
  else {
    for (int64_t i = 0; i < n; ++i) y[i] = 0;
    for (int l = 0; l < job.levels; ++l) {
      const E* __restrict edge = static_cast<const E*>(job.edges) + l * job.stride;
      for (int64_t i = 0; i < n; ++i) y[i] = static_cast<int8_t>(y[i] + (x[i] > edge[i] ? 1 : 0));
    }
  }
  if (!job.base) return;
  const int8_t *__restrict base = job.base, *__restrict mask = job.mask;
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<int8_t>((y[i] ^ mask[i]) - mask[i] + base[i]);
}

void block_levels(const BlockLevels& job, BlockSource x, int64_t n, int8_t* spikes) {
  by_block_element(x.element, [&](auto zero) { block_levels_of(job, static_cast<const decltype(zero)*>(x.data), n, spikes); });
}

// Binary spikes in one pass.
template <int Reset, int Uniform, class X>
void block_step_binary(const BlockStep& job, const X* __restrict x, int64_t n, int32_t* __restrict v, int8_t* __restrict spikes) {
  const int32_t *__restrict decay = job.decay, *__restrict gain = job.gain, *__restrict reset = job.reset_value;
  const int32_t *__restrict bias = job.bias, *__restrict threshold = job.thresholds;
  const int32_t decay_all = decay[0], gain_all = gain[0], reset_all = reset[0], bias_all = bias[0], threshold_all = threshold[0];
  const int32_t half = job.half;
  const int shift = job.shift;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t d = Uniform ? decay_all : decay[i], g = Uniform ? gain_all : gain[i], r = Uniform ? reset_all : reset[i];
    const int32_t h = ((d * v[i] + half) >> shift) + g * static_cast<int32_t>(x[i]) + (Uniform > 1 ? bias_all : bias[i]);
    const int32_t fired = h >= (Uniform > 1 ? threshold_all : threshold[i]) ? -1 : 0;
    if (Reset == 0) v[i] = (h & ~fired) | (r & fired);
    else if (Reset == 1) v[i] = h - (r & fired);
    else v[i] = h;
    spikes[i] = static_cast<int8_t>(-fired);
  }
}

template <class X>
void block_step_any(const BlockStep& job, const X* __restrict x, int64_t n, int32_t* __restrict v, int32_t* __restrict count,
                    int8_t* __restrict spikes) {
  const int32_t *__restrict decay = job.decay, *__restrict gain = job.gain, *__restrict bias = job.bias;
  const int shift = job.shift;
  const int32_t half = job.half, low = (1 << shift) - 1;
  if (job.split)
    for (int64_t i = 0; i < n; ++i)
      v[i] = decay[i] * (v[i] >> shift) + ((decay[i] * (v[i] & low) + half) >> shift) + gain[i] * static_cast<int32_t>(x[i]) + bias[i];
  else
    for (int64_t i = 0; i < n; ++i) v[i] = ((decay[i] * v[i] + half) >> shift) + gain[i] * static_cast<int32_t>(x[i]) + bias[i];
  for (int64_t i = 0; i < n; ++i) count[i] = 0;
  for (int l = 0; l < job.levels; ++l) {
    const int32_t* __restrict threshold = job.thresholds + l * job.stride;
    for (int64_t i = 0; i < n; ++i) count[i] += v[i] >= threshold[i];
  }
  if (job.ternary) {
    const int32_t* __restrict neg = job.neg;
    for (int64_t i = 0; i < n; ++i) count[i] -= v[i] <= neg[i];
  }
  const int32_t* __restrict reset = job.reset_value;
  if (job.reset == 0)
    for (int64_t i = 0; i < n; ++i) v[i] = count[i] != 0 ? reset[i] : v[i];
  if (job.reset == 1)
    for (int64_t i = 0; i < n; ++i) v[i] -= count[i] * reset[i];
  for (int64_t i = 0; i < n; ++i) spikes[i] = static_cast<int8_t>(count[i]);
}

template <int Reset, class X>
void block_step_reset(const BlockStep& job, const X* x, int64_t n, int32_t* v, int8_t* spikes) {
  if (job.uniform == 2) block_step_binary<Reset, 2>(job, x, n, v, spikes);
  else if (job.uniform == 1) block_step_binary<Reset, 1>(job, x, n, v, spikes);
  else block_step_binary<Reset, 0>(job, x, n, v, spikes);
}

void block_step(const BlockStep& job, BlockSource x, int64_t n, int32_t* v, int32_t* room, int8_t* spikes) {
  by_block_element(x.element, [&](auto zero) {
    const auto* from = static_cast<const decltype(zero)*>(x.data);
    if (job.levels != 1 || job.ternary || job.split) block_step_any(job, from, n, v, room, spikes);
    else if (job.reset == 0) block_step_reset<0>(job, from, n, v, spikes);
    else if (job.reset == 1) block_step_reset<1>(job, from, n, v, spikes);
    else block_step_reset<2>(job, from, n, v, spikes);
  });
}

// -- what leaves a block -------------------------------------------------------------------------------

void block_widen(const int8_t* x, int64_t n, int32_t* y) {
  const int8_t* __restrict from = x;
  int32_t* __restrict to = y;
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

void block_narrow(const int32_t* x, int64_t n, int element, void* y) {
  by_block_element(element, [&](auto zero) {
    auto* __restrict to = static_cast<decltype(zero)*>(y);
    const int32_t* __restrict from = x;
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<decltype(zero)>(from[i]);
  });
}

// Bit `plane` of 64 counts, or their signs: +1 is odd and has no sign.
inline uint64_t count_bits(const int8_t* from, int plane, bool ternary) {
#if defined(__AVX512BW__)
  const __m512i x = _mm512_loadu_si512(from);
  if (!ternary) return _mm512_test_epi8_mask(x, _mm512_set1_epi8(static_cast<char>(1 << plane)));
  const uint64_t below = _mm512_movepi8_mask(x);
  return plane ? below : _mm512_test_epi8_mask(x, _mm512_set1_epi8(1)) & ~below;
#else
  V a = load(from), b = load(from + 32);
  const int up = ternary ? 7 : 7 - plane;
  if (!ternary || !plane) {
    const V keep_a = ternary ? ~a : ~V{}, keep_b = ternary ? ~b : ~V{};
    a = (a << up) & keep_a, b = (b << up) & keep_b;
  }
  return byte_sign_bits(a) | static_cast<uint64_t>(byte_sign_bits(b)) << 32;
#endif
}

// Channels that fill a part of 64: one load holds several pixels.
void words_of_few(const int8_t* spikes, int64_t pixels, int64_t channels, int plane, bool ternary, uint64_t* to) {
  const int64_t together = 64 / channels;
  const uint64_t low = (uint64_t{1} << channels) - 1;
  for (int64_t p = 0; p < pixels; p += together, spikes += together * channels) {
    const uint64_t bits = count_bits(spikes, plane, ternary);
    if (p + together <= pixels)
      for (int64_t j = 0; j < together; ++j) to[p + j] = (bits >> (j * channels)) & low;
    else
      for (int64_t j = 0; p + j < pixels; ++j) to[p + j] = (bits >> (j * channels)) & low;
  }
}

void block_words(const int8_t* spikes, int64_t pixels, int64_t channels, int planes, bool ternary, int64_t plane_words, uint64_t* to) {
  const int64_t words = (channels + 63) / 64;
  const uint64_t tail = channels % 64 ? (uint64_t{1} << (channels % 64)) - 1 : ~uint64_t{0};
  for (int plane = 0; plane < planes; ++plane, to += plane_words) {
    if (channels <= 32) {
      words_of_few(spikes, pixels, channels, plane, ternary, to);
      continue;
    }
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t w = 0; w < words; ++w)
        to[p * words + w] = count_bits(spikes + p * channels + w * 64, plane, ternary) & (w + 1 < words ? ~uint64_t{0} : tail);
  }
}

template <class E>
void turn_of(const E* x, int64_t rows, int64_t columns, E* __restrict y) {
  constexpr int64_t part = 16;  // rows and columns of one tile
  for (int64_t r = 0; r < rows; r += part)
    for (int64_t c = 0; c < columns; c += part) {
      const int64_t until_r = r + part < rows ? r + part : rows, until_c = c + part < columns ? c + part : columns;
      for (int64_t j = c; j < until_c; ++j)
        for (int64_t i = r; i < until_r; ++i) y[j * rows + i] = x[i * columns + j];
    }
}

void block_turn(const void* x, int element, int64_t rows, int64_t columns, void* y) {
  by_block_element(element, [&](auto zero) {
    using E = decltype(zero);
    turn_of(static_cast<const E*>(x), rows, columns, static_cast<E*>(y));
  });
}

// -- inputs --------------------------------------------------------------------------------------------

// `Step` elements from one output to the next; eight bytes are read at once.
template <class E, int64_t Step>
void look_up_line(const uint8_t* x, const E* table, int64_t n, int64_t step, E* y) {
  const int64_t s = Step ? Step : step;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, x + i, 8);
    for (int j = 0; j < 8; ++j) y[(i + j) * s] = table[eight >> (8 * j) & 255];
  }
  for (; i < n; ++i) y[i * s] = table[x[i]];
}

void border_look_up(const BorderRow& job, const uint8_t* x, const void* table, int element, void* y) {
  by_block_element(element, [&](auto zero) {
    using E = decltype(zero);
    const E* from = static_cast<const E*>(table);
    E* to = static_cast<E*>(y);
    for (int64_t c = 0; c < job.channels; ++c, x += job.inner, from += 256) {
      if (!job.last) look_up_line<E, 1>(x, from, job.inner, 1, to + c * job.inner);
      else if (job.channels == 3) look_up_line<E, 3>(x, from, job.inner, 3, to + c);
      else look_up_line<E, 0>(x, from, job.inner, job.channels, to + c);
    }
  });
}

// floor(y) and y - floor(y) are exact in single precision, and so is the half that decides.
template <class E>
bool quantise_line(const BorderRow& job, const float* __restrict x, int64_t n, E* __restrict y, int64_t step) {
  const float low = static_cast<float>(job.low), high = static_cast<float>(job.high), scale = job.scale;
  constexpr int64_t kPart = 256;
  int32_t part[kPart];
  int bad = 0;
  for (int64_t begin = 0; begin < n; begin += kPart) {
    const int64_t count = n - begin < kPart ? n - begin : kPart;
    const float* from = x + begin;
    for (int64_t i = 0; i < count; ++i) {
      bad |= from[i] - from[i] == 0.0f ? 0 : 1;
      float at = from[i] * scale;
      at = at > low ? at : low;
      at = at < high ? at : high;
      const int32_t cut = static_cast<int32_t>(at);
      const int32_t whole = cut - (static_cast<float>(cut) > at ? 1 : 0);
      part[i] = whole + (at - static_cast<float>(whole) >= 0.5f ? 1 : 0);
    }
    E* to = y + begin * step;
    if (step == 1)
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<E>(part[i]);
    else
      for (int64_t i = 0; i < count; ++i) to[i * step] = static_cast<E>(part[i]);
  }
  return bad == 0;
}

bool border_quantise(const BorderRow& job, const float* x, int element, void* y) {
  bool good = true;
  by_block_element(element, [&](auto zero) {
    auto* to = static_cast<decltype(zero)*>(y);
    if (!job.last) good = quantise_line(job, x, job.channels * job.inner, to, 1);
    else
      for (int64_t c = 0; c < job.channels; ++c) good &= quantise_line(job, x + c * job.inner, job.inner, to + c, job.channels);
  });
  return good;
}

template <class E>
bool spike_bytes_of(const E* __restrict x, int64_t n, int low, int high, int8_t* __restrict y) {
  E least = 0, most = 0;
  for (int64_t i = 0; i < n; ++i) {
    least = x[i] < least ? x[i] : least;
    most = x[i] > most ? x[i] : most;
    y[i] = static_cast<int8_t>(x[i]);
  }
  return least >= low && most <= high;
}

bool spike_bytes(const void* x, bool is_signed, int64_t n, int low, int high, int8_t* y) {
  return is_signed ? spike_bytes_of(static_cast<const int8_t*>(x), n, low, high, y)
                   : spike_bytes_of(static_cast<const uint8_t*>(x), n, low, high, y);
}

bool spike_floats(const float* __restrict x, int64_t n, int low, int high, int8_t* __restrict y) {
  const float least = static_cast<float>(low), most = static_cast<float>(high);
  int bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    float at = x[i] > least ? x[i] : least;  // the least for a NaN, which then differs from x
    at = at < most ? at : most;
    const int32_t whole = static_cast<int32_t>(at);
    bad |= static_cast<float>(whole) == x[i] ? 0 : 1;
    y[i] = static_cast<int8_t>(whole);
  }
  return bad == 0;
}

}  // namespace

namespace picojoule {
const BlockTable PJ_BLOCK = {block_affine,   block_add,       block_levels, block_step,   block_widen,  block_narrow, block_words, block_turn,
                             border_look_up, border_quantise, spike_bytes,  spike_floats, block_columns};
}
