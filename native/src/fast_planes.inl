// Vertical counting and neurons on bit-planes. Included by fast_impl.inl.

namespace {

constexpr int kMaxPlanes = 64;  // of a count or membrane

template <int Lists>
struct Rows {
  using Vector = V;
  const uint8_t* base;
  const uint32_t* list[Lists];
  V at(int64_t i) const {
    if constexpr (Lists == 1) return load(base + list[0][i]);
    if constexpr (Lists == 2) return join2(base + list[0][i], base + list[1][i]);
    if constexpr (Lists == 4) return join4(base + list[0][i], base + list[1][i], base + list[2][i], base + list[3][i]);
  }
};

// Adds eight rows to ones, twos, fours; the carry counts eights.
template <class R, class X = typename R::Vector>
[[gnu::always_inline]] inline X add_eight(const R& rows, int64_t i, X& ones, X& twos, X& fours) {
  X ta, tb, fa, fb, eight;
  full_add(ta, ones, ones, rows.at(i), rows.at(i + 1));
  full_add(tb, ones, ones, rows.at(i + 2), rows.at(i + 3));
  full_add(fa, twos, twos, ta, tb);
  full_add(ta, ones, ones, rows.at(i + 4), rows.at(i + 5));
  full_add(tb, ones, ones, rows.at(i + 6), rows.at(i + 7));
  full_add(fb, twos, twos, ta, tb);
  full_add(eight, fours, fours, fa, fb);
  return eight;
}

// planes += carry, a bit of each lane, in H planes.
template <int H, class X>
inline void ripple(X* planes, X carry) {
#pragma GCC unroll 8
  for (int q = 0; q < H; ++q) {
    const X next = planes[q] & carry;
    planes[q] ^= carry;
    carry = next;
  }
}

template <class R, class X = typename R::Vector>
[[gnu::always_inline]] inline X add_sixteen(const R& rows, int64_t i, X& ones, X& twos, X& fours, X& eights) {
  const X a = add_eight(rows, i, ones, twos, fours), b = add_eight(rows, i + 8, ones, twos, fours);
  X sixteen;
  full_add(sixteen, eights, eights, a, b);
  return sixteen;
}

// Planes of a count: these, and more for lists of a length; lists stay below 2^30 bytes of rows.
constexpr int kLeastPlanes = 5;
int planes_above(int64_t n) { return n < 128 ? 2 : n < 256 ? 3 : n < 512 ? 4 : n < 2048 ? 6 : 26; }

// H planes above the sixteens, few enough for registers.
template <int H, class R, class X = typename R::Vector>
int count_within(const R& rows, int64_t n, X* out) {
  X ones{}, twos{}, fours{}, eights{}, sixteens{}, high[H] = {};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const X a = add_sixteen(rows, i, ones, twos, fours, eights), b = add_sixteen(rows, i + 16, ones, twos, fours, eights);
    X carry;
    full_add(carry, sixteens, sixteens, a, b);
    ripple<H>(high, carry);
  }
  if (n & 16) {
    const X a = add_sixteen(rows, i, ones, twos, fours, eights), carry = sixteens & a;
    sixteens ^= a;
    ripple<H>(high, carry);
    i += 16;
  }
  if (n & 8) {
    const X a = add_eight(rows, i, ones, twos, fours), b = eights & a, carry = sixteens & b;
    eights ^= a;
    sixteens ^= b;
    ripple<H>(high, carry);
  }
  out[0] = ones, out[1] = twos, out[2] = fours, out[3] = eights, out[4] = sixteens;
  for (int q = 0; q < H; ++q) out[5 + q] = high[q];
  return kLeastPlanes + H;
}

// Counts set bits per lane over n rows, n a multiple of 8; returns planes.
template <class R, class X = typename R::Vector>
int count(const R& rows, int64_t n, X* out) {
  const int high = planes_above(n);
  if (high == 2) return count_within<2>(rows, n, out);
  if (high == 3) return count_within<3>(rows, n, out);
  if (high == 4) return count_within<4>(rows, n, out);
  if (high == 6) return count_within<6>(rows, n, out);
  return count_within<26>(rows, n, out);
}

// total += term << shift; returns the new number of planes.
inline int add_shifted(V* total, int planes, const V* term, int n, int shift) {
  for (; planes < shift + n; ++planes) total[planes] = V{};
  V carry{};
  int i = shift;
  for (; i < shift + n; ++i) full_add(carry, total[i], total[i], term[i - shift], carry);
  for (; i < planes; ++i) {
    const V next = total[i] & carry;
    total[i] ^= carry;
    carry = next;
  }
  if (planes < kMaxPlanes) total[planes++] = carry;
  return planes;
}

// One step of neurons whose planes are `v`; `x` holds W planes of sums, `lanes` what is added to each of them.
template <int W, bool Flips>
V plane_step(const Epilogue& e, int64_t block, int64_t t, const V* x, V lanes, V* v) {
  const V* charge = reinterpret_cast<const V*>(e.charge_planes) + t * e.charge_t + block * W;
  const V* threshold = reinterpret_cast<const V*>(e.threshold_planes) + t * e.threshold_t + block * W;
  const V flip = Flips ? reinterpret_cast<const V*>(e.flip_mask)[block] : V{};
  const int k = e.decay_shift;
  const V leaks = e.leak ? ~V{} : V{};
  V h[W], first{}, second{}, third{}, fourth{}, negative{};
  if (e.leak && e.half_up && k > 0) second = v[k - 1 < W ? k - 1 : W - 1];
#pragma GCC unroll 64
  for (int i = 0; i < W; ++i) {
    V y, z;
    const V kept = v[i + k < W ? i + k : W - 1] & leaks;
    full_add(first, y, x[i], sign_mask(lanes << (63 - i)), first);
    full_add(second, z, Flips ? y ^ flip : y, kept, second);
    full_add(third, h[i], z, charge[i], third);
    full_add(fourth, negative, h[i], threshold[i], fourth);
  }
  const V fired = ~negative & reinterpret_cast<const V*>(e.valid_mask)[block];
  if (e.reset == 2) {
    for (int i = 0; i < W; ++i) v[i] = h[i];
    return fired;
  }
  if (e.reset == 0 && e.resets_to_zero) {
    for (int i = 0; i < W; ++i) v[i] = h[i] & ~fired;
    return fired;
  }
  const V* reset = reinterpret_cast<const V*>(e.reset_planes) + t * e.reset_t + block * W;
  if (e.reset == 0) {
    for (int i = 0; i < W; ++i) v[i] = (h[i] & ~fired) | (reset[i] & fired);
    return fired;
  }
  V carry{};
  for (int i = 0; i < W; ++i) full_add(carry, v[i], h[i], reset[i] & fired, carry);  // planes of -reset_value
  return fired;
}

// The same for sums of `planes` planes, shifted up.
template <int W>
V plane_neuron(const Epilogue& e, int64_t block, int64_t t, const V* sum, int planes, int shift, V lanes, V* v) {
  V x[W];
  for (int i = 0; i < W; ++i) x[i] = i >= shift && i < planes + shift ? sum[i - shift] : V{};
  return e.flips ? plane_step<W, true>(e, block, t, x, lanes, v) : plane_step<W, false>(e, block, t, x, lanes, v);
}

using PlaneStep = V (*)(const Epilogue&, int64_t, int64_t, const V*, V, V*);
using PlaneNeuron = V (*)(const Epilogue&, int64_t, int64_t, const V*, int, int, V, V*);

template <bool Flips>
PlaneStep plane_step_of(int width) {
  switch (width) {
    case 8: return plane_step<8, Flips>;
    case 10: return plane_step<10, Flips>;
    case 12: return plane_step<12, Flips>;
    case 14: return plane_step<14, Flips>;
    case 16: return plane_step<16, Flips>;
    case 18: return plane_step<18, Flips>;
    case 20: return plane_step<20, Flips>;
    case 24: return plane_step<24, Flips>;
    case 32: return plane_step<32, Flips>;
    default: return plane_step<48, Flips>;
  }
}

PlaneNeuron plane_neuron_of(int width) {
  switch (width) {
    case 8: return plane_neuron<8>;
    case 10: return plane_neuron<10>;
    case 12: return plane_neuron<12>;
    case 14: return plane_neuron<14>;
    case 16: return plane_neuron<16>;
    case 18: return plane_neuron<18>;
    case 20: return plane_neuron<20>;
    case 24: return plane_neuron<24>;
    case 32: return plane_neuron<32>;
    default: return plane_neuron<48>;
  }
}

}  // namespace
