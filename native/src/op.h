#pragma once
// What every kernel implements: one node for some steps of one sample.

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "function_ref.h"
#include "picojoule/graph.h"

namespace picojoule {

// Rows of one value of one sample. Dense rows are C-ordered integers. Rows that are equal at every step
// are stored once (row_bytes 0), which is how a constant first layer is computed once a sample.
struct View {
  std::byte* data = nullptr;
  Dtype dtype = Dtype::i64;
  int64_t size = 0;       // elements of a row
  int64_t row_bytes = 0;  // from one step to the next
  int64_t rows = 1;

  std::byte* row(int64_t t) const { return data + t * row_bytes; }
  template <class E>
  E* as(int64_t t) const { return reinterpret_cast<E*>(row(t)); }
};

// Splits [0, n) over workers; the result never depends on how.
class Parallel {
 public:
  virtual ~Parallel() = default;
  virtual int workers() const = 0;
  virtual void run(int64_t n, FunctionRef<void(int64_t begin, int64_t end, int worker)> body) const = 0;
};

// No splitting: everything in the caller.
class Serial : public Parallel {
 public:
  int workers() const override { return 1; }
  void run(int64_t n, FunctionRef<void(int64_t, int64_t, int)> body) const override { body(0, n, 0); }
};

// Memory of one worker, reused by every kernel; contents do not survive a kernel.
class Scratch {
 public:
  template <class E>
  E* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(E) + 127) / 64 * 64;
    blocks_.resize(std::max(blocks_.size(), used_ + 1));
    auto& block = blocks_[used_++];
    block.grow(bytes);
    return reinterpret_cast<E*>(block.memory.get());
  }
  void clear() { used_ = 0; }
  // What was taken since a mark may be taken again.
  using Mark = size_t;
  Mark mark() const { return used_; }
  void back_to(Mark mark) { used_ = mark; }
  // Room for all that `other` has room for since the mark.
  void keep_up_with(const Scratch& other, Mark mark) {
    blocks_.resize(std::max(blocks_.size(), other.blocks_.size()));
    for (size_t i = mark; i < other.blocks_.size(); ++i) blocks_[i].grow(other.blocks_[i].size);
  }
  // For a program that runs inside a kernel; kept like everything else.
  Scratch& inner() {
    if (!inner_) inner_ = std::make_unique<Scratch>();
    return *inner_;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  struct Block {
    void grow(size_t bytes) {
      if (size >= bytes) return;
      memory.reset(new (std::align_val_t(64)) std::byte[bytes]);
      size = bytes;
    }
    std::unique_ptr<std::byte[], Free> memory;
    size_t size = 0;
  };
  std::vector<Block> blocks_;
  size_t used_ = 0;
  std::unique_ptr<Scratch> inner_;
};

struct BorderInput {
  const std::byte* data = nullptr;  // first row of this sample
  Dtype dtype = Dtype::f32;
};

struct Call {
  int64_t steps = 1;   // rows of a timed edge in this call
  int64_t first = 0;   // index of the first of them; 0 starts from rest
  const View* in = nullptr;
  View out;
  const View* more = nullptr;  // outputs after the first
  std::byte* state = nullptr;
  bool keep = false;   // the state is read by a later call
  Scratch* scratch = nullptr;      // one a worker
  const Parallel* parallel = nullptr;
  int64_t* switched = nullptr;  // counts the calls that took the other kernel of a plan
  const BorderInput* inputs = nullptr;
  int64_t* const* outputs = nullptr;
};

// Work of `bytes` for every worker of a call.
inline std::byte** works(const Call& call, int64_t bytes) {
  const int workers = call.parallel->workers();
  std::byte** work = call.scratch[0].take<std::byte*>(workers);
  for (int i = 0; i < workers; ++i) work[i] = call.scratch[i].take<std::byte>(bytes);
  return work;
}

class Op {
 public:
  virtual ~Op() = default;
  virtual void run(const Call& call) const = 0;
  virtual int64_t state_bytes() const { return 0; }   // of one sample
  virtual int64_t constant_bytes() const { return 0; }
};

using OpPtr = std::unique_ptr<Op>;

// Row t of a dense view as accumulators, and back.
template <class A>
const A* widen(const View& view, int64_t t, A* to) {
  with_integer(view.dtype, [&](auto zero) {
    const auto* from = view.as<decltype(zero)>(t);
    for (int64_t i = 0; i < view.size; ++i) to[i] = static_cast<A>(from[i]);
  });
  return to;
}
template <class A>
void narrow(const A* from, const View& view, int64_t t) {
  with_integer(view.dtype, [&](auto zero) {
    auto* to = view.as<decltype(zero)>(t);
    for (int64_t i = 0; i < view.size; ++i) to[i] = static_cast<decltype(zero)>(from[i]);
  });
}

template <class A>
A round_shift(A x, int shift, bool half_up) {
  return shift == 0 ? x : (x + (half_up ? A{1} << (shift - 1) : A{0})) >> shift;
}

// True when |x| <= bound is safe in 32-bit arithmetic.
inline bool fits32(long double bound) { return bound < 2147483000.0L; }
long double magnitude(const Kind& kind);

// Scalar oracles, one family a file. `inputs` are the definitions of the node's inputs.
using Defs = std::vector<const NodeDef*>;
OpPtr make_input(const NodeDef& node, int slot, bool raw);
OpPtr make_output(const NodeDef& node, int slot);
OpPtr make_repeat(const NodeDef& node);
OpPtr make_conv(const NodeDef& node, const Defs& inputs);
OpPtr make_linear(const NodeDef& node, const Defs& inputs);
OpPtr make_matmul(const NodeDef& node, const Defs& inputs);
OpPtr make_neuron(const NodeDef& node, const Defs& inputs, bool stream);
OpPtr make_add(const NodeDef& node, const Defs& inputs);
OpPtr make_mul(const NodeDef& node, const Defs& inputs);
OpPtr make_logic(const NodeDef& node, const Defs& inputs);
OpPtr make_affine(const NodeDef& node, const Defs& inputs);
OpPtr make_lut(const NodeDef& node);
OpPtr make_pool(const NodeDef& node, const Defs& inputs);
OpPtr make_mean(const NodeDef& node, const Defs& inputs);
OpPtr make_concat(const NodeDef& node, const Defs& inputs);
OpPtr make_gather(const NodeDef& node, const Defs& inputs);  // Reshape and Upsample
OpPtr make_readout(const NodeDef& node);
OpPtr make_timemix(const NodeDef& node);
OpPtr make_scan(const NodeDef& node);

}  // namespace picojoule
