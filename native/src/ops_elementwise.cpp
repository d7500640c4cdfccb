// Add, Mul, Logic, Affine, Lut: one output element from the elements at the same place.

#include <algorithm>
#include <cmath>

#include "moves.h"
#include "op.h"

namespace picojoule {
namespace {

// Inputs of one row as accumulators, broadcast to the row of the output.
template <class A>
class Broadcast {
 public:
  Broadcast(const NodeDef& node, const Defs& inputs) {
    for (auto* input : inputs)
      maps_.push_back(input->shape == node.shape ? std::vector<int32_t>{} : broadcast_index(input->shape, node.shape));
  }
  const A* row(const Call& call, size_t i, int64_t t, A* flat, A* spread) const {
    widen(call.in[i], t, flat);
    if (maps_[i].empty()) return flat;
    for (size_t k = 0; k < maps_[i].size(); ++k) spread[k] = flat[maps_[i][k]];
    return spread;
  }

 private:
  std::vector<std::vector<int32_t>> maps_;
};

int64_t widest(const Call& call, size_t inputs) {
  int64_t n = call.out.size;
  for (size_t i = 0; i < inputs; ++i) n = std::max(n, call.in[i].size);
  return n;
}

template <class A>
class AddOp : public Op {
 public:
  AddOp(const NodeDef& node, const Defs& in)
      : spread_(node, in), shifts_(node.list("shifts")), signs_(node.list("signs")) {}
  void run(const Call& call) const override {
    const int64_t n = call.out.size, wide = widest(call, shifts_.size());
    A *sum = call.scratch->take<A>(n), *flat = call.scratch->take<A>(wide), *room = call.scratch->take<A>(wide);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      std::fill(sum, sum + n, A{0});
      for (size_t i = 0; i < shifts_.size(); ++i) {
        const A* x = spread_.row(call, i, t, flat, room);
        const A factor = static_cast<A>(signs_[i] * (int64_t{1} << shifts_[i]));
        for (int64_t k = 0; k < n; ++k) sum[k] += x[k] * factor;
      }
      narrow(sum, call.out, t);
    }
  }

 private:
  Broadcast<A> spread_;
  Ints shifts_, signs_;
};

enum class Pair { mul, conj, disj, iand };

template <class A>
class PairOp : public Op {
 public:
  PairOp(const NodeDef& node, const Defs& in, Pair op) : spread_(node, in), op_(op) {}
  void run(const Call& call) const override {
    const int64_t n = call.out.size, wide = widest(call, 2);
    A *fa = call.scratch->take<A>(wide), *fb = call.scratch->take<A>(wide);
    A *ra = call.scratch->take<A>(wide), *rb = call.scratch->take<A>(wide), *y = call.scratch->take<A>(n);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      const A *a = spread_.row(call, 0, t, fa, ra), *b = spread_.row(call, 1, t, fb, rb);
      for (int64_t k = 0; k < n; ++k)
        y[k] = op_ == Pair::mul    ? a[k] * b[k]
               : op_ == Pair::conj ? a[k] & b[k]
               : op_ == Pair::disj ? a[k] | b[k]
                                   : (a[k] ^ 1) & b[k];
      narrow(y, call.out, t);
    }
  }

 private:
  Broadcast<A> spread_;
  Pair op_;
};

template <class A>
class AffineOp : public Op {
 public:
  explicit AffineOp(const NodeDef& node)
      : gain_(node.need("gain").values()), bias_(node.need("bias").values()),
        shift_(static_cast<int>(node.integer("shift", 0))), half_up_(node.text("rounding") == "half_up") {
    const int64_t axis = channel_axis(node, node.shape);
    channels_ = node.shape[axis];
    for (int64_t i = 0; i < axis; ++i) outer_ *= node.shape[i];
    for (size_t i = axis + 1; i < node.shape.size(); ++i) inner_ *= node.shape[i];
    gain_stride_ = gain_.size() > 1;
    bias_stride_ = bias_.size() > 1;
  }
  void run(const Call& call) const override {
    A* x = call.scratch->take<A>(call.out.size);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, x);
      for (int64_t o = 0, at = 0; o < outer_; ++o)
        for (int64_t c = 0; c < channels_; ++c) {
          const A gain = static_cast<A>(gain_[c * gain_stride_]), bias = static_cast<A>(bias_[c * bias_stride_]);
          for (int64_t i = 0; i < inner_; ++i, ++at) x[at] = round_shift<A>(gain * x[at] + bias, shift_, half_up_);
        }
      narrow(x, call.out, t);
    }
  }

 private:
  Ints gain_, bias_;
  int shift_;
  bool half_up_;
  int64_t channels_, outer_ = 1, inner_ = 1, gain_stride_ = 0, bias_stride_ = 0;
};

class LutOp : public Op {
 public:
  explicit LutOp(const NodeDef& node) : breaks_(node.need("breaks").values()), values_(node.need("values").values()) {}
  void run(const Call& call) const override {
    int64_t* x = call.scratch->take<int64_t>(call.out.size);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, x);
      for (int64_t i = 0; i < call.out.size; ++i)
        x[i] = values_[std::upper_bound(breaks_.begin(), breaks_.end(), x[i]) - breaks_.begin()];
      narrow(x, call.out, t);
    }
  }

 private:
  Ints breaks_, values_;
};

long double largest(const Ints& values) {
  long double worst = 0;
  for (int64_t v : values) worst = std::max(worst, std::fabs(static_cast<long double>(v)));
  return worst;
}

bool product_fits32(const Defs& in) {
  return fits32(magnitude(in[0]->kind)) && fits32(magnitude(in[1]->kind)) &&
         fits32(magnitude(in[0]->kind) * magnitude(in[1]->kind));
}

OpPtr make_pair(const NodeDef& node, const Defs& in, Pair op) {
  if (product_fits32(in)) return std::make_unique<PairOp<int32_t>>(node, in, op);
  return std::make_unique<PairOp<int64_t>>(node, in, op);
}

}  // namespace

OpPtr make_add(const NodeDef& node, const Defs& in) {
  long double bound = 0;
  for (size_t i = 0; i < in.size(); ++i) bound += std::ldexp(magnitude(in[i]->kind), static_cast<int>(node.list("shifts")[i]));
  if (fits32(bound)) return std::make_unique<AddOp<int32_t>>(node, in);
  return std::make_unique<AddOp<int64_t>>(node, in);
}

OpPtr make_mul(const NodeDef& node, const Defs& in) { return make_pair(node, in, Pair::mul); }

OpPtr make_logic(const NodeDef& node, const Defs& in) {
  const std::string& op = node.text("op");
  return make_pair(node, in, op == "and" ? Pair::conj : op == "or" ? Pair::disj : Pair::iand);
}

OpPtr make_affine(const NodeDef& node, const Defs& in) {
  const long double bound = largest(node.need("gain").values()) * magnitude(in[0]->kind) +
                            largest(node.need("bias").values()) + std::ldexp(0.5L, static_cast<int>(node.integer("shift", 0)));
  if (node.integer("shift", 0) < 31 && fits32(bound)) return std::make_unique<AffineOp<int32_t>>(node);
  return std::make_unique<AffineOp<int64_t>>(node);
}

OpPtr make_lut(const NodeDef& node) { return std::make_unique<LutOp>(node); }

}  // namespace picojoule
