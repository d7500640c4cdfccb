#pragma once
// The graph of a packed file: nodes read from JSON field by field, then proven consistent. Mirrors
// picojoule.deploy.schema and picojoule.graph.check, which decide what is accepted.

#include "file_container.h"

namespace picojoule::file {

constexpr int64_t kMaxExtent = int64_t{1} << 31, kMaxSteps = 1 << 16, kMaxShift = 62;
constexpr size_t kMaxAxes = 8, kMaxNodes = 1 << 16;

struct Move {
  struct Argument {
    bool list;
    Ints values;  // pairs one after another
  };
  std::string name;
  std::vector<Argument> arguments;
  bool pairs = false;
};

struct Coding {
  std::string name = "float", codebook;
  int64_t bits = 32;
  bool has_codebook = false;
};

struct Graph;

struct Node {
  std::string type, name;
  std::vector<std::string> inputs;
  std::vector<size_t> from;  // the same as indices
  Kind kind;
  Shape shape;
  int64_t steps = 0;
  std::map<std::string, Ints> ints;           // numbers, flags and lists, with the defaults of absent fields
  std::map<std::string, std::string> strs;    // words
  std::map<std::string, std::string> names;   // constants by the field that names them
  std::map<std::string, const Constant*> constants;
  Coding coding;
  std::vector<Move> moves;
  double out_scale = 1.0;
  std::unique_ptr<Graph> body;

  int64_t size() const { return count_of(shape); }
  int64_t number(const char* key) const { return ints.at(key)[0]; }
  const Ints& list(const char* key) const { return ints.at(key); }
  const std::string& word(const char* key) const { return strs.at(key); }
  const Constant* find(const std::string& key) const;
  bool synapse() const { return type == "Conv" || type == "Linear"; }
  [[noreturn]] void fail(const std::string& field, const std::string& what) const;
};

struct Graph {
  std::string prefix;  // of its constants in the file
  std::vector<Node> nodes;

  std::vector<const Node*> of_type(const char* type) const;
};

// Nodes of a list of rows; throws FormatError. Pointers into `constants` stay in the nodes.
Graph read_graph(Json rows, const Constants& constants);

// One field a type; used by the reader of a node and by its conversion.
Node read_node(Json row, const std::string& where);

// Position of a row axis counted from either end.
size_t axis_of(const Node& node, int64_t axis, size_t rank, const char* field = "axis");
// Row shape after one move.
Shape moved(const Node& node, const Shape& row, const Move& move);

// Row shape and steps of every node follow from its inputs and equal what it declares; fields are in range.
void check_shapes(const Graph& graph);
// Full shape of a weight, with its coding and codebook checked.
Shape weight_shape(const Node& node);

// No integer leaves its edge's kind or its v_bits. The graph's shapes are checked.
void check_bounds(const Graph& graph);


}  // namespace picojoule::file
