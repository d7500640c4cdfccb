// Builds the vector kernels of Add, Mul, Affine, MatMul and of sums over the last axes.

#include "rows_ops.h"

#include <algorithm>
#include <cmath>

#include "moves.h"
#include "rows.h"

namespace picojoule {
namespace {

int element(const View& view) { return static_cast<int>(bytes_of(view.dtype)); }

std::vector<int32_t> spread_index(const NodeDef& input, const NodeDef& node) {
  return input.shape == node.shape ? std::vector<int32_t>{} : broadcast_index(input.shape, node.shape);
}

// Row t as int32, broadcast to the output; `flat` and `spread` are scratch.
const int32_t* broadcast_row(const RowsTable& table, const View& in, int64_t t, const std::vector<int32_t>& index,
                             int32_t* flat, int32_t* spread) {
  table.widen(in.row(t), element(in), in.size, flat);
  if (index.empty()) return flat;
  for (size_t i = 0; i < index.size(); ++i) spread[i] = flat[index[i]];
  return spread;
}

class AddRows : public Op {
 public:
  AddRows(const NodeDef& node, const Defs& in, const RowsTable& table) : table_(table) {
    const Ints &shifts = node.list("shifts"), &signs = node.list("signs");
    for (size_t i = 0; i < in.size(); ++i) {
      factors_.push_back(static_cast<int32_t>(signs[i] * (int64_t{1} << shifts[i])));
      maps_.push_back(spread_index(*in[i], node));
    }
  }
  void run(const Call& call) const override {
    const int64_t n = call.out.size;
    int32_t *sum = call.scratch->take<int32_t>(n), *room = call.scratch->take<int32_t>(n);
    int64_t widest = n;
    for (size_t i = 0; i < factors_.size(); ++i) widest = std::max(widest, call.in[i].size);
    int32_t* flat = call.scratch->take<int32_t>(widest);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      std::fill(sum, sum + n, 0);
      for (size_t i = 0; i < factors_.size(); ++i) {
        const View& in = call.in[i];
        if (maps_[i].empty()) table_.accumulate(in.row(t), element(in), n, factors_[i], sum);
        else table_.accumulate(broadcast_row(table_, in, t, maps_[i], flat, room), 4, n, factors_[i], sum);
      }
      table_.narrow(sum, n, element(call.out), call.out.row(t));
    }
  }

 private:
  const RowsTable& table_;
  std::vector<int32_t> factors_;
  std::vector<std::vector<int32_t>> maps_;
};

class MulRows : public Op {
 public:
  MulRows(const NodeDef& node, const Defs& in, const RowsTable& table)
      : table_(table), left_(spread_index(*in[0], node)), right_(spread_index(*in[1], node)) {}
  void run(const Call& call) const override {
    const int64_t n = call.out.size, wide = std::max({n, call.in[0].size, call.in[1].size});
    int32_t* room[5];
    for (auto& part : room) part = call.scratch->take<int32_t>(wide);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      const int32_t* a = broadcast_row(table_, call.in[0], t, left_, room[0], room[1]);
      const int32_t* b = broadcast_row(table_, call.in[1], t, right_, room[2], room[3]);
      table_.multiply(a, b, n, room[4]);
      table_.narrow(room[4], n, element(call.out), call.out.row(t));
    }
  }

 private:
  const RowsTable& table_;
  std::vector<int32_t> left_, right_;
};

// Products that pass 32 bits are made in 64.
enum class Width { none, narrow, wide };

class AffineRows : public Op {
 public:
  AffineRows(const NodeDef& node, bool wide, const RowsTable& table) : table_(table) {
    const int64_t axis = channel_axis(node, node.shape), shift = node.integer("shift", 0);
    job_.wide = wide;
    job_.channels = node.shape[axis];
    for (int64_t i = 0; i < axis; ++i) job_.outer *= node.shape[i];
    for (size_t i = axis + 1; i < node.shape.size(); ++i) job_.inner *= node.shape[i];
    job_.shift = static_cast<int>(shift);
    const int64_t half = node.text("rounding") == "half_up" && shift > 0 ? int64_t{1} << (shift - 1) : 0;
    const Ints gain = node.need("gain").values(), bias = node.need("bias").values();
    for (int64_t c = 0; c < job_.channels; ++c) {
      gain_.push_back(static_cast<int32_t>(gain[gain.size() == 1 ? 0 : c]));
      bias_.push_back(bias[bias.size() == 1 ? 0 : c] + half);
    }
    job_.gain = gain_.data(), job_.bias = bias_.data();
  }
  int64_t constant_bytes() const override { return gain_.size() * 4 + bias_.size() * 8; }
  void run(const Call& call) const override {
    for (int64_t t = 0; t < call.out.rows; ++t)
      table_.affine(job_, call.in[0].row(t), element(call.in[0]), call.out.row(t), element(call.out));
  }

 private:
  const RowsTable& table_;
  AffineJob job_;
  std::vector<int32_t> gain_;
  Ints bias_;
};

// Sums of n elements that lie together.
class TotalRows : public Op {
 public:
  explicit TotalRows(int64_t n) : n_(n) {}
  void run(const Call& call) const override {
    for (int64_t t = 0; t < call.out.rows; ++t)
      with_integer(call.in[0].dtype, [&](auto zero) {
        const auto* x = call.in[0].as<decltype(zero)>(t);
        with_integer(call.out.dtype, [&](auto to) {
          auto* y = call.out.as<decltype(to)>(t);
          for (int64_t i = 0; i < call.out.size; ++i, x += n_) {
            int32_t sum = 0;
            for (int64_t k = 0; k < n_; ++k) sum += static_cast<int32_t>(x[k]);
            y[i] = static_cast<decltype(to)>(sum);
          }
        });
      });
  }

 private:
  int64_t n_;
};

// Elements a total adds when they lie together, else 0.
int64_t adds_together(const NodeDef& node, const NodeDef& input) {
  const int64_t rank = static_cast<int64_t>(input.shape.size());
  std::vector<bool> gone(rank, false);
  for (int64_t axis : node.list("axes")) gone[axis < 0 ? axis + rank : axis] = true;
  int64_t n = 1, axis = rank;
  while (axis > 0 && gone[axis - 1]) n *= input.shape[--axis];
  return std::find(gone.begin(), gone.begin() + axis, true) == gone.begin() + axis ? n : 0;
}

long double largest(const Ints& values) {
  long double worst = 0;
  for (int64_t v : values) worst = std::max(worst, std::fabs(static_cast<long double>(v)));
  return worst;
}

// Sums and products wrap, so that a result of up to 32 bits is right whatever lies between.
bool wraps(const NodeDef& node) { return node.kind.storage() != Dtype::i64; }

bool add_fits(const NodeDef& node) {
  const Ints& shifts = node.list("shifts");
  return wraps(node) && std::all_of(shifts.begin(), shifts.end(), [](int64_t s) { return s <= 30; });
}

Width affine_width(const NodeDef& node, const Defs& in) {
  const int64_t shift = node.integer("shift", 0);
  const long double gain = largest(node.need("gain").values()), x = magnitude(in[0]->kind);
  const long double bound = gain * x + gain + largest(node.need("bias").values()) + std::ldexp(1.0L, static_cast<int>(shift));
  if (shift < 31 && fits32(bound) && fits32(x)) return Width::narrow;
  return shift <= 32 && fits32(gain) && bound < std::ldexp(1.0L, 62) ? Width::wide : Width::none;
}

}  // namespace

OpPtr make_rows(const NodeDef& node, const Defs& in, bool stream, Isa isa) {
  if (isa == Isa::scalar) return nullptr;
  const RowsTable& table = *rows_table(isa);
  const auto small = [&](long double bound) {
    return std::all_of(in.begin(), in.end(), [&](auto* def) { return magnitude(def->kind) <= bound; });
  };
  if (node.type == "Neuron") return make_rows_neuron(node, *in[0], stream, table, isa);
  if (node.type == "Pool") return make_rows_pool(node, *in[0], table);
  if (node.type == "Mean") {
    const int64_t n = adds_together(node, *in[0]);
    return n > 0 && wraps(node) ? std::make_unique<TotalRows>(n) : nullptr;
  }
  if (node.type == "TimeMix") return make_rows_timemix(node, *in[0], table);
  if (node.type == "Conv") return make_rows_conv(node, *in[0], table);
  if (node.type == "Add" && add_fits(node)) return std::make_unique<AddRows>(node, in, table);
  if (node.type == "Affine") {
    const Width width = affine_width(node, in);
    return width == Width::none ? nullptr : std::make_unique<AffineRows>(node, width == Width::wide, table);
  }
  if (node.type == "Mul" && wraps(node)) return std::make_unique<MulRows>(node, in, table);
  if (node.type == "MatMul" && small(32768) && wraps(node)) return make_rows_product(node, in, isa);
  return nullptr;
}

}  // namespace picojoule
