#pragma once
// Interval arithmetic on rows: bounds stay per channel where that is tight and cheap. Mirrors
// picojoule.graph.intervals and .membranes, operation by operation, so that both accept the same files.

#include <algorithm>
#include <functional>

#include "file_graph.h"

namespace picojoule::file {

// A bound would pass 62 bits.
struct TooWide {};

using Wide = __int128;

// Integers with extent 1 or full on each axis of a row.
struct Array {
  Shape shape;
  Ints values;

  static Array filled(size_t rank, int64_t value) { return {Shape(rank, 1), {value}}; }
  int64_t least() const { return *std::min_element(values.begin(), values.end()); }
  int64_t most() const { return *std::max_element(values.begin(), values.end()); }
  Wide peak() const { return std::max(-static_cast<Wide>(least()), static_cast<Wide>(most())); }
};

struct Interval {
  Array low, high;

  int64_t least() const { return low.least(); }
  int64_t most() const { return high.most(); }
};

// Elementwise with broadcasting; both have the same rank.
template <class F>
Array combine(const Array& a, const Array& b, F f) {
  const size_t rank = a.shape.size();
  Array out;
  for (size_t i = 0; i < rank; ++i) out.shape.push_back(std::max(a.shape[i], b.shape[i]));
  out.values.resize(static_cast<size_t>(product(out.shape)));
  if (a.values.size() == out.values.size() && (b.values.size() == out.values.size() || b.values.size() == 1)) {
    for (size_t i = 0; i < out.values.size(); ++i) out.values[i] = f(a.values[i], b.values[b.values.size() == 1 ? 0 : i]);
    return out;
  }
  Shape position(rank, 0);
  for (auto& value : out.values) {
    size_t at = 0, bt = 0;
    for (size_t i = 0; i < rank; ++i) {
      at = at * a.shape[i] + (a.shape[i] == 1 ? 0 : position[i]);
      bt = bt * b.shape[i] + (b.shape[i] == 1 ? 0 : position[i]);
    }
    value = f(a.values[at], b.values[bt]);
    for (size_t i = rank; i-- > 0;) {
      if (++position[i] < out.shape[i]) break;
      position[i] = 0;
    }
  }
  return out;
}

// Product, sum and shift, proven to stay below 2^62.
Array product_of(const Array& a, const Array& b);
Array sum_of(const Array& a, const Array& b);
Array shifted(Array x, int64_t shift, bool half_up);
Array smaller(const Array& a, const Array& b);
Array larger(const Array& a, const Array& b);

// Joins the elements along the axes that `gone` names; they keep the extent 1.
Interval reduce(const Interval& x, const std::function<bool(size_t)>& gone);
Interval with_zero(Interval x);
Interval scale(const Interval& x, const Array& gain);
Interval scale(const Interval& x, int64_t gain);
// More axes of extent 1 in front.
Interval lift(Interval x, size_t rank);
// Proves that a product of counts stays below 2^62.
void need_room(std::initializer_list<Wide> factors);
Interval span(int64_t low, int64_t high, size_t rank);
// Bounds per channel along one row axis, each [C|1].
Interval along(const Interval& x, size_t axis);
// A [C|1] constant placed on one axis of a row.
Array spread(Array values, size_t axis, size_t rank);
// A constant of the node, as it is.
Array array_of(const Constant& constant);
// Ends of a staircase (breaks, values) over the inputs low..high.
std::pair<int64_t, int64_t> staircase(const Node& node, int64_t low, int64_t high);

struct Membrane {
  Interval spikes;
  int64_t low, high;  // of h and v over all steps
};
Membrane membrane(const Node& node, const Interval& x);

}  // namespace picojoule::file
