#include "train.h"

#include <nanobind/stl/tuple.h>

#include <tuple>

#include "picojoule/train_leaky.h"

namespace nb = nanobind;
using namespace picojoule::train;

namespace {

// Addresses of tensors, 0 for none: the caller keeps them alive, on the CPU, float32 and of one memory order.
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

void forward(const Leaky& rule, int64_t steps, int64_t width, int workers, Address x, Address v0, Address spikes,
             Address v, Address saved, int form) {
  Forward call{at<const float>(x), at<const float>(v0), at<float>(spikes), at<float>(v), at<void>(saved),
               checked(form, Saved::membrane, "unknown saved form")};
  leaky_forward(rule, call, steps, width, workers);
}

void backward(const Leaky& rule, int64_t steps, int64_t width, int workers, Address x, Address v0, Address saved,
              int form, std::tuple<Address, Address> given, std::tuple<Address, Address, Address> gradients, Address dx,
              Address dv0, std::tuple<Address, Address, Address> constants) {
  Backward call;
  call.x = at<const float>(x);
  call.v0 = at<const float>(v0);
  call.saved = at<const void>(saved);
  call.form = checked(form, Saved::membrane, "unknown saved form");
  call.up = at<const float>(std::get<0>(given));
  call.down = at<const float>(std::get<1>(given));
  call.spikes = at<const float>(std::get<0>(gradients));
  call.v = at<const float>(std::get<1>(gradients));
  call.h = at<const float>(std::get<2>(gradients));
  call.dx = at<float>(dx);
  call.dv0 = at<float>(dv0);
  call.decay = at<float>(std::get<0>(constants));
  call.gain = at<float>(std::get<1>(constants));
  call.bias = at<float>(std::get<2>(constants));
  leaky_backward(rule, call, steps, width, workers);
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
  m.def(
      "sum_by_constant",
      [](Address each, int64_t width, int64_t inner, int64_t count, Address out) {
        sum_by_constant(at<const float>(each), width, inner, count, at<float>(out));
      },
      free);
}
