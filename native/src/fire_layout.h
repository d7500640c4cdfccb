#pragma once
// Constants of fused neurons (fire.h) in the narrowest lanes that hold every membrane.

#include <memory>
#include <new>
#include <vector>

#include "fire.h"
#include "neuron_constants.h"
#include "packed.h"

namespace picojoule {

class FireLayout {
 public:
  // `n` is settled and fits 31 bits; `x` are the sums of its channels with `bias`, which the kernel leaves out of
  // them; rows of `padded` sums come in and rows of `out` words leave.
  FireLayout(const NeuronConstants& n, const std::vector<Range>& x, const std::vector<int32_t>& bias, int64_t padded,
             const Packed& out, bool stream, Isa isa);

  FireJob job;
  int64_t bytes() const { return bytes_; }

 private:
  template <class E>
  void fill(const NeuronConstants& n, const std::vector<int32_t>& bias, Range v, bool direct);
  template <class E>
  void fill_table(const NeuronConstants& n, Range v, bool direct);

  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  template <class E>
  const std::byte* keep(const std::vector<E>& values);  // a copy on a border of vectors

  std::vector<std::unique_ptr<std::byte[], Free>> parts_;
  int64_t bytes_ = 0;
};

}  // namespace picojoule
