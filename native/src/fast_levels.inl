// Neurons without memory on the bit-planes of a count: spikes are the levels that the sum reaches. Included by
// fast_bits.inl.

namespace {

// Carries of sum - level for L levels from plane `from` on; the sum's own planes are made on the way.
template <int L>
void reach_levels(const Epilogue& e, int64_t block, const V* sum, int planes, int shift, V lanes, int from, V* reached) {
  const V* level[L];
  V carry[L], below{}, y{};
  for (int l = 0; l < L; ++l) {
    level[l] = reinterpret_cast<const V*>(e.level_planes) + ((from + l) * e.blocks + block) * e.width;
    carry[l] = V{};
  }
  const int top = e.width - 1;
  for (int i = 0; i < top; ++i) {
    const V x = i >= shift && i - shift < planes ? sum[i - shift] : V{};
    full_add(below, y, x, V{} - ((lanes >> i) & 1), below);
    for (int l = 0; l < L; ++l) carry[l] = majority(y, level[l][i], carry[l]);
  }
  const V x = top >= shift && top - shift < planes ? sum[top - shift] : V{};
  y = x ^ (V{} - ((lanes >> top) & 1)) ^ below;
  for (int l = 0; l < L; ++l) reached[l] = ~(y ^ level[l][top] ^ carry[l]);  // no sign: the sum is not below
}

// Spike planes of one block of channels.
void fire_levels(const Epilogue& e, int64_t block, const V* sum, int planes, int shift, V lanes, V* out) {
  V reached[kMaxLevels];
  int l = 0;
  for (; l + 4 <= e.levels; l += 4) reach_levels<4>(e, block, sum, planes, shift, lanes, l, reached + l);
  for (; l + 2 <= e.levels; l += 2) reach_levels<2>(e, block, sum, planes, shift, lanes, l, reached + l);
  if (l < e.levels) reach_levels<1>(e, block, sum, planes, shift, lanes, l, reached + l);
  const V valid = reinterpret_cast<const V*>(e.valid_mask)[block];
  const V flip = e.flips ? reinterpret_cast<const V*>(e.flip_mask)[block] : V{};
  for (int q = 0; q < e.out_planes; ++q) out[q] = V{};
  if (e.ternary) {  // the last level is the first sum that does not give -1
    const V up = reached[0] ^ flip, down = ~(reached[1] ^ flip);
    out[0] = up & ~down & valid;
    out[1] = down & ~up & valid;
    return;
  }
  for (l = 0; l < e.levels; ++l) {
    V carry = (reached[l] ^ flip) & valid;
    for (int q = 0; q < e.out_planes; ++q) {
      const V next = out[q] & carry;
      out[q] ^= carry;
      carry = next;
    }
  }
}

template <class G, int Lists = G::kLists>
void bits_by_levels(const FastJob& job, int64_t begin, int64_t end, const Work& w) {
  const Epilogue& e = job.end;
  G group{job, w};
  for (int64_t g = begin; g < end; ++g) {
    const int64_t p = g * Lists;
    group.look(p);
    for (int64_t t = 0; t < job.steps; ++t) {
      if (t > 0 && !job.in_row_bytes) {
        repeat_words(e, t, p, group.live);
        continue;
      }
      int64_t offset[Lists];
      V lanes{}, out[kMaxPlanes];
      group.list(t, offset);
      for (int i = 0; i < 4; ++i) lanes[i] = static_cast<uint64_t>(-offset[i * Lists / 4]);
      for (int64_t b = 0; b < e.blocks; ++b) {
        const int planes = group.total(b, w.totals);
        fire_levels(e, b, w.totals, planes, job.weights.double_shift, lanes, out);
        for (int q = 0; q < e.out_planes; ++q) put_words(e, t, p, group.live, Lists, b, out[q], q);
      }
    }
  }
}

}  // namespace
