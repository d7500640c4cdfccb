// Leaky neurons over pieces of a step: time is the outer loop, a block of neurons the inner one, and main memory is
// read and written once. Includers define PJ_LEAKY, the table of their instruction set.

#include "train_back.inl"
#include "train_norm.inl"

namespace picojoule::train {
namespace {

template <class F>
void in_blocks(int64_t n, F f) {
  for (int64_t j = 0; j < n; j += kBlock) f(j, std::min(kBlock, n - j));
}

void first_membrane(const Leaky& p, const float* v0, int64_t begin, float* v, int64_t n) {
  if (v0) return copy_row(v0 + begin, v, n);
  fill_row(v, p.v_init, n);
}

struct Piece {
  alignas(64) float at[kPiece];
  operator float*() { return at; }
};

// -- forward ---------------------------------------------------------------------------------------------

void save(const Leaky& p, const Forward& call, Saved form, int64_t at, const float* h, const float* spikes, Codes& codes,
          bool far, int64_t n) {
  if (form == Saved::membrane) return write(h, call.saved, at, false, far, n);
  if (form == Saved::half) {
    half_codes(p, h, spikes, codes, n);
    return pack(codes, static_cast<uint16_t*>(call.saved) + at, n, far);
  }
  byte_codes(p, h, spikes, codes, n);
  pack(codes, static_cast<uint8_t*>(call.saved) + at, n, far);
}

void forward(const Leaky& p, const Forward& call, int64_t T, int64_t N, int64_t begin, int64_t n, bool far) {
  const Constants constants(p, begin, n);
  const Stepper stepper =
      call.saved ? Stepper::make<Does::both>(p, constants) : Stepper::make<Does::spikes>(p, constants);
  const Saved form = kept_form(p, call.form);
  Current current(call.x, call.norm, call.brief);
  Piece v;
  Row h, s;
  Codes codes;
  first_membrane(p, call.v0, begin, v, n);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t row = t * N;
    const int64_t soon = t + 1 < T ? row + N + begin : begin + n;
    const Ahead next = ahead_of(call.x, soon, call.brief), more = ahead_of(call.norm.added, soon, call.brief);
    in_blocks(n, [&](int64_t j, int64_t m) {
      const int64_t at = row + begin + j;
      next.ask(j, m);
      more.ask(j, m);
      float* spikes = place(call.spikes, at, call.brief, far, s);
      stepper(p, constants, j, current.block(row, begin + j, m), v + j, h, spikes, v + j, m);
      if (call.spikes && spikes == s.at) write(s, call.spikes, at, call.brief, far, m);
      if (call.bits) to_bits(spikes, call.bits + at / 8, m);
      if (call.saved) save(p, call, form, at, h, spikes, codes, far, m);
    });
  }
  if (call.v) copy_row(v, call.v + begin, n);
  settle(far);
}

// -- backward --------------------------------------------------------------------------------------------

// Membranes h of all steps again and, where `before` is given, v[t-1]: [T][n] each.
void recompute(const Leaky& p, const Constants& c, const Backward& call, int64_t T, int64_t N, int64_t begin, int64_t n,
               float* hs, float* before) {
  const Stepper stepper = Stepper::make<Does::membranes>(p, c);
  Current current(call.x, call.norm, call.brief);
  Piece v;
  Row s;
  first_membrane(p, call.v0, begin, v, n);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t row = t * N;
    const bool last = t + 1 == T;
    const Ahead next = ahead_of(last ? call.spikes : call.x, (last ? row : row + N) + begin, call.brief);
    const Ahead more = ahead_of(last ? nullptr : call.norm.added, row + N + begin, call.brief);
    in_blocks(n, [&](int64_t j, int64_t m) {
      next.ask(j, m);
      more.ask(j, m);
      if (before) copy_row(v + j, before + t * n + j, m);
      stepper(p, c, j, current.block(row, begin + j, m), v + j, hs + t * n + j, s, v + j, m);
    });
  }
}

// Sums over the steps of a piece, a value a neuron.
struct Sums {
  Piece decay, gain, bias;

  Sums(const Backward& call, int64_t n) {
    if (call.decay) fill_row(decay, 0, n);
    if (call.gain || call.sums) fill_row(gain, 0, n);
    if (call.bias || call.sums) fill_row(bias, 0, n);
  }
  void leave(const Backward& call, int64_t begin, int64_t n) {
    if (call.decay) copy_row(decay, call.decay + begin, n);
    if (call.gain) copy_row(gain, call.gain + begin, n);
    if (call.bias) copy_row(bias, call.bias + begin, n);
  }
};

// The backward pass of one piece; blocks of a step are independent.
struct Pass {
  const Leaky& p;
  const Backward& call;
  const Constants& constants;
  const float *hs, *before;  // [T][n] of the piece, where the form recomputes
  int64_t n, begin;
  bool far;
  Saved form;
  StepBack back;
  Step again;
  Known k;
  Codes codes;
  Row wide, wide_h, zero, dx, value;
  Current current;

  Pass(const Leaky& p, const Backward& call, const Constants& constants, const float* hs, const float* before, int64_t n,
       int64_t begin, bool far)
      : p(p), call(call), constants(constants), hs(hs), before(before), n(n), begin(begin), far(far),
        form(kept_form(p, call.form)), back(step_back_of(keep_of(p))), again(by_rule<Does::given>(p)),
        current(call.x, call.norm, call.brief) {
    fill_row(zero, 0, kBlock);
  }

  // Slopes by formula or saved, constants that are numbers, and no gradient of h.
  bool swift() const {
    const bool formula = p.fires == Fires::integer || (p.fires == Fires::binary && p.slope != Slope::given);
    return formula && !constants.rows && !call.h;
  }

  // The quick step of a block whose gradients are `gs`; dx goes to `out`.
  void swift_step(int64_t t, int64_t at, int64_t j, int64_t m, const float* gs, float* dh, float* dv, float* out) {
    const bool packed = form == Saved::half || form == Saved::byte;
    if (form == Saved::half) unpack(static_cast<const uint16_t*>(call.saved) + at, codes, m);
    if (form == Saved::byte) unpack(static_cast<const uint8_t*>(call.saved) + at, codes, m);
    const float decay = p.memory ? constants.decay.value : 0.0f, *h = packed ? nullptr : membranes(t, at, j);
    Swift{p, decay, constants.gain.value, gs, h, codes.at, form, dh, dv, out, m}.go();
  }

  // What is known about a block of step t, at `at` in memory.
  void load(int64_t t, int64_t at, int64_t j, int64_t m) {
    if (form == Saved::byte) return load_byte(p, static_cast<const uint8_t*>(call.saved) + at, k, codes, m);
    if (form == Saved::half) {
      load_half(p, static_cast<const uint16_t*>(call.saved) + at, k, codes, m);
    } else {
      k.h = membranes(t, at, j);
      if (p.reset == Reset::hard && p.fires == Fires::binary) {
        fired_binary(p, k.h, k.f, m);
      } else if (p.reset == Reset::hard) {
        fired_row(p, constants, again, k, m);
      }
    }
    slopes(p, call.up ? call.up + at : nullptr, call.down ? call.down + at : nullptr, k, m);
  }

  // Saved rows of the step at `at`, to be asked for.
  Ahead saved_at(int64_t at) const {
    if (!call.saved) return {};
    const int64_t size = form == Saved::membrane ? 4 : form == Saved::half ? 2 : 1;
    return {static_cast<const char*>(call.saved) + at * size, size};
  }

  const float* membranes(int64_t t, int64_t at, int64_t j) const {
    return form == Saved::membrane ? static_cast<const float*>(call.saved) + at : hs + t * n + j;
  }

  // One block back: dv becomes the gradient of the membrane before, dx is written, sums grow.
  void block(int64_t t, int64_t row, int64_t j, int64_t m, bool quick, float* dv, Sums& sums) {
    const int64_t at = row + begin + j;
    const float* gs = call.spikes ? read(call.spikes, at, call.brief, wide, m) : zero.at;
    const bool constant_sums = call.decay || call.gain || call.bias;
    float* out = place(call.through ? nullptr : call.dx, at, call.brief, far, dx);
    if (quick) {
      swift_step(t, at, j, m, gs, constant_sums ? k.g.at : nullptr, dv + j, out);
    } else {
      load(t, at, j, m);
      back(p, gs, call.h ? read(call.h, at, call.brief, wide_h, m) : zero.at, k, dv + j, m);
      if (p.memory) {
        times(k.g, constants.decay, constants.rows, j, dv + j, m);
      } else {
        fill_row(dv + j, 0, m);
      }
      if (call.dx || call.sums) times(k.g, constants.gain, constants.rows, j, out, m);
    }
    if (call.decay) add_products(k.g, before + t * n + j, sums.decay + j, m);
    if (call.gain) add_products(k.g, current.block(row, begin + j, m), sums.gain + j, m);
    if (call.bias) add_row(k.g, sums.bias + j, m);
    if (call.sums)
      add_normalised(read(call.x, at, call.brief, wide, m), out, call, sums.gain + j, sums.bias + j, begin + j, m);
    leave(at, j, m, out);
  }

  // Gradients of a block to memory, where they are not there already.
  void leave(int64_t at, int64_t j, int64_t m, float* dy) {
    if (!call.through) {
      if (call.dx && dy == dx.at) write(dy, call.dx, at, call.brief, far, m);
      return;
    }
    if (call.dadded) write(dy, call.dadded, at, call.brief, far, m);
    if (!call.dx) return;
    scale_by_channel(dy, call.norm, value, begin + j, m);
    write(value, call.dx, at, call.brief, far, m);
  }
};

void backward(const Leaky& p, const Backward& call, int64_t T, int64_t N, int64_t begin, int64_t n, bool far,
              float* scratch, double* channel_sums) {
  const Constants constants(p, begin, n);
  float *hs = scratch, *before = call.decay ? scratch + T * n : nullptr;
  Pass pass(p, call, constants, hs, before, n, begin, far);
  Piece dv;
  Sums sums(call, n);
  if (pass.form == Saved::recompute) recompute(p, constants, call, T, N, begin, n, hs, before);
  if (call.v) {
    copy_row(call.v + begin, dv, n);
  } else {
    fill_row(dv, 0, n);
  }
  const bool quick = pass.swift();
  for (int64_t t = T - 1; t >= 0; --t) {
    const int64_t row = t * N;
    const bool again = !t && pass.form == Saved::recompute;
    const Ahead next = t       ? ahead_of(call.spikes, row - N + begin, call.brief)
                       : again ? ahead_of(call.x, begin + n, call.brief)
                               : Ahead{};
    const Ahead more = t ? pass.saved_at(row - N + begin) : Ahead{};
    in_blocks(n, [&](int64_t j, int64_t m) {
      next.ask(j, m);
      more.ask(j, m);
      pass.block(t, row, j, m, quick, dv, sums);
    });
  }
  if (call.dv0) copy_row(dv, call.dv0 + begin, n);
  sums.leave(call, begin, n);
  if (channel_sums) add_by_channel(sums.bias, sums.gain, call.norm, begin, n, channel_sums);
  settle(far);
}

}  // namespace

const LeakyTable PJ_LEAKY = {forward, backward, moments, input_gradient};

}  // namespace picojoule::train
