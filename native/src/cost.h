#pragma once
// What kernels cost, by counts of their vector operations; fitted to measurements.

#include "fast_synapse.h"

namespace picojoule {

inline constexpr double kUsualRate = 0.15;  // of spikes whose rate nobody measured

// What happens to the sums of a synapse: kept, or fired by a neuron that has a membrane or compares with levels.
struct FinishFacts {
  bool fused = false, membrane = false;
  int64_t levels = 1;
};

// How the spikes of an input lie before a kernel asks for them.
struct Arrival {
  bool words = false, dense = false;
};

// Nanoseconds of one pixel at one step, on the machine that benchmarks/engine/prices.py was run on; only ratios matter.
// rate: share of set bits in the planes of the input. Known for kernels that read packed spikes, and for dense bytes.
double price_of(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, const FinishFacts& finish, double rate,
                Synapse kernel, const Arrival& arrival, Isa isa);

// Share of set input bits at which event and static counting take the same time; may pass 1.
double static_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa);
// The same for the int8 rows of events and dense bytes.
double dense_boundary(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa);

}  // namespace picojoule
