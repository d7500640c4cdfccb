#pragma once
// The table of measured kernels beside a packed file, FILE.tune.json, as `pj bench --tune` writes it.

#include <map>
#include <string>

#include "file_container.h"

namespace picojoule::file {

struct TuneTable {
  std::map<std::string, std::string> kernels;  // by node
  std::map<std::string, double> boundaries;
  std::string note;  // what became of the table; empty when there is none
};

// The table of the packed file `path` whose bytes are `packed`. One that is damaged, or of another file, processor,
// instruction set or engine gives a note and no kernel, for it can only choose among kernels of equal results.
TuneTable read_tune(const std::string& path, const Bytes& packed, const std::string& isa);

// Name of the processor as the table knows it.
std::string processor();

}  // namespace picojoule::file
