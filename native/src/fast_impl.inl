// The fast synapse kernels; compiled once an instruction set by fast_generic.cpp and fast_avx2.cpp, which name
// the table PJ_TABLE.

#include "fast.h"
#include "simd.h"

#include "fast_events.inl"
#include "fast_finish.inl"
#include "fast_planes.inl"

namespace {

// Memory of one worker, cut from `work`.
struct Work {
  uint32_t* lists;   // [in_planes][lists][capacity]
  int64_t capacity;
  Slice* slices;     // [lists][taps]
  std::byte* states; // counts of strips (fast_strips.inl)
  V* totals;         // [blocks][kMaxPlanes zeros, kMaxPlanes of a sum]
  V* membranes;      // [blocks][width]
  int32_t *sums, *v;
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
  const int64_t k = job.depth.planes ? 0 : job.shape.taps * job.shape.channels, lists = job.weights.lists;  // no lists
  const int64_t reach = job.shape.kernel[2] + (job.weights.shared ? lists - 1 : 0);
  const int64_t most_events = k / job.shape.kernel[2] * reach, slice = reach * job.shape.channels;
  w.capacity = (most_events + slice + 3 * kOverrun) / 16 * 16;
  const int64_t channels = most(job.shape.padded, blocks_of(job) * 256) * most(lists, kTogether);
  w.lists = reinterpret_cast<uint32_t*>(take(job.in_planes * lists * w.capacity * 4));
  w.slices = reinterpret_cast<Slice*>(take(lists * job.shape.taps * static_cast<int64_t>(sizeof(Slice))));
  const int64_t longest = (most_events * (job.in_ternary ? 2 : 1) + 7) / 8 * 8, planes = kLeastPlanes + planes_above(longest);
  w.states = take(job.weights.strips * job.in_planes * lists * planes * job.weights.strip_width);
  w.totals = reinterpret_cast<V*>(take(blocks_of(job) * 2 * kMaxPlanes * 32));
  w.membranes = reinterpret_cast<V*>(take(blocks_of(job) * job.end.width * 32));
  w.sums = reinterpret_cast<int32_t*>(take(channels * 4));
  w.v = reinterpret_cast<int32_t*>(take(channels * 4));
  if (bytes) *bytes = at;
  return w;
}

int64_t work_bytes(const FastJob& job) {
  int64_t bytes = 0;
  cut(job, nullptr, &bytes);
  return bytes;
}

// -- sums as integers ----------------------------------------------------------------------------------

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

void finish_rows(const FastJob& job, int64_t t, int64_t p, const int32_t* sums, int32_t* v) {
  const Epilogue& e = job.end;
  if (e.finish == Finish::raw) return put_raw(e, t, p, sums, job.shape.out_channels);
  e.fire_step(*e.fire, constants_at(e, t), sums, reinterpret_cast<std::byte*>(v), e.out + t * e.out_row_bytes + p * e.out_words * 8);
}

// Sums of `live` pixels, `lane` apart; their membranes are `padded` apart.
void finish_group(const FastJob& job, int64_t t, int64_t p, int live, const Work& w, int64_t lane) {
  if (job.end.finish == Finish::raw) return put_raw_group(job.end, t, p, live, w.sums, lane, job.shape.out_channels);
  for (int l = 0; l < live; ++l)
    finish_rows(job, t, p + l, w.sums + l * lane, w.v + l * job.shape.padded);
}

}  // namespace

#include "fast_rows.inl"
#include "fast_bits.inl"
#include "fast_depth.inl"
#include "fast_bytes.inl"
#include "fast_static.inl"
#include "fast_words.inl"

namespace picojoule {
const FastTable PJ_TABLE = {work_bytes, decode, lay_words, event_bits, event_rows, dense_rows, dense_bytes, depth_bits,
                            static_bytes, static_bits, kStaticLanes, popcount};
}
