// Nodes from JSON, field by field. A field this file does not know is an error, never a guess.

#include "file_graph.h"

#include <charconv>
#include <set>

namespace picojoule::file {

namespace {

constexpr size_t kMaxList = 1024, kMaxLevels = 1 << 16, kTextLength = 512;
constexpr int64_t kWhole = int64_t{1} << 62;

// What a field holds. `constant` and `maybe` name constants; `maybe` may be absent or null.
enum class Holds { word, constant, maybe, whole, flag, real, wholes, flags, pairs, moves, coding, body };

struct Field {
  const char* name;
  Holds holds;
  bool required = false;
  Ints otherwise = {};
  const char* word = "";
};

const std::map<std::string, std::vector<Field>>& fields_of_types() {
  using enum Holds;
  static const Field axis{"axis", whole, false, {0}};
  static const Field shifts{"shifts", wholes};
  static const std::map<std::string, std::vector<Field>> table = {
      {"Input", {{"table", maybe}, axis}},
      {"Output", {{"key", word, false, {}, "out"}}},
      {"Repeat", {}},
      {"Conv",
       {{"weight", constant, true}, {"bias", maybe}, {"stride", wholes, false, {1, 1}}, {"padding", pairs, false, {0, 0, 0, 0}},
        {"dilation", wholes, false, {1, 1}}, {"groups", whole, false, {1}}, {"coding", coding}, {"scale", maybe}, {"kernel", wholes}}},
      {"Linear", {{"weight", constant, true}, {"bias", maybe}, {"coding", coding}, {"scale", maybe}}},
      {"Neuron",
       {{"op", word, false, {}, "lif"}, axis, {"lowered", flag, false, {1}}, {"reset", word, false, {}, "soft"}, {"decay", maybe},
        {"gain", maybe}, {"bias", maybe}, {"thresholds", maybe}, {"strict", flags, false, {0}}, {"neg_threshold", maybe},
        {"neg_strict", flag, false, {0}}, {"reset_value", maybe}, {"v_init", maybe}, {"breaks", maybe}, {"values", maybe},
        {"out_scale", real}, {"frac", whole, false, {0}}, {"decay_shift", whole, false, {0}}, {"rounding", word, false, {}, "floor"},
        {"unit", maybe}, {"v_bits", whole, false, {0}}}},
      {"Add", {shifts, {"signs", wholes}}},
      {"Mul", {}},
      {"Logic", {{"op", word, false, {}, "and"}}},
      {"MatMul", {}},
      {"Affine", {{"gain", constant, true}, {"bias", constant, true}, axis, {"shift", whole, false, {0}}, {"rounding", word, false, {}, "half_up"}}},
      {"Lut", {{"breaks", constant, true}, {"values", constant, true}}},
      {"Pool",
       {{"mode", word, true}, {"kernel", wholes, true}, {"stride", wholes, true}, {"padding", pairs, true}, {"divisor", whole, false, {0}},
        {"flip", maybe}}},
      {"Mean", {{"axes", wholes, true}, {"keepdim", flag, false, {0}}, {"total", flag, false, {0}}}},
      {"Concat", {axis, shifts}},
      {"Upsample", {{"factors", wholes, true}}},
      {"Reshape", {{"moves", moves, true}}},
      {"Readout", {{"mode", word, false, {}, "mean"}}},
      {"TimeMix", {{"matrix", constant, true}, {"bias", maybe}, {"causal", flag, false, {1}}, axis}},
      {"Scan", {{"body", body, true}}},
  };
  return table;
}

// Readers of one value; what they throw is completed with the node and the field.
std::string read_text(const std::optional<Json>& value) {
  const std::string text = value && value->is(JsonType::text) ? value->text() : "";
  if (!value || !value->is(JsonType::text) || !printable(text, kTextLength))
    throw Error("must be at most 512 printable characters, got " + (value ? value->shown() : "nothing"));
  return text;
}

std::string read_name(const std::optional<Json>& value) {
  std::string text = read_text(value);
  if (text.empty()) throw Error("must not be empty");
  return text;
}

int64_t read_whole(Json value) {
  const auto number = value.is(JsonType::whole) ? value.whole() : std::nullopt;
  if (!number || *number <= -kWhole || *number >= kWhole) throw Error("must be an integer below 2^62, got " + value.shown());
  return *number;
}

int64_t read_flag(Json value) {
  if (!value.is(JsonType::flag)) throw Error("must be true or false, got " + value.shown());
  return value.flag();
}

double read_real(Json value) {
  if (value.is(JsonType::real)) return value.real();
  if (!value.is(JsonType::whole)) throw Error("must be a number, got " + value.shown());
  return static_cast<double>(read_whole(value));
}

template <class F>
void read_many(Json value, size_t most, F&& item) {
  if (!value.is(JsonType::list) || value.size() > most)
    throw Error("must be a list of at most " + std::to_string(most) + " entries, got " + value.shown());
  value.each([&](size_t, Json entry) { item(entry); });
}

Ints read_wholes(Json value, size_t most = kMaxList) {
  Ints out;
  read_many(value, most, [&](Json entry) { out.push_back(read_whole(entry)); });
  return out;
}

Ints read_pairs(Json value, size_t most = kMaxList) {
  Ints out;
  read_many(value, most, [&](Json entry) {
    const Ints pair = read_wholes(entry);
    if (pair.size() != 2) throw Error("must be pairs (before, after), got " + std::to_string(pair.size()) + " numbers");
    out.insert(out.end(), pair.begin(), pair.end());
  });
  return out;
}

Move read_move(Json value) {
  if (!value.is(JsonType::list) || value.size() == 0) throw Error("must be lists that begin with a name");
  Move move;
  value.each([&](size_t i, Json entry) {
    if (i == 0) {
      move.name = read_name(entry);
      move.pairs = move.name == "pad";
    } else if (move.pairs) {
      move.arguments.push_back({true, read_pairs(entry, kMaxAxes)});
    } else if (entry.is(JsonType::list)) {
      move.arguments.push_back({true, read_wholes(entry, kMaxAxes)});
    } else {
      move.arguments.push_back({false, {read_whole(entry)}});
    }
  });
  return move;
}

Coding read_coding(Json value) {
  Coding made;
  if (!value.is(JsonType::object) || value.size() > 3) throw Error("must hold name, bits and codebook only");
  value.fields([](const std::string& key, Json) {
    if (key != "name" && key != "bits" && key != "codebook") throw Error("must hold name, bits and codebook only");
  });
  made.name = read_text(value.get("name"));
  const auto bits = value.get("bits"), book = value.get("codebook");
  if (!bits) throw Error("must hold bits");
  made.bits = read_whole(*bits);
  if (book && !book->is(JsonType::null)) {
    made.codebook = read_name(book);
    made.has_codebook = true;
  }
  for (const char* known : {"float", "int", "sign", "ternary", "codebook"})
    if (made.name == known) return made;
  throw Error("unknown coding '" + made.name + "'; known: float, int, sign, ternary, codebook");
}

// A number without sign, spaces or leading zeros.
bool canonical_number(std::string_view text, bool negative, int64_t& out) {
  const bool minus = negative && !text.empty() && text[0] == '-';
  const std::string_view digits = text.substr(minus ? 1 : 0);
  if (digits.empty() || digits.size() > 9 || (digits[0] == '0' && (digits.size() > 1 || minus))) return false;
  for (char c : digits)
    if (c < '0' || c > '9') return false;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return true;
}

Kind read_kind(Json value) {
  const std::string text = read_text(value);
  const auto inside = [&](std::string_view head, std::string_view& rest) {
    if (text.rfind(head, 0) != 0 || text.back() != ')') return false;
    rest = std::string_view(text).substr(head.size(), text.size() - head.size() - 1);
    return true;
  };
  if (text == "binary") return make_kind("binary", 1, 0, 0);
  if (text == "ternary") return make_kind("ternary", 1, 0, 0);
  if (text == "real") throw Error("a real edge cannot be packed; snap the graph");
  std::string_view rest;
  int64_t first = 0, second = 0;
  for (const char* name : {"integer", "time"})
    if (inside(std::string(name) + "(", rest) && canonical_number(rest, false, first)) return make_kind(name, first, 0, 0);
  if (inside("fixed(", rest)) {
    const size_t comma = rest.find(", ");
    if (comma != std::string_view::npos && canonical_number(rest.substr(0, comma), false, first) &&
        canonical_number(rest.substr(comma + 2), true, second) && std::abs(second) <= 1000 && first <= 63)
      return make_kind("fixed", 1, static_cast<int>(first), static_cast<int>(second));
  }
  throw Error("cannot read kind '" + text + "'; write e.g. 'binary', 'integer(4)' or 'fixed(16, 8)', at most 2^20 levels, frac in -1000..1000");
}

void read_field(Node& node, const Field& field, Json value) {
  switch (field.holds) {
    case Holds::word: node.strs[field.name] = read_text(value); break;
    case Holds::constant: node.names[field.name] = read_text(value); break;
    case Holds::maybe:
      if (!value.is(JsonType::null)) node.names[field.name] = read_name(value);
      break;
    case Holds::whole: node.ints[field.name] = {read_whole(value)}; break;
    case Holds::flag: node.ints[field.name] = {read_flag(value)}; break;
    case Holds::real: node.out_scale = read_real(value); break;
    case Holds::wholes: node.ints[field.name] = read_wholes(value); break;
    case Holds::flags: {
      Ints flags;
      read_many(value, kMaxLevels, [&](Json entry) { flags.push_back(read_flag(entry)); });
      node.ints[field.name] = flags;
      break;
    }
    case Holds::pairs: node.ints[field.name] = read_pairs(value); break;
    case Holds::moves: read_many(value, kMaxList, [&](Json entry) { node.moves.push_back(read_move(entry)); }); break;
    case Holds::coding: node.coding = read_coding(value); break;
    case Holds::body: break;  // read_graph makes it
  }
}

void absent_field(Node& node, const Field& field) {
  if (field.required) throw Error("is missing");
  const bool words = field.holds == Holds::word;
  if (words) node.strs[field.name] = field.word;
  else if (field.holds != Holds::maybe && field.holds != Holds::coding && field.holds != Holds::real) node.ints[field.name] = field.otherwise;
}

}  // namespace

const Constant* Node::find(const std::string& key) const {
  const auto found = constants.find(key);
  return found == constants.end() ? nullptr : found->second;
}

void Node::fail(const std::string& field, const std::string& what) const {
  throw FormatError("node '" + name + "' (" + type + "), field '" + field + "': " + what);
}

std::vector<const Node*> Graph::of_type(const char* type) const {
  std::vector<const Node*> found;
  for (auto& node : nodes)
    if (node.type == type) found.push_back(&node);
  return found;
}

Node read_node(Json row, const std::string& where) {
  if (!row.is(JsonType::object)) throw FormatError("field '" + where + "': must be an object");
  Node node;
  const auto type = row.get("type");
  node.type = type && type->is(JsonType::text) ? type->text() : "";
  const auto known = fields_of_types().find(node.type);
  if (known == fields_of_types().end()) throw FormatError("field '" + where + ".type': unknown node " + (type ? type->shown() : "without a type"));
  std::string place = where, field = "name";
  try {
    node.name = read_name(row.get("name"));
    place += " '" + node.name + "' (" + node.type + ")";
    std::set<std::string, std::less<>> allowed{"type", "name", "inputs", "kind", "shape", "steps", "module"};
    for (auto& f : known->second) allowed.insert(f.name);
    std::map<std::string, Json> given;
    row.fields([&](const std::string& key, Json value) {
      field = key;
      if (!allowed.contains(key)) throw Error("is unknown");
      given.emplace(key, value);
    });
    const auto need = [&](const char* key) {
      field = key;
      const auto found = given.find(key);
      if (found == given.end()) throw Error("is missing");
      return found->second;
    };
    read_many(need("inputs"), kMaxList, [&](Json entry) { node.inputs.push_back(read_name(entry)); });
    node.shape = read_wholes(need("shape"), kMaxAxes);
    node.steps = read_whole(need("steps"));
    node.kind = read_kind(need("kind"));
    field = "module";
    if (given.contains("module")) read_text(given.at("module"));
    for (auto& f : known->second) {
      field = f.name;
      const auto found = given.find(f.name);
      if (found == given.end()) absent_field(node, f);
      else read_field(node, f, found->second);
    }
  } catch (const FormatError&) {
    throw;
  } catch (const Error& wrong) {
    throw FormatError(place + ", field '" + (printable(field, kTextLength) ? field : "?") + "': " + wrong.what());
  }
  return node;
}

namespace {

class Reader {
 public:
  explicit Reader(const Constants& constants) : constants_(constants) {}

  Graph graph(Json rows, const std::string& prefix) {
    const std::string where = prefix + "nodes";
    if (!rows.is(JsonType::list)) throw FormatError("field 'graph." + where + "': must be a list");
    nodes_ += rows.size();
    if (nodes_ > kMaxNodes) throw FormatError("field 'graph." + where + "': more than 65536 nodes");
    Graph made;
    made.prefix = prefix;
    made.nodes.reserve(rows.size());
    rows.each([&](size_t i, Json row) {
      Node node = read_node(row, where + "[" + std::to_string(i) + "]");
      if (node.type == "Scan") node.body = std::make_unique<Graph>(graph(*row.get("body"), prefix + node.name + "/"));
      made.nodes.push_back(std::move(node));
    });
    std::map<std::string, size_t> seen;
    for (auto& node : made.nodes) {
      resolve(node, prefix);
      for (auto& name : node.inputs) {
        const auto found = seen.find(name);
        if (found == seen.end())
          throw FormatError("field 'graph." + where + "': node '" + node.name + "' reads '" + name + "', which does not come before it; see its inputs");
        node.from.push_back(found->second);
      }
      if (!seen.emplace(node.name, seen.size()).second) throw FormatError("field 'graph." + where + "': two nodes are named '" + node.name + "'");
    }
    return made;
  }

 private:
  void resolve(Node& node, const std::string& prefix) const {
    if (node.coding.has_codebook) node.names["coding.codebook"] = node.coding.codebook;
    for (auto& [field, name] : node.names) {
      const auto found = constants_.find(prefix + name);
      if (found == constants_.end()) node.fail(field, "names the constant '" + prefix + name + "', which does not exist");
      node.constants[field] = &found->second;
    }
  }

  const Constants& constants_;
  size_t nodes_ = 0;
};

}  // namespace

Graph read_graph(Json rows, const Constants& constants) { return Reader(constants).graph(rows, ""); }

}  // namespace picojoule::file
