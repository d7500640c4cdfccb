#include "program.h"

#include <algorithm>
#include <chrono>

#include "rows_ops.h"

namespace picojoule {
namespace {

OpPtr make_scalar(const GraphDef& graph, int index, const Options& options, int slot) {
  const NodeDef& node = graph.nodes[index];
  Defs in;
  for (int i : node.inputs) in.push_back(&graph.nodes[i]);
  const std::string& type = node.type;
  if (type == "Input") return make_input(node, slot, options.body);
  if (type == "Output") return make_output(node, slot);
  if (type == "Repeat") return make_repeat(node);
  if (type == "Conv") return make_conv(node, in);
  if (type == "Linear") return make_linear(node, in);
  if (type == "MatMul") return make_matmul(node, in);
  if (type == "Neuron") return make_neuron(node, in, options.stream);
  if (type == "Add") return make_add(node, in);
  if (type == "Mul") return make_mul(node, in);
  if (type == "Logic") return make_logic(node, in);
  if (type == "Affine") return make_affine(node, in);
  if (type == "Lut") return make_lut(node);
  if (type == "Pool") return make_pool(node, in);
  if (type == "Mean") return make_mean(node, in);
  if (type == "Concat") return make_concat(node, in);
  if (type == "Reshape" || type == "Upsample") return make_gather(node, in);
  if (type == "Readout") return make_readout(node);
  if (type == "TimeMix") return make_timemix(node);
  if (type == "Scan") return make_scan(node);
  node.fail("has no kernel");
}

// Nodes whose rows are the same at every step: they depend on no timed input and keep no state.
std::vector<bool> find_equal_rows(const GraphDef& graph) {
  std::vector<bool> equal;
  for (auto& node : graph.nodes) {
    const bool mixes_time = node.type == "Neuron" || node.type == "TimeMix" || node.type == "Scan" ||
                            node.type == "Readout" || node.type == "Input" || node.type == "Output";
    bool same = node.type == "Repeat" || (!mixes_time && node.steps > 0);
    if (node.type != "Repeat")
      for (int i : node.inputs) same = same && equal[i];
    equal.push_back(same && node.steps > 0);
  }
  return equal;
}

using Clock = std::chrono::steady_clock;

constexpr double kElement = 0.3;  // nanoseconds of one element of what has no price
constexpr double kWakeUp = 6e4;   // work that repays waking the workers for it

constexpr int64_t align(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

int Program::define(const GraphDef& graph, int node, Layout layout) {
  const NodeDef& def = graph.nodes[node];
  Value v{node, layout, def.kind.storage(), def.size(), 0, 1, equal_rows_[node]};
  v.row_bytes = holds_words(layout)      ? packed_of(def, layout).row_bytes()
                : def.type == "Output"  ? 0  // written to the caller
                                        : v.size * bytes_of(v.dtype);
  v.rows = def.steps > 0 && !v.equal_rows ? def.steps : 1;
  v.first_use = v.last_use = static_cast<int>(steps_.size());
  values_.push_back(v);
  return static_cast<int>(values_.size()) - 1;
}

bool Program::exists(int node, Layout layout) const {
  return std::any_of(values_.begin(), values_.end(), [&](auto& v) { return v.node == node && v.layout == layout; });
}

OpPtr Program::conversion(const NodeDef& def, Layout from, Layout to) const {
  if (holds_words(to)) return make_pack(def, from, to, isa_);
  if (holds_words(from)) return make_unpack(def, from, to, isa_);
  return make_turn(def, to == Layout::last, isa_);
}

int Program::share(const GraphDef& graph, int node, Layout layout) {
  const int from = value(graph, graph.nodes[node].inputs[0], layout);
  Value same = values_[from];
  same.node = node;
  same.equal_rows = choices_[node].view || same.equal_rows;
  same.same_as = same.same_as < 0 ? from : same.same_as;
  values_.push_back(same);
  return static_cast<int>(values_.size()) - 1;
}

int Program::value(const GraphDef& graph, int node, Layout layout) {
  int other = -1;
  for (size_t i = values_.size(); i-- > 0;) {
    if (values_[i].node != node) continue;
    if (values_[i].layout == layout) return static_cast<int>(i);
    if (other < 0 || values_[other].layout != Layout::dense) other = static_cast<int>(i);
  }
  if (choices_[node].view || (choices_[node].alias && (layout == Layout::dense || other < 0))) {
    other = share(graph, node, choices_[node].view ? layout : Layout::dense);
    if (values_[other].layout == layout) return other;
  }
  if (other < 0) throw Error("a value is read before it is made");
  const NodeDef& def = graph.nodes[node];
  const Layout from = values_[other].layout;
  const auto apart = [](Layout a, Layout b) { return a == Layout::packed_last && b == Layout::last; };
  if ((holds_words(layout) && holds_words(from)) || apart(layout, from) || apart(from, layout)) other = value(graph, node, Layout::dense);
  const int made = define(graph, node, layout);
  const char* label = holds_words(layout) ? "pack" : holds_words(from) ? "unpack" : "turn";
  emit(conversion(def, values_[other].layout, layout), label, node, {other}, {made});
  return made;
}

void Program::emit(OpPtr op, const char* label, int node, std::vector<int> in, std::vector<int> out) {
  const int now = static_cast<int>(steps_.size());
  for (auto* all : {&in, &out})
    for (int i : *all) {
      values_[i].last_use = now;
      if (values_[i].same_as >= 0) values_[values_[i].same_as].last_use = now;
    }
  const int64_t state = state_bytes_;
  state_bytes_ += align(op->state_bytes());
  const Value& made = values_[out[0]];
  const double nanoseconds = kElement * static_cast<double>(made.size * made.rows);
  steps_.push_back({std::move(op), node, std::move(in), std::move(out), state, label, nanoseconds});
}

Program::Program(const GraphDef& graph, const Options& options)
    : isa_(options.isa), equal_rows_(find_equal_rows(graph)) {
  choose(graph, options);
  int inputs = 0, outputs = 0;
  for (int i = 0; i < static_cast<int>(graph.nodes.size()); ++i) {
    const NodeDef& node = graph.nodes[i];
    const int slot = node.type == "Input" ? inputs++ : node.type == "Output" ? outputs++ : 0;
    if (choices_[i].inside || choices_[i].neuron >= 0) {
      // A synapse and its neuron run as one, where the neuron stands.
      if (choices_[i].inside) build_fast(graph, node.inputs[0], options);
      else note(graph, i, name_of(choices_[i].synapse), 0);
    } else if (choices_[i].synapse != Synapse::scalar) {
      build_fast(graph, i, options);
    } else if (choices_[i].packed) {
      build_packed(graph, i);
    } else if (choices_[i].chain >= 0) {
      // A chain runs where its last node stands.
      if (blocks_[choices_[i].chain].members.back() == i) build_block(graph, choices_[i].chain, options);
      else note(graph, i, "block", 0);
    } else if (choices_[i].view || choices_[i].alias) {
      note(graph, i, "view", 0);
    } else {
      build_rows(graph, i, slot, options);
    }
  }
  place();
}

void Program::note(const GraphDef& graph, int node, const std::string& kernel, int64_t bytes) {
  const Choice& choice = choices_[node];
  NodeReport row{graph.nodes[node].name, graph.nodes[node].type, kernel, choice.why, bytes, choice.rate, -1, ""};
  if (choice.plan.high != Synapse::scalar) {
    row.boundary = choice.plan.boundary;
    row.other = name_of(choice.synapse == choice.plan.high ? choice.plan.kernel : choice.plan.high);
  }
  report_.push_back(std::move(row));
}

void Program::build_packed(const GraphDef& graph, int i) {
  const NodeDef& node = graph.nodes[i];
  std::vector<int> in;
  Defs defs;
  for (int from : node.inputs) {
    in.push_back(value(graph, from, choices_[i].layout));
    defs.push_back(&graph.nodes[from]);
  }
  const int out = define(graph, i, arrives(graph, i));
  OpPtr op = make_packed(node, defs, choices_[i].layout);
  note(graph, i, "packed", op->constant_bytes());
  emit(std::move(op), "packed", i, std::move(in), {out});
}

void Program::build_block(const GraphDef& graph, int chain, const Options& options) {
  BlockPlan& plan = blocks_[chain];
  std::vector<int> in, out;
  for (int m : plan.members)
    for (int from : graph.nodes[m].inputs) {
      const auto has = [&](const std::vector<int>& all) { return std::find(all.begin(), all.end(), from) != all.end(); };
      if (has(plan.members) || has(plan.inputs)) continue;
      plan.inputs.push_back(from);
      in.push_back(value(graph, from, plan.form.layout));
    }
  for (int m : plan.members) {
    bool own = false;  // leaves as it is, for readers that want it as a chain cannot give it
    for (Layout layout : wanted(graph, m)) {
      const bool able = leaves(graph, m, layout);
      if (able ? layout == plan.form.layout && own : own) continue;
      plan.outputs.push_back({m, able ? layout : plan.form.layout});
      own = own || plan.outputs.back().layout == plan.form.layout;
    }
  }
  if (plan.outputs.empty()) plan.outputs.push_back({plan.members.back(), plan.form.layout});  // nobody reads them
  for (auto& output : plan.outputs) out.push_back(define(graph, output.node, output.layout));
  OpPtr op = make_block(graph, plan, options.stream, options.isa);
  note(graph, plan.members.back(), "block", op->constant_bytes());
  emit(std::move(op), "block", plan.members.back(), std::move(in), std::move(out));
}

void Program::build_rows(const GraphDef& graph, int i, int slot, const Options& options) {
  const NodeDef& node = graph.nodes[i];
  const Choice& choice = choices_[i];
  std::vector<int> in;
  Defs defs;
  for (int from : node.inputs) {
    in.push_back(value(graph, from, choice.columns ? Layout::last : Layout::dense));
    defs.push_back(&graph.nodes[from]);
  }
  const int out = define(graph, i, choice.raw);
  OpPtr op = choice.columns                           ? make_columns(node, *defs[0], options.isa)
             : choice.vector && node.type == "Input" ? make_border(node, slot, choice.raw, options.isa)
             : choice.vector                          ? make_rows(node, defs, options.stream, options.isa)
                                                      : make_scalar(graph, i, options, slot);
  const char* name = choice.vector ? "vector" : "scalar";
  note(graph, i, name, op->constant_bytes());
  emit(std::move(op), name, i, std::move(in), {out});
}

void Program::build_fast(const GraphDef& graph, int i, const Options& options) {
  const Choice& choice = choices_[i];
  const NodeDef &node = graph.nodes[i], &input = graph.nodes[node.inputs[0]];
  const Layout words = canonical(input, node.type == "Conv" ? Layout::packed_first : Layout::packed_last);
  // Dense kernels take what there is.
  const int source = through(graph, node.inputs[0]);
  const bool last = node.type == "Conv" && exists(source, Layout::last);
  const bool only_dense = choice.synapse == Synapse::dense_rows || (choice.plan.kernel == Synapse::dense_bytes && (last || !exists(source, words)));
  const Layout from = !only_dense ? words : last ? Layout::last : Layout::dense;
  const bool fused = choice.neuron >= 0;
  const int in = value(graph, node.inputs[0], from);
  const int target = fused ? choice.neuron : i;
  const int out = define(graph, target, fused ? packed_layout(node) : choice.raw);
  OpPtr op = make_fast(node, input, fused ? &graph.nodes[target] : nullptr, choice.plan, choice.fused,
                       options.stream, from, choice.raw, options.isa);
  const char* name = fused ? name_of(choice.fused) : name_of(choice.synapse);
  // A synapse done with its neuron has its row already and owns the weights.
  if (fused) {
    for (auto& row : report_)
      if (row.name == node.name) row.bytes = op->constant_bytes();
    note(graph, target, name, 0);
  } else {
    note(graph, i, name, op->constant_bytes());
  }
  const std::string label = fused ? std::string(name_of(choice.synapse)) + "+" + name : name;
  emit(std::move(op), label.c_str(), target, {in}, {out});
  const FinishFacts finish{fused, true, 1};
  const Synapse priced = choice.synapse == Synapse::dense_rows ? Synapse::dense_bytes : choice.synapse;
  const int64_t pixels = window_of(node, input).out_pixels() * values_[in].rows;
  steps_.back().nanoseconds = static_cast<double>(pixels) * price_of(node, input, WeightFacts(node, input), finish,
                                                                     choice.rate < 0 ? kUsualRate : choice.rate, priced, {true, true}, options.isa);
}

// First fit by liveness: a value occupies its bytes from the step that makes it to the last that reads it.
void Program::place() {
  std::vector<int> done;
  for (size_t i = 0; i < values_.size(); ++i) {
    Value& v = values_[i];
    if (v.same_as >= 0) {
      v.offset = values_[v.same_as].offset;
      continue;
    }
    const int64_t bytes = align(v.row_bytes * v.rows + 64);  // kernels may read a vector past the end
    std::vector<std::pair<int64_t, int64_t>> taken;
    for (int other : done) {
      const Value& o = values_[other];
      if (o.last_use >= v.first_use && v.last_use >= o.first_use)
        taken.push_back({o.offset, o.offset + align(o.row_bytes * o.rows + 64)});
    }
    std::sort(taken.begin(), taken.end());
    int64_t at = 0;
    for (auto& [begin, end] : taken) {
      if (at + bytes <= begin) break;
      at = std::max(at, end);
    }
    v.offset = at;
    arena_bytes_ = std::max(arena_bytes_, at + bytes);
    done.push_back(static_cast<int>(i));
  }
}

int64_t Program::constant_bytes() const {
  int64_t total = 0;
  for (auto& node : report_) total += node.bytes;
  return total;
}

std::vector<std::pair<int, std::string>> Program::steps() const {
  std::vector<std::pair<int, std::string>> all;
  for (auto& step : steps_) all.push_back({step.node, step.label});
  return all;
}

void Program::run(const Frame& frame) const {
  auto view = [&](int index) {
    const Value& v = values_[index];
    const bool timed = v.rows > 1;
    return View{frame.arena + v.offset, v.dtype, v.size, v.equal_rows ? 0 : v.row_bytes, timed ? frame.steps : 1};
  };
  const Serial serial;
  View in[1024], out[kMostOutputs];
  for (auto& step : steps_) {
    Call call;
    for (size_t i = 0; i < step.in.size(); ++i) in[i] = view(step.in[i]);
    for (size_t i = 0; i < step.out.size(); ++i) out[i] = view(step.out[i]);
    call.steps = frame.steps;
    call.first = frame.first;
    call.in = in;
    call.out = out[0];
    call.more = out + 1;
    call.state = frame.state + step.state;
    call.keep = frame.keep;
    for (int i = 0; i < frame.parallel->workers(); ++i) frame.scratch[i].clear();
    call.scratch = frame.scratch;
    call.parallel = frame.split_all || step.nanoseconds > kWakeUp ? frame.parallel : &serial;
    call.switched = frame.switched ? frame.switched + (&step - steps_.data()) : nullptr;
    call.inputs = frame.inputs;
    call.outputs = frame.outputs;
    const auto start = frame.seconds ? Clock::now() : Clock::time_point();
    step.op->run(call);
    if (frame.seconds) frame.seconds[&step - steps_.data()] += std::chrono::duration<double>(Clock::now() - start).count();
  }
}

}  // namespace picojoule
