#pragma once
// Packed spikes: [plane][pixel][word], channel c of a pixel is bit c % 64 of word c / 64. Planes: one for
// binary, +1 and -1 for ternary, the binary digits for integer(D).

#include "isa.h"
#include "op.h"

namespace picojoule {

// Dense: C order. Packed: the channel is the first row axis (convolutions) or the last (tokens). Last: integers like
// dense ones, but the first row axis, the channel, lies last: [pixel][channel].
enum class Layout : uint8_t { dense, packed_first, packed_last, last };

inline bool holds_words(Layout layout) { return layout == Layout::packed_first || layout == Layout::packed_last; }

struct Packed {
  int64_t channels, pixels, words;
  int planes;
  bool ternary;
  int64_t channel_stride, pixel_stride;  // of the dense row

  int64_t row_bytes() const { return planes * pixels * words * 8; }
};

int planes_of(const Kind& kind);
Packed packed_of(const NodeDef& node, Layout layout);
// The same layout by its one name: rows of one axis are packed_last, and dense where only one axis has an extent.
Layout canonical(const NodeDef& node, Layout layout);

// From and to dense or last; scalar: one element at a time.
OpPtr make_pack(const NodeDef& node, Layout from, Layout to, Isa isa);
OpPtr make_unpack(const NodeDef& node, Layout from, Layout to, Isa isa);

// Max and min pools of binary and ternary spikes as OR and AND of words; `packable` says whether a node is one.
bool packable_pool(const NodeDef& node, const NodeDef& input);
OpPtr make_packed_pool(const NodeDef& node, const NodeDef& input);

// Kernel "packed" of a Pool, Mul, Logic or Mean whose inputs lie in `layout`; a Mean gives dense rows.
bool packable(const NodeDef& node, const Defs& inputs, Layout layout);
OpPtr make_packed(const NodeDef& node, const Defs& inputs, Layout layout);

}  // namespace picojoule
