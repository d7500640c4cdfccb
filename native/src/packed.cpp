#include "packed.h"

#include <algorithm>
#include <cstring>

#include "block.h"
#include "rows.h"

namespace picojoule {

int planes_of(const Kind& kind) {
  if (kind.name == KindName::ternary) return 2;
  int planes = 1;
  while (kind.high() >> planes) ++planes;
  return planes;
}

Packed packed_of(const NodeDef& node, Layout layout) {
  Packed p;
  const bool first = layout == Layout::packed_first;
  p.channels = node.shape.empty() ? 1 : first ? node.shape[0] : node.shape.back();
  p.pixels = node.size() / p.channels;
  p.words = (p.channels + 63) / 64;
  p.planes = planes_of(node.kind);
  p.ternary = node.kind.name == KindName::ternary;
  p.channel_stride = first ? p.pixels : 1;
  p.pixel_stride = first ? 1 : p.channels;
  return p;
}

Layout canonical(const NodeDef& node, Layout layout) {
  if (layout == Layout::last && (node.shape.size() < 2 || node.shape[0] == 1 || node.size() == node.shape[0])) return Layout::dense;
  return layout == Layout::packed_first && node.shape.size() < 2 ? Layout::packed_last : layout;
}

namespace {

class PackOp : public Op {
 public:
  PackOp(const Packed& p, Isa isa) : p_(p), table_(rows_table(isa)), tokens_(table_ ? &block_table(isa) : nullptr) {}
  void run(const Call& call) const override {
    const bool bytes = table_ && call.in[0].dtype == Dtype::i8;
    if (bytes && p_.pixel_stride == 1) return run_vector(call);
    if (bytes && p_.channel_stride == 1) return run_tokens(call);
    uint64_t* words = call.scratch->take<uint64_t>(p_.pixels);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      with_integer(call.in[0].dtype, [&](auto zero) {
        const auto* x = call.in[0].as<decltype(zero)>(t);
        for (int plane = 0; plane < p_.planes; ++plane)
          for (int64_t w = 0; w < p_.words; ++w) {
            std::fill(words, words + p_.pixels, 0);
            for (int64_t c = w * 64; c < std::min(p_.channels, w * 64 + 64); ++c) {
              const auto* from = x + c * p_.channel_stride;
              if (p_.pixel_stride == 1) add_bits(from, 1, plane, static_cast<int>(c % 64), words);
              else add_bits(from, p_.pixel_stride, plane, static_cast<int>(c % 64), words);
            }
            uint64_t* to = call.out.as<uint64_t>(t) + plane * p_.pixels * p_.words + w;
            for (int64_t q = 0; q < p_.pixels; ++q) to[q * p_.words] = words[q];
          }
      });
    }
  }

 private:
  // Bit `bit` of every pixel's word from one channel.
  template <class E>
  void add_bits(const E* from, int64_t stride, int plane, int bit, uint64_t* words) const {
    for (int64_t q = 0; q < p_.pixels; ++q) {
      const E n = from[q * stride];
      const uint64_t on = p_.ternary ? (plane ? n < 0 : n > 0) : static_cast<uint64_t>(n) >> plane & 1;
      words[q] |= on << bit;
    }
  }

  void run_vector(const Call& call) const {
    for (int64_t t = 0; t < call.out.rows; ++t)
      for (int plane = 0; plane < p_.planes; ++plane)
        table_->pack(call.in[0].as<int8_t>(t), p_.channels, p_.pixels, p_.ternary ? 0 : plane,
                     p_.ternary ? (plane ? -1 : 1) : 0, call.out.as<uint64_t>(t) + plane * p_.pixels * p_.words);
  }

  // Whole words are read at once, of the last pixel too: what is no multiple of them is read from a copy with room.
  void run_tokens(const Call& call) const {
    const int64_t n = p_.pixels * p_.channels;
    int8_t* room = p_.channels % 64 ? call.scratch->take<int8_t>(n + kBlockSlack) : nullptr;
    for (int64_t t = 0; t < call.out.rows; ++t) {
      const int8_t* from = call.in[0].as<int8_t>(t);
      if (room) std::memcpy(room, from, static_cast<size_t>(n));
      tokens_->words(room ? room : from, p_.pixels, p_.channels, p_.planes, p_.ternary, p_.pixels * p_.words, call.out.as<uint64_t>(t));
    }
  }

  Packed p_;
  const RowsTable* table_;
  const BlockTable* tokens_;
};

class UnpackOp : public Op {
 public:
  UnpackOp(const Packed& p, const RowsTable* table) : p_(p), table_(table) {}
  void run(const Call& call) const override {
    if (table_ && call.out.dtype == Dtype::i8) return run_vector(call);
    for (int64_t t = 0; t < call.out.rows; ++t)
      with_integer(call.out.dtype, [&](auto zero) {
        using E = decltype(zero);
        E* y = call.out.as<E>(t);
        std::fill(y, y + p_.channels * p_.pixels, E{0});
        for (int plane = 0; plane < p_.planes; ++plane)
          for (int64_t q = 0; q < p_.pixels; ++q) {
            const uint64_t* from = call.in[0].as<uint64_t>(t) + (plane * p_.pixels + q) * p_.words;
            for (int64_t w = 0; w < p_.words; ++w)
              for (uint64_t bits = from[w]; bits; bits &= bits - 1) {
                const int64_t c = w * 64 + __builtin_ctzll(bits);
                E& at = y[c * p_.channel_stride + q * p_.pixel_stride];
                at = static_cast<E>(p_.ternary ? (plane ? -1 : 1) : at + (E{1} << plane));
              }
          }
      });
  }

 private:
  void run_vector(const Call& call) const {
    const int64_t stride = (p_.channels + 7) / 8 * 8;
    int8_t* bytes = call.scratch->take<int8_t>(p_.pixels * stride);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      table_->unpack(call.in[0].as<uint64_t>(t), p_.words, p_.planes, p_.ternary, p_.pixels, stride, bytes);
      int8_t* y = call.out.as<int8_t>(t);
      if (p_.channel_stride == 1)
        for (int64_t q = 0; q < p_.pixels; ++q) std::memcpy(y + q * p_.channels, bytes + q * stride, p_.channels);
      else
        table_->transpose(bytes, p_.pixels, p_.channels, stride, p_.pixels, y);
    }
  }

  Packed p_;
  const RowsTable* table_;
};

// Rows with the channel last lie like those of tokens.
Packed beside(const NodeDef& node, Layout words, Layout integers) {
  Packed p = packed_of(node, words);
  if (integers == Layout::last && words == Layout::packed_first) p.channel_stride = 1, p.pixel_stride = p.channels;
  return p;
}

}  // namespace

OpPtr make_pack(const NodeDef& node, Layout from, Layout to, Isa isa) { return std::make_unique<PackOp>(beside(node, to, from), isa); }
OpPtr make_unpack(const NodeDef& node, Layout from, Layout to, Isa isa) { return std::make_unique<UnpackOp>(beside(node, from, to), rows_table(isa)); }

}  // namespace picojoule
