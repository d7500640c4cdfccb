// Max and min pooling of packed spikes, 64 channels at a time.

#include <algorithm>

#include "packed.h"

namespace picojoule {
namespace {

class PackedPoolOp : public Op {
 public:
  PackedPoolOp(const NodeDef& node, const NodeDef& input)
      : w_(window_of(node, input)), in_(packed_of(input, Layout::packed_first)),
        out_(packed_of(node, Layout::packed_first)), minimum_(in_.words, 0) {
    const bool low = node.text("mode") == "min";
    const Tensor* flip = node.tensor("flip");
    const Ints flips = flip ? flip->values() : Ints{0};
    for (int64_t c = 0; c < in_.channels; ++c)
      if (low != (flips[flips.size() == 1 ? 0 : c] != 0)) minimum_[c / 64] |= uint64_t{1} << (c % 64);
    for (int64_t c = 0; c < in_.channels; ++c)
      for (int plane = 0; plane < 2; ++plane) (by_all(plane, c / 64) >> (c % 64) & 1 ? some_all_ : some_any_)[plane] = true;
  }

  void run(const Call& call) const override {
    const int64_t line = (w_.in[2] + w_.kernel[2]) * in_.words;
    uint64_t *column = call.scratch->take<uint64_t>(line), *all = call.scratch->take<uint64_t>(w_.out[2] * in_.words);
    for (int64_t t = 0; t < call.out.rows; ++t)
      for (int plane = 0; plane < in_.planes; ++plane) {
        const uint64_t* x = call.in[0].as<uint64_t>(t) + plane * in_.pixels * in_.words;
        uint64_t* y = call.out.as<uint64_t>(t) + plane * out_.pixels * out_.words;
        for (int64_t r = 0; r < w_.out[0] * w_.out[1]; ++r, y += w_.out[2] * out_.words) {
          if (some_any_[plane]) columns(x, r, Or(), column), windows(column, Or(), y);
          if (some_all_[plane]) columns(x, r, And(), column), windows(column, And(), some_any_[plane] ? all : y);
          if (some_any_[plane] && some_all_[plane]) choose(all, plane, y);
        }
      }
  }

 private:
  struct Or {
    uint64_t operator()(uint64_t a, uint64_t b) const { return a | b; }
  };
  struct And {
    uint64_t operator()(uint64_t a, uint64_t b) const { return a & b; }
  };

  // The columns of a row of windows, each made one word.
  template <class F>
  void columns(const uint64_t* x, int64_t row, F join, uint64_t* __restrict y) const {
    int64_t begin[2] = {row / w_.out[1], row % w_.out[1]}, end[2];
    for (int i = 0; i < 2; ++i) {
      begin[i] = begin[i] * w_.stride[i] - w_.before[i];
      end[i] = std::min(begin[i] + w_.kernel[i], w_.in[i]);
      begin[i] = std::max<int64_t>(0, begin[i]);
    }
    const int64_t n = w_.in[2] * in_.words;
    bool first = true;
    for (int64_t a = begin[0]; a < end[0]; ++a)
      for (int64_t b = begin[1]; b < end[1]; ++b, first = false) {
        const uint64_t* __restrict from = x + (a * w_.in[1] + b) * n;
        if (first) std::copy(from, from + n, y);
        else
          for (int64_t i = 0; i < n; ++i) y[i] = join(y[i], from[i]);
      }
  }
  template <class F>
  void windows(const uint64_t* __restrict line, F join, uint64_t* __restrict y) const {
    for (int64_t p = 0; p < w_.out[2]; ++p) {
      const int64_t from = p * w_.stride[2] - w_.before[2];
      const int64_t begin = std::max<int64_t>(0, from), end = std::min(from + w_.kernel[2], w_.in[2]);
      for (int64_t k = 0; k < in_.words; ++k) {
        uint64_t word = line[begin * in_.words + k];
        for (int64_t e = begin + 1; e < end; ++e) word = join(word, line[e * in_.words + k]);
        y[p * in_.words + k] = word;
      }
    }
  }
  // A maximum is +1 where any is, -1 where all are; a minimum the other way round.
  uint64_t by_all(int plane, int64_t k) const { return plane == 0 ? minimum_[k] : ~minimum_[k]; }
  void choose(const uint64_t* all, int plane, uint64_t* y) const {
    for (int64_t p = 0; p < w_.out[2]; ++p)
      for (int64_t k = 0; k < in_.words; ++k, ++y, ++all) *y = (*y & ~by_all(plane, k)) | (*all & by_all(plane, k));
  }

  Window w_;
  Packed in_, out_;
  std::vector<uint64_t> minimum_;
  bool some_any_[2] = {false, false}, some_all_[2] = {false, false};  // by plane
};

}  // namespace

bool packable_pool(const NodeDef& node, const NodeDef& input) {
  return node.type == "Pool" && node.text("mode") != "sum" && input.shape.size() > 1 &&
         (input.kind.name == KindName::binary || input.kind.name == KindName::ternary) &&
         node.kind.name == input.kind.name;
}

OpPtr make_packed_pool(const NodeDef& node, const NodeDef& input) { return std::make_unique<PackedPoolOp>(node, input); }

}  // namespace picojoule
