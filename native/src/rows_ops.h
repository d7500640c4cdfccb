#pragma once
// Vector kernels of nodes that work on dense rows: neurons, elementwise nodes, products, grouped convolutions.

#include "fast_synapse.h"
#include "op.h"

namespace picojoule {

// The kernel "vector" of a node, or null when its values do not fit one; `stream` as in NeuronConstants.
OpPtr make_rows(const NodeDef& node, const Defs& inputs, bool stream, Isa isa);

// One family a file.
OpPtr make_rows_neuron(const NodeDef& node, const NodeDef& input, bool stream, const RowsTable& table, Isa isa);
OpPtr make_rows_pool(const NodeDef& node, const NodeDef& input, const RowsTable& table);
OpPtr make_rows_timemix(const NodeDef& node, const NodeDef& input, const RowsTable& table);
OpPtr make_rows_product(const NodeDef& node, const Defs& inputs, Isa isa);
OpPtr make_rows_conv(const NodeDef& node, const NodeDef& input, const RowsTable& table);

}  // namespace picojoule
