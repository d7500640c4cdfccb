// Intervals of every node, followed through a graph in order.

#include <algorithm>
#include <set>

#include "file_bounds.h"

namespace picojoule::file {
namespace {

// Sums of the positive and of the negative weights: [C_out, inputs], or [C_out, 1] for all inputs.
struct Signed {
  int64_t outputs, inputs;
  Ints positive, negative;

  static Wide peak(const Ints& values) {
    Wide most = 0;
    for (int64_t v : values) most = std::max({most, Wide{v}, -Wide{v}});
    return most;
  }
};

Signed signed_weight(const Node& node, bool by_input) {
  const Tensor& weight = node.find("weight")->tensor;
  const int64_t outputs = weight.shape[0], inputs = by_input ? weight.shape[1] : 1;
  Signed made{outputs, inputs, Ints(static_cast<size_t>(outputs * inputs), 0), Ints(static_cast<size_t>(outputs * inputs), 0)};
  const int64_t each = weight.size() / (outputs * inputs);
  Ints plus_of, minus_of;  // of a code word
  if (node.coding.has_codebook) {
    const Tensor& book = node.find("coding.codebook")->tensor;
    const Ints words = book.values();
    for (int64_t k = 0; k < book.shape[0]; ++k) {
      int64_t up = 0, down = 0;
      for (int64_t i = k * book.shape[1]; i < (k + 1) * book.shape[1]; ++i) (words[i] > 0 ? up : down) += words[i];
      plus_of.push_back(up);
      minus_of.push_back(down);
    }
  }
  for (int64_t i = 0; i < weight.size(); ++i) {
    const int64_t value = weight.at(i), to = i / each;
    made.positive[to] += node.coding.has_codebook ? plus_of[value] : std::max<int64_t>(value, 0);
    made.negative[to] += node.coding.has_codebook ? minus_of[value] : std::min<int64_t>(value, 0);
  }
  return made;
}

Interval synapse(const Node& node, const Interval& row, size_t axis, int64_t groups, bool padded) {
  Interval x = along(row, axis);
  if (padded) x = with_zero(x);
  const bool by_input = x.low.values.size() > 1 && !node.coding.has_codebook;
  if (!by_input) x = {Array::filled(1, x.least()), Array::filled(1, x.most())};
  const Signed w = signed_weight(node, by_input);
  need_room({Signed::peak(w.positive) + Signed::peak(w.negative), std::max(x.low.peak(), x.high.peak()), Wide{w.inputs}});
  const int64_t share = w.outputs / groups;
  Array low{{w.outputs}, Ints(static_cast<size_t>(w.outputs), 0)}, high = low;
  for (int64_t o = 0; o < w.outputs; ++o) {
    const int64_t first = by_input ? o / share * w.inputs : 0;
    for (int64_t i = 0; i < w.inputs; ++i) {
      const int64_t up = w.positive[o * w.inputs + i], down = w.negative[o * w.inputs + i];
      const int64_t least = x.low.values[first + i], most = x.high.values[first + i];
      low.values[o] += up * least + down * most;
      high.values[o] += up * most + down * least;
    }
  }
  if (const Constant* bias = node.find("bias")) {
    low = sum_of(low, array_of(*bias));
    high = sum_of(high, array_of(*bias));
  }
  return {spread(low, axis, node.shape.size()), spread(high, axis, node.shape.size())};
}

Interval add(const Node& node, const std::vector<const Interval*>& xs) {
  const size_t rank = node.shape.size();
  const Ints &signs = node.list("signs"), &shifts = node.list("shifts");
  Interval total = span(0, 0, rank);
  for (size_t i = 0; i < xs.size(); ++i) {
    const int64_t gain = (signs.empty() ? 1 : signs[i]) * (int64_t{1} << (shifts.empty() ? 0 : shifts[i]));
    const Interval part = scale(lift(*xs[i], rank), gain);
    total = {sum_of(total.low, part.low), sum_of(total.high, part.high)};
  }
  return total;
}

Interval mul(const Node& node, const std::vector<const Interval*>& xs) {
  const Interval a = lift(*xs[0], node.shape.size()), b = lift(*xs[1], node.shape.size());
  const Array c0 = product_of(a.low, b.low), c1 = product_of(a.low, b.high), c2 = product_of(a.high, b.low), c3 = product_of(a.high, b.high);
  return {smaller(smaller(c0, c1), smaller(c2, c3)), larger(larger(c0, c1), larger(c2, c3))};
}

Interval matmul(const Node& node, const std::vector<const Interval*>& xs, int64_t depth) {
  Wide low = 0, high = 0;
  bool first = true;
  for (int64_t p : {xs[0]->least(), xs[0]->most()})
    for (int64_t q : {xs[1]->least(), xs[1]->most()}) {
      const Wide v = Wide{p} * q;
      low = first ? v : std::min(low, v);
      high = first ? v : std::max(high, v);
      first = false;
    }
  need_room({std::max(low < 0 ? -low : low, high < 0 ? -high : high), Wide{depth}});
  return span(static_cast<int64_t>(low) * depth, static_cast<int64_t>(high) * depth, node.shape.size());
}

Interval affine(const Node& node, const Interval& row) {
  const size_t rank = node.shape.size(), axis = axis_of(node, node.number("axis"), rank);
  const Array bias = spread(array_of(*node.find("bias")), axis, rank);
  const Interval x = scale(row, spread(array_of(*node.find("gain")), axis, rank));
  const bool half_up = node.word("rounding") == "half_up";
  return {shifted(sum_of(x.low, bias), node.number("shift"), half_up), shifted(sum_of(x.high, bias), node.number("shift"), half_up)};
}

Interval pool(const Node& node, const Interval& row) {
  Interval x = reduce(row, [](size_t i) { return i > 0; });
  if (node.word("mode") != "sum") return x;
  const Ints& padding = node.list("padding");
  if (std::any_of(padding.begin(), padding.end(), [](int64_t p) { return p != 0; })) x = with_zero(x);
  const int64_t count = count_of(node.list("kernel"));
  if (count >= kMany) throw TooWide{};
  const Array gain = Array::filled(x.low.shape.size(), count);
  return {product_of(x.low, gain), product_of(x.high, gain)};
}

Array total(const Array& x, size_t axis, int64_t count) {
  need_room({x.peak(), Wide{count}});
  Array out = x;
  if (x.shape[axis] == 1) {
    for (auto& v : out.values) v *= count;
    return out;
  }
  int64_t inner = 1;
  for (size_t i = axis + 1; i < x.shape.size(); ++i) inner *= x.shape[i];
  out.shape[axis] = 1;
  out.values.assign(static_cast<size_t>(product(out.shape)), 0);
  const int64_t extent = x.shape[axis];
  for (int64_t i = 0; i < static_cast<int64_t>(x.values.size()); ++i) out.values[i / (inner * extent) * inner + i % inner] += x.values[i];
  return out;
}

Interval mean(const Node& node, const Interval& row, const Shape& shape) {
  Interval x = row;
  std::set<size_t> gone;
  for (int64_t named : node.list("axes")) {
    const size_t axis = axis_of(node, named, shape.size(), "axes");
    gone.insert(axis);
    x = {total(x.low, axis, shape[axis]), total(x.high, axis, shape[axis])};
  }
  if (!node.number("keepdim"))
    for (Array* a : {&x.low, &x.high}) {
      Shape kept;
      for (size_t i = 0; i < a->shape.size(); ++i)
        if (!gone.contains(i)) kept.push_back(a->shape[i]);
      a->shape = kept;
    }
  return x;
}

constexpr int64_t kFull = 1 << 16;  // axes up to this extent may keep separate bounds

Interval concat(const Node& node, const std::vector<const Interval*>& xs, const std::vector<const Node*>& in) {
  const size_t rank = node.shape.size(), axis = axis_of(node, node.number("axis"), rank);
  const Ints& shifts = node.list("shifts");
  std::vector<Interval> ends;
  int64_t extent = 0;
  for (size_t i = 0; i < xs.size(); ++i) {
    ends.push_back(along(scale(*xs[i], int64_t{1} << (shifts.empty() ? 0 : shifts[i])), axis));
    extent += in[i]->shape[axis];
  }
  if (extent > kFull) {
    int64_t low = ends[0].least(), high = ends[0].most();
    for (auto& e : ends) low = std::min(low, e.least()), high = std::max(high, e.most());
    return span(low, high, rank);
  }
  Interval all;
  for (size_t i = 0; i < ends.size(); ++i)
    for (auto [to, from] : {std::pair(&all.low, &ends[i].low), std::pair(&all.high, &ends[i].high)})
      for (int64_t c = 0; c < in[i]->shape[axis]; ++c) to->values.push_back(from->values[from->values.size() == 1 ? 0 : c]);
  return {spread(all.low, axis, rank), spread(all.high, axis, rank)};
}

Array permuted(const Array& x, const std::vector<size_t>& order) {
  const size_t rank = x.shape.size();
  Shape strides(rank, 1), step;
  for (size_t i = rank; i-- > 1;) strides[i - 1] = strides[i] * x.shape[i];
  Array out;
  for (size_t axis : order) {
    out.shape.push_back(x.shape[axis]);
    step.push_back(strides[axis]);
  }
  out.values.resize(x.values.size());
  Shape position(rank, 0);
  for (auto& v : out.values) {
    int64_t at = 0;
    for (size_t i = 0; i < rank; ++i) at += position[i] * step[i];
    v = x.values[at];
    for (size_t i = rank; i-- > 0;) {
      if (++position[i] < out.shape[i]) break;
      position[i] = 0;
    }
  }
  return out;
}

Array picked(const Array& x, size_t axis, int64_t start, int64_t count, int64_t step) {
  int64_t inner = 1, outer = 1;
  for (size_t i = 0; i < axis; ++i) outer *= x.shape[i];
  for (size_t i = axis + 1; i < x.shape.size(); ++i) inner *= x.shape[i];
  Array out;
  out.shape = x.shape;
  out.shape[axis] = count;
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t k = 0; k < count; ++k) {
      const auto from = x.values.begin() + (o * x.shape[axis] + start + k * step) * inner;
      out.values.insert(out.values.end(), from, from + inner);
    }
  return out;
}

// Bounds after one move: exact where channels keep their place, else one interval for the row.
Interval move_of(const Node& node, const Interval& x, const Shape& after, const Move& move) {
  const size_t rank = after.size();
  const Ints& first = move.arguments[0].values;
  if (move.name == "permute") {
    std::vector<size_t> order;
    for (int64_t axis : first) order.push_back(axis_of(node, axis, rank));
    return {permuted(x.low, order), permuted(x.high, order)};
  }
  if (move.name == "expand") return lift(x, rank);
  if (move.name == "slice" || move.name == "flip" || move.name == "roll") {
    const size_t axis = axis_of(node, first[0], rank);
    if (x.low.shape[axis] == 1) return x;
    if (move.name == "slice") {
      const int64_t start = move.arguments[1].values[0], step = move.arguments[3].values[0];
      return {picked(x.low, axis, start, after[axis], step), picked(x.high, axis, start, after[axis], step)};
    }
  }
  if (move.name == "pad") {
    std::set<size_t> kept;
    for (size_t i = 0; i < first.size(); ++i)
      if (first[i]) kept.insert(i / 2);
    return kept.empty() ? x : with_zero(reduce(x, [&](size_t i) { return kept.contains(i); }));
  }
  return span(x.least(), x.most(), rank);
}

Interval timemix(const Node& node, const Interval& row) {
  const size_t rank = node.shape.size(), axis = axis_of(node, node.number("axis"), rank);
  const Interval x = along(row, axis);
  const Tensor& t = node.find("matrix")->tensor;
  const Ints m = t.values();
  const int64_t T = t.shape.back(), matrices = static_cast<int64_t>(m.size()) / (T * T);
  need_room({Signed::peak(m) + 1, Wide{T}, std::max(x.low.peak(), x.high.peak())});
  Array up{{matrices, T}, Ints(static_cast<size_t>(matrices * T), 0)}, down = up;
  for (size_t i = 0; i < m.size(); ++i) (m[i] > 0 ? up : down).values[i / static_cast<size_t>(T)] += m[i];
  const auto column = [](Array a) {
    a.shape.push_back(1);
    return a;
  };
  const Array low = column(x.low), high = column(x.high);
  const auto raw = [](const Array& a, const Array& b) { return combine(a, b, [](int64_t p, int64_t q) { return p * q; }); };
  const auto both = [](const Array& a, const Array& b) { return combine(a, b, [](int64_t p, int64_t q) { return p + q; }); };
  Array least = both(raw(up, low), raw(down, high)), most = both(raw(up, high), raw(down, low));
  if (const Constant* bias = node.find("bias")) {
    const Array turned = permuted(array_of(*bias), {1, 0});
    least = sum_of(least, turned);
    most = sum_of(most, turned);
  }
  const Interval ends = reduce({least, most}, [](size_t i) { return i == 1; });
  const auto flat = [](Array a) {
    a.shape.pop_back();
    return a;
  };
  return {spread(flat(ends.low), axis, rank), spread(flat(ends.high), axis, rank)};
}

using Ends = std::map<std::string, std::pair<int64_t, int64_t>>;

// Follows the intervals of a graph; `given` replaces those of inputs (scan bodies).
class Analysis {
 public:
  Analysis(const Graph& graph, const std::map<std::string, Interval>& given) : graph_(graph), given_(given) {
    std::vector<int> readers(graph.nodes.size(), 0);
    for (auto& node : graph.nodes)
      for (size_t from : node.from) ++readers[from];
    found_.resize(graph.nodes.size());
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const Node& node = graph.nodes[i];
      try {
        found_[i] = bound(node);
      } catch (const TooWide&) {
        node.fail("inputs", "its integers may pass 62 bits; use a coarser grid or smaller constants");
      }
      const int64_t low = found_[i].least(), high = found_[i].most();
      ends[node.name] = {low, high};
      if (low < node.kind.low() || high > node.kind.high())
        node.fail("kind", "holds " + std::to_string(node.kind.low()) + ".." + std::to_string(node.kind.high()) + ", but the integers reach " +
                              std::to_string(low) + ".." + std::to_string(high));
      for (size_t from : node.from)
        if (--readers[from] == 0) found_[from] = {};
    }
  }

  Ends ends;

 private:
  Interval bound(const Node& node) {
    std::vector<const Interval*> xs;
    std::vector<const Node*> in;
    for (size_t from : node.from) {
      xs.push_back(&found_[from]);
      in.push_back(&graph_.nodes[from]);
    }
    const size_t rank = node.shape.size();
    const std::string& type = node.type;
    if (type == "Input") return input(node);
    if (type == "Neuron") return spikes(node, *xs[0]);
    if (type == "Scan") return scan(node, *xs[0]);
    if (type == "Conv") {
      const Ints& padding = node.list("padding");
      return synapse(node, *xs[0], 0, node.number("groups"), std::any_of(padding.begin(), padding.end(), [](int64_t p) { return p != 0; }));
    }
    if (type == "Linear") return synapse(node, *xs[0], rank - 1, 1, false);
    if (type == "Add") return add(node, xs);
    if (type == "Mul") return mul(node, xs);
    if (type == "Logic") return span(0, 1, rank);
    if (type == "MatMul") return matmul(node, xs, in[0]->shape.back());
    if (type == "Affine") return affine(node, *xs[0]);
    if (type == "Lut") {
      const auto [low, high] = staircase(node, xs[0]->least(), xs[0]->most());
      return span(low, high, rank);
    }
    if (type == "Pool") return pool(node, *xs[0]);
    if (type == "Mean") return mean(node, *xs[0], in[0]->shape);
    if (type == "Concat") return concat(node, xs, in);
    if (type == "Upsample") return reduce(*xs[0], [](size_t i) { return i > 0; });
    if (type == "Readout") return node.word("mode") == "sum" ? scale(*xs[0], in[0]->steps) : *xs[0];
    if (type == "TimeMix") return timemix(node, *xs[0]);
    if (type == "Reshape") {
      Interval x = *xs[0];
      Shape row = in[0]->shape;
      for (auto& move : node.moves) {
        row = moved(node, row, move);
        x = move_of(node, x, row, move);
      }
      return x;
    }
    return *xs[0];  // Output, Repeat
  }

  Interval input(const Node& node) const {
    const auto found = given_.find(node.name);
    if (found != given_.end()) return found->second;
    const size_t rank = node.shape.size();
    if (!node.find("table")) return span(node.kind.low(), node.kind.high(), rank);
    const size_t axis = axis_of(node, node.number("axis"), rank);
    const Interval rows = along({array_of(*node.find("table")), array_of(*node.find("table"))}, 0);
    return {spread(rows.low, axis, rank), spread(rows.high, axis, rank)};
  }

  Interval spikes(const Node& node, const Interval& x) const {
    Membrane m = membrane(node, x);
    const int64_t bits = node.number("v_bits");
    if (bits && std::max(-m.low - 1, m.high) >= int64_t{1} << (bits - 1))
      node.fail("v_bits", std::to_string(bits) + " bits cannot hold membranes of " + std::to_string(m.low) + ".." + std::to_string(m.high));
    return std::move(m.spikes);
  }

  // Follows the states of a recurrent cell until they settle, else uses their declared kinds.
  Interval scan(const Node& node, const Interval& x) const {
    constexpr int64_t kScanSteps = 64;
    std::map<std::string, const Node*> states;
    std::map<std::string, std::string> exits;
    Ends reach;
    for (auto* n : node.body->of_type("Input"))
      if (n->name != "x") states[n->name] = n, reach[n->name] = {0, 0};
    for (auto* n : node.body->of_type("Output")) exits[n->word("key")] = n->name;
    const auto hull = [](std::pair<int64_t, int64_t> a, std::pair<int64_t, int64_t> b) {
      return std::pair(std::min(a.first, b.first), std::max(a.second, b.second));
    };
    std::pair<int64_t, int64_t> y;
    for (int64_t step = 0; step < node.steps; ++step) {
      const Ends settled = reach;
      Ends declared;
      for (auto& [name, n] : states) declared[name] = {n->kind.low(), n->kind.high()};
      if (step == kScanSteps) reach = declared;
      std::map<std::string, Interval> inner{{"x", x}};
      for (auto& [name, n] : states) inner[name] = span(reach[name].first, reach[name].second, n->shape.size());
      const Ends after = Analysis(*node.body, inner).ends;
      y = step == 0 ? after.at(exits["y"]) : hull(y, after.at(exits["y"]));
      for (auto& [name, n] : states) reach[name] = hull(reach[name], after.at(exits[name]));
      if (step == kScanSteps && reach != declared) node.fail("body", "a state may leave its declared kind");
      if (reach == settled || step == kScanSteps) break;
    }
    return span(y.first, y.second, node.shape.size());
  }

  const Graph& graph_;
  const std::map<std::string, Interval>& given_;
  std::vector<Interval> found_;
};

}  // namespace

std::pair<int64_t, int64_t> staircase(const Node& node, int64_t low, int64_t high) {
  const Ints breaks = node.find("breaks")->tensor.values(), values = node.find("values")->tensor.values();
  const auto first = std::upper_bound(breaks.begin(), breaks.end(), low) - breaks.begin();
  const auto last = std::upper_bound(breaks.begin(), breaks.end(), high) - breaks.begin();
  if (first > last) throw TooWide{};
  const auto [least, most] = std::minmax_element(values.begin() + first, values.begin() + last + 1);
  return {*least, *most};
}

void check_bounds(const Graph& graph) { Analysis(graph, {}); }

}  // namespace picojoule::file
