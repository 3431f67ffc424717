// The table of kernels: from a key to what cuLaunchKernel takes. What it lacks, Python finds in a bundle or compiles
// (fastact/gpu.py), and the driver loads.
#pragma once

#include <shared_mutex>
#include <unordered_map>

#include "gpu/driver.h"

namespace fastact::gpu {

// A kernel as Python hands it over. The pointers are valid until the thread asks for the next one.
struct Image {
  const void* code;       // a cubin
  const char* symbol;     // the kernel's name in it
  const char* why;        // in place of all that follows: why there is none,
  int32_t for_all;        // and whether that is why there are no others either
  int32_t warps, shared;  // bytes of dynamic shared memory
  int64_t block;          // elements of a program
  int64_t tile_rows;      // of those of a sum
};
// Finds a kernel by its name for a compute capability.
using FindImage = void (*)(const char* name, int32_t capability, Image* image);
// Says that torch's op takes the place of a kernel or, from now on, of all kernels on a device (of CUDA's number, or -1
// for an emulated one), and why.
using Report = void (*)(int32_t device, const char* text, int32_t of_all);

struct Python {
  FindImage find_image = nullptr;
  Report report = nullptr;
};
inline Python& python() {
  static Python functions;
  return functions;
}

struct Kernel {
  void* function;
  unsigned threads, shared;
  int64_t block, tile_rows;
};

// Loads a kernel into the current context.
inline Kernel load(const std::string& name, const Device& device, void* stream) {
  const Driver& call = driver();
  if (is_capturing(stream)) throw NotLoaded(name);
  Image image{};
  if (!python().find_image) throw Unavailable("fastact's Python package is not imported");
  python().find_image(name.c_str(), device.capability, &image);
  if (image.why && image.for_all) throw Unavailable(image.why);
  if (image.why) throw Missing(image.why);
  if (!image.code) throw ForNow("the search for a kernel was interrupted");
  void* module = nullptr;
  Kernel kernel{nullptr, static_cast<unsigned>(image.warps) * 32, static_cast<unsigned>(image.shared), image.block,
                image.tile_rows};
  const CaptureModeGuard guard;
  call.check_loaded(call.cuModuleLoadData(&module, image.code), "cuModuleLoadData");
  call.check_loaded(call.cuModuleGetFunction(&kernel.function, module, image.symbol), "cuModuleGetFunction");
  constexpr int kMaxDynamicSharedSize = 8;       // of CUfunction_attribute
  constexpr unsigned kWithoutAsking = 48 << 10;  // bytes
  if (kernel.shared > kWithoutAsking)
    call.check_loaded(call.cuFuncSetAttribute(kernel.function, kMaxDynamicSharedSize, static_cast<int>(kernel.shared)),
                      "cuFuncSetAttribute");
  return kernel;
}

class KernelTable {
 public:
  // Returns the kernel of a key, or loads it by its name; one that is missing is not looked for again. No lock is held
  // while Python looks, which may wait for the interpreter's own: two threads may load one kernel.
  template <class Name>
  const Kernel& find(uint64_t key, const Device& device, void* stream, const Name& name) {
    {
      std::shared_lock lock(mutex_);
      const auto& entries = entries_[device.number];
      if (auto found = entries.find(key); found != entries.end()) return found->second.kernel();
    }
    Entry entry;
    try {
      entry.loaded = load(name(), device, stream);
    } catch (const Missing& error) {
      entry.why_not = name() + ": " + error.what();
    }
    std::unique_lock lock(mutex_);
    return entries_[device.number].emplace(key, entry).first->second.kernel();  // stays where it is for good
  }

  // Returns the kernel of a key if it is loaded, else null.
  const Kernel* loaded(uint64_t key, int device) {
    std::shared_lock lock(mutex_);
    const auto& entries = entries_.at(device);
    const auto found = entries.find(key);
    return found != entries.end() && found->second.why_not.empty() ? &found->second.loaded : nullptr;
  }

  // Forgets all kernels, in tests.
  void clear() {
    std::unique_lock lock(mutex_);
    for (auto& entries : entries_) entries.clear();
  }

 private:
  struct Entry {
    Kernel loaded{};
    std::string why_not{};

    const Kernel& kernel() const {
      if (!why_not.empty()) throw Missing(why_not);
      return loaded;
    }
  };

  std::shared_mutex mutex_;
  std::array<std::unordered_map<uint64_t, Entry>, kMostDevices> entries_;
};
inline KernelTable& kernel_table() {
  static KernelTable table;
  return table;
}

}  // namespace fastact::gpu
