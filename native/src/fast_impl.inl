// The fast synapse kernels; compiled once an instruction set by fast_generic.cpp and fast_avx2.cpp, which name
// the table PJ_TABLE.

#include "fast.h"
#include "simd.h"

#include "fast_events.inl"
#include "fast_planes.inl"

namespace {

// Memory of one worker, cut from `work`.
struct Work {
  uint32_t* lists;   // [in_planes][lists][capacity]
  int64_t capacity;
  Slice* slices;     // [lists][taps]
  V* totals;         // [blocks][kMaxPlanes zeros, kMaxPlanes of a sum]
  V* membranes;      // [blocks][width]
  int32_t *sums, *v, *spikes;
};

// Windows that dense bytes share a load of weights: as many as leave their sums in registers.
#if defined(__AVX512VNNI__)
constexpr int64_t kTogether = 8;
#else
constexpr int64_t kTogether = 4;
#endif

int64_t blocks_of(const FastJob& job) { return job.weights.lists > 1 ? 1 : (job.shape.out_channels + 255) / 256; }

Work cut(const FastJob& job, std::byte* work, int64_t* bytes) {
  int64_t at = 0;
  auto take = [&](int64_t n) {
    std::byte* p = work ? work + at : nullptr;
    at += (n + 63) / 64 * 64;
    return p;
  };
  Work w;
  const int64_t k = job.shape.taps * job.shape.channels, lists = job.weights.lists;
  const int64_t reach = job.shape.kernel[2] + (job.weights.shared ? lists - 1 : 0);
  const int64_t most_events = k / job.shape.kernel[2] * reach, slice = reach * job.shape.channels;
  w.capacity = (most_events + slice + 3 * kOverrun) / 16 * 16;
  const int64_t channels = most(job.shape.padded, blocks_of(job) * 256) * most(lists, kTogether);
  w.lists = reinterpret_cast<uint32_t*>(take(job.in_planes * lists * w.capacity * 4));
  w.slices = reinterpret_cast<Slice*>(take(lists * job.shape.taps * static_cast<int64_t>(sizeof(Slice))));
  w.totals = reinterpret_cast<V*>(take(blocks_of(job) * 2 * kMaxPlanes * 32));
  w.membranes = reinterpret_cast<V*>(take(blocks_of(job) * job.end.width * 32));
  w.sums = reinterpret_cast<int32_t*>(take(channels * 4));
  w.v = reinterpret_cast<int32_t*>(take(channels * 4));
  w.spikes = reinterpret_cast<int32_t*>(take(channels * 4));
  if (bytes) *bytes = at;
  return w;
}

int64_t work_bytes(const FastJob& job) {
  int64_t bytes = 0;
  cut(job, nullptr, &bytes);
  return bytes;
}

int64_t constants_at(const Epilogue& e, int64_t t) { return least(e.first + t, e.last_step); }

// -- sums as integers ----------------------------------------------------------------------------------

template <class E>
void put(const Epilogue& e, int64_t t, int64_t p, const int32_t* sums, int64_t channels) {
  E* to = reinterpret_cast<E*>(e.out + t * e.out_row_bytes) + p * e.pixel_stride;
  for (int64_t c = 0; c < channels; ++c) to[c * e.channel_stride] = static_cast<E>(sums[c] + e.bias[c]);
}

void put_raw(const Epilogue& e, int64_t t, int64_t p, const int32_t* sums, int64_t channels) {
  if (e.element == 1) return put<int8_t>(e, t, p, sums, channels);
  if (e.element == 2) return put<int16_t>(e, t, p, sums, channels);
  if (e.element == 4) return put<int32_t>(e, t, p, sums, channels);
  put<int64_t>(e, t, p, sums, channels);
}

// Four neighbouring pixels at once: `lane` sums apart in, side by side out.
template <class E>
void put_four(const Epilogue& e, int64_t t, int64_t p, const int32_t* sums, int64_t lane, int64_t channels) {
  E* to = reinterpret_cast<E*>(e.out + t * e.out_row_bytes) + p;
  for (int64_t c = 0; c < channels; ++c, ++sums, to += e.channel_stride) {
    const int32_t bias = e.bias[c];
    const E four[4] = {static_cast<E>(sums[0] + bias), static_cast<E>(sums[lane] + bias),
                       static_cast<E>(sums[2 * lane] + bias), static_cast<E>(sums[3 * lane] + bias)};
    std::memcpy(to, four, sizeof(four));
  }
}

void put_raw_group(const Epilogue& e, int64_t t, int64_t p, int live, const int32_t* sums, int64_t lane, int64_t channels) {
  if (live == 8) {
    put_raw_group(e, t, p, 4, sums, lane, channels);
    return put_raw_group(e, t, p + 4, 4, sums + 4 * lane, lane, channels);
  }
  if (live == 4 && e.pixel_stride == 1) {
    if (e.element == 1) return put_four<int8_t>(e, t, p, sums, lane, channels);
    if (e.element == 2) return put_four<int16_t>(e, t, p, sums, lane, channels);
    if (e.element == 4) return put_four<int32_t>(e, t, p, sums, lane, channels);
  }
  for (int l = 0; l < live; ++l) put_raw(e, t, p + l, sums + l * lane, channels);
}

// Spike counts of one pixel as bit-planes, 64 channels a word.
void put_spikes(const Epilogue& e, int64_t t, int64_t p, const int32_t* spikes) {
  for (int64_t w = 0; w < e.out_words; ++w) {
    alignas(32) int8_t bytes[64];
    V low{}, high{};
    uint64_t* to = reinterpret_cast<uint64_t*>(e.out + t * e.out_row_bytes) + p * e.out_words + w;
    for (int plane = 0; plane < e.out_planes; ++plane) {
      if (plane % 8 == 0) {
        for (int i = 0; i < 64; ++i) bytes[i] = static_cast<int8_t>(spikes[w * 64 + i] >> plane);
        low = load(bytes), high = load(bytes + 32);
      }
      // The wanted bit moves to the top of its byte; +1 is odd and has no sign.
      const int up = e.ternary ? 7 : 7 - plane % 8;
      V a = e.ternary && plane ? low : low << up, b = e.ternary && plane ? high : high << up;
      if (e.ternary && !plane) a &= ~low, b &= ~high;
      to[plane * e.out_plane_words] = byte_sign_bits(a) | static_cast<uint64_t>(byte_sign_bits(b)) << 32;
    }
  }
}

// Neurons without memory: one pass.
template <int L>
void fire_rows(const Epilogue& e, int64_t t, const int32_t* __restrict sums, int32_t* __restrict spikes, int64_t padded) {
  const int32_t* __restrict gain = e.gain.at(t);
  const int32_t* __restrict charge = e.charge.at(t);
  const int32_t* __restrict threshold[L];
  for (int l = 0; l < L; ++l) threshold[l] = e.thresholds[l].at(t);
  for (int64_t c = 0; c < padded; ++c) {
    const int32_t h = gain[c] * sums[c] + charge[c];
    int32_t n = 0;
    for (int l = 0; l < L; ++l) n += h >= threshold[l][c];
    spikes[c] = n;
  }
}

bool fires_at_once(const Epilogue& e, int64_t t, const int32_t* sums, int32_t* spikes, int64_t channels, int64_t padded) {
  if (!e.forgets || e.ternary) return false;
  if (e.levels == 1) fire_rows<1>(e, t, sums, spikes, padded);
  else if (e.levels == 2) fire_rows<2>(e, t, sums, spikes, padded);
  else if (e.levels == 4) fire_rows<4>(e, t, sums, spikes, padded);
  else return false;
  for (int64_t c = channels; c < (channels + 63) / 64 * 64; ++c) spikes[c] = 0;
  return true;
}

// One step of the neurons of a pixel in 32-bit integers.
void step_rows(const Epilogue& e, int64_t t, const int32_t* __restrict sums, int32_t* __restrict v,
               int32_t* __restrict spikes, int64_t channels, int64_t padded) {
  const int32_t* __restrict decay = e.decay.at(t);
  const int32_t* __restrict gain = e.gain.at(t);
  const int32_t* __restrict charge = e.charge.at(t);
  const int32_t* __restrict reset = e.reset_value.at(t);
  const int shift = e.decay_shift;
  const int32_t half = e.half_up && shift > 0 ? 1 << (shift - 1) : 0;
  const int32_t low = (1 << shift) - 1;
  if (e.split)
    for (int64_t c = 0; c < padded; ++c)
      v[c] = decay[c] * (v[c] >> shift) + ((decay[c] * (v[c] & low) + half) >> shift) + gain[c] * sums[c] + charge[c];
  else
    for (int64_t c = 0; c < padded; ++c) v[c] = ((decay[c] * v[c] + half) >> shift) + gain[c] * sums[c] + charge[c];
  for (int64_t c = 0; c < padded; ++c) spikes[c] = 0;
  for (int l = 0; l < e.levels; ++l) {
    const int32_t* __restrict threshold = e.thresholds[l].at(t);
    for (int64_t c = 0; c < padded; ++c) spikes[c] += v[c] >= threshold[c];
  }
  if (e.ternary) {
    const int32_t* __restrict neg = e.neg.at(t);
    for (int64_t c = 0; c < padded; ++c) spikes[c] -= v[c] <= neg[c];
  }
  if (e.reset == 0)
    for (int64_t c = 0; c < padded; ++c) v[c] = spikes[c] != 0 ? reset[c] : v[c];
  if (e.reset == 1)
    for (int64_t c = 0; c < padded; ++c) v[c] -= spikes[c] * reset[c];
  for (int64_t c = channels; c < (channels + 63) / 64 * 64; ++c) spikes[c] = 0;
}

void start_rows(const Epilogue& e, int64_t p, int32_t* v, int64_t padded) {
  if (e.finish != Finish::rows) return;
  const int32_t* from = e.first ? reinterpret_cast<const int32_t*>(e.state) + p * padded : e.v_init.at(0);
  std::memcpy(v, from, padded * 4);
}

void end_rows(const Epilogue& e, int64_t p, const int32_t* v, int64_t padded) {
  if (e.finish == Finish::rows && e.keep) std::memcpy(e.state + p * padded * 4, v, padded * 4);
}

void finish_rows(const FastJob& job, int64_t t, int64_t p, const int32_t* sums, int32_t* v, int32_t* spikes) {
  if (job.end.finish == Finish::raw) return put_raw(job.end, t, p, sums, job.shape.out_channels);
  const FastShape& s = job.shape;
  const int64_t now = constants_at(job.end, t);
  if (!fires_at_once(job.end, now, sums, spikes, s.out_channels, s.padded))
    step_rows(job.end, now, sums, v, spikes, s.out_channels, s.padded);
  put_spikes(job.end, t, p, spikes);
}

// Sums of `live` pixels, `lane` apart; their membranes are `padded` apart.
void finish_group(const FastJob& job, int64_t t, int64_t p, int live, const Work& w, int64_t lane) {
  if (job.end.finish == Finish::raw) return put_raw_group(job.end, t, p, live, w.sums, lane, job.shape.out_channels);
  for (int l = 0; l < live; ++l)
    finish_rows(job, t, p + l, w.sums + l * lane, w.v + l * job.shape.padded, w.spikes);
}

}  // namespace

#include "fast_rows.inl"
#include "fast_bits.inl"
#include "fast_bytes.inl"
#include "fast_static.inl"
#include "fast_words.inl"

namespace picojoule {
const FastTable PJ_TABLE = {work_bytes, decode, lay_words, event_bits, event_rows, dense_rows, dense_bytes,
                            static_bytes, static_bits, kStaticLanes, popcount};
}
