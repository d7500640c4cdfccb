#pragma once
// Runs a snapped graph on batches of samples and on streams; thread-safe.

#include <map>
#include <memory>

#include "picojoule/graph.h"

namespace picojoule {

struct EngineOptions {
  int threads = 1;
  std::string isa = "auto";                    // auto, or one of Engine::isas()
  std::map<std::string, std::string> kernels;  // node name -> kernel, or the engine refuses
  std::map<std::string, std::string> tuned;    // node name -> kernel that measured best; one that cannot run is passed over
  std::map<std::string, double> boundaries;    // synapse -> share of set input bits from which the other kernel wins
  std::map<std::string, double> rates;         // node name -> share of set bits of its packed spikes
  std::string mode = "auto";                   // auto, throughput (split samples), latency (split rows)
  bool spin = true;                            // workers poll briefly before they sleep
  bool stream = false;                         // membranes are kept wide enough for any number of steps
  int64_t max_bytes = int64_t{1} << 32;        // largest arena of one sample
};

struct InputBatch {
  const std::byte* data;  // [B, shape] or [B, T, shape], C order
  Dtype dtype;
};

struct NodeInfo {
  std::string name, type, kernel, why;
  int64_t bytes;
  double rate, boundary;  // -1: unknown, or the kernel never changes
  std::string other;      // kernel beyond the boundary
};

struct StepTime {
  std::string node, what;
  double seconds;
  int64_t switched;  // samples that took the other kernel
};

class Engine {
 public:
  Engine(std::shared_ptr<const GraphDef> graph, const EngineOptions& options);
  ~Engine();

  // Outputs are int64, [B, shape] or [B, steps, shape], in the order of the Output nodes. `state` is null
  // for whole sequences, or points to batch * state_bytes() bytes that carry a stream; `first` counts the
  // steps the stream has seen.
  void run(int64_t batch, int64_t steps, int64_t first, const std::vector<InputBatch>& inputs,
           const std::vector<int64_t*>& outputs, std::byte* state) const;

  // The same on one thread; seconds of every step of the plan.
  std::vector<StepTime> profile(int64_t batch, int64_t steps, const std::vector<InputBatch>& inputs,
                                const std::vector<int64_t*>& outputs) const;

  const GraphDef& graph() const;
  int64_t state_bytes() const;
  int64_t arena_bytes() const;
  std::string isa() const;
  static std::vector<std::string> isas();  // that this processor runs, narrowest first
  std::vector<NodeInfo> info() const;
  std::vector<std::string> kernels(const std::string& node) const;

 private:
  struct Impl;
  class Borrowed;
  std::unique_ptr<Impl> impl_;
};

}  // namespace picojoule
