#pragma once
// Random small graphs for the native tests, damaged on purpose where asked: convolutions of any axes, stride,
// padding, dilation and groups, linear layers, neurons of every reset and kind, pools, shortcuts of membranes and
// spike attention.

#include <cstring>
#include <random>
#include <string>
#include <utility>

#include "picojoule/engine.h"

namespace picojoule::tests {

struct Dice {
  std::mt19937_64 engine;
  int64_t in(int64_t low, int64_t high) { return low + static_cast<int64_t>(engine() % static_cast<uint64_t>(high - low + 1)); }
  bool chance(int percent) { return in(1, 100) <= percent; }
};

inline Tensor constant(const Shape& shape, Dice& dice, int64_t low, int64_t high, bool signs = false) {
  Tensor t;
  t.shape = shape;
  double size = 1;
  for (int64_t d : shape) size *= static_cast<double>(d);
  if (size > 2e7) throw Error("too much work for a fuzzer");  // follows from a damaged input
  std::vector<int64_t> values(static_cast<size_t>(product(shape)));
  for (auto& v : values) v = signs ? (dice.chance(50) ? 1 : -1) : dice.in(low, high);
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  t.data.assign(bytes, bytes + values.size() * 8);
  return t;
}

// Kernels [..., taps] of a weight become a few different ones, as from a codebook.
inline void repeat_kernels(Tensor& weight, Dice& dice) {
  const size_t taps = static_cast<size_t>(product(weight.shape) / (weight.shape[0] * weight.shape[1])) * 8, kernels = weight.data.size() / taps;
  const int64_t words = dice.in(1, 16);
  std::byte* data = weight.data.own();
  for (size_t k = 0; k < kernels; ++k)
    std::memmove(data + k * taps, data + std::min<size_t>(k, static_cast<size_t>(dice.in(0, words - 1))) * taps, taps);
}

inline NodeDef node(const char* type, int index, std::vector<int> inputs, Kind kind, Shape shape, int64_t steps) {
  NodeDef n;
  n.type = type;
  n.name = std::string(type) + std::to_string(index);
  n.inputs = std::move(inputs);
  n.kind = kind;
  n.shape = std::move(shape);
  n.steps = steps;
  return n;
}

// One field of a node set to nonsense.
inline void damage(NodeDef& n, Dice& dice) {
  const int64_t odd[] = {-1, 0, 1, 2, 3, 7, 63, 64, 65, 4096, 1 << 24, INT32_MAX, INT64_MAX, INT64_MIN};
  const auto pick = [&] { return odd[dice.in(0, 13)]; };
  switch (dice.in(0, 6)) {
    case 0: if (!n.shape.empty()) n.shape[dice.in(0, n.shape.size() - 1)] = pick(); break;
    case 1: n.steps = pick(); break;
    case 2: if (!n.inputs.empty()) n.inputs[0] = static_cast<int>(pick()); break;
    case 3:
      for (auto& [key, list] : n.ints)
        if (!list.empty() && dice.chance(40)) list[dice.in(0, list.size() - 1)] = pick();
      break;
    case 4:
      for (auto& [key, tensor] : n.tensors)
        if (!tensor.shape.empty() && dice.chance(40)) tensor.shape[dice.in(0, tensor.shape.size() - 1)] = pick();
      break;
    case 5:
      for (auto& [key, tensor] : n.tensors)
        if (!tensor.data.empty() && dice.chance(60)) tensor.data.own()[dice.in(0, tensor.data.size() - 1)] = std::byte(dice.in(0, 255));
      break;
    default:
      if (!n.tensors.empty()) n.tensors.erase(n.tensors.begin());
      else if (!n.ints.empty()) n.ints.begin()->second.push_back(1);
  }
}

struct Builder {
  Dice& dice;
  bool broken;
  int64_t T;
  std::shared_ptr<GraphDef> graph = std::make_shared<GraphDef>();

  int add(NodeDef n) {
    if (broken && dice.chance(25)) damage(n, dice);
    return graph->add(std::move(n));
  }
  const NodeDef& at(int i) const { return graph->nodes[i]; }

  int synapse(int x) {
    const NodeDef& from = at(x);
    int64_t out = dice.chance(20) ? from.shape[0] * dice.in(1, 2) : dice.in(0, 2) == 0 ? dice.in(1, 8) : dice.in(30, 300);
    const bool signs = dice.chance(50);
    const int64_t bound = signs ? 1 : (int64_t{1} << dice.in(0, 7)) - 1;
    const size_t axes = from.shape.size() - 1;
    const int64_t C = from.shape[0], some = C % 2 == 0 ? C % 5 == 0 ? 5 : 2 : C % 3 == 0 ? 3 : 1;
    int64_t groups = axes && C <= 8 && out % C == 0 && dice.chance(60) ? C : 1;  // depthwise
    if (axes && C > 0 && groups == 1 && dice.chance(25)) groups = some, out = (out + some - 1) / some * some;
    NodeDef n = node(axes ? "Conv" : "Linear", x + 1, {x}, make_kind("fixed", 1, 30, 0), {out}, from.steps);
    Shape weight{out, C / groups};
    Ints stride, padding, dilation;
    for (size_t i = 0; i < axes; ++i) {
      const int64_t k = dice.in(1, 3), s = dice.in(1, 2), d = dice.in(1, 2), b = dice.in(0, 2), a = dice.in(0, 2);
      const int64_t span = from.shape[i + 1] + a + b - d * (k - 1) - 1;
      const bool fits = span >= 0;
      weight.push_back(fits ? k : 1);
      stride.push_back(s), dilation.push_back(d), padding.push_back(b), padding.push_back(a);
      n.shape.push_back((fits ? span : from.shape[i + 1] + a + b - 1) / s + 1);
    }
    if (axes) n.ints = {{"stride", stride}, {"padding", padding}, {"dilation", dilation}, {"groups", {groups}}};
    n.tensors["weight"] = constant(weight, dice, -bound, bound, signs);
    if (axes && dice.chance(25)) repeat_kernels(n.tensors["weight"], dice);
    if (dice.chance(40)) n.tensors["bias"] = constant({out}, dice, -9, 9);
    return add(std::move(n));
  }

  // Pixels or tokens stay where they are: a convolution of one tap, or a linear layer of the last axis.
  int mix(int x, int64_t out, bool tokens) {
    const NodeDef& from = at(x);
    const size_t axes = from.shape.size() - 1;
    NodeDef n = node(tokens ? "Linear" : "Conv", static_cast<int>(graph->nodes.size()), {x}, make_kind("fixed", 1, 28, 0), from.shape, from.steps);
    Shape weight{out, tokens ? from.shape.back() : from.shape[0]};
    (tokens ? n.shape.back() : n.shape.front()) = out;
    if (!tokens) {
      weight.resize(2 + axes, 1);
      n.ints = {{"stride", Ints(axes, 1)}, {"padding", Ints(2 * axes, 0)}, {"dilation", Ints(axes, 1)}, {"groups", {1}}};
    }
    const bool signs = dice.chance(50);
    n.tensors["weight"] = constant(weight, dice, -3, 4, signs);
    return add(std::move(n));
  }

  int neuron(int x, bool binary = false, int64_t axis = 0) {
    const NodeDef& from = at(x);
    const int64_t C = from.shape[axis], levels = binary ? 1 : dice.in(1, 3);
    const bool ternary = !binary && levels == 1 && dice.chance(20);
    const Kind kind = ternary ? make_kind("ternary", 1, 0, 0) : levels == 1 ? make_kind("binary", 1, 0, 0) : make_kind("integer", levels, 0, 0);
    NodeDef n = node("Neuron", static_cast<int>(graph->nodes.size()), {x}, kind, from.shape, from.steps);
    static const char* resets[] = {"hard", "soft", "none"};
    n.strs = {{"reset", resets[dice.in(0, 2)]}, {"rounding", dice.chance(70) ? "floor" : "half_up"}};
    const int64_t shift = dice.in(0, 4);
    n.ints = {{"axis", {axis}}, {"decay_shift", {shift}}};
    const auto plane = [&](int64_t low, int64_t high) { return constant({dice.chance(20) ? T : 1, dice.chance(50) ? C : 1}, dice, low, high); };
    n.tensors["decay"] = dice.chance(60) ? constant({1, 1}, dice, 1, 1) : plane(0, int64_t{1} << shift);
    n.tensors["gain"] = dice.chance(60) ? constant({1, C}, dice, 0, 0, true) : plane(-3, 3);
    n.tensors["bias"] = plane(-5, 5);
    n.tensors["reset_value"] = plane(-3, 9);
    n.tensors["v_init"] = constant({1, 1}, dice, -3, 3);
    n.tensors["thresholds"] = constant({levels, 1, C}, dice, 1, 20);
    if (ternary) n.tensors["neg_threshold"] = plane(-20, 0);
    return add(std::move(n));
  }

  int pool(int x) {
    const NodeDef& from = at(x);
    NodeDef n = node("Pool", x + 1, {x}, from.kind, from.shape, from.steps);
    Ints kernel, stride, padding;
    for (size_t i = 1; i < from.shape.size(); ++i) {
      const int64_t k = std::min<int64_t>(2, from.shape[i]);
      kernel.push_back(k), stride.push_back(2), padding.push_back(0), padding.push_back(k - 1);
      n.shape[i] = (from.shape[i] - 1) / 2 + 1;
    }
    n.ints = {{"kernel", kernel}, {"stride", stride}, {"padding", padding}};
    n.strs = {{"mode", dice.chance(50) ? "max" : "min"}};
    return add(std::move(n));
  }

  int pair(const char* type, int a, int b, Kind kind) {
    NodeDef n = node(type, static_cast<int>(graph->nodes.size()), {a, b}, kind, at(a).size() < at(b).size() ? at(b).shape : at(a).shape, at(a).steps);
    static const char* ops[] = {"and", "or", "iand"};
    if (n.type == "Logic") n.strs = {{"op", ops[dice.in(0, 2)]}};
    if (n.type == "Add") n.ints = {{"shifts", {0, dice.in(0, 1)}}, {"signs", {1, dice.chance(50) ? 1 : -1}}};
    return add(std::move(n));
  }

  // The sum over all pixels of a channel, or over all tokens.
  int total(int x, bool tokens, bool keep) {
    const NodeDef& from = at(x);
    NodeDef n = node("Mean", static_cast<int>(graph->nodes.size()), {x}, make_kind("fixed", 1, 20, 0), {}, from.steps);
    const size_t channel = tokens ? from.shape.size() - 1 : 0;
    Ints axes;
    for (size_t i = 0; i < from.shape.size(); ++i) {
      if (i != channel) axes.push_back(static_cast<int64_t>(i));
      if (i == channel || keep) n.shape.push_back(i == channel ? from.shape[i] : 1);
    }
    n.ints = {{"axes", axes}, {"keepdim", {keep}}, {"total", {1}}};
    return add(std::move(n));
  }

  // Queries masked by the channels in which keys and values meet, over one or several axes of pixels, or over tokens.
  int attention(int x) {
    const bool tokens = at(x).shape.size() == 2 && dice.chance(50);
    const int64_t out = dice.chance(30) ? dice.in(1, 9) : dice.in(60, 140), axis = tokens ? 1 : 0;
    const Kind binary = make_kind("binary", 1, 0, 0);
    const int q = neuron(mix(x, out, tokens), true, axis), k = neuron(mix(x, out, tokens), true, axis), v = neuron(mix(x, out, tokens), true, axis);
    const int gate = neuron(total(pair(dice.chance(50) ? "Mul" : "Logic", k, v, binary), tokens, true), true, axis);
    return dice.chance(50) ? pair("Mul", gate, q, binary) : pair("Logic", q, gate, binary);
  }

  int shortcut(int x) {
    const int64_t out = dice.in(1, 70);
    const int a = mix(x, out, false), b = mix(x, out, false);
    return neuron(pair("Add", a, b, make_kind("fixed", 1, 30, 0)));
  }

  int flatten(int x) {
    const NodeDef& from = at(x);
    NodeDef n = node("Reshape", x + 1, {x}, from.kind, {product(from.shape)}, from.steps);
    n.ints = {{"moves", {0, 1, product(from.shape)}}};
    return add(std::move(n));
  }

  void build() {
    const size_t axes = dice.in(0, 3);
    Shape shape{dice.chance(30) ? dice.in(60, 70) : dice.in(1, 6)};
    for (size_t i = 0; i < axes; ++i) shape.push_back(dice.chance(40) ? 4 * dice.in(1, 2) : dice.in(1, 5));
    const Kind kinds[] = {make_kind("binary", 1, 0, 0), make_kind("ternary", 1, 0, 0), make_kind("integer", dice.in(2, 9), 0, 0),
                          make_kind("fixed", 1, 8, 2)};
    int x = add(node("Input", 0, {}, kinds[dice.in(0, 3)], shape, T));
    for (int64_t depth = dice.in(1, 3); depth > 0; --depth) {
      x = neuron(synapse(x));
      if (axes && dice.chance(30)) x = pool(x);
    }
    if (axes && dice.chance(20)) x = shortcut(x);
    if (axes && dice.chance(25)) x = attention(x);
    if (axes && dice.chance(15)) x = neuron(synapse(total(x, false, false)));
    else if (axes && dice.chance(50) && product(at(x).shape) <= 2048) x = neuron(synapse(flatten(x)));  // weights fit
    add(node("Output", x + 1, {x}, at(x).kind, at(x).shape, at(x).steps));
  }
};

// Input data of one call, a third of them spikes.
inline std::vector<std::vector<int8_t>> data_for(const GraphDef& graph, int64_t batch, uint64_t seed) {
  Dice dice{std::mt19937_64(seed)};
  const int64_t T = graph.steps(), percent = dice.chance(25) ? 100 : dice.in(0, 60);
  std::vector<std::vector<int8_t>> data;
  for (int i : graph.of_type("Input")) {
    const NodeDef& n = graph.nodes[i];
    data.emplace_back(batch * (n.steps ? T : 1) * n.size());
    const int64_t top = std::min<int64_t>(n.kind.high(), 127);
    for (auto& v : data.back())
      v = static_cast<int8_t>(!n.kind.spikes() ? dice.in(-30, 30) : dice.chance(static_cast<int>(percent)) ? dice.in(n.kind.low(), top) : 0);
  }
  return data;
}

}  // namespace picojoule::tests
