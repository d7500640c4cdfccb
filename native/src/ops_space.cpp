// Pool, Mean (exact sum), Concat, Reshape, Upsample: what moves or gathers inside a row.

#include <algorithm>

#include "moves.h"
#include "op.h"

namespace picojoule {
namespace {

class PoolOp : public Op {
 public:
  PoolOp(const NodeDef& node, const NodeDef& input) : w_(window_of(node, input)), sum_(node.text("mode") == "sum") {
    const bool low = node.text("mode") == "min";
    minimum_.assign(w_.channels_in, low);
    if (const Tensor* flip = node.tensor("flip")) {
      const Ints flips = flip->values();
      for (int64_t c = 0; c < w_.channels_in; ++c)
        if (flips[flips.size() == 1 ? 0 : c]) minimum_[c] = !low;
    }
  }

  void run(const Call& call) const override {
    int64_t* x = call.scratch->take<int64_t>(call.in[0].size);
    int64_t* y = call.scratch->take<int64_t>(call.out.size);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, x);
      int64_t at = 0;
      for (int64_t c = 0; c < w_.channels_in; ++c)
        for (int64_t d = 0; d < w_.out[0]; ++d)
          for (int64_t h = 0; h < w_.out[1]; ++h)
            for (int64_t v = 0; v < w_.out[2]; ++v) y[at++] = window(x + c * w_.in_pixels(), c, d, h, v);
      narrow(y, call.out, t);
    }
  }

 private:
  int64_t window(const int64_t* x, int64_t c, int64_t d, int64_t h, int64_t v) const {
    int64_t begin[3] = {d, h, v}, end[3];
    for (int i = 0; i < 3; ++i) {
      begin[i] = begin[i] * w_.stride[i] - w_.before[i];
      end[i] = std::min(begin[i] + w_.kernel[i], w_.in[i]);
      begin[i] = std::max<int64_t>(0, begin[i]);
    }
    int64_t best = sum_ ? 0 : minimum_[c] ? INT64_MAX : INT64_MIN;
    for (int64_t a = begin[0]; a < end[0]; ++a)
      for (int64_t b = begin[1]; b < end[1]; ++b)
        for (int64_t e = begin[2]; e < end[2]; ++e) {
          const int64_t value = x[(a * w_.in[1] + b) * w_.in[2] + e];
          best = sum_ ? best + value : minimum_[c] ? std::min(best, value) : std::max(best, value);
        }
    return best;
  }

  Window w_;
  bool sum_;
  std::vector<bool> minimum_;
};

class MeanOp : public Op {
 public:
  MeanOp(const NodeDef& node, const NodeDef& input) : target_(static_cast<size_t>(input.size())) {
    const int64_t rank = static_cast<int64_t>(input.shape.size());
    std::vector<bool> gone(rank, false);
    for (int64_t axis : node.list("axes")) gone[axis < 0 ? axis + rank : axis] = true;
    Shape position(rank, 0);
    for (auto& target : target_) {
      int64_t at = 0;
      for (int64_t i = 0; i < rank; ++i)
        if (!gone[i]) at = at * input.shape[i] + position[i];
      target = static_cast<int32_t>(at);
      for (int64_t axis = rank; axis-- > 0;) {
        if (++position[axis] < input.shape[axis]) break;
        position[axis] = 0;
      }
    }
  }
  void run(const Call& call) const override {
    int64_t* x = call.scratch->take<int64_t>(call.in[0].size);
    int64_t* y = call.scratch->take<int64_t>(call.out.size);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, x);
      std::fill(y, y + call.out.size, 0);
      for (size_t i = 0; i < target_.size(); ++i) y[target_[i]] += x[i];
      narrow(y, call.out, t);
    }
  }

 private:
  std::vector<int32_t> target_;
};

class ConcatOp : public Op {
 public:
  ConcatOp(const NodeDef& node, const Defs& in) : shifts_(node.list("shifts")) {
    const int64_t axis = channel_axis(node, node.shape);
    for (int64_t i = 0; i < axis; ++i) outer_ *= node.shape[i];
    for (auto* input : in) {
      int64_t block = 1;
      for (size_t i = axis; i < input->shape.size(); ++i) block *= input->shape[i];
      blocks_.push_back(block);
      row_ += block;
    }
  }
  void run(const Call& call) const override {
    int64_t* y = call.scratch->take<int64_t>(call.out.size);
    int64_t* x = call.scratch->take<int64_t>(call.out.size);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      for (size_t i = 0, at = 0; i < blocks_.size(); at += blocks_[i++]) {
        widen(call.in[i], t, x);
        for (int64_t o = 0; o < outer_; ++o)
          for (int64_t k = 0; k < blocks_[i]; ++k)
            y[o * row_ + at + k] = x[o * blocks_[i] + k] * (int64_t{1} << shifts_[i]);
      }
      narrow(y, call.out, t);
    }
  }

 private:
  Ints shifts_, blocks_;
  int64_t outer_ = 1, row_ = 0;
};

class GatherOp : public Op {
 public:
  explicit GatherOp(std::vector<int32_t> index) : index_(std::move(index)) {
    for (size_t i = 0; i < index_.size(); ++i) identity_ = identity_ && index_[i] == static_cast<int32_t>(i);
  }
  int64_t constant_bytes() const override { return index_.size() * sizeof(int32_t); }
  void run(const Call& call) const override {
    const bool plain = identity_ && call.in[0].dtype == call.out.dtype && call.in[0].size == call.out.size;
    for (int64_t t = 0; t < call.out.rows; ++t) {
      if (plain) {
        std::memcpy(call.out.row(t), call.in[0].row(t), call.out.size * bytes_of(call.out.dtype));
        continue;
      }
      with_integer(call.in[0].dtype, [&](auto from) {
        with_integer(call.out.dtype, [&](auto to) {
          const auto* x = call.in[0].as<decltype(from)>(t);
          auto* y = call.out.as<decltype(to)>(t);
          for (size_t i = 0; i < index_.size(); ++i) y[i] = index_[i] < 0 ? 0 : static_cast<decltype(to)>(x[index_[i]]);
        });
      });
    }
  }

 private:
  std::vector<int32_t> index_;
  bool identity_ = true;
};

}  // namespace

OpPtr make_pool(const NodeDef& node, const Defs& in) { return std::make_unique<PoolOp>(node, *in[0]); }
OpPtr make_mean(const NodeDef& node, const Defs& in) { return std::make_unique<MeanOp>(node, *in[0]); }
OpPtr make_concat(const NodeDef& node, const Defs& in) { return std::make_unique<ConcatOp>(node, in); }

OpPtr make_gather(const NodeDef& node, const Defs& in) {
  return std::make_unique<GatherOp>(node.type == "Upsample" ? upsample_index(node, in[0]->shape)
                                                            : reshape_index(node, in[0]->shape));
}

}  // namespace picojoule
