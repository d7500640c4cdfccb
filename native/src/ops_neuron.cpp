// Neuron: charge, fire, reset, membrane table, exactly as graph/nodes.py states them.

#include <algorithm>

#include "neuron_constants.h"
#include "op.h"

namespace picojoule {
namespace {

template <class A>
class NeuronOp : public Op {
 public:
  explicit NeuronOp(const NodeDef& node) : n_(node), size_(node.size()) {}
  int64_t state_bytes() const override { return size_ * sizeof(A); }

  void run(const Call& call) const override {
    A* v = reinterpret_cast<A*>(call.state);
    A* x = call.scratch->take<A>(size_);
    A* fired = call.scratch->take<A>(size_);
    if (call.first == 0)
      for (int64_t i = 0; i < size_; ++i) v[i] = static_cast<A>(n_.v_init.at(0, i / n_.inner % n_.channels));
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, x);
      const int64_t step = std::min(call.first + t, n_.steps - 1);
      for (int64_t o = 0; o < n_.outer; ++o)
        for (int64_t c = 0; c < n_.channels; ++c) {
          const int64_t at = (o * n_.channels + c) * n_.inner;
          channel(step, c, v + at, x + at, fired + at);
        }
      narrow(fired, call.out, t);
    }
  }

 private:
  void channel(int64_t t, int64_t c, A* __restrict v, const A* __restrict x, A* __restrict fired) const {
    const A decay = n_.decay.at(t, c), gain = n_.gain.at(t, c), bias = n_.bias.at(t, c);
    const A reset = n_.reset_value.at(t, c), neg = n_.neg.at(t, c);
    const int shift = n_.decay_shift;
    const A half = n_.half_up && shift > 0 ? A{1} << (shift - 1) : A{0};
    // One plain pass a rule, so that each is a vector loop: v holds h, then the membrane left behind.
    const int64_t n = n_.inner;
    for (int64_t i = 0; i < n; ++i) {
      v[i] = ((decay * v[i] + half) >> shift) + gain * x[i] + bias;
      fired[i] = 0;
    }
    for (auto& level : n_.thresholds) {
      const A threshold = static_cast<A>(level.at(t, c));
      for (int64_t i = 0; i < n; ++i) fired[i] += v[i] >= threshold;
    }
    if (n_.ternary)
      for (int64_t i = 0; i < n; ++i) fired[i] -= v[i] <= neg;
    if (n_.reset == Reset::hard)
      for (int64_t i = 0; i < n; ++i) v[i] = fired[i] != 0 ? reset : v[i];
    if (n_.reset == Reset::soft)
      for (int64_t i = 0; i < n; ++i) v[i] -= fired[i] * reset;
    if (n_.table)
      for (int64_t i = 0; i < n; ++i) v[i] = look_up(v[i]);
  }
  A look_up(A v) const {
    return static_cast<A>(n_.values[std::upper_bound(n_.breaks.begin(), n_.breaks.end(), v) - n_.breaks.begin()]);
  }

  NeuronConstants n_;
  int64_t size_;
};

}  // namespace

OpPtr make_neuron(const NodeDef& node, const Defs& in, bool stream) {
  const NeuronConstants n(node);
  const std::vector<Range> x{{in[0]->kind.low(), in[0]->kind.high()}};
  bool small = n.reach(x, stream && n.timeless() ? n.kForever : n.steps).fits(31);
  for (int64_t b : n.breaks) small = small && Range{b, b}.fits(31);
  if (small) return std::make_unique<NeuronOp<int32_t>>(node);
  return std::make_unique<NeuronOp<int64_t>>(node);
}

}  // namespace picojoule
