// Vertical counting and neurons on bit-planes. Included by fast_impl.inl.

namespace {

constexpr int kMaxPlanes = 64;  // of a count or membrane

template <int Lists>
struct Rows {
  const uint8_t* base;
  const uint32_t* list[Lists];
  V at(int64_t i) const {
    if constexpr (Lists == 1) return load(base + list[0][i]);
    if constexpr (Lists == 2) return join2(base + list[0][i], base + list[1][i]);
    if constexpr (Lists == 4) return join4(base + list[0][i], base + list[1][i], base + list[2][i], base + list[3][i]);
  }
};

// Adds eight rows to ones, twos, fours; the carry counts eights.
template <int Lists>
inline V add_eight(const Rows<Lists>& rows, int64_t i, V& ones, V& twos, V& fours) {
  V ta, tb, fa, fb, eight;
  full_add(ta, ones, ones, rows.at(i), rows.at(i + 1));
  full_add(tb, ones, ones, rows.at(i + 2), rows.at(i + 3));
  full_add(fa, twos, twos, ta, tb);
  full_add(ta, ones, ones, rows.at(i + 4), rows.at(i + 5));
  full_add(tb, ones, ones, rows.at(i + 6), rows.at(i + 7));
  full_add(fb, twos, twos, ta, tb);
  full_add(eight, fours, fours, fa, fb);
  return eight;
}

// Counts set bits per lane over n rows (lists are padded with zero rows to a multiple of 8); returns planes.
template <int Lists>
int count(const Rows<Lists>& rows, int64_t n, V* out) {
  V ones{}, twos{}, fours{}, eights{}, high[32];
  const int64_t blocks = (n + 15) / 16;
  const int more = blocks ? 64 - __builtin_clzll(static_cast<uint64_t>(blocks)) : 0;
  for (int q = 0; q < more; ++q) high[q] = V{};
  int64_t i = 0;
  for (; i + 8 < n; i += 16) {
    const V a = add_eight(rows, i, ones, twos, fours);
    const V b = add_eight(rows, i + 8, ones, twos, fours);
    V carry;
    full_add(carry, eights, eights, a, b);
    for (int q = 0; q < more; ++q) {
      const V next = high[q] & carry;
      high[q] ^= carry;
      carry = next;
    }
  }
  if (i < n) {
    const V a = add_eight(rows, i, ones, twos, fours);
    V carry = eights & a;
    eights ^= a;
    for (int q = 0; q < more; ++q) {
      const V next = high[q] & carry;
      high[q] ^= carry;
      carry = next;
    }
  }
  out[0] = ones;
  out[1] = twos;
  out[2] = fours;
  out[3] = eights;
  for (int q = 0; q < more; ++q) out[4 + q] = high[q];
  return 4 + more;
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

// One step of neurons whose planes are `v`; `sum` holds counts, `lanes` what is added to each of them.
template <int W>
V plane_neuron(const Epilogue& e, int64_t block, int64_t t, const V* sum, int planes, int shift, V lanes, V* v) {
  const V none{};
  const V* charge = reinterpret_cast<const V*>(e.charge_planes) + t * e.charge_t + block * W;
  const V* threshold = reinterpret_cast<const V*>(e.threshold_planes) + t * e.threshold_t + block * W;
  const V flip = e.flips ? reinterpret_cast<const V*>(e.flip_mask)[block] : none;
  V x[W], kept[W], h[W];
  for (int i = 0; i < W; ++i) x[i] = none;
  for (int i = 0; i < planes && i + shift < W; ++i) x[i + shift] = sum[i];
  V first{}, second{}, third{}, fourth{}, negative{};
  if (e.leak) {
    const int k = e.decay_shift;
    for (int i = 0; i < W; ++i) kept[i] = v[i + k < W ? i + k : W - 1];
    if (e.half_up && k > 0) second = v[k - 1 < W ? k - 1 : W - 1];
  } else {
    for (int i = 0; i < W; ++i) kept[i] = none;
  }
  for (int i = 0; i < W; ++i) {
    V y, z;
    full_add(first, y, x[i], none - ((lanes >> i) & 1), first);
    full_add(second, z, y ^ flip, kept[i], second);
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

using PlaneNeuron = V (*)(const Epilogue&, int64_t, int64_t, const V*, int, int, V, V*);

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
