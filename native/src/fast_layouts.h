#pragma once
// Layouts of weights for kernels that may run beside the event-driven one of a synapse, made from its rows.

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "fast.h"
#include "op.h"

namespace picojoule {

using WeightAt = std::function<int64_t(int64_t output, int64_t tap, int64_t channel)>;

// Dense bytes: runs of four products (fast_bytes.inl).
struct QuadLayout {
  // `job` has its shape and image; a run is what a window takes from one image row: all its taps when they touch,
  // else one tap.
  QuadLayout(const FastJob& job, int64_t low, const WeightAt& weight);
  void use(FastJob& job) const;

  std::vector<int8_t> quads;
  std::vector<int32_t> lift, run_offsets;
  int64_t run = 0, runs = 0;
};

// Static counting: the set bits of every output (fast_static.inl), from the rows of event_bits.
struct FixedLayout {
  explicit FixedLayout(const FastJob& job);
  void use(FastJob& job, int64_t lanes) const;

  std::vector<uint32_t> rows, starts;
  int planes = 0;
};

// Size of the image that dense bytes read: padded, channels last.
void set_image(FastJob& job);

// Made when first needed, by whichever thread comes first.
template <class Layout>
class Lazy {
 public:
  ~Lazy() { delete made_.load(); }
  template <class Make>
  const Layout& get(std::mutex& mutex, const Make& make) const {
    if (const Layout* ready = made_.load(std::memory_order_acquire)) return *ready;
    std::lock_guard lock(mutex);
    if (!made_.load()) made_.store(make().release(), std::memory_order_release);
    return *made_.load();
  }

 private:
  mutable std::atomic<const Layout*> made_{nullptr};
};

}  // namespace picojoule
