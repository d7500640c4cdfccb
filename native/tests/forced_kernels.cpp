// Random graphs, every kernel of every node forced in turn on every instruction set: the integers of the scalar
// oracle, whole and as a stream of single steps; a kernel that a node's list does not name is refused.
// Usage: forced_kernels [graphs] [seed]

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "random_graph.h"

using namespace picojoule;
using namespace picojoule::tests;

namespace {

using Rows = std::vector<int64_t>;

EngineOptions options_of(const std::string& isa, const std::string& node, const std::string& kernel, bool stream) {
  EngineOptions options;
  options.isa = isa;
  options.stream = stream;
  if (!node.empty()) options.kernels[node] = kernel;
  return options;
}

// Outputs of one call on blocks of memory that hold exactly what is asked for.
Rows whole(const Engine& engine, int64_t batch, uint64_t seed) {
  const GraphDef& graph = engine.graph();
  const auto data = data_for(graph, batch, seed);
  std::vector<InputBatch> inputs;
  for (auto& d : data) inputs.push_back({reinterpret_cast<const std::byte*>(d.data()), Dtype::i8});
  std::vector<Rows> out;
  for (int i : graph.of_type("Output"))
    out.emplace_back(batch * (graph.nodes[i].steps ? graph.steps() : 1) * graph.nodes[i].size());
  std::vector<int64_t*> outputs;
  for (auto& o : out) outputs.push_back(o.data());
  engine.run(batch, graph.steps(), 0, inputs, outputs, nullptr);
  Rows all;
  for (auto& o : out) all.insert(all.end(), o.begin(), o.end());
  return all;
}

// The one output of a graph, step by step, in the order of a whole call with a batch of 1.
Rows streamed(const Engine& engine, uint64_t seed) {
  const GraphDef& graph = engine.graph();
  const auto data = data_for(graph, 1, seed);
  const NodeDef &entry = graph.nodes[graph.of_type("Input")[0]], &exit = graph.nodes[graph.of_type("Output")[0]];
  std::vector<std::byte> state(engine.state_bytes());
  Rows all;
  for (int64_t t = 0; t < graph.steps(); ++t) {
    const std::vector<int8_t> step(data[0].begin() + t * entry.size(), data[0].begin() + (t + 1) * entry.size());
    Rows out(exit.size());
    engine.run(1, 1, t, {{reinterpret_cast<const std::byte*>(step.data()), Dtype::i8}}, {out.data()}, state.data());
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

struct Tally {
  int64_t graphs = 0, runs = 0, refusals = 0;
  std::set<std::string> kernels;
};

void fail(uint64_t seed, const std::string& what) {
  std::fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(seed), what.c_str());
  std::exit(1);
}

void expect_refusal(const std::shared_ptr<GraphDef>& graph, const std::string& isa, const std::string& node,
                    const std::string& kernel, uint64_t seed, Tally& tally) {
  try {
    const Engine engine(graph, options_of(isa, node, kernel, false));
  } catch (const Error& error) {
    if (std::string(error.what()).find(node) == std::string::npos) fail(seed, "a refusal names no node: " + std::string(error.what()));
    ++tally.refusals;
    return;
  }
  fail(seed, isa + ": " + kernel + " was not refused on " + node);
}

void check(const std::shared_ptr<GraphDef>& graph, uint64_t seed, const std::set<std::string>& known, Tally& tally) {
  const Rows wanted = whole(Engine(graph, options_of("scalar", "", "", false)), 2, seed);
  const Rows one = whole(Engine(graph, options_of("scalar", "", "", false)), 1, seed);
  const std::vector<std::string> isas = Engine::isas();
  const std::string& refusing = isas[seed % isas.size()];  // the rules hardly differ: one set a graph
  for (const std::string& isa : isas) {
    const Engine able(graph, options_of(isa, "", "", false));
    if (able.isa() != isa) fail(seed, "asked for " + isa + ", got " + able.isa());
    if (whole(able, 2, seed) != wanted) fail(seed, isa + " differs from the oracle");
    if (streamed(Engine(graph, options_of(isa, "", "", true)), seed) != one) fail(seed, isa + " differs as a stream");
    for (const NodeDef& node : graph->nodes) {
      const auto kernels = able.kernels(node.name);
      for (const std::string& kernel : kernels) {
        tally.kernels.insert(node.type + "." + kernel);
        const std::string what = isa + ", " + node.name + " = " + kernel;
        if (isa == "scalar") continue;
        if (whole(Engine(graph, options_of(isa, node.name, kernel, false)), 2, seed) != wanted) fail(seed, what);
        if (streamed(Engine(graph, options_of(isa, node.name, kernel, true)), seed) != one) fail(seed, what + ", as a stream");
        ++tally.runs;
      }
      for (const std::string& kernel : known)
        if (isa == refusing && std::find(kernels.begin(), kernels.end(), kernel) == kernels.end())
          expect_refusal(graph, isa, node.name, kernel, seed, tally);
    }
  }
  ++tally.graphs;
}

}  // namespace

int main(int count, char** words) {
  const uint64_t graphs = count > 1 ? std::strtoull(words[1], nullptr, 10) : 100, first = count > 2 ? std::strtoull(words[2], nullptr, 10) : 1;
  Tally tally;
  // Names that some node takes are refused wherever they are not listed.
  std::set<std::string> known{"event_bits", "event_rows", "dense_rows", "dense_bytes", "static_bits", "lookup_bits", "dot_bits", "lookup_words", "rows", "planes", "vector", "packed",
                              "block"};
  for (uint64_t seed = first; seed < first + graphs; ++seed) {
    Dice dice{std::mt19937_64(seed)};
    Builder builder{dice, false, dice.in(1, 4)};
    builder.build();
    check(builder.graph, seed, known, tally);
  }
  std::printf("%lld graphs, %lld forced kernels, %lld refusals;", static_cast<long long>(tally.graphs),
              static_cast<long long>(tally.runs), static_cast<long long>(tally.refusals));
  for (const std::string& isa : Engine::isas()) std::printf(" %s", isa.c_str());
  std::printf(";");
  for (const std::string& kernel : tally.kernels) std::printf(" %s", kernel.c_str());
  std::printf("\n");
}
