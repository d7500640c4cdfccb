// Sums and membranes of one pixel into dense rows. Included by fast_impl.inl, lookup.inl and lookup_words.inl.

namespace {

int64_t constants_at(const Epilogue& e, int64_t t) { return least(e.first + t, e.last_step); }

template <class E, class S>
void put(const Epilogue& e, int64_t t, int64_t p, const S* sums, int64_t channels) {
  E* __restrict to = reinterpret_cast<E*>(e.out + t * e.out_row_bytes) + p * e.pixel_stride;
  const S* __restrict from = sums;
  const int32_t* __restrict bias = e.bias;
  if (e.channel_stride == 1) {
    typedef S Some __attribute__((vector_size(8 * sizeof(S)), may_alias));
    typedef E Eight __attribute__((vector_size(8 * sizeof(E)), may_alias));
    int64_t c = 0;
    for (; c + 8 <= channels; c += 8) {
      Some some;
      std::memcpy(&some, from + c, sizeof(some));
      const Eight eight = __builtin_convertvector(__builtin_convertvector(some, V32) + (V32)load(bias + c), Eight);
      std::memcpy(to + c, &eight, sizeof(eight));
    }
    for (; c < channels; ++c) to[c] = static_cast<E>(from[c] + bias[c]);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) to[c * e.channel_stride] = static_cast<E>(sums[c] + e.bias[c]);
}

template <class S>
void put_raw(const Epilogue& e, int64_t t, int64_t p, const S* sums, int64_t channels) {
  if (e.element == 1) return put<int8_t>(e, t, p, sums, channels);
  if (e.element == 2) return put<int16_t>(e, t, p, sums, channels);
  if (e.element == 4) return put<int32_t>(e, t, p, sums, channels);
  put<int64_t>(e, t, p, sums, channels);
}

// Membranes of a pixel, which a worker keeps while it goes through the steps; `v` has room for wide ones.
int64_t membrane_bytes(const Epilogue& e) { return e.fire->groups * kFireGroup * e.fire->lane; }

void start_rows(const Epilogue& e, int64_t p, int32_t* v) {
  if (e.finish != Finish::rows) return;
  const int64_t bytes = membrane_bytes(e);
  std::memcpy(v, e.first ? e.state + p * bytes : e.fire->start, static_cast<size_t>(bytes));
}

void end_rows(const Epilogue& e, int64_t p, const int32_t* v) {
  if (e.finish != Finish::rows || !e.keep) return;
  const int64_t bytes = membrane_bytes(e);
  std::memcpy(e.state + p * bytes, v, static_cast<size_t>(bytes));
}

}  // namespace
