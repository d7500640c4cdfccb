#include "picojoule/engine.h"

#include <algorithm>

#include "pool.h"
#include "program.h"

namespace picojoule {
namespace {

Options program_options(const EngineOptions& options) {
  Options made;
  made.isa = parse_isa(options.isa);
  made.kernels = options.kernels;
  made.tuned = options.tuned;
  made.boundaries = options.boundaries;
  made.rates = options.rates;
  made.stream = options.stream;
  return made;
}

// Rows of one sample split over threads (latency), or left whole when samples are split instead.
class RowSplit : public Parallel {
 public:
  RowSplit(int workers, bool spin) : workers_(workers), spin_(spin) {}
  int workers() const override { return workers_; }
  void run(int64_t n, FunctionRef<void(int64_t, int64_t, int)> body) const override {
    split_over_workers(n, std::max<int64_t>(1, n / (workers_ * 4)), workers_, spin_, body);
  }

 private:
  int workers_;
  bool spin_;
};

// Borders of one call.
struct Batch {
  int64_t steps, first;
  const InputBatch* inputs;
  int64_t* const* outputs;
  std::byte* state;
};

// Memory of one running sample; kept from call to call, so that a warm call allocates nothing.
struct Context {
  Context(int64_t arena_bytes, int64_t state_bytes, int workers) : scratch(workers) {
    arena = memory.take<std::byte>(arena_bytes);
    state = memory.take<std::byte>(state_bytes);
  }
  Scratch memory;
  std::byte *arena, *state;
  std::vector<Scratch> scratch;
  std::vector<BorderInput> inputs;
  std::vector<int64_t*> outputs;
};

}  // namespace

struct Engine::Impl {
  Impl(std::shared_ptr<const GraphDef> given, const EngineOptions& o)
      : graph(std::move(given)), options(o), isa(parse_isa(o.isa)), program(*graph, program_options(o)) {
    if (program.arena_bytes() + program.state_bytes() > options.max_bytes)
      throw Error("one sample needs " + std::to_string(program.arena_bytes() + program.state_bytes()) +
                  " bytes, more than max_bytes = " + std::to_string(options.max_bytes));
  }

  void check(size_t inputs, size_t outputs, int64_t steps) const {
    if (inputs != entries.size() || outputs != exits.size()) throw Error("wrong number of inputs or outputs");
    if (steps < 1 || steps > graph->steps()) throw Error("steps of one call must lie in 1..T");
  }
  void sample(const Batch& batch, int64_t b, Context& context, const Parallel& parallel, double* seconds = nullptr,
              int64_t* switched = nullptr) const;

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
  std::vector<int> entries = graph->of_type("Input"), exits = graph->of_type("Output");
  std::vector<std::unique_ptr<Context>> free;
};

// A context for the time of one call, given back however the call ends.
class Engine::Borrowed {
 public:
  explicit Borrowed(Impl& owner) : owner_(owner), context_(owner.borrow()) {}
  ~Borrowed() { owner_.give_back(std::move(context_)); }
  Borrowed(const Borrowed&) = delete;
  Context& operator*() { return *context_; }

 private:
  Impl& owner_;
  std::unique_ptr<Context> context_;
};

Engine::Engine(std::shared_ptr<const GraphDef> graph, const EngineOptions& options) {
  if (options.threads < 1 || options.threads > 1024) throw Error("threads must lie in 1..1024");
  if (options.mode != "auto" && options.mode != "throughput" && options.mode != "latency")
    throw Error("mode must be auto, throughput or latency, got '" + options.mode + "'");
  impl_ = std::make_unique<Impl>(std::move(graph), options);
}
Engine::~Engine() = default;

void Engine::Impl::sample(const Batch& batch, int64_t b, Context& context, const Parallel& parallel, double* seconds,
                          int64_t* switched) const {
  context.inputs.clear();
  context.outputs.clear();
  auto rows = [&](int node) { return graph->nodes[node].steps > 0 ? batch.steps : 1; };
  for (size_t i = 0; i < entries.size(); ++i) {
    const InputBatch& given = batch.inputs[i];
    const int64_t bytes = rows(entries[i]) * graph->nodes[entries[i]].size() * bytes_of(given.dtype);
    context.inputs.push_back({given.data + b * bytes, given.dtype});
  }
  for (size_t i = 0; i < exits.size(); ++i)
    context.outputs.push_back(batch.outputs[i] + b * rows(exits[i]) * graph->nodes[exits[i]].size());
  Frame frame;
  frame.arena = context.arena;
  frame.state = batch.state ? batch.state + b * program.state_bytes() : context.state;
  frame.keep = batch.state != nullptr;
  frame.steps = batch.steps;
  frame.first = batch.first;
  frame.scratch = context.scratch.data();
  frame.parallel = &parallel;
  frame.split_all = options.mode == "latency";
  frame.inputs = context.inputs.data();
  frame.outputs = context.outputs.data();
  frame.seconds = seconds;
  frame.switched = switched;
  program.run(frame);
}

void Engine::run(int64_t batch, int64_t steps, int64_t first, const std::vector<InputBatch>& inputs,
                 const std::vector<int64_t*>& outputs, std::byte* state) const {
  const Impl& m = *impl_;
  const Batch given{steps, first, inputs.data(), outputs.data(), state};
  m.check(inputs.size(), outputs.size(), steps);
  const int threads = m.options.threads;
  // Samples that fill all workers run whole, each in one cache; the few that are left share their rows.
  const std::string& mode = m.options.mode;
  const int64_t whole = mode == "throughput" ? batch : mode == "latency" ? 0 : batch / threads * threads;
  split_over_workers(whole, 1, threads, m.options.spin, [&](int64_t begin, int64_t end, int) {
    Borrowed context(*impl_);
    for (int64_t b = begin; b < end; ++b) m.sample(given, b, *context, Serial());
  });
  if (whole == batch) return;
  const RowSplit split(threads, m.options.spin);
  Borrowed context(*impl_);
  for (int64_t b = whole; b < batch; ++b) m.sample(given, b, *context, split);
}

std::vector<StepTime> Engine::profile(int64_t batch, int64_t steps, const std::vector<InputBatch>& inputs,
                                      const std::vector<int64_t*>& outputs) const {
  const Impl& m = *impl_;
  m.check(inputs.size(), outputs.size(), steps);
  const auto plan = m.program.steps();
  std::vector<double> seconds(plan.size(), 0.0);
  std::vector<int64_t> switched(plan.size(), 0);
  Borrowed context(*impl_);
  for (int64_t b = 0; b < batch; ++b)
    m.sample({steps, 0, inputs.data(), outputs.data(), nullptr}, b, *context, Serial(), seconds.data(), switched.data());
  std::vector<StepTime> all;
  for (size_t i = 0; i < plan.size(); ++i) all.push_back({m.graph->nodes[plan[i].first].name, plan[i].second, seconds[i], switched[i]});
  return all;
}

const GraphDef& Engine::graph() const { return *impl_->graph; }
int64_t Engine::state_bytes() const { return impl_->program.state_bytes(); }
int64_t Engine::arena_bytes() const { return impl_->program.arena_bytes(); }

std::string Engine::isa() const { return name_of(impl_->isa); }

std::vector<std::string> Engine::isas() {
  std::vector<std::string> names;
  for (Isa isa : instruction_sets()) names.push_back(name_of(isa));
  return names;
}

std::vector<NodeInfo> Engine::info() const {
  std::vector<NodeInfo> all;
  for (auto& node : impl_->program.report()) 
    all.push_back({node.name, node.type, node.kernel, node.why, node.bytes, node.rate, node.boundary, node.other});
  return all;
}

std::vector<std::string> Engine::kernels(const std::string& name) const {
  for (size_t i = 0; i < impl_->graph->nodes.size(); ++i)
    if (impl_->graph->nodes[i].name == name) return kernels_of(*impl_->graph, static_cast<int>(i), impl_->isa);
  throw Error("the graph has no node '" + name + "'");
}

}  // namespace picojoule
