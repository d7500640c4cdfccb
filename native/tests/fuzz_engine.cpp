// Random small graphs, half of them damaged on purpose. A sound graph must give the same integers with every
// instruction set and thread count; a damaged one must be refused with an Error or run without any sanitizer's
// complaint. Usage: fuzz_engine [cases] [seed]

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "random_graph.h"

using namespace picojoule;
using namespace picojoule::tests;

namespace {

// Multiplications of one sample: damage may make a sound graph that is merely enormous.
double cost(const GraphDef& graph) {
  double total = 0;
  for (auto& n : graph.nodes) {
    const Tensor* weight = n.tensor("weight");
    const double rows = static_cast<double>(n.size()) * static_cast<double>(std::max<int64_t>(1, n.steps));
    total += rows * (weight ? static_cast<double>(weight->size()) / static_cast<double>(weight->shape[0]) : 8.0);
  }
  return total;
}

std::vector<int64_t> execute(const std::shared_ptr<GraphDef>& graph, const std::string& isa, int threads, int64_t batch, uint64_t seed) {
  EngineOptions options;
  options.isa = isa;
  options.threads = threads;
  options.max_bytes = 1 << 26;
  const Engine engine(graph, options);
  const auto exits = graph->of_type("Output");
  const int64_t T = graph->steps();
  const std::vector<std::vector<int8_t>> data = data_for(*graph, batch, seed);
  std::vector<InputBatch> inputs;
  for (auto& d : data) inputs.push_back({reinterpret_cast<const std::byte*>(d.data()), Dtype::i8});
  std::vector<int64_t> out;
  std::vector<size_t> starts;
  for (int i : exits) {
    starts.push_back(out.size());
    out.resize(out.size() + batch * (graph->nodes[i].steps ? T : 1) * graph->nodes[i].size());
  }
  std::vector<int64_t*> outputs;
  for (size_t at : starts) outputs.push_back(out.data() + at);
  engine.run(batch, T, 0, inputs, outputs, nullptr);
  // The same in one-step chunks, from two threads at once when there are several.
  if (graph->steps() > 1 && threads > 1) {
    std::vector<int64_t> again(out.size());
    std::vector<int64_t*> targets;
    for (size_t at : starts) targets.push_back(again.data() + at);
    std::thread other([&] { engine.run(batch, T, 0, inputs, targets, nullptr); });
    std::vector<int64_t> third(out.size());
    std::vector<int64_t*> mine;
    for (size_t at : starts) mine.push_back(third.data() + at);
    engine.run(batch, T, 0, inputs, mine, nullptr);
    other.join();
    if (again != out || third != out) {
      std::fprintf(stderr, "two threads disagree\n");
      std::exit(1);
    }
  }
  return out;
}

}  // namespace

int main(int count, char** words) {
  const int64_t cases = count > 1 ? std::atoll(words[1]) : 2000, seed = count > 2 ? std::atoll(words[2]) : 1;
  int64_t ran = 0, refused = 0;
  for (int64_t i = 0; i < cases; ++i) {
    Dice dice{std::mt19937_64(static_cast<uint64_t>(seed * 1000003 + i))};
    const bool broken = i % 2;
    Builder builder{dice, broken, dice.in(1, 4)};
    try {
      builder.build();
      if (broken && cost(*builder.graph) > 2e6) throw Error("too much work for a fuzzer");
      const int64_t batch = dice.in(0, 3);
      const auto wanted = execute(builder.graph, "scalar", 1, batch, i);
      for (const std::string& isa : Engine::isas())
        for (int threads : {1, 3})
          if (execute(builder.graph, isa, threads, batch, i) != wanted && !broken) {
            std::fprintf(stderr, "case %lld: %s with %d threads differs from the scalar oracle\n", static_cast<long long>(i), isa.c_str(), threads);
            return 1;
          }
      ++ran;
    } catch (const Error& error) {
      if (!broken) {
        std::fprintf(stderr, "case %lld: a sound graph was refused: %s\n", static_cast<long long>(i), error.what());
        return 1;
      }
      ++refused;
    }
  }
  std::printf("%lld cases: %lld ran, %lld refused\n", static_cast<long long>(cases), static_cast<long long>(ran), static_cast<long long>(refused));
}
