#pragma once
// A graph turned into a list of kernels over one arena, for one sample at a time.

#include <map>

#include "block_op.h"
#include "cost.h"
#include "fast_synapse.h"
#include "op.h"

namespace picojoule {

inline constexpr int kMostMembers = 32;    // nodes of a chain
inline constexpr int kMostOutputs = 4 * kMostMembers;  // of a step: every node of a chain in every layout

struct Options {
  Isa isa = Isa::scalar;
  std::map<std::string, std::string> kernels;  // forced, by node name
  std::map<std::string, std::string> tuned;    // measured best, by node name; what cannot run is passed over
  std::map<std::string, double> boundaries;    // measured, by synapse: share of set bits where event and static meet
  std::map<std::string, double> rates;         // share of set bits of packed spikes, by the node that gives them
  bool stream = false;  // membranes must survive any number of steps
  bool body = false;    // inside a Scan: inputs are integers already
};

// Memory and borders of one execution.
struct Frame {
  std::byte* arena = nullptr;
  std::byte* state = nullptr;
  int64_t steps = 1, first = 0;
  bool keep = false;
  Scratch* scratch = nullptr;
  const Parallel* parallel = nullptr;
  bool split_all = false;  // over workers, not only what repays waking them
  const BorderInput* inputs = nullptr;
  int64_t* const* outputs = nullptr;
  double* seconds = nullptr;  // added up for every step of the program
  int64_t* switched = nullptr;  // the same: samples that took the other kernel
};

struct NodeReport {
  std::string name, type, kernel, why;
  int64_t bytes = 0;
  double rate = -1, boundary = -1;  // share of set input bits as packed, and where another kernel takes over
  std::string other;
};

class Program {
 public:
  Program(const GraphDef& graph, const Options& options);

  void run(const Frame& frame) const;
  int64_t arena_bytes() const { return arena_bytes_; }
  int64_t state_bytes() const { return state_bytes_; }
  int64_t constant_bytes() const;
  const std::vector<NodeReport>& report() const { return report_; }
  // Node and what runs (kernel, pack, unpack) of every step.
  std::vector<std::pair<int, std::string>> steps() const;

 private:
  struct Value {
    int node;
    Layout layout;
    Dtype dtype;
    int64_t size, row_bytes, rows;
    bool equal_rows;
    int first_use = 0, last_use = 0;
    int64_t offset = 0;
    int same_as = -1;  // the value whose memory it shares
  };
  struct Step {
    OpPtr op;
    int node;
    std::vector<int> in;
    std::vector<int> out;
    int64_t state;
    std::string label;
    double nanoseconds;  // estimated, of all steps
  };

  struct Choice {
    Synapse synapse = Synapse::scalar;  // at the rate that packing measured
    SynapsePlan plan;
    std::string why;
    double rate = -1;      // of the input of a synapse, -1 when unknown
    Fused fused = Fused::none;
    int neuron = -1;       // of a synapse: the neuron done with it
    bool inside = false;   // of a neuron: done with its synapse
    bool packed = false;   // on packed words (packed.h) that lie in `layout`
    Layout layout = Layout::dense;
    bool vector = false;   // dense rows in vectors (rows_ops.h)
    int chain = -1;        // in blocks_, of a node done block by block
    Layout raw = Layout::dense;  // of the integers that a synapse or an input leaves
    bool columns = false;  // a total over pixels, from rows with the channel last
    bool view = false;     // a repeat that nobody has to make
    bool alias = false;    // a reshape whose dense rows are those of its input
  };

  void choose(const GraphDef& graph, const Options& options);
  void choose_node(const GraphDef& graph, int node, const Options& options);
  void choose_packed(const GraphDef& graph, int node, const Options& options);
  Arrival arrival(const GraphDef& graph, int synapse) const;
  Layout arrives(const GraphDef& graph, int node) const;  // how the kernel of a node leaves its value
  bool comes_as(const GraphDef& graph, int node, Layout layout) const;  // without a step that turns it
  void choose_block(const GraphDef& graph, int node, const Options& options);
  void choose_view(const GraphDef& graph, int node, const Options& options);
  void choose_columns(const GraphDef& graph, int node, const Options& options);
  BlockForm form_of_sum(const GraphDef& graph, int node) const;
  bool leaves(const GraphDef& graph, int node, Layout layout) const;
  void join_chains(const GraphDef& graph, int node, const BlockForm& form);
  void choose_raw(const GraphDef& graph, const Options& options);
  // How the readers of a node outside its chain want its value.
  std::vector<Layout> wanted(const GraphDef& graph, int node) const;
  int through(const GraphDef& graph, int node) const;  // what a repeat repeats
  int64_t rows_of(const GraphDef& graph, int node) const;
  void choose_vector(const GraphDef& graph, int node, const Options& options);
  void choose_synapse(const GraphDef& graph, int node, const Options& options);
  void choose_by_rate(const GraphDef& graph, int node, const Options& options, const WeightFacts& facts, bool planes);
  void note(const GraphDef& graph, int node, const std::string& kernel, int64_t bytes);  // a row of the report
  void build_fast(const GraphDef& graph, int node, const Options& options);
  void build_packed(const GraphDef& graph, int node);
  void build_block(const GraphDef& graph, int chain, const Options& options);
  void build_rows(const GraphDef& graph, int node, int slot, const Options& options);  // scalar or vector
  int value(const GraphDef& graph, int node, Layout layout);  // converts when it exists in another layout
  bool exists(int node, Layout layout) const;
  int define(const GraphDef& graph, int node, Layout layout);
  int share(const GraphDef& graph, int node, Layout layout);  // a view or alias as the rows of its input
  OpPtr conversion(const NodeDef& def, Layout from, Layout to) const;
  void emit(OpPtr op, const char* label, int node, std::vector<int> in, std::vector<int> out);
  void place();

  const Isa isa_;
  std::vector<Choice> choices_;  // by node
  std::vector<std::vector<int>> readers_;  // by node
  std::vector<BlockPlan> blocks_;  // chains; one that was joined to another has no members
  std::vector<Value> values_;
  std::vector<Step> steps_;
  std::vector<NodeReport> report_;
  std::vector<bool> equal_rows_;  // by node
  int64_t arena_bytes_ = 0, state_bytes_ = 0;
};

// Kernels that can run a node; the first is the scalar oracle.
std::vector<std::string> kernels_of(const GraphDef& graph, int node, Isa isa);

// The neuron that alone reads a synapse, or -1.
int neuron_after(const GraphDef& graph, int synapse);

}  // namespace picojoule
