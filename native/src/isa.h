#pragma once
// Instruction sets: which of them this build holds kernels for, and which of those the processor runs.

#include <string>
#include <vector>

namespace picojoule {

struct FastTable;
struct RowsTable;
struct BlockTable;

// avx512 is AVX-512 as Ice Lake and Zen 4 have it (F, BW, DQ, VL, VBMI2, VNNI, VPOPCNTDQ, BITALG); older parts take avx2.
enum class Isa { scalar, generic, neon, avx2, avx512 };

const char* name_of(Isa isa);
// Those that run here, narrowest first; the last is what "auto" takes.
std::vector<Isa> instruction_sets();
// By name or "auto"; an unknown name and a set that the processor lacks are refused.
Isa parse_isa(const std::string& name);

// Products of bytes in one instruction.
inline bool multiplies_bytes(Isa isa) { return isa == Isa::avx2 || isa == Isa::avx512; }

// Kernels of a set other than scalar.
const FastTable& fast_table(Isa isa);
const RowsTable* rows_table(Isa isa);  // null for scalar
const BlockTable& block_table(Isa isa);

}  // namespace picojoule
