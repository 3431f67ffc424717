// What is thrown where a kernel cannot be had.
#pragma once

#include <stdexcept>

namespace fastact::gpu {

// A kernel cannot be found, compiled or loaded: torch's op takes its place.
struct Unavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The same of one kernel: others may be had.
struct Missing : Unavailable {
  using Unavailable::Unavailable;
};

// The same for now: it is tried again at the next call.
struct ForNow : Unavailable {
  using Unavailable::Unavailable;
};

// So it is while a graph is captured, when CUDA loads no kernel.
struct NotLoaded : ForNow {
  using ForNow::ForNow;
};

}  // namespace fastact::gpu
