// Affine rows from any width to any width, and windows' extremes. Included by rows_impl.inl.

namespace {

// The low half of a shift by up to 32 is the same for signed and unsigned, and unsigned ones are vectors everywhere.
template <class Y>
inline Y shift_out(int64_t sum, int shift) {
  if constexpr (sizeof(Y) < 8) return static_cast<Y>(static_cast<uint32_t>(static_cast<uint64_t>(sum) >> shift));
  else return static_cast<Y>(sum >> shift);
}

template <class A, class X, class Y, class G, class B>
void affine_part(const X* __restrict x, G gain, B bias, int shift, int64_t n, Y* __restrict y) {
  for (int64_t i = 0; i < n; ++i) {
    const A sum = static_cast<A>(x[i]) * static_cast<A>(gain[i]) + static_cast<A>(bias[i]);
    if constexpr (sizeof(A) == 4) y[i] = static_cast<Y>(sum >> shift);
    else y[i] = shift_out<Y>(sum, shift);
  }
}

template <class E>
struct Same {
  E value;
  E operator[](int64_t) const { return value; }
};

template <class A, class X, class Y>
void affine_rows(const AffineJob& job, const X* x, Y* y) {
  const int64_t C = job.channels, n = job.inner;
  for (int64_t o = 0; o < job.outer; ++o) {
    if (n == 1) {
      affine_part<A>(x + o * C, job.gain, job.bias, job.shift, C, y + o * C);
      continue;
    }
    for (int64_t c = 0; c < C; ++c) {
      const int64_t at = (o * C + c) * n;
      affine_part<A>(x + at, Same<int32_t>{job.gain[c]}, Same<int64_t>{job.bias[c]}, job.shift, n, y + at);
    }
  }
}

void affine(const AffineJob& job, const void* x, int x_element, void* y, int y_element) {
  by_element(x_element, [&](auto from) {
    by_element(y_element, [&](auto to) {
      const auto* in = static_cast<const decltype(from)*>(x);
      auto* out = static_cast<decltype(to)*>(y);
      if (job.wide) affine_rows<int64_t>(job, in, out);
      else affine_rows<int32_t>(job, in, out);
    });
  });
}

// -- windows -------------------------------------------------------------------------------------------

template <bool Min, class E>
inline E better(E a, E b) {
  return Min ? (a < b ? a : b) : (a > b ? a : b);
}

template <bool Min, int64_t Stride, class E>
void best_of_line(const E* __restrict line, int64_t kernel, int64_t stride, int64_t n, E* __restrict y) {
  const int64_t s = Stride ? Stride : stride;
  for (int64_t i = 0; i < n; ++i) y[i] = line[i * s];
  for (int64_t e = 1; e < kernel; ++e)
    for (int64_t i = 0; i < n; ++i) y[i] = better<Min>(y[i], line[i * s + e]);
}

// One output line: first the best of every column, then of neighbouring columns.
template <bool Min, class E>
void extreme_line(const ExtremeJob& job, const E* x, int64_t oz, int64_t oy, E* __restrict line, E* y) {
  const int64_t width = job.in[2], z0 = oz * job.stride[0] - job.before[0], y0 = oy * job.stride[1] - job.before[1];
  E* __restrict inside = line + job.before[2];
  bool first = true;
  for (int64_t z = most(0, z0); z < least(job.in[0], z0 + job.kernel[0]); ++z)
    for (int64_t r = most(0, y0); r < least(job.in[1], y0 + job.kernel[1]); ++r, first = false) {
      const E* __restrict row = x + (z * job.in[1] + r) * width;
      if (first) std::memcpy(inside, row, static_cast<size_t>(width) * sizeof(E));
      else
        for (int64_t i = 0; i < width; ++i) inside[i] = better<Min>(inside[i], row[i]);
    }
  if (job.stride[2] == 1) best_of_line<Min, 1>(line, job.kernel[2], 1, job.out[2], y);
  else if (job.stride[2] == 2) best_of_line<Min, 2>(line, job.kernel[2], 2, job.out[2], y);
  else best_of_line<Min, 0>(line, job.kernel[2], job.stride[2], job.out[2], y);
}

template <bool Min, class E>
void extreme_channel(const ExtremeJob& job, const E* x, E* line, E* y) {
  constexpr E low = static_cast<E>(E{1} << (8 * sizeof(E) - 1)), high = static_cast<E>(~low);
  for (int64_t i = 0; i < job.line; ++i) line[i] = Min ? high : low;
  for (int64_t z = 0; z < job.out[0]; ++z)
    for (int64_t r = 0; r < job.out[1]; ++r, y += job.out[2]) extreme_line<Min>(job, x, z, r, line, y);
}

void extreme(const ExtremeJob& job, const void* x, int element, void* line, void* y) {
  by_element(element, [&](auto zero) {
    using E = decltype(zero);
    const E* from = static_cast<const E*>(x);
    E* to = static_cast<E*>(y);
    const int64_t in = job.in[0] * job.in[1] * job.in[2], out = job.out[0] * job.out[1] * job.out[2];
    for (int64_t c = 0; c < job.channels; ++c, from += in, to += out) {
      if (job.minimum[c]) extreme_channel<true>(job, from, static_cast<E*>(line), to);
      else extreme_channel<false>(job, from, static_cast<E*>(line), to);
    }
  });
}

}  // namespace
