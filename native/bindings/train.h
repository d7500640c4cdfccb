#pragma once
#include <nanobind/nanobind.h>

void bind_train(nanobind::module_& m);
void bind_events(nanobind::module_& m);
