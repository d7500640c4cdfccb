// Checks of one node against its inputs, before anything is allocated for it. Nothing later reads a shape
// that was not proven here.

#include <algorithm>
#include <functional>
#include <map>

#include "neuron_constants.h"
#include "moves.h"
#include "picojoule/graph.h"

namespace picojoule {
namespace {

// Small files must not ask for large tables: gather indices and membranes grow with rows.
constexpr int64_t kMaxRow = int64_t{1} << 26, kMaxRows = int64_t{1} << 31, kMaxConstant = int64_t{1} << 31;

using Inputs = std::vector<const NodeDef*>;
using Check = std::function<void(const NodeDef&, const Inputs&)>;

void same_shape(const NodeDef& node, const Shape& expected) {
  if (node.shape != expected)
    node.fail("rows must be " + to_string(expected) + ", got " + to_string(node.shape));
}

void same_steps(const NodeDef& node, const Inputs& inputs) {
  for (auto* input : inputs)
    if (input->steps != node.steps) node.fail("steps differ from those of '" + input->name + "'");
}

Shape broadcast(const NodeDef& node, const Shape& a, const Shape& b) {
  Shape out(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t x = i < a.size() ? a[a.size() - 1 - i] : 1, y = i < b.size() ? b[b.size() - 1 - i] : 1;
    if (x != y && x != 1 && y != 1) node.fail("rows " + to_string(a) + " and " + to_string(b) + " do not broadcast");
    out[out.size() - 1 - i] = x == 1 ? y : x;
  }
  return out;
}

void shift_list(const NodeDef& node, const char* key, size_t count) {
  const Ints& shifts = node.list(key);
  if (shifts.size() != count) node.fail(std::string(key) + " needs one entry an input");
  for (int64_t s : shifts)
    if (s < 0 || s > 62) node.fail(std::string(key) + " must lie in 0..62");
}

void per_channel(const NodeDef& node, const char* key, int64_t channels) {
  const Tensor& t = node.need(key);
  if (t.shape.size() != 1 || (t.shape[0] != 1 && t.shape[0] != channels))
    node.fail(std::string(key) + " must be [1] or [" + std::to_string(channels) + "], got " + to_string(t.shape));
}

void optional_bias(const NodeDef& node, int64_t channels) {
  if (node.tensor("bias")) per_channel(node, "bias", channels);
}

void rounding(const NodeDef& node) {
  const std::string& mode = node.text("rounding");
  if (mode != "floor" && mode != "half_up") node.fail("rounding must be floor or half_up");
}

void ascending(const NodeDef& node) {
  const Tensor &breaks = node.need("breaks"), &values = node.need("values");
  if (breaks.shape.size() != 1 || values.shape.size() != 1 || values.shape[0] != breaks.shape[0] + 1)
    node.fail("a table of n breaks needs n + 1 values");
  const Ints list = breaks.values();
  if (!std::is_sorted(list.begin(), list.end())) node.fail("breaks must ascend");
}

void check_input(const NodeDef& node, const Inputs&) {
  if (const Tensor* table = node.tensor("table")) {
    const int64_t channels = node.shape[channel_axis(node, node.shape)];
    if (table->shape.size() != 2 || (table->shape[0] != channels && table->shape[0] != 1) || table->shape[1] != 256)
      node.fail("table must be [C, 256], got " + to_string(table->shape));
  }
}

void check_repeat(const NodeDef& node, const Inputs& in) {
  same_shape(node, in[0]->shape);
  if (in[0]->steps != 0 || node.steps < 1) node.fail("repeats one row a sample to T rows");
}

void check_conv(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  window_of(node, *in[0]);
  optional_bias(node, node.type == "Linear" ? node.shape.back() : node.shape[0]);
}

void check_neuron(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  same_shape(node, in[0]->shape);
  NeuronConstants{node};
}

void check_add(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  Shape shape = in[0]->shape;
  for (auto* other : in) shape = broadcast(node, shape, other->shape);
  same_shape(node, shape);
  shift_list(node, "shifts", in.size());
  const Ints& signs = node.list("signs");
  if (signs.size() != in.size()) node.fail("signs needs one entry an input");
  for (int64_t s : signs)
    if (s != 1 && s != -1) node.fail("signs must be 1 or -1");
}

void check_pair(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  same_shape(node, broadcast(node, in[0]->shape, in[1]->shape));
  if (node.type == "Logic") {
    const std::string& op = node.text("op");
    if (op != "and" && op != "or" && op != "iand") node.fail("op must be and, or, iand");
    for (auto* input : in)
      if (input->kind.name != KindName::binary) node.fail("logic needs binary inputs");
  }
}

void check_matmul(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  const Shape &a = in[0]->shape, &b = in[1]->shape;
  if (a.size() < 2 || b.size() < 2 || a[a.size() - 1] != b[b.size() - 2])
    node.fail("cannot multiply rows " + to_string(a) + " and " + to_string(b));
  Shape out = broadcast(node, Shape(a.begin(), a.end() - 2), Shape(b.begin(), b.end() - 2));
  out.push_back(a[a.size() - 2]);
  out.push_back(b.back());
  same_shape(node, out);
}

void check_affine(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  same_shape(node, in[0]->shape);
  const int64_t channels = node.shape[channel_axis(node, node.shape)];
  per_channel(node, "gain", channels);
  per_channel(node, "bias", channels);
  const int64_t shift = node.integer("shift", 0);
  if (shift < 0 || shift > 62) node.fail("shift must lie in 0..62");
  rounding(node);
}

void check_lut(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  same_shape(node, in[0]->shape);
  ascending(node);
}

void check_pool(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  const std::string& mode = node.text("mode");
  if (mode != "max" && mode != "min" && mode != "sum") node.fail("mode must be max, min, sum");
  window_of(node, *in[0]);
  if (node.tensor("flip")) per_channel(node, "flip", node.shape[0]);
}

void check_mean(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  if (node.integer("total", 0) != 1) node.fail("only exact sums (total) run on integers");
  const Shape& shape = in[0]->shape;
  std::vector<bool> gone(shape.size(), false);
  for (int64_t axis : node.list("axes")) {
    const int64_t rank = static_cast<int64_t>(shape.size());
    if (axis < -rank || axis >= rank) node.fail("axes are out of range");
    gone[axis < 0 ? axis + rank : axis] = true;
  }
  Shape expected;
  for (size_t i = 0; i < shape.size(); ++i)
    if (!gone[i]) expected.push_back(shape[i]);
    else if (node.integer("keepdim", 0)) expected.push_back(1);
  same_shape(node, expected);
}

void check_concat(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  Shape expected = in[0]->shape;
  const int64_t axis = channel_axis(node, expected);
  expected[axis] = 0;
  for (auto* input : in) {
    Shape other = input->shape;
    if (other.size() != expected.size()) node.fail("inputs differ in rank");
    const int64_t extent = std::exchange(other[axis], expected[axis]);
    if (other != expected) node.fail("inputs differ outside the joined axis");
    expected[axis] += extent;
  }
  same_shape(node, expected);
  shift_list(node, "shifts", in.size());
}

void check_upsample(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  Shape expected = in[0]->shape;
  const Ints& factors = node.list("factors");
  if (expected.empty() || factors.size() != expected.size() - 1) node.fail("factors needs one entry a space axis");
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] < 1 || factors[i] > 4096) node.fail("factors must lie in 1..4096");
    expected[i + 1] *= factors[i];
  }
  same_shape(node, expected);
}

void check_reshape(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  check_moves(node, in[0]->shape);
}

void check_readout(const NodeDef& node, const Inputs& in) {
  same_shape(node, in[0]->shape);
  if (node.steps != 0 || in[0]->steps < 1) node.fail("turns T rows into one row a sample");
  const std::string& mode = node.text("mode");
  if (mode != "sum" && mode != "max" && mode != "last") node.fail("mode must be sum, max, last");
}

void check_timemix(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  same_shape(node, in[0]->shape);
  if (node.steps < 1) node.fail("mixes T rows");
  const int64_t T = node.steps, channels = node.shape[channel_axis(node, node.shape)];
  const Tensor& m = node.need("matrix");
  const bool shared = m.shape == Shape{T, T};
  if (!shared && m.shape != Shape{channels, T, T} && m.shape != Shape{1, T, T})
    node.fail("matrix must be [T, T] or [C, T, T], got " + to_string(m.shape));
  if (const Tensor* bias = node.tensor("bias"))
    if (bias->shape.size() != 2 || (bias->shape[0] != 1 && bias->shape[0] != T) ||
        (bias->shape[1] != 1 && bias->shape[1] != channels))
      node.fail("bias must be [T|1, C|1], got " + to_string(bias->shape));
  const Ints values = m.values();
  if (node.integer("causal", 1))
    for (size_t i = 0; i < values.size(); ++i)
      if (static_cast<int64_t>(i) % T > static_cast<int64_t>(i) / T % T && values[i] != 0)
        node.fail("a causal matrix must be lower triangular");
}

void check_scan(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  if (!node.body) node.fail("body is missing");
  auto entries = node.body->of_type("Input"), exits = node.body->of_type("Output");
  if (entries.empty() || entries.size() != exits.size()) node.fail("the body needs inputs x, state.. and outputs y, state..");
  for (auto& inner : node.body->nodes)
    if (inner.steps > 1) node.fail("the body is a graph of one step");
  same_shape(node, node.body->nodes[exits[0]].shape);
  if (node.body->nodes[entries[0]].shape != in[0]->shape) node.fail("the body expects other rows");
  for (size_t i = 1; i < entries.size(); ++i)
    if (node.body->nodes[entries[i]].shape != node.body->nodes[exits[i]].shape) node.fail("a state changes its shape");
}

void check_output(const NodeDef& node, const Inputs& in) {
  same_steps(node, in);
  same_shape(node, in[0]->shape);
}

struct Rule {
  int least, most;
  Check check;
};

const std::map<std::string, Rule>& rules() {
  static const std::map<std::string, Rule> table = {
      {"Input", {0, 0, check_input}},       {"Repeat", {1, 1, check_repeat}},
      {"Conv", {1, 1, check_conv}},         {"Linear", {1, 1, check_conv}},
      {"Neuron", {1, 1, check_neuron}},     {"Add", {1, 64, check_add}},
      {"Mul", {2, 2, check_pair}},          {"Logic", {2, 2, check_pair}},
      {"MatMul", {2, 2, check_matmul}},     {"Affine", {1, 1, check_affine}},
      {"Lut", {1, 1, check_lut}},           {"Pool", {1, 1, check_pool}},
      {"Mean", {1, 1, check_mean}},         {"Concat", {1, 1024, check_concat}},
      {"Upsample", {1, 1, check_upsample}}, {"Reshape", {1, 1, check_reshape}},
      {"Readout", {1, 1, check_readout}},   {"TimeMix", {1, 1, check_timemix}},
      {"Scan", {1, 1, check_scan}},         {"Output", {1, 1, check_output}},
  };
  return table;
}

void check_size(const NodeDef& node, const Shape& shape, const char* what, int64_t least, int64_t limit) {
  if (shape.size() > 16) node.fail(std::string(what) + " has more than 16 axes");
  int64_t n = 1;
  for (int64_t d : shape) {
    if (d < least) node.fail(std::string(what) + " " + to_string(shape) + " has an empty axis");
    if (d > limit || (n != 0 && d > limit / n))
      node.fail(std::string(what) + " " + to_string(shape) + " is too large");
    n *= d;
  }
}

}  // namespace

int GraphDef::add(NodeDef node) {
  auto rule = rules().find(node.type);
  if (rule == rules().end()) node.fail("the engine knows no such node");
  check_size(node, node.shape, "rows", 1, kMaxRow);
  if (node.steps < 0 || node.steps > (1 << 20)) node.fail("steps must lie in 0..2^20");
  if (node.steps * node.size() > kMaxRows) node.fail("rows " + to_string(node.shape) + " at every step are too large");
  if (node.steps > 0 && steps() != 1 && steps() != node.steps) node.fail("the graph has two different T");
  for (auto& [key, tensor] : node.tensors) {
    check_size(node, tensor.shape, key.c_str(), key == "breaks" ? 0 : 1, kMaxConstant);
    if (static_cast<int64_t>(tensor.data.size()) != tensor.size() * bytes_of(tensor.dtype))
      node.fail("tensor '" + key + "' has the wrong number of bytes");
  }
  Inputs inputs;
  for (int i : node.inputs) {
    if (i < 0 || i >= static_cast<int>(nodes.size())) node.fail("reads a node that does not come before it");
    if (nodes[i].type == "Output") node.fail("reads an output");
    inputs.push_back(&nodes[i]);
  }
  const int count = static_cast<int>(inputs.size());
  if (count < rule->second.least || count > rule->second.most)
    node.fail("has " + std::to_string(count) + " inputs");
  rule->second.check(node, inputs);
  nodes.push_back(std::move(node));
  return static_cast<int>(nodes.size()) - 1;
}

}  // namespace picojoule
