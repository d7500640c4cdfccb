// Neurons on the 16-bit sums of one pixel, to packed spikes. Included by lookup.inl and lookup_words.inl.

namespace {

using namespace picojoule;

// Neurons without memory: spikes are the levels that the sum reaches.
void fire_levels(const FastJob& job, const int16_t* sums, uint64_t* to) {
  const Epilogue& e = job.end;
  const LookupRows& l = job.lookup;
  const int64_t row = e.out_words * 64;
  for (int64_t w = 0; w < e.out_words; ++w) {
    const auto reached = [&](int level) { return (greater_bits(sums + w * 64, l.edges + level * row + w * 64) ^ l.flips[w]) & l.valid[w]; };
    if (e.ternary) {  // the last level is the first sum that does not give -1
      const uint64_t up = reached(0), down = ~reached(1) & l.valid[w];
      to[w] = up & ~down;
      to[w + e.out_plane_words] = down & ~up;
      continue;
    }
    uint64_t planes[8] = {};
    for (int level = 0; level < l.levels; ++level) {
      uint64_t carry = reached(level);
      for (int q = 0; q < e.out_planes; ++q) {
        const uint64_t next = planes[q] & carry;
        planes[q] ^= carry;
        carry = next;
      }
    }
    for (int q = 0; q < e.out_planes; ++q) to[w + q * e.out_plane_words] = planes[q];
  }
}

inline Words widened(const int16_t* from) { return __builtin_convertvector(read<HalfShorts>(from), Words); }

// Some steps of single spikes, 0 hard, 1 soft, 2 no reset: the membrane of a vector of neurons stays in a register.
// The arithmetic of fire.h, whose constants it reads.
template <int Reset>
void fire_at_once(const FastJob& job, int64_t t, int64_t steps, const int16_t* sums, int64_t row, int32_t* v, int64_t p) {
  typedef typename std::conditional<kSpan == 64, uint16_t, uint8_t>::type Lanes;
  const Epilogue& e = job.end;
  const FireJob& f = *e.fire;
  const int shift = f.leak == Leak::shift ? f.shift : 0;
  const int32_t half = f.half_up && shift > 0 ? 1 << (shift - 1) : 0;
  const bool scaled = f.scaled;
  const int64_t live = f.groups * kFireGroup, step_bytes = e.out_row_bytes;
  std::byte* out = e.out + t * step_bytes + p * e.out_words * 8;
  for (int64_t c = 0; c < e.out_words * 64; c += kSpan / 4) {
    std::byte* to = out + c / 8;
    if (c >= live) {
      for (int64_t i = 0; i < steps; ++i) write(to + i * step_bytes, Lanes{0});
      continue;
    }
    const int32_t* k = reinterpret_cast<const int32_t*>(f.constants) + c / kFireGroup * f.rows * kFireGroup + c % kFireGroup;
    const auto constant = [&](int at) { return read<Words>(k + at * kFireGroup); };
    const Words charge = constant(kCharge), gain = constant(kGain), threshold = constant(kThreshold), reset = constant(kResetValue);
    Words h = read<Words>(v + c);
    for (int64_t i = 0; i < steps; ++i) {
      Words sum = widened(sums + i * row + c);
      if (scaled) sum *= gain;
      h = ((h + half) >> shift) + sum + charge;
      const Words fired = (Words)(h > threshold);
      write(to + i * step_bytes, static_cast<Lanes>(word_sign_bits(fired)));
      if (Reset == 0) h = fired ? reset : h;
      if (Reset == 1) h -= fired & reset;
    }
    write(v + c, h);
  }
}

// Steps [t, t + steps) of the neurons of pixel p, whose sums lie `row` apart (0: they are the same); `wide` has room
// for the sums of one step.
void fire(const FastJob& job, int64_t t, int64_t steps, const int16_t* sums, int64_t row, int32_t* wide, int32_t* v, int64_t p) {
  const Epilogue& e = job.end;
  if (job.lookup.at_once) {
    if (e.fire->reset == 0) return fire_at_once<0>(job, t, steps, sums, row, v, p);
    if (e.fire->reset == 1) return fire_at_once<1>(job, t, steps, sums, row, v, p);
    return fire_at_once<2>(job, t, steps, sums, row, v, p);
  }
  for (int64_t i = 0; i < steps; ++i) {
    std::byte* to = e.out + (t + i) * e.out_row_bytes + p * e.out_words * 8;
    if (job.lookup.edges) {
      fire_levels(job, sums + i * row, reinterpret_cast<uint64_t*>(to));
      continue;
    }
    if (i == 0 || row)
      for (int64_t c = 0; c < job.shape.padded; c += kSpan / 4) write(wide + c, widened(sums + i * row + c));
    e.fire_step(*e.fire, constants_at(e, t + i), wide, reinterpret_cast<std::byte*>(v), to);
  }
}

}  // namespace
