#include "picojoule/engine.h"

#include <algorithm>

#include "pool.h"
#include "program.h"

namespace picojoule {
namespace {

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"); }

Isa parse_isa(const std::string& name) {
  if (name == "scalar") return Isa::scalar;
  if (name == "generic") return Isa::generic;
  if (name == "auto") return has_avx2() ? Isa::avx2 : Isa::generic;
  if (name != "avx2") throw Error("isa must be auto, scalar, generic or avx2, got '" + name + "'");
  if (!has_avx2()) throw Error("this processor has no AVX2; use isa='auto'");
  return Isa::avx2;
}

Options program_options(const EngineOptions& options) {
  Options made;
  made.isa = parse_isa(options.isa);
  made.kernels = options.kernels;
  made.stream = options.stream;
  return made;
}

// Rows of one sample split over threads (latency), or left whole when samples are split instead.
class RowSplit : public Parallel {
 public:
  RowSplit(int workers, bool spin) : workers_(workers), spin_(spin) {}
  int workers() const override { return workers_; }
  void run(int64_t n, const std::function<void(int64_t, int64_t, int)>& body) const override {
    split_over_workers(n, std::max<int64_t>(1, n / (workers_ * 4)), workers_, spin_, body);
  }

 private:
  int workers_;
  bool spin_;
};

// Memory of one running sample.
struct Context {
  Context(int64_t arena_bytes, int64_t state_bytes, int workers) : scratch(workers) {
    arena = memory.take<std::byte>(arena_bytes);
    state = memory.take<std::byte>(state_bytes);
  }
  Scratch memory;
  std::byte *arena, *state;
  std::vector<Scratch> scratch;
};

}  // namespace

struct Engine::Impl {
  Impl(std::shared_ptr<const GraphDef> given, const EngineOptions& o)
      : graph(std::move(given)), options(o), isa(parse_isa(o.isa)), program(*graph, program_options(o)) {
    if (program.arena_bytes() + program.state_bytes() > options.max_bytes)
      throw Error("one sample needs " + std::to_string(program.arena_bytes() + program.state_bytes()) +
                  " bytes, more than max_bytes = " + std::to_string(options.max_bytes));
  }

  std::unique_ptr<Context> borrow() {
    {
      std::lock_guard lock(list_mutex());
      if (!free.empty()) {
        auto context = std::move(free.back());
        free.pop_back();
        return context;
      }
    }
    return std::make_unique<Context>(program.arena_bytes(), program.state_bytes(), options.threads);
  }
  void give_back(std::unique_ptr<Context> context) {
    std::lock_guard lock(list_mutex());
    free.push_back(std::move(context));
  }

  std::shared_ptr<const GraphDef> graph;
  EngineOptions options;
  Isa isa;
  Program program;
  std::vector<std::unique_ptr<Context>> free;
};

Engine::Engine(std::shared_ptr<const GraphDef> graph, const EngineOptions& options) {
  if (options.threads < 1 || options.threads > 1024) throw Error("threads must lie in 1..1024");
  impl_ = std::make_unique<Impl>(std::move(graph), options);
}
Engine::~Engine() = default;

void Engine::run(int64_t batch, int64_t steps, int64_t first, const std::vector<InputBatch>& inputs,
                 const std::vector<int64_t*>& outputs, std::byte* state) const {
  Impl& m = *impl_;
  const auto entries = m.graph->of_type("Input"), exits = m.graph->of_type("Output");
  if (inputs.size() != entries.size() || outputs.size() != exits.size()) throw Error("wrong number of inputs or outputs");
  if (steps < 1 || steps > m.graph->steps()) throw Error("steps of one call must lie in 1..T");
  auto rows = [&](int node) { return m.graph->nodes[node].steps > 0 ? steps : 1; };

  auto sample = [&](int64_t b, Context& context, const Parallel& parallel) {
    std::vector<BorderInput> in;
    std::vector<int64_t*> out;
    for (size_t i = 0; i < entries.size(); ++i) {
      const int64_t bytes = rows(entries[i]) * m.graph->nodes[entries[i]].size() * bytes_of(inputs[i].dtype);
      in.push_back({inputs[i].data + b * bytes, inputs[i].dtype});
    }
    for (size_t i = 0; i < exits.size(); ++i)
      out.push_back(outputs[i] + b * rows(exits[i]) * m.graph->nodes[exits[i]].size());
    Frame frame;
    frame.arena = context.arena;
    frame.state = state ? state + b * m.program.state_bytes() : context.state;
    frame.steps = steps;
    frame.keep = state != nullptr;
    frame.first = first;
    frame.scratch = context.scratch.data();
    frame.parallel = &parallel;
    frame.inputs = in.data();
    frame.outputs = out.data();
    m.program.run(frame);
  };

  const int threads = m.options.threads;
  const bool by_sample = batch >= threads;
  const RowSplit whole(1, false), split(threads, m.options.spin);
  split_over_workers(batch, by_sample ? 1 : std::max<int64_t>(1, batch), threads, m.options.spin,
                     [&](int64_t begin, int64_t end, int) {
                       auto context = m.borrow();
                       for (int64_t b = begin; b < end; ++b) sample(b, *context, by_sample ? whole : split);
                       m.give_back(std::move(context));
                     });
}

const GraphDef& Engine::graph() const { return *impl_->graph; }
int64_t Engine::state_bytes() const { return impl_->program.state_bytes(); }
int64_t Engine::arena_bytes() const { return impl_->program.arena_bytes(); }

std::string Engine::isa() const {
  return impl_->isa == Isa::avx2 ? "avx2" : impl_->isa == Isa::generic ? "generic" : "scalar";
}

std::vector<NodeInfo> Engine::info() const {
  std::vector<NodeInfo> all;
  for (auto& node : impl_->program.report()) all.push_back({node.name, node.type, node.kernel, node.bytes});
  return all;
}

std::vector<std::string> Engine::kernels(const std::string& name) const {
  for (size_t i = 0; i < impl_->graph->nodes.size(); ++i)
    if (impl_->graph->nodes[i].name == name) return kernels_of(*impl_->graph, static_cast<int>(i), impl_->isa);
  throw Error("the graph has no node '" + name + "'");
}

}  // namespace picojoule
