// The CUDA driver, opened when the first kernel is wanted: neither building nor loading this library takes a CUDA
// toolkit or a GPU.
#pragma once

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>

#include "gpu/unavailable.h"

namespace fastact::gpu {

// Functions of libcuda.so.1; what FASTACT_LIBCUDA names takes its place in tests. All return a CUresult, 0 for success.
#define FASTACT_DRIVER(FUNCTION)                                                                                \
  FUNCTION(cuInit, unsigned flags)                                                                              \
  FUNCTION(cuDeviceGet, int* device, int ordinal)                                                               \
  FUNCTION(cuDeviceGetAttribute, int* value, int attribute, int device)                                         \
  FUNCTION(cuDevicePrimaryCtxRetain, void** context, int device)                                                \
  FUNCTION(cuCtxGetCurrent, void** context)                                                                     \
  FUNCTION(cuCtxSetCurrent, void* context)                                                                      \
  FUNCTION(cuModuleLoadData, void** module, const void* image)                                                  \
  FUNCTION(cuModuleGetFunction, void** function, void* module, const char* name)                                \
  FUNCTION(cuFuncSetAttribute, void* function, int attribute, int value)                                        \
  FUNCTION(cuLaunchKernel, void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, \
           unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** parameters, void** extra)  \
  FUNCTION(cuThreadExchangeStreamCaptureMode, int* mode)                                                        \
  FUNCTION(cuStreamIsCapturing, void* stream, int* status)                                                      \
  FUNCTION(cuGetErrorString, int error, const char** text)

struct Driver {
#define FASTACT_MEMBER(name, ...) int (*name)(__VA_ARGS__);
  FASTACT_DRIVER(FASTACT_MEMBER)
#undef FASTACT_MEMBER

  Driver() {
    const char* variable = std::getenv("FASTACT_LIBCUDA");
    const char* file = variable && *variable ? variable : "libcuda.so.1";
    void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) throw Unavailable(std::string("the CUDA driver does not load: ") + dlerror());
    const auto find = [&](const char* name) {
      void* found = dlsym(library, name);
      if (!found) throw Unavailable(std::string("the CUDA driver has no ") + name);
      return found;
    };
#define FASTACT_FIND(name, ...) name = reinterpret_cast<decltype(name)>(find(#name));
    FASTACT_DRIVER(FASTACT_FIND)
#undef FASTACT_FIND
    check(cuInit(0), "cuInit");
  }

  std::string text_of(int error) const {
    const char* text = nullptr;
    cuGetErrorString(error, &text);
    return (text ? text : "unknown error") + std::string(" (") + std::to_string(error) + ")";
  }
  // A kernel's image may be bad; anything else may pass, or is torch's to report.
  void check_loaded(int error, const char* what) const {
    constexpr int kInvalidImage = 200, kNoBinary = 209, kInvalidPtx = 218, kNotFound = 500;
    if (error == kInvalidImage || error == kNoBinary || error == kInvalidPtx || error == kNotFound)
      throw Missing(std::string(what) + " failed: " + text_of(error));
    if (error != 0) throw ForNow(std::string(what) + " failed: " + text_of(error));
  }
  void check(int error, const char* what) const {
    if (error != 0) throw Unavailable(std::string(what) + " failed: " + text_of(error));
  }
};
#undef FASTACT_DRIVER

inline const Driver& driver() {
  static const Driver opened;  // tried again after an exception
  return opened;
}

// What launching has to know of a device.
struct Device {
  int number;
  void* context;
  int capability;       // 90 for sm_90
  int multiprocessors;  // SMs
};

inline constexpr int kMostDevices = 64;

// The device of CUDA's number, with the context that torch uses too.
inline const Device& device(int number) {
  static std::array<Device, kMostDevices> devices;
  static std::array<std::once_flag, kMostDevices> known;
  std::call_once(known.at(number), [&] {
    const Driver& call = driver();
    const auto attribute = [&](int which, int of) {
      int value = 0;
      call.check(call.cuDeviceGetAttribute(&value, which, of), "cuDeviceGetAttribute");
      return value;
    };
    int handle = 0;
    Device found{number, nullptr, 0, 0};
    call.check(call.cuDeviceGet(&handle, number), "cuDeviceGet");
    call.check(call.cuDevicePrimaryCtxRetain(&found.context, handle), "cuDevicePrimaryCtxRetain");
    constexpr int kMultiprocessors = 16, kMajor = 75, kMinor = 76;  // of CUdevice_attribute
    found.multiprocessors = attribute(kMultiprocessors, handle);
    found.capability = 10 * attribute(kMajor, handle) + attribute(kMinor, handle);
    devices[number] = found;
  });
  return devices[number];
}

// Makes a device's context this thread's. The threads in which autograd runs backward may have none, or another's.
class ContextGuard {
 public:
  explicit ContextGuard(const Device& device) {
    const Driver& call = driver();
    call.check(call.cuCtxGetCurrent(&before_), "cuCtxGetCurrent");
    changed_ = before_ != device.context;
    if (changed_) call.check(call.cuCtxSetCurrent(device.context), "cuCtxSetCurrent");
  }
  ~ContextGuard() {
    // None too: a thread without one has torch's first device for its current one.
    if (changed_) driver().cuCtxSetCurrent(before_);
  }
  ContextGuard(const ContextGuard&) = delete;

 private:
  void* before_ = nullptr;
  bool changed_ = false;
};

// Lets this thread do what CUDA forbids while another one captures a graph, such as loading a kernel.
class CaptureModeGuard {
 public:
  CaptureModeGuard() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }
  ~CaptureModeGuard() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }
  CaptureModeGuard(const CaptureModeGuard&) = delete;

 private:
  int mode_ = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED; the call puts what was before in its place
};

inline bool is_capturing(void* stream) {
  int status = 0;
  const int error = driver().cuStreamIsCapturing(stream, &status);
  constexpr int kFirst = 900, kLast = 908;  // errors that say that another stream's capture forbids to ask
  if (error != 0 && (error < kFirst || error > kLast)) driver().check(error, "cuStreamIsCapturing");
  return error != 0 || status != 0;
}

// torch's current stream on a device. The function is in libtorch_cuda alone: linked, it would keep this library from
// loading beside a torch for CPUs.
inline void* current_stream(int number) {
  using Function = int32_t (*)(int32_t, void**);
  static const auto function = [] {
    void* torch = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    return reinterpret_cast<Function>(torch ? dlsym(torch, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  void* stream = nullptr;
  if (!function || function(number, &stream) != 0) throw Unavailable("torch has no current CUDA stream");
  return stream;
}

}  // namespace fastact::gpu
