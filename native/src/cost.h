#pragma once
// What kernels cost, by counts of their vector operations; fitted to measurements.

#include "fast_synapse.h"

namespace picojoule {

inline constexpr double kUsualRate = 0.15;  // of spikes whose rate nobody measured

// Share of set input bits at which event and static counting take the same time; may pass 1.
double static_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa);
// The same for the int8 rows of events and dense bytes.
double dense_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa);
// The same for events counted in several bit-planes of the weights and dense bytes.
double planes_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa);

}  // namespace picojoule
