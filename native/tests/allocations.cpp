// A warm call takes no memory: every kernel forced on random graphs, and packed files through the C interface, whole
// and as streams. Usage: allocations graphs file.pj...

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>

#include "picojoule/picojoule.h"
#include "random_graph.h"

namespace {

std::atomic<int64_t> taken{0};

void* take(size_t size, size_t alignment) {
  ++taken;
  void* block = std::aligned_alloc(alignment, (size / alignment + 1) * alignment);
  if (!block) throw std::bad_alloc();
  return block;
}

}  // namespace

void* operator new(size_t size) { return take(size, 16); }
void* operator new[](size_t size) { return take(size, 16); }
void* operator new(size_t size, std::align_val_t a) { return take(size, static_cast<size_t>(a)); }
void* operator new[](size_t size, std::align_val_t a) { return take(size, static_cast<size_t>(a)); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, size_t) noexcept { std::free(block); }
void operator delete[](void* block, size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, size_t, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, size_t, std::align_val_t) noexcept { std::free(block); }

namespace picojoule::tests {
namespace {

struct Tally {
  int64_t calls = 0, cold = 0;
};

int64_t count(const std::function<void()>& call) {
  const int64_t before = taken;
  call();
  return taken - before;
}

void warm(const std::string& what, Tally& tally, const std::function<void()>& call) {
  tally.cold += count(call);
  const int64_t again = count(call);
  ++tally.calls;
  if (again == 0) return;
  std::fprintf(stderr, "%s: a warm call allocates %lld times\n", what.c_str(), static_cast<long long>(again));
  std::exit(1);
}

// Whole samples of several workers: who takes which is chance, but no worker ever needs more than one cold call does.
void bounded(const std::string& what, int64_t limit, const std::function<void()>& call) {
  int64_t all = 0;
  for (int i = 0; i < 20; ++i) all += count(call);
  if (all <= limit) return;
  std::fprintf(stderr, "%s: 20 calls allocate %lld times, more than %lld\n", what.c_str(), static_cast<long long>(all), static_cast<long long>(limit));
  std::exit(1);
}

struct Call {
  std::vector<std::vector<int8_t>> data;
  std::vector<std::vector<int64_t>> results;
  std::vector<InputBatch> inputs;
  std::vector<int64_t*> outputs;

  Call(const GraphDef& graph, int64_t batch, uint64_t seed) : data(data_for(graph, batch, seed)) {
    for (auto& d : data) inputs.push_back({reinterpret_cast<const std::byte*>(d.data()), Dtype::i8});
    for (int i : graph.of_type("Output")) {
      const NodeDef& n = graph.nodes[i];
      results.emplace_back(batch * (n.steps > 0 ? graph.steps() : 1) * n.size());
      outputs.push_back(results.back().data());
    }
  }
};

void graphs(uint64_t seed, Tally& tally) {
  constexpr int64_t kBatch = 3;
  Dice dice{std::mt19937_64(seed)};
  Builder builder{dice, false, dice.in(1, 4)};
  builder.build();
  const auto graph = builder.graph;
  const Call call(*graph, kBatch, seed);
  const auto run = [&](const Engine& engine) { engine.run(kBatch, graph->steps(), 0, call.inputs, call.outputs, nullptr); };
  for (const std::string& isa : Engine::isas()) {
    EngineOptions options;
    options.isa = isa;
    const Engine plain(graph, options);
    for (const NodeDef& node : graph->nodes)
      for (const std::string& kernel : plain.kernels(node.name)) {
        options.kernels = {{node.name, kernel}};
        const Engine forced(graph, options);
        warm("seed " + std::to_string(seed) + ", " + isa + ", " + node.name + " = " + kernel, tally, [&] { run(forced); });
      }
    options.kernels.clear();
    options.threads = 2;
    options.mode = "latency";
    const Engine latency(graph, options);
    warm("seed " + std::to_string(seed) + ", " + isa + ", rows over two threads", tally, [&] { run(latency); });
    const int64_t cold = count([&] { run(plain); });
    options.mode = "throughput";
    const Engine throughput(graph, options);
    bounded("seed " + std::to_string(seed) + ", " + isa + ", samples over two threads", 2 * cold + 16, [&] { run(throughput); });
  }
}

void need(pj_status status, const char* what) {
  if (status == PJ_OK) return;
  std::fprintf(stderr, "%s: %s\n", what, pj_last_error());
  std::exit(1);
}

struct Borders {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<std::vector<int64_t>> results;
  std::vector<pj_input> inputs;
  std::vector<pj_output> outputs;

  Borders(const pj_model* model, const pj_info& info, size_t batch, int64_t steps) {
    pj_edge edge;
    const auto size = [&] { return batch * static_cast<size_t>(edge.row * (edge.steps ? steps : 1)); };
    for (size_t i = 0; i < info.inputs; ++i) {
      need(pj_describe_input(model, i, &edge), "input");
      bytes.emplace_back(size(), uint8_t{1});
      inputs.push_back({bytes.back().data(), PJ_U8, size()});
    }
    for (size_t i = 0; i < info.outputs; ++i) {
      need(pj_describe_output(model, i, &edge), "output");
      results.emplace_back(size());
      outputs.push_back({results.back().data(), i % 2 ? PJ_F64 : PJ_I64, size()});
    }
  }
};

void file(const std::string& path, Tally& tally) {
  pj_model* model = nullptr;
  need(pj_load(path.c_str(), nullptr, &model), "load");
  pj_info info;
  need(pj_describe(model, &info), "describe");
  const Borders whole(model, info, 2, std::max<int64_t>(1, info.steps));
  warm(path, tally, [&] {
    need(pj_run(model, 2, whole.inputs.data(), whole.inputs.size(), whole.outputs.data(), whole.outputs.size()), "run");
  });
  if (info.stream_limit >= 1) {
    pj_stream* stream = nullptr;
    need(pj_stream_open(model, 2, &stream), "open");
    const Borders one(model, info, 2, 1);
    warm(path + ", a step of a stream", tally, [&] {
      need(pj_stream_reset(stream), "reset");
      need(pj_stream_step(stream, 1, one.inputs.data(), one.inputs.size(), one.outputs.data(), one.outputs.size()), "step");
    });
    pj_stream_close(stream);
  }
  pj_free(model);
}

}  // namespace
}  // namespace picojoule::tests

int main(int count, char** words) {
  using namespace picojoule::tests;
  if (count < 2) return 2;
  Tally tally;
  for (int64_t seed = 1; seed <= std::atoll(words[1]); ++seed) graphs(static_cast<uint64_t>(seed), tally);
  for (int i = 2; i < count; ++i) file(words[i], tally);
  std::printf("%lld warm calls allocate nothing; their first took memory %lld times\n", static_cast<long long>(tally.calls),
              static_cast<long long>(tally.cold));
  return tally.cold == 0;
}
