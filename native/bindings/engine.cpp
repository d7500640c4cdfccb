#include "engine.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "picojoule/engine.h"

namespace nb = nanobind;
using namespace picojoule;

namespace {

using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;
using State = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;

Dtype dtype_of(const Array& a) {
  const auto type = a.dtype();
  const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
  if (type.lanes == 1 && code == nb::dlpack::dtype_code::Int) {
    if (type.bits == 8) return Dtype::i8;
    if (type.bits == 16) return Dtype::i16;
    if (type.bits == 32) return Dtype::i32;
    if (type.bits == 64) return Dtype::i64;
  }
  if (type.lanes == 1 && type.bits == 8 && (code == nb::dlpack::dtype_code::UInt || code == nb::dlpack::dtype_code::Bool))
    return Dtype::u8;
  if (type.lanes == 1 && code == nb::dlpack::dtype_code::Float) {
    if (type.bits == 32) return Dtype::f32;
    if (type.bits == 64) return Dtype::f64;
  }
  throw Error("arrays must hold int8, int16, int32, int64, uint8, bool, float32 or float64");
}

Tensor tensor_of(const Array& a) {
  Tensor t;
  t.dtype = dtype_of(a);
  if (t.dtype == Dtype::f32 || t.dtype == Dtype::f64) throw Error("constants of the engine are integers");
  for (size_t i = 0; i < a.ndim(); ++i) t.shape.push_back(static_cast<int64_t>(a.shape(i)));
  // Shared, not copied: Python gives arrays that nobody writes to.
  t.data = TensorBytes::view(a.data(), a.nbytes(), std::make_shared<Array>(a));
  return t;
}

struct Borders {
  std::vector<InputBatch> inputs;
  std::vector<int64_t*> outputs;
};

// Sizes and types of the arrays of one call, checked against the graph.
Borders borders(const Engine& engine, int64_t batch, int64_t steps, const std::vector<Array>& inputs,
                const std::vector<Result>& outputs) {
  const GraphDef& graph = engine.graph();
  const auto entries = graph.of_type("Input"), exits = graph.of_type("Output");
  if (batch < 0 || steps < 1) throw Error("batch and steps must not be negative");
  if (inputs.size() != entries.size() || outputs.size() != exits.size()) throw Error("wrong number of inputs or outputs");
  auto expected = [&](int node) {
    return static_cast<size_t>(batch * (graph.nodes[node].steps > 0 ? steps : 1) * graph.nodes[node].size());
  };
  Borders made;
  for (size_t i = 0; i < entries.size(); ++i) {
    const NodeDef& node = graph.nodes[entries[i]];
    if (inputs[i].size() != expected(entries[i])) node.fail("input has the wrong number of elements");
    made.inputs.push_back({static_cast<const std::byte*>(inputs[i].data()), dtype_of(inputs[i])});
    if (node.tensor("table") && made.inputs.back().dtype != Dtype::u8) node.fail("has a table and needs uint8 values");
  }
  for (size_t i = 0; i < exits.size(); ++i) {
    if (outputs[i].size() != expected(exits[i])) graph.nodes[exits[i]].fail("output has the wrong number of elements");
    made.outputs.push_back(outputs[i].data());
  }
  return made;
}

void run(const Engine& engine, int64_t batch, int64_t steps, int64_t first, const std::vector<Array>& inputs,
         const std::vector<Result>& outputs, std::optional<State> state) {
  const Borders b = borders(engine, batch, steps, inputs, outputs);
  std::byte* memory = nullptr;
  if (state) {
    if (first < 0 || static_cast<int64_t>(state->size()) < batch * engine.state_bytes()) throw Error("the state is too small");
    memory = reinterpret_cast<std::byte*>(state->data());
  } else if (first != 0) {
    throw Error("a later step needs a state");
  }
  nb::gil_scoped_release release;
  engine.run(batch, steps, first, b.inputs, b.outputs, memory);
}

nb::list profile(const Engine& engine, int64_t batch, int64_t steps, const std::vector<Array>& inputs,
                 const std::vector<Result>& outputs) {
  const Borders b = borders(engine, batch, steps, inputs, outputs);
  nb::list rows;
  for (auto& step : engine.profile(batch, steps, b.inputs, b.outputs)) {
    nb::dict row;
    row["node"] = step.node;
    row["what"] = step.what;
    row["seconds"] = step.seconds;
    row["switched"] = step.switched;
    rows.append(row);
  }
  return rows;
}

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<GraphDef>(m, "Graph", "A snapped graph; every node is checked when it is added.")
      .def(nb::init<>())
      .def(
          "add",
          [](GraphDef& graph, std::string type, std::string name, std::vector<int> inputs,
             std::tuple<std::string, int64_t, int, int> kind, Shape shape, int64_t steps,
             std::map<std::string, Ints> ints, std::map<std::string, std::string> strs,
             std::map<std::string, Array> tensors, std::shared_ptr<GraphDef> body) {
            NodeDef node;
            node.type = std::move(type);
            node.name = std::move(name);
            node.inputs = std::move(inputs);
            auto& [kind_name, levels, bits, frac] = kind;
            node.kind = make_kind(kind_name, levels, bits, frac);
            node.shape = std::move(shape);
            node.steps = steps;
            node.ints = std::move(ints);
            node.strs = std::move(strs);
            for (auto& [key, value] : tensors) node.tensors.emplace(key, tensor_of(value));
            node.body = std::move(body);
            return graph.add(std::move(node));
          },
          nb::arg("type"), nb::arg("name"), nb::arg("inputs"), nb::arg("kind"), nb::arg("shape"), nb::arg("steps"),
          nb::arg("ints"), nb::arg("strs"), nb::arg("tensors"), nb::arg("body").none());

  nb::class_<Engine>(m, "Engine", "Runs a Graph on integers; any number of threads may call it.")
      .def(
          "__init__",
          [](Engine* self, std::shared_ptr<GraphDef> graph, int threads, std::string isa,
             std::map<std::string, std::string> kernels, std::map<std::string, std::string> tuned,
             std::map<std::string, double> boundaries, std::map<std::string, double> rates, std::string mode, bool spin,
             bool stream, int64_t max_bytes) {
            EngineOptions options{threads,          std::move(isa),  std::move(kernels), std::move(tuned), std::move(boundaries),
                                  std::move(rates), std::move(mode), spin,               stream,           max_bytes};
            // A copy: the caller may go on adding nodes to the builder.
            new (self) Engine(std::make_shared<GraphDef>(*graph), options);
          },
          nb::arg("graph"), nb::arg("threads"), nb::arg("isa"), nb::arg("kernels"), nb::arg("tuned"),
          nb::arg("boundaries"), nb::arg("rates"), nb::arg("mode"), nb::arg("spin"), nb::arg("stream"), nb::arg("max_bytes"))
      .def("run", &run, nb::arg("batch"), nb::arg("steps"), nb::arg("first"), nb::arg("inputs"), nb::arg("outputs"),
           nb::arg("state").none())
      .def("profile", &profile, nb::arg("batch"), nb::arg("steps"), nb::arg("inputs"), nb::arg("outputs"))
      .def_prop_ro("state_bytes", &Engine::state_bytes)
      .def_prop_ro("arena_bytes", &Engine::arena_bytes)
      .def_prop_ro("isa", &Engine::isa)
      .def_static("isas", &Engine::isas)
      .def("kernels", &Engine::kernels)
      .def("info", [](const Engine& engine) {
        nb::list rows;
        for (auto& node : engine.info()) {
          nb::dict row;
          row["name"] = node.name;
          row["type"] = node.type;
          row["kernel"] = node.kernel;
          row["bytes"] = node.bytes;
          row["why"] = node.why;
          row["rate"] = node.rate < 0 ? nb::none() : nb::object(nb::float_(node.rate));
          row["boundary"] = node.boundary < 0 ? nb::none() : nb::object(nb::float_(node.boundary));
          row["other"] = node.other;
          rows.append(row);
        }
        return rows;
      });
}
