#include "moves.h"

#include <algorithm>
#include <numeric>

namespace picojoule {
namespace {

// A row whose elements are known only by where they come from (-1: a zero). With `dry`, shapes alone.
struct Moved {
  Shape shape;
  std::vector<int32_t> index;
  bool dry;
};

Shape strides_of(const Shape& shape) {
  Shape strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

// Rebuilds `m` with a new shape; `source(position)` gives the flat old position or -1.
template <class F>
void regather(Moved& m, Shape shape, F source) {
  const int64_t n = product(shape);
  if (!m.dry) {
    std::vector<int32_t> next(static_cast<size_t>(n));
    Shape position(shape.size(), 0);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t from = source(position);
      next[i] = from < 0 ? -1 : m.index[from];
      for (size_t axis = shape.size(); axis-- > 0;) {
        if (++position[axis] < shape[axis]) break;
        position[axis] = 0;
      }
    }
    m.index = std::move(next);
  }
  m.shape = std::move(shape);
}

int64_t axis_of(const NodeDef& node, const Moved& m, int64_t axis) {
  const int64_t rank = static_cast<int64_t>(m.shape.size());
  if (axis < -rank || axis >= rank) node.fail("a move names axis " + std::to_string(axis) + " of " + to_string(m.shape));
  return axis < 0 ? axis + rank : axis;
}

void bounded(const NodeDef& node, const Shape& shape) {
  constexpr int64_t limit = int64_t{1} << 26;
  int64_t n = 1;
  for (int64_t d : shape) {
    if (d < 0 || d > limit || (n && d > limit / n)) node.fail("a move gives rows of " + to_string(shape));
    n *= d;
  }
}

void view(const NodeDef& node, Moved& m, Shape to) {
  auto hole = std::find(to.begin(), to.end(), -1);
  if (hole != to.end()) {
    *hole = 1;
    const int64_t rest = product(to);
    if (rest <= 0) node.fail("cannot view " + to_string(m.shape) + " as " + to_string(to));
    *hole = product(m.shape) / rest;
  }
  bounded(node, to);
  if (product(to) != product(m.shape)) node.fail("cannot view " + to_string(m.shape) + " as " + to_string(to));
  m.shape = std::move(to);
}

void permute(const NodeDef& node, Moved& m, const Ints& order) {
  if (order.size() != m.shape.size()) node.fail("permute needs one entry an axis");
  std::vector<bool> seen(order.size(), false);
  const Shape old = strides_of(m.shape);
  Shape to(order.size()), step(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t axis = axis_of(node, m, order[i]);
    if (seen[axis]) node.fail("permute repeats an axis");
    seen[axis] = true;
    to[i] = m.shape[axis];
    step[i] = old[axis];
  }
  regather(m, to, [&](const Shape& p) { return std::inner_product(p.begin(), p.end(), step.begin(), int64_t{0}); });
}

void slice(const NodeDef& node, Moved& m, const Ints& a) {
  if (a.size() != 4) node.fail("slice needs axis, start, stop, step");
  const int64_t axis = axis_of(node, m, a[0]), step = a[3], extent = m.shape[axis];
  if (step < 1 || step > INT32_MAX) node.fail("slice needs a step of at least 1");
  auto inside = [&](int64_t at) { return std::clamp<int64_t>(at < 0 ? at + extent : at, 0, extent); };
  const int64_t start = inside(a[1]), stop = inside(a[2]);
  const int64_t count = stop > start ? (stop - start + step - 1) / step : 0;
  const Shape old = strides_of(m.shape);
  Shape to = m.shape;
  to[axis] = count;
  regather(m, to, [&](const Shape& p) {
    int64_t at = (start + p[axis] * step) * old[axis];
    for (size_t i = 0; i < p.size(); ++i)
      if (static_cast<int64_t>(i) != axis) at += p[i] * old[i];
    return at;
  });
}

void expand(const NodeDef& node, Moved& m, const Shape& wanted) {
  Shape to = wanted;
  if (to.size() < m.shape.size()) node.fail("expand cannot drop axes");
  const size_t lead = to.size() - m.shape.size();
  const Shape old = strides_of(m.shape);
  Shape step(to.size(), 0);
  for (size_t i = 0; i < m.shape.size(); ++i) {
    if (to[lead + i] == -1) to[lead + i] = m.shape[i];
    if (m.shape[i] != 1 && m.shape[i] != to[lead + i])
      node.fail("cannot expand " + to_string(m.shape) + " to " + to_string(to));
    step[lead + i] = m.shape[i] == 1 ? 0 : old[i];
  }
  bounded(node, to);
  regather(m, to, [&](const Shape& p) { return std::inner_product(p.begin(), p.end(), step.begin(), int64_t{0}); });
}

void pad(const NodeDef& node, Moved& m, const Ints& a) {
  if (a.size() != 2 * m.shape.size()) node.fail("pad needs (before, after) for each axis");
  const Shape from = m.shape, old = strides_of(m.shape);
  Shape to = m.shape;
  for (size_t i = 0; i < to.size(); ++i) {
    if (a[2 * i] < 0 || a[2 * i + 1] < 0 || a[2 * i] > INT32_MAX || a[2 * i + 1] > INT32_MAX)
      node.fail("pad must not be negative");
    to[i] += a[2 * i] + a[2 * i + 1];
  }
  bounded(node, to);
  regather(m, to, [&](const Shape& p) {
    int64_t at = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      const int64_t x = p[i] - a[2 * i];
      if (x < 0 || x >= from[i]) return int64_t{-1};
      at += x * old[i];
    }
    return at;
  });
}

// flip: x -> extent - 1 - x; roll: x -> x - shift, both along one axis.
void turn(const NodeDef& node, Moved& m, int64_t named, bool reverse, int64_t shift) {
  const int64_t axis = axis_of(node, m, named), extent = m.shape[axis];
  const Shape old = strides_of(m.shape);
  regather(m, m.shape, [&](const Shape& p) {
    const int64_t x = reverse ? extent - 1 - p[axis] : ((p[axis] - shift) % extent + extent) % extent;
    int64_t at = x * old[axis];
    for (size_t i = 0; i < p.size(); ++i)
      if (static_cast<int64_t>(i) != axis) at += p[i] * old[i];
    return at;
  });
}

// Moves arrive flat: [code, count, arguments...] after one another, in this order of codes.
enum Code : int64_t { kView, kPermute, kSlice, kExpand, kPad, kFlip, kRoll };

void apply(const NodeDef& node, Moved& m) {
  const Ints& flat = node.list("moves");
  for (size_t at = 0; at < flat.size();) {
    if (at + 2 > flat.size() || flat[at + 1] < 0 || flat[at + 1] > static_cast<int64_t>(flat.size() - at - 2))
      node.fail("moves are cut short");
    const Ints a(flat.begin() + at + 2, flat.begin() + at + 2 + flat[at + 1]);
    switch (flat[at]) {
      case kView: view(node, m, a); break;
      case kPermute: permute(node, m, a); break;
      case kSlice: slice(node, m, a); break;
      case kExpand: expand(node, m, a); break;
      case kPad: pad(node, m, a); break;
      case kFlip:
        if (a.size() != 1) node.fail("flip needs an axis");
        turn(node, m, a[0], true, 0);
        break;
      case kRoll:
        if (a.size() != 2) node.fail("roll needs an axis and a shift");
        turn(node, m, a[0], false, a[1] % std::max<int64_t>(1, m.shape[axis_of(node, m, a[0])]));
        break;
      default: node.fail("unknown move");
    }
    at += 2 + static_cast<size_t>(flat[at + 1]);
  }
  if (m.shape != node.shape) node.fail("moves give rows " + to_string(m.shape) + ", not " + to_string(node.shape));
}

}  // namespace

int64_t channel_axis(const NodeDef& node, const Shape& shape) {
  const int64_t rank = static_cast<int64_t>(shape.size()), axis = node.integer("axis", 0);
  if (axis < -rank || axis >= rank) node.fail("axis " + std::to_string(axis) + " is not one of rows " + to_string(shape));
  return axis < 0 ? axis + rank : axis;
}

void check_moves(const NodeDef& node, const Shape& shape) {
  Moved m{shape, {}, true};
  apply(node, m);
}

std::vector<int32_t> reshape_index(const NodeDef& node, const Shape& shape) {
  Moved m{shape, std::vector<int32_t>(static_cast<size_t>(product(shape))), false};
  std::iota(m.index.begin(), m.index.end(), 0);
  apply(node, m);
  return m.index;
}

std::vector<int32_t> upsample_index(const NodeDef& node, const Shape& shape) {
  Moved m{shape, std::vector<int32_t>(static_cast<size_t>(product(shape))), false};
  std::iota(m.index.begin(), m.index.end(), 0);
  const Ints& factors = node.list("factors");
  const Shape old = strides_of(shape);
  regather(m, node.shape, [&](const Shape& p) {
    int64_t at = p[0] * old[0];
    for (size_t i = 0; i < factors.size(); ++i) at += p[i + 1] / factors[i] * old[i + 1];
    return at;
  });
  return m.index;
}

std::vector<int32_t> broadcast_index(const Shape& from, const Shape& to) {
  Moved m{from, std::vector<int32_t>(static_cast<size_t>(product(from))), false};
  std::iota(m.index.begin(), m.index.end(), 0);
  const Shape old = strides_of(from);
  const size_t lead = to.size() - from.size();
  regather(m, to, [&](const Shape& p) {
    int64_t at = 0;
    for (size_t i = 0; i < from.size(); ++i) at += from[i] == 1 ? 0 : p[lead + i] * old[i];
    return at;
  });
  return m.index;
}

}  // namespace picojoule
