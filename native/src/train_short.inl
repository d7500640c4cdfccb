// Four steps of leaky neurons at once. Includers define PJ_SHORT, the table of their instruction set.

#include "train_short.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"  // of rows and blocks of other kernels
#include "train_back.inl"
#include "train_norm.inl"
#pragma GCC diagnostic pop

namespace picojoule::train {
namespace {

constexpr int T = kShort;

struct Rows4 {
  alignas(64) float at[T][kBlock];
};

// What a neuron's input is made of, for neurons from the start of a stretch on: y = x * scale + shift + added.
enum class Input { plain, each, all };  // each: scale and shift differ from neuron to neuron; all: they are the same

template <Input input, bool added>
struct Source {
  const float* x[T];
  const float* r[T];
  const float *scale, *shift;

  // What belongs to neuron k of a row that has one value a channel.
  static inline float of(const float* row, int64_t k) { return input == Input::each ? row[k] : row[0]; }

  inline float operator()(int t, int64_t k) const {
    float y = x[t][k];
    if constexpr (input != Input::plain) y = y * of(scale, k) + of(shift, k);
    if constexpr (added) y += r[t][k];
    return y;
  }
};

template <Reset reset>
inline float settled(float m, float f, float value) {
  if constexpr (reset == Reset::soft) return m - f * value;
  if constexpr (reset == Reset::hard) return (1.0f - f) * m + f * value;
  return m;
}

// Added rows of a block, where they are or made of bits.
struct Added {
  Rows4 made;
  const float* at[T] = {};
  bool any = false;

  void load(const Norm& norm, int64_t width, int64_t first, int64_t n) {
    any = norm.added || norm.bits;
    for (int t = 0; any && t < T; ++t) {
      at[t] = norm.bits ? made.at[t] : static_cast<const float*>(norm.added) + t * width + first;
      if (norm.bits) of_bits(norm.bits + (t * width + first) / 8, norm.size, made.at[t], n);
    }
  }
};

// Calls use(source, i, length, c) for stretches of neurons [first, first + n) of a step.
template <class Use>
void by_source(const void* rows, const Norm& norm, Added& more, int64_t width, int64_t first, int64_t n, Use use) {
  more.load(norm, width, first, n);
  const auto of = [&]<Input input, bool added>(int64_t i, int64_t length, int64_t c) {
    Source<input, added> source;
    for (int t = 0; t < T; ++t) {
      source.x[t] = static_cast<const float*>(rows) + t * width + first + i;
      source.r[t] = added ? more.at[t] + i : nullptr;
    }
    source.scale = input == Input::plain ? nullptr : norm.scale + c;
    source.shift = input == Input::plain ? nullptr : norm.shift + c;
    use(source, i, length, c);
  };
  if (!norm.scale) return of.template operator()<Input::plain, false>(0, n, 0);
  by_stretch(first, n, norm.inner, norm.count, [&](int64_t i, int64_t length, int64_t c) {
    if (norm.inner == 1) {
      more.any ? of.template operator()<Input::each, true>(i, length, c) : of.template operator()<Input::each, false>(i, length, c);
    } else {
      more.any ? of.template operator()<Input::all, true>(i, length, c) : of.template operator()<Input::all, false>(i, length, c);
    }
  });
}

void ask(const void* base, int64_t width, int64_t at, int64_t n) {
  if (!base) return;
  for (int t = 0; t < T; ++t) Ahead{static_cast<const float*>(base) + t * width + at, 4}.ask(0, n);
}

// -- forward ---------------------------------------------------------------------------------------------

template <Reset reset, class From>
void fire_stretch(const Leaky& p, const From& from, const float* v0, float* v, float* const* out, int64_t n) {
  const float decay = p.decay.value, gain = p.gain.value, bias = p.bias.value, th = p.v_th, value = p.reset_value;
  const float scale = p.out_scale;
  const From source = from;
  float *__restrict s0 = out[0], *__restrict s1 = out[1], *__restrict s2 = out[2], *__restrict s3 = out[3];
  const auto step = [=](float y, float v, float* spike) __attribute__((always_inline)) {
    const float m = v * decay + (y * gain + bias), f = m >= th ? 1.0f : 0.0f;
    *spike = f * scale;
    return settled<reset>(m, f, value);
  };
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) {
    float u = v0[k];
    u = step(source(0, k), u, s0 + k);
    u = step(source(1, k), u, s1 + k);
    u = step(source(2, k), u, s2 + k);
    u = step(source(3, k), u, s3 + k);
    v[k] = u;
  }
}

void forward(const Leaky& p, const Forward& call, int64_t width, int64_t begin, int64_t n, bool far) {
  Rows4 made;
  Added more;
  Row last, start;
  fill_row(start, p.v_init, kBlock);
  for (int64_t j = 0; j < n; j += kBlock) {
    const int64_t first = begin + j, m = std::min(kBlock, n - j), next = first + m, soon = std::min(kBlock, n - j - m);
    ask(call.x, width, next, soon);
    ask(call.norm.added, width, next, soon);
    by_source(call.x, call.norm, more, width, first, m, [&](const auto& source, int64_t i, int64_t length, int64_t) {
      float* out[T];
      for (int t = 0; t < T; ++t)
        out[t] = far ? made.at[t] + i : static_cast<float*>(call.spikes) + t * width + first + i;
      const float* v0 = call.v0 ? call.v0 + first + i : start.at + i;
      float* v = call.v ? call.v + first + i : last.at + i;
      switch (p.reset) {
        case Reset::hard: return fire_stretch<Reset::hard>(p, source, v0, v, out, length);
        case Reset::soft: return fire_stretch<Reset::soft>(p, source, v0, v, out, length);
        case Reset::none: return fire_stretch<Reset::none>(p, source, v0, v, out, length);
      }
    });
    for (int t = 0; t < T; ++t) {
      float* spikes = static_cast<float*>(call.spikes) + t * width + first;
      if (call.bits) to_bits(far ? made.at[t] : spikes, call.bits + (t * width + first) / 8, m);
      if (far) put_far(made.at[t], spikes, m);
    }
  }
  settle(far);
}

// -- backward --------------------------------------------------------------------------------------------

struct Stretch {
  const float* gs[T];
  const float* v0;
  float* out[T];
  float* dv;                      // in: gradient of the last membrane, out: of the first
  const float *unit, *centre;     // null: no sums
  float *gain, *bias;             // sums, a neuron
};

template <Reset reset, Keep keep, bool sums, class From, class Formula>
void back_stretch(const Leaky& p, const From& from, const Stretch& s, Formula slope, int64_t n) {
  const float decay = p.decay.value, gain = p.gain.value, bias = p.bias.value, th = p.v_th, value = p.reset_value;
  const float scale = p.out_scale, offset = p.offset;
  const From source = from;
  const float *g0 = s.gs[0], *g1 = s.gs[1], *g2 = s.gs[2], *g3 = s.gs[3], *v0 = s.v0;
  float *__restrict d0 = s.out[0], *__restrict d1 = s.out[1], *__restrict d2 = s.out[2], *__restrict d3 = s.out[3];
  float *__restrict dv = s.dv, *__restrict by_gain = s.gain, *__restrict by_bias = s.bias;
  const float *unit = s.unit, *centre = s.centre;
  const auto charge = [=](float y, float v) __attribute__((always_inline)) { return v * decay + (y * gain + bias); };
  const auto after = [=](float m) __attribute__((always_inline)) { return settled<reset>(m, m >= th ? 1.0f : 0.0f, value); };
  const auto back = [=](float gs, float m, float& along) __attribute__((always_inline)) {
    const float g = slope((m - th) + offset), f = m >= th ? 1.0f : 0.0f;
    const float d = gs * g * scale + along * kept_share<keep>(g, g, m, f, value);
    along = d * decay;
    return d * gain;
  };
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) {
    const float m0 = charge(source(0, k), v0[k]), m1 = charge(source(1, k), after(m0));
    const float m2 = charge(source(2, k), after(m1)), m3 = charge(source(3, k), after(m2));
    float along = dv[k];
    const float a3 = back(g3[k], m3, along), a2 = back(g2[k], m2, along);
    const float a1 = back(g1[k], m1, along), a0 = back(g0[k], m0, along);
    d3[k] = a3, d2[k] = a2, d1[k] = a1, d0[k] = a0;
    dv[k] = along;
    if constexpr (sums) {
      const float u = From::of(unit, k), z = From::of(centre, k);
      by_bias[k] = (((0.0f + a3) + a2) + a1) + a0;
      by_gain[k] = (((0.0f + a3 * (source.x[3][k] * u + z)) + a2 * (source.x[2][k] * u + z)) + a1 * (source.x[1][k] * u + z)) +
                   a0 * (source.x[0][k] * u + z);
    }
  }
}

// The formulas that short_backward admits, without code for the others.
template <class Use>
void with_common_formula(const Leaky& p, Use use) {
  switch (p.slope) {
    case Slope::sigmoid: return use([a = p.a](float z) { return a * logistic_slope(a * z); });
    case Slope::atan: {
      const float half = p.a / 2, k = static_cast<float>(1.5707963267948966) * p.a;
      return use([=](float z) { return half / (1.0f + (k * z) * (k * z)); });
    }
    case Slope::triangle:
      return use([a = p.a](float z) {
        const float y = a - a * a * magnitude(z);
        return y < 0.0f ? 0.0f : y;
      });
    default:
      return use([a = p.a, window = p.b](float z) { return magnitude(z) < window ? a : 0.0f; });  // rect
  }
}

template <class From>
void back_by_rule(const Leaky& p, const From& source, const Stretch& s, int64_t n) {
  with_common_formula(p, [&](auto slope) {
    const auto run = [&]<Reset reset, Keep keep>() {
      s.unit ? back_stretch<reset, keep, true>(p, source, s, slope, n) : back_stretch<reset, keep, false>(p, source, s, slope, n);
    };
    switch (keep_of(p)) {
      case Keep::hard: return run.template operator()<Reset::hard, Keep::hard>();
      case Keep::turning: return run.template operator()<Reset::hard, Keep::turning>();
      case Keep::soft: return run.template operator()<Reset::soft, Keep::soft>();
      case Keep::one:
        if (p.reset == Reset::soft) return run.template operator()<Reset::soft, Keep::one>();
        return run.template operator()<Reset::none, Keep::one>();
    }
  });
}

void backward(const Leaky& p, const Backward& call, int64_t width, int64_t begin, int64_t n, bool far, double* channel_sums) {
  Rows4 made;
  Added more;
  Row dv, start;
  fill_row(start, p.v_init, kBlock);
  alignas(64) float gain[kPiece], bias[kPiece];
  for (int64_t j = 0; j < n; j += kBlock) {
    const int64_t first = begin + j, m = std::min(kBlock, n - j), next = first + m, soon = std::min(kBlock, n - j - m);
    for (const void* rows : {call.x, call.norm.added, call.spikes}) ask(rows, width, next, soon);
    if (call.v) {
      copy_row(call.v + first, dv, m);
    } else {
      fill_row(dv, 0, m);
    }
    by_source(call.x, call.norm, more, width, first, m, [&](const auto& source, int64_t i, int64_t length, int64_t c) {
      Stretch s;
      for (int t = 0; t < T; ++t) {
        s.gs[t] = static_cast<const float*>(call.spikes) + t * width + first + i;
        s.out[t] = far ? made.at[t] + i : static_cast<float*>(call.dx) + t * width + first + i;
      }
      s.v0 = call.v0 ? call.v0 + first + i : start.at + i;
      s.dv = dv.at + i;
      s.unit = call.sums ? call.unit + c : nullptr, s.centre = call.sums ? call.centre + c : nullptr;
      s.gain = gain + j + i, s.bias = bias + j + i;
      back_by_rule(p, source, s, length);
    });
    for (int t = 0; far && t < T; ++t) put_far(made.at[t], static_cast<float*>(call.dx) + t * width + first, m);
    if (call.dv0) copy_row(dv, call.dv0 + first, m);
  }
  if (channel_sums) add_by_channel(bias, gain, call.norm, begin, n, channel_sums);
  settle(far);
}

}  // namespace

const ShortTable PJ_SHORT = {forward, backward};

}  // namespace picojoule::train
