// Where rows enter a graph or change places: inputs of numbers and of bytes with a table, rows turned so that their
// channel lies last, totals over their pixels.

#include <cmath>
#include <limits>

#include "block.h"
#include "block_op.h"
#include "moves.h"

namespace picojoule {
namespace {

class TurnOp : public Op {
 public:
  TurnOp(const NodeDef& node, bool to_last, const BlockTable& table)
      : table_(table), rows_(to_last ? node.shape[0] : node.size() / node.shape[0]), columns_(node.size() / rows_) {}
  void run(const Call& call) const override {
    for (int64_t t = 0; t < call.out.rows; ++t) {
      if (call.out.dtype == Dtype::i64) turn64(call.in[0].as<int64_t>(t), call.out.as<int64_t>(t));
      else table_.turn(call.in[0].row(t), static_cast<int>(bytes_of(call.out.dtype)), rows_, columns_, call.out.row(t));
    }
  }

 private:
  void turn64(const int64_t* x, int64_t* y) const {
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < columns_; ++c) y[c * rows_ + r] = x[r * columns_ + c];
  }

  const BlockTable& table_;
  int64_t rows_, columns_;
};

class BorderOp : public Op {
 public:
  BorderOp(const NodeDef& node, int slot, Layout layout, const BlockTable& table)
      : table_(table), name_(node.name), slot_(slot), element_(static_cast<int>(bytes_of(node.kind.storage()))) {
    row_.low = static_cast<int32_t>(node.kind.low()), row_.high = static_cast<int32_t>(node.kind.high());
    row_.scale = std::ldexp(1.0f, node.kind.frac);
    row_.inner = node.size();
    row_.last = layout == Layout::last;
    if (row_.last) row_.channels = node.shape[0], row_.inner = node.size() / node.shape[0];
    if (const Tensor* table_given = node.tensor("table")) tabulate(node, *table_given);
  }
  int64_t constant_bytes() const override { return static_cast<int64_t>(entries_.size()); }

  void run(const Call& call) const override {
    const BorderInput& given = call.inputs[slot_];
    const int64_t bytes = call.out.size * bytes_of(given.dtype);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      const std::byte* from = given.data + t * bytes;
      if (!entries_.empty()) {
        for (int64_t o = 0; o < outer_; ++o) {
          const int64_t at = o * row_.channels * row_.inner;
          table_.look_up(row_, reinterpret_cast<const uint8_t*>(from) + at, entries_.data(), element_, call.out.row(t) + at * element_);
        }
      } else if (given.dtype == Dtype::f32) {
        if (!table_.quantise(row_, reinterpret_cast<const float*>(from), element_, call.out.row(t)))
          throw NonFiniteError("input '" + name_ + "' holds NaN or infinity");
      } else {
        others(given.dtype, from, call.out, t);
      }
    }
  }

 private:
  // Integers of one channel after another, as the kind stores them.
  void tabulate(const NodeDef& node, const Tensor& given) {
    const Ints values = given.values();
    const int64_t axis = channel_axis(node, node.shape), rows = given.shape[0];
    row_.inner = 1;
    for (int64_t i = 0; i < axis; ++i) outer_ *= node.shape[i];
    for (size_t i = axis + 1; i < node.shape.size(); ++i) row_.inner *= node.shape[i];
    row_.channels = node.shape[axis];
    entries_.resize(row_.channels * 256 * element_);
    with_integer(node.kind.storage(), [&](auto zero) {
      auto* to = reinterpret_cast<decltype(zero)*>(entries_.data());
      for (int64_t c = 0; c < row_.channels; ++c)
        for (int64_t i = 0; i < 256; ++i) *to++ = static_cast<decltype(zero)>(values[c % rows * 256 + i]);
    });
  }
  // Doubles and integers, rare enough for one element at a time.
  void others(Dtype type, const std::byte* from, const View& out, int64_t t) const {
    if (type == Dtype::f64) return quantise(reinterpret_cast<const double*>(from), out, t);
    with_integer(type, [&](auto zero) { quantise(reinterpret_cast<const decltype(zero)*>(from), out, t); });
  }
  template <class From>
  void quantise(const From* from, const View& out, int64_t t) const {
    const double low = row_.low, high = row_.high, scale = row_.scale;
    with_integer(out.dtype, [&](auto zero) {
      auto* to = out.as<decltype(zero)>(t);
      for (int64_t c = 0; c < row_.channels; ++c)
        for (int64_t i = 0; i < row_.inner; ++i) {
          const double x = static_cast<double>(*from++);
          if (!(std::fabs(x) <= std::numeric_limits<double>::max())) throw NonFiniteError("input '" + name_ + "' holds NaN or infinity");
          const double at = std::floor(x * scale + 0.5);
          to[row_.last ? i * row_.channels + c : c * row_.inner + i] = static_cast<decltype(zero)>(at < low ? low : at > high ? high : at);
        }
    });
  }

  const BlockTable& table_;
  std::string name_;
  int slot_, element_;
  BorderRow row_;
  int64_t outer_ = 1;
  std::vector<std::byte> entries_;
};

// Spikes in bytes or in single precision; what else may hold them, and what is no spike, is left to the plain node.
class SpikesOp : public Op {
 public:
  SpikesOp(const NodeDef& node, int slot, const BlockTable& table)
      : table_(table), plain_(make_input(node, slot, false)), slot_(slot), low_(static_cast<int>(node.kind.low())), high_(static_cast<int>(node.kind.high())) {}
  void run(const Call& call) const override {
    const BorderInput& given = call.inputs[slot_];
    const int64_t n = call.out.size;
    bool good = given.dtype == Dtype::u8 || given.dtype == Dtype::i8 || given.dtype == Dtype::f32;
    for (int64_t t = 0; good && t < call.out.rows; ++t) {
      const std::byte* from = given.data + t * n * bytes_of(given.dtype);
      good = given.dtype == Dtype::f32 ? table_.spike_floats(reinterpret_cast<const float*>(from), n, low_, high_, call.out.as<int8_t>(t))
                                       : table_.spike_bytes(from, given.dtype == Dtype::i8, n, low_, high_, call.out.as<int8_t>(t));
    }
    if (!good) plain_->run(call);
  }

 private:
  const BlockTable& table_;
  OpPtr plain_;
  int slot_, low_, high_;
};

class ColumnsOp : public Op {
 public:
  ColumnsOp(const NodeDef& input, const BlockTable& table) : table_(table), columns_(input.shape[0]), rows_(input.size() / input.shape[0]) {}
  void run(const Call& call) const override {
    int32_t* sums = call.scratch->take<int32_t>(columns_);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      table_.columns({call.in[0].row(t), static_cast<int>(bytes_of(call.in[0].dtype))}, rows_, columns_, sums);
      table_.narrow(sums, columns_, static_cast<int>(bytes_of(call.out.dtype)), call.out.row(t));
    }
  }

 private:
  const BlockTable& table_;
  int64_t columns_, rows_;
};

}  // namespace

OpPtr make_turn(const NodeDef& node, bool to_last, Isa isa) { return std::make_unique<TurnOp>(node, to_last, block_table(isa)); }

OpPtr make_border(const NodeDef& node, int slot, Layout layout, Isa isa) {
  const Kind& kind = node.kind;
  constexpr int64_t exact = int64_t{1} << 23;  // of what single precision holds
  if (node.type != "Input" || node.size() == 0) return nullptr;
  if (kind.spikes()) {
    if (layout == Layout::last || kind.storage() != Dtype::i8 || kind.frac != 0) return nullptr;
    return std::make_unique<SpikesOp>(node, slot, block_table(isa));
  }
  const bool numbers = kind.low() > -exact && kind.high() < exact && kind.frac > -100 && kind.frac < 100;
  const bool bytes = node.tensor("table") && kind.storage() != Dtype::i64 && node.size() <= int64_t{1} << 30;
  if (node.tensor("table") ? !bytes : !numbers) return nullptr;
  if (layout == Layout::last && node.tensor("table") && channel_axis(node, node.shape) != 0) return nullptr;
  return std::make_unique<BorderOp>(node, slot, layout, block_table(isa));
}

OpPtr make_columns(const NodeDef& node, const NodeDef& input, Isa isa) {
  if (node.type != "Mean" || input.size() == 0 || input.kind.storage() == Dtype::i64 || node.kind.storage() == Dtype::i64) return nullptr;
  const int64_t rank = static_cast<int64_t>(input.shape.size());
  std::vector<bool> gone(rank, false);
  for (int64_t axis : node.list("axes")) gone[axis < 0 ? axis + rank : axis] = true;
  if (gone[0] || std::find(gone.begin() + 1, gone.end(), false) != gone.end()) return nullptr;
  return std::make_unique<ColumnsOp>(input, block_table(isa));
}

}  // namespace picojoule
