#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <vector>

#include "picojoule/train_events.h"
#include "train.h"

namespace nb = nanobind;
using namespace picojoule::events;

namespace {

// Addresses of tensors, 0 for none: the caller keeps them alive, on the CPU, float32 (bits: uint8).
using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Shape shape_of(const std::vector<int64_t>& v) {
  if (v.size() != 16) throw nb::value_error("a shape has 16 numbers");
  Shape s;
  s.images = v[0], s.height = v[1], s.width = v[2], s.channels = v[3];
  s.out_height = v[4], s.out_width = v[5], s.out_channels = v[6];
  s.kernel_y = v[7], s.kernel_x = v[8], s.stride_y = v[9], s.stride_x = v[10];
  s.pad_y = v[11], s.pad_x = v[12], s.dilation_y = v[13], s.dilation_x = v[14], s.groups = v[15];
  for (int i : {7, 8, 9, 10, 13, 14, 15})
    if (v[i] < 1) throw nb::value_error("kernel, stride, dilation and groups are at least 1");
  for (int64_t n : v)
    if (n < 0) throw nb::value_error("a shape has no negative numbers");
  if (s.channels % s.groups || s.out_channels % s.groups) throw nb::value_error("groups must divide the channels");
  return s;
}

Shape served(const std::vector<int64_t>& numbers, bool gradient) {
  const Shape s = shape_of(numbers);
  if (!tiles_serve(s, gradient))
    throw nb::value_error("tiles serve 3x3 taps with stride (input gradients: also 2), dilation and groups of 1");
  return s;
}

Shape pooled(const std::vector<int64_t>& numbers) {
  const Shape s = shape_of(numbers);
  if (!pool_serves(s)) throw nb::value_error("pooled spikes have whole bytes of channels, as many as their pools");
  return s;
}

Rows rows_of(std::tuple<int64_t, int64_t, int64_t, bool> r) {
  return {std::get<0>(r), std::get<1>(r), std::get<2>(r), std::get<3>(r)};
}
using RowNumbers = std::tuple<int64_t, int64_t, int64_t, bool>;
using SpikeNumbers = std::tuple<Address, int, bool, float>;
using WeightNumbers = std::tuple<Address, int64_t, int64_t, int64_t, int64_t>;
using FoundNumbers = std::tuple<int64_t, bool, float, int64_t>;

Spikes spikes_of(const SpikeNumbers& s) {
  if (std::get<1>(s) < 1 || std::get<1>(s) > 8) throw nb::value_error("spikes have 1 to 8 planes");
  return {at<const uint8_t>(std::get<0>(s)), std::get<1>(s), std::get<2>(s), std::get<3>(s)};
}
Weight weight_of(const WeightNumbers& w) {
  return {at<float>(std::get<0>(w)), std::get<1>(w), std::get<2>(w), std::get<3>(w), std::get<4>(w)};
}
FoundNumbers numbers(const Found& f) { return {f.levels, f.sign, f.scale, f.nonzero}; }

}  // namespace

void bind_events(nb::module_& m) {
  const nb::call_guard<nb::gil_scoped_release> free;
  m.attr("EVENT_SLACK") = kSlack;
  m.def("event_sets", [] { return instruction_sets(); });
  m.def("use_event_set", [](const std::string& name) { return use(name); });
  m.def("event_supported", [](const std::vector<int64_t>& shape) { return supported(shape_of(shape)); });
  m.def(
      "pack_binary",
      [](Address x, RowNumbers rows, Address bits, int workers) {
        return numbers(pack_binary(at<const float>(x), rows_of(rows), at<uint8_t>(bits), workers));
      },
      free);
  m.def(
      "find_levels", [](Address x, int64_t count) { return numbers(find_levels(at<const float>(x), count)); }, free);
  m.def(
      "pack_levels",
      [](Address x, RowNumbers rows, FoundNumbers found, Address bits, int workers) {
        const auto [levels, sign, scale, nonzero] = found;
        pack_levels(at<const float>(x), rows_of(rows), {levels, sign, scale, nonzero}, at<uint8_t>(bits), workers);
      },
      free);
  m.def(
      "unpack_spikes",
      [](SpikeNumbers spikes, RowNumbers rows, Address out, int workers) {
        unpack(spikes_of(spikes), rows_of(rows), at<float>(out), workers);
      },
      free);
  m.def(
      "pack_window",
      [](Address h, RowNumbers rows, float centre, float half, bool closed, Address bits, int workers) {
        return pack_window(at<const float>(h), rows_of(rows), centre, half, closed, at<uint8_t>(bits), workers);
      },
      free);
  m.def(
      "event_forward",
      [](const std::vector<int64_t>& shape, SpikeNumbers spikes, WeightNumbers weight, Address bias, Address y, int workers) {
        forward(shape_of(shape), spikes_of(spikes), weight_of(weight), at<const float>(bias), at<float>(y), workers);
      },
      free);
  m.def(
      "event_weight_gradient",
      [](const std::vector<int64_t>& shape, SpikeNumbers spikes, Address g, WeightNumbers result, int workers) {
        weight_gradient(shape_of(shape), spikes_of(spikes), at<const float>(g), weight_of(result), workers);
      },
      free);
  m.def(
      "event_input_gradient",
      [](const std::vector<int64_t>& shape, Address open, Address g, WeightNumbers weight, Address dx, int workers) {
        input_gradient(shape_of(shape), at<const uint8_t>(open), at<const float>(g), weight_of(weight), at<float>(dx), workers);
      },
      free);
  m.def("tiles_win", [](const std::vector<int64_t>& shape) {
    const Shape s = shape_of(shape);
    return std::make_tuple(tiles_win(s, false), tiles_win(s, true));
  });
  m.def(
      "tiled_forward",
      [](const std::vector<int64_t>& shape, Address x, WeightNumbers weight, Address bias, Address y, int workers) {
        const Shape s = served(shape, false);
        tiled(s, at<const float>(x), weight_of(weight), at<const float>(bias), at<float>(y), workers);
      },
      free);
  m.def(
      "tiled_input_gradient",
      [](const std::vector<int64_t>& shape, Address g, WeightNumbers weight, Address dx, int workers) {
        const Shape s = served(shape, true);
        tiled_input_gradient(s, at<const float>(g), weight_of(weight), at<float>(dx), workers);
      },
      free);
  m.def("sampled_serve", [](const std::vector<int64_t>& shape) { return sampled_serve(shape_of(shape)); });
  m.def(
      "sampled_input_gradient",
      [](const std::vector<int64_t>& shape, Address g, WeightNumbers weight, Address dx, int workers) {
        const Shape s = shape_of(shape);
        if (!sampled_serve(s)) throw nb::value_error("sampled gradients are of 1x1 taps with a stride, no padding, groups of 1");
        sampled_input_gradient(s, at<const float>(g), weight_of(weight), at<float>(dx), workers);
      },
      free);
  m.def("pool_serves", [](const std::vector<int64_t>& shape) { return pool_serves(shape_of(shape)); });
  m.def(
      "pool_forward",
      [](const std::vector<int64_t>& shape, Address bits, float size, Address out, Address y, int workers) {
        pool_forward(pooled(shape), at<const uint8_t>(bits), size, at<uint8_t>(out), at<float>(y), workers);
      },
      free);
  m.def(
      "pool_gradient",
      [](const std::vector<int64_t>& shape, Address bits, Address g, Address dx, int workers) {
        pool_gradient(pooled(shape), at<const uint8_t>(bits), at<const float>(g), at<float>(dx), workers);
      },
      free);
}
