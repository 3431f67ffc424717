// One launch: where it runs, its parameters, and the call of the driver.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>

#include "gpu/kernels.h"
#include "runtime/dtype.h"

namespace fastact::gpu {

// Whether CPU tensors go down the GPU path, as in tests, whose driver runs kernels on the tensors' memory.
inline std::atomic<bool>& emulating() {
  static std::atomic<bool> is_on{false};
  return is_on;
}
inline bool runs_here(const Tensor& tensor) { return !tensor.is_cpu() || emulating().load(std::memory_order_relaxed); }

// How many programs fill a GPU for kernels that walk many tiles each: the registers of such programs leave room for
// four on a multiprocessor.
inline constexpr int64_t kProgramsPerMultiprocessor = 4;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Division by a number that is known before the launch, in the three instructions of Granlund and Montgomery (1994):
// quotient(x) = (high_half(x * multiplier) + x) >> shift, for x < 2^31 or, if wide, 2^63. The hardware has none for
// integers; Triton's takes some 20 instructions, in 64 bits a call of 100.
struct Divider {
  uint64_t divisor, multiplier, shift;

  Divider(int64_t by, bool wide) : divisor(static_cast<uint64_t>(by)), shift(0) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    using Wide = unsigned __int128;
    multiplier = static_cast<uint64_t>((Wide{1} << (wide ? 64 : 32)) * ((Wide{1} << shift) - divisor) / divisor + 1);
  }
};
// The largest number that narrow ones divide is one beyond the tensor's end in the last program's block.
inline constexpr int64_t kMostBlock = 1 << 14;  // elements of any program
inline bool needs_wide(int64_t most) { return most >= (int64_t{1} << 31) - kMostBlock; }

// A kernel's parameters, as cuLaunchKernel takes them: an address for each.
class Parameters {
 public:
  void add(const void* pointer) { add_bytes(&pointer, sizeof pointer); }
  void add(int64_t number) { add_bytes(&number, sizeof number); }
  void add(double number) { add_bytes(&number, sizeof number); }
  // A divider's numbers have 32 bits unless it is wide: of a small number, the lower half comes first in memory.
  void add(const Divider& divider) {
    for (uint64_t number : {divider.divisor, divider.multiplier, divider.shift}) add_bytes(&number, sizeof number);
  }

  // With null for the scratch memory that Triton's kernels may ask for, and ours do not.
  void** finish() {
    add(static_cast<const void*>(nullptr));
    add(static_cast<const void*>(nullptr));
    addresses_[count_] = nullptr;  // CUDA asks for no end; the emulated GPU checks that it is the kernel's
    return addresses_;
  }

 private:
  static constexpr int kMost = 32;  // 22 at most: a bias, channels and a residual, in rows, with a mask

  void add_bytes(const void* from, size_t size) {
    STD_TORCH_CHECK(count_ + 1 < kMost, "fastact: a kernel has too many parameters");
    std::memcpy(&values_[count_], from, size);
    addresses_[count_] = &values_[count_];
    ++count_;
  }

  int count_ = 0;
  uint64_t values_[kMost];
  void* addresses_[kMost];
};

// Where a tensor's kernels run. Says so if there is no such place.
class Launcher {
 public:
  explicit Launcher(const Tensor& tensor) : Launcher(tensor.is_cpu() ? -1 : tensor.get_device_index()) {}
  // Of CUDA's number, or -1 for an emulated device.
  explicit Launcher(int device) : reported_(device) {
    or_report([&] {
      device_ = &gpu::device(std::max(reported_, 0));
      stream_ = reported_ < 0 ? nullptr : current_stream(reported_);
      guard_.emplace(*device_);
    });
  }

  bool captures() const { return is_capturing(stream_); }
  int64_t multiprocessors() const { return device_->multiprocessors; }

  // The kernel of a description, which has a key and a name.
  template <class Description>
  const Kernel& find(const Description& description) const {
    const Kernel* kernel = nullptr;
    or_report([&] {
      kernel = &kernel_table().find(description.key(), *device_, stream_, [&] { return description.name(); });
    });
    return *kernel;
  }

  // The same if it is loaded, else null.
  template <class Description>
  static const Kernel* loaded(const Description& description, int device) {
    return kernel_table().loaded(description.key(), std::max(device, 0));
  }

  void start(const Kernel& kernel, int64_t programs, Parameters& parameters) const {
    if (programs == 0) return;
    STD_TORCH_CHECK(programs < int64_t{1} << 31, "fastact: a tensor has too many elements for a launch");
    const int error = driver().cuLaunchKernel(kernel.function, static_cast<unsigned>(programs), 1, 1, kernel.threads, 1,
                                              1, kernel.shared, stream_, parameters.finish(), nullptr);
    STD_TORCH_CHECK(error == 0, "fastact: a kernel's launch failed: ", driver().text_of(error));
  }

 private:
  template <class Body>
  void or_report(const Body& body) const {
    try {
      body();
    } catch (const NotLoaded& error) {
      report<NotLoaded>("fastact's kernel (" + std::string(error.what()) +
                        ") has not run yet, and CUDA loads none while a graph is captured: run the step once before "
                        "the capture. Torch's op is captured in its place, where that is possible.");
    } catch (const ForNow& error) {
      report<ForNow>("fastact runs torch's op on " + place() + " this time, since " + error.what());
    } catch (const Missing& error) {
      report<Missing>("fastact runs torch's op on " + place() + " where a kernel is missing (" + error.what() + ")");
    } catch (const Unavailable& error) {
      report<Unavailable>("fastact runs torch's ops on " + place() + " from now on, since " + error.what());
    }
  }
  std::string place() const { return reported_ < 0 ? "cpu" : "cuda:" + std::to_string(reported_); }
  template <class Error>
  [[noreturn]] void report(const std::string& text) const {
    if (python().report) python().report(reported_, text.c_str(), std::is_same_v<Error, Unavailable>);
    throw Error(text);
  }

  int reported_;
  const Device* device_ = nullptr;
  void* stream_ = nullptr;
  std::optional<ContextGuard> guard_;
};

// Whether a graph is captured of what the tensor's device does.
inline bool is_captured(const Tensor& tensor) {
  try {
    return Launcher(tensor).captures();
  } catch (const Unavailable&) {  // there is no driver to capture one
    return false;
  }
}

}  // namespace fastact::gpu
