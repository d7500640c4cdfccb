// Input, Output, Repeat: where integers enter and leave.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "moves.h"
#include "op.h"

namespace picojoule {
namespace {

// i = floor(x * 2^frac + 1/2), clamped to the kind; spikes must be whole numbers of their kind already.
class InputOp : public Op {
 public:
  InputOp(const NodeDef& node, int slot, bool raw)
      : name_(node.name), slot_(slot), raw_(raw), spikes_(node.kind.spikes()), low_(node.kind.low()), high_(node.kind.high()),
        scale_(std::ldexp(1.0, node.kind.frac)) {
    if (const Tensor* table = node.tensor("table")) {
      table_ = table->values();
      const int64_t axis = channel_axis(node, node.shape);
      channels_ = table->shape[0];
      for (size_t i = axis + 1; i < node.shape.size(); ++i) inner_ *= node.shape[i];
    }
  }

  void run(const Call& call) const override {
    const BorderInput& given = call.inputs[slot_];
    const int64_t step = call.out.size * bytes_of(given.dtype);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      const std::byte* from = given.data + t * step;
      with_integer(call.out.dtype, [&](auto zero) {
        auto* to = call.out.as<decltype(zero)>(t);
        if (!table_.empty()) return look_up(reinterpret_cast<const uint8_t*>(from), to, call.out.size);
        if (given.dtype == Dtype::f32) return quantise(reinterpret_cast<const float*>(from), to, call.out.size);
        if (given.dtype == Dtype::f64) return quantise(reinterpret_cast<const double*>(from), to, call.out.size);
        with_integer(given.dtype, [&](auto element) {
          const auto* values = reinterpret_cast<const decltype(element)*>(from);
          if (!raw_ && spikes_) return copy_spikes(values, to, call.out.size);
          if (!raw_) return quantise(values, to, call.out.size);
          for (int64_t i = 0; i < call.out.size; ++i) to[i] = static_cast<decltype(zero)>(values[i]);
        });
      });
    }
  }

 private:
  template <class From, class To>
  void copy_spikes(const From* from, To* to, int64_t n) const {
    bool wrong = false;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t x = from[i];
      wrong |= (x < low_) | (x > high_);
      to[i] = static_cast<To>(x);
    }
    if (wrong) throw KindError("input '" + name_ + "' holds values that its kind of spikes does not allow");
  }
  // Without branches and calls, so that it vectorises: clamped first, which makes the cast defined; a NaN
  // becomes the lowest value.
  template <class From, class To>
  void quantise_small(const From* from, To* to, int64_t n) const {
    const double low = static_cast<double>(low_), high = static_cast<double>(high_), scale = scale_;
    constexpr int64_t kPart = 256;
    int32_t part[kPart];
    int bad = 0;
    for (int64_t begin = 0; begin < n; begin += kPart) {
      const int64_t count = std::min(kPart, n - begin);
      const From* x = from + begin;
      for (int64_t i = 0; i < count; ++i) {
        double at = static_cast<double>(x[i]) * scale + 0.5;
        at = at > low ? at : low;
        at = at < high ? at : high;
        const int32_t cut = static_cast<int32_t>(at);
        part[i] = cut - (static_cast<double>(cut) > at ? 1 : 0);
      }
      if constexpr (std::is_floating_point_v<From>)
        for (int64_t i = 0; i < count; ++i) bad |= std::fabs(x[i]) <= std::numeric_limits<From>::max() ? 0 : 1;
      for (int64_t i = 0; i < count; ++i) to[begin + i] = static_cast<To>(part[i]);
    }
    if (bad) throw NonFiniteError("input '" + name_ + "' holds NaN or infinity");
  }
  template <class From, class To>
  void quantise(const From* from, To* to, int64_t n) const {
    if (!spikes_ && high_ < (int64_t{1} << 30)) return quantise_small(from, to, n);
    const double low = static_cast<double>(low_), high = static_cast<double>(high_);
    for (int64_t i = 0; i < n; ++i) {
      const double given = static_cast<double>(from[i]), x = std::floor(given * scale_ + 0.5);
      if (!std::isfinite(given)) throw NonFiniteError("input '" + name_ + "' holds NaN or infinity");
      if (spikes_ && (given != x || x < low || x > high))
        throw KindError("input '" + name_ + "' holds " + std::to_string(given) + ", which its kind of spikes does not allow");
      to[i] = static_cast<To>(x <= low ? low_ : x >= high ? high_ : static_cast<int64_t>(x));
    }
  }
  template <class To>
  void look_up(const uint8_t* from, To* to, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(table_[(i / inner_ % channels_) * 256 + from[i]]);
  }

  std::string name_;
  int slot_;
  bool raw_, spikes_;
  int64_t low_, high_;
  double scale_;
  Ints table_;
  int64_t channels_ = 1, inner_ = 1;
};

class OutputOp : public Op {
 public:
  explicit OutputOp(int slot) : slot_(slot) {}
  void run(const Call& call) const override {
    for (int64_t t = 0; t < call.out.rows; ++t) widen(call.in[0], t, call.outputs[slot_] + t * call.out.size);
  }

 private:
  int slot_;
};

class RepeatOp : public Op {
 public:
  // A file may declare the repeated edge wider than the one it repeats; both hold the same integers.
  void run(const Call& call) const override {
    const View& in = call.in[0];
    for (int64_t t = 0; t < call.out.rows; ++t) {
      if (in.dtype == call.out.dtype) {
        std::memcpy(call.out.row(t), in.row(0), call.out.size * bytes_of(call.out.dtype));
        continue;
      }
      with_integer(in.dtype, [&](auto zero) { narrow(in.as<decltype(zero)>(0), call.out, t); });
    }
  }
};

}  // namespace

OpPtr make_input(const NodeDef& node, int slot, bool raw) { return std::make_unique<InputOp>(node, slot, raw); }
OpPtr make_output(const NodeDef&, int slot) { return std::make_unique<OutputOp>(slot); }
OpPtr make_repeat(const NodeDef&) { return std::make_unique<RepeatOp>(); }

}  // namespace picojoule
