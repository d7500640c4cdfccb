// One step back of a block of neurons.
#pragma once

#include "train_saved.inl"
#include "train_step.inl"

namespace picojoule::train {
namespace {

// dv/dh of the reset: 1, 1 - value g, 1 - f, or 1 - f + (value - h) turn.
enum class Keep { one, soft, hard, turning };

Keep keep_of(const Leaky& p) {
  if (p.reset == Reset::none || (p.reset == Reset::soft && p.detach)) return Keep::one;
  if (p.reset == Reset::soft) return Keep::soft;
  return p.detach || p.fires == Fires::integer ? Keep::hard : Keep::turning;
}

template <Keep keep>
inline float kept_share(float g, float turn, float h, float f, float value) {
  if constexpr (keep == Keep::soft) return 1.0f - value * g;
  if constexpr (keep == Keep::hard) return 1.0f - f;
  if constexpr (keep == Keep::turning) return (1.0f - f) + (value - h) * turn;
  return 1.0f;
}

// gs the gradient of the spikes: dh = gs * g * scale + gh + dv * keep, written over g.
template <Keep keep>
void step_back(const Leaky& p, const float* __restrict gs, const float* __restrict gh, Known& k, float* __restrict dv,
               int64_t n) {
  float* __restrict g = k.g.at;
  const float *__restrict f = k.f.at, *__restrict h = k.h, *turn = k.turn;  // turn may be g
  const float scale = p.out_scale, value = p.reset_value;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const float kept = kept_share<keep>(g[i], turn[i], h[i], f[i], value);
    g[i] = gs[i] * g[i] * scale + gh[i] + dv[i] * kept;
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

// -- all at once -------------------------------------------------------------------------------------------

// The whole step in one loop, for constants that are numbers and slopes that have a formula of h or are saved: dh as
// above, then dv = dh * decay and dx = dh * gain. The same sums in the same order as the rows of `step_back`.
struct Swift {
  const Leaky& p;
  float decay, gain;
  const float *gs, *h;    // h null: the state is in `codes`, of form `form`
  const uint32_t* codes;
  Saved form;
  float *dh, *dv, *dx;    // dh may be null
  int64_t n;

  // State(i) gives h, g and f of value i.
  template <Keep keep, bool wanted, class State>
  void run(State state) const {
    const float scale = p.out_scale, value = p.reset_value, decay_ = decay, gain_ = gain;
    const float* __restrict in = gs;
    float *__restrict back = dv, *__restrict out = dx, *__restrict kept_dh = dh;
    for (int64_t i = 0; i < n; ++i) {
      const auto [m, g, f] = state(i);
      const float d = in[i] * g * scale + back[i] * kept_share<keep>(g, g, m, f, value);
      if constexpr (wanted) kept_dh[i] = d;
      back[i] = d * decay_;
      out[i] = d * gain_;
    }
  }

  template <class State>
  void by_keep(State state) const {
    const auto by_want = [&]<Keep keep>() { dh ? run<keep, true>(state) : run<keep, false>(state); };
    switch (keep_of(p)) {
      case Keep::one: return by_want.template operator()<Keep::one>();
      case Keep::soft: return by_want.template operator()<Keep::soft>();
      case Keep::hard: return by_want.template operator()<Keep::hard>();
      case Keep::turning: return by_want.template operator()<Keep::turning>();
    }
  }

  struct Value {
    float m, g, f;
  };

  template <bool strict, class Formula>
  void from_membranes(Formula formula) const {
    const float threshold = p.fires == Fires::integer ? 0.5f : p.v_th;
    const float* __restrict hs = h;
    by_keep([=](int64_t i) {
      const float m = hs[i];
      return Value{m, formula(m), reaches<strict>(m, threshold) ? 1.0f : 0.0f};
    });
  }

  template <class Formula>
  void with_slopes(Formula formula) const {
    const uint32_t* __restrict bits = codes;
    if (form == Saved::half) {
      const float th = p.v_th;
      return by_keep([=](int64_t i) {
        const float m = membrane_of(bits[i], th);
        return Value{m, formula(m), fired_half(bits[i])};
      });
    }
    const bool strict = p.fires == Fires::integer ? !p.half_up : p.strict;
    strict ? from_membranes<true>(formula) : from_membranes<false>(formula);
  }

  void go() const {
    if (form == Saved::byte) {
      const uint32_t* __restrict bits = codes;
      const float unit = byte_unit(p);
      return by_keep([=](int64_t i) { return Value{0.0f, slope_of(bits[i], unit), fired_byte(bits[i])}; });
    }
    const Swift& self = *this;
    if (p.fires == Fires::integer) return with_window(p, [&](auto window) { self.with_slopes(window); });
    const float th = p.v_th, offset = p.offset;
    with_formula(p, [&](auto slope) { self.with_slopes([=](float m) { return slope((m - th) + offset); }); });
  }
};

void times(const float* __restrict a, const Spread& c, bool rows, int64_t j, float* __restrict out, int64_t n) {
  if (rows) {
    const float* __restrict each = c.each + j;
    for (int64_t i = 0; i < n; ++i) out[i] = a[i] * each[i];
  } else {
    const float value = c.value;
    for (int64_t i = 0; i < n; ++i) out[i] = a[i] * value;
  }
}

void add_products(const float* __restrict a, const float* __restrict b, float* __restrict sum, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += a[i] * b[i];
}

void add_row(const float* __restrict a, float* __restrict sum, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += a[i];
}

// f = [n != 0] from h, by the rule's own step.
void fired_row(const Leaky& p, const Constants& c, Step again, Known& k, int64_t n) {
  Row unused;
  again(p, c, nullptr, nullptr, const_cast<float*>(k.h), k.f, unused, n);  // given: h is only read
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

}  // namespace
}  // namespace picojoule::train
