// Slopes of spikes over a row, written so that the compiler makes vectors of them. Formulas and constants are
// those of src/picojoule/neurons/surrogate.py.
#pragma once

#include "train_rows.inl"

namespace picojoule::train {
namespace {

// exp(x) for x <= 0, relative error below 2e-7; 1e-38 below x = -87.
inline float exp_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  constexpr float shift = 12582912.0f;  // 1.5 * 2^23: the sum rounds to an integer held in its low bits
  const float shifted = x * 1.44269504f + shift;
  const float k = shifted - shift;
  const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r * r + r) + 1.0f;
  return p * of_bits((bits_of(shifted) - 0x4b400000u + 127u) << 23);
}

// sig(z) (1 - sig(z)), without the cancellation of 1 - sig.
inline float logistic_slope(float z) {
  const float e = exp_negative(-magnitude(z));
  return e / ((1.0f + e) * (1.0f + e));
}

// Calls use(formula), formula(z) being the slope at z; nothing where the slope is given.
template <class Use>
void with_formula(const Leaky& p, Use use) {
  const float a = p.a, b = p.b;
  switch (p.slope) {
    case Slope::given:
      return;
    case Slope::sigmoid:
      return use([=](float z) { return a * logistic_slope(a * z); });
    case Slope::atan: {
      const float half = a / 2, k = static_cast<float>(1.5707963267948966) * a;
      return use([=](float z) { return half / (1.0f + (k * z) * (k * z)); });
    }
    case Slope::triangle:
      return use([=](float z) {
        const float y = a - a * a * magnitude(z);
        return y < 0.0f ? 0.0f : y;
      });
    case Slope::rect: {
      const float window = b;
      return use([=](float z) { return magnitude(z) < window ? a : 0.0f; });
    }
    case Slope::exponential:
      return use([=](float z) { return a / 2 * exp_negative(-a * magnitude(z)); });
    case Slope::softsign:
      return use([=](float z) {
        const float y = 1.0f + a * magnitude(z);
        return a / (2.0f * (y * y));
      });
    case Slope::superspike:
      return use([=](float z) {
        const float y = 1.0f + magnitude(z);
        return a / (y * y);
      });
    case Slope::gauss: {
      const float k = a / static_cast<float>(1.7724538509055159);
      return use([=](float z) { return k * exp_negative(-((a * z) * (a * z))); });
    }
    case Slope::logabs:
      return use([=](float z) { return a / (1.0f + a * magnitude(z)); });
    case Slope::leaky_rect: {
      const float inside = 0.5f / a;
      return use([=](float z) { return magnitude(z) < a ? inside : b; });
    }
    case Slope::leaky_relu:
      return use([=](float z) { return z >= 0.0f ? a : b; });
    case Slope::log_tailed:
      return use([=](float z) {
        const float tail = 1.0f / (z < 1.0f ? 1.0f : z);
        return z > 0.0f ? tail : a;
      });
    case Slope::s2nn:
      return use([=](float z) {
        const float low = a * logistic_slope(a * z), high = b / ((z < 0.0f ? 0.0f : z) + 1.0f);
        return z < 0.0f ? low : high;
      });
    case Slope::power: {  // (1 + 2 |z| / (a - 1))^-a with a whole a
      const float k = 2.0f / (a - 1.0f);
      const int times = static_cast<int>(a);
      if (times == 2)
        return use([=](float z) {
          const float y = 1.0f / (1.0f + k * magnitude(z));
          return y * y;
        });
      return use([=](float z) {
        const float y = 1.0f / (1.0f + k * magnitude(z));
        float product = y;
        for (int t = 1; t < times; ++t) product *= y;
        return product;
      });
    }
    case Slope::fake_numerical:
      return use([=](float z) {
        const float y = 1.0f / magnitude(z);
        return y > a ? a : y;
      });
    case Slope::one:
      return use([](float) { return 1.0f; });
    case Slope::fast_sigmoid:
      return use([=](float z) {
        const float y = 1.0f + a * magnitude(z);
        return 1.0f / (y * y);
      });
    case Slope::escape:
      return use([=](float z) { return a * exp_negative(-b * magnitude(z - 1.0f)); });
  }
}

// g = slope at (sign h - v_th) + offset, sign +1 or -1.
void slope_row(const Leaky& p, const float* h, float sign, float* g, int64_t n) {
  const float th = p.v_th, offset = p.offset;
  with_formula(p, [=](auto formula) {
    const float* __restrict in = h;
    float* __restrict out = g;
    for (int64_t i = 0; i < n; ++i) out[i] = formula((sign * in[i] - th) + offset);
  });
}

}  // namespace
}  // namespace picojoule::train
