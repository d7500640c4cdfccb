// From the 16-bit sums of one window after the other to what a node gives. Included by lookup.inl.

namespace {

// Memory of one worker, cut from `work`.
struct LookupWork {
  uint32_t *list, *patterns;
  Slice* slices;   // [kLookupPixels][taps]
  int16_t* sums;   // [kLookupPixels, of pixels or of steps][row]
  int64_t row;     // outputs in whole vectors, in whole words
  int32_t *wide, *v;
};

LookupWork cut_lookup(const FastJob& job, std::byte* work, int64_t* bytes) {
  int64_t at = 0;
  const auto take = [&](int64_t n) {
    std::byte* p = work ? work + at : nullptr;
    at += (n + 63) / 64 * 64;
    return p;
  };
  LookupWork w;
  const FastShape& s = job.shape;
  const int64_t entries = (s.taps + s.kernel[2]) * job.lookup.groups + 4 * kOverrun;
  w.row = (s.out_channels + 63) / 64 * 64;
  w.list = reinterpret_cast<uint32_t*>(take(entries * 4));
  w.patterns = reinterpret_cast<uint32_t*>(take(entries * 4));
  w.slices = reinterpret_cast<Slice*>(take(kLookupPixels * s.taps * static_cast<int64_t>(sizeof(Slice))));
  w.sums = reinterpret_cast<int16_t*>(take(kLookupPixels * w.row * 2));
  w.wide = reinterpret_cast<int32_t*>(take(w.row * 4));
  w.v = reinterpret_cast<int32_t*>(take(w.row * 4));
  if (bytes) *bytes = at;
  return w;
}

int64_t lookup_work(const FastJob& job) {
  int64_t bytes = 0;
  cut_lookup(job, nullptr, &bytes);
  return bytes;
}

// Sums of one window at step t, modulo 2^16 but known to fit.
typedef void WindowSums(const FastJob& job, int64_t t, const Slice* slices, int64_t count, int64_t chunks, const LookupWork& w,
                        int16_t* sums);

void raw_piece(const FastJob& job, int64_t p, int64_t live, int64_t chunks, const LookupWork& w, WindowSums* sums) {
  const int64_t taps = job.shape.taps;
  int64_t counts[kLookupPixels];
  for (int64_t i = 0; i < live; ++i) counts[i] = window_slices(job, p + i, w.slices + i * taps);
  for (int64_t t = 0; t < job.steps; ++t) {
    if (t == 0 || job.in_row_bytes)
      for (int64_t i = 0; i < live; ++i) sums(job, t, w.slices + i * taps, counts[i], chunks, w, w.sums + i * w.row);
    put_pixels(job, t, p, live, w.sums, w.row);
  }
}

void fused_pixel(const FastJob& job, int64_t p, int64_t chunks, const LookupWork& w, WindowSums* sums) {
  const int64_t count = window_slices(job, p, w.slices);
  start_rows(job.end, p, w.v);
  if (!job.in_row_bytes) {
    sums(job, 0, w.slices, count, chunks, w, w.sums);
    fire(job, 0, job.steps, w.sums, 0, w.wide, w.v, p);
  } else {
    for (int64_t t = 0; t < job.steps; t += kLookupPixels) {
      const int64_t some = least(kLookupPixels, job.steps - t);
      for (int64_t i = 0; i < some; ++i) sums(job, t + i, w.slices, count, chunks, w, w.sums + i * w.row);
      fire(job, t, some, w.sums, w.row, w.wide, w.v, p);
    }
  }
  end_rows(job.end, p, w.v);
}

// Pieces of kLookupPixels pixels.
void all_pieces(const FastJob& job, int64_t begin, int64_t end, int64_t chunks, const LookupWork& w, WindowSums* sums) {
  std::memset(w.sums, 0, static_cast<size_t>(kLookupPixels * w.row) * 2);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t p = piece * kLookupPixels, live = least(kLookupPixels, job.shape.pixels_out - p);
    if (job.end.finish == Finish::raw) raw_piece(job, p, live, chunks, w, sums);
    else
      for (int64_t i = 0; i < live; ++i) fused_pixel(job, p + i, chunks, w, sums);
  }
}

}  // namespace
