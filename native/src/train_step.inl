// One step of a block of neurons: charge, fire, reset.
#pragma once

#include "train_rows.inl"

namespace picojoule::train {
namespace {

// A constant over a piece: a row where it differs between neurons.
struct Spread {
  alignas(64) float row[kPiece];
  const float* each = nullptr;
  float value = 0;

  void make(const Constant& c, int64_t begin, int64_t n) {
    value = c.value;
    if (!c.each) return;
    if (c.count == 1) {
      value = c.each[0];
      return;
    }
    by_stretch(begin, n, c.inner, c.count, [&](int64_t i, int64_t length, int64_t at) {
      if (c.inner == 1) {
        copy_row(c.each + at, row + i, length);
      } else {
        fill_row(row + i, c.each[at], length);
      }
    });
    each = row;
  }
  // The constant as a row, whatever it is.
  const float* as_row(int64_t n) {
    if (!each) {
      fill_row(row, value, n);
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

// h of neurons [j, j + n) of the piece whose constants are `c`.
void charge(const Leaky& p, const Constants& c, int64_t j, const float* __restrict x, const float* __restrict v,
            float* __restrict h, int64_t n) {
  const float gain = c.gain.value, bias = c.bias.value;
  if (!c.rows) {  // with memory the step itself charges
    for (int64_t i = 0; i < n; ++i) h[i] = x[i] * gain + bias;
    return;
  }
  const float *__restrict gs = c.gain.each + j, *__restrict bs = c.bias.each + j;
  if (p.memory) {
    const float* __restrict ds = c.decay.each + j;
    for (int64_t i = 0; i < n; ++i) h[i] = v[i] * ds[i] + (x[i] * gs[i] + bs[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) h[i] = x[i] * gs[i] + bs[i];
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

// What a step reads and leaves. given: h is charged already. spikes, membranes, both: x and v are charged here with
// constants that are numbers, and spikes, h, or both are written.
enum class Does { given, spikes, membranes, both };

// One step of n neurons: spikes (times out_scale), h, and the membrane `after` the reset, which may be `v` itself.
template <Fires fires, Reset reset, bool strict, Does does>
void step(const Leaky& p, const Constants& c, const float* __restrict x, const float* v, float* __restrict h,
          float* __restrict spikes, float* after, int64_t n) {
  const Leaky rule = p;
  const float decay = c.decay.value, gain = c.gain.value, bias = c.bias.value;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    float m;
    if constexpr (does == Does::given) {
      m = h[i];
    } else {
      m = v[i] * decay + (x[i] * gain + bias);
    }
    if constexpr (does == Does::membranes || does == Does::both) h[i] = m;
    const float s = fire<fires, strict>(rule, m);
    if constexpr (does != Does::membranes) spikes[i] = s * rule.out_scale;
    if constexpr (reset == Reset::soft) {
      after[i] = m - s * rule.reset_value;
    } else if constexpr (reset == Reset::hard) {
      const float f = fires == Fires::binary ? s : s != 0.0f ? 1.0f : 0.0f;
      after[i] = (1.0f - f) * m + f * rule.reset_value;
    } else {
      after[i] = m;
    }
  }
}

using Step = void (*)(const Leaky&, const Constants&, const float*, const float*, float*, float*, float*, int64_t);

template <Fires fires, bool strict, Does does>
Step by_reset(Reset reset) {
  switch (reset) {
    case Reset::hard: return step<fires, Reset::hard, strict, does>;
    case Reset::soft: return step<fires, Reset::soft, strict, does>;
    default: return step<fires, Reset::none, strict, does>;
  }
}

template <Does does>
Step by_rule(const Leaky& p) {
  const bool strict = p.fires == Fires::integer ? p.half_up : p.strict;
  switch (p.fires) {
    case Fires::binary:
      return strict ? by_reset<Fires::binary, true, does>(p.reset) : by_reset<Fires::binary, false, does>(p.reset);
    case Fires::ternary:
      return strict ? by_reset<Fires::ternary, true, does>(p.reset) : by_reset<Fires::ternary, false, does>(p.reset);
    default:
      return strict ? by_reset<Fires::integer, true, does>(p.reset) : by_reset<Fires::integer, false, does>(p.reset);
  }
}

// The step of a rule, however its constants are given.
struct Stepper {
  bool at_once;
  Step run;

  template <Does does>
  static Stepper make(const Leaky& p, const Constants& c) {
    const bool at_once = !c.rows && p.memory;
    return {at_once, at_once ? by_rule<does>(p) : by_rule<Does::given>(p)};
  }

  void operator()(const Leaky& p, const Constants& c, int64_t j, const float* x, const float* v, float* h, float* spikes,
                  float* after, int64_t n) const {
    if (!at_once) charge(p, c, j, x, v, h, n);
    run(p, c, x, v, h, spikes, after, n);
  }
};

}  // namespace
}  // namespace picojoule::train
