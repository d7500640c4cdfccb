// Row shapes after the moves of a Reshape.

#include <algorithm>

#include "file_graph.h"

namespace picojoule::file {
namespace {

Shape viewed(const Node& node, const Shape& row, const Ints& wanted) {
  int64_t known = 1;
  bool good = std::count(wanted.begin(), wanted.end(), -1) <= 1;
  for (int64_t d : wanted) {
    good = good && (d >= 1 || d == -1);
    if (good && d != -1) known = times(known, d);
  }
  const int64_t total = count_of(row);
  Shape shape = wanted;
  if (good && total % known == 0)
    for (auto& d : shape)
      if (d == -1) d = total / known;
  if (!good || total % known || count_of(shape) != total) node.fail("moves", "cannot view rows " + to_string(row) + " as " + to_string(wanted));
  return shape;
}

Shape expanded(const Node& node, const Shape& row, const Ints& wanted) {
  bool good = wanted.size() >= row.size();
  const size_t lead = good ? wanted.size() - row.size() : 0;
  Shape shape = wanted;
  for (size_t i = 0; good && i < shape.size(); ++i) {
    if (shape[i] == -1 && i >= lead) shape[i] = row[i - lead];
    good = shape[i] >= 1 && (i < lead || row[i - lead] == 1 || row[i - lead] == shape[i]);
  }
  if (!good) node.fail("moves", "cannot expand rows " + to_string(row) + " to " + to_string(wanted));
  return shape;
}

Shape padded(const Node& node, Shape row, const Ints& pairs) {
  bool good = pairs.size() == 2 * row.size();
  for (size_t i = 0; good && i < pairs.size(); ++i) {
    good = pairs[i] >= 0 && pairs[i] < kMaxExtent;
    row[i / 2] += good ? pairs[i] : 0;
  }
  if (!good) node.fail("moves", "pad needs (before, after) >= 0 for each axis, got " + to_string(pairs));
  return row;
}

Shape sliced(const Node& node, Shape row, size_t axis, int64_t start, int64_t stop, int64_t step) {
  // Elements of start, start + step, .. before stop; the differences of numbers below 2^62 fit.
  int64_t count = 0;
  if (step > 0 && stop > start) count = (stop - start - 1) / step + 1;
  if (step < 0 && stop < start) count = (start - stop - 1) / -step + 1;
  const int64_t last = count > 0 ? start + (count - 1) * step : -1;
  if (count < 1 || start < 0 || start >= row[axis] || last < 0 || last >= row[axis])
    node.fail("moves", "slice " + std::to_string(start) + ":" + std::to_string(stop) + ":" + std::to_string(step) + " is empty or leaves an axis of " +
                           std::to_string(row[axis]));
  row[axis] = count;
  return row;
}

}  // namespace

Shape moved(const Node& node, const Shape& row, const Move& move) {
  static const std::map<std::string, size_t> counts = {{"view", 1}, {"permute", 1}, {"slice", 4}, {"expand", 1}, {"pad", 1}, {"flip", 1}, {"roll", 2}};
  const auto known = counts.find(move.name);
  if (known == counts.end() || known->second != move.arguments.size())
    node.fail("moves", "unknown move '" + move.name + "' with " + std::to_string(move.arguments.size()) + " arguments");
  const bool list = move.name == "view" || move.name == "permute" || move.name == "expand" || move.name == "pad";
  for (auto& argument : move.arguments)
    if (argument.list != list) node.fail("moves", move.name + " takes " + (list ? "a list" : "integers"));
  const Ints& first = move.arguments[0].values;
  if (move.name == "view") return viewed(node, row, first);
  if (move.name == "expand") return expanded(node, row, first);
  if (move.name == "pad") return padded(node, row, first);
  if (move.name == "permute") {
    std::vector<bool> seen(row.size(), false);
    Shape out;
    for (int64_t axis : first) {
      const size_t at = axis_of(node, axis, row.size(), "moves");
      if (seen[at]) node.fail("moves", "permute must name each axis once, got " + to_string(first));
      seen[at] = true;
      out.push_back(row[at]);
    }
    if (out.size() != row.size()) node.fail("moves", "permute must name each axis once, got " + to_string(first));
    return out;
  }
  const size_t axis = axis_of(node, first[0], row.size(), "moves");
  if (move.name != "slice") return row;
  return sliced(node, row, axis, move.arguments[1].values[0], move.arguments[2].values[0], move.arguments[3].values[0]);
}

}  // namespace picojoule::file
