#pragma once
// Leaky neurons for training: all steps forward, and all steps backward, in one pass over memory.
//
//   h[t] = decay * v[t-1] + (gain * x[t] + bias)
//   n[t] = fire(h[t]),  v[t] = reset(h[t], n[t]),  s[t] = n[t] * out_scale
//
// Rules and names are those of src/picojoule/neurons/leaky.py, which is the readable reference. Pointers are
// raw; a step is `width` values, step t starts at t * width, and every array of a call has the same order. Arrays
// given as void are float, or bfloat16 where the call is `brief`; arithmetic and membranes are float throughout.

#include <cstdint>
#include <string>

namespace picojoule::train {

enum class Fires : int { binary, ternary, integer };
enum class Reset : int { hard, soft, none };

// What the backward pass reads. recompute: the input again. half: h - v_th as fp16, the spike in its sign
// (ternary: h, the spike in the last bit; integer: as byte). byte: 7 bits of the slope and the spike. membrane: h.
enum class Saved : int { recompute, half, byte, membrane };

// Derivative of the spike at z = h - v_th + offset with constants a, b; `given` reads it from arrays.
enum class Slope : int {
  given, sigmoid, atan, triangle, rect, exponential, softsign, superspike, gauss, logabs, leaky_rect, leaky_relu,
  log_tailed, s2nn, power, fake_numerical, one, fast_sigmoid, escape
};

// A constant of the equation: one value, or the value of flat index i is each[(i / inner) % count].
struct Constant {
  float value = 0;
  const float* each = nullptr;
  int64_t inner = 1, count = 1;
};

struct Leaky {
  Fires fires = Fires::binary;
  Reset reset = Reset::hard;
  Slope slope = Slope::atan;
  bool strict = false, half_up = false, open_window = false, detach = false;
  bool memory = true;  // false: no step sees an earlier one
  float v_th = 1, levels = 1, reset_value = 0, v_init = 0, out_scale = 1;
  float a = 0, b = 0, offset = 0;
  float peak = 1;  // largest slope, the scale of the byte form
  Constant decay, gain, bias;
};

// Normalisation by channel before the neuron: y = x * scale + shift (+ added). The channel of flat index i of a step is
// (i / inner) % count.
struct Norm {
  const float* scale = nullptr;  // null: y = x
  const float* shift = nullptr;
  const void* added = nullptr;   // rows like x; null: none
  const uint8_t* bits = nullptr; // instead of them: `size` where a bit is set, in the order of x; a step is whole bytes
  float size = 1;
  int64_t inner = 1, count = 1;
};

struct Forward {
  const void* x = nullptr;
  const float* v0 = nullptr;  // null: v_init everywhere
  void* spikes = nullptr;     // null: not wanted
  float* v = nullptr;         // membrane after the last step; null: not wanted
  void* saved = nullptr;      // of kind `form`; null: nothing is saved
  Saved form = Saved::recompute;
  uint8_t* bits = nullptr;    // of the spikes, in the order of x, where a step is whole bytes; null: not wanted
  bool brief = false;
  Norm norm;
};

struct Backward {
  const void* x = nullptr;       // recompute, and gradients of constants
  const float* v0 = nullptr;
  const void* saved = nullptr;
  Saved form = Saved::recompute;
  const float* up = nullptr;     // slope given: at h - v_th, and
  const float* down = nullptr;   // at -h - v_th for ternary neurons
  const void* spikes = nullptr;  // gradients of spikes, last membrane and h; null: zero
  const float* v = nullptr;
  const void* h = nullptr;
  void* dx = nullptr;            // results; null: not wanted. Normalised: the gradient of y
  float* dv0 = nullptr;
  float* decay = nullptr;        // gradients of the constants a flat index of one step, summed over steps
  float* gain = nullptr;         //   (form recompute only)
  float* bias = nullptr;
  bool brief = false;
  Norm norm;
  const float* unit = nullptr;   // normalised: (x * unit + centre) is the value before scale and shift by weights
  const float* centre = nullptr;
  double* sums = nullptr;        // [2][count]: sums of dy, and of dy * (x * unit + centre), by channel
  bool through = false;          // normalised by constants: dx is dy * scale, the gradient of x
  void* dadded = nullptr;        // then: the gradient of y; null: not wanted
};

// Rows of a normalisation: `rows` steps of `width` values each.
struct Rows {
  const void* x = nullptr;
  bool brief = false;
  int64_t inner = 1, count = 1;
};

// dx = dy * scale + ((x - mean) * slope + bias) by channel: the gradient of x behind statistics of x. dx may be dy.
struct InputGradient {
  const void* dy = nullptr;
  void* dx = nullptr;
  const float *scale = nullptr, *mean = nullptr, *slope = nullptr, *bias = nullptr;
};

// `workers` threads share the work; the result does not depend on their number.
void leaky_forward(const Leaky& rule, const Forward& call, int64_t steps, int64_t width, int workers);
void leaky_backward(const Leaky& rule, const Backward& call, int64_t steps, int64_t width, int workers);

// Instruction set in use, and its change: a name of isa.h that this processor has, or "auto" for the best.
std::string train_isa();
void set_train_isa(const std::string& name);

// Mean and variance (biased) by channel over `total` values in rows like those of a step, in an order that does not
// depend on the number of workers.
void moments(const Rows& rows, int64_t total, int workers, double* mean, double* variance);
void input_gradient(const Rows& rows, const InputGradient& call, int64_t total, int workers);

int64_t count_bits(const uint8_t* bits, int64_t bytes);

// out[c] = sum of each[i] over all i with (i / inner) % count == c, in double and in the order of i.
void sum_by_constant(const float* each, int64_t width, int64_t inner, int64_t count, float* out);

// Bytes a neuron and step of `saved`.
int64_t saved_bytes(const Leaky& rule, Saved form);

}  // namespace picojoule::train
