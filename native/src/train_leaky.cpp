#include "train_leaky.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "isa.h"
#include "pool.h"
#include "train_short.h"

namespace picojoule::train {
namespace {

std::atomic<Isa> chosen{instruction_sets().back()};

const LeakyTable& table() {
#if defined(__x86_64__)
  const Isa isa = chosen.load(std::memory_order_relaxed);
  if (isa == Isa::avx512) return kLeakyAvx512;
  if (isa == Isa::avx2) return kLeakyAvx2;
#endif
  return kLeakyGeneric;
}

const ShortTable* short_table() {  // null where there is none
#if defined(__x86_64__)
  const Isa isa = chosen.load(std::memory_order_relaxed);
  if (isa == Isa::avx512) return &kShortAvx512;
  if (isa == Isa::avx2) return &kShortAvx2;
#endif
  return nullptr;
}

// Fewer neurons a piece over many steps, so that recomputed membranes stay in the second cache level.
int64_t piece_of(int64_t steps) {
  return std::clamp<int64_t>(131072 / std::max<int64_t>(steps, 1) / kBlock * kBlock, kBlock, kPiece);
}

// A worker is worth waking for about 64 Ki neuron-steps.
int useful_workers(int64_t values, int workers) {
  return static_cast<int>(std::clamp<int64_t>(values / 65536, 1, std::max(workers, 1)));
}

// Results beyond this size leave the caches before anyone reads them.
constexpr int64_t kFarBytes = 4 << 20;

bool is_far(int64_t values) { return values * static_cast<int64_t>(sizeof(float)) >= kFarBytes; }

// Shares of a sum: a fixed number, so that its order does not depend on the workers.
constexpr int64_t kShares = 64;

// body(begin, n, share) for pieces of [0, width); pieces of a share are taken in order by one worker.
template <class Body>
void in_pieces(int64_t steps, int64_t width, int64_t piece, int workers, const Body& body) {
  const int64_t pieces = (width + piece - 1) / piece, shares = std::min(pieces, kShares);
  split_over_workers(shares, 1, useful_workers(steps * width, workers), false, [&](int64_t first, int64_t last, int) {
    for (int64_t share = first; share < last; ++share)
      for (int64_t k = share * pieces / shares; k < (share + 1) * pieces / shares; ++k)
        body(k * piece, std::min(piece, width - k * piece), share);
  });
}

// sums[i] of all shares, in their order.
std::vector<double> total_of(const std::vector<double>& parts, int64_t size) {
  std::vector<double> total(size, 0.0);
  for (size_t part = 0; part < parts.size(); part += size)
    for (int64_t i = 0; i < size; ++i) total[i] += parts[part + i];
  return total;
}

void check_bits(bool any, int64_t width) {
  if (any && width % 8) throw std::invalid_argument("bits of spikes need steps of whole bytes");
}

void check(int64_t steps, int64_t width) {
  if (steps < 1 || width < 0) throw std::invalid_argument("a leaky kernel needs at least 1 step and no negative width");
}

}  // namespace

std::string train_isa() { return name_of(chosen); }

void set_train_isa(const std::string& name) { chosen = parse_isa(name); }

void leaky_forward(const Leaky& rule, const Forward& call, int64_t steps, int64_t width, int workers) {
  check(steps, width);
  if (!call.x && width) throw std::invalid_argument("the input is missing");
  if (call.form == Saved::recompute && call.saved) throw std::invalid_argument("form recompute saves nothing");
  if (call.bits && (call.brief || !call.spikes)) throw std::invalid_argument("bits are made of spikes in float32");
  check_bits(call.bits || call.norm.bits, width);
  const bool far = is_far(steps * width);
  const ShortTable* at_once = short_forward(rule, call, steps) ? short_table() : nullptr;
  in_pieces(steps, width, kPiece, workers, [&](int64_t begin, int64_t n, int64_t) {
    if (at_once) return at_once->forward(rule, call, width, begin, n, far);
    table().forward(rule, call, steps, width, begin, n, far);
  });
}

void leaky_backward(const Leaky& rule, const Backward& call, int64_t steps, int64_t width, int workers) {
  check(steps, width);
  const bool constants = call.decay || call.gain || call.bias;
  if (width && (call.form == Saved::recompute ? !call.x : !call.saved)) throw std::invalid_argument("the saved state is missing");
  if (constants && call.form != Saved::recompute)
    throw std::invalid_argument("gradients of constants need the input, not a saved state");
  if (rule.slope == Slope::given && rule.fires != Fires::integer && width &&
      (!call.up || (rule.fires == Fires::ternary && !call.down)))
    throw std::invalid_argument("the slopes are missing");
  if (call.form == Saved::byte && rule.fires == Fires::ternary)
    throw std::invalid_argument("ternary neurons have no byte form");
  if (call.form == Saved::byte && rule.fires == Fires::binary && rule.reset == Reset::hard && !rule.detach)
    throw std::invalid_argument("the gradient of a hard reset needs the membrane, which the byte form does not hold");
  if (call.sums && (!call.norm.scale || !call.unit || !call.centre || call.form != Saved::recompute))
    throw std::invalid_argument("sums by channel need a normalisation and the input");
  check_bits(call.norm.bits, width);
  const int64_t piece = call.form == Saved::recompute ? piece_of(steps) : kPiece, size = 2 * call.norm.count;
  const bool far = is_far(steps * width);
  const int64_t shares = std::min((width + piece - 1) / piece, kShares);
  std::vector<double> parts(call.sums ? shares * size : 0);
  const ShortTable* at_once = short_backward(rule, call, steps) ? short_table() : nullptr;
  in_pieces(steps, width, piece, workers, [&](int64_t begin, int64_t n, int64_t share) {
    double* own = call.sums ? parts.data() + share * size : nullptr;
    if (at_once) return at_once->backward(rule, call, width, begin, n, far, own);
    thread_local std::vector<float> scratch;
    if (call.form == Saved::recompute) scratch.resize(std::max<size_t>(scratch.size(), scratch_floats(steps, piece)));
    table().backward(rule, call, steps, width, begin, n, far, scratch.data(), own);
  });
  if (!call.sums) return;
  const std::vector<double> total = total_of(parts, size);
  std::copy(total.begin(), total.end(), call.sums);
}

void moments(const Rows& rows, int64_t total, int workers, double* mean, double* variance) {
  const int64_t count = rows.count;
  if (!rows.x || total < count || rows.inner < 1) throw std::invalid_argument("statistics need at least one value a channel");
  std::vector<float> anchor(count);  // the first value of each channel, near its mean, keeps the squares accurate
  const auto value = [&](int64_t i) {
    if (!rows.brief) return static_cast<const float*>(rows.x)[i];
    const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(rows.x)[i]) << 16;
    return std::bit_cast<float>(bits);
  };
  for (int64_t c = 0; c < count; ++c) anchor[c] = value(c * rows.inner);
  const int64_t shares = std::clamp<int64_t>(total / 16384, 1, kShares);
  std::vector<double> parts(shares * 2 * count);
  split_over_workers(shares, 1, useful_workers(total, workers), false, [&](int64_t first, int64_t last, int) {
    for (int64_t share = first; share < last; ++share) {
      const int64_t begin = share * (total / shares), end = share + 1 == shares ? total : begin + total / shares;
      table().moments(rows, anchor.data(), begin, end - begin, parts.data() + share * 2 * count);
    }
  });
  const std::vector<double> sums = total_of(parts, 2 * count);
  const double each = static_cast<double>(total / count);
  for (int64_t c = 0; c < count; ++c) {
    const double shift = sums[c] / each;
    mean[c] = anchor[c] + shift;
    variance[c] = std::max(0.0, sums[count + c] / each - shift * shift);
  }
}

void input_gradient(const Rows& rows, const InputGradient& call, int64_t total, int workers) {
  if (!rows.x || !call.dy || !call.dx) throw std::invalid_argument("rows are missing");
  const int64_t grain = 8 * kPiece;
  split_over_workers(total, grain, useful_workers(total, workers), false, [&](int64_t begin, int64_t end, int) {
    table().input_gradient(rows, call, begin, end - begin, is_far(total));
  });
}

int64_t count_bits(const uint8_t* bits, int64_t bytes) {
  int64_t count = 0, i = 0;
  for (; i + 8 <= bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, bits + i, 8);
    count += std::popcount(word);
  }
  for (; i < bytes; ++i) count += std::popcount(bits[i]);
  return count;
}

void sum_by_constant(const float* each, int64_t width, int64_t inner, int64_t count, float* out) {
  if (inner < 1 || count < 1) throw std::invalid_argument("a constant needs at least one value");
  std::vector<double> sums(count, 0.0);
  for (int64_t i = 0, c = 0; i < width; i += inner, c = c + 1 == count ? 0 : c + 1) {
    double sum = 0;
    for (int64_t k = i; k < std::min(i + inner, width); ++k) sum += each[k];
    sums[c] += sum;
  }
  for (int64_t c = 0; c < count; ++c) out[c] = static_cast<float>(sums[c]);
}

int64_t saved_bytes(const Leaky& rule, Saved form) {
  switch (form) {
    case Saved::recompute: return 0;
    case Saved::half: return rule.fires == Fires::integer ? 1 : 2;
    case Saved::byte: return 1;
    case Saved::membrane: return 4;
  }
  return 0;
}

}  // namespace picojoule::train
