// Row shapes and steps that follow from a node and its inputs, with every field checked. No field is trusted and
// all counts saturate, so that hostile sizes cannot wrap around.

#include <algorithm>
#include <set>

#include "file_graph.h"

namespace picojoule::file {
namespace {

using Inputs = std::vector<const Node*>;

std::string list_of(const Ints& values) { return to_string(values); }

const Constant& constant(const Node& node, const std::string& field) {
  const Constant* found = node.find(field);
  if (!found) node.fail(field, "is missing");
  if (found->real()) node.fail(field, "must hold integers, got real numbers");
  if (found->tensor.size() == 0) node.fail(field, "is empty, shape " + to_string(found->tensor.shape));
  if (found->low <= -kMany || found->high >= kMany) node.fail(field, "holds values beyond 62 bits");
  return *found;
}

const Constant& per_channel(const Node& node, const std::string& field, int64_t channels) {
  const Constant& value = constant(node, field);
  const Shape& s = value.tensor.shape;
  if (s.size() != 1 || (s[0] != 1 && s[0] != channels)) node.fail(field, "must be [1] or [" + std::to_string(channels) + "], got " + to_string(s));
  return value;
}

// A constant of shape [T|1, C|1], or with `levels` [L, T|1, C|1].
const Constant& plane(const Node& node, const std::string& field, int64_t steps, int64_t channels, int64_t levels = 0) {
  const Constant& value = constant(node, field);
  const Shape& s = value.tensor.shape;
  const size_t skip = levels ? 1 : 0;
  const bool fits = s.size() == 2 + skip && (s[skip] == 1 || s[skip] == steps) && (s[skip + 1] == 1 || s[skip + 1] == channels);
  if (!fits || (levels && s[0] != levels))
    node.fail(field, "must be [" + (levels ? std::to_string(levels) + ", " : "") + "1 or " + std::to_string(steps) + ", 1 or " +
                         std::to_string(channels) + "], got " + to_string(s));
  return value;
}

Shape broadcast(const Node& node, const std::vector<Shape>& shapes) {
  Shape out;
  for (auto& s : shapes) {
    if (s.size() > out.size()) out.insert(out.begin(), s.size() - out.size(), 1);
    for (size_t i = 0; i < s.size(); ++i) {
      int64_t& have = out[out.size() - 1 - i];
      const int64_t want = s[s.size() - 1 - i];
      if (have != want && have != 1 && want != 1) node.fail("inputs", "rows " + to_string(out) + " and " + to_string(s) + " do not broadcast");
      if (have == 1) have = want;
    }
  }
  return out;
}

int64_t same_steps(const Node& node, const Inputs& in) {
  for (auto* input : in)
    if (input->steps != in[0]->steps) node.fail("inputs", "have different steps; put a Repeat before the one without");
  return in[0]->steps;
}

void choice(const Node& node, const char* field, std::initializer_list<const char*> allowed) {
  std::string names;
  for (const char* name : allowed) {
    if (node.word(field) == name) return;
    names += std::string(names.empty() ? "" : ", ") + name;
  }
  node.fail(field, "must be one of " + names + ", got '" + node.word(field) + "'");
}

void range(const Node& node, const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    node.fail(field, "must lie in " + std::to_string(low) + ".." + std::to_string(high) + ", got " + std::to_string(value));
}

const Ints& list(const Node& node, const char* field, size_t count, int64_t low, int64_t high) {
  const Ints& values = node.list(field);
  if (values.size() != count) node.fail(field, "needs " + std::to_string(count) + " entries, got " + std::to_string(values.size()));
  for (int64_t value : values) range(node, field, value, low, high);
  return values;
}

void shift_list(const Node& node, size_t count) {
  if (!node.list("shifts").empty()) list(node, "shifts", count, 0, kMaxShift);
}

// Space extents that a sliding window leaves.
Shape windows(const Node& node, const Shape& row, const Ints& kernel, const Ints& dilation) {
  const size_t count = row.size() - 1;
  const Ints& stride = list(node, "stride", count, 1, kMaxExtent);
  if (dilation.size() != count) node.fail("dilation", "needs " + std::to_string(count) + " entries, got " + std::to_string(dilation.size()));
  for (int64_t d : dilation) range(node, "dilation", d, 1, kMaxExtent);
  const Ints& padding = node.list("padding");
  if (padding.size() != 2 * count)
    node.fail("padding", "needs (before, after) for each of " + std::to_string(count) + " space axes, got " + std::to_string(padding.size() / 2));
  Shape out;
  for (size_t i = 0; i < count; ++i) {
    for (size_t j : {2 * i, 2 * i + 1}) range(node, "padding", padding[j], 0, kMaxExtent);
    const int64_t room = row[i + 1] + padding[2 * i] + padding[2 * i + 1] - times(dilation[i], kernel[i] - 1) - 1;
    if (room < 0) node.fail("kernel", "window " + list_of(kernel) + " is larger than the padded rows " + to_string(row));
    out.push_back(room / stride[i] + 1);
  }
  return out;
}

Shape codebook_shape(const Node& node, const Constant& weight) {
  const Constant& book = constant(node, "coding.codebook");
  const Shape &s = book.tensor.shape, &w = weight.tensor.shape;
  const int64_t limit = int64_t{1} << 31;
  if (s.size() != 2 || book.low <= -limit || book.high >= limit)
    node.fail("coding.codebook", "must be [K, word] of 32-bit code words, got " + to_string(s));
  if (w.size() != 2) node.fail("weight", "indices must be [C_out, fan_in / word], got " + to_string(w));
  if (weight.low < 0 || weight.high >= std::min(s[0], int64_t{1} << node.coding.bits))
    node.fail("weight", "indices " + std::to_string(weight.low) + ".." + std::to_string(weight.high) + " leave the codebook of " +
                            std::to_string(s[0]) + " words");
  const int64_t fan_in = times(w[1], s[1]);
  if (node.type == "Linear") return {w[0], fan_in};
  const Ints& kernel = list(node, "kernel", node.list("kernel").size(), 1, kMaxExtent);
  const int64_t taps = count_of(kernel);
  if (fan_in % taps) node.fail("kernel", list_of(kernel) + " does not divide a fan-in of " + std::to_string(fan_in));
  Shape shape{w[0], fan_in / taps};
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  return shape;
}

// What an inferred edge has besides the kind that the node declares.
struct Row {
  Shape shape;
  int64_t steps;
};

Row input(const Node& node, const Inputs&) {
  if (node.find("table")) {
    const int64_t channels = node.shape[axis_of(node, node.number("axis"), node.shape.size())];
    const Shape& s = constant(node, "table").tensor.shape;
    if (s.size() != 2 || (s[0] != channels && s[0] != 1) || s[1] != 256)
      node.fail("table", "must be [" + std::to_string(channels) + ", 256], got " + to_string(s));
  }
  return {node.shape, node.steps};
}

Row output(const Node& node, const Inputs& in) {
  const Kind &a = node.kind, &b = in[0]->kind;
  if (a.name != b.name || a.levels != b.levels || a.bits != b.bits || a.frac != b.frac) node.fail("kind", "must repeat its input's");
  return {in[0]->shape, in[0]->steps};
}

Row repeat(const Node& node, const Inputs& in) {
  if (in[0]->steps != 0 || node.steps < 1) node.fail("steps", "repeats one row a sample to T >= 1 rows");
  return {in[0]->shape, node.steps};
}

Row conv(const Node& node, const Inputs& in) {
  const Shape& row = in[0]->shape;
  if (row.size() < 2 || row.size() > 4) node.fail("inputs", "rows must be [C, 1 to 3 space axes], got " + to_string(row));
  const Shape shape = weight_shape(node);
  const int64_t groups = node.number("groups");
  range(node, "groups", groups, 1, kMaxExtent);
  if (shape.size() != row.size() + 1 || times(shape[1], groups) != row[0] || shape[0] % groups)
    node.fail("weight", to_string(shape) + " with " + std::to_string(groups) + " groups does not fit rows " + to_string(row));
  if (node.find("bias")) per_channel(node, "bias", shape[0]);
  Shape out = windows(node, row, Ints(shape.begin() + 2, shape.end()), node.list("dilation"));
  out.insert(out.begin(), shape[0]);
  return {out, in[0]->steps};
}

Row linear(const Node& node, const Inputs& in) {
  Shape row = in[0]->shape;
  const Shape shape = weight_shape(node);
  if (shape.size() != 2 || row.empty() || row.back() != shape[1]) node.fail("weight", to_string(shape) + " does not fit rows " + to_string(row));
  if (node.find("bias")) per_channel(node, "bias", shape[0]);
  row.back() = shape[0];
  return {row, in[0]->steps};
}

void staircase(const Node& node) {
  const Constant &breaks = constant(node, "breaks"), &values = constant(node, "values");
  const Shape &b = breaks.tensor.shape, &v = values.tensor.shape;
  if (b.size() != 1 || v.size() != 1 || v[0] != b[0] + 1)
    node.fail("values", "a table of n breaks needs n + 1 values, got " + to_string(b) + " and " + to_string(v));
  const Ints list = breaks.tensor.values();
  if (!std::is_sorted(list.begin(), list.end())) node.fail("breaks", "must ascend");
}

Row neuron(const Node& node, const Inputs& in) {
  const Shape& row = in[0]->shape;
  const int64_t steps = std::max<int64_t>(1, in[0]->steps), channels = row[axis_of(node, node.number("axis"), row.size())];
  if (!node.number("lowered")) node.fail("lowered", "the neuron is not lowered to constants");
  if (node.out_scale != 1.0) node.fail("out_scale", "must be folded into what follows");
  choice(node, "reset", {"hard", "soft", "none"});
  choice(node, "rounding", {"floor", "half_up"});
  range(node, "decay_shift", node.number("decay_shift"), 0, kMaxShift);
  range(node, "frac", node.number("frac"), -1000, 1000);
  range(node, "v_bits", node.number("v_bits"), 0, 63);
  for (const char* field : {"decay", "gain", "bias", "reset_value", "v_init", "neg_threshold"}) {
    if (!node.find(field) && std::string(field) == "neg_threshold") continue;
    const Constant& value = plane(node, field, steps, channels);
    if (std::string(field) == "v_init" && value.tensor.shape[0] != 1) node.fail(field, "has no steps, must be [1, 1 or C]");
  }
  const Ints& strict = node.list("strict");
  const auto levels = static_cast<int64_t>(strict.size());
  range(node, "strict", levels, 1, 65536);
  plane(node, "thresholds", steps, channels, levels);
  if (node.number("neg_strict") || std::count(strict.begin(), strict.end(), 1))
    node.fail("strict", "strict comparisons must have become >= th + 1");
  if (!node.find("breaks") != !node.find("values")) node.fail("breaks", "a membrane table needs breaks and values");
  if (node.find("breaks")) staircase(node);
  if (const Constant* unit = node.find("unit")) {
    const Shape& s = unit->tensor.shape;
    bool finite = unit->real();
    const std::byte* at = unit->tensor.data.data();
    for (int64_t i = 0; finite && i < unit->tensor.size(); ++i) {
      // All bits of the exponent set: infinity or no number.
      uint64_t bits = 0;
      const bool wide = unit->tensor.dtype == Dtype::f64;
      std::memcpy(&bits, at + i * (wide ? 8 : 4), wide ? 8 : 4);
      finite = wide ? (bits >> 52 & 0x7FF) != 0x7FF : (bits >> 23 & 0xFF) != 0xFF;
    }
    if (!finite) node.fail("unit", "must hold finite floats");
    if (s.size() != 2 || s[0] != 1 || (s[1] != 1 && s[1] != channels)) node.fail("unit", "must be [1, 1 or C], got " + to_string(s));
  }
  if (!node.kind.spikes() || node.kind.high() < levels) node.fail("kind", "cannot hold the counts of " + std::to_string(levels) + " levels");
  if ((node.kind.name == KindName::ternary) != (node.find("neg_threshold") != nullptr))
    node.fail("neg_threshold", "belongs to ternary neurons, and only to them");
  return {row, in[0]->steps};
}

std::vector<Shape> shapes_of(const Inputs& in) {
  std::vector<Shape> shapes;
  for (auto* input : in) shapes.push_back(input->shape);
  return shapes;
}

Row add(const Node& node, const Inputs& in) {
  shift_list(node, in.size());
  const Ints& signs = node.list("signs");
  if (!signs.empty()) list(node, "signs", in.size(), -1, 1);
  if (std::count(signs.begin(), signs.end(), 0)) node.fail("signs", "must be 1 or -1, got 0");
  return {broadcast(node, shapes_of(in)), same_steps(node, in)};
}

Row pair(const Node& node, const Inputs& in) {
  if (node.type == "Logic") {
    choice(node, "op", {"and", "or", "iand"});
    for (auto* n : {in[0], in[1], &node})
      if (n->kind.name != KindName::binary) node.fail("kind", "logic takes and gives binary edges");
  }
  return {broadcast(node, shapes_of(in)), same_steps(node, in)};
}

Row matmul(const Node& node, const Inputs& in) {
  const Shape &a = in[0]->shape, &b = in[1]->shape;
  if (a.size() < 2 || b.size() < 2 || a.back() != b[b.size() - 2])
    node.fail("inputs", "cannot multiply rows " + to_string(a) + " and " + to_string(b));
  Shape out = broadcast(node, {Shape(a.begin(), a.end() - 2), Shape(b.begin(), b.end() - 2)});
  out.push_back(a[a.size() - 2]);
  out.push_back(b.back());
  return {out, same_steps(node, in)};
}

Row affine(const Node& node, const Inputs& in) {
  const Shape& row = in[0]->shape;
  const int64_t channels = row[axis_of(node, node.number("axis"), row.size())];
  per_channel(node, "gain", channels);
  per_channel(node, "bias", channels);
  range(node, "shift", node.number("shift"), 0, kMaxShift);
  choice(node, "rounding", {"floor", "half_up"});
  return {row, in[0]->steps};
}

Row lut(const Node& node, const Inputs& in) {
  staircase(node);
  return {in[0]->shape, in[0]->steps};
}

Row pool(const Node& node, const Inputs& in) {
  const Shape& row = in[0]->shape;
  choice(node, "mode", {"max", "min", "sum"});
  if (row.size() < 2 || row.size() > 4) node.fail("inputs", "rows must be [C, 1 to 3 space axes], got " + to_string(row));
  const Ints& kernel = list(node, "kernel", row.size() - 1, 1, kMaxExtent);
  Shape out = windows(node, row, kernel, Ints(kernel.size(), 1));
  const Ints& padding = node.list("padding");
  for (size_t i = 0; i < padding.size(); ++i)
    if (padding[i] >= kernel[i / 2]) node.fail("padding", "must be below the kernel " + std::to_string(kernel[i / 2]));
  if (node.number("divisor")) node.fail("divisor", "belongs to captured averages; snapped pools are sums");
  if (node.find("flip")) {
    if (node.word("mode") == "sum") node.fail("flip", "turns max into min; a sum has none");
    const Constant& flip = per_channel(node, "flip", row[0]);
    if (flip.low < 0 || flip.high > 1) node.fail("flip", "holds true and false only");
  }
  out.insert(out.begin(), row[0]);
  return {out, in[0]->steps};
}

Row mean(const Node& node, const Inputs& in) {
  const Shape& row = in[0]->shape;
  if (!node.number("total")) node.fail("total", "only exact sums exist on integers");
  std::set<size_t> gone;
  for (int64_t axis : node.list("axes")) gone.insert(axis_of(node, axis, row.size(), "axes"));
  if (gone.size() != node.list("axes").size() || gone.empty()) node.fail("axes", "must name distinct row axes, got " + list_of(node.list("axes")));
  Shape out;
  for (size_t i = 0; i < row.size(); ++i)
    if (!gone.contains(i)) out.push_back(row[i]);
    else if (node.number("keepdim")) out.push_back(1);
  return {out, in[0]->steps};
}

Row concat(const Node& node, const Inputs& in) {
  Shape out = in[0]->shape;
  const size_t axis = axis_of(node, node.number("axis"), out.size());
  shift_list(node, in.size());
  out[axis] = 0;
  for (auto* input : in) {
    bool fits = input->shape.size() == out.size();
    for (size_t i = 0; fits && i < out.size(); ++i) fits = i == axis || input->shape[i] == out[i];
    if (!fits) node.fail("inputs", "rows " + to_string(input->shape) + " and " + to_string(in[0]->shape) + " differ outside axis " + std::to_string(axis));
    out[axis] += input->shape[axis];
  }
  return {out, same_steps(node, in)};
}

Row upsample(const Node& node, const Inputs& in) {
  Shape out = in[0]->shape;
  const Ints& factors = list(node, "factors", std::max<size_t>(1, out.size() - (out.empty() ? 0 : 1)), 1, 4096);
  if (out.empty()) node.fail("inputs", "rows need a channel axis");
  for (size_t i = 1; i < out.size(); ++i) out[i] = times(out[i], factors[i - 1]);
  return {out, in[0]->steps};
}

Row reshape(const Node& node, const Inputs& in) {
  Shape row = in[0]->shape;
  for (auto& move : node.moves) {
    row = moved(node, row, move);
    if (row.size() > kMaxAxes || count_of(row) >= kMaxExtent) node.fail("moves", move.name + " gives rows which are too large");
  }
  return {row, in[0]->steps};
}

Row readout(const Node& node, const Inputs& in) {
  choice(node, "mode", {"sum", "max", "last"});
  if (in[0]->steps < 1) node.fail("inputs", "has no steps to read over");
  return {in[0]->shape, 0};
}

Row timemix(const Node& node, const Inputs& in) {
  const int64_t T = in[0]->steps, channels = in[0]->shape[axis_of(node, node.number("axis"), in[0]->shape.size())];
  if (T < 1) node.fail("inputs", "has no steps to mix");
  const Constant& matrix = constant(node, "matrix");
  const Shape& s = matrix.tensor.shape;
  if (s != Shape{T, T} && s != Shape{1, T, T} && s != Shape{channels, T, T})
    node.fail("matrix", "must be [T, T] or [C, T, T] with T = " + std::to_string(T) + ", got " + to_string(s));
  if (node.number("causal")) {
    const Ints values = matrix.tensor.values();
    for (size_t i = 0; i < values.size(); ++i)
      if (static_cast<int64_t>(i) % T > static_cast<int64_t>(i) / T % T && values[i] != 0) node.fail("matrix", "a causal matrix is lower triangular");
  }
  if (node.find("bias")) plane(node, "bias", T, channels);
  return {in[0]->shape, T};
}

Row scan(const Node& node, const Inputs& in) {
  const auto entries = node.body->of_type("Input"), exits = node.body->of_type("Output");
  std::map<std::string, const Node*> enter, leave;
  for (auto* n : entries) enter[n->name] = n;
  for (auto* n : exits) leave[n->word("key")] = n;
  std::set<std::string> states;
  for (size_t i = 0; i + 1 < enter.size(); ++i) states.insert("state" + std::to_string(i));
  const auto complete = [&](const auto& found, const char* data) {
    bool good = found.size() == states.size() + 1 && found.contains(data);
    for (auto& state : states) good = good && found.contains(state);
    return good;
  };
  if (enter.empty() || !complete(enter, "x") || !complete(leave, "y")) node.fail("body", "needs inputs x, state0.. and outputs y, state0..");
  if (enter["x"]->shape != in[0]->shape) node.fail("body", "expects rows " + to_string(enter["x"]->shape) + ", gets " + to_string(in[0]->shape));
  for (auto& state : states)
    if (enter[state]->shape != leave[state]->shape) node.fail("body", state + " changes its rows");
  if (in[0]->steps < 1) node.fail("inputs", "has no steps to scan");
  for (auto& inner : node.body->nodes)
    if (inner.steps > 1) node.fail("body", "is a graph of one step");
  return {leave["y"]->shape, in[0]->steps};
}

struct Rule {
  size_t least, most;
  Row (*infer)(const Node&, const Inputs&);
};

const std::map<std::string, Rule>& rules() {
  static const std::map<std::string, Rule> table = {
      {"Input", {0, 0, input}},     {"Output", {1, 1, output}},   {"Repeat", {1, 1, repeat}},     {"Conv", {1, 1, conv}},
      {"Linear", {1, 1, linear}},   {"Neuron", {1, 1, neuron}},   {"Add", {1, 64, add}},          {"Mul", {2, 2, pair}},
      {"Logic", {2, 2, pair}},      {"MatMul", {2, 2, matmul}},   {"Affine", {1, 1, affine}},     {"Lut", {1, 1, lut}},
      {"Pool", {1, 1, pool}},       {"Mean", {1, 1, mean}},       {"Concat", {1, 1024, concat}},  {"Upsample", {1, 1, upsample}},
      {"Reshape", {1, 1, reshape}}, {"Readout", {1, 1, readout}}, {"TimeMix", {1, 1, timemix}},   {"Scan", {1, 1, scan}},
  };
  return table;
}

void check_edge(const Node& node) {
  bool fits = node.shape.size() <= kMaxAxes;
  for (int64_t size : node.shape) fits = fits && size >= 1;
  if (!fits || node.size() >= kMaxExtent)
    node.fail("shape", "needs at most 8 axes of at least 1, below 2^31 elements, got " + to_string(node.shape));
  if (node.steps < 0 || node.steps > kMaxSteps) node.fail("steps", "must lie in 0..65536, got " + std::to_string(node.steps));
}

}  // namespace

size_t axis_of(const Node& node, int64_t axis, size_t rank, const char* field) {
  const auto n = static_cast<int64_t>(rank);
  if (axis < -n || axis >= n) node.fail(field, "row axis " + std::to_string(axis) + " does not exist in rows of " + std::to_string(n) + " axes");
  return static_cast<size_t>(axis < 0 ? axis + n : axis);
}

Shape weight_shape(const Node& node) {
  const Constant& weight = constant(node, "weight");
  const Coding& coding = node.coding;
  if (node.find("scale")) node.fail("scale", "belongs to captured graphs; snapping folds it into what follows");
  if (coding.name == "float") node.fail("coding.name", "must be one of int, sign, ternary, codebook, got 'float'");
  const bool sign = coding.name == "sign", ternary = coding.name == "ternary", book = coding.name == "codebook";
  if ((sign && coding.bits != 1) || (ternary && coding.bits != 2)) node.fail("coding.bits", "sign weights have 1 bit, ternary ones 2");
  range(node, "coding.bits", coding.bits, 1, 32);
  if (coding.has_codebook != book) node.fail("coding.codebook", "belongs to codebook weights, and only to them");
  if (book) return codebook_shape(node, weight);
  if (node.type == "Conv" && !node.list("kernel").empty()) node.fail("kernel", "is given only with a codebook");
  const int64_t least = sign || ternary ? -1 : -(int64_t{1} << (coding.bits - 1)), most = sign || ternary ? 1 : (int64_t{1} << (coding.bits - 1)) - 1;
  if (weight.low < least || weight.high > most)
    node.fail("weight", "codes " + std::to_string(weight.low) + ".." + std::to_string(weight.high) + " leave " + std::to_string(least) + ".." +
                            std::to_string(most) + " of coding " + coding.name);
  for (int64_t i = 0; sign && i < weight.tensor.size(); ++i)
    if (!weight.tensor.at(i)) node.fail("weight", "sign codes are -1 and +1, got 0");
  return weight.tensor.shape;
}

void check_shapes(const Graph& graph) {
  std::set<std::string> keys;
  int64_t steps = 0;
  for (auto& node : graph.nodes) {
    check_edge(node);
    Inputs in;
    for (size_t i : node.from) {
      if (graph.nodes[i].type == "Output") node.fail("inputs", "reads '" + graph.nodes[i].name + "', an output");
      in.push_back(&graph.nodes[i]);
    }
    const Rule& rule = rules().at(node.type);
    if (in.size() < rule.least || in.size() > rule.most)
      node.fail("inputs", "needs " + std::to_string(rule.least) + ".." + std::to_string(rule.most) + " inputs, got " + std::to_string(in.size()));
    const Row row = rule.infer(node, in);
    if (row.shape != node.shape) node.fail("shape", "rows are " + to_string(row.shape) + ", the node declares " + to_string(node.shape));
    if (row.steps != node.steps) node.fail("steps", "are " + std::to_string(row.steps) + ", the node declares " + std::to_string(node.steps));
    if (node.type == "Output" && !keys.insert(node.word("key")).second) node.fail("key", "'" + node.word("key") + "' is used twice");
    if (node.body) {
      try {
        check_shapes(*node.body);
      } catch (const FormatError& wrong) {
        node.fail("body", wrong.what());
      }
    }
    if (node.steps && steps && node.steps != steps)
      throw FormatError("field 'steps': one graph has one T, found " + std::to_string(steps) + " and " + std::to_string(node.steps));
    if (node.steps) steps = node.steps;
  }
  if (graph.of_type("Input").empty() || keys.empty()) throw FormatError("field 'nodes': a graph needs at least one Input and one Output");
}

}  // namespace picojoule::file
