// Readout, TimeMix, Scan: nodes that look across steps.

#include <algorithm>

#include "moves.h"
#include "op.h"
#include "program.h"

namespace picojoule {
namespace {

// Sum, maximum or last row so far; in a stream the row is the value after the newest step.
class ReadoutOp : public Op {
 public:
  explicit ReadoutOp(const NodeDef& node) : mode_(node.text("mode")), size_(node.size()) {}
  int64_t state_bytes() const override { return size_ * 8; }
  void run(const Call& call) const override {
    int64_t* total = reinterpret_cast<int64_t*>(call.state);
    int64_t* x = call.scratch->take<int64_t>(size_);
    for (int64_t t = 0; t < call.steps; ++t) {
      widen(call.in[0], t, x);
      const bool start = call.first + t == 0;
      for (int64_t i = 0; i < size_; ++i)
        total[i] = start || mode_ == "last" ? x[i] : mode_ == "sum" ? total[i] + x[i] : std::max(total[i], x[i]);
    }
    narrow(total, call.out, 0);
  }

 private:
  std::string mode_;
  int64_t size_;
};

// y[t] = sum_j matrix[t, j] x[j] + bias[t]; the state keeps every x seen so far.
class TimeMixOp : public Op {
 public:
  explicit TimeMixOp(const NodeDef& node)
      : T_(node.steps), size_(node.size()), causal_(node.integer("causal", 1) != 0), matrix_(node.need("matrix").values()) {
    const int64_t axis = channel_axis(node, node.shape);
    channels_ = node.shape[axis];
    for (size_t i = axis + 1; i < node.shape.size(); ++i) inner_ *= node.shape[i];
    const Shape& shape = node.need("matrix").shape;
    per_channel_ = shape.size() == 3 && shape[0] > 1;
    if (const Tensor* bias = node.tensor("bias")) {
      bias_ = bias->values();
      bias_t_ = bias->shape[0] == 1 ? 0 : bias->shape[1];
      bias_c_ = bias->shape[1] == 1 ? 0 : 1;
    }
  }
  int64_t state_bytes() const override { return T_ * size_ * 8; }
  void run(const Call& call) const override {
    int64_t* seen = reinterpret_cast<int64_t*>(call.state);
    int64_t* y = call.scratch->take<int64_t>(size_);
    for (int64_t t = 0; t < call.out.rows; ++t) widen(call.in[0], t, seen + (call.first + t) * size_);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      const int64_t now = call.first + t, until = causal_ ? now + 1 : T_;
      for (int64_t i = 0; i < size_; ++i) {
        const int64_t c = i / inner_ % channels_;
        const int64_t* row = matrix_.data() + ((per_channel_ ? c * T_ : 0) + now) * T_;
        int64_t sum = bias_[now * bias_t_ + c * bias_c_];
        for (int64_t j = 0; j < until; ++j) sum += row[j] * seen[j * size_ + i];
        y[i] = sum;
      }
      narrow(y, call.out, t);
    }
  }

 private:
  int64_t T_, size_, channels_, inner_ = 1, bias_t_ = 0, bias_c_ = 0;
  bool causal_, per_channel_;
  Ints matrix_, bias_{0};
};

class ScanOp : public Op {
 public:
  explicit ScanOp(const NodeDef& node) : body_(*node.body, body_options()) {
    auto entries = node.body->of_type("Input");
    for (size_t i = 1; i < entries.size(); ++i) sizes_.push_back(node.body->nodes[entries[i]].size());
    for (int64_t n : sizes_) total_ += n;
  }
  int64_t state_bytes() const override { return total_ * 8; }
  int64_t constant_bytes() const override { return body_.constant_bytes(); }
  void run(const Call& call) const override {
    int64_t* state = reinterpret_cast<int64_t*>(call.state);
    if (call.first == 0) std::fill(state, state + total_, 0);
    int64_t* x = call.scratch->take<int64_t>(call.in[0].size);
    int64_t* y = call.scratch->take<int64_t>(call.out.size);
    int64_t* next = call.scratch->take<int64_t>(total_);
    Frame frame;
    frame.arena = call.scratch->take<std::byte>(body_.arena_bytes());
    frame.state = call.scratch->take<std::byte>(body_.state_bytes());
    const int64_t borders = static_cast<int64_t>(sizes_.size()) + 1;
    BorderInput* inputs = call.scratch->take<BorderInput>(borders);
    int64_t** outputs = call.scratch->take<int64_t*>(borders);
    inputs[0] = {reinterpret_cast<std::byte*>(x), Dtype::i64};
    outputs[0] = y;
    for (int64_t at = 0, i = 0; i < static_cast<int64_t>(sizes_.size()); at += sizes_[i++]) {
      inputs[i + 1] = {reinterpret_cast<std::byte*>(state + at), Dtype::i64};
      outputs[i + 1] = next + at;
    }
    const Serial serial;
    frame.scratch = &call.scratch->inner();
    frame.parallel = &serial;
    frame.inputs = inputs;
    frame.outputs = outputs;
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, x);
      body_.run(frame);
      narrow(y, call.out, t);
      std::copy(next, next + total_, state);
    }
  }

 private:
  static Options body_options() {
    Options options;
    options.isa = Isa::scalar;
    options.body = true;
    return options;
  }
  Program body_;
  Ints sizes_;
  int64_t total_ = 0;
};

}  // namespace

OpPtr make_readout(const NodeDef& node) { return std::make_unique<ReadoutOp>(node); }
OpPtr make_timemix(const NodeDef& node) { return std::make_unique<TimeMixOp>(node); }
OpPtr make_scan(const NodeDef& node) { return std::make_unique<ScanOp>(node); }

}  // namespace picojoule
