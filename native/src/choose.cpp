// The planner: kernels by kind and bits, or as forced by name.

#include "program.h"

#include <algorithm>

#include "fast_groups.h"
#include "rows_ops.h"

namespace picojoule {
namespace {

constexpr Synapse kSynapses[] = {Synapse::event_bits, Synapse::event_rows, Synapse::dense_rows, Synapse::dense_bytes,
                                  Synapse::static_bits, Synapse::depth_bits, Synapse::lookup_bits, Synapse::dot_bits, Synapse::lookup_words};

constexpr const char *kMeasured = "measured on this machine", *kAskedFor = "asked for";

const char* why_of(bool rate_known) { return rate_known ? "by kinds, bits and rate" : "by kinds and bits, rate unknown"; }

bool counts_bits(Synapse kernel) {
  return kernel == Synapse::event_bits || kernel == Synapse::static_bits || kernel == Synapse::depth_bits;
}

bool is_synapse(const NodeDef& node) { return node.type == "Conv" || node.type == "Linear"; }

// The kernels that have no price, in order: analogue inputs are dense; spikes that no priced kernel takes are depthwise,
// or of too many levels.
std::vector<Synapse> unpriced(const NodeDef& input, Isa isa) {
  if (input.kind.spikes()) return {Synapse::depth_bits, Synapse::dense_rows};
  if (multiplies_bytes(isa)) return {Synapse::dense_bytes, Synapse::dense_rows};
  return {Synapse::dense_rows};
}

constexpr double kApart = 12;  // nanoseconds of 32 neurons that run after their synapse, not with it

// True where samples of many spikes may leave event_bits for static_bits. Of many planes, the set bits of all weights
// outnumber the bytes: dense bytes serve those better, whole nodes at a time.
bool turns_static(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Isa isa) {
  return (facts.planes() <= 3 || !multiplies_bytes(isa)) && refuse(node, input, facts, Synapse::event_bits).empty() && refuse(node, input, facts, Synapse::static_bits).empty();
}

// The kernel of spikes that costs least, of those that can run.
Synapse cheapest(const NodeDef& node, const NodeDef& input, const NodeDef* neuron, const WeightFacts& facts, double rate,
                 const Arrival& arrival, const Options& options) {
  FinishFacts finish;
  bool rows = false, planes = false;
  if (neuron) {
    const NeuronConstants n(*neuron);
    finish = {true, !n.forgets(options.stream), static_cast<int64_t>(n.thresholds.size()) + n.ternary};
    rows = refuse(node, *neuron, facts, Fused::rows, options.stream).empty();
    planes = refuse(node, *neuron, facts, Fused::planes, options.stream).empty();
  }
  Synapse best = Synapse::scalar;
  double least = 0;
  for (auto kernel : {Synapse::event_bits, Synapse::event_rows, Synapse::dense_bytes, Synapse::lookup_bits, Synapse::dot_bits,
                      Synapse::lookup_words}) {
    if (!refuse(node, input, facts, kernel).empty()) continue;
    finish.fused = rows || (planes && kernel == Synapse::event_bits);
    double reached = rate;  // beyond the boundary the other kernel of a pair takes over
    if (kernel == Synapse::event_bits && turns_static(node, input, facts, options.isa))
      reached = std::min(rate, static_boundary(node, input, facts, options.isa));
    double price = price_of(node, input, facts, finish, reached, kernel, arrival, options.isa);
    if (neuron && !finish.fused) price += kApart * static_cast<double>((facts.outputs.size() + 31) / 32);
    if (best == Synapse::scalar || price < least) best = kernel, least = price;
  }
  return best;
}

// Integers into groups of few channels: dense kernels would multiply mostly zeros, shifted rows (rows_conv.cpp) do not.
bool few_a_group(const NodeDef& node, const NodeDef& input, Isa isa) {
  return !input.kind.spikes() && node.integer("groups", 1) > 1 && node.need("weight").shape[1] <= (multiplies_bytes(isa) ? 4 : 16);
}

[[noreturn]] void refuse_kernel(const NodeDef& node, const std::string& kernel, const std::string& why) {
  node.fail("kernel '" + kernel + "' cannot run it: " + why);
}

Defs inputs_of(const GraphDef& graph, int index) {
  Defs in;
  for (int from : graph.nodes[index].inputs) in.push_back(&graph.nodes[from]);
  return in;
}

bool vector_able(const GraphDef& graph, int index, bool stream, Isa isa) {
  const NodeDef& node = graph.nodes[index];
  if (node.type == "Input") return make_border(node, 0, Layout::dense, isa) != nullptr;
  return make_rows(node, inputs_of(graph, index), stream, isa) != nullptr;
}

}  // namespace

int neuron_after(const GraphDef& graph, int synapse) {
  int found = -1;
  for (int i = 0; i < static_cast<int>(graph.nodes.size()); ++i)
    for (int from : graph.nodes[i].inputs) {
      if (from != synapse) continue;
      if (found >= 0 || graph.nodes[i].type != "Neuron") return -1;
      found = i;
    }
  return found;
}

std::vector<std::string> kernels_of(const GraphDef& graph, int index, Isa isa) {
  std::vector<std::string> names{"scalar"};
  const NodeDef& node = graph.nodes[index];
  if (isa == Isa::scalar) return names;
  if (is_synapse(node)) {
    const NodeDef& input = graph.nodes[node.inputs[0]];
    const WeightFacts facts(node, input);
    for (auto kernel : kSynapses)
      if (refuse(node, input, facts, kernel).empty()) names.push_back(name_of(kernel));
  }
  if (node.type == "Neuron" && is_synapse(graph.nodes[node.inputs[0]]) &&
      neuron_after(graph, node.inputs[0]) == index) {
    const NodeDef &synapse = graph.nodes[node.inputs[0]], &input = graph.nodes[synapse.inputs[0]];
    const WeightFacts facts(synapse, input);
    const auto able = [&](Synapse kernel) { return refuse(synapse, input, facts, kernel).empty(); };
    if ((able(Synapse::event_bits) || able(Synapse::event_rows) || able(Synapse::dense_rows) || able(Synapse::dense_bytes) ||
         able(Synapse::depth_bits) || able(Synapse::lookup_bits)) &&
        refuse(synapse, node, facts, Fused::rows, false).empty())
      names.push_back("rows");
    if ((able(Synapse::event_bits) || able(Synapse::depth_bits)) &&
        refuse(synapse, node, facts, Fused::planes, false).empty())
      names.push_back("planes");
  }
  if (vector_able(graph, index, false, isa)) names.push_back("vector");
  const Defs in = inputs_of(graph, index);
  if (refuse_block(node, in, false).empty()) names.push_back("block");
  if (packable(node, in, Layout::packed_first) || packable(node, in, Layout::packed_last)) names.push_back("packed");
  return names;
}

void Program::choose(const GraphDef& graph, const Options& options) {
  choices_.resize(graph.nodes.size());
  for (auto& [name, kernel] : options.kernels)
    if (std::none_of(graph.nodes.begin(), graph.nodes.end(), [&](auto& node) { return node.name == name; }))
      throw Error("a kernel is forced on '" + name + "', which the graph does not have");
  const int count = static_cast<int>(graph.nodes.size());
  readers_.resize(graph.nodes.size());
  for (int i = 0; i < count; ++i)
    for (int from : graph.nodes[i].inputs) readers_[from].push_back(i);
  for (int i = 0; i < count; ++i) choose_node(graph, i, options);
  choose_raw(graph, options);
  for (int i = 0; i < static_cast<int>(graph.nodes.size()); ++i) {
    const NodeDef& node = graph.nodes[i];
    auto forced = options.kernels.find(node.name);
    if (forced == options.kernels.end()) continue;
    const Choice& choice = choices_[i];
    std::string chosen = name_of(choice.synapse);
    if (choice.packed) chosen = "packed";
    if (choice.chain >= 0) chosen = "block";
    if (node.type == "Neuron" && choice.chain < 0) chosen = choice.inside ? name_of(choice.fused) : "scalar";
    if (choice.vector) chosen = "vector";
    const bool may_fall_back = options.stream && node.type == "Neuron";  // a stream may need a wider membrane
    if (chosen != forced->second && !may_fall_back) refuse_kernel(node, forced->second, "no such kernel fits this node here");
  }
}

void Program::choose_node(const GraphDef& graph, int index, const Options& options) {
  const NodeDef& node = graph.nodes[index];
  if (is_synapse(node)) choose_synapse(graph, index, options);
  choose_view(graph, index, options);
  choose_block(graph, index, options);
  choose_columns(graph, index, options);
  if (!is_synapse(node) && choices_[index].chain < 0 && !choices_[index].columns) choose_packed(graph, index, options);
  choose_vector(graph, index, options);
}

// As spikes lie when synapse `index` asks for them: as they are made, or as one before it has asked for them.
Arrival Program::arrival(const GraphDef& graph, int index) const {
  const int from = graph.nodes[index].inputs[0];
  Arrival found;
  (holds_words(arrives(graph, from)) ? found.words : found.dense) = true;
  if (choices_[from].chain >= 0) found.dense = true;  // a chain leaves both at no cost
  for (int i = 0; i < index; ++i)
    if (is_synapse(graph.nodes[i]) && graph.nodes[i].inputs[0] == from && choices_[i].synapse != Synapse::scalar) {
      const Synapse kernel = choices_[i].plan.kernel;
      if (kernel != Synapse::dense_bytes) (kernel == Synapse::dense_rows ? found.dense : found.words) = true;
    }
  return found;
}

Layout Program::arrives(const GraphDef& graph, int index) const {
  const Choice& choice = choices_[index];
  const NodeDef& node = graph.nodes[index];
  if (choice.inside) return packed_layout(graph.nodes[node.inputs[0]]);
  if (choice.chain >= 0)
    for (Layout layout : {Layout::packed_first, Layout::packed_last})
      if (leaves(graph, index, layout)) return canonical(node, layout);
  return choice.packed && node.type != "Mean" ? choice.layout : Layout::dense;
}

// Words where the spikes are packed already, or when asked for.
void Program::choose_packed(const GraphDef& graph, int index, const Options& options) {
  if (options.isa == Isa::scalar) return;
  const NodeDef& node = graph.nodes[index];
  const Defs in = inputs_of(graph, index);
  const auto forced = options.kernels.find(node.name);
  std::vector<Layout> layouts;
  for (size_t i = 0; i < in.size(); ++i)
    if (arrives(graph, node.inputs[i]) != Layout::dense && in[i]->size() >= node.size()) layouts.push_back(arrives(graph, node.inputs[i]));
  const auto tuned = options.tuned.find(node.name);
  const bool asked = forced != options.kernels.end(), measured = !asked && tuned != options.tuned.end();
  if (asked || measured) {
    if ((asked ? forced : tuned)->second != "packed") return;
    layouts.insert(layouts.end(), {Layout::packed_first, Layout::packed_last});
  }
  Choice& choice = choices_[index];
  for (Layout layout : layouts)
    if (!choice.packed && packable(node, in, layout)) choice.packed = true, choice.layout = layout;
}

// Whatever has no kernel of its own, and what is asked for.
void Program::choose_vector(const GraphDef& graph, int index, const Options& options) {
  Choice& choice = choices_[index];
  if (options.isa == Isa::scalar || choice.inside || choice.packed || choice.view || choice.alias || choice.chain >= 0 || choice.synapse != Synapse::scalar) return;
  auto forced = options.kernels.find(graph.nodes[index].name);
  if (forced != options.kernels.end() && forced->second != "vector") return;
  choice.vector = vector_able(graph, index, options.stream, options.isa);
}

// What the rate decides: the kernel at the rate that packing (or tuning) saw, and another for samples beyond the
// boundary.
void Program::choose_by_rate(const GraphDef& graph, int index, const Options& options, const WeightFacts& facts,
                             bool planes) {
  const NodeDef &node = graph.nodes[index], &input = graph.nodes[node.inputs[0]];
  Choice& choice = choices_[index];
  const auto rate = options.rates.find(input.name);
  if (rate != options.rates.end()) choice.rate = rate->second;
  const auto tuned = options.tuned.find(node.name);
  const bool measured = tuned != options.tuned.end();
  for (auto kernel : kSynapses)
    if (measured && tuned->second == name_of(kernel) && (!planes || counts_bits(kernel)) && refuse(node, input, facts, kernel).empty()) {
      choice.synapse = choice.plan.kernel = kernel;
      choice.why = kMeasured;
    }
  const double usual = choice.rate < 0 ? kUsualRate : choice.rate;
  const bool bits = counts_bits(choice.synapse);
  const Synapse events = bits ? Synapse::event_bits : Synapse::event_rows, steady = bits ? Synapse::static_bits : Synapse::dense_bytes;
  if (choice.synapse != events && (choice.synapse != steady || !(bits || measured))) return;
  if (!refuse(node, input, facts, events).empty() || !refuse(node, input, facts, steady).empty()) return;
  if (bits && !measured && !turns_static(node, input, facts, options.isa)) return;
  const auto found = options.boundaries.find(node.name);
  const bool known = found != options.boundaries.end();
  if (measured && !known) return;
  const double boundary = known  ? found->second
                          : bits ? static_boundary(node, input, facts, options.isa)
                                 : dense_boundary(node, input, facts, options.isa);
  if (boundary < 1) choice.plan = {events, steady, boundary};
  if (measured) return;
  choice.synapse = usual > boundary ? steady : events;
  choice.why = why_of(choice.rate >= 0);
}

void Program::choose_synapse(const GraphDef& graph, int index, const Options& options) {
  const NodeDef &node = graph.nodes[index], &input = graph.nodes[node.inputs[0]];
  const int after = neuron_after(graph, index);
  const auto forced = [&](const std::string& name) {
    auto it = options.kernels.find(name);
    return it == options.kernels.end() ? std::string() : it->second;
  };
  const auto tuned = [&](const std::string& name) {
    auto it = options.tuned.find(name);
    return it == options.tuned.end() ? std::string() : it->second;
  };
  const std::string wanted = forced(node.name), wanted_neuron = after < 0 ? "" : forced(graph.nodes[after].name);
  if (wanted == "scalar" || wanted == "vector" || (options.isa == Isa::scalar && wanted.empty())) return;
  if (options.isa == Isa::scalar) refuse_kernel(node, wanted, "the instruction set is scalar");

  const WeightFacts facts(node, input);
  Choice& choice = choices_[index];
  if (wanted.empty() && wanted_neuron.empty() && tuned(node.name) == "vector" &&
      vector_able(graph, index, options.stream, options.isa)) {
    choice.why = kMeasured;
    return;
  }
  if (wanted.empty() && wanted_neuron.empty() && few_a_group(node, input, options.isa) && vector_able(graph, index, options.stream, options.isa)) return;
  if (!wanted.empty()) {
    for (auto kernel : kSynapses)
      if (wanted == name_of(kernel)) choice.synapse = kernel;
    if (choice.synapse == Synapse::scalar) refuse_kernel(node, wanted, "the engine has no kernel of that name");
    const std::string why = refuse(node, input, facts, choice.synapse);
    if (!why.empty()) refuse_kernel(node, wanted, why);
    choice.why = kAskedFor;
  } else {
    const auto rate = options.rates.find(input.name);
    std::vector<Synapse> order = unpriced(input, options.isa);
    if (wanted_neuron == "planes") order = {Synapse::event_bits, Synapse::depth_bits};
    else if (input.kind.spikes())
      choice.synapse = cheapest(node, input, after < 0 || wanted_neuron == "scalar" || wanted_neuron == "vector" ? nullptr : &graph.nodes[after],
                                facts, rate == options.rates.end() ? kUsualRate : rate->second, arrival(graph, index), options);
    choice.why = choice.synapse == Synapse::scalar ? "by kinds and bits" : why_of(rate != options.rates.end());
    for (auto kernel : order)
      if (choice.synapse == Synapse::scalar && refuse(node, input, facts, kernel).empty()) choice.synapse = kernel;
  }
  choice.plan.kernel = choice.synapse;
  if (wanted.empty()) choose_by_rate(graph, index, options, facts, wanted_neuron == "planes");
  if (choice.synapse != Synapse::scalar && choice.synapse != Synapse::depth_bits && node.integer("groups", 1) > 1)
    choice.plan.together = groups_together(node, input, facts, choice.plan.kernel, options.isa);
  if (choice.synapse == Synapse::scalar || after < 0 || wanted_neuron == "scalar" || wanted_neuron == "vector" || wanted_neuron == "block") return;
  const std::string best = wanted_neuron.empty() ? tuned(graph.nodes[after].name) : "";
  if (best == "block") return;
  if (best == "vector" && vector_able(graph, after, options.stream, options.isa)) {
    choices_[after].why = kMeasured;
    return;
  }
  const Fused first = best == name_of(Fused::rows) ? Fused::rows : Fused::planes;
  for (auto fused : {first, first == Fused::rows ? Fused::planes : Fused::rows}) {
    if (fused == Fused::planes && !counts_bits(choice.synapse)) continue;
    if (!wanted_neuron.empty() && wanted_neuron != name_of(fused)) continue;
    const std::string why = refuse(node, graph.nodes[after], facts, fused, options.stream);
    if (!why.empty()) {
      if (!wanted_neuron.empty() && !options.stream) refuse_kernel(graph.nodes[after], wanted_neuron, why);
      continue;
    }
    choice.fused = choices_[after].fused = fused;
    choice.neuron = after;
    choices_[after].inside = true;
    choices_[after].why = wanted_neuron.empty() ? best == name_of(fused) ? kMeasured : "with its synapse" : kAskedFor;
    return;
  }
}

}  // namespace picojoule
