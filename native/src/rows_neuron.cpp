// Builds vector neurons: by thresholds on the input where no membrane is kept, else step by step in 32 bits.

#include <algorithm>

#include "fire_layout.h"
#include "neuron_edges.h"
#include "rows.h"
#include "rows_ops.h"

namespace picojoule {
namespace {

class LevelsOp : public Op {
 public:
  LevelsOp(const NeuronConstants& n, const Kind& input, const RowsTable& table) : table_(table) {
    const Edges made(n, input);
    base_ = made.base;
    mask_ = made.mask;
    const Dtype type = input.storage();
    edges_.resize(made.levels() * n.channels * bytes_of(type));
    with_integer(type, [&](auto zero) {
      using E = decltype(zero);
      E* to = reinterpret_cast<E*>(edges_.data());
      for (int64_t l = 0; l < made.levels(); ++l)
        for (int64_t c = 0; c < n.channels; ++c) *to++ = made.at<E>(l, c);
    });
    job_ = {n.outer, n.channels, n.inner, static_cast<int>(made.levels()),
            static_cast<int>(bytes_of(type)), edges_.data(), base_.data(), mask_.data()};
  }
  int64_t constant_bytes() const override { return edges_.size() + base_.size() + mask_.size(); }
  void run(const Call& call) const override {
    for (int64_t t = 0; t < call.out.rows; ++t) table_.levels(job_, call.in[0].row(t), call.out.as<int8_t>(t));
  }

 private:
  const RowsTable& table_;
  std::vector<std::byte> edges_;
  std::vector<int8_t> base_, mask_;
  LevelsJob job_;
};

class StepOp : public Op {
 public:
  StepOp(const NeuronConstants& n, Range v, const RowsTable& table, Isa isa)
      : table_(table), size_(n.outer * n.channels * n.inner), look_up_(fire_look_up(isa)) {
    if (n.table) values_ = make_table<int32_t>(n, v, v.high - v.low < kMostDirect, kept_);
    job_.outer = n.outer, job_.channels = n.channels, job_.inner = n.inner;
    job_.levels = static_cast<int>(n.thresholds.size());
    job_.shift = n.decay_shift;
    job_.half = n.half_up && n.decay_shift > 0 ? 1 << (n.decay_shift - 1) : 0;
    job_.reset = static_cast<int>(n.reset);
    job_.ternary = n.ternary;
    job_.split = n.split;
    bool steady = true;
    std::vector<const Plane*> planes{&n.decay, &n.gain, &n.bias, &n.reset_value, &n.neg};
    for (auto& level : n.thresholds) planes.push_back(&level);
    for (auto* plane : planes) steady = steady && plane->steady();
    sets_ = steady ? 1 : n.steps;
    set_size_ = static_cast<int64_t>(planes.size()) * n.channels;
    for (int64_t t = 0; t < sets_; ++t)
      for (auto* plane : planes)
        for (int64_t c = 0; c < n.channels; ++c) constants_.push_back(static_cast<int32_t>(plane->at(t, c)));
    for (int64_t c = 0; c < n.channels; ++c) start_.push_back(static_cast<int32_t>(n.v_init.at(0, c)));
  }
  int64_t constant_bytes() const override { return (constants_.size() + start_.size()) * 4 + kept_.bytes(); }
  int64_t state_bytes() const override { return (size_ + 15) / 16 * 64; }

  void run(const Call& call) const override {
    int32_t* v = reinterpret_cast<int32_t*>(call.state);
    int32_t *x = call.scratch->take<int32_t>(size_), *fired = call.scratch->take<int32_t>(size_);
    if (call.first == 0)
      for (int64_t i = 0, row = 0; row < job_.outer * job_.channels; ++row, i += job_.inner)
        std::fill(v + i, v + i + job_.inner, start_[row % job_.channels]);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      StepJob job = job_;
      const int64_t C = job.channels;
      const int32_t* at = constants_.data() + std::min(call.first + t, sets_ - 1) * set_size_;
      job.decay = at, job.gain = at + C, job.bias = at + 2 * C, job.reset_value = at + 3 * C;
      job.neg = at + 4 * C, job.thresholds = at + 5 * C;
      if (t == 0 || call.in[0].row_bytes) table_.widen(call.in[0].row(t), static_cast<int>(bytes_of(call.in[0].dtype)), size_, x);
      table_.step(job, x, v, fired);
      if (values_.count) look_up_(values_, v, size_);
      table_.narrow(fired, size_, static_cast<int>(bytes_of(call.out.dtype)), call.out.row(t));
    }
  }

 private:
  const RowsTable& table_;
  int64_t size_, sets_ = 1, set_size_ = 0;
  FireLookUp look_up_;
  FireTable values_;
  Kept kept_;
  StepJob job_;
  std::vector<int32_t> constants_, start_;
};

}  // namespace

OpPtr make_rows_neuron(const NodeDef& node, const NodeDef& input, bool stream, const RowsTable& table, Isa isa) {
  NeuronConstants n(node);
  const int64_t levels = static_cast<int64_t>(n.thresholds.size());
  if (n.channels * n.steps * (levels + 6) > (int64_t{1} << 22)) return nullptr;
  if (n.forgets(stream) && node.kind.storage() == Dtype::i8 && levels < 120)
    return std::make_unique<LevelsOp>(n, input.kind, table);
  const std::vector<Range> x{{input.kind.low(), input.kind.high()}};
  n.settle(x, stream);
  const int64_t steps = stream && n.timeless() ? n.kForever : n.steps;
  if (n.decay_shift > 30 || !n.fit31(x, steps)) return nullptr;
  return std::make_unique<StepOp>(n, potential(n, x, stream && n.timeless()), table, isa);
}

}  // namespace picojoule
