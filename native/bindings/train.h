#pragma once
#include <nanobind/nanobind.h>

void bind_train(nanobind::module_& m);
