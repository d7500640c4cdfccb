#pragma once
// A packed file as a graph for the engine, with what its card says. Reads, proves, converts.

#include "file_container.h"
#include "picojoule/graph.h"

namespace picojoule::file {

struct Packed {
  std::shared_ptr<GraphDef> graph;
  std::string card;                  // JSON, as written
  std::vector<std::string> keys;     // of the outputs, in order
  std::vector<bool> bytes_inputs;    // by input: it has a table and reads bytes
  std::vector<std::string> classes;  // names of the card
  std::vector<double> mean, std;     // of the card, a number a channel
  std::map<std::string, double> rates;  // of the card: node name -> share of set bits
  int64_t payload_bytes = 0;         // of all constants in the file
  int64_t stream_limit = 0;          // steps for which a stream is proven exact
  std::string needs_future;          // a node that looks at later steps; empty: it can be streamed
};

// Throws FormatError where the file is malformed, Error where the engine refuses a node.
Packed read(const Bytes& file);

}  // namespace picojoule::file
