#pragma once
// Neurons done with their synapse, on the integers that it summed: one step of all channels of a pixel, packed
// spikes out. Compiled once an instruction set, beside the synapse kernels that call it.

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace picojoule {

// What the leak (decay v + half) >> shift comes to: nothing, v itself, a shift of v, a product, or a product of two
// halves of v (NeuronConstants::split).
enum class Leak : uint8_t { none, whole, shift, product, halves };

inline constexpr int64_t kFireGroup = 32;  // channels whose constants lie together
inline constexpr int kEdges = 64;          // of a membrane table searched in registers

// Rows of kFireGroup constants that a group of channels has; further thresholds follow the first.
enum FireRow { kCharge, kGain, kResetValue, kDecay, kWhole, kNegative, kThreshold };

// Membrane table values[#{j : v > edges[j]}]: as a list of all that v can be, else searched.
struct FireTable {
  const void* direct = nullptr;  // [high - low + 1] membranes by v - low, and a vector more
  int64_t low = 0, high = 0;
  const void* edges = nullptr;   // [count - 1], count a power of two: the breaks less one, then the largest lane
  const void* values = nullptr;  // [count]
  int64_t count = 0;             // 0: no table
};

struct FireJob {
  int lane = 4;                          // bytes of a membrane: 2 or 4
  int rows = 0;                          // of constants, a group
  const std::byte* constants = nullptr;  // [steps|1][groups][rows][kFireGroup]
  int64_t set_bytes = 0;                 // from step to step, 0 where they are steady
  int64_t groups = 0;
  const std::byte* start = nullptr;      // membranes at rest, [groups][kFireGroup]
  Leak leak = Leak::none;
  int shift = 0;                         // of the leak
  bool half_up = false;
  bool scaled = false;   // some gain is not 1
  bool forgets = false;  // no later step asks for the membrane
  int reset = 0;         // 0 hard, 1 soft, 2 none
  int levels = 1;
  bool ternary = false;
  int out_planes = 1;
  int64_t plane_bytes = 0;  // of the packed row, from spike plane to spike plane
  FireTable table;
};

// Sums of a pixel become its packed words (those of plane 0 at `words`); `v` holds its membranes.
using FireStep = void (*)(const FireJob&, int64_t step, const int32_t* sums, std::byte* v, std::byte* words);

// Membranes [n] by a table of 32-bit lanes; up to a vector beyond them is read and written.
using FireLookUp = void (*)(const FireTable&, int32_t* v, int64_t n);

// Functions of one instruction set, and the one that runs a job.
struct FireSet {
  FireStep (*pick)(const FireJob&);
  FireLookUp look_up;
};
FireStep fire_step(const FireJob& job, Isa isa);
FireLookUp fire_look_up(Isa isa);
extern const FireSet kFireGeneric, kFireNeon, kFireAvx2, kFireAvx512;

}  // namespace picojoule
