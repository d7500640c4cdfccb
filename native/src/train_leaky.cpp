#include "train_leaky.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "pool.h"

namespace picojoule::train {
namespace {

const LeakyTable& table() {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2");
  if (avx2) return kLeakyAvx2;
#endif
  return kLeakyGeneric;
}

// Fewer neurons a piece over many steps, so that recomputed membranes stay in the second cache level.
int64_t piece_of(int64_t steps) { return std::clamp<int64_t>(32768 / std::max<int64_t>(steps, 1) / 64 * 64, 128, kPiece); }

// A worker is worth waking for about 64 Ki neuron-steps.
int useful_workers(int64_t steps, int64_t width, int workers) {
  return static_cast<int>(std::clamp<int64_t>(steps * width / 65536, 1, std::max(workers, 1)));
}

constexpr int64_t kPieces = 8;  // pieces that a worker takes at once

// Results beyond this size leave the caches before anyone reads them.
constexpr int64_t kFarBytes = 32 << 20;

bool is_far(int64_t steps, int64_t width) { return steps * width * static_cast<int64_t>(sizeof(float)) >= kFarBytes; }

template <class Body>
void in_pieces(int64_t steps, int64_t width, int workers, const Body& body) {
  const int64_t piece = piece_of(steps);
  split_over_workers(width, piece * kPieces, useful_workers(steps, width, workers), false,
                     [&](int64_t begin, int64_t end, int) { body(begin, end, piece); });
}

void check(int64_t steps, int64_t width) {
  if (steps < 1 || width < 0) throw std::invalid_argument("a leaky kernel needs at least 1 step and no negative width");
}

}  // namespace

void leaky_forward(const Leaky& rule, const Forward& call, int64_t steps, int64_t width, int workers) {
  check(steps, width);
  if (!call.x && width) throw std::invalid_argument("the input is missing");
  if (call.form == Saved::recompute && call.saved) throw std::invalid_argument("form recompute saves nothing");
  in_pieces(steps, width, workers, [&](int64_t begin, int64_t end, int64_t piece) {
    for (; begin < end; begin += piece)
      table().forward(rule, call, steps, width, begin, std::min(piece, end - begin), is_far(steps, width));
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
  in_pieces(steps, width, workers, [&](int64_t begin, int64_t end, int64_t piece) {
    std::vector<float> scratch(call.form == Saved::recompute ? scratch_floats(steps, piece) : 0);
    for (; begin < end; begin += piece)
      table().backward(rule, call, steps, width, begin, std::min(piece, end - begin), is_far(steps, width),
                       scratch.data());
  });
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
