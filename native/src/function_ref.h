#pragma once
// A callable passed down the stack: two words, nothing owned and nothing allocated. It must not outlive the call.

#include <memory>
#include <type_traits>
#include <utility>

namespace picojoule {

template <class Signature>
class FunctionRef;

template <class R, class... A>
class FunctionRef<R(A...)> {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>)
  FunctionRef(const F& body)
      : object_(std::addressof(body)), call_([](const void* object, A... a) -> R { return (*static_cast<const F*>(object))(a...); }) {}
  R operator()(A... a) const { return call_(object_, a...); }

 private:
  const void* object_;
  R (*call_)(const void*, A...);
};

}  // namespace picojoule
