// Convolutions as sums of shifted rows: every channel is laid out padded, one image a phase of the stride, so
// that a tap is the same row read from another place. Meant for depthwise layers, where sums are short.

#include <algorithm>

#include "rows.h"
#include "rows_ops.h"

namespace picojoule {
namespace {

constexpr int64_t kMost = int64_t{1} << 22;  // taps, and elements of all padded channels

// Where a coordinate along the padded axis lies: image of its phase, and place in it.
struct Phases {
  int64_t stride[3], extent[3], plane = 1;
  bool fits = true;

  explicit Phases(const Window& w) {
    for (int i = 0; i < 3; ++i) {
      stride[i] = w.stride[i];
      fits = fits && stride[i] <= 64 && w.out[i] > 0 && w.out[i] <= kMost && w.dilation[i] * (w.kernel[i] - 1) <= kMost;
      if (!fits) return;
      extent[i] = ((w.out[i] - 1) * stride[i] + w.dilation[i] * (w.kernel[i] - 1)) / stride[i] + 1;
      plane *= stride[i] * extent[i];
      fits = plane <= kMost;
    }
    fits = fits && plane * w.channels_in <= kMost;
  }
  // -1 when no output reads the place.
  int64_t at(int64_t z, int64_t y, int64_t x) const {
    const int64_t p[3] = {z, y, x};
    int64_t phase = 0, place = 0;
    for (int i = 0; i < 3; ++i) {
      phase = phase * stride[i] + p[i] % stride[i];
      if (p[i] / stride[i] >= extent[i]) return -1;
      place = place * extent[i] + p[i] / stride[i];
    }
    return phase * (extent[0] * extent[1] * extent[2]) + place;
  }
};

template <class A>
class ShiftedOp : public Op {
 public:
  ShiftedOp(const Window& w, const Ints& weight, const Ints& bias, const RowsTable& table)
      : table_(table), w_(w), phases_(w) {
    for (int64_t z = 0; z < w.in[0]; ++z)
      for (int64_t y = 0; y < w.in[1]; ++y)
        for (int64_t x = 0; x < w.in[2]; ++x)
          place(static_cast<int32_t>((z * w.in[1] + y) * w.in[2] + x),
                static_cast<int32_t>(phases_.at(z + w.before[0], y + w.before[1], x + w.before[2])));
    const int64_t group_in = w.channels_in / w.groups, group_out = w.channels_out / w.groups;
    starts_.push_back(0);
    size_t i = 0;
    for (int64_t o = 0; o < w.channels_out; ++o) {
      for (int64_t c = 0; c < group_in; ++c)
        for (int64_t a = 0; a < w.kernel[0]; ++a)
          for (int64_t b = 0; b < w.kernel[1]; ++b)
            for (int64_t e = 0; e < w.kernel[2]; ++e) {
              const int64_t from = (o / group_out * group_in + c) * phases_.plane +
                                   phases_.at(a * w.dilation[0], b * w.dilation[1], e * w.dilation[2]);
              if (weight[i] != 0) taps_.push_back({static_cast<int32_t>(from), static_cast<int32_t>(weight[i])});
              ++i;
            }
      starts_.push_back(static_cast<int64_t>(taps_.size()));
    }
    for (int64_t o = 0; o < w.channels_out; ++o) bias_.push_back(static_cast<int32_t>(bias[bias.size() == 1 ? 0 : o]));
    count_ = ((w.out[0] - 1) * phases_.extent[1] + w.out[1] - 1) * phases_.extent[2] + w.out[2];
  }
  int64_t constant_bytes() const override { return taps_.size() * sizeof(Tap) + bias_.size() * 4 + pieces_.size() * sizeof(Piece); }

  void run(const Call& call) const override {
    const int64_t total = phases_.plane * w_.channels_in;
    A* x = call.scratch[0].take<A>(total + 128);
    const int workers = call.parallel->workers();
    A** sums = call.scratch[0].take<A*>(workers);
    for (int i = 0; i < workers; ++i) sums[i] = call.scratch[i].take<A>(count_ + 128);
    for (int64_t t = 0; t < call.out.rows; ++t) {
      std::fill(x, x + total + 128, A{0});
      with_integer(call.in[0].dtype, [&](auto zero) { lay_out(call.in[0].as<decltype(zero)>(t), x); });
      call.parallel->run(w_.channels_out, [&](int64_t begin, int64_t end, int worker) {
        for (int64_t o = begin; o < end; ++o) {
          add(x, o, sums[worker]);
          with_integer(call.out.dtype, [&](auto zero) {
            take_out(sums[worker], call.out.as<decltype(zero)>(t) + o * w_.out_pixels());
          });
        }
      });
    }
  }

 private:
  // Pixels that stay neighbours.
  struct Piece {
    int32_t from, to, count;
  };
  void place(int32_t from, int32_t to) {
    if (to < 0) return;
    if (!pieces_.empty()) {
      Piece& last = pieces_.back();
      if (last.from + last.count == from && last.to + last.count == to) {
        ++last.count;
        return;
      }
    }
    pieces_.push_back({from, to, 1});
  }

  template <class E>
  void lay_out(const E* from, A* x) const {
    const int64_t pixels = w_.in_pixels();
    for (int64_t c = 0; c < w_.channels_in; ++c, from += pixels, x += phases_.plane)
      for (const Piece& piece : pieces_)
        for (int32_t i = 0; i < piece.count; ++i) x[piece.to + i] = static_cast<A>(from[piece.from + i]);
  }
  void add(const A* x, int64_t o, A* y) const {
    const Tap* taps = taps_.data() + starts_[o];
    const int64_t n = starts_[o + 1] - starts_[o];
    if constexpr (sizeof(A) == 2) table_.shifted16(x, taps, n, bias_[o], count_, y);
    else table_.shifted32(x, taps, n, bias_[o], count_, y);
  }
  template <class E>
  void take_out(const A* sums, E* y) const {
    for (int64_t a = 0; a < w_.out[0]; ++a)
      for (int64_t b = 0; b < w_.out[1]; ++b) {
        const A* row = sums + (a * phases_.extent[1] + b) * phases_.extent[2];
        for (int64_t e = 0; e < w_.out[2]; ++e) *y++ = static_cast<E>(row[e]);
      }
  }

  const RowsTable& table_;
  Window w_;
  Phases phases_;
  std::vector<Piece> pieces_;
  std::vector<int32_t> bias_;
  std::vector<Tap> taps_;
  Ints starts_;
  int64_t count_;
};

}  // namespace

namespace {

// Sums of 32 bits wrap, so that one that fits at the end is right.
OpPtr make(const NodeDef& node, const Window& w, const Ints& weight, const Ints& bias, long double bound,
           const RowsTable& table) {
  if (bound <= 32767) return std::make_unique<ShiftedOp<int16_t>>(w, weight, bias, table);
  if (node.kind.storage() != Dtype::i64) return std::make_unique<ShiftedOp<int32_t>>(w, weight, bias, table);
  return nullptr;
}

class ExtremeOp : public Op {
 public:
  ExtremeOp(const NodeDef& node, const Window& w, const RowsTable& table) : table_(table) {
    job_.channels = w.channels_in;
    for (int i = 0; i < 3; ++i) {
      job_.in[i] = w.in[i], job_.out[i] = w.out[i], job_.kernel[i] = w.kernel[i];
      job_.stride[i] = w.stride[i], job_.before[i] = w.before[i];
    }
    job_.line = std::max((w.out[2] - 1) * w.stride[2] + w.kernel[2], w.before[2] + w.in[2]) + 64;
    const bool low = node.text("mode") == "min";
    const Tensor* flip = node.tensor("flip");
    const Ints flips = flip ? flip->values() : Ints{0};
    for (int64_t c = 0; c < w.channels_in; ++c) minimum_.push_back(low != (flips[flips.size() == 1 ? 0 : c] != 0));
    job_.minimum = minimum_.data();
  }
  int64_t constant_bytes() const override { return minimum_.size(); }
  void run(const Call& call) const override {
    const int bytes = static_cast<int>(bytes_of(call.in[0].dtype));
    std::byte* line = call.scratch->take<std::byte>(job_.line * bytes);
    for (int64_t t = 0; t < call.out.rows; ++t) table_.extreme(job_, call.in[0].row(t), bytes, line, call.out.row(t));
  }

 private:
  const RowsTable& table_;
  ExtremeJob job_;
  std::vector<uint8_t> minimum_;
};

}  // namespace

OpPtr make_rows_pool(const NodeDef& node, const NodeDef& input, const RowsTable& table) {
  Window w = window_of(node, input);
  if (node.text("mode") != "sum") {
    const bool small = w.in[2] + (w.out[2] - 1) * w.stride[2] + w.kernel[2] <= kMost;
    return small && node.kind.storage() == input.kind.storage() ? std::make_unique<ExtremeOp>(node, w, table) : nullptr;
  }
  if (w.taps() > kMost / std::max<int64_t>(1, w.channels_in)) return nullptr;
  w.groups = w.channels_out = w.channels_in;
  if (!Phases(w).fits) return nullptr;
  return make(node, w, Ints(w.channels_in * w.taps(), 1), {0}, magnitude(input.kind) * w.taps(), table);
}

OpPtr make_rows_conv(const NodeDef& node, const NodeDef& input, const RowsTable& table) {
  const Window w = window_of(node, input);
  if (node.need("weight").size() > kMost || !Phases(w).fits) return nullptr;
  const WeightFacts facts(node, input);
  const Ints bias = node.tensor("bias") ? node.tensor("bias")->values() : Ints{0};
  const long double bound = std::max({facts.total_bound, magnitude(input.kind), -static_cast<long double>(facts.low),
                                      static_cast<long double>(facts.high)});
  return make(node, w, node.need("weight").values(), bias, bound, table);
}

}  // namespace picojoule
