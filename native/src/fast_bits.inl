// Vertical counting of events: sums of pixels as bit-planes or integers. Included by fast_impl.inl.

#include "fast_strips.inl"

namespace {

// A group of pixels whose windows lie apart, or one pixel; of one or few weight planes.
template <int Lists>
struct JoinedGroup {
  static constexpr int kLists = Lists;
  const FastJob& job;
  const Work& w;
  int64_t chunks = usual_chunks(job), live = 0, slices[Lists] = {}, lengths[64] = {};

  void look(int64_t p) {
    live = least(Lists, job.shape.pixels_out - p);
    for (int64_t l = 0; l < live; ++l) slices[l] = window_slices(job, p + l, w.slices + l * job.shape.taps);
  }

  // Lists of the group in every spike plane, padded alike; `offset` gets what each pixel subtracts.
  void list(int64_t t, int64_t* offset) {
    const FastWeights& weights = job.weights;
    const int spike_planes = job.in_ternary ? 1 : job.in_planes;
    for (int l = 0; l < Lists; ++l) offset[l] = 0;
    for (int q = 0; q < spike_planes; ++q) {
      int64_t n[Lists] = {};
      lengths[q] = 0;
      for (int64_t l = 0; l < live; ++l) {
        uint32_t* to = w.lists + (q * Lists + l) * w.capacity;
        const Slice* from = w.slices + l * job.shape.taps;
        n[l] = window_list(job, t, q, from, slices[l], chunks, 0, to);
        offset[l] += weights.offset_positive * (n[l] << q);
        if (job.in_ternary) {
          const int64_t more = window_list(job, t, 1, from, slices[l], chunks, weights.negative, to + n[l]);
          offset[l] += weights.offset_negative * more;
          n[l] += more;
        }
        lengths[q] = most(lengths[q], n[l]);
      }
      lengths[q] = (lengths[q] + 7) / 8 * 8;
      for (int l = 0; l < Lists; ++l) {
        uint32_t* to = w.lists + (q * Lists + l) * w.capacity;
        for (int64_t i = n[l]; i < lengths[q]; ++i) to[i] = weights.zero;
      }
    }
  }

  // Counts of block b, the only one, over all weight and spike planes; returns their number.
  int total(int64_t, V* out) const {
    const FastWeights& weights = job.weights;
    const int spike_planes = job.in_ternary ? 1 : job.in_planes;
    int planes = 0;
    for (int j = 0; j < weights.planes; ++j)
      for (int q = 0; q < spike_planes; ++q) {
        Rows<Lists> rows;
        rows.base = weights.rows + j * weights.plane_bytes;
        for (int l = 0; l < Lists; ++l) rows.list[l] = w.lists + (q * Lists + l) * w.capacity;
        if (j == 0 && q == 0) {
          planes = count(rows, lengths[q], out);
          continue;
        }
        V term[kMaxPlanes];
        const int n = count(rows, lengths[q], term);
        planes = add_shifted(out, planes, term, n, j + q);
      }
    return planes;
  }
};

// Planes of one block to integers, eight planes a byte: sums[lane] = (count << double_shift) - offset. Sums wrap, so
// that planes from 2^32 on say nothing; counts of small weights over many large spikes have them.
void spread(const V* planes, int n, int shift, const int64_t* offset, int lists, int32_t* sums) {
  const int64_t lanes = 256 / lists;
  for (int low = 0; low == 0 || (low < n && shift + low < 32); low += 8) {
    uint8_t bytes[256];
    for (int group = 0; group < 8; ++group) {
      V8 count{};
      for (int i = static_cast<int>(least(n, low + 8)); i-- > low;) {
        uint32_t bits;
        std::memcpy(&bits, reinterpret_cast<const std::byte*>(planes + i) + 4 * group, 4);
        count = count + count - bytes_of_bits(bits);
      }
      std::memcpy(bytes + 32 * group, &count, 32);
    }
    for (int l = 0; l < lists; ++l) {
      const uint8_t* from = bytes + l * lanes;
      int32_t* to = sums + l * lanes;
      const int32_t first = -static_cast<int32_t>(offset[l]);
      for (int64_t c = 0; c < lanes; ++c) to[c] = (low ? to[c] : first) + (static_cast<int32_t>(from[c]) << (shift + low));
    }
  }
}

// `G` gathers the sums of Lists pixels at a step, less the `offset` that it gives.
template <class G, int Lists = G::kLists>
void bits_by_rows(const FastJob& job, int64_t begin, int64_t end, const Work& w) {
  const int64_t blocks = blocks_of(job), padded = job.shape.padded, lane = Lists > 1 ? 256 / Lists : padded;
  G group{job, w};
  for (int64_t g = begin; g < end; ++g) {
    const int64_t p = g * Lists;
    group.look(p);
    const int64_t live = group.live;
    for (int64_t l = 0; l < live; ++l) start_rows(job.end, p + l, w.v + l * padded);
    for (int64_t t = 0; t < job.steps; ++t) {
      if (t == 0 || job.in_row_bytes) {
        int64_t offset[Lists];
        group.list(t, offset);
        for (int64_t b = 0; b < blocks; ++b) {
          const int planes = group.total(b, w.totals);
          spread(w.totals, planes, job.weights.double_shift, offset, Lists, w.sums + b * 256);
        }
      }
      finish_group(job, t, p, static_cast<int>(live), w, lane);
    }
    for (int64_t l = 0; l < live; ++l) end_rows(job.end, p + l, w.v + l * padded);
  }
}

void put_words(const Epilogue& e, int64_t t, int64_t p, int64_t live, int lists, int64_t block, V fired, int plane = 0) {
  uint64_t* to = reinterpret_cast<uint64_t*>(e.out + t * e.out_row_bytes) + plane * e.out_plane_words + p * e.out_words;
  const int64_t lane_words = 4 / lists;
  uint64_t words[4];
  std::memcpy(words, &fired, 32);
  if (lists == 1) {
    const int64_t n = least(4, e.out_words - block * 4);
    for (int64_t i = 0; i < n; ++i) to[block * 4 + i] = words[i];
    return;
  }
  for (int64_t l = 0; l < live; ++l)
    for (int64_t i = 0; i < e.out_words; ++i) to[l * e.out_words + i] = words[l * lane_words + i];
}

// Words of step 0 again: the sums were the same.
void repeat_words(const Epilogue& e, int64_t t, int64_t p, int64_t live) {
  for (int q = 0; q < e.out_planes; ++q) {
    const int64_t at = (q * e.out_plane_words + p * e.out_words) * 8;
    std::memcpy(e.out + t * e.out_row_bytes + at, e.out + at, static_cast<size_t>(live * e.out_words) * 8);
  }
}

template <class G, int Lists = G::kLists>
void bits_by_planes(const FastJob& job, int64_t begin, int64_t end, const Work& w) {
  const Epilogue& e = job.end;
  const int64_t blocks = blocks_of(job), vectors = blocks * e.width;
  const PlaneStep neuron = e.flips ? plane_step_of<true>(e.width) : plane_step_of<false>(e.width);
  const int shift = job.weights.double_shift + e.gain_shift;  // of the sums, below the width
  for (int64_t i = 0; i < blocks * 2 * kMaxPlanes; ++i) w.totals[i] = V{};
  G group{job, w};
  for (int64_t g = begin; g < end; ++g) {
    const int64_t p = g * Lists;
    group.look(p);
    std::memcpy(w.membranes, e.first ? e.state + g * vectors * 32 : e.init_planes, vectors * 32);
    V lanes{};
    for (int64_t t = 0; t < job.steps; ++t) {
      const int64_t now = constants_at(e, t);
      const bool fresh = t == 0 || job.in_row_bytes;
      if (fresh) {
        int64_t offset[Lists];
        group.list(t, offset);
        for (int i = 0; i < 4; ++i) lanes[i] = static_cast<uint64_t>(-(offset[i * Lists / 4] << e.gain_shift));
      }
      for (int64_t b = 0; b < blocks; ++b) {
        V* sum = w.totals + (2 * b + 1) * kMaxPlanes;  // zeros below it
        if (fresh)
          for (int i = group.total(b, sum); i + shift < e.width; ++i) sum[i] = V{};
        const V fired = neuron(e, b, now, sum - shift, lanes, w.membranes + b * e.width);
        put_words(e, t, p, group.live, Lists, b, fired);
      }
    }
    if (e.keep) std::memcpy(e.state + g * vectors * 32, w.membranes, vectors * 32);
  }
}

}  // namespace

#include "fast_levels.inl"

namespace {

template <class G>
void finish_bits(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  const Work w = cut(job, work, nullptr);
  if (job.end.finish == Finish::planes) return bits_by_planes<G>(job, begin, end, w);
  if (job.end.finish == Finish::levels) return bits_by_levels<G>(job, begin, end, w);
  bits_by_rows<G>(job, begin, end, w);
}

void event_bits(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  const int lists = job.weights.lists;
  // One count a pixel stays in registers until the neuron reads it; strips would store it first.
  const bool alone = job.weights.planes == 1 && job.shape.out_channels <= 256 && (job.in_planes == 1 || job.in_ternary);
  if (lists == 1) return alone ? finish_bits<JoinedGroup<1>>(job, begin, end, work) : finish_bits<StripGroup<1, false>>(job, begin, end, work);
  if (job.weights.shared)
    return lists == 2 ? finish_bits<StripGroup<2, true>>(job, begin, end, work) : finish_bits<StripGroup<4, true>>(job, begin, end, work);
  if (job.weights.strips)
    return lists == 2 ? finish_bits<StripGroup<2, false>>(job, begin, end, work) : finish_bits<StripGroup<4, false>>(job, begin, end, work);
  if (lists == 2) return finish_bits<JoinedGroup<2>>(job, begin, end, work);
  finish_bits<JoinedGroup<4>>(job, begin, end, work);
}

}  // namespace
