#pragma once
// Sums of few-bit weights in 16 bits, outputs side by side in a vector. By table lookup: a byte shuffle reads, for
// every output at once, what four channels of a pixel bring to it; channels without spikes are skipped. As dot
// products: AND and bit count of sixteen channels at once, without lists, whatever fires.

#include <memory>
#include <new>
#include <vector>

#include "fast_layouts.h"
#include "isa.h"

namespace picojoule {

inline constexpr int kLookupSpikes = 7;        // largest count: three planes of four channels are a pattern
inline constexpr int64_t kLookupPixels = 8;    // of one piece of work
inline constexpr int kLookupVectors = 8;       // sums of bytes that are added up at once

// Functions of one instruction set.
struct LookupTable {
  int64_t span;  // outputs of a vector of bytes
  int64_t (*work_bytes)(const FastJob&);
  void (*decode)(const FastJob&, int64_t begin, int64_t end);  // image rows of all steps
  void (*sums)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // pieces of kLookupPixels pixels
  void (*dots)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // the same as dot products
};

extern const LookupTable kLookupGeneric, kLookupNeon, kLookupAvx2, kLookupAvx512;
const LookupTable& lookup_table(Isa isa);

struct NeuronConstants;
struct WeightFacts;

// The constants of what follows sums in 16 bits.
class ShortSums {
 public:
  virtual ~ShortSums() = default;
  // Neurons without memory compare sums with levels, others may leak and gain by shifts.
  void fuse(FastJob& job, const NeuronConstants& n, const WeightFacts& facts, const std::vector<int32_t>& bias, bool stream);
  int64_t bytes() const { return row_bytes_ + static_cast<int64_t>(edges_.size() + bias_.size()) * 2; }

 protected:
  void follow(FastJob& job, const std::vector<int32_t>& bias);  // `bias` is that of the synapse
  uint8_t* aligned_rows(int64_t bytes);  // zeros

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::unique_ptr<uint8_t, Free> rows_;  // aligned, so that no vector crosses a cache line
  int64_t row_bytes_ = 0;
  std::vector<int16_t> bias_, edges_;
  std::vector<uint64_t> flips_, valid_;
};

// The weights of a synapse as nibbles or words of single bits.
class LookupLayout : public ShortSums {
 public:
  // `job` has its shape; `weight` gives codes.
  LookupLayout(FastJob& job, const WeightFacts& facts, const Kind& input, const WeightAt& weight,
               const std::vector<int32_t>& bias, int64_t span, bool dots);

  // Bytes of the weights, in vectors of `span` outputs.
  static int64_t row_bytes(int64_t outputs, int planes, int64_t span) { return (outputs + span - 1) / span * planes * span; }

 private:
  void lay_nibbles(const FastJob& job, const WeightFacts& facts, const WeightAt& weight, int64_t span, uint8_t* rows);
  void lay_words(const FastJob& job, const WeightFacts& facts, const WeightAt& weight, int64_t span, uint8_t* rows);
};

// One call of lookup_bits or of dot_bits; `job` has its inputs and outputs.
void run_lookups(const Call& call, FastJob& job, Isa isa, bool dots);

}  // namespace picojoule
