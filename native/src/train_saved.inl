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

void window_row(const Leaky& p, const float* __restrict h, float* __restrict g, int64_t n) {
  const float levels = p.levels;
  if (p.open_window) {
    for (int64_t i = 0; i < n; ++i) g[i] = h[i] > 0.0f && h[i] < levels ? 1.0f : 0.0f;
  } else {
    for (int64_t i = 0; i < n; ++i) g[i] = h[i] >= 0.0f && h[i] <= levels ? 1.0f : 0.0f;
  }
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
inline uint16_t to_half(float magnitude_of) {
  constexpr float limit = 65504.0f;
  const float x = (magnitude_of > limit ? limit : magnitude_of) * 1.92592994e-34f;  // 2^-112
  const uint32_t bits = bits_of(x);
  return static_cast<uint16_t>((bits + 0x0fffu + ((bits >> 13) & 1u)) >> 13);
}

inline float from_half(uint32_t magnitude_bits) { return of_bits(magnitude_bits << 13) * 5.19229686e33f; }  // 2^112

void save_half(const Leaky& p, const float* __restrict h, const float* __restrict spikes, uint16_t* __restrict out,
               int64_t n) {
  if (p.fires == Fires::binary) {
    const float th = p.v_th;
    for (int64_t i = 0; i < n; ++i)
      out[i] = static_cast<uint16_t>(to_half(magnitude(h[i] - th)) | (spikes[i] != 0.0f ? 0u : 0x8000u));
  } else {
    for (int64_t i = 0; i < n; ++i)
      out[i] = static_cast<uint16_t>((to_half(magnitude(h[i])) & 0xfffeu) | (bits_of(h[i]) >> 31 << 15) |
                                     (spikes[i] != 0.0f ? 1u : 0u));
  }
}

void load_half(const Leaky& p, const uint16_t* __restrict in, Known& k, int64_t n) {
  float *__restrict h = k.kept.at, *__restrict f = k.f.at;
  k.h = k.kept;
  if (p.fires == Fires::binary) {
    const float th = p.v_th;
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = in[i];
      const float z = from_half(bits & 0x7fffu);
      f[i] = bits & 0x8000u ? 0.0f : 1.0f;
      h[i] = th + (bits & 0x8000u ? -z : z);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = in[i];
      const float m = from_half(bits & 0x7ffeu);
      f[i] = bits & 1u ? 1.0f : 0.0f;
      h[i] = bits & 0x8000u ? -m : m;
    }
  }
}

void save_byte(const Leaky& p, const float* __restrict spikes, const float* __restrict g, uint8_t* __restrict out,
               int64_t n) {
  const float scale = p.fires == Fires::integer ? 1.0f : 127.0f / p.peak;
  for (int64_t i = 0; i < n; ++i) {
    float q = g[i] * scale;
    q = q > 0.0f ? q : 0.0f;  // NaN too: an integer has no code for it
    q = q > 127.0f ? 127.0f : q;
    const uint32_t code = static_cast<uint32_t>(static_cast<int32_t>(q + 0.5f));
    out[i] = static_cast<uint8_t>(code << 1 | (spikes[i] != 0.0f ? 1u : 0u));
  }
}

void load_byte(const Leaky& p, const uint8_t* __restrict in, Known& k, int64_t n) {
  const float scale = p.fires == Fires::integer ? 1.0f : p.peak / 127.0f;
  float *__restrict g = k.g.at, *__restrict f = k.f.at;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t code = in[i];
    g[i] = static_cast<float>(static_cast<int32_t>(code >> 1)) * scale;
    f[i] = code & 1u ? 1.0f : 0.0f;
  }
}

// The form in which `form` is really kept: integer neurons need two bits only.
Saved kept_form(const Leaky& p, Saved form) {
  return form == Saved::half && p.fires == Fires::integer ? Saved::byte : form;
}

}  // namespace
}  // namespace picojoule::train
