// Vector kernels on dense rows; compiled once an instruction set into the table PJ_ROWS. Plain loops that the
// compiler turns into vectors wherever it can.

#include "rows.h"

namespace {

using namespace picojoule;

// -- neurons without a membrane ------------------------------------------------------------------------

// Levels as a template constant keep all edges of a channel in registers.
template <class E, int L>
void level_channel(const E* __restrict x, const E* edges, int64_t stride, int8_t base, int8_t mask, int64_t n,
                   int8_t* __restrict y) {
  E edge[L];
  for (int l = 0; l < L; ++l) edge[l] = edges[l * stride];
  for (int64_t i = 0; i < n; ++i) {
    E count = 0;
    for (int l = 0; l < L; ++l) count = static_cast<E>(count + (x[i] > edge[l] ? 1 : 0));
    y[i] = static_cast<int8_t>((static_cast<int8_t>(count) ^ mask) - mask + base);
  }
}

template <class E>
void level_channel_any(const E* __restrict x, const E* edges, int64_t stride, int levels, int8_t base, int8_t mask,
                       int64_t n, int8_t* __restrict y) {
  for (int64_t i = 0; i < n; ++i) y[i] = 0;
  for (int l = 0; l < levels; ++l) {
    const E edge = edges[l * stride];
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<int8_t>(y[i] + (x[i] > edge ? 1 : 0));
  }
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<int8_t>((y[i] ^ mask) - mask + base);
}

template <class E>
void level_row(const LevelsJob& job, const E* __restrict x, int8_t* __restrict y) {
  const E* __restrict edges = static_cast<const E*>(job.edges);
  const int64_t C = job.channels;
  if (job.inner == 1) {
    for (int64_t o = 0; o < job.outer; ++o, x += C, y += C) {
      for (int64_t c = 0; c < C; ++c) y[c] = 0;
      for (int l = 0; l < job.levels; ++l)
        for (int64_t c = 0; c < C; ++c) y[c] = static_cast<int8_t>(y[c] + (x[c] > edges[l * C + c] ? 1 : 0));
      for (int64_t c = 0; c < C; ++c) y[c] = static_cast<int8_t>((y[c] ^ job.mask[c]) - job.mask[c] + job.base[c]);
    }
    return;
  }
  const int64_t n = job.inner;
  for (int64_t o = 0; o < job.outer; ++o)
    for (int64_t c = 0; c < C; ++c, x += n, y += n) {
      const int8_t base = job.base[c], mask = job.mask[c];
      switch (job.levels) {
        case 1: level_channel<E, 1>(x, edges + c, C, base, mask, n, y); break;
        case 2: level_channel<E, 2>(x, edges + c, C, base, mask, n, y); break;
        case 4: level_channel<E, 4>(x, edges + c, C, base, mask, n, y); break;
        default: level_channel_any<E>(x, edges + c, C, job.levels, base, mask, n, y);
      }
    }
}

void levels(const LevelsJob& job, const void* x, int8_t* y) {
  if (job.element == 1) level_row(job, static_cast<const int8_t*>(x), y);
  else if (job.element == 2) level_row(job, static_cast<const int16_t*>(x), y);
  else if (job.element == 4) level_row(job, static_cast<const int32_t*>(x), y);
  else level_row(job, static_cast<const int64_t*>(x), y);
}

// -- neurons with a membrane ---------------------------------------------------------------------------

// A constant of one channel, or of every element in turn.
struct One {
  int32_t value;
  int32_t operator[](int64_t) const { return value; }
};
struct Each {
  const int32_t* __restrict values;
  int32_t operator[](int64_t i) const { return values[i]; }
};
inline void bind(One& to, const int32_t* from) { to.value = *from; }
inline void bind(Each& to, const int32_t* from) { to.values = from; }

template <class K>
void step_part(const StepJob& job, int64_t at, int64_t n, const int32_t* __restrict x, int32_t* __restrict v,
               int32_t* __restrict spikes) {
  K decay, gain, bias, reset, threshold;
  bind(decay, job.decay + at);
  bind(gain, job.gain + at);
  bind(bias, job.bias + at);
  bind(reset, job.reset_value + at);
  const int shift = job.shift;
  const int32_t half = job.half;
  const int32_t low = (1 << shift) - 1;
  if (job.split)
    for (int64_t i = 0; i < n; ++i)
      v[i] = decay[i] * (v[i] >> shift) + ((decay[i] * (v[i] & low) + half) >> shift) + gain[i] * x[i] + bias[i];
  else
    for (int64_t i = 0; i < n; ++i) v[i] = ((decay[i] * v[i] + half) >> shift) + gain[i] * x[i] + bias[i];
  for (int64_t i = 0; i < n; ++i) spikes[i] = 0;
  for (int l = 0; l < job.levels; ++l) {
    bind(threshold, job.thresholds + l * job.channels + at);
    for (int64_t i = 0; i < n; ++i) spikes[i] += v[i] >= threshold[i];
  }
  if (job.ternary) {
    bind(threshold, job.neg + at);
    for (int64_t i = 0; i < n; ++i) spikes[i] -= v[i] <= threshold[i];
  }
  if (job.reset == 0)
    for (int64_t i = 0; i < n; ++i) v[i] = spikes[i] != 0 ? reset[i] : v[i];
  if (job.reset == 1)
    for (int64_t i = 0; i < n; ++i) v[i] -= spikes[i] * reset[i];
}

void step(const StepJob& job, const int32_t* x, int32_t* v, int32_t* spikes) {
  const int64_t C = job.channels, n = job.inner;
  for (int64_t o = 0; o < job.outer; ++o) {
    if (n == 1) {
      step_part<Each>(job, 0, C, x + o * C, v + o * C, spikes + o * C);
      continue;
    }
    for (int64_t c = 0; c < C; ++c) {
      const int64_t at = (o * C + c) * n;
      step_part<One>(job, c, n, x + at, v + at, spikes + at);
    }
  }
}

// -- element by element --------------------------------------------------------------------------------

template <class F>
void by_element(int element, F&& f) {
  if (element == 1) f(int8_t{});
  else if (element == 2) f(int16_t{});
  else if (element == 4) f(int32_t{});
  else f(int64_t{});
}

void widen(const void* x, int element, int64_t n, int32_t* y) {
  by_element(element, [&](auto zero) {
    const auto* __restrict from = static_cast<const decltype(zero)*>(x);
    int32_t* __restrict to = y;
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<int32_t>(from[i]);
  });
}

void narrow(const int32_t* x, int64_t n, int element, void* y) {
  by_element(element, [&](auto zero) {
    auto* __restrict to = static_cast<decltype(zero)*>(y);
    const int32_t* __restrict from = x;
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<decltype(zero)>(from[i]);
  });
}

void accumulate(const void* x, int element, int64_t n, int32_t factor, int32_t* y) {
  by_element(element, [&](auto zero) {
    const auto* __restrict from = static_cast<const decltype(zero)*>(x);
    int32_t* __restrict to = y;
    for (int64_t i = 0; i < n; ++i) to[i] += factor * static_cast<int32_t>(from[i]);
  });
}

void multiply(const int32_t* a, const int32_t* b, int64_t n, int32_t* y) {
  int32_t* __restrict to = y;
  for (int64_t i = 0; i < n; ++i) to[i] = a[i] * b[i];
}

}  // namespace

#include "rows_wide.inl"

namespace {

// -- sums of shifted rows ------------------------------------------------------------------------------

template <class W, class E, int N>
void shifted_block(const E* x, const Tap* taps, int64_t count, E bias, E* y) {
  constexpr int lanes = 32 / sizeof(E);
  W acc[N];
  for (int j = 0; j < N; ++j) acc[j] = W{} + bias;
  for (int64_t k = 0; k < count; ++k) {
    const E weight = static_cast<E>(taps[k].weight);
    for (int j = 0; j < N; ++j) {
      W in;
      std::memcpy(&in, x + taps[k].offset + j * lanes, 32);
      acc[j] += in * weight;
    }
  }
  for (int j = 0; j < N; ++j) std::memcpy(y + j * lanes, &acc[j], 32);
}

template <class W, class E>
void shifted(const E* x, const Tap* taps, int64_t count, int32_t bias, int64_t n, E* y) {
  constexpr int lanes = 32 / sizeof(E);
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) shifted_block<W, E, 4>(x + i, taps, count, static_cast<E>(bias), y + i);
  for (; i + lanes < n; i += 2 * lanes) shifted_block<W, E, 2>(x + i, taps, count, static_cast<E>(bias), y + i);
  for (; i < n; i += lanes) shifted_block<W, E, 1>(x + i, taps, count, static_cast<E>(bias), y + i);
}

void shifted16(const int16_t* x, const Tap* taps, int64_t count, int32_t bias, int64_t n, int16_t* y) {
  shifted<V16, int16_t>(x, taps, count, bias, n, y);
}
void shifted32(const int32_t* x, const Tap* taps, int64_t count, int32_t bias, int64_t n, int32_t* y) {
  shifted<V32, int32_t>(x, taps, count, bias, n, y);
}

// -- packing -------------------------------------------------------------------------------------------

// Eight channels of 32 pixels at a time: byte j of a vector becomes eight bits of pixel j's word.
void pack(const int8_t* x, int64_t channels, int64_t pixels, int bit, int sign, uint64_t* words) {
  const int64_t count = (channels + 63) / 64, bytes = count * 8;
  uint8_t* out = reinterpret_cast<uint8_t*>(words);
  for (int64_t g = 0; g < bytes; ++g) {
    const int64_t first = g * 8, live = least(8, most(0, channels - first));
    for (int64_t p = 0; p < pixels; p += 32) {
      const int64_t n = least(32, pixels - p);
      V bits{};
      for (int64_t c = 0; c < live; ++c) {
        V row{};
        if (n == 32) row = load(x + (first + c) * pixels + p);
        else std::memcpy(&row, x + (first + c) * pixels + p, static_cast<size_t>(n));
        if (sign > 0) row = row & ~(row >> 7);  // +1 has bit 0 and no sign
        if (sign < 0) row = row >> 7;
        bits |= ((row >> bit) & 0x0101010101010101ull) << c;
      }
      uint8_t some[32];
      std::memcpy(some, &bits, 32);
      for (int64_t j = 0; j < n; ++j) out[(p + j) * bytes + g] = some[j];
    }
  }
}

// Bit i of a byte to byte i.
inline uint64_t spread_bits(uint64_t byte) {
  const uint64_t one_a_byte = (byte * 0x0101010101010101ull) & 0x8040201008040201ull;
  return ((one_a_byte + 0x00406070787c7e7full) >> 7 & 0x0101010101010101ull);
}

void unpack(const uint64_t* words, int64_t count, int planes, bool ternary, int64_t pixels, int64_t stride, int8_t* y) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(words);
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t g = 0; g * 8 < stride; ++g) {
      uint64_t sum = 0;
      for (int q = 0; q < planes; ++q) {
        const uint64_t bits = spread_bits(bytes[(q * pixels + p) * count * 8 + g]);
        sum += ternary && q == 1 ? bits * 255 : bits << q;  // +1 and -1 never meet in a byte
      }
      std::memcpy(y + p * stride + g * 8, &sum, 8);
    }
}

// Eight by eight bytes at a time: blocks of 4, 2 and 1 change places.
void transpose(const int8_t* x, int64_t rows, int64_t columns, int64_t x_stride, int64_t y_stride, int8_t* y) {
  for (int64_t r = 0; r < rows; r += 8)
    for (int64_t c = 0; c < columns; c += 8) {
      if (r + 8 > rows || c + 8 > columns) {
        for (int64_t i = r; i < least(rows, r + 8); ++i)
          for (int64_t j = c; j < least(columns, c + 8); ++j) y[j * y_stride + i] = x[i * x_stride + j];
        continue;
      }
      uint64_t a[8];
      for (int i = 0; i < 8; ++i) std::memcpy(a + i, x + (r + i) * x_stride + c, 8);
      const uint64_t masks[3] = {0x00000000ffffffffull, 0x0000ffff0000ffffull, 0x00ff00ff00ff00ffull};
      for (int level = 0, by = 4; by >= 1; by /= 2, ++level)
        for (int i = 0; i < 8; ++i)
          if (!(i & by)) {
            const uint64_t swap = ((a[i] >> (8 * by)) ^ a[i + by]) & masks[level];
            a[i] ^= swap << (8 * by);
            a[i + by] ^= swap;
          }
      for (int i = 0; i < 8; ++i) std::memcpy(y + (c + i) * y_stride + r, a + i, 8);
    }
}

}  // namespace

namespace picojoule {
const RowsTable PJ_ROWS = {levels,   step,      affine,    extreme, widen, narrow, accumulate,
                           multiply, shifted16, shifted32, pack,  unpack, transpose};
}
