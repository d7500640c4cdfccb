// TimeMix in 32-bit vectors: y[t] = sum_j matrix[t, j] x[j] + bias[t], one step j added to all elements at a time.

#include <algorithm>

#include "moves.h"
#include "rows.h"
#include "rows_ops.h"

namespace picojoule {
namespace {

class TimeMixRows : public Op {
 public:
  TimeMixRows(const NodeDef& node, const RowsTable& table)
      : table_(table), T_(node.steps), size_(node.size()), causal_(node.integer("causal", 1) != 0) {
    const int64_t axis = channel_axis(node, node.shape);
    channels_ = node.shape[axis];
    for (size_t i = axis + 1; i < node.shape.size(); ++i) inner_ *= node.shape[i];
    const Tensor& matrix = node.need("matrix");
    const Ints values = matrix.values();
    sets_ = matrix.shape.size() == 3 && matrix.shape[0] > 1 ? channels_ : 1;
    factors_.resize(values.size());
    for (int64_t c = 0; c < sets_; ++c)
      for (int64_t i = 0; i < T_ * T_; ++i) factors_[i * sets_ + c] = static_cast<int32_t>(values[c * T_ * T_ + i]);
    const Tensor* bias = node.tensor("bias");
    const Ints given = bias ? bias->values() : Ints{0};
    const int64_t t_stride = bias && bias->shape[0] > 1 ? bias->shape[1] : 0, c_stride = bias && bias->shape[1] > 1;
    for (int64_t t = 0; t < T_; ++t)
      for (int64_t c = 0; c < channels_; ++c) bias_.push_back(static_cast<int32_t>(given[t * t_stride + c * c_stride]));
  }
  int64_t constant_bytes() const override { return (factors_.size() + bias_.size()) * 4; }
  int64_t state_bytes() const override { return T_ * size_ * 4; }  // every x seen so far

  void run(const Call& call) const override {
    int32_t* seen = reinterpret_cast<int32_t*>(call.state);
    int32_t* y = call.scratch->take<int32_t>(size_);
    for (int64_t t = 0; t < call.out.rows; ++t)
      table_.widen(call.in[0].row(t), static_cast<int>(bytes_of(call.in[0].dtype)), size_, seen + (call.first + t) * size_);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      const int64_t now = call.first + t, until = causal_ ? now + 1 : T_;
      for (int64_t row = 0, i = 0; i < size_; ++row, i += inner_)
        std::fill(y + i, y + i + inner_, bias_[now * channels_ + row % channels_]);
      for (int64_t j = 0; j < until; ++j) add(factors_.data() + (now * T_ + j) * sets_, seen + j * size_, y);
      table_.narrow(y, size_, static_cast<int>(bytes_of(call.out.dtype)), call.out.row(t));
    }
  }

 private:
  // y += factor * x, a factor for all or one a channel.
  void add(const int32_t* factor, const int32_t* x, int32_t* y) const {
    if (sets_ == 1) {
      if (*factor) table_.accumulate(x, 4, size_, *factor, y);
    } else if (inner_ == 1) {
      for (int64_t i = 0; i < size_; i += channels_)
        for (int64_t c = 0; c < channels_; ++c) y[i + c] += factor[c] * x[i + c];
    } else {
      for (int64_t row = 0, i = 0; i < size_; ++row, i += inner_)
        if (const int32_t f = factor[row % channels_]) table_.accumulate(x + i, 4, inner_, f, y + i);
    }
  }

  const RowsTable& table_;
  int64_t T_, size_, channels_ = 1, inner_ = 1, sets_ = 1;
  bool causal_;
  std::vector<int32_t> factors_, bias_;  // [t][j][sets], [t][channel]
};

}  // namespace

OpPtr make_rows_timemix(const NodeDef& node, const NodeDef& input, const RowsTable& table) {
  // Sums wrap, so that those of up to 32 bits are right whatever lies between.
  const auto small = [](const Ints& values) {
    return std::all_of(values.begin(), values.end(), [](int64_t v) { return v >= INT32_MIN && v <= INT32_MAX; });
  };
  const Tensor* bias = node.tensor("bias");
  if (node.kind.storage() == Dtype::i64 || input.kind.storage() == Dtype::i64 || !small(node.need("matrix").values()) ||
      (bias && !small(bias->values())))
    return nullptr;
  return std::make_unique<TimeMixRows>(node, table);
}

}  // namespace picojoule
