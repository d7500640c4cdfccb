// Normalisation by channel around the neuron: statistics of the input, sums over the gradient, gradient of the input.
#pragma once

#include "train_rows.inl"

namespace picojoule::train {
namespace {

void scale_by_channel(const float* __restrict dy, const Norm& norm, float* __restrict dx, int64_t begin, int64_t n) {
  by_stretch(begin, n, norm.inner, norm.count, [&](int64_t i, int64_t length, int64_t c) {
    const float* __restrict a = norm.scale + c;
    if (norm.inner == 1) {
      for (int64_t k = 0; k < length; ++k) dx[i + k] = dy[i + k] * a[k];
    } else {
      for (int64_t k = 0; k < length; ++k) dx[i + k] = dy[i + k] * a[0];
    }
  });
}

// Lanes of a sum over a block: each adds few values, so that single precision is enough until blocks meet in double.
constexpr int64_t kLanes = 32;

inline float folded(float* lanes) {
  for (int64_t w = kLanes / 2; w > 0; w /= 2)
    for (int64_t l = 0; l < w; ++l) lanes[l] += lanes[l + w];
  return lanes[0];
}

// Sums of first(k) and second(k) over k = 0..length-1.
template <class First, class Second>
inline void add_lanes(int64_t length, First first, Second second, double& one, double& two) {
  alignas(64) float a[kLanes] = {}, b[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= length; k += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) a[l] += first(k + l), b[l] += second(k + l);
  for (int64_t l = 0; k + l < length; ++l) a[l] += first(k + l), b[l] += second(k + l);
  one += folded(a);
  two += folded(b);
}

// bias += dy, gain += dy * (x * unit + centre), a value a neuron.
void add_normalised(const float* __restrict x, const float* __restrict dy, const Backward& call, float* __restrict gain,
                    float* __restrict bias, int64_t begin, int64_t n) {
  by_stretch(begin, n, call.norm.inner, call.norm.count, [&](int64_t i, int64_t length, int64_t c) {
    const float *__restrict u = call.unit + c, *__restrict z = call.centre + c, *__restrict xs = x + i;
    const float* __restrict ds = dy + i;
    float *__restrict g = gain + i, *__restrict b = bias + i;
    if (call.norm.inner == 1) {
      for (int64_t k = 0; k < length; ++k) b[k] += ds[k], g[k] += ds[k] * (xs[k] * u[k] + z[k]);
    } else {
      const float unit = u[0], centre = z[0];
      for (int64_t k = 0; k < length; ++k) b[k] += ds[k], g[k] += ds[k] * (xs[k] * unit + centre);
    }
  });
}

// sums[c] += first, sums[count + c] += second, a value a neuron.
void add_by_channel(const float* first, const float* second, const Norm& norm, int64_t begin, int64_t n, double* sums) {
  by_stretch(begin, n, norm.inner, norm.count, [&](int64_t i, int64_t length, int64_t c) {
    double *__restrict one = sums + c, *__restrict two = sums + norm.count + c;
    const float *__restrict a = first + i, *__restrict b = second + i;
    if (norm.inner == 1) {
      for (int64_t k = 0; k < length; ++k) one[k] += a[k], two[k] += b[k];
    } else {
      add_lanes(length, [=](int64_t k) { return a[k]; }, [=](int64_t k) { return b[k]; }, *one, *two);
    }
  });
}

void moments(const Rows& rows, const float* anchor, int64_t begin, int64_t n, double* sums) {
  Row wide;
  for (int64_t j = 0; j < n; j += kBlock) {
    const int64_t m = std::min(kBlock, n - j);
    const float* x = read(rows.x, begin + j, rows.brief, wide, m);
    by_stretch(begin + j, m, rows.inner, rows.count, [&](int64_t i, int64_t length, int64_t c) {
      double *__restrict one = sums + c, *__restrict two = sums + rows.count + c;
      const float *__restrict xs = x + i, *__restrict from = anchor + c;
      if (rows.inner == 1) {
        for (int64_t k = 0; k < length; ++k) {
          const double d = xs[k] - from[k];
          one[k] += d;
          two[k] += d * d;
        }
        return;
      }
      const float shift = from[0];
      const auto square = [=](int64_t k) {
        const float d = xs[k] - shift;
        return d * d;
      };
      add_lanes(length, [=](int64_t k) { return xs[k] - shift; }, square, *one, *two);
    });
  }
}

void input_gradient(const Rows& rows, const InputGradient& call, int64_t begin, int64_t n, bool far) {
  Row wide, wide_dy, out;
  for (int64_t j = 0; j < n; j += kBlock) {
    const int64_t m = std::min(kBlock, n - j), at = begin + j;
    const float* x = read(rows.x, at, rows.brief, wide, m);
    const float* dy = read(call.dy, at, rows.brief, wide_dy, m);
    by_stretch(at, m, rows.inner, rows.count, [&](int64_t i, int64_t length, int64_t c) {
      const float *__restrict xs = x + i, *__restrict ds = dy + i;
      float* __restrict to = out + i;
      const float *__restrict a = call.scale + c, *__restrict s = call.slope + c, *__restrict b = call.bias + c;
      const float* __restrict mean = call.mean + c;
      if (rows.inner == 1) {
        for (int64_t k = 0; k < length; ++k) to[k] = ds[k] * a[k] + ((xs[k] - mean[k]) * s[k] + b[k]);
      } else {
        for (int64_t k = 0; k < length; ++k) to[k] = ds[k] * a[0] + ((xs[k] - mean[0]) * s[0] + b[0]);
      }
    });
    write(out, call.dx, at, rows.brief, far, m);
  }
  settle(far);
}

}  // namespace
}  // namespace picojoule::train
