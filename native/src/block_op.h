#pragma once
// Chains of element-wise nodes (Affine, Add, Neuron) done block by block in one pass over a row.

#include "isa.h"
#include "op.h"
#include "packed.h"

namespace picojoule {

// How a row lies while blocks of it are worked on: [pixels][channels], in `layout`.
struct BlockForm {
  Layout layout = Layout::dense;
  int64_t channels = 0, pixels = 0;

  bool operator==(const BlockForm&) const = default;
};

struct BlockPlan {
  BlockForm form;
  std::vector<int> members;  // nodes in order
  std::vector<int> inputs;   // nodes outside, as Call::in names them
  struct Output {
    int node;
    Layout layout;
  };
  std::vector<Output> outputs;  // Call::out, then Call::more
};

// The form that a node's constants ask for; channels 0 when they have none. An Add takes any.
BlockForm block_form(const NodeDef& node);
// Why a node cannot be part of a chain; empty when it can.
std::string refuse_block(const NodeDef& node, const Defs& inputs, bool stream);
OpPtr make_block(const GraphDef& graph, const BlockPlan& plan, bool stream, Isa isa);

// Dense rows with the channel first to rows with it last, and back.
OpPtr make_turn(const NodeDef& node, bool to_last, Isa isa);
// An Input of numbers or of bytes with a table, or null when it is another.
OpPtr make_border(const NodeDef& node, int slot, Layout layout, Isa isa);
// A total over all pixels of rows with the channel last, or null when it is another.
OpPtr make_columns(const NodeDef& node, const NodeDef& input, Isa isa);

}  // namespace picojoule
