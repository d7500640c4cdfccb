#include "fire_layout.h"

#include <algorithm>
#include <limits>

namespace picojoule {
namespace {

bool all_are(const Plane& p, int64_t value) {
  return std::all_of(p.values.begin(), p.values.end(), [&](int64_t v) { return v == value; });
}

bool one_power(const Plane& p) { return p.uniform() && p.values[0] > 0 && (p.values[0] & (p.values[0] - 1)) == 0; }

}  // namespace

Range potential(const NeuronConstants& n, const std::vector<Range>& x, bool stream) {
  Range v = n.membrane(x, n.steps, stream);
  for (int64_t value : n.values) v = {std::min(v.low, value), std::max(v.high, value)};
  return v;
}

FireLayout::FireLayout(const NeuronConstants& n, const std::vector<Range>& x, const std::vector<int32_t>& bias,
                       int64_t padded, const Packed& out, bool stream, Isa isa) {
  const int64_t one = int64_t{1} << n.decay_shift;
  job.groups = padded / kFireGroup;
  job.levels = static_cast<int>(n.thresholds.size());
  job.rows = kThreshold + job.levels;
  job.half_up = n.half_up;
  job.reset = static_cast<int>(n.reset);
  job.ternary = n.ternary;
  job.out_planes = out.planes;
  job.plane_bytes = out.pixels * out.words * 8;
  job.scaled = !all_are(n.gain, 1);
  job.forgets = all_are(n.decay, 0) || (!stream && n.steps == 1 && all_are(n.v_init, 0));
  job.shift = n.decay_shift;
  if (job.forgets) {
    job.leak = Leak::none;
  } else if (all_are(n.decay, one)) {
    job.leak = Leak::whole;
  } else if (one_power(n.decay) && n.decay.values[0] < one) {
    job.leak = Leak::shift;
    for (int64_t d = n.decay.values[0]; d > 1; d /= 2) --job.shift;
  } else {
    job.leak = n.split ? Leak::halves : Leak::product;
  }
  const Range v = potential(n, x, stream);
  // Within a lane, comparisons are those with the number below.
  const bool words = v.low > -32767 && v.high < 32767 && (job.leak == Leak::none || n.splittable());
  job.lane = words ? 2 : 4;
  if (words) {
    const bool in_registers = isa == Isa::avx512 && static_cast<int64_t>(n.values.size()) <= kEdges;
    fill<int16_t>(n, bias, v, !in_registers);
  } else {
    fill<int32_t>(n, bias, v, v.high - v.low < kMostDirect);
  }
}

template <class E>
void FireLayout::fill(const NeuronConstants& n, const std::vector<int32_t>& bias, Range v, bool direct) {
  constexpr int64_t lowest = std::numeric_limits<E>::min(), highest = std::numeric_limits<E>::max();
  const int64_t sets = n.timeless() ? 1 : n.steps, set = job.groups * job.rows * kFireGroup;
  std::vector<E> all(static_cast<size_t>(sets * set), E{0});
  const auto at = [&](int64_t t, int64_t row, int64_t c) -> E& {
    return all[t * set + (c / kFireGroup * job.rows + row) * kFireGroup + c % kFireGroup];
  };
  for (int64_t t = 0; t < sets; ++t)
    for (int64_t c = 0; c < job.groups * kFireGroup; ++c) {
      // Lanes without a channel never fire, whatever they hold.
      at(t, kNegative, c) = lowest;
      for (int l = 0; l < job.levels; ++l) at(t, kThreshold + l, c) = highest;
      if (c >= n.channels) continue;
      at(t, kCharge, c) = static_cast<E>(n.bias.at(t, c) + n.gain.at(t, c) * bias[c]);
      at(t, kGain, c) = static_cast<E>(n.gain.at(t, c));
      at(t, kResetValue, c) = static_cast<E>(n.reset_value.at(t, c));
      int64_t decay = n.decay.at(t, c);
      if (sizeof(E) == 2 && job.leak == Leak::product) {
        decay <<= (n.half_up ? 15 : 16) - n.decay_shift;
        at(t, kWhole, c) = decay > highest ? -1 : 0;
        if (n.half_up && decay > highest) decay = 0;  // exactly one
      }
      at(t, kDecay, c) = static_cast<E>(decay);
      for (int l = 0; l < job.levels; ++l)
        at(t, kThreshold + l, c) = static_cast<E>(std::clamp(n.thresholds[l].at(t, c) - 1, lowest, highest));
      if (n.ternary) at(t, kNegative, c) = static_cast<E>(std::clamp(n.neg.at(t, c) + 1, lowest, highest));
    }
  std::vector<E> start(static_cast<size_t>(job.groups * kFireGroup), E{0});
  for (int64_t c = 0; c < n.channels; ++c) start[c] = static_cast<E>(n.v_init.at(0, c));
  job.set_bytes = sets > 1 ? set * static_cast<int64_t>(sizeof(E)) : 0;
  job.constants = kept_.keep(all);
  job.start = kept_.keep(start);
  if (n.table && !job.forgets) job.table = make_table<E>(n, v, direct, kept_);
}

template <class E>
FireTable make_table(const NeuronConstants& n, Range v, bool direct, Kept& kept) {
  FireTable table;
  constexpr int64_t lowest = std::numeric_limits<E>::min(), highest = std::numeric_limits<E>::max();
  table.count = 2;
  while (table.count < static_cast<int64_t>(n.values.size())) table.count *= 2;
  if (direct) {
    table.low = v.low, table.high = v.high;
    std::vector<E> all;
    size_t passed = 0;
    for (int64_t x = v.low; x <= v.high; ++x) {
      while (passed < n.breaks.size() && n.breaks[passed] <= x) ++passed;
      all.push_back(static_cast<E>(n.values[passed]));
    }
    all.resize(all.size() + 64 / sizeof(E));
    table.direct = kept.keep(all);
    return table;
  }
  const size_t room = static_cast<size_t>(std::max<int64_t>(table.count, kEdges));
  std::vector<E> edges(room, static_cast<E>(highest)), values(room, static_cast<E>(n.values.back()));
  for (size_t i = 0; i < n.breaks.size(); ++i) edges[i] = static_cast<E>(std::clamp(n.breaks[i] - 1, lowest, highest));
  std::transform(n.values.begin(), n.values.end(), values.begin(), [](int64_t x) { return static_cast<E>(x); });
  table.edges = kept.keep(edges);
  table.values = kept.keep(values);
  return table;
}

template FireTable make_table<int16_t>(const NeuronConstants&, Range, bool, Kept&);
template FireTable make_table<int32_t>(const NeuronConstants&, Range, bool, Kept&);

namespace {

const FireSet& fire_set(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kFireAvx512;
  if (isa == Isa::avx2) return kFireAvx2;
#elif defined(__aarch64__)
  if (isa == Isa::neon) return kFireNeon;
#endif
  (void)isa;
  return kFireGeneric;
}

}  // namespace

FireStep fire_step(const FireJob& job, Isa isa) { return fire_set(isa).pick(job); }
FireLookUp fire_look_up(Isa isa) { return fire_set(isa).look_up; }

}  // namespace picojoule
