#pragma once
// Constants of fused neurons (fire.h) in the narrowest lanes that hold every membrane.

#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "fire.h"
#include "neuron_constants.h"
#include "packed.h"

namespace picojoule {

// Copies of constants on borders of vectors.
class Kept {
 public:
  template <class E>
  const std::byte* keep(const std::vector<E>& values) {
    const size_t size = values.size() * sizeof(E);
    parts_.emplace_back(new (std::align_val_t(64)) std::byte[size]);
    std::memcpy(parts_.back().get(), values.data(), size);
    bytes_ += static_cast<int64_t>(size);
    return parts_.back().get();
  }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::vector<std::unique_ptr<std::byte[], Free>> parts_;
  int64_t bytes_ = 0;
};

// Every h and v of a neuron, with what its table makes of them.
Range potential(const NeuronConstants& n, const std::vector<Range>& x, bool stream);

inline constexpr int64_t kMostDirect = 1 << 16;  // membranes of a table that is a plain list

// The membrane table of a neuron in lanes of E (int16_t or int32_t) for membranes in `v`: `direct` as a list.
template <class E>
FireTable make_table(const NeuronConstants& n, Range v, bool direct, Kept& kept);

class FireLayout {
 public:
  // `n` is settled and fits 31 bits; `x` are the sums of its channels with `bias`, which the kernel leaves out of
  // them; rows of `padded` sums come in and rows of `out` words leave.
  FireLayout(const NeuronConstants& n, const std::vector<Range>& x, const std::vector<int32_t>& bias, int64_t padded,
             const Packed& out, bool stream, Isa isa);

  FireJob job;
  int64_t bytes() const { return kept_.bytes(); }

 private:
  template <class E>
  void fill(const NeuronConstants& n, const std::vector<int32_t>& bias, Range v, bool direct);

  Kept kept_;
};

}  // namespace picojoule
