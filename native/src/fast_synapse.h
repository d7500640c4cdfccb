#pragma once
// Choosing and building the fast kernels of Conv and Linear, alone or with the neuron that follows.

#include <algorithm>
#include <string>

#include "fast.h"
#include "isa.h"
#include "neuron_constants.h"
#include "op.h"
#include "packed.h"

namespace picojoule {

enum class Synapse : uint8_t { scalar, event_bits, event_rows, dense_rows, dense_bytes, static_bits, depth_bits, lookup_bits, dot_bits, lookup_words };
// Kernels of lookup.h and lookup_words.h, whose sums have 16 bits.
inline bool sums_shorts(Synapse kernel) { return kernel >= Synapse::lookup_bits; }
enum class Fused : uint8_t { none, rows, planes };

// The kernel of a synapse, and another for samples whose share of set input bits passes the boundary.
struct SynapsePlan {
  Synapse kernel = Synapse::scalar, high = Synapse::scalar;
  double boundary = 1;
  int64_t together = 1;  // groups of a convolution that make one layer (fast_groups.h)
};

const char* name_of(Synapse kernel);
const char* name_of(Fused kernel);

// What the weights of a synapse allow.
struct WeightFacts {
  WeightFacts(const NodeDef& node, const NodeDef& input);

  int64_t low = 0, high = 0;      // of the codes
  bool signs = true;              // all -1 or +1
  bool few_words = false;         // the kernels of all pairs of channels are a few different ones (lookup_words.h)
  double density = 0;             // set bits a weight, over all its bit-planes
  long double sum_bound = 0;      // of |sum| without the bias
  long double total_bound = 0;    // with it
  std::vector<Range> outputs;     // a channel, bias included

  int planes() const;             // of the weights as vertical counting stores them
  int64_t most() const { return std::max<int64_t>({1, high, -low}); }  // of |code|
  bool small() const { return most() <= 16; }  // added as bytes: fewer than seven rows at once do not pay
  ByteSums byte_sums(const Kind& input) const;
};

// Why a kernel cannot run a node; empty when it can.
std::string refuse(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Synapse kernel);
std::string refuse(const NodeDef& synapse, const NodeDef& neuron, const WeightFacts& facts, Fused kernel, bool stream);

// True when the plane kernel compares sums with levels instead of keeping a membrane.
bool plane_levels(const NodeDef& neuron, const NeuronConstants& n, bool stream);

Layout packed_layout(const NodeDef& synapse);  // of its input and output spikes
// Dense bytes read words, dense rows or rows with the channel last, as `from` says; sums without a neuron leave in `raw`.
OpPtr make_fast(const NodeDef& synapse, const NodeDef& input, const NodeDef* neuron, const SynapsePlan& plan,
                Fused fused, bool stream, Layout from, Layout raw, Isa isa);

}  // namespace picojoule
