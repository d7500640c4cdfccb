// MatMul by pairs of 16-bit words: pieces are one leading index of one step.

#include <algorithm>

#include "moves.h"
#include "product.h"
#include "rows_ops.h"

namespace picojoule {
namespace {

constexpr int64_t kShared = 1 << 20;  // products below which workers cost more than they bring

class ProductRows : public Op {
 public:
  ProductRows(const NodeDef& node, const Defs& in, Isa isa) : table_(product_table(isa)) {
    const Shape &a = in[0]->shape, &b = in[1]->shape, &y = node.shape;
    m_ = a[a.size() - 2], k_ = a.back(), n_ = b.back();
    even_ = (k_ + 1) / 2 * 2, padded_ = (n_ + 7) / 8 * 8;
    const Shape lead(y.begin(), y.end() - 2);
    left_ = broadcast_index(Shape(a.begin(), a.end() - 2), lead);
    right_ = broadcast_index(Shape(b.begin(), b.end() - 2), lead);
  }
  void run(const Call& call) const override {
    const int workers = call.parallel->workers();
    struct Room {
      int16_t *words, *pairs;
    };
    Room* rooms = call.scratch[0].take<Room>(workers);
    for (int i = 0; i < workers; ++i) {
      rooms[i].words = call.scratch[i].take<int16_t>(m_ * even_);
      rooms[i].pairs = call.scratch[i].take<int16_t>(even_ * padded_);
    }
    const int64_t leads = static_cast<int64_t>(left_.size()), pieces = call.out.rows * leads;
    const auto body = [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) piece(call, i / leads, i % leads, i == begin, rooms[worker].words, rooms[worker].pairs);
    };
    if (pieces * m_ * k_ * n_ < kShared) body(0, pieces, 0);
    else call.parallel->run(pieces, body);
  }

 private:
  void piece(const Call& call, int64_t t, int64_t lead, bool first, int16_t* words, int16_t* pairs) const {
    const View &a = call.in[0], &b = call.in[1];
    const int64_t a_element = bytes_of(a.dtype), b_element = bytes_of(b.dtype), y_element = bytes_of(call.out.dtype);
    const bool known = !first && lead > 0 && right_[lead] == right_[lead - 1];
    if (!known) table_.pairs(b.row(t) + right_[lead] * k_ * n_ * b_element, static_cast<int>(b_element), k_, n_, padded_, pairs);
    const std::byte* rows = a.row(t) + left_[lead] * m_ * k_ * a_element;
    const bool ready = a.dtype == Dtype::i16 && even_ == k_;
    if (!ready) table_.words(rows, static_cast<int>(a_element), m_, k_, words);
    table_.multiply(ready ? reinterpret_cast<const int16_t*>(rows) : words, pairs, m_, k_, n_, padded_,
                    call.out.row(t) + lead * m_ * n_ * y_element, static_cast<int>(y_element));
  }

  const ProductTable& table_;
  int64_t m_, k_, n_, even_, padded_;
  std::vector<int32_t> left_, right_;
};

}  // namespace

const ProductTable& product_table(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kProductAvx512;
  if (isa == Isa::avx2) return kProductAvx2;
#elif defined(__aarch64__)
  if (isa == Isa::neon) return kProductNeon;
#endif
  (void)isa;
  return kProductGeneric;
}

OpPtr make_rows_product(const NodeDef& node, const Defs& in, Isa isa) { return std::make_unique<ProductRows>(node, in, isa); }

}  // namespace picojoule
