// Neurons of fire.h; compiled once an instruction set by fire_generic.cpp and its neighbours, which name the
// functions PJ_FIRE.

#include "fire.h"
#include "simd.h"

#include "fire_lanes.inl"
#include "fire_table.inl"

namespace {

using namespace picojoule;

// (decay v + half) >> shift. Words: decays are scaled to 2^16 (2^15 where halves round up), a decay of one is the
// mask kWhole beside a product of nothing, or, above a half, beside the product with decay - 1.
template <class L, Leak K>
[[gnu::always_inline]] inline typename L::X leaked(const FireJob& f, const typename L::E* k, typename L::X v) {
  if constexpr (K == Leak::whole) return v;
  if constexpr (K == Leak::shift) {
    const auto kept = L::down(v, f.shift);
    return f.half_up ? L::add(kept, L::bit(v, f.shift - 1)) : kept;
  }
  const auto decay = L::load(k + kDecay * kFireGroup);
  if constexpr (sizeof(typename L::E) == 2) {
    const auto product = f.half_up ? L::rounded_product(v, decay) : L::high_product(v, decay);
    return L::add(product, L::both(v, L::load(k + kWhole * kFireGroup)));
  } else {
    const auto half = L::every(f.half_up && f.shift > 0 ? 1 << (f.shift - 1) : 0);
    if constexpr (K == Leak::product) return L::down(L::add(L::multiply(decay, v), half), f.shift);
    const auto low = L::multiply(decay, L::both(v, L::every((1 << f.shift) - 1)));
    return L::add(L::multiply(decay, L::down(v, f.shift)), L::down(L::add(low, half), f.shift));
  }
}

template <class L, Leak K>
[[gnu::always_inline]] inline typename L::X charged(const FireJob& f, const typename L::E* k, const int32_t* sums, const typename L::E* v) {
  auto h = L::sums(sums);
  if (f.scaled) h = L::multiply(h, L::load(k + kGain * kFireGroup));
  h = L::add(h, L::load(k + kCharge * kFireGroup));
  if constexpr (K == Leak::none) return h;
  else return L::add(h, leaked<L, K>(f, k, L::load(v)));
}

// Binary spikes.
template <class L, Leak K>
void fire_one(const FireJob& f, int64_t step, const int32_t* sums, std::byte* state, std::byte* words) {
  using E = typename L::E;
  constexpr int64_t lanes = kFireGroup / L::kVectors;
  const E* k = reinterpret_cast<const E*>(f.constants + step * f.set_bytes);
  E* v = reinterpret_cast<E*>(state);
  for (int64_t g = 0; g < f.groups; ++g, k += f.rows * kFireGroup, v += kFireGroup, sums += kFireGroup) {
    typename L::M fired[L::kVectors];
    for (int n = 0; n < L::kVectors; ++n) {
      const E* at = k + n * lanes;
      const auto h = charged<L, K>(f, at, sums + n * lanes, v + n * lanes);
      fired[n] = L::above(h, L::load(at + kThreshold * kFireGroup));
      if (f.forgets) continue;
      auto left = h;
      if (f.reset == 1) left = L::less_where(h, fired[n], L::load(at + kResetValue * kFireGroup));
      if (f.reset == 0) left = L::select(fired[n], L::load(at + kResetValue * kFireGroup), h);
      L::store(v + n * lanes, left);
    }
    const uint32_t bits = L::bits(fired);
    std::memcpy(words + 4 * g, &bits, 4);
  }
}

// Several levels, negative spikes, membrane tables.
template <class L, Leak K>
void fire_many(const FireJob& f, int64_t step, const int32_t* sums, std::byte* state, std::byte* words) {
  using E = typename L::E;
  constexpr int64_t lanes = kFireGroup / L::kVectors;
  const E* k = reinterpret_cast<const E*>(f.constants + step * f.set_bytes);
  E* v = reinterpret_cast<E*>(state);
  for (int64_t g = 0; g < f.groups; ++g, k += f.rows * kFireGroup, v += kFireGroup, sums += kFireGroup) {
    typename L::X count[L::kVectors];
    typename L::M negative[L::kVectors] = {};
    for (int n = 0; n < L::kVectors; ++n) {
      const E* at = k + n * lanes;
      const auto h = charged<L, K>(f, at, sums + n * lanes, v + n * lanes);
      auto spikes = L::zero();
      for (int l = 0; l < f.levels; ++l) spikes = L::count(spikes, L::above(h, L::load(at + (kThreshold + l) * kFireGroup)));
      if (f.ternary) {
        // A channel may pass both thresholds at once, which is no spike.
        const auto below = L::above(L::load(at + kNegative * kFireGroup), h);
        spikes = L::subtract(spikes, L::count(L::zero(), below));
        negative[n] = L::above(L::zero(), spikes);
      }
      count[n] = spikes;
      if (f.forgets) continue;
      auto left = h;
      const auto reset = L::load(at + kResetValue * kFireGroup);
      if (f.reset == 1) left = L::subtract(h, L::multiply(spikes, reset));
      if (f.reset == 0) left = L::select(L::some(spikes), reset, h);
      L::store(v + n * lanes, left);
    }
    std::byte* to = words + 4 * g;
    if (f.ternary) {
      const uint32_t down = L::bits(negative), up = L::bits(count, 0) & ~down;
      std::memcpy(to, &up, 4);
      std::memcpy(to + f.plane_bytes, &down, 4);
      continue;
    }
    for (int q = 0; q < f.out_planes; ++q) {
      const uint32_t bits = L::bits(count, q);
      std::memcpy(to + q * f.plane_bytes, &bits, 4);
    }
  }
  if (f.table.count && !f.forgets) look_up(f.table, reinterpret_cast<E*>(state), f.groups * kFireGroup);
}

// Words hold two groups; of an odd number the last word's upper half is empty.
template <void (*Fire)(const FireJob&, int64_t, const int32_t*, std::byte*, std::byte*)>
void whole_words(const FireJob& f, int64_t step, const int32_t* sums, std::byte* v, std::byte* words) {
  Fire(f, step, sums, v, words);
  if (f.groups % 2)
    for (int q = 0; q < f.out_planes; ++q) std::memset(words + q * f.plane_bytes + 4 * f.groups, 0, 4);
}

template <class L, Leak K>
FireStep by_spikes(const FireJob& f) {
  const bool one = f.levels == 1 && !f.ternary && f.out_planes == 1 && !f.table.count;
  return one ? whole_words<fire_one<L, K>> : whole_words<fire_many<L, K>>;
}

template <class L>
FireStep by_leak(const FireJob& f) {
  switch (f.leak) {
    case Leak::none: return by_spikes<L, Leak::none>(f);
    case Leak::whole: return by_spikes<L, Leak::whole>(f);
    case Leak::shift: return by_spikes<L, Leak::shift>(f);
    case Leak::halves:
      if constexpr (sizeof(typename L::E) == 4) return by_spikes<L, Leak::halves>(f);
    default: return by_spikes<L, Leak::product>(f);
  }
}

FireStep pick(const FireJob& f) { return f.lane == 2 ? by_leak<Lanes16>(f) : by_leak<Lanes32>(f); }

}  // namespace

namespace picojoule {
const FireSet PJ_FIRE = {pick, look_up};
}
