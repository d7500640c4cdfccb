#include "file_read.h"

#include <algorithm>
#include <set>

#include "file_graph.h"

namespace picojoule::file {
namespace {

// Calls f(graph) for a graph and the bodies of its Scan nodes.
template <class F>
void each_scope(const Graph& graph, F&& f) {
  f(graph);
  for (auto& node : graph.nodes)
    if (node.body) each_scope(*node.body, f);
}

// Rows and codebooks that would need memory out of proportion to the file.
void limit(const Graph& graph, int64_t size) {
  int64_t rows = 0, words = 0;
  each_scope(graph, [&](const Graph& scope) {
    for (auto& node : scope.nodes) {
      int64_t count = 1;
      for (int64_t extent : node.shape) count = times(count, std::max<int64_t>(1, extent));
      rows = plus(rows, times(count, std::max<int64_t>(1, node.steps)));
      const Constant* book = node.find("coding.codebook");
      if (!book) continue;
      const Shape& s = book->tensor.shape;
      const int64_t indices = node.find("weight")->tensor.size(), first = s.empty() ? 1 : std::max<int64_t>(1, s[0]);
      words = plus(words, times(times(indices, book->tensor.size()) / first, book->real() ? 8 : bytes_of(book->tensor.dtype)));
    }
  });
  if (rows > kRows * size + kRowsFree)
    throw FormatError("field 'graph.nodes.shape': one sample takes " + std::to_string(rows) + " elements, a file of " + std::to_string(size) +
                      " bytes may ask for " + std::to_string(kRows * size + kRowsFree));
  if (words > kUnpack * size + kUnpackFree) throw FormatError("field 'coding.codebook': code words expand to more than 64 times the file");
}

// How the writer stores a constant that a node reads in a field: its code (empty: plain) and bits.
std::pair<std::string, int> stored_as(const Node& node, const std::string& field, const Constant& c) {
  static const std::map<std::string, std::string> weights = {{"sign", "sign"}, {"ternary", "ternary"}, {"int", "int"}, {"codebook", "index"}};
  if (field == "weight" && node.synapse()) return {weights.at(node.coding.name), static_cast<int>(node.coding.bits)};
  if (field == "flip") return {"bool", 1};
  const Tensor& t = c.tensor;
  if (c.real()) {
    bool exact = true;
    for (int64_t i = 0; t.dtype == Dtype::f64 && i < t.size(); ++i) {
      double v;
      std::memcpy(&v, t.data.data() + i * 8, 8);
      exact = exact && std::abs(v) <= 3.4028234663852886e38 && static_cast<double>(static_cast<float>(v)) == v;
    }
    return {"", exact ? 32 : 64};
  }
  if (field == "coding.codebook") {
    const Ints values = t.values();
    if (std::all_of(values.begin(), values.end(), [](int64_t v) { return v == 1 || v == -1; })) return {"sign", 1};
  }
  return {"", static_cast<int>(bytes_of(narrowest(c.low, c.high))) * 8};
}

// The file holds each constant as the writer would store it, and nothing else.
void canonical(const Graph& graph, const Constants& constants) {
  std::map<std::string, std::pair<std::string, int>> plan;
  std::map<std::string, std::string> roles;
  each_scope(graph, [&](const Graph& scope) {
    for (auto& node : scope.nodes)
      for (auto& [field, name] : node.names) {
        const std::string key = scope.prefix + name;
        const auto wanted = stored_as(node, field, *node.find(field));
        const auto [place, fresh] = plan.emplace(key, wanted);
        if (!fresh && place->second != wanted)
          throw FormatError("constant '" + key + "' is read as two different codes, the second by '" + node.name + "'; give each its own name");
        roles.emplace(key, field);
      }
  });
  for (auto& [name, constant] : constants)
    if (!plan.contains(name)) throw FormatError("tensor 'const." + name + "': no node reads it");
  for (auto& [name, wanted] : plan) {
    const Constant& c = constants.at(name);
    const auto word = [](const std::string& code) { return code.empty() ? std::string("plain") : code; };
    if (c.code != wanted.first || c.bits != wanted.second)
      throw FormatError("tensor 'const." + name + "': " + roles[name] + " must be stored as " + std::to_string(wanted.second) + "-bit " +
                        word(wanted.first) + ", got " + std::to_string(c.bits) + "-bit " + word(c.code));
  }
}

void check_card(Json value, int depth) {
  if (depth > 31) throw FormatError("field 'card': nested deeper than 31");
  if (value.is(JsonType::list)) value.each([&](size_t, Json entry) { check_card(entry, depth + 1); });
  if (value.is(JsonType::object)) value.fields([&](const std::string&, Json entry) { check_card(entry, depth + 1); });
}

// Numbers of a list, or nothing when it holds something else.
std::vector<double> numbers(const std::optional<Json>& list) {
  std::vector<double> out;
  if (!list || !list->is(JsonType::list)) return out;
  bool good = true;
  list->each([&](size_t, Json v) {
    const auto whole = v.is(JsonType::whole) ? v.whole() : std::nullopt;
    good = good && (whole || v.is(JsonType::real));
    out.push_back(!good ? 0.0 : whole ? static_cast<double>(*whole) : v.real());
  });
  if (!good) out.clear();
  return out;
}

// The share of set bits of spike edges by bit-plane; what the planner uses is their mean.
void read_rates(const std::optional<Json>& rates, const Graph& graph, Packed& packed) {
  if (!rates || rates->is(JsonType::null)) return;
  if (!rates->is(JsonType::object)) throw FormatError("field 'card.rates': must be an object by node name, got " + rates->shown());
  std::map<std::string, const Node*> edges;
  for (auto& node : graph.nodes)
    if (node.kind.spikes() && node.type != "Output") edges[node.name] = &node;
  rates->fields([&](const std::string& name, Json row) {
    const auto found = edges.find(name);
    if (found == edges.end()) throw FormatError("field 'card.rates': '" + name.substr(0, 40) + "' is no node of this graph that gives spikes");
    size_t planes = 2;
    if (found->second->kind.name != KindName::ternary)
      for (planes = 1; found->second->kind.high() >> planes; ) ++planes;
    const std::vector<double> shares = numbers(row);
    bool good = shares.size() == planes;
    double sum = 0;
    for (double share : shares) {
      good = good && share >= 0 && share <= 1;
      sum += share;
    }
    if (!good) throw FormatError("field 'card.rates." + name + "': needs " + std::to_string(planes) + " numbers in 0..1, one a bit-plane, got " + row.shown());
    packed.rates[name] = sum / static_cast<double>(planes);
  });
}

void read_card(std::string_view raw, const Graph& graph, Packed& packed) {
  const Document card(raw, "card");
  const Json root = card.root();
  if (!root.is(JsonType::object)) throw FormatError("field 'card': must be a JSON object");
  check_card(root, 1);
  const auto classes = root.get("classes");
  if (classes && !classes->is(JsonType::null)) {
    const auto wrong = [] { return FormatError("field 'card.classes': must be a list of names"); };
    if (!classes->is(JsonType::list)) throw wrong();
    classes->each([&](size_t, Json name) {
      if (!name.is(JsonType::text)) throw wrong();
      packed.classes.push_back(name.text());
    });
  }
  read_rates(root.get("rates"), graph, packed);
  packed.mean = numbers(root.get("mean"));
  packed.std = numbers(root.get("std"));
  packed.card = std::string(raw);
}

std::string_view text_of(std::map<std::string, Entry>& entries, const char* name) {
  const auto found = entries.find(name);
  if (found == entries.end() || found->second.dtype != Dtype::u8 || found->second.shape.size() != 1)
    throw FormatError("tensor '" + std::string(name) + "': a packed file needs it as U8 text");
  const Entry entry = found->second;
  if (entry.bytes > kMaxText)
    throw FormatError("tensor '" + std::string(name) + "': " + std::to_string(entry.bytes) + " bytes of JSON, at most 16777216 are read");
  entries.erase(found);
  return {reinterpret_cast<const char*>(entry.data), static_cast<size_t>(entry.bytes)};
}

// Code words looked up: the weight at its full shape.
Tensor expanded(const Node& node) {
  const Tensor &index = node.find("weight")->tensor, &book = node.find("coding.codebook")->tensor;
  Tensor made;
  made.dtype = book.dtype;
  made.shape = weight_shape(node);
  made.data = TensorBytes(static_cast<size_t>(made.size() * bytes_of(book.dtype)));
  const int64_t word = book.shape[1] * bytes_of(book.dtype);
  std::byte* to = made.data.own();
  for (int64_t i = 0; i < index.size(); ++i) {
    std::memcpy(to, book.data.data() + index.at(i) * word, static_cast<size_t>(word));
    to += word;
  }
  return made;
}

Ints flat_moves(const Node& node) {
  static const char* names[] = {"view", "permute", "slice", "expand", "pad", "flip", "roll"};
  Ints out;
  for (auto& move : node.moves) {
    Ints values;
    for (auto& argument : move.arguments) values.insert(values.end(), argument.values.begin(), argument.values.end());
    out.push_back(std::find(std::begin(names), std::end(names), move.name) - std::begin(names));
    out.push_back(static_cast<int64_t>(values.size()));
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

std::shared_ptr<GraphDef> convert(const Graph& graph);

NodeDef convert(const Node& node, const std::map<std::string, int>& index) {
  NodeDef made;
  made.type = node.type;
  made.name = node.name;
  for (auto& name : node.inputs) made.inputs.push_back(index.at(name));
  made.kind = node.kind;
  made.shape = node.shape;
  made.steps = node.steps;
  made.ints = node.ints;
  made.ints.erase("strict");
  for (auto [key, otherwise] : {std::pair("shifts", 0), std::pair("signs", 1)})
    if (const auto found = made.ints.find(key); found != made.ints.end() && found->second.empty()) found->second.assign(node.inputs.size(), otherwise);
  if (node.type == "Reshape") made.ints["moves"] = flat_moves(node);
  made.strs = node.strs;
  made.strs.erase("key");
  for (auto& [field, constant] : node.constants) {
    if (field == "scale" || field == "unit" || field == "coding.codebook") continue;
    made.tensors[field] = field == "weight" && node.coding.has_codebook ? expanded(node) : constant->tensor;
  }
  if (node.body) made.body = convert(*node.body);
  return made;
}

// Body with inputs x, state0.. first and outputs y, state0.. last, in this order; other graphs as they are.
std::vector<const Node*> ordered(const Graph& graph) {
  std::vector<const Node*> out;
  const bool body = !graph.prefix.empty();
  const auto pick = [&](const char* type, const char* data, auto name) {
    const auto all = graph.of_type(type);
    for (size_t i = 0; i < all.size(); ++i) {
      const std::string wanted = i == 0 ? data : "state" + std::to_string(i - 1);
      for (auto* node : all)
        if (name(*node) == wanted) out.push_back(node);
    }
  };
  if (body) pick("Input", "x", [](const Node& n) { return n.name; });
  for (auto& node : graph.nodes)
    if (!body || (node.type != "Input" && node.type != "Output")) out.push_back(&node);
  if (body) pick("Output", "y", [](const Node& n) { return n.word("key"); });
  return out;
}

std::shared_ptr<GraphDef> convert(const Graph& graph) {
  auto made = std::make_shared<GraphDef>();
  std::map<std::string, int> index;
  for (auto* node : ordered(graph)) index[node->name] = made->add(convert(*node, index));
  return made;
}

// Steps for which a stream is proven exact: T where a sum over time or a constant depends on it.
int64_t stream_limit(const Graph& graph) {
  int64_t steps = 0;
  for (auto& node : graph.nodes) steps = std::max(steps, node.steps);
  steps = std::max<int64_t>(1, steps);
  for (auto& node : graph.nodes) {
    if (node.type == "TimeMix" || node.type == "Scan" || (node.type == "Readout" && node.word("mode") == "sum")) return steps;
    if (node.type != "Neuron") continue;
    for (const char* field : {"decay", "gain", "bias", "thresholds", "neg_threshold", "reset_value"}) {
      const Constant* c = node.find(field);
      if (c && c->tensor.shape[c->tensor.shape.size() - 2] > 1) return steps;
    }
    const Constant* decay = node.find("decay");
    if (decay && std::max(-decay->low, decay->high) > int64_t{1} << node.number("decay_shift")) return steps;
  }
  return int64_t{1} << 31;
}

}  // namespace

Packed read(const Bytes& file) {
  Packed packed;
  auto entries = split(file);
  const std::string_view text = text_of(entries, "graph"), card = text_of(entries, "card");
  const Document document(text, "graph");
  const Json root = document.root();
  const bool object = root.is(JsonType::object) && root.size() == 3;
  const auto stage = object ? root.get("stage") : std::nullopt, codes = object ? root.get("codes") : std::nullopt,
             nodes = object ? root.get("nodes") : std::nullopt;
  if (!stage || !codes || !nodes) throw FormatError("field 'graph': needs exactly stage, codes and nodes");
  if (!stage->is(JsonType::text) || stage->text() != "snapped")
    throw FormatError("field 'graph.stage': must be 'snapped', got " + stage->shown());
  const Constants constants = unpack(entries, *codes, file);
  const Graph graph = read_graph(*nodes, constants);
  limit(graph, static_cast<int64_t>(file.size));
  check_shapes(graph);
  check_bounds(graph);
  canonical(graph, constants);
  read_card(card, graph, packed);
  for (auto& [name, entry] : entries) packed.payload_bytes += entry.bytes;
  for (auto& node : graph.nodes)
    if (node.type == "TimeMix" && !node.number("causal")) packed.needs_future = node.name;
  for (auto* node : graph.of_type("Output")) packed.keys.push_back(node->word("key"));
  for (auto* node : graph.of_type("Input")) packed.bytes_inputs.push_back(node->find("table") != nullptr);
  packed.stream_limit = stream_limit(graph);
  packed.graph = convert(graph);
  return packed;
}

}  // namespace picojoule::file
