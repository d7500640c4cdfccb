// Static bit-sliced counting: a lane is an output pixel at a step, a row is an input at one tap, and every output
// channel adds the rows of its set weight bits, whatever fires. Included by fast_impl.inl.

namespace {

typedef V S;

constexpr int64_t kStaticLanes = static_cast<int64_t>(sizeof(S)) * 8;
constexpr int kStaticUnits = static_cast<int>(sizeof(S)) / 8;

// In every 64-bit column, the 64 x 64 bits of a are turned over their diagonal.
void transpose_columns(S* a) {
  uint64_t mask = 0x00000000ffffffffull;
  for (int width = 32; width; width >>= 1, mask ^= mask << width)
    for (int i = 0; i < 64; i = (i + width + 1) & ~width) {
      const S moved = ((a[i] >> width) ^ a[i + width]) & (S{} + mask);
      a[i + width] ^= moved;
      a[i] ^= moved << width;
    }
}

inline S add_eight_rows(const S* base, const uint32_t* list, S& ones, S& twos, S& fours) {
  S ta, tb, fa, fb, eight;
  full_add(ta, ones, ones, base[list[0]], base[list[1]]);
  full_add(tb, ones, ones, base[list[2]], base[list[3]]);
  full_add(fa, twos, twos, ta, tb);
  full_add(ta, ones, ones, base[list[4]], base[list[5]]);
  full_add(tb, ones, ones, base[list[6]], base[list[7]]);
  full_add(fb, twos, twos, ta, tb);
  full_add(eight, fours, fours, fa, fb);
  return eight;
}

// Counts per lane the set bits of n rows, n a multiple of 8; returns planes. A carry waits in its plane until a
// second one comes, so that a row costs one addition in all planes together.
int count_rows(const S* base, const uint32_t* list, int64_t n, S* out) {
  if (n == 0) return 0;
  S ones{}, twos{}, fours{}, waiting[32];
  const int more = 64 - __builtin_clzll(static_cast<uint64_t>(n / 8));
  S* high = out + 3;
  for (int q = 0; q < more; ++q) high[q] = S{};
  for (int64_t i = 0; i < n / 8; ++i) {
    S carry = add_eight_rows(base, list + i * 8, ones, twos, fours);
    int q = 0;
    for (; i >> q & 1; ++q) full_add(carry, high[q], high[q], waiting[q], carry);
    waiting[q] = carry;
  }
  for (int q = 0; q < more; ++q) {
    if (!(n / 8 >> q & 1)) continue;
    S carry = waiting[q];
    for (int k = q; k < more; ++k) {
      const S next = high[k] & carry;
      high[k] ^= carry;
      carry = next;
    }
  }
  out[0] = ones, out[1] = twos, out[2] = fours;
  return 3 + more;
}

// total += term << shift within `limit` planes; returns their number.
int add_static(S* total, int planes, const S* term, int n, int shift, int limit) {
  if (n <= 0) return planes;
  const int reach = static_cast<int>(least(limit, most(planes, shift + n) + 1));
  for (; planes < reach; ++planes) total[planes] = S{};
  S carry{};
  for (int i = shift; i < reach; ++i) {
    if (i - shift < n) {
      full_add(carry, total[i], total[i], term[i - shift], carry);
      continue;
    }
    const S next = total[i] & carry;
    total[i] ^= carry;
    carry = next;
  }
  return planes;
}

// Memory of one worker and what one piece of pixels looks like.
struct StaticWork {
  Work common;
  S* rows;              // [lane blocks][spike planes][K + 1], the last of each plane is zero
  S* counts;            // [64][count planes]
  uint64_t* words;      // [lanes][count planes][out words]
  int64_t* offsets;     // [lanes], what the events of a lane subtract
  const uint64_t** at;  // [lanes], packed words of the pixel that a tap sees; null outside
  int64_t k, blocks, lanes, out_words;
};

int64_t static_steps(const FastJob& job) { return job.in_row_bytes ? job.steps : 1; }

StaticWork cut_static(const FastJob& job, std::byte* work, int64_t* bytes) {
  StaticWork w;
  int64_t at = 0;
  w.common = cut(job, work, &at);
  auto take = [&](int64_t n) {
    std::byte* p = work ? work + at : nullptr;
    at += (n + 63) / 64 * 64;
    return p;
  };
  w.k = job.shape.taps * job.shape.channels;
  w.blocks = (static_steps(job) * job.fixed.chunk + kStaticLanes - 1) / kStaticLanes;
  w.lanes = w.blocks * kStaticLanes;
  w.out_words = (job.shape.out_channels + 63) / 64;
  constexpr int64_t size = sizeof(S);
  w.rows = reinterpret_cast<S*>(take(w.blocks * job.in_planes * (w.k + 1) * size));
  w.counts = reinterpret_cast<S*>(take(64 * job.fixed.planes * size));
  w.words = reinterpret_cast<uint64_t*>(take(w.lanes * job.fixed.planes * w.out_words * 8));
  w.offsets = reinterpret_cast<int64_t*>(take(w.lanes * 8));
  w.at = reinterpret_cast<const uint64_t**>(take(w.lanes * 8));
  *bytes = at;
  return w;
}

int64_t static_bytes(const FastJob& job) {
  int64_t bytes = 0;
  cut_static(job, nullptr, &bytes);
  return bytes;
}

// Where tap `tap` of every lane (step, pixel) of the piece looks.
void static_sources(const FastJob& job, const StaticWork& w, int64_t begin, int64_t pixels, int64_t plane, int64_t tap) {
  const FastShape& s = job.shape;
  const int64_t a = tap / (s.kernel[1] * s.kernel[2]) * s.dilation[0] - s.before[0];
  const int64_t b = tap / s.kernel[2] % s.kernel[1] * s.dilation[1] - s.before[1];
  const int64_t e = tap % s.kernel[2] * s.dilation[2] - s.before[2];
  for (int64_t lane = 0; lane < w.lanes; ++lane) w.at[lane] = nullptr;
  for (int64_t i = 0; i < pixels; ++i) {
    const int64_t p = begin + i;
    const int64_t z = p / (s.out[1] * s.out[2]) * s.stride[0] + a, y = p / s.out[2] % s.out[1] * s.stride[1] + b;
    const int64_t x = p % s.out[2] * s.stride[2] + e;
    if (z < 0 || z >= s.in[0] || y < 0 || y >= s.in[1] || x < 0 || x >= s.in[2]) continue;
    const int64_t from = (plane * s.pixels_in + (z * s.in[1] + y) * s.in[2] + x) * s.words;
    for (int64_t t = 0; t < static_steps(job); ++t)
      w.at[t * job.fixed.chunk + i] = reinterpret_cast<const uint64_t*>(job.in + t * job.in_row_bytes) + from;
  }
}

// Turns the packed words of a piece into rows of lanes and counts the events of every lane.
void static_rows(const FastJob& job, const StaticWork& w, int64_t begin, int64_t pixels) {
  const FastShape& s = job.shape;
  for (int64_t lane = 0; lane < w.lanes; ++lane) w.offsets[lane] = 0;
  for (int64_t plane = 0; plane < job.in_planes; ++plane) {
    const bool negative = job.in_ternary && plane == 1;
    const int64_t weight = negative ? job.weights.offset_negative : job.weights.offset_positive;
    const int64_t each = job.in_ternary ? weight : weight << plane;
    for (int64_t b = 0; b < w.blocks; ++b) w.rows[(b * job.in_planes + plane) * (w.k + 1) + w.k] = S{};
    for (int64_t tap = 0; tap < s.taps; ++tap) {
      static_sources(job, w, begin, pixels, plane, tap);
      for (int64_t b = 0; b < w.blocks; ++b)
        for (int64_t word = 0; word < s.words; ++word) {
          S a[64];
          uint64_t* to = reinterpret_cast<uint64_t*>(a);
          for (int64_t i = 0; i < kStaticLanes; ++i) {
            const int64_t lane = b * kStaticLanes + i;
            const uint64_t bits = w.at[lane] ? w.at[lane][word] : 0;
            to[i % 64 * kStaticUnits + i / 64] = bits;
            w.offsets[lane] += each * __builtin_popcountll(bits);
          }
          transpose_columns(a);
          S* rows = w.rows + (b * job.in_planes + plane) * (w.k + 1) + tap * s.channels + word * 64;
          std::memcpy(rows, a, least(64, s.channels - word * 64) * sizeof(S));
        }
    }
  }
}

// Counts of 64 output channels from `first` on in one block of lanes, turned into words of channels.
void static_counts(const FastJob& job, const StaticWork& w, int64_t block, int64_t first) {
  const int planes = job.fixed.planes, signs = job.in_ternary ? 2 : 1, spike_planes = job.in_ternary ? 1 : job.in_planes;
  const int64_t live = least(64, job.shape.out_channels - first);
  int used = 0;
  for (int64_t o = 0; o < live; ++o) {
    S* total = w.counts + o * planes;
    int n = 0;
    for (int j = 0; j < job.weights.planes; ++j)
      for (int sign = 0; sign < signs; ++sign) {
        const uint32_t* at = job.fixed.starts + ((first + o) * job.weights.planes + j) * signs + sign;
        for (int q = 0; q < spike_planes; ++q) {
          S term[kMaxPlanes];
          const S* base = w.rows + (block * job.in_planes + q + sign) * (w.k + 1);
          const int m = count_rows(base, job.fixed.rows + at[0], at[1] - at[0], term);
          n = add_static(total, n, term, static_cast<int>(least(m, planes - j - q)), j + q, planes);
        }
      }
    for (int i = n; i < planes; ++i) total[i] = S{};
    used = static_cast<int>(most(used, n));
  }
  for (int i = 0; i < planes; ++i) {
    S a[64] = {};
    if (i < used) {
      for (int64_t o = 0; o < live; ++o) a[o] = w.counts[o * planes + i];
      transpose_columns(a);
    }
    const uint64_t* from = reinterpret_cast<const uint64_t*>(a);
    for (int64_t lane = 0; lane < kStaticLanes; ++lane)
      w.words[((block * kStaticLanes + lane) * planes + i) * w.out_words + first / 64] = from[lane % 64 * kStaticUnits + lane / 64];
  }
}

// Plane i of the counts of a group of pixels as the kernels of channels hold it: lanes of `lists` pixels a vector.
V static_vector(const FastJob& job, const StaticWork& w, int64_t lane, int64_t live, int64_t block, int i) {
  const int lists = job.weights.lists, planes = job.fixed.planes;
  uint64_t words[4] = {};
  for (int64_t l = 0; l < live; ++l) {
    const uint64_t* from = w.words + ((lane + l) * planes + i) * w.out_words + block * 4;
    const int64_t n = least(4 / lists, w.out_words - block * 4);
    for (int64_t k = 0; k < n; ++k) words[l * (4 / lists) + k] = from[k];
  }
  return load(words);
}

void static_group_planes(const FastJob& job, const StaticWork& w, PlaneNeuron neuron, int64_t begin, int64_t p) {
  const Epilogue& e = job.end;
  const int lists = job.weights.lists, planes = job.fixed.planes;
  const int64_t blocks = blocks_of(job), live = least(lists, job.shape.pixels_out - p), bytes = blocks * e.width * 32;
  V* membranes = w.common.membranes;
  std::memcpy(membranes, e.first ? e.state + p / lists * bytes : e.init_planes, bytes);
  for (int64_t t = 0; t < job.steps; ++t) {
    const int64_t lane = (job.in_row_bytes ? t * job.fixed.chunk : 0) + p - begin;
    V lanes{};
    for (int i = 0; i < 4; ++i) {
      const int64_t pixel = i * lists / 4;
      lanes[i] = pixel < live ? static_cast<uint64_t>(-(w.offsets[lane + pixel] << e.gain_shift)) : 0;
    }
    for (int64_t b = 0; b < blocks; ++b) {
      V sum[kMaxPlanes];
      for (int i = 0; i < planes; ++i) sum[i] = static_vector(job, w, lane, live, b, i);
      const V fired = neuron(e, b, constants_at(e, t), sum, planes, job.weights.double_shift + e.gain_shift, lanes,
                             membranes + b * e.width);
      put_words(e, t, p, live, lists, b, fired);
    }
  }
  if (e.keep) std::memcpy(e.state + p / lists * bytes, membranes, bytes);
}

void static_group_levels(const FastJob& job, const StaticWork& w, int64_t begin, int64_t p) {
  const Epilogue& e = job.end;
  const int lists = job.weights.lists, planes = job.fixed.planes;
  const int64_t live = least(lists, job.shape.pixels_out - p);
  for (int64_t t = 0; t < job.steps; ++t) {
    if (t > 0 && !job.in_row_bytes) {
      repeat_words(e, t, p, live);
      continue;
    }
    const int64_t lane = t * job.fixed.chunk + p - begin;
    V lanes{}, out[kMaxPlanes];
    for (int i = 0; i < 4; ++i) {
      const int64_t pixel = i * lists / 4;
      lanes[i] = pixel < live ? static_cast<uint64_t>(-w.offsets[lane + pixel]) : 0;
    }
    for (int64_t b = 0; b < e.blocks; ++b) {
      V sum[kMaxPlanes];
      for (int i = 0; i < planes; ++i) sum[i] = static_vector(job, w, lane, live, b, i);
      fire_levels(e, b, sum, planes, job.weights.double_shift, lanes, out);
      for (int q = 0; q < e.out_planes; ++q) put_words(e, t, p, live, lists, b, out[q], q);
    }
  }
}

void static_group_rows(const FastJob& job, const StaticWork& w, int64_t begin, int64_t p) {
  const Work& c = w.common;
  const int lists = job.weights.lists;
  const int64_t live = least(lists, job.shape.pixels_out - p), padded = job.shape.padded, apart = lists > 1 ? 256 / lists : padded;
  for (int64_t l = 0; l < live; ++l) start_rows(job.end, p + l, c.v + l * padded);
  for (int64_t t = 0; t < job.steps; ++t) {
    const int64_t lane = (job.in_row_bytes ? t * job.fixed.chunk : 0) + p - begin;
    if (t == 0 || job.in_row_bytes)
      for (int64_t b = 0; b < blocks_of(job); ++b) {
        V sum[kMaxPlanes];
        for (int i = 0; i < job.fixed.planes; ++i) sum[i] = static_vector(job, w, lane, live, b, i);
        int64_t offset[4] = {};
        for (int64_t l = 0; l < live; ++l) offset[l] = w.offsets[lane + l];
        spread(sum, job.fixed.planes, job.weights.double_shift, offset, lists, c.sums + b * 256);
      }
    for (int64_t l = 0; l < live; ++l) finish_rows(job, t, p + l, c.sums + l * apart, c.v + l * padded);
  }
  for (int64_t l = 0; l < live; ++l) end_rows(job.end, p + l, c.v + l * padded);
}

// Pieces [begin, end) of `chunk` pixels.
void static_bits(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  int64_t bytes = 0;
  const StaticWork w = cut_static(job, work, &bytes);
  const PlaneNeuron neuron = plane_neuron_of(job.end.width);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t first = piece * job.fixed.chunk, until = least(first + job.fixed.chunk, job.shape.pixels_out);
    static_rows(job, w, first, until - first);
    for (int64_t b = 0; b < w.blocks; ++b)
      for (int64_t o = 0; o < job.shape.out_channels; o += 64) static_counts(job, w, b, o);
    if (job.end.finish == Finish::planes)
      for (int64_t p = first; p < until; p += job.weights.lists) static_group_planes(job, w, neuron, first, p);
    else if (job.end.finish == Finish::levels)
      for (int64_t p = first; p < until; p += job.weights.lists) static_group_levels(job, w, first, p);
    else
      for (int64_t p = first; p < until; p += job.weights.lists) static_group_rows(job, w, first, p);
  }
}

}  // namespace
