// Arithmetic on intervals of rows.

#include "file_bounds.h"

#include <algorithm>

namespace picojoule::file {

Array product_of(const Array& a, const Array& b) {
  const Wide p = a.peak(), q = b.peak();
  if (p && q > (Wide{kMany} - 1) / p) throw TooWide{};
  return combine(a, b, [](int64_t x, int64_t y) { return x * y; });
}
Array sum_of(const Array& a, const Array& b) {
  if (a.peak() + b.peak() >= kMany) throw TooWide{};
  return combine(a, b, [](int64_t x, int64_t y) { return x + y; });
}
Array smaller(const Array& a, const Array& b) {
  return combine(a, b, [](int64_t x, int64_t y) { return std::min(x, y); });
}
Array larger(const Array& a, const Array& b) {
  return combine(a, b, [](int64_t x, int64_t y) { return std::max(x, y); });
}
Array shifted(Array x, int64_t shift, bool half_up) {
  if (shift && half_up) x = sum_of(x, Array::filled(x.shape.size(), int64_t{1} << (shift - 1)));
  for (auto& v : x.values) v >>= shift;
  return x;
}

Interval span(int64_t low, int64_t high, size_t rank) { return {Array::filled(rank, low), Array::filled(rank, high)}; }

// Joins the elements along the axes that `gone` names; they keep the extent 1.
Array reduce(const Array& x, const std::function<bool(size_t)>& gone, const int64_t& (*pick)(const int64_t&, const int64_t&)) {
  Array out;
  const size_t rank = x.shape.size();
  for (size_t i = 0; i < rank; ++i) out.shape.push_back(gone(i) ? 1 : x.shape[i]);
  if (out.shape == x.shape) return x;
  out.values.resize(static_cast<size_t>(product(out.shape)));
  std::vector<bool> seen(out.values.size(), false);
  Shape position(rank, 0);
  for (int64_t v : x.values) {
    size_t at = 0;
    for (size_t i = 0; i < rank; ++i) at = at * out.shape[i] + (out.shape[i] == 1 ? 0 : position[i]);
    out.values[at] = seen[at] ? pick(out.values[at], v) : v;
    seen[at] = true;
    for (size_t i = rank; i-- > 0;) {
      if (++position[i] < x.shape[i]) break;
      position[i] = 0;
    }
  }
  return out;
}

Interval reduce(const Interval& x, const std::function<bool(size_t)>& gone) {
  return {reduce(x.low, gone, std::min<int64_t>), reduce(x.high, gone, std::max<int64_t>)};
}

Interval with_zero(Interval x) {
  for (auto& v : x.low.values) v = std::min<int64_t>(v, 0);
  for (auto& v : x.high.values) v = std::max<int64_t>(v, 0);
  return x;
}

Interval scale(const Interval& x, const Array& gain) {
  const Array a = product_of(gain, x.low), b = product_of(gain, x.high);
  return {smaller(a, b), larger(a, b)};
}
Interval scale(const Interval& x, int64_t gain) { return scale(x, Array::filled(x.low.shape.size(), gain)); }

Interval lift(Interval x, size_t rank) {
  for (Array* a : {&x.low, &x.high}) a->shape.insert(a->shape.begin(), rank - a->shape.size(), 1);
  return x;
}

// Product of counts that must stay below 2^62.
void need_room(std::initializer_list<Wide> factors) {
  Wide total = 1;
  for (Wide f : factors) {
    if (f == 0) return;
    total = total >= kMany || f > Wide{kMany} / total ? Wide{kMany} : total * f;
  }
  if (total >= kMany) throw TooWide{};
}

Interval along(const Interval& x, size_t axis) {
  Interval out = reduce(x, [&](size_t i) { return i != axis; });
  out.low.shape = {static_cast<int64_t>(out.low.values.size())};
  out.high.shape = {static_cast<int64_t>(out.high.values.size())};
  return out;
}

Array spread(Array values, size_t axis, size_t rank) {
  values.shape.assign(rank, 1);
  values.shape[axis] = static_cast<int64_t>(values.values.size());
  return values;
}

Array array_of(const Constant& constant) { return {constant.tensor.shape, constant.tensor.values()}; }

}  // namespace picojoule::file
