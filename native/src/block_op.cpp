#include "block_op.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "block.h"
#include "moves.h"
#include "neuron_edges.h"

namespace picojoule {
namespace {

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Where one operand of a member comes from: a row outside, or what an earlier member left.
struct Operand {
  bool outside = false;
  int index = 0;  // of Call::in, or of the member
  int element = 4;
};

// One element-wise node with its constants spread over a block.
class Member {
 public:
  virtual ~Member() = default;
  virtual void run(const BlockSource* in, int64_t n, void* out, int32_t* v, int32_t* room) const = 0;
  virtual int64_t bytes() const = 0;
  virtual const int32_t* start() const { return nullptr; }  // membranes at rest, of members that keep some
};

std::vector<int32_t> spread(const Plane& plane, int64_t channels, int64_t n) {
  std::vector<int32_t> all(n);
  for (int64_t i = 0; i < n; ++i) all[i] = static_cast<int32_t>(plane.at(0, i % channels));
  return all;
}

long double largest(const Ints& values) {
  long double worst = 0;
  for (int64_t v : values) worst = std::max(worst, std::fabs(static_cast<long double>(v)));
  return worst;
}

class AffineMember : public Member {
 public:
  AffineMember(const NodeDef& node, const NodeDef& input, int64_t channels, int64_t n, const BlockTable& table) : table_(table) {
    const Ints gain = node.need("gain").values(), bias = node.need("bias").values();
    job_.shift = static_cast<int>(node.integer("shift", 0));
    job_.wide = !narrow(node, input);
    const int64_t half = node.text("rounding") == "half_up" && job_.shift > 0 ? int64_t{1} << (job_.shift - 1) : 0;
    for (int64_t i = 0; i < n; ++i) {
      gain_.push_back(static_cast<int32_t>(gain[gain.size() == 1 ? 0 : i % channels]));
      bias_.push_back(bias[bias.size() == 1 ? 0 : i % channels] + half);
    }
    if (!job_.wide) {
      bias32_.assign(bias_.begin(), bias_.end());
      bias_.clear();
    }
    job_.gain = gain_.data(), job_.bias = bias_.data(), job_.bias32 = bias32_.data();
  }
  void run(const BlockSource* in, int64_t n, void* out, int32_t*, int32_t*) const override {
    table_.affine(job_, in[0], n, static_cast<int32_t*>(out));
  }
  int64_t bytes() const override { return static_cast<int64_t>(gain_.size() + bias32_.size()) * 4 + static_cast<int64_t>(bias_.size()) * 8; }

  static long double bound(const NodeDef& node, const NodeDef& input) {
    const long double gain = largest(node.need("gain").values());
    return gain * magnitude(input.kind) + gain + largest(node.need("bias").values()) + std::ldexp(1.0L, static_cast<int>(node.integer("shift", 0)));
  }
  static bool narrow(const NodeDef& node, const NodeDef& input) { return node.integer("shift", 0) < 31 && fits32(bound(node, input)); }

 private:
  const BlockTable& table_;
  BlockAffine job_;
  std::vector<int32_t> gain_, bias32_;
  Ints bias_;
};

class AddMember : public Member {
 public:
  AddMember(const NodeDef& node, const BlockTable& table) : table_(table) {
    const Ints &shifts = node.list("shifts"), &signs = node.list("signs");
    for (size_t i = 0; i < shifts.size(); ++i) factors_.push_back(static_cast<int32_t>(signs[i] * (int64_t{1} << shifts[i])));
  }
  void run(const BlockSource* in, int64_t n, void* out, int32_t*, int32_t*) const override {
    int32_t* y = static_cast<int32_t*>(out);
    if (factors_.size() == 1) return table_.add(in[0], factors_[0], in[0], 0, n, y);
    table_.add(in[0], factors_[0], in[1], factors_[1], n, y);
    for (size_t i = 2; i < factors_.size(); ++i) table_.add({y, 4}, 1, in[i], factors_[i], n, y);
  }
  int64_t bytes() const override { return 0; }

 private:
  const BlockTable& table_;
  std::vector<int32_t> factors_;
};

class LevelsMember : public Member {
 public:
  LevelsMember(const NeuronConstants& constants, const Kind& input, int element, int64_t n, const BlockTable& table) : table_(table) {
    const Edges made(constants, input);
    edges_.resize(made.levels() * n * element);
    const auto fill = [&](auto zero) {
      using E = decltype(zero);
      E* to = reinterpret_cast<E*>(edges_.data());
      for (int64_t l = 0; l < made.levels(); ++l)
        for (int64_t i = 0; i < n; ++i) *to++ = made.at<E>(l, i % constants.channels);
    };
    if (element == 1) fill(int8_t{});
    else if (element == 2) fill(int16_t{});
    else fill(int32_t{});
    const auto zero = [](const std::vector<int8_t>& all) { return std::all_of(all.begin(), all.end(), [](int8_t x) { return x == 0; }); };
    job_.levels = static_cast<int>(made.levels());
    job_.edges = edges_.data();
    job_.stride = n;
    if (zero(made.base) && zero(made.mask)) return;
    for (int64_t i = 0; i < n; ++i) base_.push_back(made.base[i % constants.channels]), mask_.push_back(made.mask[i % constants.channels]);
    job_.base = base_.data(), job_.mask = mask_.data();
  }
  void run(const BlockSource* in, int64_t n, void* out, int32_t*, int32_t*) const override { table_.levels(job_, in[0], n, static_cast<int8_t*>(out)); }
  int64_t bytes() const override { return static_cast<int64_t>(edges_.size() + base_.size() + mask_.size()); }

 private:
  const BlockTable& table_;
  std::vector<std::byte> edges_;
  std::vector<int8_t> base_, mask_;
  BlockLevels job_;
};

class StepMember : public Member {
 public:
  StepMember(const NeuronConstants& c, int64_t n, const BlockTable& table) : table_(table) {
    const Plane* planes[] = {&c.decay, &c.gain, &c.bias, &c.reset_value, &c.neg, &c.v_init};
    for (size_t i = 0; i < 6; ++i) constants_[i] = spread(*planes[i], c.channels, n);
    for (auto& level : c.thresholds) {
      const auto one = spread(level, c.channels, n);
      thresholds_.insert(thresholds_.end(), one.begin(), one.end());
    }
    job_.decay = constants_[0].data(), job_.gain = constants_[1].data(), job_.bias = constants_[2].data();
    job_.reset_value = constants_[3].data(), job_.neg = constants_[4].data(), job_.thresholds = thresholds_.data();
    job_.stride = n;
    job_.levels = static_cast<int>(c.thresholds.size());
    job_.shift = c.decay_shift;
    job_.half = c.half_up && c.decay_shift > 0 ? 1 << (c.decay_shift - 1) : 0;
    job_.reset = static_cast<int>(c.reset);
    job_.ternary = c.ternary;
    job_.split = c.split;
    const bool slow = same(constants_[0]) && same(constants_[1]) && same(constants_[3]);
    job_.uniform = !slow ? 0 : same(constants_[2]) && same(thresholds_) ? 2 : 1;
  }
  void run(const BlockSource* in, int64_t n, void* out, int32_t* v, int32_t* room) const override {
    table_.step(job_, in[0], n, v, room, static_cast<int8_t*>(out));
  }
  int64_t bytes() const override { return static_cast<int64_t>(constants_[0].size() * 6 + thresholds_.size()) * 4; }
  const int32_t* start() const override { return constants_[5].data(); }

 private:
  static bool same(const std::vector<int32_t>& all) { return std::all_of(all.begin(), all.end(), [&](int32_t x) { return x == all[0]; }); }

  const BlockTable& table_;
  std::vector<int32_t> constants_[6], thresholds_;
  BlockStep job_;
};

// The constants of a neuron as blocks use them, or why they cannot.
std::string settle(NeuronConstants& n, const Kind& input, bool stream, bool& forgets) {
  if (!n.timeless()) return "its constants change with time";
  forgets = n.forgets(stream);
  if (forgets) return n.thresholds.size() < 120 ? "" : "it has too many levels";
  const std::vector<Range> x{{input.low(), input.high()}};
  n.settle(x, stream);
  if (n.table) return "it has a membrane table";
  if (n.decay_shift > 30 || !n.fit31(x, stream ? n.kForever : n.steps)) return "its membrane passes 31 bits";
  return "";
}

bool small(const Kind& kind) { return kind.storage() != Dtype::i64; }

class BlockOp : public Op {
 public:
  BlockOp(const GraphDef& graph, const BlockPlan& plan, bool stream, Isa isa) : table_(block_table(isa)), form_(plan.form) {
    per_block_ = std::max<int64_t>(1, kBlock / form_.channels);
    const int64_t n = per_block_ * form_.channels;
    slot_bytes_ = round_up(n * 4 + kBlockSlack, 64);
    for (size_t m = 0; m < plan.members.size(); ++m) add(graph, plan, m, n, stream);
    for (size_t k = 0; k < plan.outputs.size(); ++k) {
      const auto& wanted = plan.outputs[k];
      const size_t m = std::find(plan.members.begin(), plan.members.end(), wanted.node) - plan.members.begin();
      Store store{static_cast<int>(k), wanted.layout, {}};
      const bool words = wanted.layout == Layout::packed_first || wanted.layout == Layout::packed_last;
      if (words) store.packed = packed_of(graph.nodes[wanted.node], wanted.layout);
      store.words = words;
      parts_[m].stores.push_back(store);
    }
  }

  int64_t constant_bytes() const override {
    int64_t bytes = 0;
    for (auto& part : parts_) bytes += part.member->bytes();
    return bytes;
  }
  int64_t state_bytes() const override { return membranes_ * form_.pixels * form_.channels * 4; }

  void run(const Call& call) const override {
    const int workers = call.parallel->workers();
    std::byte** work = call.scratch[0].take<std::byte*>(workers);
    // A slot a member, a membrane a neuron, room for counts; where operands lie.
    const int64_t places = static_cast<int64_t>(parts_.size() + operands_) * static_cast<int64_t>(sizeof(Place));
    const int64_t bytes = (static_cast<int64_t>(parts_.size()) + membranes_ + 1) * slot_bytes_ + places;
    for (int i = 0; i < workers; ++i) work[i] = call.scratch[i].take<std::byte>(bytes);
    const int64_t blocks = (form_.pixels + per_block_ - 1) / per_block_;
    call.parallel->run(blocks, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t b = begin; b < end; ++b) block(call, b * per_block_, std::min(form_.pixels, (b + 1) * per_block_), work[worker]);
    });
  }

 private:
  struct Store {
    int output;
    Layout layout;
    Packed packed;
    bool words = false;
  };
  struct Part {
    std::unique_ptr<Member> member;
    std::vector<Operand> in;
    std::vector<Store> stores;
    int element = 4;    // of its slot: 1 for spikes
    int membrane = -1;  // place of its membrane
  };
  // Elements of a block at step t: data + t step.
  struct Place {
    std::byte* data;
    int64_t step;
    std::byte* at(int64_t t) const { return data + t * step; }
  };
  static constexpr int kMostInputs = 64;

  void add(const GraphDef& graph, const BlockPlan& plan, size_t m, int64_t n, bool stream) {
    const NodeDef& node = graph.nodes[plan.members[m]];
    Part part;
    for (int from : node.inputs) {
      const auto inside = std::find(plan.members.begin(), plan.members.begin() + m, from);
      if (inside != plan.members.begin() + m) {
        const int index = static_cast<int>(inside - plan.members.begin());
        part.in.push_back({false, index, parts_[index].element});
      } else {
        const int index = static_cast<int>(std::find(plan.inputs.begin(), plan.inputs.end(), from) - plan.inputs.begin());
        part.in.push_back({true, index, static_cast<int>(bytes_of(graph.nodes[from].kind.storage()))});
      }
    }
    const NodeDef& input = graph.nodes[node.inputs[0]];
    if (node.type == "Affine") {
      part.member = std::make_unique<AffineMember>(node, input, form_.channels, n, table_);
    } else if (node.type == "Add") {
      part.member = std::make_unique<AddMember>(node, table_);
    } else {
      part.element = 1;
      NeuronConstants constants(node);
      bool forgets = false;
      settle(constants, input.kind, stream, forgets);
      if (forgets) {
        part.member = std::make_unique<LevelsMember>(constants, input.kind, part.in[0].element, n, table_);
      } else {
        part.member = std::make_unique<StepMember>(constants, n, table_);
        part.membrane = static_cast<int>(membranes_++);
      }
    }
    operands_ += part.in.size();
    parts_.push_back(std::move(part));
  }

  void block(const Call& call, int64_t begin, int64_t end, std::byte* work) const {
    const int64_t first = begin * form_.channels, n = (end - begin) * form_.channels, parts = static_cast<int64_t>(parts_.size());
    const auto membrane = [&](const Part& part) { return reinterpret_cast<int32_t*>(work + (parts + part.membrane) * slot_bytes_); };
    int32_t* room = reinterpret_cast<int32_t*>(work + (parts + membranes_) * slot_bytes_);
    Place* to = reinterpret_cast<Place*>(work + (parts + membranes_ + 1) * slot_bytes_);
    const Place* from = to + parts;
    find_places(call, first, work, to);
    const auto kept = [&](const Part& part) {
      return reinterpret_cast<int32_t*>(call.state) + part.membrane * form_.pixels * form_.channels + first;
    };
    for (auto& part : parts_)
      if (part.membrane >= 0) std::memcpy(membrane(part), call.first ? kept(part) : part.member->start(), static_cast<size_t>(n) * 4);
    for (int64_t t = 0; t < call.out.rows; ++t)
      for (int64_t m = 0, operand = 0; m < parts; ++m) {
        const Part& part = parts_[m];
        BlockSource in[kMostInputs];
        for (size_t i = 0; i < part.in.size(); ++i) in[i] = {from[operand++].at(t), part.in[i].element};
        part.member->run(in, n, to[m].at(t), part.membrane >= 0 ? membrane(part) : nullptr, room);
        for (auto& store : part.stores) put(call, part, store, t, begin, end, to[m].at(t));
      }
    if (!call.keep) return;
    for (auto& part : parts_)
      if (part.membrane >= 0) std::memcpy(kept(part), membrane(part), static_cast<size_t>(n) * 4);
  }

  static const View& output(const Call& call, int index) { return index == 0 ? call.out : call.more[index - 1]; }

  // Sums that leave as 32 bits are made where they leave to.
  void find_places(const Call& call, int64_t first, std::byte* work, Place* to) const {
    Place* from = to + parts_.size();
    for (size_t m = 0; m < parts_.size(); ++m) {
      to[m] = {work + static_cast<int64_t>(m) * slot_bytes_, 0};
      for (auto& operand : parts_[m].in) {
        const View* view = operand.outside ? &call.in[operand.index] : nullptr;
        *from++ = view ? Place{view->data + first * operand.element, view->row_bytes} : to[operand.index];
      }
      if (parts_[m].element != 4) continue;
      for (auto& store : parts_[m].stores) {
        const View& out = output(call, store.output);
        if (out.dtype == Dtype::i32) to[m] = {out.data + first * 4, out.row_bytes};
      }
    }
  }
  void put(const Call& call, const Part& part, const Store& store, int64_t t, int64_t begin, int64_t end, void* from) const {
    const View& out = output(call, store.output);
    const int64_t C = form_.channels, n = (end - begin) * C;
    if (store.words) {
      const Packed& p = store.packed;
      return table_.words(static_cast<int8_t*>(from), end - begin, C, p.planes, p.ternary, p.pixels * p.words, out.as<uint64_t>(t) + begin * p.words);
    }
    const int64_t element = bytes_of(out.dtype);
    std::byte* to = out.row(t) + begin * C * element;
    if (to == from) return;
    if (part.element == 1) std::memcpy(to, from, static_cast<size_t>(n));
    else table_.narrow(static_cast<int32_t*>(from), n, static_cast<int>(element), to);
  }

  const BlockTable& table_;
  BlockForm form_;
  int64_t per_block_, slot_bytes_ = 0, membranes_ = 0;
  std::vector<Part> parts_;
  size_t operands_ = 0;
};

}  // namespace

BlockForm block_form(const NodeDef& node) {
  if (node.type == "Add") return {};
  const int64_t axis = channel_axis(node, node.shape);
  int64_t outer = 1, inner = 1;
  for (int64_t i = 0; i < axis; ++i) outer *= node.shape[i];
  for (size_t i = axis + 1; i < node.shape.size(); ++i) inner *= node.shape[i];
  const int64_t channels = node.shape[axis];
  if (inner == 1) return {Layout::dense, channels, outer};
  if (axis == 0) return {canonical(node, Layout::last), channels, inner};
  return {};
}

std::string refuse_block(const NodeDef& node, const Defs& inputs, bool stream) {
  if (node.type != "Affine" && node.type != "Add" && node.type != "Neuron") return "it is not element-wise";
  if (node.size() == 0) return "it is empty";
  if (inputs.size() > 64) return "it has more than 64 inputs";
  if (!small(node.kind)) return "its values pass 32 bits";
  for (auto* input : inputs) {
    if (!small(input->kind)) return "its inputs pass 32 bits";
    if (input->shape != node.shape) return "its inputs are spread over it";
  }
  if (node.type == "Add") {
    const Ints& shifts = node.list("shifts");
    return std::all_of(shifts.begin(), shifts.end(), [](int64_t s) { return s <= 30; }) ? "" : "its shifts pass 30";
  }
  const BlockForm form = block_form(node);
  if (form.channels == 0) return "its channels are neither the first nor the last axis";
  if (form.channels > (int64_t{1} << 16)) return "it has more than 65536 channels";
  if (node.type == "Affine") {
    if (AffineMember::narrow(node, *inputs[0])) return "";
    const bool fits = node.integer("shift", 0) <= 32 && fits32(largest(node.need("gain").values())) &&
                      AffineMember::bound(node, *inputs[0]) < std::ldexp(1.0L, 62);
    return fits ? "" : "its products pass 62 bits";
  }
  if (node.kind.storage() != Dtype::i8) return "its spikes pass 8 bits";
  NeuronConstants constants(node);
  bool forgets = false;
  return settle(constants, inputs[0]->kind, stream, forgets);
}

OpPtr make_block(const GraphDef& graph, const BlockPlan& plan, bool stream, Isa isa) {
  return std::make_unique<BlockOp>(graph, plan, stream, isa);
}

}  // namespace picojoule
