// Leaky neurons over pieces of a step: rows of a piece live in the first cache level, time is the outer loop, and
// main memory is read and written once. Includers define PJ_LEAKY, the table of their instruction set.

#include "train_leaky.h"

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

// Spike numbers n of membranes h, and the membranes v after the reset.
template <Fires fires, Reset reset, bool strict>
void fire_and_reset(const Leaky& p, const float* __restrict h, float* __restrict n, float* __restrict v, int64_t count) {
  const Leaky rule = p;
  for (int64_t i = 0; i < count; ++i) {
    const float m = h[i], s = fire<fires, strict>(rule, m);
    n[i] = s;
    if constexpr (reset == Reset::soft) {
      v[i] = m - s * rule.reset_value;
    } else if constexpr (reset == Reset::hard) {
      const float f = s != 0.0f ? 1.0f : 0.0f;
      v[i] = (1.0f - f) * m + f * rule.reset_value;
    } else {
      v[i] = m;
    }
  }
}

using FireRow = void (*)(const Leaky&, const float*, float*, float*, int64_t);

template <Fires fires, bool strict>
FireRow by_reset(Reset reset) {
  switch (reset) {
    case Reset::hard: return fire_and_reset<fires, Reset::hard, strict>;
    case Reset::soft: return fire_and_reset<fires, Reset::soft, strict>;
    default: return fire_and_reset<fires, Reset::none, strict>;
  }
}

FireRow fire_row(const Leaky& p) {
  switch (p.fires) {
    case Fires::binary: return p.strict ? by_reset<Fires::binary, true>(p.reset) : by_reset<Fires::binary, false>(p.reset);
    case Fires::ternary: return p.strict ? by_reset<Fires::ternary, true>(p.reset) : by_reset<Fires::ternary, false>(p.reset);
    default: return p.half_up ? by_reset<Fires::integer, true>(p.reset) : by_reset<Fires::integer, false>(p.reset);
  }
}

// -- slopes and saved forms --------------------------------------------------------------------------------

// What the backward pass knows about a row: g = dn/dh, f = [n != 0], turn = d[n != 0]/dh, h.
struct Known {
  Row g, f, turn, h, z;
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
void slopes(const Leaky& p, const float* h, const float* up, const float* down, Known& k, int64_t n) {
  if (p.fires == Fires::integer) return window_row(p, h, k.g, n);
  const float th = p.v_th, offset = p.offset;
  if (up) {
    copy_row(up, k.g, n);
  } else {
    for (int64_t i = 0; i < n; ++i) k.z[i] = (h[i] - th) + offset;
    slope_row(p, k.z, k.g, n);
  }
  if (p.fires == Fires::binary) return copy_row(k.g, k.turn, n);
  if (down) {
    copy_row(down, k.turn, n);
  } else {
    for (int64_t i = 0; i < n; ++i) k.z[i] = (-h[i] - th) + offset;
    slope_row(p, k.z, k.turn, n);
  }
  for (int64_t i = 0; i < n; ++i) {
    const float above = k.g[i], below = k.turn[i];
    k.g[i] = above + below;
    k.turn[i] = above - below;
  }
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
  float *__restrict h = k.h.at, *__restrict f = k.f.at;
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

void forward(const Leaky& p, const Forward& call, int64_t T, int64_t N, int64_t begin, int64_t n) {
  const Constants constants(p, begin, n);
  const FireRow fire_step = fire_row(p);
  const Saved form = kept_form(p, call.form);
  Row v, h, s;
  Known known;
  if (call.v0) {
    copy_row(call.v0 + begin, v, n);
  } else {
    for (int64_t i = 0; i < n; ++i) v[i] = p.v_init;
  }
  for (int64_t t = 0; t < T; ++t) {
    const int64_t at = t * N + begin;
    charge(p, constants, call.x + at, v, h, n);
    fire_step(p, h, s, v, n);
    if (call.spikes) {
      float* __restrict out = call.spikes + at;
      const float* __restrict in = s;
      const float scale = p.out_scale;
      for (int64_t i = 0; i < n; ++i) out[i] = in[i] * scale;
    }
    if (!call.saved) continue;
    if (form == Saved::membrane) {
      copy_row(h, static_cast<float*>(call.saved) + at, n);
    } else if (form == Saved::half) {
      save_half(p, h, s, static_cast<uint16_t*>(call.saved) + at, n);
    } else {
      slopes(p, h, nullptr, nullptr, known, n);
      save_byte(p, s, known.g, static_cast<uint8_t*>(call.saved) + at, n);
    }
  }
  if (call.v) copy_row(v, call.v + begin, n);
}

// -- backward --------------------------------------------------------------------------------------------

// dv/dh of the reset, written over `turn`.
void keep_row(const Leaky& p, Known& k, int64_t n) {
  float* __restrict keep = k.turn.at;
  const float *__restrict g = k.g.at, *__restrict f = k.f.at, *__restrict h = k.h.at;
  const float value = p.reset_value;
  if (p.reset == Reset::none || (p.reset == Reset::soft && p.detach)) {
    for (int64_t i = 0; i < n; ++i) keep[i] = 1.0f;
  } else if (p.reset == Reset::soft) {
    for (int64_t i = 0; i < n; ++i) keep[i] = 1.0f - value * g[i];
  } else if (p.detach || p.fires == Fires::integer) {
    for (int64_t i = 0; i < n; ++i) keep[i] = 1.0f - f[i];
  } else {
    for (int64_t i = 0; i < n; ++i) keep[i] = (1.0f - f[i]) + (value - h[i]) * keep[i];
  }
}

struct Gradients {
  Row dv, decay, gain, bias;
};

// One step back: dh = gs * g * scale + gh + dv * keep, written over `g`; then dv = dh * decay, dx = dh * gain.
void step_back(const Leaky& p, const Constants& c, const Backward& call, int64_t at, Known& k, Gradients& d, int64_t n) {
  float *__restrict dh = k.g.at, *__restrict dv = d.dv.at;
  const float* __restrict keep = k.turn.at;
  const float scale = p.out_scale;
  if (call.spikes) {
    const float* __restrict gs = call.spikes + at;
    for (int64_t i = 0; i < n; ++i) dh[i] = gs[i] * dh[i] * scale + dv[i] * keep[i];
  } else {
    for (int64_t i = 0; i < n; ++i) dh[i] = dv[i] * keep[i];
  }
  if (call.h) {
    const float* __restrict gh = call.h + at;
    for (int64_t i = 0; i < n; ++i) dh[i] += gh[i];
  }
  if (!p.memory) {
    for (int64_t i = 0; i < n; ++i) dv[i] = 0.0f;
  } else if (c.rows) {
    const float* __restrict decay = c.decay.each;
    for (int64_t i = 0; i < n; ++i) dv[i] = dh[i] * decay[i];
  } else {
    const float decay = c.decay.value;
    for (int64_t i = 0; i < n; ++i) dv[i] = dh[i] * decay;
  }
  if (!call.dx) return;
  float* __restrict dx = call.dx + at;
  if (c.rows) {
    const float* __restrict gain = c.gain.each;
    for (int64_t i = 0; i < n; ++i) dx[i] = dh[i] * gain[i];
  } else {
    const float gain = c.gain.value;
    for (int64_t i = 0; i < n; ++i) dx[i] = dh[i] * gain;
  }
}

void add_products(const float* __restrict a, const float* __restrict b, float* __restrict sum, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += a[i] * b[i];
}

// Membranes h and v[t-1] of all steps again, [T][n] each.
void recompute(const Leaky& p, const Constants& c, const Backward& call, int64_t T, int64_t N, int64_t begin, int64_t n,
               float* hs, float* before) {
  const FireRow fire_step = fire_row(p);
  Row s, last;
  if (call.v0) {
    copy_row(call.v0 + begin, before, n);
  } else {
    for (int64_t i = 0; i < n; ++i) before[i] = p.v_init;
  }
  for (int64_t t = 0; t < T; ++t) {
    charge(p, c, call.x + t * N + begin, before + t * n, hs + t * n, n);
    fire_step(p, hs + t * n, s, t + 1 < T ? before + (t + 1) * n : last.at, n);
  }
}

void fired_row(const Leaky& p, FireRow fire_step, const float* h, Known& k, int64_t n) {
  fire_step(p, h, k.f, k.z, n);
  float* __restrict f = k.f.at;
  for (int64_t i = 0; i < n; ++i) f[i] = f[i] != 0.0f ? 1.0f : 0.0f;
}

void backward(const Leaky& p, const Backward& call, int64_t T, int64_t N, int64_t begin, int64_t n, float* scratch) {
  const Constants constants(p, begin, n);
  const FireRow fire_step = fire_row(p);
  const Saved form = kept_form(p, call.form);
  float *hs = scratch, *before = scratch + T * n;
  Known k;
  Gradients d;
  if (form == Saved::recompute) recompute(p, constants, call, T, N, begin, n, hs, before);
  for (int64_t i = 0; i < n; ++i) {
    d.dv[i] = call.v ? call.v[begin + i] : 0.0f;
    d.decay[i] = d.gain[i] = d.bias[i] = 0.0f;
  }
  const bool turns = p.reset == Reset::hard;
  for (int64_t t = T - 1; t >= 0; --t) {
    const int64_t at = t * N + begin;
    if (form == Saved::byte) {
      load_byte(p, static_cast<const uint8_t*>(call.saved) + at, k, n);
    } else {
      if (form == Saved::half) {
        load_half(p, static_cast<const uint16_t*>(call.saved) + at, k, n);
      } else {
        copy_row(form == Saved::membrane ? static_cast<const float*>(call.saved) + at : hs + t * n, k.h, n);
        if (turns) fired_row(p, fire_step, k.h, k, n);
      }
      slopes(p, k.h, call.up ? call.up + at : nullptr, call.down ? call.down + at : nullptr, k, n);
    }
    keep_row(p, k, n);
    step_back(p, constants, call, at, k, d, n);
    if (call.decay) add_products(k.g, before + t * n, d.decay, n);
    if (call.gain) add_products(k.g, call.x + at, d.gain, n);
    if (call.bias)
      for (int64_t i = 0; i < n; ++i) d.bias[i] += k.g[i];
  }
  if (call.dv0) copy_row(d.dv, call.dv0 + begin, n);
  if (call.decay) copy_row(d.decay, call.decay + begin, n);
  if (call.gain) copy_row(d.gain, call.gain + begin, n);
  if (call.bias) copy_row(d.bias, call.bias + begin, n);
}

}  // namespace

const LeakyTable PJ_LEAKY = {forward, backward};

}  // namespace picojoule::train
