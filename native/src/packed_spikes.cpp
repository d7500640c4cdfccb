// Spike attention on packed words: AND, OR, IAND of binary spikes, one of them perhaps the same for every pixel,
// and sums over all pixels, 64 channels at a time.

#include <algorithm>

#include "moves.h"
#include "packed.h"

namespace picojoule {
namespace {

class PackedPairOp : public Op {
 public:
  PackedPairOp(const NodeDef& node, const Defs& in, Layout layout) : size_(packed_of(node, layout)) {
    op_ = node.type == "Mul" ? "and" : node.text("op");
    for (int i = 0; i < 2; ++i) step_[i] = packed_of(*in[i], layout).pixels == 1 ? 0 : size_.words;
  }
  void run(const Call& call) const override {
    for (int64_t t = 0; t < call.out.rows; ++t) {
      const uint64_t *a = call.in[0].as<uint64_t>(t), *b = call.in[1].as<uint64_t>(t);
      uint64_t* y = call.out.as<uint64_t>(t);
      if (op_ == "and") each(a, b, y, [](uint64_t p, uint64_t q) { return p & q; });
      else if (op_ == "or") each(a, b, y, [](uint64_t p, uint64_t q) { return p | q; });
      else each(a, b, y, [](uint64_t p, uint64_t q) { return ~p & q; });
    }
  }

 private:
  template <class F>
  void each(const uint64_t* a, const uint64_t* b, uint64_t* y, F f) const {
    for (int64_t p = 0; p < size_.pixels; ++p, a += step_[0], b += step_[1], y += size_.words)
      for (int64_t w = 0; w < size_.words; ++w) y[w] = f(a[w], b[w]);
  }

  Packed size_;
  std::string op_;
  int64_t step_[2];
};

// Bit-sliced counters of 64 channels; plane q of the spikes counts 2^q, the second of ternary ones -1.
class PackedTotalOp : public Op {
 public:
  PackedTotalOp(const NodeDef& input, Layout layout) : size_(packed_of(input, layout)) {}
  void run(const Call& call) const override {
    int32_t* sums = call.scratch->take<int32_t>(size_.words * 64);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      std::fill(sums, sums + size_.words * 64, 0);
      for (int q = 0; q < size_.planes; ++q)
        for (int64_t w = 0; w < size_.words; ++w)
          count(call.in[0].as<uint64_t>(t) + q * size_.pixels * size_.words + w, factor(q), sums + w * 64);
      narrow(sums, call.out, t);
    }
  }

 private:
  int32_t factor(int q) const { return size_.ternary ? (q ? -1 : 1) : int32_t{1} << q; }
  void count(const uint64_t* word, int32_t factor, int32_t* sums) const {
    uint64_t planes[40] = {};
    int used = 0;
    for (int64_t p = 0; p < size_.pixels; ++p, word += size_.words) {
      uint64_t carry = *word;
      for (int i = 0; carry; ++i) {
        const uint64_t next = planes[i] & carry;
        planes[i] ^= carry;
        carry = next;
        used = std::max(used, i + 1);
      }
    }
    // Seven planes at a time make bytes.
    for (int i = 0; i < used; i += 7)
      for (int g = 0; g < 8; ++g) {
        uint64_t eight = 0;
        for (int j = i; j < std::min(used, i + 7); ++j) eight += spread(planes[j] >> (8 * g) & 255) << (j - i);
        for (int c = 0; c < 8; ++c) sums[8 * g + c] += static_cast<int32_t>(eight >> (8 * c) & 255) * (factor << i);
      }
  }
  // Bit i of a byte to byte i.
  static uint64_t spread(uint64_t byte) {
    const uint64_t one_a_byte = (byte * 0x0101010101010101ull) & 0x8040201008040201ull;
    return (one_a_byte + 0x00406070787c7e7full) >> 7 & 0x0101010101010101ull;
  }

  Packed size_;
};

// Rows of one value a channel.
bool one_pixel(const Shape& shape, Layout layout, int64_t channels) {
  return product(shape) == channels && (layout == Layout::packed_first ? shape[0] : shape.back()) == channels;
}

bool packable_pair(const NodeDef& node, const Defs& in, Layout layout) {
  if (node.kind.name != KindName::binary || node.shape.size() < 2) return false;
  const int64_t channels = layout == Layout::packed_first ? node.shape[0] : node.shape.back();
  return std::all_of(in.begin(), in.end(), [&](auto* def) {
    if (def->kind.name != KindName::binary || def->shape.size() != node.shape.size()) return false;
    return def->shape == node.shape || one_pixel(def->shape, layout, channels);
  });
}

bool packable_total(const NodeDef& node, const NodeDef& input, Layout layout) {
  const int64_t rank = static_cast<int64_t>(input.shape.size());
  if (rank < 2 || !input.kind.spikes() || input.kind.name == KindName::time || planes_of(input.kind) > 16) return false;
  if (node.kind.storage() == Dtype::i64) return false;
  std::vector<bool> gone(rank, false);
  for (int64_t axis : node.list("axes")) gone[axis < 0 ? axis + rank : axis] = true;
  const int64_t channel = layout == Layout::packed_first ? 0 : rank - 1;
  for (int64_t axis = 0; axis < rank; ++axis)
    if (gone[axis] == (axis == channel)) return false;
  return true;
}

}  // namespace

bool packable(const NodeDef& node, const Defs& in, Layout layout) {
  if (node.type == "Pool") return layout == Layout::packed_first && packable_pool(node, *in[0]);
  if (node.type == "Mul" || node.type == "Logic") return packable_pair(node, in, layout);
  return node.type == "Mean" && packable_total(node, *in[0], layout);
}

OpPtr make_packed(const NodeDef& node, const Defs& in, Layout layout) {
  if (node.type == "Pool") return make_packed_pool(node, *in[0]);
  if (node.type == "Mean") return std::make_unique<PackedTotalOp>(*in[0], layout);
  return std::make_unique<PackedPairOp>(node, in, layout);
}

}  // namespace picojoule
