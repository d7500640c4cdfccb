// The planner of chains: element-wise nodes that lie together run in one pass, and what feeds them or reads them
// keeps the channel last, so that nothing has to be turned.

#include <algorithm>

#include "moves.h"
#include "program.h"

namespace picojoule {
namespace {

bool is_synapse(const NodeDef& node) { return node.type == "Conv" || node.type == "Linear"; }

bool reads_words(const SynapsePlan& plan) {
  const auto words = [](Synapse kernel) {
    return kernel != Synapse::scalar && kernel != Synapse::dense_rows && kernel != Synapse::dense_bytes;
  };
  return words(plan.kernel) || words(plan.high);
}

bool has(const std::vector<int>& all, int one) { return std::find(all.begin(), all.end(), one) != all.end(); }

}  // namespace

int64_t Program::rows_of(const GraphDef& graph, int node) const {
  const int64_t steps = graph.nodes[node].steps;
  return steps > 0 && !equal_rows_[node] ? steps : 1;
}

// Whether a chain can leave the value of one of its nodes so.
bool Program::leaves(const GraphDef& graph, int node, Layout layout) const {
  const BlockForm& form = blocks_[choices_[node].chain].form;
  if (!holds_words(layout)) return layout == form.layout;
  const NodeDef& def = graph.nodes[node];
  if (def.type != "Neuron" || def.kind.name == KindName::time) return false;
  const Packed packed = packed_of(def, layout);
  if (packed.channels != form.channels) return false;
  return layout == Layout::packed_last ? form.layout == Layout::dense : form.layout == Layout::last || packed.pixels == 1;
}

int Program::through(const GraphDef& graph, int node) const {
  while (choices_[node].view) node = graph.nodes[node].inputs[0];
  return node;
}

bool Program::comes_as(const GraphDef& graph, int index, Layout layout) const {
  const int node = through(graph, index);
  const Choice& choice = choices_[node];
  const NodeDef& def = graph.nodes[node];
  if (choice.chain >= 0) return blocks_[choice.chain].form.layout == layout;
  if (choice.alias) return layout == Layout::dense && comes_as(graph, def.inputs[0], layout);
  if (choice.inside || (choice.packed && def.type != "Mean")) return false;
  if (layout == Layout::dense) return true;
  if (def.type == "Input") return choice.vector && make_border(def, 0, layout, isa_) != nullptr;
  return def.type == "Conv" && choice.synapse != Synapse::scalar && choice.neuron < 0;
}

std::vector<Layout> Program::wanted(const GraphDef& graph, int node) const {
  std::vector<Layout> found;
  const auto add = [&](Layout layout) {
    const Layout one = canonical(graph.nodes[node], layout);
    if (std::find(found.begin(), found.end(), one) == found.end()) found.push_back(one);
  };
  for (int reader : readers_[node]) {
    const Choice& choice = choices_[reader];
    const NodeDef& def = graph.nodes[reader];
    if (choice.chain >= 0) {
      if (choice.chain != choices_[node].chain) add(blocks_[choice.chain].form.layout);
    } else if (choice.view) {
      for (Layout layout : wanted(graph, reader)) add(layout);
    } else if (is_synapse(def) && choice.synapse != Synapse::scalar) {
      const bool conv = def.type == "Conv";
      if (reads_words(choice.plan)) add(conv ? Layout::packed_first : Layout::packed_last);
      else add(conv ? Layout::last : Layout::dense);
    } else {
      add(choice.packed ? choice.layout : choice.columns ? Layout::last : Layout::dense);
    }
  }
  return found;
}

// A node joins the chains of its inputs, or begins one. Chains run where their last node stands, so nobody between
// may read what they hold.
void Program::join_chains(const GraphDef& graph, int node, const BlockForm& form) {
  BlockPlan made{form, {}, {}, {}};
  std::vector<int> joined;
  for (int from : graph.nodes[node].inputs) {
    const int chain = choices_[from].chain;
    if (chain < 0 || has(joined, chain)) continue;
    const BlockPlan& other = blocks_[chain];
    if (!(other.form == form) || rows_of(graph, other.members[0]) != rows_of(graph, node)) continue;
    std::vector<int> together = made.members;
    together.insert(together.end(), other.members.begin(), other.members.end());
    bool free = together.size() < kMostMembers;
    for (int m : together)
      for (int reader : readers_[m]) free = free && (reader >= node || has(together, reader));
    if (!free) continue;
    made.members = together;
    joined.push_back(chain);
  }
  made.members.push_back(node);
  std::sort(made.members.begin(), made.members.end());
  for (int chain : joined) blocks_[chain].members.clear();
  blocks_.push_back(made);
  for (int m : made.members) choices_[m].chain = static_cast<int>(blocks_.size()) - 1;
}

// A sum goes with the chains it adds, else with convolutions.
BlockForm Program::form_of_sum(const GraphDef& graph, int index) const {
  const NodeDef& node = graph.nodes[index];
  const Layout last = canonical(node, Layout::last);
  bool turned = false;
  for (int from : node.inputs) {
    const Choice& choice = choices_[through(graph, from)];
    if (choice.chain >= 0) return blocks_[choice.chain].form;
    turned = turned || (last == Layout::last && choice.synapse != Synapse::scalar && comes_as(graph, from, last));
  }
  const int64_t channels = turned ? node.shape[0] : node.shape.empty() ? 1 : node.shape.back();
  return {turned ? last : Layout::dense, channels, node.size() / channels};
}

void Program::choose_block(const GraphDef& graph, int index, const Options& options) {
  if (options.isa == Isa::scalar || choices_[index].inside) return;
  const NodeDef& node = graph.nodes[index];
  const auto forced = options.kernels.find(node.name), tuned = options.tuned.find(node.name);
  const bool asked = forced != options.kernels.end(), measured = !asked && tuned != options.tuned.end();
  if (asked && forced->second != "block") return;
  if (measured && tuned->second != "block") return;
  Defs in;
  for (int from : node.inputs) in.push_back(&graph.nodes[from]);
  if (!refuse_block(node, in, options.stream).empty()) return;
  BlockForm form = block_form(node);
  if (node.type == "Add") form = form_of_sum(graph, index);
  for (int from : node.inputs)
    if (!asked && !measured && !comes_as(graph, from, form.layout)) return;
  join_chains(graph, index, form);
  choices_[index].why = asked ? "asked for" : measured ? "measured on this machine" : "";
}

// Rows that are there already are not copied.
void Program::choose_view(const GraphDef& graph, int index, const Options& options) {
  const NodeDef& node = graph.nodes[index];
  if (options.isa == Isa::scalar || options.kernels.count(node.name) || (node.type != "Repeat" && node.type != "Reshape")) return;
  const NodeDef& input = graph.nodes[node.inputs[0]];
  if (node.kind.storage() != input.kind.storage()) return;
  choices_[index].view = node.type == "Repeat";
  if (node.type != "Reshape" || node.size() != input.size()) return;
  const std::vector<int32_t> moved = reshape_index(node, input.shape);
  for (size_t i = 0; i < moved.size(); ++i)
    if (moved[i] != static_cast<int32_t>(i)) return;
  choices_[index].alias = true;
}

// Totals over pixels take rows with the channel last when such come.
void Program::choose_columns(const GraphDef& graph, int index, const Options& options) {
  const NodeDef& node = graph.nodes[index];
  const auto forced = options.kernels.find(node.name), tuned = options.tuned.find(node.name);
  const bool asked = forced != options.kernels.end(), measured = !asked && tuned != options.tuned.end();
  if (node.type != "Mean" || options.isa == Isa::scalar) return;
  if ((asked && forced->second != "vector") || (measured && tuned->second != "vector")) return;
  const NodeDef& input = graph.nodes[node.inputs[0]];
  Choice& choice = choices_[index];
  choice.columns = canonical(input, Layout::last) == Layout::last && comes_as(graph, node.inputs[0], Layout::last) &&
                   make_columns(node, input, options.isa) != nullptr;
  choice.vector = choice.columns;
}

// Convolutions without a neuron and inputs leave the channel last when somebody reads it so.
void Program::choose_raw(const GraphDef& graph, const Options& options) {
  if (options.isa == Isa::scalar) return;
  for (int i = 0; i < static_cast<int>(graph.nodes.size()); ++i) {
    if (!comes_as(graph, i, Layout::last) || choices_[i].chain >= 0 || choices_[i].view || choices_[i].alias) continue;
    const auto all = wanted(graph, i);
    if (std::find(all.begin(), all.end(), Layout::last) != all.end()) choices_[i].raw = Layout::last;
  }
}

}  // namespace picojoule
