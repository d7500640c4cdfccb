// Slopes, and the forms in which the membrane is kept between the passes.
#pragma once

#include "train_slope.inl"

namespace picojoule::train {
namespace {

// What the backward pass knows about a row: g = dn/dh, f = [n != 0], turn = d[n != 0]/dh (ternary; binary: g), h.
struct Known {
  Row g, f, below, kept;
  const float *h = nullptr, *turn = nullptr;
};

// Calls use(window), window(h) being the slope of an integer neuron.
template <class Use>
void with_window(const Leaky& p, Use use) {
  const float levels = p.levels;
  if (p.open_window) return use([=](float m) { return m > 0.0f && m < levels ? 1.0f : 0.0f; });
  use([=](float m) { return m >= 0.0f && m <= levels ? 1.0f : 0.0f; });
}

void window_row(const Leaky& p, const float* h, float* g, int64_t n) {
  with_window(p, [=](auto window) {
    const float* __restrict in = h;
    float* __restrict out = g;
    for (int64_t i = 0; i < n; ++i) out[i] = window(in[i]);
  });
}

// g and turn from h; `up` and `down` are rows of given slopes.
void slopes(const Leaky& p, const float* up, const float* down, Known& k, int64_t n) {
  k.turn = k.g;
  if (p.fires == Fires::integer) return window_row(p, k.h, k.g, n);
  if (up) {
    copy_row(up, k.g, n);
  } else {
    slope_row(p, k.h, 1.0f, k.g, n);
  }
  if (p.fires == Fires::binary) return;
  if (down) {
    copy_row(down, k.below, n);
  } else {
    slope_row(p, k.h, -1.0f, k.below, n);
  }
  float *__restrict g = k.g.at, *__restrict turn = k.below.at;
  for (int64_t i = 0; i < n; ++i) {
    const float above = g[i], below = turn[i];
    g[i] = above + below;
    turn[i] = above - below;
  }
  k.turn = k.below;
}

// fp16 by its bits, half to even; magnitudes beyond 65504 become 65504.
inline uint32_t to_half(float magnitude_of) {
  constexpr float limit = 65504.0f;
  const float x = (magnitude_of > limit ? limit : magnitude_of) * 1.92592994e-34f;  // 2^-112
  const uint32_t bits = bits_of(x);
  return (bits + 0x0fffu + ((bits >> 13) & 1u)) >> 13;
}

inline float from_half(uint32_t magnitude_bits) { return of_bits(magnitude_bits << 13) * 5.19229686e33f; }  // 2^112

// Codes of a block, one a value, before they are packed and after they are unpacked.
struct Codes {
  alignas(64) uint32_t at[kBlock];
};

#if defined(__AVX512BW__)
inline void put(void* to, __m512i block, bool aligned) {
  aligned ? _mm512_stream_si512(static_cast<__m512i*>(to), block) : _mm512_storeu_si512(to, block);
}

// Packs codes below 2^8 (or 2^16), whole vectors only, and returns how many. The masks are full: they keep the compiler
// from warning of a register it need not set.
inline int64_t pack_vectors(const Codes& codes, uint8_t* out, int64_t n, bool far) {
  const bool aligned = far && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint32_t* in = codes.at + i;
    const __m512i a = _mm512_packus_epi32(_mm512_load_si512(in), _mm512_load_si512(in + 16));
    const __m512i b = _mm512_packus_epi32(_mm512_load_si512(in + 32), _mm512_load_si512(in + 48));
    put(out + i, _mm512_maskz_permutexvar_epi32(0xffff, order, _mm512_packus_epi16(a, b)), aligned);
  }
  return i;
}

inline int64_t pack_vectors(const Codes& codes, uint16_t* out, int64_t n, bool far) {
  const bool aligned = far && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const uint32_t* in = codes.at + i;
    const __m512i a = _mm512_packus_epi32(_mm512_load_si512(in), _mm512_load_si512(in + 16));
    put(out + i, _mm512_maskz_permutexvar_epi64(0xff, order, a), aligned);
  }
  return i;
}
#elif defined(__AVX2__)
inline __m256i codes_at(const uint32_t* in) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(in)); }

inline void put(void* to, __m256i block, bool aligned) {
  __m256i* at = static_cast<__m256i*>(to);
  aligned ? _mm256_stream_si256(at, block) : _mm256_storeu_si256(at, block);
}

// Packs `n` codes below 2^8 (or 2^16), whole vectors only; returns how many it packed.
inline int64_t pack_vectors(const Codes& codes, uint8_t* out, int64_t n, bool far) {
  const bool aligned = far && reinterpret_cast<uintptr_t>(out) % 32 == 0;
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const uint32_t* in = codes.at + i;
    const __m256i a = _mm256_packus_epi32(codes_at(in), codes_at(in + 8));
    const __m256i b = _mm256_packus_epi32(codes_at(in + 16), codes_at(in + 24));
    put(out + i, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order), aligned);
  }
  return i;
}

inline int64_t pack_vectors(const Codes& codes, uint16_t* out, int64_t n, bool far) {
  const bool aligned = far && reinterpret_cast<uintptr_t>(out) % 32 == 0;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i a = _mm256_packus_epi32(codes_at(codes.at + i), codes_at(codes.at + i + 8));
    put(out + i, _mm256_permute4x64_epi64(a, 0xd8), aligned);
  }
  return i;
}
#else
template <class Packed>
int64_t pack_vectors(const Codes&, Packed*, int64_t, bool) {
  return 0;
}
#endif

template <class Packed>
void pack(const Codes& codes, Packed* __restrict out, int64_t n, bool far) {
  for (int64_t i = pack_vectors(codes, out, n, far); i < n; ++i) out[i] = static_cast<Packed>(codes.at[i]);
}

template <class Packed>
void unpack(const Packed* __restrict in, Codes& codes, int64_t n) {
  uint32_t* __restrict out = codes.at;
  for (int64_t i = 0; i < n; ++i) out[i] = in[i];
}

void half_codes(const Leaky& p, const float* __restrict h, const float* __restrict spikes, Codes& codes, int64_t n) {
  uint32_t* __restrict out = codes.at;
  if (p.fires == Fires::binary) {
    const float th = p.v_th;
    for (int64_t i = 0; i < n; ++i) out[i] = to_half(magnitude(h[i] - th)) | (spikes[i] != 0.0f ? 0u : 0x8000u);
  } else {
    for (int64_t i = 0; i < n; ++i)
      out[i] = (to_half(magnitude(h[i])) & 0xfffeu) | (bits_of(h[i]) >> 31 << 15) | (spikes[i] != 0.0f ? 1u : 0u);
  }
}

// h and f of a half, h - v_th or (ternary) h itself.
inline float membrane_of(uint32_t code, float th) {
  const float z = from_half(code & 0x7fffu);
  return th + (code & 0x8000u ? -z : z);
}
inline float fired_half(uint32_t code) { return code & 0x8000u ? 0.0f : 1.0f; }

void load_half(const Leaky& p, const uint16_t* in, Known& k, Codes& codes, int64_t n) {
  unpack(in, codes, n);
  const uint32_t* __restrict bits = codes.at;
  float *__restrict h = k.kept.at, *__restrict f = k.f.at;
  k.h = k.kept;
  if (p.fires == Fires::binary) {
    const float th = p.v_th;
    for (int64_t i = 0; i < n; ++i) {
      f[i] = fired_half(bits[i]);
      h[i] = membrane_of(bits[i], th);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const float m = from_half(bits[i] & 0x7ffeu);
      f[i] = bits[i] & 1u ? 1.0f : 0.0f;
      h[i] = bits[i] & 0x8000u ? -m : m;
    }
  }
}

// Slope in units of 1 / scale, and the spike.
inline uint32_t to_byte(float g, float scale, float spike) {
  float q = g * scale;
  q = q > 0.0f ? q : 0.0f;  // NaN too: an integer has no code for it
  q = q > 127.0f ? 127.0f : q;
  const uint32_t code = static_cast<uint32_t>(static_cast<int32_t>(q + 0.5f));
  return code << 1 | (spike != 0.0f ? 1u : 0u);
}

inline float slope_of(uint32_t code, float scale) { return static_cast<float>(static_cast<int32_t>(code >> 1)) * scale; }
inline float fired_byte(uint32_t code) { return code & 1u ? 1.0f : 0.0f; }

// Slope of one code step.
inline float byte_unit(const Leaky& p) { return p.fires == Fires::integer ? 1.0f : p.peak / 127.0f; }

void byte_codes(const Leaky& p, const float* h, const float* spikes, Codes& codes, int64_t n) {
  const float scale = p.fires == Fires::integer ? 1.0f : 127.0f / p.peak;
  const auto all = [=, out = codes.at](auto formula) {
    const float *__restrict hs = h, *__restrict ss = spikes;
    uint32_t* __restrict to = out;
    for (int64_t i = 0; i < n; ++i) to[i] = to_byte(formula(hs[i]), scale, ss[i]);
  };
  if (p.fires == Fires::integer) return with_window(p, all);
  const float th = p.v_th, offset = p.offset;
  with_formula(p, [=](auto slope) { all([=](float m) { return slope((m - th) + offset); }); });
}

void load_byte(const Leaky& p, const uint8_t* in, Known& k, Codes& codes, int64_t n) {
  unpack(in, codes, n);
  const float unit = byte_unit(p);
  const uint32_t* __restrict bits = codes.at;
  float *__restrict g = k.g.at, *__restrict f = k.f.at;
  for (int64_t i = 0; i < n; ++i) {
    g[i] = slope_of(bits[i], unit);
    f[i] = fired_byte(bits[i]);
  }
}

// The form in which `form` is really kept: integer neurons need two bits only.
Saved kept_form(const Leaky& p, Saved form) {
  return form == Saved::half && p.fires == Fires::integer ? Saved::byte : form;
}

}  // namespace
}  // namespace picojoule::train
