// Vertical counting of weights of several bit-planes: a vector of a row holds as many planes as fit, all counted by one
// walk over the events of one pixel, and the counts are joined at the end. Included by fast_bits.inl.

namespace {

template <class X>
struct Strip {
  using Vector = X;
  const uint8_t* base;
  const uint32_t* list;
  X at(int64_t i) const {
    X x;
    std::memcpy(&x, base + list[i], sizeof x);
    return x;
  }
};

template <int Lists>
inline V join(const uint8_t* first, int64_t apart) {
  if constexpr (Lists == 1) return load(first);
  if constexpr (Lists == 2) return join2(first, first + apart);
  if constexpr (Lists == 4) return join4(first, first + apart, first + 2 * apart, first + 3 * apart);
}

// out += counts of the planes in bytes [at, at + sizeof(X)) of the rows, of the events in spike plane q.
template <class X, int Lists>
int add_strip(const FastJob& job, const Work& w, int64_t length, int q, const uint8_t* rows, int64_t at, V* out, int planes) {
  X counts[Lists][kMaxPlanes];
  int n = 0;
  for (int l = 0; l < Lists; ++l) n = count(Strip<X>{rows + at, w.lists + (q * Lists + l) * w.capacity}, length, counts[l]);
  constexpr int64_t bytes = 32 / Lists, size = sizeof(X);
  for (int64_t from = 0; from < size && at + from < job.weights.block_bytes; from += bytes) {
    V term[kMaxPlanes];
    for (int i = 0; i < n; ++i) term[i] = join<Lists>(reinterpret_cast<const uint8_t*>(&counts[0][i]) + from, kMaxPlanes * size);
    planes = add_shifted(out, planes, term, n, q + static_cast<int>((at + from) / bytes));
  }
  return planes;
}

// Counts of one block over all weight and spike planes.
template <int Lists>
int total_of_strips(const FastJob& job, const Work& w, const int64_t* lengths, int64_t block, V* out) {
  const int64_t bytes = job.weights.block_bytes;
  const uint8_t* rows = job.weights.rows + block * bytes;
  int planes = 0;
  for (int q = 0; q < (job.in_ternary ? 1 : job.in_planes); ++q) {
    int64_t at = 0;
#if defined(__AVX512F__)
    for (; at + 32 < bytes; at += 64) planes = add_strip<Wide, Lists>(job, w, lengths[q], q, rows, at, out, planes);
#endif
    for (; at < bytes; at += 32) planes = add_strip<V, Lists>(job, w, lengths[q], q, rows, at, out, planes);
  }
  return planes;
}

}  // namespace
