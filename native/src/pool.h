#pragma once
// The process's worker threads: started when first needed, made anew after a fork, asleep when idle.

#include <cstdint>
#include <mutex>

#include "function_ref.h"

namespace picojoule {

// Guards every free list of the engine; held across fork so that a child never inherits it locked.
std::mutex& list_mutex();

// Runs body(worker) on up to `workers` threads, the caller being worker 0, and returns when all that
// joined are done. `body` takes its share from a counter of its own, so late workers are never waited
// for. When the pool is busy with another caller, only the caller works. `spin`: workers poll a few
// microseconds before they sleep. Exceptions of `body` are rethrown here.
void run_on_workers(int workers, bool spin, FunctionRef<void(int worker)> body);

// Splits [0, n) in pieces of `grain` over workers.
void split_over_workers(int64_t n, int64_t grain, int workers, bool spin,
                        FunctionRef<void(int64_t begin, int64_t end, int worker)> body);

}  // namespace picojoule
