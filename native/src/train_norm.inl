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

// sums[c] += first, sums[count + c] += second, a value a neuron.
void add_by_channel(const float* first, const float* second, const Norm& norm, int64_t begin, int64_t n, double* sums) {
  double *one = sums, *two = sums + norm.count;
  by_stretch(begin, n, norm.inner, norm.count, [&](int64_t i, int64_t length, int64_t c) {
    if (norm.inner == 1) {
      for (int64_t k = 0; k < length; ++k) one[c + k] += first[i + k], two[c + k] += second[i + k];
    } else {
      double a = 0, b = 0;
      for (int64_t k = 0; k < length; ++k) a += first[i + k], b += second[i + k];
      one[c] += a, two[c] += b;
    }
  });
}

// Lanes of a sum: each adds few values, so that single precision is enough until they meet in double.
constexpr int64_t kLanes = 32;

void moments(const Rows& rows, const float* anchor, int64_t begin, int64_t n, double* sums) {
  double *one = sums, *two = sums + rows.count;
  const auto add_lanes = [&](const float* __restrict x, int64_t length, int64_t c) {
    alignas(64) float a[kLanes] = {}, b[kLanes] = {};
    const float from = anchor[c];
    int64_t k = 0;
    for (; k + kLanes <= length; k += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) {
        const float d = x[k + l] - from;
        a[l] += d;
        b[l] += d * d;
      }
    double first = 0, second = 0;
    for (; k < length; ++k) {
      const double d = x[k] - from;
      first += d;
      second += d * d;
    }
    for (int64_t l = 0; l < kLanes; ++l) first += a[l], second += b[l];
    one[c] += first;
    two[c] += second;
  };
  Row wide;
  for (int64_t j = 0; j < n; j += kBlock) {
    const int64_t m = std::min(kBlock, n - j);
    const float* x = read(rows.x, begin + j, rows.brief, wide, m);
    by_stretch(begin + j, m, rows.inner, rows.count, [&](int64_t i, int64_t length, int64_t c) {
      if (rows.inner != 1) return add_lanes(x + i, length, c);
      for (int64_t k = 0; k < length; ++k) {
        const double d = x[i + k] - anchor[c + k];
        one[c + k] += d;
        two[c + k] += d * d;
      }
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
