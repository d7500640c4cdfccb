#pragma once
// Sums of weights that repeat: the kernels of all pairs of channels are at most sixteen different ones, the code words
// of a codebook. For the spikes that a window holds of one input channel, a table gives the sum of every word; a byte
// shuffle reads for every output the sum of its word.

#include <optional>
#include <vector>

#include "lookup.h"

namespace picojoule {

inline constexpr int64_t kWordTaps = 9;   // of a kernel: 2^9 tables of 16 bytes are 8 KiB

// Functions of one instruction set.
struct WordTable {
  int64_t span;  // outputs of a vector of bytes
  int64_t (*work_bytes)(const FastJob&);
  void (*decode)(const FastJob&, int64_t begin, int64_t end);  // image rows of all steps
  void (*sums)(const FastJob&, int64_t begin, int64_t end, std::byte* work);  // pieces of kLookupPixels pixels
};

extern const WordTable kWordsGeneric, kWordsNeon, kWordsAvx2, kWordsAvx512;
const WordTable& word_table(Isa isa);

// The different kernels of a weight [..., taps], which may be expanded from a codebook or not.
class CodeWords {
 public:
  static constexpr size_t kMost = 16;
  // Nothing when they are more than kMost, or too long or wide to be told apart.
  static std::optional<CodeWords> of(const Tensor& weight, int64_t taps, int64_t low, int64_t high);

  size_t count() const { return keys_.size(); }
  int64_t at(size_t word, int64_t tap) const { return low_ + static_cast<int64_t>(keys_[word] >> (kBits * tap) & ((1 << kBits) - 1)); }
  size_t index(const Tensor& weight, int64_t kernel) const;  // of one of them

 private:
  static constexpr int kBits = 7;  // of a weight less the lowest
  uint64_t key(const Tensor& weight, int64_t kernel) const;
  std::vector<uint64_t> keys_;
  int64_t taps_ = 0, low_ = 0;
};

// Largest sum of a word in a table, where it is kept above zero.
int64_t largest_word_sum(const Window& w, const Kind& input, const WeightFacts& facts);

// Tables and indices of the words, two outputs a byte.
class WordLayout : public ShortSums {
 public:
  // `job` has its shape.
  WordLayout(FastJob& job, const WeightFacts& facts, const Kind& input, const Tensor& weight, const std::vector<int32_t>& bias, int64_t span);

  // Bytes of the indices, in vectors of `span` outputs.
  static int64_t row_bytes(int64_t outputs, int64_t span) { return (outputs + 2 * span - 1) / (2 * span) * span; }

 private:
  void lay_tables(const FastJob& job, const WeightFacts& facts, const CodeWords& words, uint8_t* to) const;
};

// One call; `job` has its inputs and outputs.
void run_words(const Call& call, FastJob& job, Isa isa);

}  // namespace picojoule
