#pragma once
// Data movement inside a row as one gather: out[i] = index[i] < 0 ? 0 : in[index[i]].

#include <vector>

#include "picojoule/graph.h"

namespace picojoule {

// Position of the row axis named by attribute `axis` (negative counts from the end); throws when absent.
int64_t channel_axis(const NodeDef& node, const Shape& shape);

// Throws unless the moves of a Reshape turn `shape` into the node's rows.
void check_moves(const NodeDef& node, const Shape& shape);

// Gather table of a Reshape, an Upsample, or of broadcasting `from` to `to`.
std::vector<int32_t> reshape_index(const NodeDef& node, const Shape& shape);
std::vector<int32_t> upsample_index(const NodeDef& node, const Shape& shape);
std::vector<int32_t> broadcast_index(const Shape& from, const Shape& to);

}  // namespace picojoule
