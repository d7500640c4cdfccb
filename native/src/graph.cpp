#include "picojoule/graph.h"

#include <algorithm>

namespace picojoule {

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Ints Tensor::values() const {
  Ints out(static_cast<size_t>(size()));
  with_integer(dtype, [&](auto zero) {
    using E = decltype(zero);
    const E* from = reinterpret_cast<const E*>(data.data());
    std::copy(from, from + out.size(), out.begin());
  });
  return out;
}

Kind make_kind(const std::string& name, int64_t levels, int bits, int frac) {
  static const std::pair<const char*, KindName> names[] = {{"binary", KindName::binary},
                                                           {"ternary", KindName::ternary},
                                                           {"integer", KindName::integer},
                                                           {"time", KindName::time},
                                                           {"fixed", KindName::fixed}};
  for (auto& [text, value] : names) {
    if (name != text) continue;
    if (value == KindName::fixed && (bits < 1 || bits > 63)) throw Error("fixed: bits must lie in 1..63");
    if (value != KindName::fixed && (levels < 1 || levels > (1 << 20)))
      throw Error(name + ": levels must lie in 1..2^20");
    if ((value == KindName::binary || value == KindName::ternary) && levels != 1)
      throw Error(name + ": has one level");
    if (frac < -1000 || frac > 1000) throw Error(name + ": frac must lie in -1000..1000");
    return Kind{value, levels, bits, frac};
  }
  throw Error("an edge of kind '" + name + "' cannot run on integers");
}

void NodeDef::fail(const std::string& what) const { throw Error("node '" + name + "' (" + type + "): " + what); }

int64_t NodeDef::integer(const std::string& key, int64_t otherwise) const {
  auto it = ints.find(key);
  if (it == ints.end()) return otherwise;
  if (it->second.size() != 1) fail("attribute '" + key + "' must be one integer");
  return it->second[0];
}

const Ints& NodeDef::list(const std::string& key) const {
  auto it = ints.find(key);
  if (it == ints.end()) fail("attribute '" + key + "' is missing");
  return it->second;
}

const std::string& NodeDef::text(const std::string& key) const {
  auto it = strs.find(key);
  if (it == strs.end()) fail("attribute '" + key + "' is missing");
  return it->second;
}

const Tensor* NodeDef::tensor(const std::string& key) const {
  auto it = tensors.find(key);
  return it == tensors.end() ? nullptr : &it->second;
}

const Tensor& NodeDef::need(const std::string& key) const {
  if (auto* found = tensor(key)) return *found;
  fail("tensor '" + key + "' is missing");
}

std::vector<int> GraphDef::of_type(const std::string& type) const {
  std::vector<int> found;
  for (size_t i = 0; i < nodes.size(); ++i)
    if (nodes[i].type == type) found.push_back(static_cast<int>(i));
  return found;
}

int64_t GraphDef::steps() const {
  for (auto& node : nodes)
    if (node.steps > 0) return node.steps;
  return 1;
}

namespace {

// Fills the three padded axes of one attribute; `per_axis` values belong to each space axis.
void fill_axes(const NodeDef& node, const char* key, size_t axes, int64_t low, int64_t* target) {
  const Ints& given = node.list(key);
  if (given.size() != axes)
    node.fail(std::string(key) + " needs one value for each of " + std::to_string(axes) + " space axes");
  for (size_t i = 0; i < axes; ++i) {
    if (given[i] < low || given[i] > (1 << 24)) node.fail(std::string(key) + " is out of range");
    target[3 - axes + i] = given[i];
  }
}

void fill_padding(const NodeDef& node, size_t axes, Window& w) {
  const Ints& given = node.list("padding");
  if (given.size() != 2 * axes) node.fail("padding needs (before, after) for each space axis");
  for (size_t i = 0; i < axes; ++i) {
    if (given[2 * i] < 0 || given[2 * i + 1] < 0 || given[2 * i] > (1 << 24) || given[2 * i + 1] > (1 << 24))
      node.fail("padding is out of range");
    w.before[3 - axes + i] = given[2 * i];
    w.after[3 - axes + i] = given[2 * i + 1];
  }
}

Window linear_window(const NodeDef& node, const NodeDef& input) {
  const Tensor& weight = node.need("weight");
  Window w;
  if (weight.shape.size() != 2 || input.shape.empty() || weight.shape[1] != input.shape.back())
    node.fail("weight " + to_string(weight.shape) + " does not fit rows " + to_string(input.shape));
  w.channels_in = weight.shape[1];
  w.channels_out = weight.shape[0];
  Shape expected = input.shape;
  expected.back() = w.channels_out;
  if (expected != node.shape) node.fail("rows must be " + to_string(expected) + ", got " + to_string(node.shape));
  w.in[2] = w.out[2] = product(input.shape) / std::max<int64_t>(1, w.channels_in);
  return w;
}

}  // namespace

Window window_of(const NodeDef& node, const NodeDef& input) {
  if (node.type == "Linear") return linear_window(node, input);
  const size_t axes = input.shape.size() - 1;
  if (input.shape.empty() || axes < 1 || axes > 3)
    node.fail("needs rows [C, 1 to 3 space axes], got " + to_string(input.shape));
  if (node.shape.size() != input.shape.size()) node.fail("changes the number of axes");
  Window w;
  w.channels_in = input.shape[0];
  w.channels_out = node.shape[0];
  for (size_t i = 0; i < axes; ++i) w.in[3 - axes + i] = input.shape[i + 1];
  fill_axes(node, "stride", axes, 1, w.stride);
  fill_padding(node, axes, w);
  if (node.type == "Conv") {
    const Tensor& weight = node.need("weight");
    fill_axes(node, "dilation", axes, 1, w.dilation);
    w.groups = node.integer("groups", 1);
    if (w.groups < 1 || w.channels_in % w.groups || w.channels_out % w.groups)
      node.fail("groups must divide the channels");
    if (weight.shape.size() != axes + 2 || weight.shape[0] != w.channels_out ||
        weight.shape[1] != w.channels_in / w.groups)
      node.fail("weight " + to_string(weight.shape) + " does not fit rows " + to_string(input.shape));
    for (size_t i = 0; i < axes; ++i) w.kernel[3 - axes + i] = weight.shape[i + 2];
  } else {
    fill_axes(node, "kernel", axes, 1, w.kernel);
    if (w.channels_in != w.channels_out) node.fail("a pool keeps its channels");
    for (int i = 0; i < 3; ++i)
      if (w.before[i] >= w.kernel[i] || w.after[i] >= w.kernel[i]) node.fail("padding must be below the kernel");
  }
  for (int i = 0; i < 3; ++i) {
    const int64_t span = w.in[i] + w.before[i] + w.after[i] - w.dilation[i] * (w.kernel[i] - 1) - 1;
    if (span < 0 || w.kernel[i] < 1) node.fail("the window is larger than the padded input");
    w.out[i] = span / w.stride[i] + 1;
    if (i >= 3 - static_cast<int>(axes) && node.shape[i - 3 + axes + 1] != w.out[i])
      node.fail("rows " + to_string(node.shape) + " disagree with the window");
  }
  return w;
}

}  // namespace picojoule
