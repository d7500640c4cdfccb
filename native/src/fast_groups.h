#pragma once
// Convolutions in groups, as layers of their own over slices of the channels. Several small groups may make one layer,
// whose weights between different groups are zeros. Depthwise convolutions have a kernel of their own (fast_depth.h).

#include "cost.h"

namespace picojoule {

// One of `count` layers that are alike but for their weights, which `node` has no values of.
struct GroupLayer {
  NodeDef node, input;
  WeightFacts facts;
  int64_t count;
};

GroupLayer layer_of(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, int64_t together);

// How many groups make one layer of a kernel, at the least price.
int64_t groups_together(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Synapse kernel, Isa isa);

// As `price_of`, of all layers, with what cutting the input and joining the output costs.
double price_of_groups(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, const FinishFacts& finish,
                       double rate, Synapse kernel, const Arrival& arrival, Isa isa);

OpPtr make_groups(const NodeDef& synapse, const NodeDef& input, const NodeDef* neuron, const SynapsePlan& plan, Fused fused,
                  bool stream, Layout from, Layout raw, Isa isa);

}  // namespace picojoule
