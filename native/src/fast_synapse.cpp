// Builds weight rows and neuron constants of the fast kernels and runs them over pixels.

#include "fast_synapse.h"

#include <algorithm>

#include "fast.h"
#include "fast_depth.h"
#include "fast_groups.h"
#include "fast_layouts.h"
#include "fire_layout.h"
#include "lookup.h"
#include "lookup_words.h"
#include "pool.h"
#include "rows_ops.h"
#include "rows.h"

namespace picojoule {
namespace {

int bit_length(uint64_t x) { return x ? 64 - __builtin_clzll(x) : 0; }
constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Planes of one constant value at lane `lane` of [block][width] vectors.
void set_planes(std::vector<std::byte>& to, int64_t vector, int width, int64_t lane, int64_t value) {
  for (int i = 0; i < width; ++i)
    if (value >> i & 1) to[(vector + i) * 32 + lane / 8] |= std::byte(1 << (lane % 8));
}

class FastOp : public Op {
 public:
  FastOp(const NodeDef& synapse, const NodeDef& input, const NodeDef* neuron, const SynapsePlan& plan, Fused fused, bool stream,
         Layout from, Layout raw_layout, Isa isa)
      : table_(fast_table(isa)), rows_table_(*rows_table(isa)), isa_(isa), plan_(plan), packed_(holds_words(from)), last_(from == Layout::last),
        window_(window_of(synapse, input)), facts_(synapse, input),
        weight_(synapse.need("weight")) {
    shape(synapse, input);
    if (plan.kernel == Synapse::dense_rows) dense_weights(input.kind, synapse.kind.storage() == Dtype::i64);
    else if (plan.kernel == Synapse::event_rows) byte_weights();
    else if (plan.kernel == Synapse::depth_bits) depth_weights();
    else if (plan.kernel != Synapse::dense_bytes && !sums_shorts(plan.kernel)) bit_weights();
    if (plan.kernel == Synapse::dense_bytes) quads();
    if (plan.kernel == Synapse::static_bits) fixed();
    bias_.assign(job_.shape.padded, 0);
    if (const Tensor* bias = synapse.tensor("bias")) {
      const Ints given = bias->values();
      for (int64_t o = 0; o < window_.channels_out; ++o) bias_[o] = static_cast<int32_t>(given[given.size() == 1 ? 0 : o]);
    }
    Epilogue& e = job_.end;
    e.bias = bias_.data();
    if (plan.kernel == Synapse::lookup_words)
      lookups_ = std::make_unique<WordLayout>(job_, facts_, input.kind, weight_, bias_, word_table(isa).span);
    else if (sums_shorts(plan.kernel))
      lookups_ = std::make_unique<LookupLayout>(
          job_, facts_, input.kind, [&](int64_t o, int64_t tap, int64_t c) { return weight(o, tap, c); }, bias_, lookup_table(isa).span,
          plan.kernel == Synapse::dot_bits);
    if (fused == Fused::none) raw(synapse.type == "Conv" && raw_layout != Layout::last);
    else fuse(synapse, *neuron, fused, stream);
    weight_ = {};
  }

  int64_t constant_bytes() const override {
    const size_t layouts = (pairs_ ? pairs_->pairs.size() * 2 : 0) + (depth_ ? depth_->weights.size() * 8 : 0) + (fire_ ? fire_->bytes() : 0) + (lookups_ ? static_cast<size_t>(lookups_->bytes()) : 0);
    return rows_.size() + layouts + layout_bytes_ + bias_.size() * 4 + planes_.size();
  }
  int64_t state_bytes() const override {
    const Epilogue& e = job_.end;
    if (e.finish == Finish::rows) return job_.shape.pixels_out * job_.shape.padded * e.fire->lane;
    return e.finish == Finish::planes ? groups() * blocks() * e.width * 32 : 0;
  }

  void run(const Call& call) const override {
    FastJob job = job_;
    job.in = call.in[0].data;
    job.in_row_bytes = call.in[0].row_bytes;
    job.in_element = bytes_of(call.in[0].dtype);
    job.steps = call.out.rows;
    job.end.out = call.out.data;
    job.end.out_row_bytes = call.out.row_bytes;
    job.end.element = bytes_of(call.out.dtype);
    job.end.first = call.first;
    job.end.keep = call.keep;
    job.end.state = call.state;
    const Synapse kernel = plan_.high != Synapse::scalar && rate(job, call.in[0].rows) > plan_.boundary ? plan_.high : plan_.kernel;
    if (kernel != plan_.kernel && call.switched) ++*call.switched;
    if (kernel == Synapse::lookup_words) return run_words(call, job, isa_);
    if (sums_shorts(kernel)) return run_lookups(call, job, isa_, kernel == Synapse::dot_bits);
    if (kernel == Synapse::static_bits) return run_static(call, job);
    if (kernel == Synapse::dense_bytes) {
      quads().use(job);
      lay_out(call, job);
    } else if (kernel == Synapse::depth_bits) {
      const int64_t steps = job.in_row_bytes ? call.in[0].rows : 1;
      job.depth.image = call.scratch[0].take<uint64_t>(depth_words(job, steps));
      call.parallel->run(steps * job.in_planes, [&](int64_t begin, int64_t end, int) { lay_depth(job, begin, end); });
    } else if (kernel == Synapse::dense_rows) {
      const int64_t images = call.in[0].row_bytes ? call.in[0].rows : 1;
      job.words.image = call.scratch[0].take<int16_t>(images * job.words.step + 64);
      std::memset(job.words.image, 0, static_cast<size_t>(images * job.words.step + 64) * 2);
      call.parallel->run(images, [&](int64_t begin, int64_t end, int) { table_.lay_words(job, begin, end); });
    } else {
      const int64_t lines = call.in[0].rows * job.in_planes * job.shape.in[0] * job.shape.in[1];
      const int64_t slack = job.shape.channels * (job.shape.kernel[2] + job.weights.lists) + 2 * kOverrun;  // read, not used
      job.events.row = job.shape.in[2] * job.shape.channels + kOverrun;
      job.events.list = call.scratch[0].take<uint32_t>(lines * job.events.row + slack);
      job.events.starts = call.scratch[0].take<int32_t>(lines * (job.shape.in[2] + 1));
      call.parallel->run(lines, [&](int64_t begin, int64_t end, int) { table_.decode(job, begin, end); });
    }
    std::byte** work = works(call, table_.work_bytes(job));
    const auto body = kernel == Synapse::event_bits   ? table_.event_bits
                      : kernel == Synapse::event_rows ? table_.event_rows
                      : kernel == Synapse::dense_bytes ? table_.dense_bytes
                      : kernel == Synapse::depth_bits  ? table_.depth_bits
                                                       : table_.dense_rows;
    call.parallel->run(groups(), [&](int64_t begin, int64_t end, int worker) { body(job, begin, end, work[worker]); });
  }

 private:
  int64_t groups() const { return (job_.shape.pixels_out + job_.weights.lists - 1) / job_.weights.lists; }
  void run_static(const Call& call, FastJob& job) const {
    fixed().use(job, table_.static_lanes);
    std::byte** work = works(call, table_.static_bytes(job));
    const int64_t pieces = (job.shape.pixels_out + job.fixed.chunk - 1) / job.fixed.chunk;
    call.parallel->run(pieces, [&](int64_t begin, int64_t end, int worker) { table_.static_bits(job, begin, end, work[worker]); });
  }

  // Share of set bits in the packed input of one sample.
  double rate(const FastJob& job, int64_t rows) const {
    const int64_t words = job.in_planes * job.shape.pixels_in * job.shape.words, all = job.in_row_bytes ? rows : 1;
    int64_t bits = 0;
    for (int64_t t = 0; t < all; ++t) bits += table_.popcount(reinterpret_cast<const uint64_t*>(job.in + t * job.in_row_bytes), words);
    return static_cast<double>(bits) / static_cast<double>(all * job.in_planes * job.shape.pixels_in * job.shape.channels);
  }

  const QuadLayout& quads() const {
    return quads_.get(list_mutex(), [&] {
      if (!rows_.empty())  // beside event_rows
        return std::make_unique<const QuadLayout>(job_, low_, [&](int64_t o, int64_t tap, int64_t c) {
          return static_cast<int64_t>(static_cast<int8_t>(rows_[byte_at(o, tap, c)] ^ low_bytes_lifted(o)));
        });
      auto made = std::make_unique<const QuadLayout>(job_, low_, [&](int64_t o, int64_t tap, int64_t c) { return weight(o, tap, c); });
      layout_bytes_ = static_cast<int64_t>(made->quads.size());
      return made;
    });
  }
  const FixedLayout& fixed() const {
    return fixed_.get(list_mutex(), [&] {
      auto made = std::make_unique<const FixedLayout>(job_);
      if (plan_.kernel == Synapse::static_bits) layout_bytes_ = static_cast<int64_t>((made->rows.size() + made->starts.size()) * 4);
      return made;
    });
  }

  int64_t blocks() const { return job_.weights.lists > 1 ? 1 : (window_.channels_out + 255) / 256; }
  int64_t weight(int64_t o, int64_t tap, int64_t c) const {
    return weight_.at((o * (window_.channels_in / window_.groups) + c) * window_.taps() + tap);
  }

  void shape(const NodeDef& synapse, const NodeDef& input) {
    FastShape& s = job_.shape;
    s.channels = window_.channels_in;
    s.words = (s.channels + 63) / 64;
    s.out_channels = window_.channels_out;
    s.padded = round_up(s.out_channels, 32);
    for (int i = 0; i < 3; ++i) {
      s.in[i] = window_.in[i], s.out[i] = window_.out[i], s.kernel[i] = window_.kernel[i];
      s.stride[i] = window_.stride[i], s.before[i] = window_.before[i], s.dilation[i] = window_.dilation[i];
    }
    s.pixels_in = window_.in_pixels(), s.pixels_out = window_.out_pixels(), s.taps = window_.taps();
    const bool conv = synapse.type == "Conv" && !last_;
    job_.in_channel_stride = conv ? s.pixels_in : 1;
    job_.in_pixel_stride = conv ? 1 : s.channels;
    low_ = input.kind.low();
    planes_in_ = planes_of(input.kind);
    ternary_in_ = input.kind.name == KindName::ternary;
    if (plan_.kernel == Synapse::dense_bytes || plan_.high == Synapse::dense_bytes) {
      set_image(job_);
      job_.weights.byte_sums = facts_.byte_sums(input.kind);
    }
    if (plan_.kernel != Synapse::dense_bytes && plan_.kernel != Synapse::dense_rows) {
      job_.in_planes = sums_shorts(plan_.kernel) ? 1 : planes_in_;  // its lists hold all planes
      job_.lookup.spike_planes = planes_in_;
      job_.in_ternary = ternary_in_;
    }
  }

  void dense_weights(const Kind& kind, bool wide) {
    set_words(job_, kind);
    job_.words.wide = !fits32(facts_.total_bound) && wide;
    pairs_ = std::make_unique<const PairLayout>(job_, [&](int64_t o, int64_t tap, int64_t c) { return weight(o, tap, c); });
    pairs_->use(job_);
  }

  // The image of every step: padded, channels last, less the lowest value of the kind.
  void lay_out(const Call& call, FastJob& job) const {
    const FastShape& s = job.shape;
    const int64_t rows = call.in[0].rows, C = s.channels, stride = packed_ ? round_up(C, 8) : C;
    const int64_t all = call.in[0].row_bytes ? rows : 1;
    uint8_t* image = call.scratch[0].take<uint8_t>(all * job.image_row_bytes + 64);
    int8_t* flat = call.scratch[0].take<int8_t>(s.pixels_in * stride + 64);
    job.image = image;
    std::memset(image, static_cast<uint8_t>(-low_), static_cast<size_t>(all * job.image_row_bytes + 64));
    for (int64_t t = 0; t < all; ++t, image += job.image_row_bytes) {
      const int8_t* from = call.in[0].as<int8_t>(t);
      if (packed_) {
        rows_table_.unpack(call.in[0].as<uint64_t>(t), s.words, planes_in_, ternary_in_, s.pixels_in, stride, flat);
        from = flat;
      } else if (job.in_pixel_stride == 1 && s.pixels_in > 1 && C > 1) {
        rows_table_.transpose(from, C, s.pixels_in, s.pixels_in, C, flat);
        from = flat;
      }
      put_image(from, stride, job, image);
    }
  }
  void put_image(const int8_t* from, int64_t stride, const FastJob& job, uint8_t* image) const {
    const FastShape& s = job.shape;
    const int64_t C = s.channels;
    for (int64_t z = 0; z < s.in[0]; ++z)
      for (int64_t y = 0; y < s.in[1]; ++y) {
        const int64_t to_z = z + s.before[0], to_y = y + s.before[1];
        const int64_t width = std::min(s.in[2], job.image_size[2] - s.before[2]);
        if (to_z >= job.image_size[0] || to_y >= job.image_size[1] || width <= 0) continue;
        uint8_t* to = image + ((to_z * job.image_size[1] + to_y) * job.image_size[2] + s.before[2]) * C;
        const int8_t* line = from + (z * s.in[1] + y) * s.in[2] * stride;
        if (stride == C) {
          for (int64_t i = 0; i < width * C; ++i) to[i] = static_cast<uint8_t>(line[i] - low_);
          continue;
        }
        for (int64_t x = 0; x < width; ++x, to += C, line += stride)
          for (int64_t c = 0; c < C; ++c) to[c] = static_cast<uint8_t>(line[c] - low_);
      }
  }

  void byte_weights() {
    const FastShape& s = job_.shape;
    FastWeights& w = job_.weights;
    w.row_bytes = s.padded;
    step_by_pixel();
    w.short_rows = 32767 / facts_.most();
    w.byte_rows = facts_.small() ? 127 / facts_.most() : 0;
    rows_.assign(s.taps * s.channels * w.row_bytes + 64, 0);
    for (int64_t o = 0; o < s.out_channels; ++o)
      for (int64_t tap = 0; tap < s.taps; ++tap)
        for (int64_t c = 0; c < s.channels; ++c)
          rows_[byte_at(o, tap, c)] = static_cast<uint8_t>(weight(o, tap, c)) ^ low_bytes_lifted(o);
    w.rows = rows_.data();
  }
  // Outputs i and i + 16 of 32 share a lane of 16 bits (fast_rows.inl).
  int64_t byte_at(int64_t o, int64_t tap, int64_t c) const {
    return (tap * job_.shape.channels + c) * job_.weights.row_bytes + o / 32 * 32 + o % 16 * 2 + o / 16 % 2;
  }
  uint8_t low_bytes_lifted(int64_t o) const { return !job_.weights.byte_rows && o % 32 < 16 ? 128 : 0; }

  // Pixels of one vector of 256 outputs.
  int pixels_together() const { return window_.channels_out > 128 ? 1 : window_.channels_out > 64 ? 2 : 4; }

  void depth_weights() {
    set_image(job_);
    job_.weights.lists = pixels_together();
    const auto most = static_cast<int64_t>(std::min<long double>(facts_.sum_bound + 1, int64_t{1} << 46));
    depth_ = std::make_unique<const DepthLayout>(job_, Range{facts_.low, facts_.high}.bits(), Range{-most, most}.bits(),
                                                 [&](int64_t o, int64_t tap, int64_t c) { return weight(o, tap, c); });
    depth_->use(job_);
  }

  // Code w is stored as w - low, or as (w + 1) / 2 for signs; negative spikes add rows of high - w.
  void bit_weights() {
    const FastShape& s = job_.shape;
    FastWeights& w = job_.weights;
    w.lists = pixels_together();
    w.planes = facts_.planes();
    const bool several = w.lists == 1 || (w.planes > 1 && 2 * w.planes > w.lists);
    // Neighbours that read one window: the taps of a kernel row lie side by side, last first, zeros around them, so
    // that a vector read at tap e holds tap e for the first pixel, e - 1 for the second, and so on.
    w.shared = !several && w.lists > 1 && s.kernel[2] > 1 && s.stride[2] == 1 && s.dilation[2] == 1 && s.out[2] % w.lists == 0;
    const int64_t bytes = blocks() * w.planes * (32 / w.lists);  // of all planes of a row
    w.strip_width = several && bytes > 32 ? 64 : 32;
    w.strips = static_cast<int>(several ? (bytes + w.strip_width - 1) / w.strip_width : w.shared ? w.planes : 0);
    w.row_bytes = several ? w.strip_width : 32 / w.lists;
    const int64_t slots = w.shared ? s.kernel[2] + 2 * w.lists - 2 : 1;
    if (w.shared) step_by_window(slots);
    else step_by_pixel();
    const int64_t low = facts_.signs ? -1 : facts_.low, high = facts_.signs ? 1 : facts_.high;
    w.double_shift = facts_.signs ? 1 : 0;
    w.offset_positive = facts_.signs ? 1 : -low;
    w.offset_negative = facts_.signs ? 1 : high;
    const int64_t k = s.taps * s.channels, all = (w.shared ? k / s.kernel[2] * slots : k) * w.row_bytes;
    w.zero = static_cast<uint32_t>(all);
    w.negative = static_cast<uint32_t>(all + 64);  // a row of zeros between
    w.strip_bytes = w.plane_bytes = round_up(job_.in_ternary ? w.negative + all : all, 64) + 64;
    rows_.assign((several ? w.strips : w.planes) * w.strip_bytes, 0);
    for (int64_t o = 0; o < s.out_channels; ++o)
      for (int64_t i = 0; i < k; ++i) {
        const int64_t code = weight(o, i / s.channels, i % s.channels);
        for (int j = 0; j < w.planes; ++j) {
          uint8_t* at = rows_.data() + w.row_of(s, i / s.channels, i % s.channels) + w.byte_of(j, o);
          at[0] |= static_cast<uint8_t>(((code - low) >> w.double_shift >> j & 1) << (o % 8));
          if (job_.in_ternary) at[w.negative] |= static_cast<uint8_t>(((high - code) >> w.double_shift >> j & 1) << (o % 8));
        }
      }
    w.rows = rows_.data();
  }

  void step_by_pixel() {
    FastWeights& w = job_.weights;
    const uint32_t row = static_cast<uint32_t>(w.row_bytes), tap = row * static_cast<uint32_t>(job_.shape.channels);
    w.channel_step = row, w.pixel_step = w.tap_step = tap, w.window_step = 0 - tap;
    w.slice_step = tap * static_cast<uint32_t>(job_.shape.kernel[2]);
  }
  // `slots` rows of a kernel row and channel; an event at tap e of the window starts at slot kernel + lists - 2 - e.
  void step_by_window(int64_t slots) {
    FastWeights& w = job_.weights;
    const uint32_t row = static_cast<uint32_t>(w.row_bytes), channel = row * static_cast<uint32_t>(slots);
    w.channel_step = channel, w.pixel_step = 0 - row, w.window_step = row;
    w.slice_step = channel * static_cast<uint32_t>(job_.shape.channels);
    w.window_base = row * static_cast<uint32_t>(job_.shape.kernel[2] + w.lists - 2);
  }

  void raw(bool channel_first) {
    job_.end.channel_stride = channel_first ? job_.shape.pixels_out : 1;
    job_.end.pixel_stride = channel_first ? 1 : job_.shape.out_channels;
  }

  void fuse(const NodeDef& synapse, const NodeDef& neuron, Fused fused, bool stream) {
    NeuronConstants n(neuron);
    n.settle(facts_.outputs, stream);
    if (fused == Fused::rows) n.fit31(facts_.outputs, stream ? n.kForever : n.steps);
    const Packed out = packed_of(neuron, packed_layout(synapse));
    Epilogue& e = job_.end;
    e.finish = fused == Fused::rows ? Finish::rows : Finish::planes;
    e.out_words = out.words, e.out_planes = out.planes, e.out_plane_words = out.pixels * out.words;
    e.ternary = n.ternary || neuron.kind.name == KindName::ternary;
    e.last_step = n.steps - 1;
    e.reset = static_cast<int>(n.reset);
    e.half_up = n.half_up;
    e.decay_shift = n.decay_shift;
    e.levels = static_cast<int>(n.thresholds.size());
    if (fused == Fused::rows) {
      fire_ = std::make_unique<const FireLayout>(n, facts_.outputs, bias_, job_.shape.padded, out, stream, isa_);
      e.fire = &fire_->job;
      e.fire_step = fire_step(fire_->job, isa_);
      if (lookups_) lookups_->fuse(job_, n, facts_, bias_, stream);
    } else if (plane_levels(neuron, n, stream)) {
      level_constants(n);
    } else {
      plane_constants(n, stream);
    }
  }

  // Bias of the neuron plus what the bias of the synapse brings, for each step.
  int64_t charge(const NeuronConstants& n, int64_t t, int64_t c) const { return n.bias.at(t, c) + n.gain.at(t, c) * bias_[c]; }

  void plane_constants(const NeuronConstants& n, bool stream) {
    Epilogue& e = job_.end;
    const int needed = n.membrane(facts_.outputs, n.steps, stream).bits() + 1;
    for (int width : kWidths)
      if (width >= needed || width == 48) {
        e.width = width;
        break;
      }
    e.leak = n.decay.values[0] != 0;
    if (e.leak) e.decay_shift = n.decay_shift - (bit_length(static_cast<uint64_t>(n.decay.values[0])) - 1);
    const auto size = [](int64_t g) { return static_cast<uint64_t>(g < 0 ? -g : g); };
    e.gain_shift = bit_length(size(n.gain.values[0])) - 1;

    const int64_t vectors = blocks() * e.width;
    PlaneSet planes(*this);
    auto add = [&](const std::byte*& to, int64_t* t_stride, bool steady, int width, auto value) {
      planes.add(to, steady ? 1 : n.steps, width, value);
      if (t_stride) *t_stride = steady ? 0 : vectors;
    };
    auto negative = [&](int64_t c) { return n.gain.at(0, c) < 0; };
    add(e.charge_planes, &e.charge_t, n.bias.steady(), e.width,
        [&](int64_t t, int64_t c) { return charge(n, t, c) + (negative(c) ? 1 : 0); });
    add(e.threshold_planes, &e.threshold_t, n.thresholds[0].steady(), e.width,
        [&](int64_t t, int64_t c) { return -n.thresholds[0].at(t, c); });
    const int64_t sign = n.reset == Reset::soft ? -1 : 1;
    add(e.reset_planes, &e.reset_t, n.reset_value.steady(), e.width,
        [&](int64_t t, int64_t c) { return sign * n.reset_value.at(t, c); });
    add(e.init_planes, nullptr, true, e.width, [&](int64_t, int64_t c) { return n.v_init.at(0, c); });
    add(e.flip_mask, nullptr, true, 1, [&](int64_t, int64_t c) { return negative(c) ? 1 : 0; });
    add(e.valid_mask, nullptr, true, 1, [&](int64_t, int64_t) { return 1; });
    for (int64_t c = 0; c < n.channels; ++c) e.flips = e.flips || negative(c);
    for (int64_t r : n.reset_value.values) e.resets_to_zero = e.resets_to_zero && r == 0;
    planes.place();
  }

  // Level l of channel c is the first sum that gives a further spike, or with a flip the first that gives none.
  void level_constants(const NeuronConstants& n) {
    Epilogue& e = job_.end;
    e.finish = Finish::levels;
    e.blocks = blocks();
    e.ternary = n.ternary;
    e.levels = static_cast<int>(n.thresholds.size()) + n.ternary;
    const auto sums = [&](int64_t c) { return Range{facts_.outputs[c].low - bias_[c], facts_.outputs[c].high - bias_[c]}; };
    const auto level = [&](int64_t l, int64_t c) {
      const bool down = l == static_cast<int64_t>(n.thresholds.size());
      const int64_t threshold = down ? n.neg.at(0, c) + 1 : n.thresholds[l].at(0, c);
      return std::clamp<int64_t>(n.first_input(c, threshold), sums(c).low + bias_[c], sums(c).high + bias_[c] + 1) - bias_[c];
    };
    int needed = 1;
    for (int64_t c = 0; c < n.channels; ++c) {
      const Range r = sums(c);
      needed = std::max(needed, Range{r.low - r.high - 1, r.high - r.low}.bits());
    }
    e.width = needed;
    PlaneSet planes(*this);
    planes.add(e.level_planes, e.levels, e.width, [&](int64_t l, int64_t c) { return -level(l, c); });
    planes.add(e.flip_mask, 1, 1, [&](int64_t, int64_t c) { return n.gain.at(0, c) < 0 ? 1 : 0; });
    planes.add(e.valid_mask, 1, 1, [&](int64_t, int64_t) { return 1; });
    for (int64_t g : n.gain.values) e.flips = e.flips || g < 0;
    planes.place();
  }

  // Constants as bit-planes, [set][block][width]; every pixel of a shared vector sees the same channels.
  class PlaneSet {
   public:
    explicit PlaneSet(FastOp& op) : op_(op) {}
    template <class F>
    void add(const std::byte*& to, int64_t sets, int width, F value) {
      const int64_t lists = op_.job_.weights.lists, lanes = 256 / lists, size = op_.blocks() * width;
      places_.push_back({&to, op_.planes_.size()});
      std::vector<std::byte> made(sets * size * 32);
      for (int64_t s = 0; s < sets; ++s)
        for (int64_t o = 0; o < op_.window_.channels_out; ++o)
          for (int64_t l = 0; l < lists; ++l)
            set_planes(made, s * size + o / 256 * width, width, l * lanes + o % 256, value(s, o));
      op_.planes_.insert(op_.planes_.end(), made.begin(), made.end());
    }
    // The sets where kernels find them, aligned.
    void place() {
      op_.aligned_.reset(new (std::align_val_t(64)) std::byte[op_.planes_.size()]);
      std::copy(op_.planes_.begin(), op_.planes_.end(), op_.aligned_.get());
      for (auto& [to, at] : places_) *to = op_.aligned_.get() + at;
    }

   private:
    FastOp& op_;
    std::vector<std::pair<const std::byte**, size_t>> places_;
  };

  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };

  const FastTable& table_;
  const RowsTable& rows_table_;
  Isa isa_;
  SynapsePlan plan_;
  bool packed_, last_, ternary_in_ = false;
  int planes_in_ = 1;
  int64_t low_ = 0;
  Lazy<QuadLayout> quads_;
  Lazy<FixedLayout> fixed_;
  mutable int64_t layout_bytes_ = 0;  // of layouts made with the op
  Window window_;
  WeightFacts facts_;
  Tensor weight_;
  FastJob job_;
  std::vector<uint8_t, Lines<uint8_t>> rows_;
  std::unique_ptr<const PairLayout> pairs_;
  std::unique_ptr<const DepthLayout> depth_;
  std::vector<int32_t> bias_;
  std::unique_ptr<const FireLayout> fire_;
  std::unique_ptr<ShortSums> lookups_;
  std::vector<std::byte> planes_;
  std::unique_ptr<std::byte, Free> aligned_;
};

}  // namespace

OpPtr make_fast(const NodeDef& synapse, const NodeDef& input, const NodeDef* neuron, const SynapsePlan& plan, Fused fused,
                bool stream, Layout from, Layout raw, Isa isa) {
  if (plan.kernel != Synapse::depth_bits && window_of(synapse, input).groups > 1)
    return make_groups(synapse, input, neuron, plan, fused, stream, from, raw, isa);
  return std::make_unique<FastOp>(synapse, input, neuron, plan, fused, stream, from, raw, isa);
}

}  // namespace picojoule
