// Torch's allocator of CPU memory, replaced by one that tells the emulated GPU of each allocation. New memory, and what
// surrounds it, holds CANARY; when it is freed, what surrounds it must hold that still. Freed memory is kept for a
// while, so that an access to it is not taken for one of what comes to lie there next.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>

#include "memory.h"

namespace {

constexpr size_t ZONE = 128, PAGE = 4096;
constexpr size_t SPARSE =
    size_t(64) << 20;  // from so many bytes on memory is not filled: none is taken but what is used
constexpr size_t KEPT = size_t(32) << 20, KEPT_EACH = size_t(1) << 20;

struct Kept {
  char* base;
  size_t bytes;
};

// Never destroyed: tensors may be freed after static objects.
std::mutex& mutex = *new std::mutex;
std::string& damage = *new std::string;
std::deque<Kept>& kept = *new std::deque<Kept>;
size_t kept_bytes = 0;

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }
bool sparse(size_t bytes) { return bytes >= SPARSE; }
size_t before(size_t bytes) { return sparse(bytes) ? PAGE : ZONE; }
size_t after(size_t bytes) { return rounded(bytes, sparse(bytes) ? PAGE : ZONE) - bytes + ZONE; }

size_t whole(size_t bytes) { return before(bytes) + bytes + after(bytes); }

char canary_at(const char* at) { return reinterpret_cast<const char*>(CANARY)[uintptr_t(at) % sizeof CANARY]; }

void fill(char* from, char* to) {
  for (; from != to && uintptr_t(from) % sizeof CANARY; ++from) *from = canary_at(from);
  for (; to - from >= ptrdiff_t(sizeof CANARY); from += sizeof CANARY) std::memcpy(from, CANARY, sizeof CANARY);
  for (; from != to; ++from) *from = canary_at(from);
}

// The first byte that is not as it was filled; `to` if there is none.
const char* changed(const char* from, const char* to) {
  while (from != to && *from == canary_at(from)) ++from;
  return from;
}

void release(char* base, size_t bytes) {
  if (sparse(bytes))
    munmap(base, whole(bytes));
  else
    std::free(base);
}

void destroy(void* data) {
  if (!data) return;
  c10::profiledCPUMemoryReporter().Delete(data);
  const size_t bytes = emulator_remove_memory(data);
  char *begin = static_cast<char*>(data), *end = begin + bytes, *base = begin - before(bytes);
  std::scoped_lock lock(mutex);
  const char* low = changed(begin - ZONE, begin);
  const char* high = changed(end, end + after(bytes));
  if (low != begin)
    damage += std::to_string(begin - low) + " bytes before an allocation of " + std::to_string(bytes) +
              " bytes were written\n";
  if (high != end + after(bytes))
    damage += std::to_string(high - end + 1) + " bytes past an allocation of " + std::to_string(bytes) +
              " bytes were written\n";
  if (bytes > KEPT_EACH) return release(base, bytes);
  kept.push_back({base, bytes});
  kept_bytes += whole(bytes);
  while (kept_bytes > KEPT) {
    release(kept.front().base, kept.front().bytes);
    kept_bytes -= whole(kept.front().bytes);
    kept.pop_front();
  }
}

struct Watched final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &destroy, c10::DeviceType::CPU};
    const size_t all = whole(bytes);
    void* base = nullptr;
    if (sparse(bytes)) {
      base = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (base == MAP_FAILED) base = nullptr;
    } else {
      base = std::aligned_alloc(ZONE, all);
    }
    TORCH_CHECK(base, "not enough memory for ", bytes, " bytes");
    char *begin = static_cast<char*>(base) + before(bytes), *end = begin + bytes;
    fill(begin - ZONE, sparse(bytes) ? begin : end);
    fill(end, end + after(bytes));
    emulator_add_memory(begin, bytes, !sparse(bytes));
    c10::profiledCPUMemoryReporter().New(begin, bytes);
    return {begin, begin, &destroy, c10::DeviceType::CPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &destroy; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

// From now on new tensors on the CPU have memory that the emulated GPU may touch, or again torch's own. Returns whether
// they had it before.
extern "C" __attribute__((visibility("default"))) int emulator_watch_memory(int on) {
  static Watched& watched = *new Watched;
  const bool before = c10::GetCPUAllocator() == &watched;
  c10::SetCPUAllocator(on ? &watched : c10::GetDefaultCPUAllocator(), 255);
  return before;
}

// What was written around allocations that have been freed since the last call.
extern "C" __attribute__((visibility("default"))) const char* emulator_take_damage() {
  static std::string taken;
  std::scoped_lock lock(mutex);
  taken.swap(damage);
  damage.clear();
  return taken.c_str();
}
