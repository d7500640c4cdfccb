// Conv, Linear, MatMul: plain sums of products, the oracle of every fast synapse kernel.

#include <algorithm>
#include <cmath>

#include "moves.h"
#include "op.h"

namespace picojoule {

long double magnitude(const Kind& kind) {
  return std::max(-static_cast<long double>(kind.low()), static_cast<long double>(kind.high()));
}

namespace {

// Largest possible |sum| of one output, weights and bias included.
long double weight_bound(const Ints& weight, int64_t rows, const Ints& bias, const Kind& input) {
  long double worst = 0;
  const int64_t n = rows ? static_cast<int64_t>(weight.size()) / rows : 0;
  for (int64_t o = 0; o < rows; ++o) {
    long double sum = bias.empty() ? 0 : std::fabs(static_cast<long double>(bias[bias.size() == 1 ? 0 : o]));
    for (int64_t i = 0; i < n; ++i) sum += std::fabs(static_cast<long double>(weight[o * n + i])) * magnitude(input);
    worst = std::max(worst, sum);
  }
  return worst;
}

template <class A>
std::vector<A> convert(const Ints& from) { return std::vector<A>(from.begin(), from.end()); }

Ints bias_of(const NodeDef& node, int64_t channels) {
  const Tensor* bias = node.tensor("bias");
  if (!bias) return {};
  Ints values = bias->values();
  values.resize(channels, values.empty() ? 0 : values[0]);
  return values;
}

template <class A>
class ConvOp : public Op {
 public:
  ConvOp(const NodeDef& node, const Window& w, const Ints& weight, const Ints& bias)
      : w_(w), weight_(convert<A>(weight)), bias_(convert<A>(bias)) { (void)node; }
  int64_t constant_bytes() const override { return (weight_.size() + bias_.size()) * sizeof(A); }

  void run(const Call& call) const override {
    A* x = call.scratch->take<A>(call.in[0].size);
    A* y = call.scratch->take<A>(call.out.size);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, x);
      for (int64_t o = 0, at = 0; o < w_.channels_out; ++o)
        for (int64_t d = 0; d < w_.out[0]; ++d)
          for (int64_t h = 0; h < w_.out[1]; ++h)
            for (int64_t v = 0; v < w_.out[2]; ++v) y[at++] = point(x, o, d, h, v);
      narrow(y, call.out, t);
    }
  }

 private:
  A point(const A* x, int64_t o, int64_t d, int64_t h, int64_t v) const {
    const int64_t group_in = w_.channels_in / w_.groups, group = o / (w_.channels_out / w_.groups);
    const A* weight = weight_.data() + o * group_in * w_.taps();
    A sum = bias_.empty() ? A{0} : bias_[o];
    for (int64_t a = 0; a < w_.kernel[0]; ++a) {
      const int64_t z = d * w_.stride[0] - w_.before[0] + a * w_.dilation[0];
      if (z < 0 || z >= w_.in[0]) continue;
      for (int64_t b = 0; b < w_.kernel[1]; ++b) {
        const int64_t yy = h * w_.stride[1] - w_.before[1] + b * w_.dilation[1];
        if (yy < 0 || yy >= w_.in[1]) continue;
        for (int64_t e = 0; e < w_.kernel[2]; ++e) {
          const int64_t xx = v * w_.stride[2] - w_.before[2] + e * w_.dilation[2];
          if (xx < 0 || xx >= w_.in[2]) continue;
          const int64_t pixel = (z * w_.in[1] + yy) * w_.in[2] + xx, tap = (a * w_.kernel[1] + b) * w_.kernel[2] + e;
          for (int64_t c = 0; c < group_in; ++c)
            sum += weight[c * w_.taps() + tap] * x[(group * group_in + c) * w_.in_pixels() + pixel];
        }
      }
    }
    return sum;
  }

  Window w_;
  std::vector<A> weight_, bias_;
};

template <class A>
class LinearOp : public Op {
 public:
  LinearOp(const Window& w, const Ints& weight, const Ints& bias)
      : w_(w), weight_(convert<A>(weight)), bias_(convert<A>(bias)) {}
  int64_t constant_bytes() const override { return (weight_.size() + bias_.size()) * sizeof(A); }

  void run(const Call& call) const override {
    A* x = call.scratch->take<A>(call.in[0].size);
    A* y = call.scratch->take<A>(call.out.size);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, x);
      for (int64_t n = 0; n < w_.in_pixels(); ++n)
        for (int64_t o = 0; o < w_.channels_out; ++o) {
          A sum = bias_.empty() ? A{0} : bias_[o];
          const A *a = x + n * w_.channels_in, *b = weight_.data() + o * w_.channels_in;
          for (int64_t c = 0; c < w_.channels_in; ++c) sum += a[c] * b[c];
          y[n * w_.channels_out + o] = sum;
        }
      narrow(y, call.out, t);
    }
  }

 private:
  Window w_;
  std::vector<A> weight_, bias_;
};

template <class A>
class MatMulOp : public Op {
 public:
  MatMulOp(const NodeDef& node, const Defs& in) {
    const Shape &a = in[0]->shape, &b = in[1]->shape, &y = node.shape;
    m_ = a[a.size() - 2], k_ = a.back(), n_ = b.back();
    const Shape lead(y.begin(), y.end() - 2);
    left_ = broadcast_index(Shape(a.begin(), a.end() - 2), lead);
    right_ = broadcast_index(Shape(b.begin(), b.end() - 2), lead);
  }
  void run(const Call& call) const override {
    A* a = call.scratch->take<A>(call.in[0].size);
    A* b = call.scratch->take<A>(call.in[1].size);
    A* y = call.scratch->take<A>(call.out.size);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      widen(call.in[0], t, a);
      widen(call.in[1], t, b);
      std::fill(y, y + call.out.size, A{0});
      for (size_t lead = 0; lead < left_.size(); ++lead)
        for (int64_t i = 0; i < m_; ++i) {
          A* sums = y + (lead * m_ + i) * n_;
          for (int64_t k = 0; k < k_; ++k) {
            const A x = a[(left_[lead] * m_ + i) * k_ + k];
            const A* row = b + (right_[lead] * k_ + k) * n_;
            if (x != 0)
              for (int64_t j = 0; j < n_; ++j) sums[j] += x * row[j];
          }
        }
      narrow(y, call.out, t);
    }
  }

 private:
  int64_t m_, k_, n_;
  std::vector<int32_t> left_, right_;
};

}  // namespace

OpPtr make_conv(const NodeDef& node, const Defs& in) {
  const Window w = window_of(node, *in[0]);
  const Ints weight = node.need("weight").values(), bias = bias_of(node, w.channels_out);
  if (fits32(weight_bound(weight, w.channels_out, bias, in[0]->kind)))
    return std::make_unique<ConvOp<int32_t>>(node, w, weight, bias);
  return std::make_unique<ConvOp<int64_t>>(node, w, weight, bias);
}

OpPtr make_linear(const NodeDef& node, const Defs& in) {
  const Window w = window_of(node, *in[0]);
  const Ints weight = node.need("weight").values(), bias = bias_of(node, w.channels_out);
  if (fits32(weight_bound(weight, w.channels_out, bias, in[0]->kind)))
    return std::make_unique<LinearOp<int32_t>>(w, weight, bias);
  return std::make_unique<LinearOp<int64_t>>(w, weight, bias);
}

OpPtr make_matmul(const NodeDef& node, const Defs& in) {
  const long double bound = magnitude(in[0]->kind) * magnitude(in[1]->kind) * in[0]->shape.back();
  if (fits32(bound)) return std::make_unique<MatMulOp<int32_t>>(node, in);
  return std::make_unique<MatMulOp<int64_t>>(node, in);
}

}  // namespace picojoule
