// Packed spikes to lists of weight-row offsets, and the list of one output window. Included by fast_impl.inl.

namespace {

using namespace picojoule;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

void decode(const FastJob& job, int64_t begin, int64_t end) {
  const FastShape& s = job.shape;
  const int64_t image_rows = s.in[0] * s.in[1], width = s.in[2];
  const uint32_t scale = static_cast<uint32_t>(job.weights.row_bytes);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t t = r / (job.in_planes * image_rows), plane = r / image_rows % job.in_planes, line = r % image_rows;
    const uint64_t* pixel = reinterpret_cast<const uint64_t*>(job.in + t * job.in_row_bytes) +
                            (plane * s.pixels_in + line * width) * s.words;
    uint32_t* list = job.events.list + r * width * s.channels;
    int32_t* starts = job.events.starts + r * (width + 1);
    uint32_t* out = list;
    for (int64_t x = 0; x < width; ++x, pixel += s.words) {
      starts[x] = static_cast<int32_t>(out - list);
      for (int64_t w = 0; w < s.words; ++w) {
        const uint32_t base = static_cast<uint32_t>(x * s.channels + w * 64);
        for (uint64_t bits = pixel[w]; bits; bits &= bits - 1)
          *out++ = (base + static_cast<uint32_t>(__builtin_ctzll(bits))) * scale;
      }
    }
    starts[width] = static_cast<int32_t>(out - list);
  }
}

// Appends events [from, until) of one image row, moved by `shift`.
inline int64_t append(uint32_t* to, const uint32_t* from, int64_t n, uint32_t shift) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i] + shift;
  return n;
}

// Rows that touch output pixel `p` at step t in one spike plane; returns their number.
int64_t window_list(const FastJob& job, int64_t t, int plane, int64_t p, uint32_t extra, uint32_t* to) {
  const FastShape& s = job.shape;
  const int64_t width = s.in[2], image_rows = s.in[0] * s.in[1], scale = job.weights.row_bytes * s.channels;
  const int64_t oz = p / (s.out[1] * s.out[2]), oy = p / s.out[2] % s.out[1], ox = p % s.out[2];
  const int64_t x0 = ox * s.stride[2] - s.before[2];
  int64_t n = 0;
  for (int64_t a = 0; a < s.kernel[0]; ++a) {
    const int64_t z = oz * s.stride[0] - s.before[0] + a * s.dilation[0];
    if (z < 0 || z >= s.in[0]) continue;
    for (int64_t b = 0; b < s.kernel[1]; ++b) {
      const int64_t y = oy * s.stride[1] - s.before[1] + b * s.dilation[1];
      if (y < 0 || y >= s.in[1]) continue;
      const int64_t r = (t * job.in_planes + plane) * image_rows + z * s.in[1] + y;
      const uint32_t* list = job.events.list + r * width * s.channels;
      const int32_t* starts = job.events.starts + r * (width + 1);
      const int64_t first_tap = (a * s.kernel[1] + b) * s.kernel[2];
      if (s.dilation[2] == 1) {
        const int64_t from = most(0, x0), until = least(width, x0 + s.kernel[2]);
        if (from < until)
          n += append(to + n, list + starts[from], starts[until] - starts[from],
                      static_cast<uint32_t>((first_tap - x0) * scale) + extra);
        continue;
      }
      for (int64_t e = 0; e < s.kernel[2]; ++e) {
        const int64_t x = x0 + e * s.dilation[2];
        if (x >= 0 && x < width)
          n += append(to + n, list + starts[x], starts[x + 1] - starts[x],
                      static_cast<uint32_t>((first_tap + e - x) * scale) + extra);
      }
    }
  }
  return n;
}

}  // namespace
