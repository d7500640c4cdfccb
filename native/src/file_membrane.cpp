// Bounds of spikes and membranes of a snapped neuron over its T steps.

#include <cstdlib>

#include "file_bounds.h"

namespace picojoule::file {
namespace {

constexpr int64_t kExactSteps = 256;  // after so many steps of an unsettled membrane a sound leap replaces exact steps

// A plane [T|1, C|1] (thresholds: one a level); row t as [C|1].
struct Rows {
  int64_t steps = 1, width = 1;
  Ints values{0};

  Array at(int64_t t) const {
    const auto from = values.begin() + (steps > 1 ? t : 0) * width;
    return {{width}, Ints(from, from + width)};
  }
  int64_t at(int64_t t, int64_t c) const { return values[(steps > 1 ? t : 0) * width + (width > 1 ? c : 0)]; }
  Array all() const { return {{steps, width}, values}; }
};

Rows rows(const Shape& shape, const Ints& values, size_t begin) {
  const int64_t n = shape[0] * shape[1];
  return {shape[0], shape[1], Ints(values.begin() + static_cast<int64_t>(begin) * n, values.begin() + static_cast<int64_t>(begin + 1) * n)};
}

// Steps one interval of the membrane a channel through the equation of `Neuron`.
class Sweep {
 public:
  Sweep(const Node& node, const Interval& row)
      : node_(node), axis_(axis_of(node, node.number("axis"), node.shape.size())), x_(along(row, axis_)),
        shift_(node.number("decay_shift")), half_up_(node.word("rounding") == "half_up"), decay_(plane("decay")), gain_(plane("gain")),
        bias_(plane("bias")), reset_(plane("reset_value")), v_init(plane("v_init").at(0)), has_negative(node.find("neg_threshold") != nullptr) {
    if (has_negative) negative_ = plane("neg_threshold");
    const Tensor& th = node.find("thresholds")->tensor;
    const Ints values = th.values();
    for (int64_t l = 0; l < th.shape[0]; ++l) levels_.push_back(rows({th.shape[1], th.shape[2]}, values, static_cast<size_t>(l)));
    steady = true;
    for (auto* p : {&decay_, &gain_, &bias_, &reset_, &levels_[0]}) steady = steady && p->steps == 1;
    steady = steady && (!has_negative || negative_.steps == 1);
    ordered_ = true;
    for (size_t l = 1; l < levels_.size(); ++l)
      for (size_t i = 0; i < levels_[l].values.size(); ++i) ordered_ = ordered_ && levels_[l].values[i] >= levels_[l - 1].values[i];
    if (has_negative) {
      const Array above = combine(negative_.all(), levels_[0].all(), [](int64_t a, int64_t b) { return int64_t{a >= b}; });
      ordered_ = ordered_ && above.most() == 0;
    }
  }

  // Bounds of h from those of v.
  std::pair<Array, Array> charge(int64_t t, const Array& low, const Array& high) const {
    const auto part = [&](const Array& constant, const Array& a, const Array& b, int64_t shift) {
      const Array p = product_of(constant, a), q = product_of(constant, b);
      return std::pair(shifted(smaller(p, q), shift, half_up_), shifted(larger(p, q), shift, half_up_));
    };
    const auto [vl, vh] = part(decay_.at(t), low, high, shift_);
    const auto [xl, xh] = part(gain_.at(t), x_.low, x_.high, 0);
    const Array bias = bias_.at(t);
    return {sum_of(sum_of(vl, xl), bias), sum_of(sum_of(vh, xh), bias)};
  }

  // Spikes n for a membrane h, per channel.
  Array count(int64_t t, const Array& h) const {
    int64_t width = std::max(h.shape[0], levels_[0].width);
    if (has_negative) width = std::max(width, negative_.width);
    Array spikes{{width}, Ints(static_cast<size_t>(width), 0)};
    for (auto& level : levels_)
      for (int64_t c = 0; c < width; ++c) spikes.values[c] += of(h, c) >= level.at(t, c);
    for (int64_t c = 0; has_negative && c < width; ++c) spikes.values[c] -= of(h, c) <= negative_.at(t, c);
    return spikes;
  }

  // Bounds of v after the reset, from those of h: joined over the parts of h that give each count n = k.
  std::pair<Array, Array> fire(int64_t t, const Array& low, const Array& high) const {
    const std::string& mode = node_.word("reset");
    if (mode == "none") return {low, high};
    const bool hard = mode == "hard";
    int64_t width = std::max(low.shape[0], reset_.width);
    if (ordered_) width = std::max(width, levels_[0].width);
    if (ordered_ && has_negative) width = std::max(width, negative_.width);
    Array least{{width}, Ints(static_cast<size_t>(width), kMany)}, most{{width}, Ints(static_cast<size_t>(width), -kMany)};
    for (int64_t k = has_negative ? -1 : 0; k <= levels(); ++k) {
      Wide part = 0, jump = 0;  // peaks of h in this part and of what the reset adds
      for (int64_t c = 0; c < width; ++c) {
        int64_t a = of(low, c), b = of(high, c);
        if (ordered_) narrow(t, k, c, a, b);
        int64_t from = a, to = b;
        if (k && hard) {
          from = to = reset_.at(t, c);
        } else if (k) {
          const int64_t back = -k * reset_.at(t, c);
          for (Wide v : {Wide{a}, Wide{b}}) part = std::max({part, v, -v});
          jump = std::max({jump, Wide{back}, -Wide{back}});
          from = a + back;
          to = b + back;
        }
        if (a > b) continue;  // this count cannot happen
        least.values[c] = std::min(least.values[c], from);
        most.values[c] = std::max(most.values[c], to);
      }
      if (part + jump >= kMany) throw TooWide{};
    }
    return {least, most};
  }

  // A sound bound of |v| after `steps` more steps of a membrane that does not grow by itself.
  int64_t leap(int64_t low, int64_t high, int64_t steps) const {
    if (magnitude(decay_) > int64_t{1} << shift_) throw TooWide{};
    const int64_t x = std::max(std::abs(x_.least()), std::abs(x_.most()));
    const int64_t drive = times(x, magnitude(gain_)), jump = times(static_cast<int64_t>(levels_.size()), magnitude(reset_));
    const int64_t each = plus(plus(plus(drive, magnitude(bias_)), jump), 1);
    const int64_t peak = plus(std::max(-low, high), times(steps, each));
    if (peak >= kMany) throw TooWide{};
    return peak;
  }

  size_t axis() const { return axis_; }
  int64_t levels() const { return static_cast<int64_t>(levels_.size()); }

 private:
  Rows plane(const char* field) const {
    const Tensor& t = node_.find(field)->tensor;
    return rows(t.shape, t.values(), 0);
  }
  static int64_t magnitude(const Rows& rows) {
    int64_t most = 0;
    for (int64_t v : rows.values) most = std::max(most, std::abs(v));
    return most;
  }
  static int64_t of(const Array& x, int64_t c) { return x.values[x.values.size() == 1 ? 0 : static_cast<size_t>(c)]; }
  void narrow(int64_t t, int64_t k, int64_t c, int64_t& a, int64_t& b) const {
    if (k >= 1) a = std::max(a, levels_[k - 1].at(t, c));
    if (k >= 0 && k < levels()) b = std::min(b, levels_[k].at(t, c) - 1);
    if (has_negative && k < 0) b = std::min(b, negative_.at(t, c));
    if (has_negative && k == 0) a = std::max(a, negative_.at(t, c) + 1);
  }

  const Node& node_;
  size_t axis_;
  Interval x_;
  int64_t shift_;
  bool half_up_, ordered_ = true;
  Rows decay_, gain_, bias_, reset_, negative_;
  std::vector<Rows> levels_;

 public:
  const Array v_init;
  const bool has_negative;
  bool steady = true;  // no constant depends on the step
};

}  // namespace

Membrane membrane(const Node& node, const Interval& x) {
  const Sweep sweep(node, x);
  const int64_t steps = std::max<int64_t>(1, node.steps);
  const size_t rank = node.shape.size();
  Array low = sweep.v_init, high = sweep.v_init;
  Membrane m{{}, low.least(), high.most()};
  const auto include = [&](int64_t least, int64_t most) {
    m.low = std::min(m.low, least);
    m.high = std::max(m.high, most);
  };
  for (int64_t t = 0; t < steps; ++t) {
    const auto [h_low, h_high] = sweep.charge(t, low, high);
    const Array fewest = sweep.count(t, h_low), most = sweep.count(t, h_high);
    m.spikes = t == 0 ? Interval{fewest, most} : Interval{smaller(m.spikes.low, fewest), larger(m.spikes.high, most)};
    auto [next_low, next_high] = sweep.fire(t, h_low, h_high);
    include(std::min(h_low.least(), next_low.least()), std::max(h_high.most(), next_high.most()));
    if (node.find("values")) {
      const auto [least, greatest] = staircase(node, next_low.least(), next_high.most());
      next_low = Array::filled(1, least);
      next_high = Array::filled(1, greatest);
      include(least, greatest);
    }
    const bool settled = next_low.values == low.values && next_high.values == high.values;
    low = std::move(next_low);
    high = std::move(next_high);
    if (sweep.steady && t && settled) break;
    if (sweep.steady && t + 1 >= kExactSteps && t + 1 < steps) {
      const int64_t peak = sweep.leap(m.low, m.high, steps - t - 1);
      m.low = -peak;
      m.high = peak;
      m.spikes = {Array::filled(1, sweep.has_negative ? -1 : 0), Array::filled(1, sweep.levels())};
      break;
    }
  }
  m.spikes = {spread(m.spikes.low, sweep.axis(), rank), spread(m.spikes.high, sweep.axis(), rank)};
  return m;
}

}  // namespace picojoule::file
