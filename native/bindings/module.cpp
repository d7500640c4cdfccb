#include <nanobind/nanobind.h>

#include "engine.h"
#include "picojoule/version.h"
#include "train.h"

NB_MODULE(_native, m) {
  // Constants that Python caches live until the interpreter ends; that is no leak worth a report to users.
  nanobind::set_leak_warnings(false);
  m.doc() = "Native engine and kernels of picojoule; takes NumPy arrays or raw pointers, never links libtorch.";
  m.attr("__version__") = picojoule::kVersion;
  m.attr("__binding__") = picojoule::kBinding;
  bind_engine(m);
  bind_train(m);
  bind_events(m);
}
