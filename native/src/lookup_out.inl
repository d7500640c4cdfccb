// From the 16-bit sums of windows to dense rows. Included by lookup.inl and lookup_words.inl.

namespace {

template <class E>
void put_turned(const Epilogue& e, std::byte* at, const int16_t* sums, int64_t row, const int16_t* bias, int64_t channels) {
  E* to = reinterpret_cast<E*>(at);
  for (int64_t c = 0; c < channels; c += 8) {
    Eight rows[8];
    for (int i = 0; i < 8; ++i) rows[i] = read<Eight>(sums + i * row + c) + read<Eight>(bias + c);
    turn_eight(rows);
    for (int64_t i = 0; i < least(8, channels - c); ++i) {
      typedef E Row __attribute__((vector_size(8 * sizeof(E)), may_alias));
      write(to + (c + i) * e.channel_stride, __builtin_convertvector(rows[i], Row));
    }
  }
}

// Eight neighbouring pixels whose sums with their bias fit 16 bits side by side, others one at a time.
void put_pixels(const FastJob& job, int64_t t, int64_t p, int64_t live, const int16_t* sums, int64_t row) {
  const Epilogue& e = job.end;
  const int64_t channels = job.shape.out_channels;
  if (live == kLookupPixels && e.pixel_stride == 1 && e.element <= 2) {
    std::byte* at = e.out + t * e.out_row_bytes + p * e.element;
    if (e.element == 1) return put_turned<int8_t>(e, at, sums, row, job.lookup.bias, channels);
    return put_turned<int16_t>(e, at, sums, row, job.lookup.bias, channels);
  }
  for (int64_t i = 0; i < live; ++i) put_raw(e, t, p + i, sums + i * row, channels);
}

}  // namespace
