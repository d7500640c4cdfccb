#include "neuron_constants.h"

#include <algorithm>

#include "moves.h"

namespace picojoule {
namespace {

using Wide = __int128;

int64_t clamp_wide(Wide x) {
  return static_cast<int64_t>(std::clamp<Wide>(x, -Range::kWide, Range::kWide));
}

Plane plane(const NodeDef& node, const char* key, const Tensor& t, int64_t lead, int64_t index, int64_t T, int64_t C) {
  const Shape& s = t.shape;
  const size_t skip = lead > 0 ? 1 : 0;
  if (s.size() != 2 + skip || (s[skip] != 1 && s[skip] != T) || (s[skip + 1] != 1 && s[skip + 1] != C))
    node.fail(std::string(key) + " must be [" + (skip ? "L, " : "") + "T|1, C|1], got " + to_string(s));
  const Ints all = t.values();
  const int64_t n = s[skip] * s[skip + 1];
  Plane p;
  p.values.assign(all.begin() + index * n, all.begin() + (index + 1) * n);
  p.c_stride = s[skip + 1] == 1 ? 0 : 1;
  p.t_stride = s[skip] == 1 ? 0 : s[skip + 1];
  return p;
}

// Range of a * x over a range of x.
void scale(int64_t a, Range x, Wide& low, Wide& high) {
  const Wide p = static_cast<Wide>(a) * x.low, q = static_cast<Wide>(a) * x.high;
  low = std::min(p, q);
  high = std::max(p, q);
}

}  // namespace

bool Plane::uniform() const {
  return std::all_of(values.begin(), values.end(), [&](int64_t v) { return v == values[0]; });
}

int Range::bits() const {
  int b = 1;
  while (b < 62 && !fits(b)) ++b;
  return b;
}

NeuronConstants::NeuronConstants(const NodeDef& node) {
  steps = std::max<int64_t>(1, node.steps);
  const int64_t axis = channel_axis(node, node.shape);
  channels = node.shape[axis];
  for (int64_t i = 0; i < axis; ++i) outer *= node.shape[i];
  for (size_t i = axis + 1; i < node.shape.size(); ++i) inner *= node.shape[i];

  auto read = [&](const char* key, Plane& into, int64_t otherwise) {
    into.values = {otherwise};
    if (const Tensor* t = node.tensor(key)) into = plane(node, key, *t, 0, 0, steps, channels);
  };
  read("decay", decay, 0);
  read("gain", gain, 1);
  read("bias", bias, 0);
  read("reset_value", reset_value, 0);
  read("v_init", v_init, 0);
  ternary = node.tensor("neg_threshold") != nullptr;
  read("neg_threshold", neg, 0);
  const Tensor& th = node.need("thresholds");
  if (th.shape.empty() || th.shape[0] < 1 || th.shape[0] > (1 << 16)) node.fail("thresholds needs at least one level");
  for (int64_t l = 0; l < th.shape[0]; ++l) thresholds.push_back(plane(node, "thresholds", th, 1, l, steps, channels));
  if (v_init.t_stride) node.fail("v_init has no steps");

  const std::string& mode = node.text("reset");
  if (mode != "hard" && mode != "soft" && mode != "none") node.fail("reset must be hard, soft, none");
  reset = mode == "hard" ? Reset::hard : mode == "soft" ? Reset::soft : Reset::none;
  const std::string& rounding = node.text("rounding");
  if (rounding != "floor" && rounding != "half_up") node.fail("rounding must be floor or half_up");
  half_up = rounding == "half_up";
  const int64_t shift = node.integer("decay_shift", 0);
  if (shift < 0 || shift > 62) node.fail("decay_shift must lie in 0..62");
  decay_shift = static_cast<int>(shift);

  table = node.tensor("values") != nullptr;
  if (table != (node.tensor("breaks") != nullptr)) node.fail("a table needs breaks and values");
  if (table) {
    breaks = node.need("breaks").values();
    values = node.need("values").values();
    if (node.need("breaks").shape.size() != 1 || node.need("values").shape.size() != 1 ||
        values.size() != breaks.size() + 1 || !std::is_sorted(breaks.begin(), breaks.end()))
      node.fail("a table of n ascending breaks needs n + 1 values");
  }
  const int64_t levels = static_cast<int64_t>(thresholds.size());
  if (!node.kind.spikes()) node.fail("gives spikes, not fixed values");
  if (node.kind.high() < levels || (ternary && node.kind.name != KindName::ternary))
    node.fail("an edge of this kind cannot hold the counts of " + std::to_string(levels) + " levels");
}

bool NeuronConstants::timeless() const {
  bool steady = decay.steady() && gain.steady() && bias.steady() && reset_value.steady() && neg.steady();
  for (auto& level : thresholds) steady = steady && level.steady();
  return steady;
}

bool NeuronConstants::forgets(bool stream) const {
  for (auto* plane : {&decay, &gain, &bias, &neg})
    if (!plane->steady()) return false;
  for (auto& level : thresholds)
    if (!level.steady()) return false;
  if (!stream && steps == 1) return true;
  return decay.uniform() && decay.values[0] == 0;
}

int64_t NeuronConstants::first_input(int64_t c, int64_t threshold) const {
  const auto floor_div = [](Wide a, Wide b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); };
  const Wide half = half_up && decay_shift > 0 ? Wide{1} << (decay_shift - 1) : 0;
  const Wide kept = (static_cast<Wide>(decay.at(0, c)) * v_init.at(0, c) + half) >> decay_shift;
  const Wide target = static_cast<Wide>(threshold) - kept - bias.at(0, c), g = gain.at(0, c);
  if (g == 0) return target <= 0 ? -Range::kWide : Range::kWide;
  return clamp_wide(g > 0 ? -floor_div(-target, g) : floor_div(-target, -g) + 1);
}

Range NeuronConstants::sweep(int64_t c, Range x, int64_t count, Range& v, Range* tight, Range* charged) const {
  Range reach = v;
  auto tighten = [&](Wide low, Wide high) {
    if (tight) *tight = {std::min(tight->low, clamp_wide(low)), std::max(tight->high, clamp_wide(high))};
  };
  tighten(v.low, v.high);
  auto include = [&](Wide low, Wide high) {
    reach.low = std::min(reach.low, clamp_wide(low));
    reach.high = std::max(reach.high, clamp_wide(high));
  };
  const int64_t L = static_cast<int64_t>(thresholds.size());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t t = std::min(i, steps - 1);
    Wide low, high, gl, gh;
    scale(decay.at(t, c), v, low, high);
    const Wide half = half_up && decay_shift > 0 ? Wide{1} << (decay_shift - 1) : 0;
    if (split) include(static_cast<Wide>(v.low) - (Wide{1} << decay_shift), static_cast<Wide>(v.high) + (Wide{1} << decay_shift));
    else include(low, high + half);
    low = (low + half) >> decay_shift;
    high = (high + half) >> decay_shift;
    scale(gain.at(t, c), x, gl, gh);
    include(gl + bias.at(t, c), gh + bias.at(t, c));
    include(gl, gh);
    low += gl + bias.at(t, c);
    high += gh + bias.at(t, c);
    include(low + std::min<Wide>(0, gl), high + std::max<Wide>(0, gh));
    for (auto& level : thresholds) include(level.at(t, c), level.at(t, c));
    if (ternary) include(neg.at(t, c), neg.at(t, c));
    if (charged) *charged = {std::min(charged->low, clamp_wide(low)), std::max(charged->high, clamp_wide(high))};
    tighten(low, high);
    for (auto& level : thresholds) tighten(low - level.at(t, c), high - level.at(t, c));
    // Below the first threshold nothing fires; above it the largest possible reset bounds what is left.
    const Wide r = reset_value.at(t, c);
    Wide vl = low, vh = high;
    bool ordered = !ternary || neg.at(t, c) < thresholds[0].at(t, c);
    for (int64_t l = 1; l < L; ++l) ordered = ordered && thresholds[l - 1].at(t, c) <= thresholds[l].at(t, c);
    if (reset == Reset::hard) {
      include(r, r);
      if (ordered && L) {
        vh = std::min<Wide>(high, static_cast<Wide>(thresholds[0].at(t, c)) - 1);
        if (ternary) vl = std::max<Wide>(low, static_cast<Wide>(neg.at(t, c)) + 1);
        if (vh < vl) vl = vh = r;
      }
      vl = std::min(vl, r);
      vh = std::max(vh, r);
    } else if (reset == Reset::soft) {
      include(std::min<Wide>(-L * r, L * r), std::max<Wide>(-L * r, L * r));
      Wide ul = 0, uh = 0;
      bool any = false;
      for (int64_t n = ternary ? -1 : 0; n <= L; ++n) {
        Wide hl = low, hh = high;
        if (ordered && n > 0) hl = std::max<Wide>(hl, thresholds[n - 1].at(t, c));
        if (ordered && n >= 0 && n < L) hh = std::min<Wide>(hh, static_cast<Wide>(thresholds[n].at(t, c)) - 1);
        if (ordered && n == 0 && ternary) hl = std::max<Wide>(hl, static_cast<Wide>(neg.at(t, c)) + 1);
        if (ordered && n < 0) hh = std::min<Wide>(hh, neg.at(t, c));
        if (hl > hh) continue;
        ul = any ? std::min(ul, hl - n * r) : hl - n * r;
        uh = any ? std::max(uh, hh - n * r) : hh - n * r;
        any = true;
      }
      vl = ul;
      vh = uh;
    }
    include(vl, vh);
    tighten(vl, vh);
    if (table) {
      vl = *std::min_element(values.begin(), values.end());
      vh = *std::max_element(values.begin(), values.end());
      include(vl, vh);
    }
    v = {clamp_wide(vl), clamp_wide(vh)};
  }
  return reach;
}

bool NeuronConstants::affordable(int64_t count) const {
  return static_cast<long double>(channels) * count * (thresholds.size() + 8) < 1e9L;
}

Range NeuronConstants::reach(const std::vector<Range>& x, int64_t count) const {
  if (!affordable(count == kForever ? kHullSteps : count)) return {-Range::kWide, Range::kWide};
  Range all{0, 0};
  for (int64_t c = 0; c < channels; ++c) {
    Range v{v_init.at(0, c), v_init.at(0, c)};
    if (count == kForever && !hull(c, x[x.size() == 1 ? 0 : c], v)) return {-Range::kWide, Range::kWide};
    const Range one = sweep(c, x[x.size() == 1 ? 0 : c], count == kForever ? 1 : count, v);
    all = {std::min(all.low, one.low), std::max(all.high, one.high)};
  }
  return all;
}

bool NeuronConstants::hull(int64_t c, Range x, Range& v) const {
  for (int i = 0; i < kHullSteps; ++i) {
    Range next = v;
    sweep(c, x, 1, next);
    const Range wider{std::min(v.low, next.low), std::max(v.high, next.high)};
    const bool settled = wider.low == v.low && wider.high == v.high;
    v = wider;
    if (settled) return v.low > -Range::kWide && v.high < Range::kWide;
  }
  return false;
}

bool NeuronConstants::bounded(const std::vector<Range>& x) const {
  if (!timeless() || !affordable(kHullSteps)) return false;
  for (int64_t c = 0; c < channels; ++c) {
    Range v{v_init.at(0, c), v_init.at(0, c)};
    if (!hull(c, x[x.size() == 1 ? 0 : c], v)) return false;
  }
  return true;
}

Range NeuronConstants::membrane(const std::vector<Range>& x, int64_t count, bool stream) const {
  if (!affordable(stream ? kHullSteps : count)) return {-Range::kWide, Range::kWide};
  Range tight{0, 0};
  for (int64_t c = 0; c < channels; ++c) {
    const Range one = x[x.size() == 1 ? 0 : c];
    Range v{v_init.at(0, c), v_init.at(0, c)};
    if (stream && !hull(c, one, v)) return {-Range::kWide, Range::kWide};
    sweep(c, one, stream ? 1 : count, v, &tight);
  }
  return tight;
}

bool NeuronConstants::splittable() const {
  const bool within = std::all_of(decay.values.begin(), decay.values.end(),
                                  [&](int64_t d) { return d >= 0 && d <= int64_t{1} << decay_shift; });
  return decay_shift <= 15 && within;
}

bool NeuronConstants::fit31(const std::vector<Range>& x, int64_t count) {
  if (reach(x, count).fits(31)) return true;
  split = splittable() && decay_shift > 0;
  if (split && reach(x, count).fits(31)) return true;
  split = false;
  return false;
}

bool NeuronConstants::charge_range(int64_t c, Range x, bool stream, Range& h) const {
  Range v{v_init.at(0, c), v_init.at(0, c)};
  if (stream && !hull(c, x, v)) return false;
  h = {Range::kWide, -Range::kWide};
  sweep(c, x, stream ? 1 : steps, v, nullptr, &h);
  return h.low > -Range::kWide && h.high < Range::kWide;
}

namespace {

// One value a channel, so that one channel can be changed.
void by_channel(Plane& p, int64_t channels) {
  if (p.c_stride) return;
  p.values.assign(channels, p.values[0]);
  p.c_stride = 1;
}

}  // namespace

void NeuronConstants::settle(const std::vector<Range>& x, bool stream) {
  if (table || !timeless() || !affordable(stream ? kHullSteps : steps)) return;
  std::vector<Plane*> changed{&bias, &reset_value, &v_init, &neg};
  for (auto& level : thresholds) changed.push_back(&level);
  for (Plane* p : changed) by_channel(*p, channels);
  for (int64_t c = 0; c < channels; ++c) settle_channel(c, x[x.size() == 1 ? 0 : c], stream, changed);
}

void NeuronConstants::settle_channel(int64_t c, Range x, bool stream, const std::vector<Plane*>& changed) {
  Range h;
  if (!charge_range(c, x, stream, h)) return;
  bool never = true, always = true;
  for (auto& level : thresholds) {
    never = never && level.values[c] > h.high;
    always = always && level.values[c] <= h.low;
  }
  const bool negative = ternary && neg.values[c] >= h.low;
  // A threshold out of reach is as good as the nearest one out of reach.
  auto clamp = [&] {
    for (auto& level : thresholds) level.values[c] = std::clamp(level.values[c], h.low, h.high + 1);
    neg.values[c] = std::clamp(neg.values[c], h.low - 1, h.high);
  };
  clamp();
  if (negative || (!never && !always)) return;
  Ints before;
  for (Plane* p : changed) {
    before.push_back(p->values[c]);
    p->values[c] = 0;
  }
  for (auto& level : thresholds) level.values[c] = never ? Range::kWide : -Range::kWide;
  neg.values[c] = -Range::kWide;
  const bool bounded = charge_range(c, x, stream, h);
  clamp();
  if (bounded) return;
  for (size_t i = 0; i < changed.size(); ++i) changed[i]->values[c] = before[i];
}

}  // namespace picojoule
