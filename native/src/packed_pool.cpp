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
  }

  void run(const Call& call) const override {
    for (int64_t t = 0; t < call.out.rows; ++t)
      for (int plane = 0; plane < in_.planes; ++plane) {
        const uint64_t* x = call.in[0].as<uint64_t>(t) + plane * in_.pixels * in_.words;
        uint64_t* y = call.out.as<uint64_t>(t) + plane * out_.pixels * out_.words;
        for (int64_t p = 0; p < out_.pixels; ++p) window(x, plane, p, y + p * out_.words);
      }
  }

 private:
  // A maximum is +1 where any is, -1 where all are; a minimum the other way round.
  void window(const uint64_t* x, int plane, int64_t p, uint64_t* y) const {
    int64_t begin[3] = {p / (w_.out[1] * w_.out[2]), p / w_.out[2] % w_.out[1], p % w_.out[2]}, end[3];
    for (int i = 0; i < 3; ++i) {
      begin[i] = begin[i] * w_.stride[i] - w_.before[i];
      end[i] = std::min(begin[i] + w_.kernel[i], w_.in[i]);
      begin[i] = std::max<int64_t>(0, begin[i]);
    }
    for (int64_t k = 0; k < in_.words; ++k) {
      uint64_t any = 0, all = ~uint64_t{0};
      for (int64_t a = begin[0]; a < end[0]; ++a)
        for (int64_t b = begin[1]; b < end[1]; ++b)
          for (int64_t e = begin[2]; e < end[2]; ++e) {
            const uint64_t word = x[((a * w_.in[1] + b) * w_.in[2] + e) * in_.words + k];
            any |= word;
            all &= word;
          }
      const uint64_t by_all = plane == 0 ? minimum_[k] : ~minimum_[k];
      y[k] = (any & ~by_all) | (all & by_all);
    }
  }

  Window w_;
  Packed in_, out_;
  std::vector<uint64_t> minimum_;
};

}  // namespace

bool packable_pool(const NodeDef& node, const NodeDef& input) {
  return node.type == "Pool" && node.text("mode") != "sum" && input.shape.size() > 1 &&
         (input.kind.name == KindName::binary || input.kind.name == KindName::ternary) &&
         node.kind.name == input.kind.name;
}

OpPtr make_packed_pool(const NodeDef& node, const NodeDef& input) { return std::make_unique<PackedPoolOp>(node, input); }

}  // namespace picojoule
