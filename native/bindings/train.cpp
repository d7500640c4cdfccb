#include "train.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "picojoule/train_leaky.h"

namespace nb = nanobind;
using namespace picojoule::train;

namespace {

// Addresses of tensors, 0 for none: the caller keeps them alive, on the CPU and of one memory order; float32, or
// bfloat16 for rows of a `brief` call.
using Address = uintptr_t;
// value, address of a float for each, inner, count (see Constant)
using Numbers = std::tuple<float, Address, int64_t, int64_t>;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Constant constant(const Numbers& c) {
  const auto [value, each, inner, count] = c;
  if (inner < 1 || count < 1) throw nb::value_error("a constant needs at least one value");
  return {value, at<const float>(each), inner, count};
}

template <class Enum>
Enum checked(int value, Enum last, const char* what) {
  if (value < 0 || value > static_cast<int>(last)) throw nb::value_error(what);
  return static_cast<Enum>(value);
}

Leaky leaky(std::tuple<int, int, int> codes, std::tuple<bool, bool, bool, bool, bool> flags,
            std::tuple<float, float, float, float, float> numbers, std::tuple<float, float, float, float> slope,
            Numbers decay, Numbers gain, Numbers bias) {
  Leaky p;
  p.fires = checked(std::get<0>(codes), Fires::integer, "unknown kind of spikes");
  p.reset = checked(std::get<1>(codes), Reset::none, "unknown reset");
  p.slope = checked(std::get<2>(codes), Slope::escape, "unknown slope");
  std::tie(p.strict, p.half_up, p.open_window, p.detach, p.memory) = flags;
  std::tie(p.v_th, p.levels, p.reset_value, p.v_init, p.out_scale) = numbers;
  std::tie(p.a, p.b, p.offset, p.peak) = slope;
  p.decay = constant(decay);
  p.gain = constant(gain);
  p.bias = constant(bias);
  return p;
}

// Addresses of scale, shift, added rows and their bits, size of a bit, and inner, count (see Norm); scale 0: no
// normalisation.
using Normed = std::tuple<Address, Address, Address, Address, float, int64_t, int64_t>;

Norm norm(const Normed& n) {
  const auto [scale, shift, added, bits, size, inner, count] = n;
  if (inner < 1 || count < 1) throw nb::value_error("a normalisation needs at least one channel");
  return {at<const float>(scale), at<const float>(shift), at<const void>(added), at<const uint8_t>(bits), size, inner, count};
}

void forward(const Leaky& rule, int64_t steps, int64_t width, int workers, Address x, Address v0, Address spikes,
             Address v, Address saved, int form, bool brief, const Normed& normed, Address bits) {
  Forward call;
  call.x = at<const void>(x);
  call.v0 = at<const float>(v0);
  call.spikes = at<void>(spikes);
  call.v = at<float>(v);
  call.saved = at<void>(saved);
  call.form = checked(form, Saved::membrane, "unknown saved form");
  call.brief = brief;
  call.norm = norm(normed);
  call.bits = at<uint8_t>(bits);
  leaky_forward(rule, call, steps, width, workers);
}

Backward backward_call(Address x, Address v0, Address saved, int form, std::tuple<Address, Address> given,
                       std::tuple<Address, Address, Address> gradients, Address dx, Address dv0,
                       std::tuple<Address, Address, Address> constants, bool brief) {
  Backward call;
  call.x = at<const void>(x);
  call.v0 = at<const float>(v0);
  call.saved = at<const void>(saved);
  call.form = checked(form, Saved::membrane, "unknown saved form");
  call.up = at<const float>(std::get<0>(given));
  call.down = at<const float>(std::get<1>(given));
  call.spikes = at<const void>(std::get<0>(gradients));
  call.v = at<const float>(std::get<1>(gradients));
  call.h = at<const void>(std::get<2>(gradients));
  call.dx = at<void>(dx);
  call.dv0 = at<float>(dv0);
  call.decay = at<float>(std::get<0>(constants));
  call.gain = at<float>(std::get<1>(constants));
  call.bias = at<float>(std::get<2>(constants));
  call.brief = brief;
  return call;
}

void backward(const Leaky& rule, int64_t steps, int64_t width, int workers, Address x, Address v0, Address saved,
              int form, std::tuple<Address, Address> given, std::tuple<Address, Address, Address> gradients, Address dx,
              Address dv0, std::tuple<Address, Address, Address> constants, bool brief) {
  const Backward call = backward_call(x, v0, saved, form, given, gradients, dx, dv0, constants, brief);
  leaky_backward(rule, call, steps, width, workers);
}

// dx: the gradient of y, or, `through` constants, of x, and that of y to dadded.
void norm_backward(const Leaky& rule, int64_t steps, int64_t width, int workers, Address x, bool brief,
                   const Normed& normed, Address unit, Address centre, Address spikes, Address dx, Address dadded,
                   bool through, Address sums) {
  Backward call = backward_call(x, 0, 0, 0, {0, 0}, {spikes, 0, 0}, dx, 0, {0, 0, 0}, brief);
  call.norm = norm(normed);
  call.unit = at<const float>(unit);
  call.centre = at<const float>(centre);
  call.sums = at<double>(sums);
  call.through = through;
  call.dadded = at<void>(dadded);
  leaky_backward(rule, call, steps, width, workers);
}

// x, brief, inner, count
using Values = std::tuple<Address, bool, int64_t, int64_t>;

Rows rows(const Values& v) {
  const auto [x, brief, inner, count] = v;
  if (inner < 1 || count < 1) throw nb::value_error("a normalisation needs at least one channel");
  return {at<const void>(x), brief, inner, count};
}

}  // namespace

void bind_train(nb::module_& m) {
  const nb::call_guard<nb::gil_scoped_release> free;
  nb::class_<Leaky>(m, "Leaky", "Constants of a leaky neuron for the training kernels.")
      .def(
          "__init__",
          [](Leaky* self, std::tuple<int, int, int> codes, std::tuple<bool, bool, bool, bool, bool> flags,
             std::tuple<float, float, float, float, float> numbers, std::tuple<float, float, float, float> slope,
             Numbers decay, Numbers gain, Numbers bias) {
            new (self) Leaky(leaky(codes, flags, numbers, slope, decay, gain, bias));
          })
      .def("saved_bytes", [](const Leaky& rule, int form) {
        return saved_bytes(rule, checked(form, Saved::membrane, "unknown saved form"));
      });
  m.def("leaky_forward", &forward, free);
  m.def("leaky_backward", &backward, free);
  m.def("norm_backward", &norm_backward, free);
  m.def("count_bits", [](Address bits, int64_t bytes) { return count_bits(at<const uint8_t>(bits), bytes); });
  m.def(
      "moments",
      [](const Values& values, int64_t total, int workers, Address mean, Address variance) {
        moments(rows(values), total, workers, at<double>(mean), at<double>(variance));
      },
      free);
  m.def(
      "input_gradient",
      [](const Values& values, int64_t total, int workers, Address dy, Address dx,
         std::tuple<Address, Address, Address, Address> channel) {
        const auto [scale, mean, slope, bias] = channel;
        const InputGradient call{at<const void>(dy), at<void>(dx), at<const float>(scale), at<const float>(mean),
                                 at<const float>(slope), at<const float>(bias)};
        input_gradient(rows(values), call, total, workers);
      },
      free);
  m.def("train_isa", &train_isa);
  m.def("set_train_isa", &set_train_isa);
  m.def(
      "sum_by_constant",
      [](Address each, int64_t width, int64_t inner, int64_t count, Address out) {
        sum_by_constant(at<const float>(each), width, inner, count, at<float>(out));
      },
      free);
}
