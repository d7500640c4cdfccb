// The list of one output window out of the lists of its image rows. Included by fast_events.inl and lookup.inl.

namespace {

using namespace picojoule;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Pixels [from, until) of one image row of step 0 that a window sees, and what moves their entries to its taps.
struct Slice {
  int64_t line;
  int32_t from, until, first;  // first: x of the window's first tap
  uint32_t shift;
};

// Slices of the window of output pixel p, or of the `lists` pixels from p on when they share one; their number.
[[maybe_unused]] int64_t window_slices(const FastJob& job, int64_t p, Slice* to) {
  const FastShape& s = job.shape;
  const FastWeights& weights = job.weights;
  const int64_t oz = p / (s.out[1] * s.out[2]), oy = p / s.out[2] % s.out[1], ox = p % s.out[2];
  const int64_t x0 = ox * s.stride[2] - s.before[2], width = s.in[2];
  const int64_t reach = s.kernel[2] + (weights.shared ? weights.lists - 1 : 0);
  const auto step = [](uint32_t by, int64_t n) { return by * static_cast<uint32_t>(n); };
  int64_t n = 0;
  for (int64_t a = 0; a < s.kernel[0]; ++a) {
    const int64_t z = oz * s.stride[0] - s.before[0] + a * s.dilation[0];
    if (z < 0 || z >= s.in[0]) continue;
    for (int64_t b = 0; b < s.kernel[1]; ++b) {
      const int64_t y = oy * s.stride[1] - s.before[1] + b * s.dilation[1];
      if (y < 0 || y >= s.in[1]) continue;
      const uint32_t shift = step(weights.slice_step, a * s.kernel[1] + b) + weights.window_base;
      const bool whole = s.dilation[2] == 1;
      for (int64_t e = 0; e < (whole ? 1 : s.kernel[2]); ++e) {
        const int64_t x = x0 + e * s.dilation[2], from = most(0, x), until = least(width, x + (whole ? reach : 1));
        if (from < until)
          to[n++] = {z * s.in[1] + y, static_cast<int32_t>(from), static_cast<int32_t>(until), static_cast<int32_t>(x),
                     shift + step(weights.window_step, x) + step(weights.tap_step, e)};
      }
    }
  }
  return n;
}

// Entries [from, from + n) moved by `shift`. `chunks` vectors are written in any case: a count that seldom differs
// costs no mispredicted branch.
inline int64_t append(uint32_t* to, const uint32_t* from, int64_t n, uint32_t shift, int64_t chunks) {
  int64_t i = 0;
  do add_sixteen_to(to + i, from + i, shift);
  while ((i += 16) < chunks * 16);
  for (; i < n; i += 16) add_sixteen_to(to + i, from + i, shift);
  return n;
}

// Vectors that most slices of a window need: the mean and two standard deviations of a Poisson count.
int64_t usual_chunks(const FastJob& job) {
  const FastShape& s = job.shape;
  const int64_t lines = (job.in_row_bytes ? job.steps : 1) * job.in_planes * s.in[0] * s.in[1];
  int64_t events = 0;
  for (int64_t r = 0; r < lines; ++r) events += job.events.starts[r * (s.in[2] + 1) + s.in[2]];
  const int64_t reach = s.dilation[2] == 1 ? s.kernel[2] + (job.weights.shared ? job.weights.lists - 1 : 0) : 1;
  const int64_t mean = events * least(reach, s.in[2]) / (lines * s.in[2]);
  int64_t root = 0;
  while ((root + 1) * (root + 1) <= mean) ++root;
  return least((mean + 2 * root + 15) / 16, least(reach, s.in[2]) * s.channels / 16);
}

// Rows that touch a window at step t in one spike plane; returns their number.
int64_t window_list(const FastJob& job, int64_t t, int plane, const Slice* slices, int64_t count, int64_t chunks,
                    uint32_t extra, uint32_t* to) {
  const int64_t width = job.shape.in[2], first = (t * job.in_planes + plane) * job.shape.in[0] * job.shape.in[1];
  int64_t n = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = first + slices[i].line;
    const int32_t* starts = job.events.starts + r * (width + 1);
    const int32_t from = starts[slices[i].from], until = starts[slices[i].until];
    n += append(to + n, job.events.list + r * job.events.row + from, until - from, slices[i].shift + extra, chunks);
  }
  return n;
}

}  // namespace
