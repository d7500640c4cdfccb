#pragma once
// The snapped graph as the engine receives it, node by node; `add` checks every node before it is kept.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "picojoule/tensor.h"

namespace picojoule {

struct GraphDef;

struct NodeDef {
  std::string type, name;
  std::vector<int> inputs;  // indices of earlier nodes
  Kind kind;
  Shape shape;              // of one row
  int64_t steps = 0;        // 0: one row a sample
  std::map<std::string, Ints> ints;
  std::map<std::string, std::string> strs;
  std::map<std::string, Tensor> tensors;
  std::shared_ptr<GraphDef> body;  // Scan

  int64_t size() const { return product(shape); }
  int64_t integer(const std::string& key, int64_t otherwise) const;
  const Ints& list(const std::string& key) const;
  const std::string& text(const std::string& key) const;
  const Tensor* tensor(const std::string& key) const;
  const Tensor& need(const std::string& key) const;
  [[noreturn]] void fail(const std::string& what) const;
};

struct GraphDef {
  std::vector<NodeDef> nodes;

  int add(NodeDef node);  // returns its index; throws Error naming the node
  std::vector<int> of_type(const std::string& type) const;
  // T of the graph: the steps shared by all its timed edges, 1 when there are none.
  int64_t steps() const;
};

// One axis list of a convolution or pooling window, padded with leading ones to three space axes.
struct Window {
  int64_t channels_in = 0, channels_out = 0, groups = 1;
  int64_t in[3] = {1, 1, 1}, out[3] = {1, 1, 1}, kernel[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1}, before[3] = {0, 0, 0}, after[3] = {0, 0, 0}, dilation[3] = {1, 1, 1};

  int64_t in_pixels() const { return in[0] * in[1] * in[2]; }
  int64_t out_pixels() const { return out[0] * out[1] * out[2]; }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// Geometry of a Conv, Linear (one tap, a pixel a token) or Pool node; throws when it is inconsistent.
Window window_of(const NodeDef& node, const NodeDef& input);

}  // namespace picojoule
