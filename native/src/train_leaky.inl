// Leaky neurons over pieces of a step: rows of a piece live in the first cache level, time is the outer loop, and
// main memory is read and written once. Includers define PJ_LEAKY, the table of their instruction set.

#include "train_leaky.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "train_slope.inl"

namespace picojoule::train {
namespace {

struct Row {
  alignas(64) float at[kPiece];
  operator float*() { return at; }
};

// A constant over a piece: a row where it differs between neurons.
struct Spread {
  Row row;
  const float* each = nullptr;
  float value = 0;

  void make(const Constant& c, int64_t begin, int64_t n) {
    value = c.value;
    if (!c.each) return;
    if (c.count == 1) {
      value = c.each[0];
      return;
    }
    for (int64_t i = 0; i < n; ++i) row[i] = c.each[(begin + i) / c.inner % c.count];
    each = row;
  }
  // The constant as a row, whatever it is.
  const float* as_row(int64_t n) {
    if (!each) {
      for (int64_t i = 0; i < n; ++i) row[i] = value;
      each = row;
    }
    return each;
  }
};

struct Constants {
  Spread decay, gain, bias;
  bool rows = false;

  Constants(const Leaky& p, int64_t begin, int64_t n) {
    decay.make(p.decay, begin, n);
    gain.make(p.gain, begin, n);
    bias.make(p.bias, begin, n);
    rows = decay.each || gain.each || bias.each;
    if (rows) decay.as_row(n), gain.as_row(n), bias.as_row(n);
  }
};

// -- forward ---------------------------------------------------------------------------------------------

void charge(const Leaky& p, const Constants& c, const float* __restrict x, const float* __restrict v, float* __restrict h,
            int64_t n) {
  const float decay = c.decay.value, gain = c.gain.value, bias = c.bias.value;
  if (!c.rows && !p.memory) {
    for (int64_t i = 0; i < n; ++i) h[i] = x[i] * gain + bias;
  } else if (!c.rows) {
    for (int64_t i = 0; i < n; ++i) h[i] = v[i] * decay + (x[i] * gain + bias);
  } else {
    const float *__restrict ds = c.decay.each, *__restrict gs = c.gain.each, *__restrict bs = c.bias.each;
    if (p.memory) {
      for (int64_t i = 0; i < n; ++i) h[i] = v[i] * ds[i] + (x[i] * gs[i] + bs[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) h[i] = x[i] * gs[i] + bs[i];
    }
  }
}

template <bool strict>
inline bool reaches(float h, float th) {
  return strict ? h > th : h >= th;
}

template <Fires fires, bool strict>
inline float fire(const Leaky& p, float h) {
  if constexpr (fires == Fires::binary) {
    return reaches<strict>(h, p.v_th) ? 1.0f : 0.0f;
  } else if constexpr (fires == Fires::ternary) {
    return (reaches<strict>(h, p.v_th) ? 1.0f : 0.0f) - (reaches<strict>(-h, p.v_th) ? 1.0f : 0.0f);
  } else {
    float c = h < 0.0f ? 0.0f : h;
    c = c > p.levels ? p.levels : c;
    const float even = round_even(c);
    if constexpr (!strict) return even;
    // strict marks half up here: round(c + 1/2) would fire just below a half
    const float whole = even > c ? even - 1.0f : even;
    return whole + (c - whole >= 0.5f ? 1.0f : 0.0f);
  }
}

// One step of n neurons: spikes (times out_scale) and the membrane `after` the reset, which may be `v` itself.
// Constants that are numbers charge here, x and v to h; otherwise (`charged`) h holds the charged membrane.
template <Fires fires, Reset reset, bool strict, bool charged>
void step(const Leaky& p, const Constants& c, const float* __restrict x, const float* v, float* __restrict h,
          float* __restrict spikes, float* after, int64_t n) {
  const Leaky rule = p;
  const float decay = c.decay.value, gain = c.gain.value, bias = c.bias.value;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    float m;
    if constexpr (charged) {
      m = h[i];
    } else {
      m = v[i] * decay + (x[i] * gain + bias);
      h[i] = m;
    }
    const float s = fire<fires, strict>(rule, m);
    spikes[i] = s * rule.out_scale;
    if constexpr (reset == Reset::soft) {
      after[i] = m - s * rule.reset_value;
    } else if constexpr (reset == Reset::hard) {
      const float f = s != 0.0f ? 1.0f : 0.0f;
      after[i] = (1.0f - f) * m + f * rule.reset_value;
    } else {
      after[i] = m;
    }
  }
}

using Step = void (*)(const Leaky&, const Constants&, const float*, const float*, float*, float*, float*, int64_t);

template <Fires fires, bool strict, bool charged>
Step by_reset(Reset reset) {
  switch (reset) {
    case Reset::hard: return step<fires, Reset::hard, strict, charged>;
    case Reset::soft: return step<fires, Reset::soft, strict, charged>;
    default: return step<fires, Reset::none, strict, charged>;
  }
}

template <bool charged>
Step by_rule(const Leaky& p) {
  const bool strict = p.fires == Fires::integer ? p.half_up : p.strict;
  switch (p.fires) {
    case Fires::binary:
      return strict ? by_reset<Fires::binary, true, charged>(p.reset) : by_reset<Fires::binary, false, charged>(p.reset);
    case Fires::ternary:
      return strict ? by_reset<Fires::ternary, true, charged>(p.reset) : by_reset<Fires::ternary, false, charged>(p.reset);
    default:
      return strict ? by_reset<Fires::integer, true, charged>(p.reset) : by_reset<Fires::integer, false, charged>(p.reset);
  }
}

// The step of a rule, however its constants are given.
struct Stepper {
  bool at_once;
  Step run;

  Stepper(const Leaky& p, const Constants& c)
      : at_once(!c.rows && p.memory), run(at_once ? by_rule<false>(p) : by_rule<true>(p)) {}

  void operator()(const Leaky& p, const Constants& c, const float* x, const float* v, float* h, float* spikes, float* after,
                  int64_t n) const {
    if (!at_once) charge(p, c, x, v, h, n);
    run(p, c, x, v, h, spikes, after, n);
  }
};

// -- slopes and saved forms --------------------------------------------------------------------------------

// What the backward pass knows about a row: g = dn/dh, f = [n != 0], turn = d[n != 0]/dh (ternary; binary: g), h.
struct Known {
  Row g, f, below, kept;
  const float *h = nullptr, *turn = nullptr;
};

void window_row(const Leaky& p, const float* __restrict h, float* __restrict g, int64_t n) {
  const float levels = p.levels;
  if (p.open_window) {
    for (int64_t i = 0; i < n; ++i) g[i] = h[i] > 0.0f && h[i] < levels ? 1.0f : 0.0f;
  } else {
    for (int64_t i = 0; i < n; ++i) g[i] = h[i] >= 0.0f && h[i] <= levels ? 1.0f : 0.0f;
  }
}

void copy_row(const float* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

// g and turn from h; `up` and `down` are rows of given slopes.
void slopes(const Leaky& p, const float* up, const float* down, Known& k, int64_t n) {
  k.turn = k.g;
  if (p.fires == Fires::integer) return window_row(p, k.h, k.g, n);
  if (up) {
    copy_row(up, k.g, n);
  } else {
    slope_row(p, k.h, 1.0f, k.g, n);
  }
  if (p.fires == Fires::binary) return;
  if (down) {
    copy_row(down, k.below, n);
  } else {
    slope_row(p, k.h, -1.0f, k.below, n);
  }
  float *__restrict g = k.g.at, *__restrict turn = k.below.at;
  for (int64_t i = 0; i < n; ++i) {
    const float above = g[i], below = turn[i];
    g[i] = above + below;
    turn[i] = above - below;
  }
  k.turn = k.below;
}

// fp16 by its bits, half to even; magnitudes beyond 65504 become 65504.
inline uint16_t to_half(float magnitude_of) {
  constexpr float limit = 65504.0f;
  const float x = (magnitude_of > limit ? limit : magnitude_of) * 1.92592994e-34f;  // 2^-112
  const uint32_t bits = bits_of(x);
  return static_cast<uint16_t>((bits + 0x0fffu + ((bits >> 13) & 1u)) >> 13);
}

inline float from_half(uint32_t magnitude_bits) { return of_bits(magnitude_bits << 13) * 5.19229686e33f; }  // 2^112

void save_half(const Leaky& p, const float* __restrict h, const float* __restrict spikes, uint16_t* __restrict out,
               int64_t n) {
  if (p.fires == Fires::binary) {
    const float th = p.v_th;
    for (int64_t i = 0; i < n; ++i)
      out[i] = static_cast<uint16_t>(to_half(magnitude(h[i] - th)) | (spikes[i] != 0.0f ? 0u : 0x8000u));
  } else {
    for (int64_t i = 0; i < n; ++i)
      out[i] = static_cast<uint16_t>((to_half(magnitude(h[i])) & 0xfffeu) | (bits_of(h[i]) >> 31 << 15) |
                                     (spikes[i] != 0.0f ? 1u : 0u));
  }
}

void load_half(const Leaky& p, const uint16_t* __restrict in, Known& k, int64_t n) {
  float *__restrict h = k.kept.at, *__restrict f = k.f.at;
  k.h = k.kept;
  if (p.fires == Fires::binary) {
    const float th = p.v_th;
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = in[i];
      const float z = from_half(bits & 0x7fffu);
      f[i] = bits & 0x8000u ? 0.0f : 1.0f;
      h[i] = th + (bits & 0x8000u ? -z : z);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = in[i];
      const float m = from_half(bits & 0x7ffeu);
      f[i] = bits & 1u ? 1.0f : 0.0f;
      h[i] = bits & 0x8000u ? -m : m;
    }
  }
}

void save_byte(const Leaky& p, const float* __restrict spikes, const float* __restrict g, uint8_t* __restrict out,
               int64_t n) {
  const float scale = p.fires == Fires::integer ? 1.0f : 127.0f / p.peak;
  for (int64_t i = 0; i < n; ++i) {
    float q = g[i] * scale;
    q = q > 0.0f ? q : 0.0f;  // NaN too: an integer has no code for it
    q = q > 127.0f ? 127.0f : q;
    const uint32_t code = static_cast<uint32_t>(static_cast<int32_t>(q + 0.5f));
    out[i] = static_cast<uint8_t>(code << 1 | (spikes[i] != 0.0f ? 1u : 0u));
  }
}

void load_byte(const Leaky& p, const uint8_t* __restrict in, Known& k, int64_t n) {
  const float scale = p.fires == Fires::integer ? 1.0f : p.peak / 127.0f;
  float *__restrict g = k.g.at, *__restrict f = k.f.at;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t code = in[i];
    g[i] = static_cast<float>(static_cast<int32_t>(code >> 1)) * scale;
    f[i] = code & 1u ? 1.0f : 0.0f;
  }
}

// The form in which `form` is really kept: integer neurons need two bits only.
Saved kept_form(const Leaky& p, Saved form) {
  return form == Saved::half && p.fires == Fires::integer ? Saved::byte : form;
}

// Rows of the next step or piece on their way to the first cache level: a piece is a page or two, where the
// processor's own prefetching stops.
void fetch(const float* row, int64_t n) {
  if (!row) return;
  for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(row + i);
}

// A row to memory that will not be read soon: past the caches where the instruction set can.
void put(const float* __restrict from, float* __restrict to, int64_t n, bool far) {
  int64_t i = 0;
#if defined(__AVX2__)
  if (far) {
    for (; i < n && reinterpret_cast<uintptr_t>(to + i) % 32; ++i) to[i] = from[i];
    for (; i + 8 <= n; i += 8) _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
  }
#else
  (void)far;
#endif
  for (; i < n; ++i) to[i] = from[i];
}

// Orders stores that passed the caches before whatever tells another thread that they are done.
void settle(bool far) {
#if defined(__AVX2__)
  if (far) _mm_sfence();
#else
  (void)far;
#endif
}

void first_membrane(const Leaky& p, const float* v0, int64_t begin, float* v, int64_t n) {
  if (v0) return copy_row(v0 + begin, v, n);
  for (int64_t i = 0; i < n; ++i) v[i] = p.v_init;
}

void forward(const Leaky& p, const Forward& call, int64_t T, int64_t N, int64_t begin, int64_t n, bool far) {
  const Constants constants(p, begin, n);
  const Stepper stepper(p, constants);
  const Saved form = kept_form(p, call.form);
  Row v, h, s;
  Known known;
  first_membrane(p, call.v0, begin, v, n);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t at = t * N + begin;
    fetch(t + 1 < T ? call.x + at + N : nullptr, n);
    const bool direct = call.spikes && !far;
    float* spikes = direct ? call.spikes + at : s.at;
    stepper(p, constants, call.x + at, v, h, spikes, v, n);
    if (call.spikes && far) put(s, call.spikes + at, n, true);
    if (!call.saved) continue;
    if (form == Saved::membrane) {
      put(h, static_cast<float*>(call.saved) + at, n, far);
    } else if (form == Saved::half) {
      save_half(p, h, spikes, static_cast<uint16_t*>(call.saved) + at, n);
    } else {
      known.h = h;
      slopes(p, nullptr, nullptr, known, n);
      save_byte(p, spikes, known.g, static_cast<uint8_t*>(call.saved) + at, n);
    }
  }
  if (call.v) copy_row(v, call.v + begin, n);
  settle(far);
}

// -- backward --------------------------------------------------------------------------------------------

// dv/dh of the reset: 1, 1 - value g, 1 - f, or 1 - f + (value - h) turn.
enum class Keep { one, soft, hard, turning };

Keep keep_of(const Leaky& p) {
  if (p.reset == Reset::none || (p.reset == Reset::soft && p.detach)) return Keep::one;
  if (p.reset == Reset::soft) return Keep::soft;
  return p.detach || p.fires == Fires::integer ? Keep::hard : Keep::turning;
}

struct Gradients {
  Row dv, decay, gain, bias, zero, dx;
};

// One step back, gs the gradient of the spikes: dh = gs * g * scale + gh + dv * keep, written over g; dv = dh * decay.
template <Keep keep>
void step_back(const Leaky& p, const float* __restrict gs, const float* __restrict gh, Known& k, float* __restrict dv,
               int64_t n) {
  float* __restrict g = k.g.at;
  const float *__restrict f = k.f.at, *__restrict h = k.h, *turn = k.turn;  // turn may be g
  const float scale = p.out_scale, value = p.reset_value;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    float kept = 1.0f;
    if constexpr (keep == Keep::soft) kept = 1.0f - value * g[i];
    if constexpr (keep == Keep::hard) kept = 1.0f - f[i];
    if constexpr (keep == Keep::turning) kept = (1.0f - f[i]) + (value - h[i]) * turn[i];
    const float dh = gs[i] * g[i] * scale + gh[i] + dv[i] * kept;
    g[i] = dh;
  }
}

void times(const float* __restrict a, const Spread& c, bool rows, float* __restrict out, int64_t n) {
  if (rows) {
    const float* __restrict each = c.each;
    for (int64_t i = 0; i < n; ++i) out[i] = a[i] * each[i];
  } else {
    const float value = c.value;
    for (int64_t i = 0; i < n; ++i) out[i] = a[i] * value;
  }
}

void add_products(const float* __restrict a, const float* __restrict b, float* __restrict sum, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += a[i] * b[i];
}

// Membranes h of all steps again and, where `before` is given, v[t-1]: [T][n] each.
void recompute(const Leaky& p, const Constants& c, const Backward& call, int64_t T, int64_t N, int64_t begin, int64_t n,
               float* hs, float* before) {
  const Stepper stepper(p, c);
  Row s, v;
  first_membrane(p, call.v0, begin, v, n);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t at = t * N + begin;
    fetch(t + 1 < T ? call.x + at + N : (call.spikes ? call.spikes + at : nullptr), n);
    if (before) copy_row(v, before + t * n, n);
    stepper(p, c, call.x + at, v, hs + t * n, s, v, n);
  }
}

// f = [n != 0] from h.
void fired_row(const Leaky& p, const Constants& c, Step again, Known& k, int64_t n) {
  Row unused;
  again(p, c, nullptr, nullptr, const_cast<float*>(k.h), k.f, unused, n);  // `charged`: h is only read
  float* __restrict f = k.f.at;
  for (int64_t i = 0; i < n; ++i) f[i] = f[i] != 0.0f ? 1.0f : 0.0f;
}

void fired_binary(const Leaky& p, const float* __restrict h, float* __restrict f, int64_t n) {
  const float th = p.v_th;
  if (p.strict) {
    for (int64_t i = 0; i < n; ++i) f[i] = h[i] > th ? 1.0f : 0.0f;
  } else {
    for (int64_t i = 0; i < n; ++i) f[i] = h[i] >= th ? 1.0f : 0.0f;
  }
}

using StepBack = void (*)(const Leaky&, const float*, const float*, Known&, float*, int64_t);

StepBack step_back_of(Keep keep) {
  switch (keep) {
    case Keep::one: return step_back<Keep::one>;
    case Keep::soft: return step_back<Keep::soft>;
    case Keep::hard: return step_back<Keep::hard>;
    default: return step_back<Keep::turning>;
  }
}

void backward(const Leaky& p, const Backward& call, int64_t T, int64_t N, int64_t begin, int64_t n, bool far,
              float* scratch) {
  const Constants constants(p, begin, n);
  const Keep keep = keep_of(p);
  const StepBack back = step_back_of(keep);
  const Step again = by_rule<true>(p);
  const Saved form = kept_form(p, call.form);
  float *hs = scratch, *before = call.decay ? scratch + T * n : nullptr;
  Known k;
  Gradients d;
  if (form == Saved::recompute) recompute(p, constants, call, T, N, begin, n, hs, before);
  for (int64_t i = 0; i < n; ++i) {
    d.dv[i] = call.v ? call.v[begin + i] : 0.0f;
    d.decay[i] = d.gain[i] = d.bias[i] = d.zero[i] = 0.0f;
  }
  for (int64_t t = T - 1; t >= 0; --t) {
    const int64_t at = t * N + begin;
    fetch(t && call.spikes ? call.spikes + at - N : nullptr, n);
    if (form == Saved::byte) {
      load_byte(p, static_cast<const uint8_t*>(call.saved) + at, k, n);
    } else {
      if (form == Saved::half) {
        load_half(p, static_cast<const uint16_t*>(call.saved) + at, k, n);
      } else {
        k.h = form == Saved::membrane ? static_cast<const float*>(call.saved) + at : hs + t * n;
        if (p.reset == Reset::hard && p.fires == Fires::binary) {
          fired_binary(p, k.h, k.f, n);
        } else if (p.reset == Reset::hard) {
          fired_row(p, constants, again, k, n);
        }
      }
      slopes(p, call.up ? call.up + at : nullptr, call.down ? call.down + at : nullptr, k, n);
    }
    back(p, call.spikes ? call.spikes + at : d.zero.at, call.h ? call.h + at : d.zero.at, k, d.dv, n);
    if (p.memory) {
      times(k.g, constants.decay, constants.rows, d.dv, n);
    } else {
      for (int64_t i = 0; i < n; ++i) d.dv[i] = 0.0f;
    }
    if (call.dx) {
      times(k.g, constants.gain, constants.rows, far ? d.dx.at : call.dx + at, n);
      if (far) put(d.dx, call.dx + at, n, true);
    }
    if (call.decay) add_products(k.g, before + t * n, d.decay, n);
    if (call.gain) add_products(k.g, call.x + at, d.gain, n);
    if (call.bias)
      for (int64_t i = 0; i < n; ++i) d.bias[i] += k.g[i];
  }
  if (call.dv0) copy_row(d.dv, call.dv0 + begin, n);
  if (call.decay) copy_row(d.decay, call.decay + begin, n);
  if (call.gain) copy_row(d.gain, call.gain + begin, n);
  if (call.bias) copy_row(d.bias, call.bias + begin, n);
  settle(far);
}

}  // namespace

const LeakyTable PJ_LEAKY = {forward, backward};

}  // namespace picojoule::train
