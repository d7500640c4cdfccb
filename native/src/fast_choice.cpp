// Which fast kernels can run a synapse and its neuron; every refusal says why.

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "fast.h"
#include "fast_groups.h"
#include "fast_synapse.h"
#include "lookup.h"
#include "lookup_words.h"
#include "moves.h"

namespace picojoule {

const char* name_of(Synapse kernel) {
  static const char* names[] = {"scalar", "event_bits", "event_rows", "dense_rows", "dense_bytes", "static_bits", "depth_bits",
                                "lookup_bits", "dot_bits", "lookup_words"};
  return names[static_cast<int>(kernel)];
}

const char* name_of(Fused kernel) {
  static const char* names[] = {"scalar", "rows", "planes"};
  return names[static_cast<int>(kernel)];
}

Layout packed_layout(const NodeDef& synapse) {
  return canonical(synapse, synapse.type == "Conv" ? Layout::packed_first : Layout::packed_last);
}

namespace {

// Of one output's weights.
struct Line {
  int64_t low, high;
  bool signs;
  long double up, down;  // sums of those above and below zero
};

template <class E>
Line line_of(const E* w, int64_t n) {
  using Sum = std::conditional_t<sizeof(E) <= 4, int64_t, long double>;
  E low = w[0], high = w[0];
  int others = 0;
  Sum up = 0, down = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, w[i]);
    high = std::max(high, w[i]);
    others |= (w[i] != 1) & (w[i] + 1 != 0);
    up += w[i] > 0 ? w[i] : 0;
    down += w[i] < 0 ? w[i] : 0;
  }
  return {low, high, !others, static_cast<long double>(up), static_cast<long double>(down)};
}

// Set bits of w - low.
template <class E>
int64_t set_bits(const E* w, int64_t size, int64_t low, int64_t high) {
  const uint64_t range = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  int64_t set = 0;
  for (int plane = 0; plane < 64 && range >> plane; ++plane) {
    for (int64_t from = 0; from < size; from += 65536) {  // counts of 32 bits: more lanes
      uint32_t some = 0;
      for (int64_t i = from; i < std::min(size, from + 65536); ++i)
        some += static_cast<uint32_t>(static_cast<std::make_unsigned_t<E>>(w[i] - static_cast<E>(low)) >> plane) & 1;
      set += some;
    }
  }
  return set;
}

}  // namespace

WeightFacts::WeightFacts(const NodeDef& node, const NodeDef& input) {
  const Tensor& weight = node.need("weight");
  const int64_t channels = weight.shape[0], size = weight.size(), n = size / channels;
  const Ints bias = node.tensor("bias") ? node.tensor("bias")->values() : Ints{0};
  std::vector<Line> lines;
  int64_t set = 0;
  with_integer(weight.dtype, [&](auto zero) {
    const auto* w = reinterpret_cast<const decltype(zero)*>(weight.data.data());
    low = high = w[0];
    for (int64_t o = 0; o < channels; ++o) {
      lines.push_back(line_of(w + o * n, n));
      low = std::min(low, lines.back().low);
      high = std::max(high, lines.back().high);
      signs = signs && lines.back().signs;
    }
    if (!signs) set = set_bits(w, size, low, high);
  });
  if (signs)
    for (auto& line : lines) set += static_cast<int64_t>(line.up);
  density = static_cast<double>(set) / static_cast<double>(size);
  few_words = node.type == "Conv" && CodeWords::of(weight, window_of(node, input).taps(), low, high);
  const long double top = input.kind.high(), bottom = input.kind.low();
  for (int64_t o = 0; o < channels; ++o) {
    const long double up = lines[o].up, down = lines[o].down, b = bias[bias.size() == 1 ? 0 : o];
    const long double most = up * std::max(top, 0.0L) + down * std::min(bottom, 0.0L);
    const long double least = down * std::max(top, 0.0L) + up * std::min(bottom, 0.0L);
    const long double sum = (up - down) * magnitude(input.kind);
    sum_bound = std::max(sum_bound, sum);
    total_bound = std::max(total_bound, sum + std::fabs(b));
    const auto wide = [](long double x) {
      return static_cast<int64_t>(std::clamp<long double>(x, -static_cast<long double>(Range::kWide), Range::kWide));
    };
    outputs.push_back({wide(least + b), wide(most + b)});
  }
}

int WeightFacts::planes() const {
  int planes = 1;
  while (!signs && (high - low) >> planes) ++planes;
  return planes;
}

ByteSums WeightFacts::byte_sums(const Kind& input) const {
  const long double range = input.high() - input.low();
  if (sum_bound / magnitude(input) * range <= 32767) return ByteSums::sixteen;
  return 2 * range * static_cast<long double>(most()) <= 32767 ? ByteSums::pairs : ByteSums::halves;
}

// Bytes of one padded image stay small, and so does what lies between two taps.
static bool padded_image(const Window& w) {
  int64_t size = w.channels_in;
  for (int i = 0; i < 3; ++i) {
    constexpr int64_t limit = int64_t{1} << 24;
    if (w.out[i] < 1 || w.out[i] > limit || w.stride[i] > limit || w.dilation[i] > limit || w.kernel[i] > limit) return false;
    const int64_t extent = (w.out[i] - 1) * w.stride[i] + (w.kernel[i] - 1) * w.dilation[i] + 1;
    if (extent > limit / size) return false;
    size *= extent;
  }
  return true;
}

// Inputs in two pieces whose sums fit 32 bits each (fast_words.inl).
static bool fits_in_pieces(const NodeDef& node, const NodeDef& input, const WeightFacts& facts) {
  const Ints bias = node.tensor("bias") ? node.tensor("bias")->values() : Ints{0};
  const bool small = std::all_of(bias.begin(), bias.end(), [](int64_t b) { return b > -(int64_t{1} << 31) && b < int64_t{1} << 31; });
  return small && magnitude(input.kind) > 32768 && fits32(facts.sum_bound / magnitude(input.kind) * 32768);
}

static std::string refuse_lookups(const Window& w, const Kind& input, const WeightFacts& facts) {
  if (facts.high - facts.low > 15) return "its weights need more than 4 bit-planes";
  if (magnitude(input) > kLookupSpikes) return "its spike counts pass " + std::to_string(kLookupSpikes);
  if (facts.sum_bound > 32767) return "its sums pass 16 bits";
  const int64_t groups = w.taps() * ((w.channels_in + 3) / 4), row = LookupLayout::row_bytes(w.channels_out, facts.planes(), 64);
  return groups >= (int64_t{32} << (32 - kPatternBits)) / row ? "its rows of nibbles pass 32 MiB" : "";
}

static std::string refuse_words(const Window& w, const Kind& input, const WeightFacts& facts) {
  if (w.taps() < 2 || w.taps() > kWordTaps) return "its window does not have 2 to " + std::to_string(kWordTaps) + " taps";
  if (!facts.few_words) return "its kernels are more than " + std::to_string(CodeWords::kMost) + " different ones";
  if (magnitude(input) > kLookupSpikes) return "its spike counts pass " + std::to_string(kLookupSpikes);
  if (largest_word_sum(w, input, facts) > 255) return "the sums of its kernels pass 8 bits";
  if (facts.sum_bound > 32767) return "its sums pass 16 bits";
  return w.in_pixels() > INT32_MAX ? "its image passes 2^31 pixels" : "";
}

std::string refuse(const NodeDef& node, const NodeDef& input, const WeightFacts& facts, Synapse kernel) {
  if (kernel == Synapse::scalar) return "";
  const Window w = window_of(node, input);
  const bool depthwise = w.groups == w.channels_in && w.groups == w.channels_out;
  if (kernel == Synapse::depth_bits && (!depthwise || node.type != "Conv")) return "it is not depthwise";
  if (kernel != Synapse::depth_bits && w.groups != 1) {
    if (depthwise) return "it is depthwise";
    const GroupLayer layer = layer_of(node, input, facts, 1);
    return refuse(layer.node, layer.input, layer.facts, kernel);
  }
  // Sums wrap, so that a result of up to 32 bits is right whatever lies between.
  const bool pieces = kernel == Synapse::dense_rows && fits_in_pieces(node, input, facts);
  if (!fits32(facts.total_bound) && node.kind.storage() == Dtype::i64 && !pieces) return "its sums pass 32 bits";
  const Kind& kind = input.kind;
  if (kernel == Synapse::dense_bytes) {
    if (kind.storage() != Dtype::i8) return "its input passes 8 bits";
    if (facts.low < -128 || facts.high > 127) return "its weights pass 8 bits";
    return padded_image(w) ? "" : "its padded image is too large";
  }
  if (kernel == Synapse::dense_rows) {
    if (kind.low() < -(int64_t{1} << 30) || kind.high() >= int64_t{1} << 30) return "its input passes 31 bits";
    if (facts.low < -32768 || facts.high > 32767) return "its weights pass 16 bits";
    return padded_image(w) ? "" : "its padded image is too large";
  }
  if (kind.name == KindName::time || kind.name == KindName::fixed) return "its input holds no spike counts";
  if (planes_of(kind) > 16) return "its input has more than 16 bit-planes";
  if (kernel == Synapse::depth_bits) {
    if (facts.low < -128 || facts.high > 127) return "its weights pass 8 bits";
    return padded_image(w) ? "" : "its padded image is too large";
  }
  if (kernel == Synapse::lookup_words) return refuse_words(w, kind, facts);
  const bool bits = kernel != Synapse::event_rows;
  if (bits && facts.planes() > kMaxWeightPlanes) return "its weights need more than 8 bit-planes";
  const int64_t k = w.taps() * w.channels_in, outputs = (w.channels_out + 255) / 256 * 256;
  const int64_t row = bits ? std::max<int64_t>(32, outputs / 8 * facts.planes()) : outputs;
  if (k > (int64_t{1} << 30) / row) return "its weight rows pass 2^30 bytes";
  if (kernel == Synapse::event_rows) return facts.low < -128 || facts.high > 127 ? "its weights pass 8 bits" : "";
  if (sums_shorts(kernel)) return refuse_lookups(w, kind, facts);
  if (kernel == Synapse::static_bits && k > (int64_t{1} << 28) / outputs) return "its lists of set bits pass 2^28 entries";
  return w.channels_out > 16384 ? "it has more than 16384 outputs" : "";
}

bool plane_levels(const NodeDef& neuron, const NeuronConstants& n, bool stream) {
  const auto levels = static_cast<int>(n.thresholds.size()) + n.ternary;
  return n.forgets(stream) && !n.table && levels <= kMaxLevels && neuron.kind.name != KindName::time;
}

namespace {

bool power_of_two(int64_t x, int* log) {
  if (x <= 0 || (x & (x - 1))) return false;
  *log = 63 - __builtin_clzll(static_cast<uint64_t>(x));
  return true;
}

std::string refuse_planes(const NodeDef& neuron, const NeuronConstants& n, const WeightFacts& facts, bool stream) {
  if (plane_levels(neuron, n, stream)) return "";
  if (n.table) return "it has a membrane table";
  if (neuron.kind.name != KindName::binary) return "its spikes are not binary";
  if (!n.decay.uniform()) return "its decays differ";
  int log = 0;
  if (n.decay.values[0] != 0 && (!power_of_two(n.decay.values[0], &log) || log > n.decay_shift))
    return "its decay is no power of two up to 1";
  if (!n.gain.steady()) return "its gain changes with time";
  for (int64_t g : n.gain.values)
    if (!power_of_two(std::abs(g), &log) || std::abs(g) != std::abs(n.gain.values[0])) return "its gains are not +-2^k";
  return n.membrane(facts.outputs, n.steps, stream).bits() > 47 ? "its membrane needs more than 48 planes" : "";
}

}  // namespace

std::string refuse(const NodeDef& synapse, const NodeDef& neuron, const WeightFacts& facts, Fused kernel, bool stream) {
  if (kernel == Fused::none) return "";
  NeuronConstants n(neuron);
  n.settle(facts.outputs, stream);
  const int64_t axis = channel_axis(neuron, neuron.shape), rank = static_cast<int64_t>(neuron.shape.size());
  if (axis != (synapse.type == "Conv" ? 0 : rank - 1)) return "its channels are not those of its synapse";
  if (!fits32(facts.total_bound)) return "the sums of its synapse pass 32 bits";
  if (neuron.kind.name == KindName::time) return "it gives spike times";
  if (planes_of(neuron.kind) > 16) return "it has too many levels";
  if (stream && !n.bounded(facts.outputs)) return "its membrane is not bounded in a stream";
  if (kernel == Fused::planes) return refuse_planes(neuron, n, facts, stream);
  if (n.decay_shift > 30) return "its decay shift passes 30";
  long double gain = 0, bias = 0;
  for (int64_t g : n.gain.values) gain = std::max(gain, std::fabs(static_cast<long double>(g)));
  for (int64_t b : n.bias.values) bias = std::max(bias, std::fabs(static_cast<long double>(b)));
  if (!fits32(2 * (gain * facts.total_bound + bias)) || !n.fit31(facts.outputs, stream ? n.kForever : n.steps))
    return "its membrane passes 31 bits";
  return "";
}

}  // namespace picojoule
