// Depthwise convolutions of packed spikes: a tap is the word of a neighbouring pixel AND the words of the weights, one
// a bit-plane; the taps of a plane are counted by full adders, and the planes, whose top one is negative, are added.
// Included by fast_impl.inl.

namespace {

// Bits of one block of channels, of one weight plane, at all taps.
template <class Source>
struct Taps {
  using Vector = V;
  const Source& source;
  const V* weights;
  V at(int64_t i) const { return source(i) & weights[i]; }
};

// Nine bits a lane in four planes.
template <class R>
inline int count_nine(const R& taps, V* out) {
  V a, b, c, twos[4], fours[2];
  full_add(twos[0], a, taps.at(0), taps.at(1), taps.at(2));
  full_add(twos[1], b, taps.at(3), taps.at(4), taps.at(5));
  full_add(twos[2], c, taps.at(6), taps.at(7), taps.at(8));
  full_add(twos[3], out[0], a, b, c);
  full_add(fours[0], a, twos[0], twos[1], twos[2]);
  fours[1] = a & twos[3];
  out[1] = a ^ twos[3];
  out[2] = fours[0] ^ fours[1];
  out[3] = fours[0] & fours[1];
  return 4;
}

// total += (minus ? -1 : 1) * term << shift in `width` planes.
inline void add_signed(V* total, int width, const V* term, int n, int shift, bool minus) {
  const V flip = minus ? ~V{} : V{};
  V carry = flip;
  for (int i = shift; i < width; ++i) full_add(carry, total[i], total[i], (i - shift < n ? term[i - shift] : V{}) ^ flip, carry);
}

template <int Lists>
struct DepthGroup {
  static constexpr int kLists = Lists;
  const FastJob& job;
  const Work& w;
  int64_t live = 0, corner[Lists] = {};  // first word that each pixel sees at step 0
  bool beside = false;                   // the pixels of the group are neighbours in the image
  const uint64_t* image = nullptr;

  void look(int64_t p) {
    const FastShape& s = job.shape;
    live = least(Lists, s.pixels_out - p);
    for (int64_t l = 0; l < Lists; ++l) {
      const int64_t at = l < live ? p + l : p;
      const int64_t z = at / (s.out[1] * s.out[2]) * s.stride[0], y = at / s.out[2] % s.out[1] * s.stride[1];
      corner[l] = ((z * job.image_size[1] + y) * job.image_size[2] + at % s.out[2] * s.stride[2]) * job.depth.pixel_words;
    }
    beside = Lists == 1 || (live == Lists && s.stride[2] == 1 && p % s.out[2] + Lists <= s.out[2]);
  }

  // The top bit of every sum is turned, so that it counts from 0 like those of events.
  void list(int64_t t, int64_t* offset) {
    image = job.depth.image + t * job.in_planes * job.depth.image_words;
    for (int l = 0; l < Lists; ++l) offset[l] = int64_t{1} << (job.depth.width - 1);
  }

  int total(int64_t b, V* out) const {
    const DepthJob& depth = job.depth;
    for (int i = 0; i < depth.width; ++i) out[i] = V{};
    for (int q = 0; q < job.in_planes; ++q) {
      const uint64_t* from = image + q * depth.image_words + b * 4;
      for (int j = 0; j < depth.planes; ++j) {
        const V* weights = reinterpret_cast<const V*>(depth.weights) + (b * depth.planes + j) * depth.taps;
        V term[kMaxPlanes];
        const int n = count_taps(from, weights, term);
        const bool minus = (j + 1 == depth.planes) != (job.in_ternary && q == 1);
        add_signed(out, depth.width, term, n, j + (job.in_ternary ? 0 : q), minus);
      }
    }
    out[depth.width - 1] = ~out[depth.width - 1];
    return depth.width;
  }

  int count_taps(const uint64_t* from, const V* weights, V* term) const {
    const int64_t* offsets = job.depth.offsets;
    const auto apart = [&](int64_t i) {
      const uint64_t* at = from + offsets[i];
      if constexpr (Lists == 1) return load(at + corner[0]);
      if constexpr (Lists == 2) return join2(at + corner[0], at + corner[1]);
      if constexpr (Lists == 4) return join4(at + corner[0], at + corner[1], at + corner[2], at + corner[3]);
    };
    const auto neighbours = [&](int64_t i) { return load(from + offsets[i] + corner[0]); };
    if (beside) return count_of(Taps<decltype(neighbours)>{neighbours, weights}, term);
    return count_of(Taps<decltype(apart)>{apart, weights}, term);
  }
  template <class R>
  int count_of(const R& taps, V* term) const {
    return job.shape.taps == 9 ? count_nine(taps, term) : count(taps, job.depth.taps, term);
  }
};

// Groups of `lists` pixels.
void depth_bits(const FastJob& job, int64_t begin, int64_t end, std::byte* work) {
  if (job.weights.lists == 1) return finish_bits<DepthGroup<1>>(job, begin, end, work);
  if (job.weights.lists == 2) return finish_bits<DepthGroup<2>>(job, begin, end, work);
  finish_bits<DepthGroup<4>>(job, begin, end, work);
}

}  // namespace
