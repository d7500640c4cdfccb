// Grouped convolutions: cuts the channels of a pixel, runs a layer a slice, joins what they give.

#include "fast_groups.h"

#include <algorithm>

namespace picojoule {
namespace {

constexpr int64_t kMostOutputs = 256;  // of a layer of several groups: a vector of bits
constexpr double kMoved = 1;           // nanoseconds to cut or join the channels of a pixel that one layer has
constexpr double kCalled = 800;        // and of a layer's own call

constexpr int64_t align(int64_t bytes) { return (bytes + 63) / 64 * 64; }
constexpr int64_t words_of(int64_t channels) { return (channels + 63) / 64; }

// Node and input of one layer; constants of the whole node.
void narrow_shapes(NodeDef& node, NodeDef& input, int64_t layers, Shape& weight) {
  const int64_t groups = node.integer("groups", 1);
  weight = node.need("weight").shape;
  weight[0] /= layers, weight[1] *= groups / layers;
  node.shape[0] /= layers, input.shape[0] /= layers;
  node.ints["groups"] = {1};
}

// Elements [first, first + count) of the last axis.
Tensor slice(const Tensor& whole, int64_t first, int64_t count) {
  Tensor part;
  part.dtype = whole.dtype, part.shape = whole.shape;
  part.shape.back() = count;
  const int64_t size = bytes_of(whole.dtype), line = whole.shape.back();
  part.data = TensorBytes(static_cast<size_t>(part.size() * size));
  for (int64_t i = 0; i < part.size() / count; ++i)
    std::memcpy(part.data.own() + i * count * size, whole.data.data() + (i * line + first) * size, static_cast<size_t>(count * size));
  return part;
}

// Weights of layer `l`, zero between the groups that it joins.
Tensor slice_weight(const Tensor& whole, const Shape& shape, int64_t l, int64_t together) {
  Tensor part;
  part.dtype = whole.dtype, part.shape = shape;
  const int64_t size = bytes_of(whole.dtype), outputs = shape[0] / together, row = whole.size() / whole.shape[0] * size;
  part.data = TensorBytes(static_cast<size_t>(part.size() * size));
  std::memset(part.data.own(), 0, part.data.size());
  for (int64_t o = 0; o < shape[0]; ++o)
    std::memcpy(part.data.own() + o * row * together + o / outputs * row, whole.data.data() + (l * shape[0] + o) * row, static_cast<size_t>(row));
  return part;
}

// Bits [first, first + count) of `pixels` pixels, as pixels of their own.
void cut_words(const uint64_t* from, int64_t words, int64_t pixels, int64_t first, int64_t count, uint64_t* to) {
  const int64_t own = words_of(count);
  for (int64_t w = 0; w < own; ++w) {
    const int64_t at = first / 64 + w, shift = first % 64, live = std::min<int64_t>(64, count - w * 64);
    const uint64_t mask = ~uint64_t{0} >> (64 - live);
    const uint64_t* x = from + at;
    uint64_t* y = to + w;
    if (shift + live <= 64)
      for (int64_t p = 0; p < pixels; ++p) y[p * own] = x[p * words] >> shift & mask;
    else
      for (int64_t p = 0; p < pixels; ++p) y[p * own] = (x[p * words] >> shift | x[p * words + 1] << (64 - shift)) & mask;
  }
}

// The other way; the bits are zero before.
void join_words(const uint64_t* from, int64_t words, int64_t pixels, int64_t first, int64_t count, uint64_t* to) {
  const int64_t own = words_of(count);
  for (int64_t w = 0; w < own; ++w) {
    const int64_t at = first / 64 + w, shift = first % 64, live = std::min<int64_t>(64, count - w * 64);
    const uint64_t* x = from + w;
    uint64_t* y = to + at;
    for (int64_t p = 0; p < pixels; ++p) y[p * words] |= x[p * own] << shift;
    if (shift + live > 64)
      for (int64_t p = 0; p < pixels; ++p) y[p * words + 1] |= x[p * own] >> (64 - shift);
  }
}

// Rows [pixels][count] of elements from or to a slice of rows [pixels][channels].
void copy_columns(const std::byte* from, int64_t from_row, std::byte* to, int64_t to_row, int64_t pixels, int64_t bytes) {
  for (int64_t p = 0; p < pixels; ++p) std::memcpy(to + p * to_row, from + p * from_row, static_cast<size_t>(bytes));
}

class GroupsOp : public Op {
 public:
  GroupsOp(const NodeDef& synapse, const NodeDef& input, const NodeDef* neuron, const SynapsePlan& plan, Fused fused, bool stream,
           Layout from, Layout raw, Isa isa)
      : from_(from), raw_(raw), fused_(fused != Fused::none) {
    const Window w = window_of(synapse, input);
    const int64_t layers = w.groups / plan.together;
    in_ = {w.channels_in, w.channels_in / layers, w.in_pixels(), planes_of(input.kind)};
    out_ = {w.channels_out, w.channels_out / layers, w.out_pixels(), fused_ ? planes_of(neuron->kind) : 1};
    NodeDef node = synapse, source = input, after = fused_ ? *neuron : NodeDef();
    Shape shape;
    narrow_shapes(node, source, layers, shape);
    if (fused_) after.shape[0] = out_.own;
    for (int64_t l = 0; l < layers; ++l) {
      node.tensors["weight"] = slice_weight(synapse.need("weight"), shape, l, plan.together);
      cut_channels(synapse, {"bias"}, l, node);
      if (fused_) cut_channels(*neuron, {"decay", "gain", "bias", "reset_value", "v_init", "neg_threshold", "thresholds"}, l, after);
      layers_.push_back(make_fast(node, source, fused_ ? &after : nullptr, plan, fused, stream, from, raw, isa));
      states_.push_back(state_bytes_);
      state_bytes_ += align(layers_.back()->state_bytes());
    }
  }

  int64_t state_bytes() const override { return state_bytes_; }
  int64_t constant_bytes() const override {
    int64_t bytes = 0;
    for (auto& layer : layers_) bytes += layer->constant_bytes();
    return bytes;
  }

  void run(const Call& call) const override {
    const auto layers = static_cast<int64_t>(layers_.size());
    const View &in = call.in[0], &out = call.out;
    const Rows from = rows_of(in_, holds_words(from_), from_ == Layout::dense, in, call.scratch[0]);
    const Rows to = rows_of(out_, fused_, !fused_ && raw_ != Layout::last, out, call.scratch[0]);
    if (from.apart) call.parallel->run(in.row_bytes ? in.rows : 1, [&](int64_t begin, int64_t end, int) { cut(from, in, begin, end); });
    int64_t* switched = call.scratch[0].take<int64_t>(layers);
    std::fill(switched, switched + layers, 0);
    const int workers = call.parallel->workers();
    const bool whole = layers >= workers;  // each by one worker: all meet only once
    const Scratch::Mark mark = call.scratch[0].mark();
    for (int i = 1; i < workers; ++i) call.scratch[i].back_to(mark);
    const auto some = [&](int64_t begin, int64_t end, int worker) {
      const Serial serial;
      for (int64_t l = begin; l < end; ++l) {
        const View slice = from.view(in, l);
        Call own = call;
        own.in = &slice;
        own.out = to.view(out, l);
        own.state = call.state + states_[l];
        own.switched = switched + l;
        own.scratch = call.scratch + worker;
        if (whole) own.parallel = &serial;
        layers_[l]->run(own);
        for (int i = 0; i < own.parallel->workers(); ++i) own.scratch[i].back_to(mark);
      }
    };
    if (whole) call.parallel->run(layers, some);
    else some(0, layers, 0);
    if (whole) share_room(call.scratch, workers, mark);
    if (to.apart) call.parallel->run(out.row_bytes ? out.rows : 1, [&](int64_t begin, int64_t end, int) { join(to, out, begin, end); });
    if (call.switched && std::any_of(switched, switched + layers, [](int64_t n) { return n > 0; })) ++*call.switched;
  }

 private:
  struct Side {
    int64_t channels, own, pixels;  // own: of a layer
    int planes;
  };
  // Where the rows of the layers lie: within those of the node, or apart.
  struct Rows {
    bool words, apart;
    std::byte* data;
    int64_t layer, row;  // bytes of all rows of a layer, and of one
    View view(const View& whole, int64_t l) const {
      View part = whole;
      part.data = data + l * layer;
      part.row_bytes = whole.row_bytes ? row : 0;
      return part;
    }
  };

  // Which workers take part in a call is chance: all get what one needed, or a later call would allocate.
  static void share_room(Scratch* scratch, int workers, Scratch::Mark mark) {
    for (int i = 1; i < workers; ++i) scratch[0].keep_up_with(scratch[i], mark);
    for (int i = 1; i < workers; ++i) scratch[i].keep_up_with(scratch[0], mark);
  }

  static Rows rows_of(const Side& side, bool words, bool within, const View& whole, Scratch& scratch) {
    const int64_t dense = side.own * side.pixels * bytes_of(whole.dtype);
    if (within) return {words, false, whole.data, dense, whole.row_bytes};
    const int64_t row = words ? side.planes * side.pixels * words_of(side.own) * 8 : dense;
    const int64_t layer = align((whole.row_bytes ? whole.rows : 1) * row + 64), layers = side.channels / side.own;
    return {words, true, scratch.take<std::byte>(layers * layer), layer, row};
  }

  void cut_channels(const NodeDef& whole, std::initializer_list<const char*> keys, int64_t l, NodeDef& part) const {
    for (const char* key : keys) {
      const Tensor* tensor = whole.tensor(key);
      if (tensor && tensor->shape.back() == out_.channels) part.tensors[key] = slice(*tensor, l * out_.own, out_.own);
    }
  }

  void cut(const Rows& rows, const View& in, int64_t begin, int64_t end) const {
    const int64_t words = words_of(in_.channels), size = bytes_of(in.dtype);
    for (int64_t t = begin; t < end; ++t)
      for (int64_t l = 0; l < in_.channels / in_.own; ++l) {
        std::byte* to = rows.data + l * rows.layer + t * rows.row;
        if (rows.words)
          for (int q = 0; q < in_.planes; ++q)
            cut_words(in.as<uint64_t>(t) + q * in_.pixels * words, words, in_.pixels, l * in_.own, in_.own,
                      reinterpret_cast<uint64_t*>(to) + q * in_.pixels * words_of(in_.own));
        else copy_columns(in.row(t) + l * in_.own * size, in_.channels * size, to, in_.own * size, in_.pixels, in_.own * size);
      }
  }

  void join(const Rows& rows, const View& out, int64_t begin, int64_t end) const {
    const int64_t words = words_of(out_.channels), size = bytes_of(out.dtype);
    for (int64_t t = begin; t < end; ++t) {
      if (rows.words) std::memset(out.row(t), 0, static_cast<size_t>(out_.planes * out_.pixels * words) * 8);
      for (int64_t l = 0; l < out_.channels / out_.own; ++l) {
        const std::byte* from = rows.data + l * rows.layer + t * rows.row;
        if (rows.words)
          for (int q = 0; q < out_.planes; ++q)
            join_words(reinterpret_cast<const uint64_t*>(from) + q * out_.pixels * words_of(out_.own), words, out_.pixels, l * out_.own,
                       out_.own, out.as<uint64_t>(t) + q * out_.pixels * words);
        else copy_columns(from, out_.own * size, out.row(t) + l * out_.own * size, out_.channels * size, out_.pixels, out_.own * size);
      }
    }
  }

  Layout from_, raw_;
  bool fused_;
  Side in_, out_;
  std::vector<OpPtr> layers_;
  Ints states_;
  int64_t state_bytes_ = 0;
};

}  // namespace

GroupLayer layer_of(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, int64_t together) {
  const int64_t groups = node.integer("groups", 1), layers = groups / together;
  GroupLayer layer{node, input, facts, layers};
  Tensor weight;
  narrow_shapes(layer.node, layer.input, layers, weight.shape);
  layer.node.tensors["weight"] = weight;
  WeightFacts& f = layer.facts;
  f.outputs.resize(facts.outputs.size() / layers, Range{0, 0});
  if (together == 1) return layer;
  f.low = std::min<int64_t>(facts.low, 0), f.high = std::max<int64_t>(facts.high, 0);
  f.signs = f.few_words = false;  // zeros may be one kernel too many
  const double own = 1 / static_cast<double>(together);
  f.density = own * facts.density + (1 - own) * __builtin_popcountll(static_cast<uint64_t>(-f.low));
  return layer;
}

namespace {

// Of a layer of all its steps and pixels, and all of them.
double price_together(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, const FinishFacts& finish, double rate,
                      Synapse kernel, const Arrival& arrival, int64_t together, Isa isa) {
  const GroupLayer layer = layer_of(node, input, facts, together);
  const Window w = window_of(layer.node, layer.input);
  const double pixels = static_cast<double>(w.out_pixels()), entering = static_cast<double>(w.in_pixels()) / pixels;
  const double moved = kMoved * (entering * planes_of(input.kind) * static_cast<double>(words_of(w.channels_in)) +
                                 static_cast<double>(words_of(w.channels_out)));
  const double called = kCalled / (pixels * static_cast<double>(std::max<int64_t>(1, node.steps)));
  return static_cast<double>(layer.count) * (price_of(layer.node, layer.input, layer.facts, finish, rate, kernel, arrival, isa) + moved + called);
}

Synapse other_of(Synapse kernel) {
  return kernel == Synapse::event_bits ? Synapse::static_bits : kernel == Synapse::event_rows ? Synapse::dense_bytes : kernel;
}

}  // namespace

int64_t groups_together(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Synapse kernel, Isa isa) {
  const int64_t groups = node.integer("groups", 1), outputs = node.shape[0] / groups;
  const GroupLayer single = layer_of(node, input, facts, 1);
  const Synapse priced = kernel == Synapse::static_bits ? Synapse::event_bits : kernel == Synapse::dense_rows ? Synapse::dense_bytes : kernel;
  int64_t best = 1;
  double least = 0;
  for (int64_t together = 1; together == 1 || (together <= groups && together * outputs <= kMostOutputs); ++together) {
    if (groups % together) continue;
    const GroupLayer layer = layer_of(node, input, facts, together);
    const auto lost = [&](Synapse some) {
      return refuse(single.node, single.input, single.facts, some).empty() && !refuse(layer.node, layer.input, layer.facts, some).empty();
    };
    if (lost(kernel) || lost(other_of(kernel))) continue;
    const double price = price_together(node, input, facts, {true, true, 1}, kUsualRate, priced, {true, true}, together, isa);
    if (together == 1 || price < least) best = together, least = price;
  }
  return best;
}

double price_of_groups(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, const FinishFacts& finish, double rate,
                       Synapse kernel, const Arrival& arrival, Isa isa) {
  return price_together(node, input, facts, finish, rate, kernel, arrival, groups_together(node, input, facts, kernel, isa), isa);
}

OpPtr make_groups(const NodeDef& synapse, const NodeDef& input, const NodeDef* neuron, const SynapsePlan& plan, Fused fused,
                  bool stream, Layout from, Layout raw, Isa isa) {
  return std::make_unique<GroupsOp>(synapse, input, neuron, plan, fused, stream, from, raw, isa);
}

}  // namespace picojoule
