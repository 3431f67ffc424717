// An emulated GPU: a stand-in for libcuda.so.1 whose modules are PTX text, as Triton makes it for sm_90, and whose
// launches run on the memory of CPU tensors.
//
// A module is decoded once: registers become arrays over the threads of a block, immediates arrays of constants, labels
// numbers, and an instruction with its modifiers a function that computes it for all threads in one loop. What is not
// known is refused then, never skipped. Blocks run one after the other. Where threads of a block part, those with the
// lowest place in the code go first, until all meet again.
//
// Beside the values, every access is checked (bounds, alignment, memory and registers that nobody has written, races in
// shared memory and between blocks). A fault ends the launch; cuGetErrorString then says what it was and where.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "memory.h"

namespace {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using std::bit_cast;
using std::string;
using std::vector;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

string hex(u64 number) {
  std::ostringstream out;
  out << "0x" << std::hex << number;
  return out.str();
}

// ---------------------------------------------------------------------------------------------------------- numbers

struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};

// A GPU's only NaN, in results of float32 and narrower.
constexpr u32 NAN32 = 0x7fffffff;
constexpr u16 NAN16 = 0x7fff;

inline float wide(float x) { return x; }
inline double wide(double x) { return x; }
inline float wide(bf16 x) { return bit_cast<float>(u32(x.bits) << 16); }
inline float wide(f16 x) {
  const u32 w = u32(x.bits) << 16, magnitude = w + w;
  const float normal = bit_cast<float>((magnitude >> 4) + (0xe0u << 23)) * 0x1p-112f;
  const float subnormal = bit_cast<float>((magnitude >> 17) | (126u << 23)) - 0.5f;
  const u32 chosen = magnitude < (1u << 27) ? bit_cast<u32>(subnormal) : bit_cast<u32>(normal);
  return bit_cast<float>((w & 0x80000000u) | chosen);
}

template <class T>
T nearest(float x);
template <>
inline bf16 nearest<bf16>(float x) {
  const u32 b = bit_cast<u32>(x);
  return {x == x ? u16((b + 0x7fff + ((b >> 16) & 1)) >> 16) : NAN16};
}
template <>
inline f16 nearest<f16>(float x) {
  const u32 w = bit_cast<u32>(x), magnitude = w + w;
  const u32 bias = std::max(magnitude & 0xff000000u, 0x71000000u);
  const float scaled = std::fabs(x) * 0x1p+112f * 0x1p-110f;
  const u32 b = bit_cast<u32>(bit_cast<float>((bias >> 1) + 0x07800000u) + scaled);
  const u32 rounded = ((b >> 13) & 0x7c00u) + (b & 0xfffu);
  return {magnitude > 0xff000000u ? NAN16 : u16((w >> 16 & 0x8000u) | rounded)};
}

// Rounds to odd, so that rounding once more, to fewer bits, is as if from the exact number.
inline float odd(double x) {
  const float f = float(x);
  const u32 toward_zero = bit_cast<u32>(f) - (std::fabs(double(f)) > std::fabs(x));
  return double(f) == x || x != x ? f : bit_cast<float>(toward_zero | 1);
}
template <>
inline float nearest<float>(float x) {
  return x == x ? x : bit_cast<float>(NAN32);
}

// The exact sum, rounded to odd.
inline double odd_sum(double a, double b) {
  const double s = a + b, t = s - a, error = (a - (s - t)) + (b - t);
  const s64 bits = bit_cast<s64>(s);
  const bool adjust = error != 0 && std::isfinite(s) && (bits & 1) == 0;
  return adjust ? bit_cast<double>(bits + ((error > 0) == (s > 0) ? 1 : -1)) : s;
}

inline float canonical(float x) { return x == x ? x : bit_cast<float>(NAN32); }
inline double canonical(double x) { return x; }

inline float flush(float x) {
  const u32 b = bit_cast<u32>(x);
  return bit_cast<float>((b & 0x7f800000u) == 0 ? b & 0x80000000u : b);
}

template <class T>
constexpr bool narrow = std::is_same_v<T, f16> || std::is_same_v<T, bf16>;

template <class T>
T add(T a, T b) {
  if constexpr (narrow<T>)
    return nearest<T>(odd(odd_sum(wide(a), wide(b))));
  else
    return canonical(a + b);
}
template <class T>
T negative(T a) {
  if constexpr (narrow<T>)
    return {u16(a.bits ^ 0x8000)};
  else
    return -a;
}
template <class T>
T sub(T a, T b) {
  if constexpr (narrow<T>)
    return add(a, negative(b));
  else
    return canonical(a - b);
}
template <class T>
T mul(T a, T b) {
  if constexpr (narrow<T>)
    return nearest<T>(odd(double(wide(a)) * double(wide(b))));
  else
    return canonical(a * b);
}
template <class T>
T fma(T a, T b, T c) {
  if constexpr (narrow<T>)
    return nearest<T>(odd(odd_sum(double(wide(a)) * double(wide(b)), wide(c))));
  else
    return canonical(std::fma(a, b, c));
}

template <class T>
auto bits_of(T x) {
  if constexpr (narrow<T>)
    return x.bits;
  else if constexpr (sizeof(T) == 4)
    return bit_cast<u32>(x);
  else
    return bit_cast<u64>(x);
}

// Equal numbers have equal bits, but for zeros, of which the negative one is the lower.
template <bool MAX, bool NAN_WINS, class T>
T extreme(T a, T b) {
  const auto x = wide(a), y = wide(b);
  const T equal = bit_cast<T>(decltype(bits_of(a))(MAX ? bits_of(a) & bits_of(b) : bits_of(a) | bits_of(b)));
  T ordered = x == y ? equal : (MAX ? x > y : x < y) ? a : b;
  T quiet = a;
  if constexpr (narrow<T>)
    quiet = {NAN16};
  else if constexpr (sizeof(T) == 4)
    quiet = bit_cast<float>(NAN32);
  else
    quiet = std::numeric_limits<double>::quiet_NaN();
  const bool nan_a = x != x, nan_b = y != y;
  const T other = nan_a ? b : a;
  return nan_a || nan_b ? (NAN_WINS || (nan_a && nan_b) ? quiet : other) : ordered;
}

// Within 0.51 ULP: a polynomial in float64 for 2^f, |f| <= 1/2, whose error is below 2^-37.
inline float power_of_2(float x) {
  const double clamped = x > 200 ? 200 : x < -200 ? -200 : x;
  const double shifted = clamped + 0x1.8p52;  // its last bits are the nearest whole number
  const double f = clamped - (shifted - 0x1.8p52);
  double p = 1.0178086009239699e-07;  // log(2)^9 / 9!
  p = p * f + 1.3215486790144309e-06;
  p = p * f + 1.5252733804059841e-05;
  p = p * f + 1.5403530393381608e-04;
  p = p * f + 1.3333558146428443e-03;
  p = p * f + 9.6181291076284771e-03;
  p = p * f + 5.5504108664821580e-02;
  p = p * f + 2.4022650695910071e-01;
  p = p * f + 6.9314718055994531e-01;
  p = p * f + 1.0;
  return float(bit_cast<double>((bit_cast<u64>(shifted) + 1023) << 52) * p);
}

bool noise = false;  // whether approximations are as far off as they may be

// Off by up to `ulps` after rounding, in a direction that depends on the exact result alone.
inline float perturbed(double exact, double ulps) {
  const float rounded = float(exact);
  if (!std::isfinite(rounded) || rounded == 0) return canonical(rounded);
  const u64 mixed = (bit_cast<u64>(exact) ^ 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
  const double share = double(s64(mixed ^ mixed << 31)) * 0x1p-63;  // in [-1, 1)
  const int exponent = std::max(std::ilogb(exact), -126);
  return float(exact + share * (ulps - 0.5) * std::ldexp(1.0, exponent - 23));
}

// ----------------------------------------------------------------------------------------------------------- memory

// Bytes of global memory that a block has read or written.
struct Range {
  u64 begin, end;
  u32 block, line;
};

struct Allocation {
  u64 begin, end;
  bool canary;                  // it was filled with CANARY at its birth
  vector<Range> reads, writes;  // of this launch
};

// Never destroyed: tensors may be freed after static objects.
std::mutex& memory_mutex = *new std::mutex;  // is held by a launch as long as it runs
std::map<u64, Allocation>& allocations = *new std::map<u64, Allocation>;
std::map<u64, u64>& freed = *new std::map<u64, u64>;  // where nothing new lies there: begin to end
std::deque<u64>& freed_first = *new std::deque<u64>;

Allocation* find(u64 address) {
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin()) return nullptr;
  Allocation& before = std::prev(after)->second;
  return address < before.end ? &before : nullptr;
}

// What lies nearest to bytes that are in no allocation.
string whereabouts(u64 begin, u64 end) {
  auto old = freed.upper_bound(begin);
  if (old != freed.begin() && begin < std::prev(old)->second)
    return text("in an allocation of ", std::prev(old)->second - std::prev(old)->first, " bytes that has been freed");
  auto after = allocations.upper_bound(begin);
  const Allocation* below = after == allocations.begin() ? nullptr : &std::prev(after)->second;
  const Allocation* above = after == allocations.end() ? nullptr : &after->second;
  constexpr u64 FAR = u64(1) << 40;
  const u64 past = below ? end - below->end : FAR, ahead = above ? above->begin - begin : FAR;
  if (std::min(past, ahead) >= FAR) return "far from any allocation";
  const Allocation& near = past <= ahead ? *below : *above;
  return text(past <= ahead ? past : ahead, past <= ahead ? " bytes past the end" : " bytes before the beginning",
              " of an allocation of ", near.end - near.begin, " bytes at ", hex(near.begin));
}

bool is_canary(u32 word, u64 address) { return word == CANARY[address >> 2 & 3]; }

// ------------------------------------------------------------------------------------------------------------- code

constexpr int MOST_THREADS = 1024, WARP = 32;

enum Written : u8 { NOBODY, SOME, ALL };

struct Register {
  string name;
  int bits;  // 1: a predicate
  bool constant = false;
  Written state = NOBODY;
  u64 value = 0;                      // of a constant
  vector<u8> by = {};                 // where some threads have written it: which
  const Register* made_of = nullptr;  // one that nobody had written
  char* data = nullptr;               // of all threads, during launches of its kernel

  bool has(int thread) const { return state == ALL || (state == SOME && by[thread]); }

  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data);
  }
};

struct Machine;
struct Instruction;
using Handler = void (*)(Machine&, const Instruction&);
enum class Kind { COMPUTE, BRANCH, EXIT, BARRIER };

struct Instruction {
  Kind kind = Kind::COMPUTE;
  Handler before = nullptr, run = nullptr;  // `before`: a first pass
  Register* guard = nullptr;
  bool negated = false;
  vector<Register*> to, from;
  bool strict = false;    // all of `from` must have been written
  bool select = false;    // takes one of the first two, as the third says
  bool exchange = false;  // takes the first of other threads
  bool packs =
      false;       // puts several into one, some of which nobody may want: compilers pair what they have with nothing
  s64 offset = 0;  // of an address, or into the parameters
  u32 target = 0;
  int bytes = 0;           // of one element
  bool wide_sign = false;  // of loads: extend the sign
  int option = 0;
  u32 line = 0;
  u32 begin = 0, end = 0;              // its text in Kernel::ptx
  u32 place_begin = 0, place_end = 0;  // and there the place in the Python source that it is of
  mutable Allocation* last = nullptr;
};

struct Parameter {
  string name;
  int offset, bytes;
  bool pointer;
};

struct Kernel {
  string name, ptx;
  bool decoded = false;
  u32 threads = 0;
  u32 largest_shared = 48 << 10;
  int parameter_bytes = 0;
  vector<Parameter> parameters;
  vector<Instruction> code;
  std::unordered_map<string, std::unique_ptr<Register>> registers;
  vector<Register*> variables;
  Register *block_number = nullptr, *blocks = nullptr, *thread_number = nullptr, *lane = nullptr;
  u64 launches = 0, blocks_run = 0, instructions = 0;

  string text_of(const Instruction& in) const { return ptx.substr(in.begin, in.end - in.begin); }
  void place_registers();
};

// Kernels have their registers' values in one place, those that run next overwriting them: a process may load
// thousands.
vector<u64> values;
const Kernel* whose_values = nullptr;

void Kernel::place_registers() {
  if (whose_values == this) return;
  auto bytes = [&](const Register& r) { return (threads * std::max(r.bits, 8) / 8 + 63) / 64 * 64; };
  size_t all = 64;
  for (const auto& [name, r] : registers) all += bytes(*r);
  if (values.size() * 8 < all) values.resize(all / 8);
  whose_values = this;
  char* at = reinterpret_cast<char*>((u64(values.data()) + 63) / 64 * 64);
  for (const auto& [name, r] : registers) {
    r->data = at;
    at += bytes(*r);
    if (!r->constant) continue;
    if (r->bits == 1)
      std::fill_n(r->as<u8>(), threads, u8(r->value != 0));
    else if (r->bits == 16)
      std::fill_n(r->as<u16>(), threads, u16(r->value));
    else if (r->bits == 32)
      std::fill_n(r->as<u32>(), threads, u32(r->value));
    else
      std::fill_n(r->as<u64>(), threads, r->value);
  }
  for (u32 i = 0; thread_number && i < threads; ++i) thread_number->as<u32>()[i] = i;
  for (u32 i = 0; lane && i < threads; ++i) lane->as<u32>()[i] = i % WARP;
}

constexpr u64 MOST_INSTRUCTIONS = 20'000'000;  // of a block: one that takes more would never end
u64 most_instructions = MOST_INSTRUCTIONS;

struct Byte {                    // of shared memory
  u32 epoch = 0;                 // of the barrier after which it was last accessed
  bool written = false;          // ever
  u32 writers = 0, readers = 0;  // warps since then
};

struct Machine {
  Kernel& kernel;
  const int threads;
  u32 grid = 0, block = 0, shared_bytes = 0;
  bool record = false;  // ranges: other blocks run too
  const u8* parameters = nullptr;
  const u8* active = nullptr;  // which threads compute; null: all
  u64 executed = 0;
  u32 epoch = 1;
  vector<u8> shared;
  vector<Byte> shadow;
  vector<Allocation*> accessed;
  alignas(64) u64 scratch[MOST_THREADS], scratch2[MOST_THREADS];
  alignas(64) u64 address[MOST_THREADS];
  alignas(64) u8 mask[MOST_THREADS], guarded[MOST_THREADS];
  u32 pc[MOST_THREADS];
  int came_from[MOST_THREADS];  // of the last exchange

  explicit Machine(Kernel& of) : kernel(of), threads(int(of.threads)) {}

  bool on(int i) const { return !active || active[i]; }

  // Names the threads for which something holds; nothing if there is none.
  template <class Holds>
  string who(Holds holds) const {
    vector<int> found;
    for (int i = 0; i < threads; ++i)
      if (on(i) && holds(i)) found.push_back(i);
    if (found.empty()) return "";
    if (found.size() == 1) return text("thread ", found[0]);
    return text(found.size(), " threads, the first ", found[0], ", the last ", found.back());
  }

  template <class D>
  D* out(Register* r) {
    return active ? reinterpret_cast<D*>(scratch) : r->as<D>();
  }
  template <class D>
  void commit(Register* r) {
    if (!active) return;
    D* to = r->as<D>();
    const D* from = reinterpret_cast<const D*>(scratch);
#pragma GCC ivdep
    for (int i = 0; i < threads; ++i) to[i] = active[i] ? from[i] : to[i];
  }
  template <class D>
  void assign(Register* r, const D* from) {
    D* to = r->as<D>();
    if (!active)
      std::copy(from, from + threads, to);
    else
      for (int i = 0; i < threads; ++i) to[i] = active[i] ? from[i] : to[i];
  }

  // Registers that nobody has written are followed, and a fault where one is used that was made of them: for an
  // address, a condition, or to be stored. Reductions may compute with them in threads whose results nobody wants.
  void check_written(const Register& r) const {
    if (r.state == ALL) return;
    const string unset = who([&](int i) { return !r.has(i); });
    if (unset.empty()) return;
    const string what = r.made_of ? text(", and register ", r.made_of->name, " of which it is made was") : " but";
    throw Fault(text("register ", r.name, " is used", what, " never written, by ", unset));
  }
  void mark_written(Register& r) {
    if (r.state == ALL) return;
    if (!active) {
      r.state = ALL;
      return;
    }
    if (r.state == NOBODY) r.by.assign(threads, 0);
    for (int i = 0; i < threads; ++i) r.by[i] |= active[i];
    r.state = std::find(r.by.begin(), r.by.end(), 0) == r.by.end() ? ALL : SOME;
  }
  // The same, of what is made of registers of which some threads have none.
  void mark_made(const Instruction& in, Register& r) {
    const Register* of = nullptr;
    vector<u8> by(threads);
    for (int i = 0; i < threads; ++i) {
      by[i] = r.has(i);
      if (!on(i)) continue;
      by[i] = 1;
      if (in.packs && std::any_of(in.from.begin(), in.from.end(), [&](Register* each) { return each->has(i); }))
        continue;
      for (size_t k = 0; k < in.from.size(); ++k) {
        const Register& from = *in.from[k];
        const bool not_chosen = in.select && k < 2 && in.from[2]->as<u8>()[i] != (k == 0);
        if (from.has(in.exchange && k == 0 ? came_from[i] : i) || not_chosen) continue;
        by[i] = 0;
        of = from.made_of ? from.made_of : &from;
      }
    }
    r.by = std::move(by);
    r.state = std::find(r.by.begin(), r.by.end(), 0) == r.by.end() ? ALL : SOME;
    if (of) r.made_of = of;
  }

  void find_addresses(const Instruction& in, Register* base) {
    if (base->bits == 64) {
      const u64* from = base->as<u64>();
      for (int i = 0; i < threads; ++i) address[i] = from[i] + u64(in.offset);
    } else {
      const u32* from = base->as<u32>();
      for (int i = 0; i < threads; ++i) address[i] = u64(s64(from[i]) + in.offset);
    }
  }

  void check_alignment(int bytes) const {
    u64 all = 0;
    for (int i = 0; i < threads; ++i) all |= on(i) ? address[i] : 0;
    if (all & u64(bytes - 1)) {
      auto bad = [&](int i) { return (address[i] & u64(bytes - 1)) != 0; };
      int first = 0;
      while (!on(first) || !bad(first)) ++first;
      throw Fault(text("misaligned access of ", bytes, " bytes at ", hex(address[first]), " by ", who(bad)));
    }
  }

  // Bounds of accesses of global memory; remembers them for the comparison of blocks.
  void check_global(const Instruction& in, int bytes, bool write) {
    check_alignment(bytes);
    u64 low = ~u64(0), high = 0;
    if (!active) {
      for (int i = 0; i < threads; ++i) low = std::min(low, address[i]), high = std::max(high, address[i]);
    } else {
      for (int i = 0; i < threads; ++i) {
        low = active[i] ? std::min(low, address[i]) : low;
        high = active[i] ? std::max(high, address[i]) : high;
      }
    }
    auto within = [&](Allocation* a, u64 from, u64 to) {
      return a && a->begin <= from && to + bytes <= a->end && to + bytes > to;
    };
    if (!within(in.last, low, high)) in.last = find(low);
    if (within(in.last, low, high)) {
      if (record) remember(*in.last, in.line, bytes, write, [](int) { return true; });
      return;
    }
    auto bad = [&](int i) { return !within(find(address[i]), address[i], address[i]); };
    const string outside = who(bad);
    if (!outside.empty()) {
      int first = 0;
      while (!on(first) || !bad(first)) ++first;
      const u64 at = address[first];
      throw Fault(text(write ? "write" : "read", " of ", bytes, " bytes at ", hex(at), " by ", outside, ": ",
                       whereabouts(at, at + bytes)));
    }
    if (record)
      for (int i = 0; i < threads; ++i)
        if (on(i)) remember(*find(address[i]), in.line, bytes, write, [i](int j) { return i == j; });
  }

  template <class Chosen>
  void remember(Allocation& a, u32 line, int bytes, bool write, Chosen chosen) {
    if (a.reads.empty() && a.writes.empty()) accessed.push_back(&a);
    vector<Range>& ranges = write ? a.writes : a.reads;
    for (int i = 0; i < threads; ++i) {
      if (!on(i) || !chosen(i)) continue;
      const u64 begin = address[i], end = begin + bytes;
      Range* last = ranges.empty() || ranges.back().block != block ? nullptr : &ranges.back();
      if (last && last->end == begin)
        last->end = end;
      else if (!last || begin < last->begin || end > last->end)
        ranges.push_back({begin, end, block, line});
    }
  }

  // Bounds of accesses of shared memory, and whether two warps meet in a byte between barriers. They may write the same
  // value: in layouts that hold a number several times, each holder stores it. `from`: what is written; null: it is
  // read.
  void check_shared(u64 at, int bytes, int thread, const void* from) {
    const u32 warp = thread / WARP, self = 1u << warp;
    if (at + bytes > shared_bytes || at + bytes < at)
      throw Fault(text("access of ", bytes, " bytes of shared memory at ", s64(at), " by thread ", thread, ", of ",
                       shared_bytes, " bytes"));
    for (int i = 0; i < bytes; ++i) {
      Byte& each = shadow[at + i];
      if (each.epoch != epoch) each.epoch = epoch, each.writers = each.readers = 0;
      auto fault = [&](const char* before) {
        throw Fault(text("race: byte ", at + i, " of shared memory is ", from ? "written" : "read", " by thread ",
                         thread, " of warp ", warp, ", and no barrier stands between this and where another warp ",
                         before, " it"));
      };
      if (from) {
        if (each.readers & ~self) fault("reads");
        if ((each.writers & ~self) && static_cast<const u8*>(from)[i] != shared[at + i]) fault("writes");
        each.written = true, each.writers |= self;
      } else {
        if (!each.written)
          throw Fault(text("byte ", at + i, " of shared memory is read but never written, by thread ", thread));
        if (each.writers && !(each.writers & self)) fault("writes");
        each.readers |= self;
      }
    }
  }

  // That all threads of the warps that take part are here.
  void check_whole_warps(const char* what) const {
    if (!active) return;
    for (int warp = 0; warp < threads; warp += WARP) {
      const int count = std::accumulate(active + warp, active + warp + WARP, 0);
      if (count != 0 && count != WARP)
        throw Fault(text(what, " with ", count, " of the ", WARP, " threads of warp ", warp / WARP));
    }
  }

  void run_block();
  void step(const Instruction& in);
  void compare_blocks();
};

// --------------------------------------------------------------------------------------------------------- handlers

template <class D, class A, auto F>
void map1(Machine& m, const Instruction& in) {
  D* d = m.out<D>(in.to[0]);
  const A* a = in.from[0]->as<A>();
#pragma GCC ivdep
  for (int i = 0; i < m.threads; ++i) d[i] = F(a[i]);
  m.commit<D>(in.to[0]);
}

template <class D, class A, class B, auto F>
void map2(Machine& m, const Instruction& in) {
  D* d = m.out<D>(in.to[0]);
  const A* a = in.from[0]->as<A>();
  const B* b = in.from[1]->as<B>();
#pragma GCC ivdep
  for (int i = 0; i < m.threads; ++i) d[i] = F(a[i], b[i]);
  m.commit<D>(in.to[0]);
}

template <class D, class A, class B, class C, auto F>
void map3(Machine& m, const Instruction& in) {
  D* d = m.out<D>(in.to[0]);
  const A* a = in.from[0]->as<A>();
  const B* b = in.from[1]->as<B>();
  const C* c = in.from[2]->as<C>();
#pragma GCC ivdep
  for (int i = 0; i < m.threads; ++i) d[i] = F(a[i], b[i], c[i]);
  m.commit<D>(in.to[0]);
}

// Two 16-bit numbers in 32 bits.
template <class T>
T half(u32 both, int i) {
  return {u16(both >> 16 * i)};
}
template <class T>
u32 pack(T low, T high) {
  return low.bits | u32(high.bits) << 16;
}

template <class T, auto F>
constexpr auto twice1 = [](u32 a) { return pack<T>(F(half<T>(a, 0)), F(half<T>(a, 1))); };
template <class T, auto F>
constexpr auto twice2 =
    [](u32 a, u32 b) { return pack<T>(F(half<T>(a, 0), half<T>(b, 0)), F(half<T>(a, 1), half<T>(b, 1))); };
template <class T, auto F>
constexpr auto twice3 = [](u32 a, u32 b, u32 c) {
  return pack<T>(F(half<T>(a, 0), half<T>(b, 0), half<T>(c, 0)), F(half<T>(a, 1), half<T>(b, 1), half<T>(c, 1)));
};

template <auto F>
constexpr auto flushed1 = [](float a) { return flush(F(flush(a))); };
template <auto F>
constexpr auto flushed2 = [](float a, float b) { return flush(F(flush(a), flush(b))); };
template <auto F>
constexpr auto flushed3 = [](float a, float b, float c) { return flush(F(flush(a), flush(b), flush(c))); };

// -- moves and predicates

template <class Whole, class Part>
void unpack(Machine& m, const Instruction& in) {
  const Whole* from = in.from[0]->as<Whole>();
  for (size_t k = 0; k < in.to.size(); ++k) {
    Part* d = m.out<Part>(in.to[k]);
#pragma GCC ivdep
    for (int i = 0; i < m.threads; ++i) d[i] = Part(from[i] >> (8 * sizeof(Part) * k));
    m.commit<Part>(in.to[k]);
  }
}

template <class Whole, class Part>
void pack_registers(Machine& m, const Instruction& in) {
  Whole* d = m.out<Whole>(in.to[0]);
  for (size_t k = 0; k < in.from.size(); ++k) {
    const Part* from = in.from[k]->as<Part>();
#pragma GCC ivdep
    for (int i = 0; i < m.threads; ++i) d[i] = Whole(k ? d[i] : 0) | Whole(from[i]) << (8 * sizeof(Part) * k);
  }
  m.commit<Whole>(in.to[0]);
}

enum Test { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, ISNAN };

template <Test TEST, class T>
bool compare(T a, T b) {
  const auto less = a<b, equal = a == b, greater = a> b;
  if constexpr (TEST == EQ) return equal;
  if constexpr (TEST == NE) return less || greater;
  if constexpr (TEST == LT) return less;
  if constexpr (TEST == LE) return less || equal;
  if constexpr (TEST == GT) return greater;
  if constexpr (TEST == GE) return greater || equal;
  if constexpr (TEST == EQU) return !(less || greater);
  if constexpr (TEST == NEU) return !equal;
  if constexpr (TEST == LTU) return !(greater || equal);
  if constexpr (TEST == LEU) return !greater;
  if constexpr (TEST == GTU) return !(less || equal);
  if constexpr (TEST == GEU) return !less;
  if constexpr (TEST == NUM) return less || equal || greater;
  return !(less || equal || greater);
}

template <class T>
auto comparable(T x) {
  if constexpr (std::is_integral_v<T>)
    return x;
  else
    return wide(x);
}

// `option`: how a third operand is combined: 0 not, 1 and, 2 or, 3 xor. A second result is the first's complement.
template <class T, Test TEST>
void set_predicate(Machine& m, const Instruction& in) {
  const T *a = in.from[0]->as<T>(), *b = in.from[1]->as<T>();
  if (in.to.size() == 1 && in.option == 0) {
    u8* d = m.out<u8>(in.to[0]);
#pragma GCC ivdep
    for (int i = 0; i < m.threads; ++i) d[i] = compare<TEST>(comparable(a[i]), comparable(b[i]));
    m.commit<u8>(in.to[0]);
    return;
  }
  u8 *p = reinterpret_cast<u8*>(m.scratch), *q = reinterpret_cast<u8*>(m.scratch2);
  const u8* c = in.option ? in.from[2]->as<u8>() : nullptr;
  for (int i = 0; i < m.threads; ++i) {
    const bool holds = compare<TEST>(comparable(a[i]), comparable(b[i]));
    auto combine = [&](bool x) {
      return u8(in.option == 1 ? x & c[i] : in.option == 2 ? x | c[i] : in.option == 3 ? x ^ c[i] : x);
    };
    p[i] = combine(holds), q[i] = combine(!holds);
  }
  m.assign(in.to[0], p);
  if (in.to.size() == 2) m.assign(in.to[1], q);
}

template <class T, Test TEST>
void set_predicate_twice(Machine& m, const Instruction& in) {
  const u32 *a = in.from[0]->as<u32>(), *b = in.from[1]->as<u32>();
  for (size_t k = 0; k < in.to.size(); ++k) {
    u8* d = m.out<u8>(in.to[k]);
#pragma GCC ivdep
    for (int i = 0; i < m.threads; ++i) d[i] = compare<TEST>(wide(half<T>(a[i], int(k))), wide(half<T>(b[i], int(k))));
    m.commit<u8>(in.to[k]);
  }
}

// -- conversions

// Integers are converted by way of 64 bits, in `scratch2`, in two passes: for each pair of types in one there would be
// too many.
template <class Container, class From>
void widen(Machine& m, const Instruction& in) {
  const Container* a = in.from[0]->as<Container>();
  s64* d = reinterpret_cast<s64*>(m.scratch2);
#pragma GCC ivdep
  for (int i = 0; i < m.threads; ++i) d[i] = s64(From(a[i]));
}

template <class Container, class To>
void fill(Machine& m, const Instruction& in) {
  const s64* a = reinterpret_cast<const s64*>(m.scratch2);
  Container* d = m.out<Container>(in.to[0]);
#pragma GCC ivdep
  for (int i = 0; i < m.threads; ++i) d[i] = Container(To(a[i]));
  m.commit<Container>(in.to[0]);
}

template <class To, class Wide>
void convert_wide(Machine& m, const Instruction& in) {
  const Wide* a = reinterpret_cast<const Wide*>(m.scratch2);
  To* d = m.out<To>(in.to[0]);
  for (int i = 0; i < m.threads; ++i) d[i] = To(a[i]);
  m.commit<To>(in.to[0]);
}

enum Rounding { AS_IS, NEAREST, ZERO, DOWN, UP };

inline double to_integral(double x, int rounding) {
  switch (rounding) {
    case NEAREST:
      return std::nearbyint(x);
    case ZERO:
      return std::trunc(x);
    case DOWN:
      return std::floor(x);
    case UP:
      return std::ceil(x);
    default:
      return x;
  }
}

// Into `scratch2`. Saturates, and NaN becomes 0.
template <class To, class From>
void widen_float(Machine& m, const Instruction& in) {
  const From* a = in.from[0]->as<From>();
  s64* d = reinterpret_cast<s64*>(m.scratch2);
  constexpr double low = double(std::numeric_limits<To>::min()),
                   above = double(std::numeric_limits<To>::max() / 2 + 1) * 2;
  for (int i = 0; i < m.threads; ++i) {
    const double x = to_integral(wide(a[i]), in.option);
    if (x != x)
      d[i] = 0;
    else if (x < low)
      d[i] = s64(std::numeric_limits<To>::min());
    else if (x >= above)
      d[i] = s64(std::numeric_limits<To>::max());
    else
      d[i] = s64(To(x));
  }
}

template <class To, class From, bool FLUSH>
void convert_floats(Machine& m, const Instruction& in) {
  map1<To, From, [](From x) -> To {
    if constexpr (FLUSH && std::is_same_v<From, float>) x = flush(x);
    if constexpr (std::is_same_v<To, double>)
      return wide(x);
    else if constexpr (std::is_same_v<To, float>)
      return FLUSH ? flush(canonical(float(wide(x)))) : canonical(float(wide(x)));
    else if constexpr (std::is_same_v<From, double>)
      return nearest<To>(odd(x));
    else
      return nearest<To>(wide(x));
  }>(m, in);
}

template <class T>
void round_float(Machine& m, const Instruction& in) {
  const T* a = in.from[0]->as<T>();
  T* d = m.out<T>(in.to[0]);
  for (int i = 0; i < m.threads; ++i) d[i] = canonical(T(to_integral(a[i], in.option)));
  m.commit<T>(in.to[0]);
}

// -- memory

void load_parameter(Machine& m, const Instruction& in) {
  u64 value = 0;
  std::memcpy(&value, m.parameters + in.offset, in.bytes);
  if (in.wide_sign && in.bytes < 8) value = u64(s64(value << (64 - 8 * in.bytes)) >> (64 - 8 * in.bytes));
  auto everywhere = [&]<class C>() {
    std::fill_n(m.out<C>(in.to[0]), m.threads, C(value));
    m.commit<C>(in.to[0]);
  };
  if (in.to[0]->bits == 16)
    everywhere.operator()<u16>();
  else if (in.to[0]->bits == 32)
    everywhere.operator()<u32>();
  else
    everywhere.operator()<u64>();
}

// Whether what was read has never been written. Memory is born as copies of CANARY, an aligned word of which numbers
// are not: each half of it is a NaN that no arithmetic makes. Elements of 8 bytes are looked at whole.
template <class E>
bool unwritten(E value, u64 at) {
  if constexpr (sizeof(E) == 8)
    return is_canary(u32(value), at) && is_canary(u32(u64(value) >> 32), at + 4);
  else if constexpr (sizeof(E) == 4)
    return is_canary(u32(value), at);
  else
    return is_canary(*reinterpret_cast<const u32*>(at & ~u64(3)), at);
}

template <class C, class E>
void load_global(Machine& m, const Instruction& in) {
  const int count = int(in.to.size());
  m.find_addresses(in, in.from[0]);
  m.check_global(in, count * int(sizeof(E)), false);
  bool suspect = false;
  for (int k = 0; k < count; ++k) {
    C* d = m.out<C>(in.to[k]);
    for (int i = 0; i < m.threads; ++i) {
      if (!m.on(i)) continue;
      const u64 at = m.address[i] + k * sizeof(E);
      E value;
      std::memcpy(&value, reinterpret_cast<const void*>(at), sizeof(E));
      suspect |= unwritten(value, at);
      d[i] = C(value);
    }
    m.commit<C>(in.to[k]);
  }
  if (!suspect) return;
  const string readers = m.who([&](int i) {
    bool bad = false;
    for (int k = 0; k < count; ++k) {
      const u64 at = m.address[i] + k * sizeof(E);
      E value;
      std::memcpy(&value, reinterpret_cast<const void*>(at), sizeof(E));
      bad |= unwritten(value, at) && find(at)->canary;
    }
    return bad;
  });
  if (!readers.empty()) {
    int first = 0;
    while (!m.on(first)) ++first;
    const Allocation& a = *find(m.address[first]);
    throw Fault(text("global memory is read but never written, by ", readers, ", in an allocation of ", a.end - a.begin,
                     " bytes at ", hex(a.begin)));
  }
}

template <class C, class E>
void store_global(Machine& m, const Instruction& in) {
  const int count = int(in.from.size()) - 1;
  m.find_addresses(in, in.from[0]);
  m.check_global(in, count * int(sizeof(E)), true);
  for (int k = 0; k < count; ++k) {
    const C* from = in.from[k + 1]->as<C>();
    for (int i = 0; i < m.threads; ++i) {
      if (!m.on(i)) continue;
      const E value = E(from[i]);
      std::memcpy(reinterpret_cast<void*>(m.address[i] + k * sizeof(E)), &value, sizeof(E));
    }
  }
}

template <class C, class E>
void load_shared(Machine& m, const Instruction& in) {
  const int count = int(in.to.size()), bytes = count * int(sizeof(E));
  m.find_addresses(in, in.from[0]);
  m.check_alignment(bytes);
  for (int i = 0; i < m.threads; ++i)
    if (m.on(i)) m.check_shared(m.address[i], bytes, i, nullptr);
  for (int k = 0; k < count; ++k) {
    C* d = m.out<C>(in.to[k]);
    for (int i = 0; i < m.threads; ++i) {
      if (!m.on(i)) continue;
      E value;
      std::memcpy(&value, &m.shared[m.address[i] + k * sizeof(E)], sizeof(E));
      d[i] = C(value);
    }
    m.commit<C>(in.to[k]);
  }
}

template <class C, class E>
void store_shared(Machine& m, const Instruction& in) {
  const int count = int(in.from.size()) - 1, bytes = count * int(sizeof(E));
  m.find_addresses(in, in.from[0]);
  m.check_alignment(bytes);
  for (int i = 0; i < m.threads; ++i) {
    if (!m.on(i)) continue;
    E values[16 / sizeof(E)];
    for (int k = 0; k < count; ++k) values[k] = E(in.from[k + 1]->as<C>()[i]);
    m.check_shared(m.address[i], bytes, i, values);
    std::memcpy(&m.shared[m.address[i]], values, bytes);
  }
}

// Matrices of 8 rows of 16 bytes: lane 8 k + j names row j of matrix k; a lane has two numbers of row lane / 4 or,
// transposed (`option`), of column lane / 4.
template <bool LOAD>
void move_matrices(Machine& m, const Instruction& in) {
  m.check_whole_warps(LOAD ? "ldmatrix" : "stmatrix");
  m.find_addresses(in, in.from[0]);
  const int count = int(LOAD ? in.to.size() : in.from.size() - 1);
  for (int warp = 0; warp < m.threads; warp += WARP) {
    if (!m.on(warp)) continue;
    for (int k = 0; k < count; ++k) {
      u32* numbers = (LOAD ? in.to[k] : in.from[k + 1])->as<u32>() + warp;
      u16 matrix[8][8];
      auto exchange = [&] {
        for (int lane = 0; lane < WARP; ++lane)
          for (int j = 0; j < 2; ++j) {
            const int across = lane % 4 * 2 + j;
            u16& element = in.option ? matrix[across][lane / 4] : matrix[lane / 4][across];
            if (!LOAD)
              element = u16(numbers[lane] >> 16 * j);
            else
              numbers[lane] = j ? numbers[lane] | u32(element) << 16 : element;
          }
      };
      if (!LOAD) exchange();
      for (int row = 0; row < 8; ++row) {
        const int thread = warp + 8 * k + row;
        const u64 at = m.address[thread];
        if (at % 16) throw Fault(text("misaligned row of a matrix at ", at, " in shared memory by thread ", thread));
        m.check_shared(at, 16, thread, LOAD ? nullptr : matrix[row]);
        if (LOAD)
          std::memcpy(matrix[row], &m.shared[at], 16);
        else
          std::memcpy(&m.shared[at], matrix[row], 16);
      }
      if (LOAD) exchange();
    }
  }
}

// -- between threads

enum Shuffle { BFLY, IDX, UP_BY, DOWN_BY };

template <Shuffle MODE>
void shuffle(Machine& m, const Instruction& in) {
  m.check_whole_warps("shfl.sync");
  const u32 *a = in.from[0]->as<u32>(), *b = in.from[1]->as<u32>(), *c = in.from[2]->as<u32>(),
            *members = in.from[3]->as<u32>();
  u32* d = reinterpret_cast<u32*>(m.scratch);
  u8* valid = reinterpret_cast<u8*>(m.scratch2);
  for (int i = 0; i < m.threads; ++i) {
    if (m.on(i) && members[i] != ~u32(0)) throw Fault(text("shfl.sync among ", hex(members[i]), ", not whole warps"));
    const int lane = i % WARP, by = b[i] & 31, clamp = c[i] & 31, segment = c[i] >> 8 & 31;
    const int least = lane & segment, most = least | (clamp & ~segment);
    int j = MODE == BFLY ? lane ^ by : MODE == IDX ? least | (by & ~segment) : MODE == UP_BY ? lane - by : lane + by;
    valid[i] = MODE == UP_BY ? j >= most : j <= most;
    m.came_from[i] = i - lane + (valid[i] ? j : lane);
    d[i] = a[m.came_from[i]];
  }
  m.assign(in.to[0], d);
  if (in.to.size() == 2) m.assign(in.to[1], valid);
}

enum Reduction { SUM, AND, OR, XOR };

template <Reduction BY>
void reduce(Machine& m, const Instruction& in) {
  m.check_whole_warps("redux.sync");
  const u32 *a = in.from[0]->as<u32>(), *members = in.from[1]->as<u32>();
  u32* d = reinterpret_cast<u32*>(m.scratch);
  for (int warp = 0; warp < m.threads; warp += WARP) {
    u32 total = a[warp];
    for (int i = warp; i < warp + WARP; ++i) {
      if (m.on(i) && members[i] != ~u32(0))
        throw Fault(text("redux.sync among ", hex(members[i]), ", not whole warps"));
      if (i > warp)
        total = BY == SUM ? total + a[i] : BY == AND ? total & a[i] : BY == OR ? total | a[i] : total ^ a[i];
    }
    std::fill_n(d + warp, WARP, total);
  }
  m.assign(in.to[0], d);
}

void barrier_of_warp(Machine& m, const Instruction& in) {
  m.check_whole_warps("bar.warp.sync");
  for (int i = 0; i < m.threads; ++i)
    if (m.on(i) && in.from[0]->as<u32>()[i] != ~u32(0)) throw Fault("bar.warp.sync among a part of the warp");
}

// -- integers

template <class T>
T multiply_high(T a, T b) {
  using Twice = std::conditional_t<sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                                   std::conditional_t<std::is_signed_v<T>, s64, u64>>;
  return T(Twice(a) * Twice(b) >> 8 * sizeof(T));
}

// Division by zero gives all ones here; a GPU leaves it open.
template <class T>
T divide(T a, T b) {
  if (b == 0) return T(-1);
  if (std::is_signed_v<T> && b == T(-1)) return T(0 - a);
  return T(a / b);
}
template <class T>
T remainder_of(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == T(-1)) return 0;
  return T(a % b);
}

template <class T>
T shift_left(T a, u32 n) {
  return n >= 8 * sizeof(T) ? T(0) : T(a << (n & (8 * sizeof(T) - 1)));
}
template <class T>
T shift_right(T a, u32 n) {
  const u32 most = 8 * sizeof(T) - 1;
  if (n > most) return std::is_signed_v<T> ? T(a >> most) : T(0);
  return T(a >> n);
}

template <class T>
T extract(T a, u32 position, u32 length) {
  using U = std::make_unsigned_t<T>;
  const u32 bits = 8 * sizeof(T);
  position &= 255, length &= 255;
  if (length == 0) return 0;
  U field = position >= bits ? U(0) : U(U(a) >> position);
  if (length < bits) field &= (U(1) << length) - 1;
  if (std::is_signed_v<T>) {
    const u32 top = std::min(position + length - 1, bits - 1);
    const U sign = (U(a) >> top & 1) ? ~U(0) : U(0);
    const u32 have = position >= bits ? 0 : std::min(length, bits - position);
    if (have < bits) field = U(field & (((U(1) << have) - 1))) | U(sign << have);
  }
  return T(field);
}

inline u32 permute(u32 a, u32 b, u32 selector) {
  const u64 both = a | u64(b) << 32;
  u32 result = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 choice = selector >> 4 * i & 15;
    u32 byte = u32(both >> 8 * (choice & 7)) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}

// ----------------------------------------------------------------------------------------------------------- decoder

struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

string trim(const string& s) {
  const size_t from = s.find_first_not_of(" \t\r\n"), to = s.find_last_not_of(" \t\r\n");
  return from == string::npos ? "" : s.substr(from, to - from + 1);
}

// At commas (or whatever `at`), outside of braces and brackets.
vector<string> split(const string& s, char at) {
  vector<string> parts(1);
  int depth = 0;
  for (char c : s) {
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (c == at && depth == 0)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  for (string& part : parts) part = trim(part);
  return parts;
}

// The modifiers of an instruction, of which none may be left over.
struct Modifiers {
  vector<string> left;

  bool take(const string& name) {
    auto found = std::find(left.begin(), left.end(), name);
    if (found == left.end()) return false;
    left.erase(found);
    return true;
  }
  string next() {
    if (left.empty()) throw Refusal("a modifier is missing");
    string first = left.front();
    left.erase(left.begin());
    return first;
  }
  string last() {
    if (left.empty()) throw Refusal("a type is missing");
    string name = left.back();
    left.pop_back();
    return name;
  }
};

int bits_of_type(const string& type) {
  if (type == "pred") return 1;
  if (type == "bf16") return 16;
  if (type == "bf16x2" || type == "f16x2") return 32;
  const string digits = type.substr(std::min<size_t>(1, type.size()));
  if (type.find_first_of("busf") == 0 && (digits == "8" || digits == "16" || digits == "32" || digits == "64"))
    return std::stoi(digits);
  throw Refusal(text("the type ", type, " is not known"));
}

// Calls f with the C++ type of a name; a null handler if it is none of these.
template <class F>
Handler of_integers(const string& type, F f) {
  if (type == "u16" || type == "b16") return f.template operator()<u16>();
  if (type == "u32" || type == "b32") return f.template operator()<u32>();
  if (type == "u64" || type == "b64") return f.template operator()<u64>();
  if (type == "s16") return f.template operator()<s16>();
  if (type == "s32") return f.template operator()<s32>();
  if (type == "s64") return f.template operator()<s64>();
  return nullptr;
}
template <class F>
Handler of_all_integers(const string& type, F f) {
  if (type == "u8" || type == "b8") return f.template operator()<u8>();
  if (type == "s8") return f.template operator()<s8>();
  return of_integers(type, f);
}
template <class F>
Handler of_floats(const string& type, F f) {
  if (type == "f16") return f.template operator()<f16>();
  if (type == "bf16") return f.template operator()<bf16>();
  if (type == "f32") return f.template operator()<float>();
  if (type == "f64") return f.template operator()<double>();
  return nullptr;
}
template <class F>
Handler of_bits(int bits, F f) {
  if (bits == 1) return f.template operator()<u8>();
  if (bits == 16) return f.template operator()<u16>();
  if (bits == 32) return f.template operator()<u32>();
  return f.template operator()<u64>();
}

template <auto F>
Handler unary_float(const string& type, bool ftz) {
  if (type == "f32" && ftz) return map1<float, float, flushed1<F>>;
  if (ftz) return nullptr;
  if (type == "f16x2") return map1<u32, u32, twice1<f16, F>>;
  if (type == "bf16x2") return map1<u32, u32, twice1<bf16, F>>;
  return of_floats(type, []<class T>() -> Handler { return map1<T, T, F>; });
}
template <auto F>
Handler binary_float(const string& type, bool ftz) {
  if (type == "f32" && ftz) return map2<float, float, float, flushed2<F>>;
  if (ftz) return nullptr;
  if (type == "f16x2") return map2<u32, u32, u32, twice2<f16, F>>;
  if (type == "bf16x2") return map2<u32, u32, u32, twice2<bf16, F>>;
  return of_floats(type, []<class T>() -> Handler { return map2<T, T, T, F>; });
}
template <auto F>
Handler ternary_float(const string& type, bool ftz) {
  if (type == "f32" && ftz) return map3<float, float, float, float, flushed3<F>>;
  if (ftz) return nullptr;
  if (type == "f16x2") return map3<u32, u32, u32, u32, twice3<f16, F>>;
  if (type == "bf16x2") return map3<u32, u32, u32, u32, twice3<bf16, F>>;
  return of_floats(type, []<class T>() -> Handler { return map3<T, T, T, T, F>; });
}
template <auto F>
Handler binary_integer(const string& type) {
  return of_integers(type, []<class T>() -> Handler { return map2<T, T, T, F>; });
}

// Approximations of float32: QUICK gives what is nearest or next to it, EXACT more digits of it, for `noise`. `ULPS`:
// the largest error that PTX's manual allows.
template <auto QUICK, auto EXACT, int ULPS>
Handler approximation(bool ftz) {
  constexpr auto off = [](float x) { return perturbed(EXACT(x), ULPS); };
  constexpr auto quick = [](float x) { return canonical(QUICK(x)); };
  auto run = [](Machine& m, const Instruction& in) {
    noise ? map1<float, float, off>(m, in) : map1<float, float, quick>(m, in);
  };
  auto run_flushed = [](Machine& m, const Instruction& in) {
    noise ? map1<float, float, flushed1<off>>(m, in) : map1<float, float, flushed1<quick>>(m, in);
  };
  return ftz ? Handler(run_flushed) : Handler(run);
}
template <auto QUICK, int ULPS>
Handler approximate_quotient(bool ftz) {
  constexpr auto off = [](float a, float b) {
    const float quick = QUICK(a, b);
    return quick == 0 ? quick : perturbed(double(a) / double(b), ULPS);
  };
  auto run = [](Machine& m, const Instruction& in) {
    noise ? map2<float, float, float, off>(m, in) : map2<float, float, float, QUICK>(m, in);
  };
  auto run_flushed = [](Machine& m, const Instruction& in) {
    noise ? map2<float, float, float, flushed2<off>>(m, in) : map2<float, float, float, flushed2<QUICK>>(m, in);
  };
  return ftz ? Handler(run_flushed) : Handler(run);
}

template <class T>
Handler comparison(const string& test, bool both) {
  Handler found = nullptr;
  auto offer = [&]<Test TEST>(const char* name) {
    if (test != name) return;
    if constexpr (narrow<T>)
      found = both ? set_predicate_twice<T, TEST> : set_predicate<T, TEST>;
    else
      found = set_predicate<T, TEST>;
  };
  offer.template operator()<EQ>("eq"), offer.template operator()<NE>("ne"), offer.template operator()<LT>("lt");
  offer.template operator()<LE>("le"), offer.template operator()<GT>("gt"), offer.template operator()<GE>("ge");
  if constexpr (!std::is_integral_v<T>) {
    offer.template operator()<EQU>("equ"), offer.template operator()<NEU>("neu"), offer.template operator()<LTU>("ltu");
    offer.template operator()<LEU>("leu"), offer.template operator()<GTU>("gtu"), offer.template operator()<GEU>("geu");
    offer.template operator()<NUM>("num"), offer.template operator()<ISNAN>("nan");
  } else if constexpr (std::is_unsigned_v<T>) {
    offer.template operator()<LT>("lo"), offer.template operator()<LE>("ls"), offer.template operator()<GT>("hi");
    offer.template operator()<GE>("hs");
  }
  return found;
}

struct Decoder {
  Kernel& kernel;
  std::map<string, u32> labels;
  vector<std::pair<size_t, string>> jumps;
  u32 line = 1, begun = 0, place_begin = 0, place_end = 0;

  explicit Decoder(Kernel& k) : kernel(k) {}

  Register* declare(const string& name, int bits, bool constant = false) {
    auto& slot = kernel.registers[name];
    if (slot) throw Refusal(text("the register ", name, " is declared twice"));
    slot = std::make_unique<Register>(Register{name, bits});
    if (constant)
      slot->constant = true, slot->state = ALL;
    else
      kernel.variables.push_back(slot.get());
    return slot.get();
  }

  Register* constant(u64 value, int bits) {
    const string name = text(hex(value), " of ", bits, " bits");
    if (auto found = kernel.registers.find(name); found != kernel.registers.end()) return found->second.get();
    Register* r = declare(name, bits, true);
    r->value = value;
    return r;
  }

  Register* special(const string& name) {
    if (auto found = kernel.registers.find(name); found != kernel.registers.end()) return found->second.get();
    Register* r = declare(name, 32, true);
    if (name == "%ctaid.x")
      kernel.block_number = r;
    else if (name == "%nctaid.x")
      kernel.blocks = r;
    else if (name == "%tid.x")
      kernel.thread_number = r;
    else if (name == "%laneid")
      kernel.lane = r;
    else if (name == "%ntid.x")
      r->value = kernel.threads;
    else
      throw Refusal(text("the special register ", name, " is not known"));
    return r;
  }

  static u64 immediate(const string& s) {
    size_t used = 0;
    u64 value = 0;
    try {
      if (s.size() > 2 && s[0] == '0' && (s[1] == 'f' || s[1] == 'd' || s[1] == 'F' || s[1] == 'D'))
        value = std::stoull(s.substr(2), &used, 16), used += 2;
      else if (s[0] == '-')
        value = u64(std::stoll(s, &used, 0));
      else
        value = std::stoull(s, &used, 0);
    } catch (const std::exception&) {
      throw Refusal(text("the operand ", s, " is not known"));
    }
    if (used < s.size() && s[used] == 'U') ++used;
    if (used != s.size()) throw Refusal(text("the operand ", s, " is not known"));
    return value;
  }

  Register* named(const string& name) {
    auto found = kernel.registers.find(name);
    if (found == kernel.registers.end() || found->second->constant)
      throw Refusal(text("the register ", name, " is not declared"));
    return found->second.get();
  }

  // An operand that is read. `exactly`: a register of just so many bits, or else of at least so many.
  Register* source(const string& s, int bits, bool exactly = true) {
    if (s.empty()) throw Refusal("an operand is missing");
    if (s[0] == '%' && (s.find('.') != string::npos || s == "%laneid")) return fitting(special(s), bits, exactly);
    if (s[0] == '%') return fitting(named(s), bits, exactly);
    if (s == "global_smem") return constant(0, bits);
    return constant(immediate(s), std::max(bits, bits == 1 ? 1 : 16));
  }
  Register* target(const string& s, int bits, bool exactly = true) {
    if (s == "_") {
      const string name = text("_ of ", bits, " bits");
      auto found = kernel.registers.find(name);
      return found == kernel.registers.end() ? declare(name, std::max(bits, bits == 1 ? 1 : 16)) : found->second.get();
    }
    return fitting(named(s), bits, exactly);
  }
  static Register* fitting(Register* r, int bits, bool exactly) {
    const bool fits = exactly ? r->bits == bits : r->bits >= bits && r->bits > 1;
    if (!fits) throw Refusal(text(r->name, " has ", r->bits, " bits where ", bits, " are wanted"));
    return r;
  }

  void address(Instruction& in, const string& s, bool shared) {
    if (s.size() < 3 || s.front() != '[' || s.back() != ']') throw Refusal(text("the address ", s, " is not known"));
    string inner = trim(s.substr(1, s.size() - 2));
    const size_t plus = inner.find('+');
    if (plus != string::npos) {
      in.offset = s64(immediate(trim(inner.substr(plus + 1))));
      inner = trim(inner.substr(0, plus));
    }
    Register* base = inner == "global_smem" ? constant(0, 64) : named(inner);
    if (base->bits != 64 && !(shared && base->bits == 32)) throw Refusal(text("the address ", s, " is not known"));
    in.from.push_back(base);
  }

  static vector<string> elements(const string& s) {
    if (s.size() >= 2 && s.front() == '{' && s.back() == '}') return split(s.substr(1, s.size() - 2), ',');
    return {s};
  }

  void want(const vector<string>& operands, size_t count) {
    if (operands.size() != count) throw Refusal(text("it has ", operands.size(), " operands, not ", count));
  }

  // An instruction of operands of one type, the first the result.
  void same(Instruction& in, const vector<string>& operands, size_t count, int bits) {
    want(operands, count);
    in.to = {target(operands[0], bits)};
    for (size_t i = 1; i < count; ++i) in.from.push_back(source(operands[i], bits));
  }

  void decode(Instruction& in, const string& name, const vector<string>& operands);
  bool decode_arithmetic(Instruction& in, const string& op, Modifiers& mods, const vector<string>& operands);
  bool decode_memory(Instruction& in, const string& op, Modifiers& mods, const vector<string>& operands);
  void decode_convert(Instruction& in, Modifiers& mods, const vector<string>& operands);
  void decode_move(Instruction& in, Modifiers& mods, const vector<string>& operands);
  void directive(const string& s);
  void statement(string s);
  void run();
};

void Decoder::decode_move(Instruction& in, Modifiers& mods, const vector<string>& operands) {
  want(operands, 2);
  const int bits = bits_of_type(mods.last());
  const bool to_parts = operands[0].front() == '{', from_parts = operands[1].front() == '{';
  if (!to_parts && !from_parts) {
    in.to = {target(operands[0], bits)}, in.from = {source(operands[1], bits)};
    in.run = of_bits(bits, []<class T>() -> Handler { return map1<T, T, [](T x) { return x; }>; });
    return;
  }
  const vector<string> parts = elements(operands[to_parts ? 0 : 1]);
  const int part = bits / int(parts.size());
  for (const string& each : parts) {
    if (to_parts)
      in.to.push_back(target(each, part));
    else
      in.from.push_back(source(each, part));
  }
  if (to_parts)
    in.from = {source(operands[1], bits)};
  else
    in.to = {target(operands[0], bits)};
  in.packs = from_parts;
  if (bits == 32 && part == 16) in.run = to_parts ? unpack<u32, u16> : pack_registers<u32, u16>;
  if (bits == 64 && part == 32) in.run = to_parts ? unpack<u64, u32> : pack_registers<u64, u32>;
  if (bits == 64 && part == 16) in.run = to_parts ? unpack<u64, u16> : pack_registers<u64, u16>;
}

void Decoder::decode_convert(Instruction& in, Modifiers& mods, const vector<string>& operands) {
  const string from = mods.last(), to = mods.last();
  const bool ftz = mods.take("ftz");
  if (to == "f16x2" || to == "bf16x2") {
    want(operands, 3);
    if (!mods.take("rn") || from != "f32" || ftz) return;
    in.to = {target(operands[0], 32)}, in.from = {source(operands[1], 32), source(operands[2], 32)};
    in.run = to == "f16x2"
                 ? map2<u32, float, float, [](float a, float b) { return pack(nearest<f16>(b), nearest<f16>(a)); }>
                 : map2<u32, float, float, [](float a, float b) { return pack(nearest<bf16>(b), nearest<bf16>(a)); }>;
    return;
  }
  want(operands, 2);
  const bool from_float = from.find('f') != string::npos, to_float = to.find('f') != string::npos;
  in.to = {target(operands[0], bits_of_type(to), to_float)};
  in.from = {source(operands[1], bits_of_type(from), from_float)};
  // In registers that may be longer than the type.
  auto of_register = [](Register* r, const string& type, auto f) {
    return of_all_integers(type, [&]<class T>() -> Handler {
      return of_bits(r->bits, [&]<class C>() -> Handler {
        if constexpr (sizeof(C) < std::max<size_t>(sizeof(T), 2))
          return nullptr;
        else
          return f.template operator()<C, T>();
      });
    });
  };
  if (!from_float) in.before = of_register(in.from[0], from, []<class C, class T>() -> Handler { return widen<C, T>; });
  if (!to_float) in.run = of_register(in.to[0], to, []<class C, class T>() -> Handler { return fill<C, T>; });
  if (!from_float && !to_float) return;
  if (!from_float) {
    if (!mods.take("rn")) return;
    if (to == "f32") in.run = from == "u64" ? convert_wide<float, u64> : convert_wide<float, s64>;
    if (to == "f64") in.run = from == "u64" ? convert_wide<double, u64> : convert_wide<double, s64>;
    return;
  }
  const struct {
    const char* name;
    Rounding rounding;
  } integral[] = {{"rni", NEAREST}, {"rzi", ZERO}, {"rmi", DOWN}, {"rpi", UP}};
  for (const auto& each : integral)
    if (mods.take(each.name)) in.option = each.rounding;
  if (!to_float) {
    if (in.option == AS_IS || ftz) in.run = nullptr;  // flushed subnormals would be rounded otherwise
    in.before = of_all_integers(to, [&]<class To>() -> Handler {
      return of_floats(from, []<class From>() -> Handler { return widen_float<To, From>; });
    });
    return;
  }
  if (from == to) {
    if (in.option == AS_IS || ftz) return;
    in.run = to == "f32" ? round_float<float> : to == "f64" ? round_float<double> : nullptr;
    return;
  }
  const bool narrower = bits_of_type(to) < bits_of_type(from);
  if (in.option != AS_IS || narrower != mods.take("rn")) return;
  in.run = of_floats(to, [&]<class To>() -> Handler {
    return of_floats(from, [&]<class From>() -> Handler {
      if constexpr (narrow<To> && narrow<From>)
        return nullptr;
      else if (ftz && !std::is_same_v<To, float>)
        return nullptr;
      else
        return ftz ? convert_floats<To, From, true> : convert_floats<To, From, false>;
    });
  });
}

bool Decoder::decode_memory(Instruction& in, const string& op, Modifiers& mods, const vector<string>& operands) {
  if (op == "ldmatrix" || op == "stmatrix") {
    want(operands, 2);
    for (const char* each : {"sync", "aligned", "m8n8", "shared", "b16"})
      if (!mods.take(each)) return true;
    in.option = mods.take("trans");
    const string count = mods.next();
    address(in, operands[op == "ldmatrix"], true);
    for (const string& each : elements(operands[op == "stmatrix"])) {
      if (op == "ldmatrix")
        in.to.push_back(target(each, 32));
      else
        in.from.push_back(source(each, 32));
    }
    if (count != text("x", elements(operands[op == "stmatrix"]).size()))
      throw Refusal("the number of matrices is another");
    in.run = op == "ldmatrix" ? move_matrices<true> : move_matrices<false>;
    return true;
  }
  if (op != "ld" && op != "st") return false;
  const bool load = op == "ld";
  want(operands, 2);
  const string type = mods.last(), space = mods.next();
  in.bytes = bits_of_type(type) / 8;
  in.wide_sign = type[0] == 's';
  if (space == "param" && load) {
    string name = trim(operands[1].substr(1, operands[1].size() - 2));
    if (const size_t plus = name.find('+'); plus != string::npos) {
      in.offset = s64(immediate(trim(name.substr(plus + 1)))), name = trim(name.substr(0, plus));
    }
    for (const Parameter& each : kernel.parameters) {
      if (each.name != name) continue;
      if (in.offset < 0 || in.offset + in.bytes > each.bytes)
        throw Refusal(text("it reads beyond the parameter ", name));
      in.offset += each.offset;
      in.to = {target(operands[0], 8 * in.bytes, false)};
      in.run = load_parameter;
    }
    return true;
  }
  if (space != "global" && space != "shared") return true;
  for (const char* each : {"nc", "L1::evict_last", "L1::evict_first", "L1::no_allocate"}) mods.take(each);  // hints
  const vector<string> names = elements(operands[load ? 0 : 1]);
  if (names.size() > 1 && !mods.take(text("v", names.size()))) throw Refusal("the length of the vector is another");
  if (names.size() == 1) mods.take("v1");
  if (names.size() * in.bytes > 16) throw Refusal("no GPU of this kind accesses more than 16 bytes");
  address(in, operands[load ? 1 : 0], space == "shared");
  int container = 0;
  for (const string& each : names) {
    Register* r = load ? target(each, 8 * in.bytes, false) : source(each, 8 * in.bytes, false);
    if (container && r->bits != container) throw Refusal("registers of one vector have several sizes");
    container = r->bits;
    (load ? in.to : in.from).push_back(r);
  }
  in.run = of_all_integers(type[0] == 'f' ? text("b", 8 * in.bytes) : type, [&]<class E>() -> Handler {
    return of_bits(container, [&]<class C>() -> Handler {
      if constexpr (sizeof(C) < sizeof(E))
        return nullptr;
      else if (space == "global")
        return load ? load_global<C, E> : store_global<C, E>;
      else
        return load ? load_shared<C, E> : store_shared<C, E>;
    });
  });
  return true;
}

bool Decoder::decode_arithmetic(Instruction& in, const string& op, Modifiers& mods, const vector<string>& operands) {
  if (mods.left.empty()) return false;
  const string type = mods.last();
  const bool is_float = type.find('f') != string::npos;
  const int bits = bits_of_type(type);
  const bool ftz = is_float && mods.take("ftz");
  auto rounded = [&] { return mods.take("rn"); };

  if (op == "add" || op == "sub" || (op == "mul" && is_float)) {
    same(in, operands, 3, bits);
    if (is_float) {
      rounded();  // is what is done where nothing is said
      in.run = op == "add"   ? binary_float<[](auto a, auto b) { return add(a, b); }>(type, ftz)
               : op == "sub" ? binary_float<[](auto a, auto b) { return sub(a, b); }>(type, ftz)
                             : binary_float<[](auto a, auto b) { return mul(a, b); }>(type, ftz);
    } else {
      in.run = op == "add" ? binary_integer<[](auto a, auto b) { return decltype(a)(a + b); }>(type)
                           : binary_integer<[](auto a, auto b) { return decltype(a)(a - b); }>(type);
    }
    return true;
  }
  if (op == "mul" || op == "mad") {
    const bool add_third = op == "mad";
    if (mods.take("wide")) {
      want(operands, add_third ? 4 : 3);
      in.to = {target(operands[0], 2 * bits)}, in.from = {source(operands[1], bits), source(operands[2], bits)};
      if (add_third) in.from.push_back(source(operands[3], 2 * bits));
      auto pick = [&]<class T, class W>() -> Handler {
        if (add_third) return map3<W, T, T, W, [](T a, T b, W c) { return W(W(a) * W(b) + c); }>;
        return map2<W, T, T, [](T a, T b) { return W(W(a) * W(b)); }>;
      };
      in.run = type == "u16"   ? pick.operator()<u16, u32>()
               : type == "s16" ? pick.operator()<s16, s32>()
               : type == "u32" ? pick.operator()<u32, u64>()
               : type == "s32" ? pick.operator()<s32, s64>()
                               : nullptr;
      return true;
    }
    const bool high = mods.take("hi");
    if (!high && !mods.take("lo")) return true;
    same(in, operands, add_third ? 4 : 3, bits);
    in.run = of_integers(type, [&]<class T>() -> Handler {
      if (high && add_third) return map3<T, T, T, T, [](T a, T b, T c) { return T(multiply_high(a, b) + c); }>;
      if (high) return map2<T, T, T, [](T a, T b) { return multiply_high(a, b); }>;
      if (add_third) return map3<T, T, T, T, [](T a, T b, T c) { return T(a * b + c); }>;
      return map2<T, T, T, [](T a, T b) { return T(a * b); }>;
    });
    return true;
  }
  if (op == "fma") {
    same(in, operands, 4, bits);
    if (rounded()) in.run = ternary_float<[](auto a, auto b, auto c) { return fma(a, b, c); }>(type, ftz);
    return true;
  }
  if (op == "div") {
    same(in, operands, 3, bits);
    if (!is_float) {
      in.run = binary_integer<[](auto a, auto b) { return divide(a, b); }>(type);
    } else if (mods.take("rn")) {
      if (type == "f32") in.run = map2<float, float, float, [](float a, float b) { return canonical(a / b); }>;
      if (type == "f64") in.run = map2<double, double, double, [](double a, double b) { return a / b; }>;
      if (ftz)
        in.run = type == "f32" ? map2<float, float, float, flushed2<[](float a, float b) { return canonical(a / b); }>>
                               : nullptr;
    } else if (type == "f32" && mods.take("full")) {
      in.run = approximate_quotient<[](float a, float b) { return canonical(a / b); }, 2>(ftz);
    } else if (type == "f32" && mods.take("approx")) {
      // Of divisors that are so large the reciprocal is flushed to zero.
      constexpr auto quotient = [](float a, float b) {
        const bool large = std::fabs(b) > 0x1p126f && std::fabs(b) < std::numeric_limits<float>::infinity();
        return canonical(large ? a * std::copysign(0.0f, b) : a / b);
      };
      in.run = approximate_quotient<quotient, 2>(ftz);
    }
    return true;
  }
  if (op == "rem") {
    same(in, operands, 3, bits);
    in.run = binary_integer<[](auto a, auto b) { return remainder_of(a, b); }>(type);
    return true;
  }
  if (op == "copysign") {  // of the first number, put on the second
    want(operands, 3);
    in.to = {target(operands[0], bits)};
    in.from = {source(operands[1], bits), source(operands[2], bits)};
    if (type == "f32") in.run = map2<float, float, float, [](float a, float b) { return std::copysign(b, a); }>;
    if (type == "f64") in.run = map2<double, double, double, [](double a, double b) { return std::copysign(b, a); }>;
    return true;
  }
  if (op == "abs" || op == "neg") {
    same(in, operands, 2, bits);
    constexpr auto absolute = []<class T>(T x) -> T {
      if constexpr (narrow<T>)
        return {u16(x.bits & 0x7fff)};
      else
        return std::fabs(x);
    };
    if (is_float)
      in.run =
          op == "abs" ? unary_float<absolute>(type, ftz) : unary_float<[](auto x) { return negative(x); }>(type, ftz);
    else if (type[0] == 's')
      in.run = of_integers(type, [&]<class T>() -> Handler {
        return op == "abs" ? map1<T, T, [](T x) { return T(x < 0 ? -x : x); }> : map1<T, T, [](T x) { return T(-x); }>;
      });
    return true;
  }
  if (op == "min" || op == "max") {
    same(in, operands, 3, bits);
    const bool nan = mods.take("NaN");
    if (!is_float) {
      if (!nan)
        in.run = op == "max" ? binary_integer<[](auto a, auto b) { return std::max(a, b); }>(type)
                             : binary_integer<[](auto a, auto b) { return std::min(a, b); }>(type);
    } else if (op == "max") {
      in.run = nan ? binary_float<[](auto a, auto b) { return extreme<true, true>(a, b); }>(type, ftz)
                   : binary_float<[](auto a, auto b) { return extreme<true, false>(a, b); }>(type, ftz);
    } else {
      in.run = nan ? binary_float<[](auto a, auto b) { return extreme<false, true>(a, b); }>(type, ftz)
                   : binary_float<[](auto a, auto b) { return extreme<false, false>(a, b); }>(type, ftz);
    }
    if (type == "f64" && nan) in.run = nullptr;
    return true;
  }
  if (op == "ex2" || op == "rcp" || op == "lg2" || op == "sqrt" || op == "rsqrt" || op == "sin" || op == "cos" ||
      op == "tanh") {
    same(in, operands, 2, bits);
    if (op == "rcp" || op == "sqrt") {
      if (rounded()) {
        if (type == "f64" && !ftz)
          in.run = op == "rcp" ? map1<double, double, [](double x) { return 1 / x; }>
                               : map1<double, double, [](double x) { return std::sqrt(x); }>;
        if (type == "f32" && !ftz)
          in.run = op == "rcp" ? map1<float, float, [](float x) { return canonical(1 / x); }>
                               : map1<float, float, [](float x) { return canonical(std::sqrt(x)); }>;
        return true;
      }
    }
    if (!mods.take("approx") || type != "f32") return true;
    // The last four have absolute errors, which `noise` leaves out.
    if (op == "ex2")
      in.run =
          approximation<[](float x) { return power_of_2(x); }, [](float x) { return std::exp2(double(x)); }, 2>(ftz);
    if (op == "rcp")
      in.run = approximation<[](float x) { return 1 / x; }, [](float x) { return 1 / double(x); }, 1>(ftz);
    if (op == "sqrt")
      in.run =
          approximation<[](float x) { return std::sqrt(x); }, [](float x) { return std::sqrt(double(x)); }, 1>(ftz);
    if (op == "rsqrt") {
      constexpr auto exact = [](float x) { return 1 / std::sqrt(double(x)); };
      in.run = approximation<[](float x) { return float(1 / std::sqrt(double(x))); }, exact, 2>(ftz);
    }
    auto plain = [&]<auto F>() { return ftz ? map1<float, float, flushed1<F>> : map1<float, float, F>; };
    if (op == "lg2") in.run = plain.operator()<[](float x) { return canonical(std::log2(x)); }>();
    if (op == "sin") in.run = plain.operator()<[](float x) { return canonical(std::sin(x)); }>();
    if (op == "cos") in.run = plain.operator()<[](float x) { return canonical(std::cos(x)); }>();
    if (op == "tanh") in.run = ftz ? nullptr : plain.operator()<[](float x) { return canonical(std::tanh(x)); }>();
    return true;
  }
  if (op == "and" || op == "or" || op == "xor" || op == "not") {
    if (type[0] != 'b' && type != "pred") return true;
    same(in, operands, op == "not" ? 2 : 3, bits);
    in.run = of_bits(bits, [&]<class T>() -> Handler {
      if (op == "not" && bits == 1) return map1<u8, u8, [](u8 x) { return u8(!x); }>;
      if (op == "not") return map1<T, T, [](T x) { return T(~x); }>;
      if (op == "and") return map2<T, T, T, [](T a, T b) { return T(a & b); }>;
      if (op == "or") return map2<T, T, T, [](T a, T b) { return T(a | b); }>;
      return map2<T, T, T, [](T a, T b) { return T(a ^ b); }>;
    });
    return true;
  }
  if (op == "popc") {
    same(in, operands, 2, bits);
    if (type == "b32") in.run = map1<u32, u32, [](u32 x) { return u32(__builtin_popcount(x)); }>;
    return true;
  }
  if (op == "shl" || op == "shr") {
    want(operands, 3);
    in.to = {target(operands[0], bits)}, in.from = {source(operands[1], bits), source(operands[2], 32)};
    in.run = of_integers(type, [&]<class T>() -> Handler {
      if (op == "shl") return map2<T, T, u32, [](T a, u32 n) { return shift_left(a, n); }>;
      return map2<T, T, u32, [](T a, u32 n) { return shift_right(a, n); }>;
    });
    return true;
  }
  if (op == "shf") {
    same(in, operands, 4, bits);
    const bool left = mods.take("l");
    if (type != "b32" || (!left && !mods.take("r")) || !mods.take("wrap")) return true;
    in.run =
        left ? map3<u32, u32, u32, u32, [](u32 a, u32 b, u32 c) { return u32((u64(b) << 32 | a) << (c & 31) >> 32); }>
             : map3<u32, u32, u32, u32, [](u32 a, u32 b, u32 c) { return u32((u64(b) << 32 | a) >> (c & 31)); }>;
    return true;
  }
  if (op == "bfe") {
    want(operands, 4);
    in.to = {target(operands[0], bits)};
    in.from = {source(operands[1], bits), source(operands[2], 32), source(operands[3], 32)};
    if (bits >= 32)
      in.run = of_integers(type, []<class T>() -> Handler {
        return map3<T, T, u32, u32, [](T a, u32 b, u32 c) { return extract(a, b, c); }>;
      });
    return true;
  }
  if (op == "prmt") {
    same(in, operands, 4, bits);
    if (type == "b32") in.run = map3<u32, u32, u32, u32, permute>;
    return true;
  }
  if (op == "selp") {
    want(operands, 4);
    in.to = {target(operands[0], bits)};
    in.from = {source(operands[1], bits), source(operands[2], bits), source(operands[3], 1)};
    in.run = of_bits(bits, []<class T>() -> Handler {
      return map3<T, T, T, u8, [](T a, T b, u8 p) { return T((a & T(0 - p)) | (b & T(p - 1))); }>;
    });
    return true;
  }
  if (op == "setp") {
    const string test = mods.next();
    in.option = mods.take("and") ? 1 : mods.take("or") ? 2 : mods.take("xor") ? 3 : 0;
    want(operands, in.option ? 4 : 3);
    const bool both = type.size() > 2 && type.substr(type.size() - 2) == "x2";
    for (const string& each : split(operands[0], '|')) in.to.push_back(target(each, 1));
    for (size_t i : {1, 2}) in.from.push_back(source(operands[i], bits));
    if (in.option) in.from.push_back(source(operands[3], 1));
    if (in.to.size() > 2 || ftz || (both && (in.option || in.to.size() != 2))) return true;
    in.run = is_float ? of_floats(both ? type.substr(0, type.size() - 2) : type,
                                  [&]<class T>() -> Handler { return comparison<T>(test, both); })
                      : of_integers(type, [&]<class T>() -> Handler { return comparison<T>(test, false); });
    return true;
  }
  if (op == "redux") {
    want(operands, 3);
    if (!mods.take("sync") || bits != 32 || is_float) return true;
    const string by = mods.next();
    in.to = {target(operands[0], 32)};
    in.from = {source(operands[1], 32), source(operands[2], 32)};
    in.run = by == "add"   ? reduce<SUM>
             : by == "and" ? reduce<AND>
             : by == "or"  ? reduce<OR>
             : by == "xor" ? reduce<XOR>
                           : nullptr;
    return true;
  }
  if (op == "shfl") {
    want(operands, 5);
    if (!mods.take("sync") || type != "b32") return true;
    const string mode = mods.next();
    const vector<string> results = split(operands[0], '|');
    in.to = {target(results[0], 32)};
    if (results.size() == 2) in.to.push_back(target(results[1], 1));
    for (size_t i = 1; i < 5; ++i) in.from.push_back(source(operands[i], 32));
    in.run = mode == "bfly"   ? shuffle<BFLY>
             : mode == "idx"  ? shuffle<IDX>
             : mode == "up"   ? shuffle<UP_BY>
             : mode == "down" ? shuffle<DOWN_BY>
                              : nullptr;
    return true;
  }
  return false;
}

void Decoder::decode(Instruction& in, const string& name, const vector<string>& operands) {
  Modifiers mods{split(name, '.')};
  const string op = mods.next();
  if (op == "bra") {
    want(operands, 1);
    mods.take("uni");
    in.kind = Kind::BRANCH;
    jumps.emplace_back(kernel.code.size(), operands[0]);
  } else if (op == "ret" || op == "exit") {
    in.kind = Kind::EXIT;
    mods.take("uni");
  } else if (name == "bar.sync" || name == "barrier.sync" || name == "barrier.sync.aligned") {
    if (operands != vector<string>{"0"}) throw Refusal("only the barrier 0 of all threads is known");
    mods.left.clear();
    in.kind = Kind::BARRIER;
  } else if (name == "bar.warp.sync") {
    want(operands, 1);
    mods.left.clear();
    in.from = {source(operands[0], 32)};
    in.run = barrier_of_warp;
  } else if (op == "mov") {
    decode_move(in, mods, operands);
  } else if (op == "cvt") {
    decode_convert(in, mods, operands);
  } else if (!decode_memory(in, op, mods, operands) && !decode_arithmetic(in, op, mods, operands)) {
    throw Refusal("the instruction is not known");
  }
  in.strict = op == "ld" || op == "st" || op == "ldmatrix" || op == "stmatrix" || op == "bar";
  in.select = op == "selp";
  in.exchange = op == "shfl";
  if (!mods.left.empty()) throw Refusal(text("its modifier ", mods.left[0], " is not known"));
  if (in.kind == Kind::COMPUTE && !in.run) throw Refusal("this form of the instruction is not known");
}

void Decoder::directive(const string& s) {
  std::istringstream words(s);
  string name, type, registers;
  words >> name >> type;
  if (name == ".pragma") return;
  if (name != ".reg" || type == ".b128") throw Refusal(text("the directive ", s, " is not known"));
  std::getline(words, registers);
  const int bits = bits_of_type(type.substr(1));
  for (const string& each : split(registers, ',')) {
    const size_t angle = each.find('<');
    if (angle == string::npos)
      declare(each, bits);
    else
      for (int n = std::stoi(each.substr(angle + 1)), k = 0; k < n; ++k)
        declare(each.substr(0, angle) + std::to_string(k), bits);
  }
}

void Decoder::statement(string s) {
  if (s[0] == '.') return directive(s);
  Instruction in;
  in.line = line, in.begin = begun, in.end = u32(begun + s.size());
  in.place_begin = place_begin, in.place_end = place_end;
  const string whole = s;
  if (s[0] == '@') {
    const size_t blank = s.find_first_of(" \t");
    string guard = s.substr(1, blank - 1);
    if (guard[0] == '!') in.negated = true, guard = guard.substr(1);
    in.guard = source(guard, 1);
    s = trim(s.substr(blank));
  }
  const size_t blank = s.find_first_of(" \t\n{");
  const string name = s.substr(0, blank), rest = blank == string::npos ? "" : trim(s.substr(blank));
  try {
    decode(in, name, rest.empty() ? vector<string>{} : split(rest, ','));
  } catch (const Refusal& why) {
    throw Refusal(text(whole, ": ", why.what()));
  }
  kernel.code.push_back(std::move(in));
}

void Decoder::run() {
  const string& ptx = kernel.ptx;
  const size_t entry = ptx.find(".entry");
  if (entry == string::npos || ptx.find(".entry", entry + 1) != string::npos) throw Refusal("PTX has not one kernel");
  const size_t open = ptx.find('(', entry), close = ptx.find(')', open), body = ptx.find('{', close);
  if (body == string::npos) throw Refusal("the kernel has no body");
  kernel.name = trim(ptx.substr(entry + 6, open - entry - 6));
  for (const string& each : split(ptx.substr(open + 1, close - open - 1), ',')) {
    if (each.empty()) continue;
    std::istringstream words(each);
    string word, type;
    vector<string> all;
    while (words >> word) all.push_back(word);
    if (all.size() < 3 || all[0] != ".param") throw Refusal(text("the parameter ", each, " is not known"));
    const int bytes = bits_of_type(all[1].substr(1)) / 8;
    const int offset = (kernel.parameter_bytes + bytes - 1) / bytes * bytes;
    kernel.parameters.push_back({all.back(), offset, bytes, each.find(".ptr") != string::npos});
    kernel.parameter_bytes = offset + bytes;
  }
  const size_t threads = ptx.find(".reqntid", close);
  if (threads > body) throw Refusal(text(kernel.name, " does not say how many threads it wants (.reqntid)"));
  std::istringstream(ptx.substr(threads + 8)) >> kernel.threads;
  if (kernel.threads == 0 || kernel.threads > MOST_THREADS || kernel.threads % WARP)
    throw Refusal(text(kernel.name, " wants ", kernel.threads, " threads, not whole warps of at most ", MOST_THREADS));

  line = u32(1 + std::count(ptx.begin(), ptx.begin() + body, '\n'));
  // A statement ends at a semicolon, a label at a colon, .loc at the end of its line, where a comment names the place.
  string pending;
  int depth = 0;
  try {
    for (size_t i = body; i < ptx.size(); ++i) {
      const char c = ptx[i];
      const bool comment = c == '/' && ptx[i + 1] == '/';
      if (c == '\n' || comment) {
        const size_t end = std::min(ptx.find('\n', i), ptx.size());
        if (pending.rfind(".loc", 0) == 0) {
          if (comment) place_begin = u32(i + 3), place_end = u32(end);
          pending.clear();
        } else if (!pending.empty()) {
          pending += ' ';
        }
        i = end;
        ++line;
      } else if (pending.empty() && (c == '{' || c == '}')) {
        depth += c == '{' ? 1 : -1;
        if (depth == 0) {
          kernel.ptx.resize(i);  // what follows is for debuggers
          break;
        }
      } else if (c == ':' && pending[0] == '$') {
        labels[pending] = u32(kernel.code.size());
        pending.clear();
      } else if (c == ';') {
        statement(trim(pending));
        pending.clear();
      } else if (!pending.empty() || !std::isspace(c)) {
        if (pending.empty()) begun = u32(i);
        pending += c;
      }
    }
    for (const auto& [at, label] : jumps) {
      line = kernel.code[at].line;
      if (!labels.count(label)) throw Refusal(text("the label ", label, " is not there"));
      kernel.code[at].target = labels[label];
    }
  } catch (const Refusal& why) {
    throw Refusal(text(kernel.name, ", line ", line, " of its PTX: ", why.what()));
  }
  kernel.decoded = true;
}

// ---------------------------------------------------------------------------------------------------------- running

void Machine::step(const Instruction& in) {
  bool whole = true;
  for (const Register* r : in.from) {
    if (in.strict) check_written(*r);
    whole &= r->state == ALL;
  }
  if (in.before) in.before(*this, in);
  in.run(*this, in);
  for (Register* r : in.to) whole ? mark_written(*r) : mark_made(in, *r);
}

void Machine::run_block() {
  for (Register* r : kernel.variables) r->state = NOBODY, r->made_of = nullptr;
  if (kernel.block_number) std::fill_n(kernel.block_number->as<u32>(), threads, block);
  if (kernel.blocks) std::fill_n(kernel.blocks->as<u32>(), threads, grid);
  std::fill(shadow.begin(), shadow.end(), Byte{});
  const u32 end = u32(kernel.code.size());
  u32 at = 0, others = end;  // where the next threads are that are not in `mask`
  bool parted = false;
  const u64 limit = executed + most_instructions;

  // Goes on with the threads that have the lowest place in the code.
  auto regroup = [&] {
    at = *std::min_element(pc, pc + threads);
    int count = 0;
    others = end;
    for (int i = 0; i < threads; ++i) {
      mask[i] = pc[i] == at;
      count += mask[i];
      if (!mask[i]) others = std::min(others, pc[i]);
    }
    parted = count != threads;
  };

  while (true) {
    if (parted && at >= others) {
      for (int i = 0; i < threads; ++i)
        if (mask[i]) pc[i] = at;
      regroup();
    }
    if (at >= end) break;
    const Instruction& in = kernel.code[at];
    active = parted ? mask : nullptr;
    try {
      if (++executed > limit) throw Fault(text("the block does not end: ", most_instructions, " instructions"));
      bool none = false;
      if (in.guard) {
        check_written(*in.guard);
        const u8* p = in.guard->as<u8>();
        int count = 0;
        for (int i = 0; i < threads; ++i) {
          guarded[i] = u8(p[i] ^ in.negated) & (parted ? mask[i] : 1);
          count += guarded[i];
        }
        none = count == 0;
        active = count == threads ? nullptr : guarded;
      }
      switch (in.kind) {
        case Kind::COMPUTE:
          if (!none) step(in);
          ++at;
          break;
        case Kind::BARRIER:
          if (active)
            throw Fault(
                text("divergent barrier: only ", who([](int) { return true; }), " of ", threads, " come to it"));
          ++epoch;
          ++at;
          break;
        case Kind::BRANCH:
        case Kind::EXIT: {
          const u32 target = in.kind == Kind::EXIT ? end : in.target;
          if (none)
            ++at;
          else if (!parted && !active)
            at = target;
          else if (!in.guard && in.kind == Kind::BRANCH)
            at = target;
          else {
            for (int i = 0; i < threads; ++i)
              if (!parted || mask[i]) pc[i] = on(i) ? target : at + 1;
            regroup();
          }
        }
      }
    } catch (const Fault& why) {
      throw Fault(
          text(kernel.name, ", block ", block, " of ", grid, ", line ", in.line, " of its PTX",
               in.place_end ? text(" (", kernel.ptx.substr(in.place_begin, in.place_end - in.place_begin), ")") : "",
               ": ", kernel.text_of(in), ": ", why.what()));
    }
  }
}

// Blocks have no order: what one writes no other may write or read.
void Machine::compare_blocks() {
  for (Allocation* each : accessed) {
    vector<Range>& writes = each->writes;
    if (writes.empty()) continue;
    std::sort(writes.begin(), writes.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    auto fault = [&](const Range& a, const Range& b, const char* what) {
      throw Fault(text(kernel.name, ": blocks ", a.block, " and ", b.block, " of ", grid, " ", what, " the byte ",
                       std::max(a.begin, b.begin) - each->begin, " of an allocation of ", each->end - each->begin,
                       " bytes (lines ", a.line, " and ", b.line, " of its PTX)"));
    };
    vector<Range> merged;
    for (const Range& write : writes) {
      if (merged.empty() || write.begin > merged.back().end ||
          (write.begin == merged.back().end && write.block != merged.back().block))
        merged.push_back(write);
      else if (write.block != merged.back().block)
        fault(merged.back(), write, "both write");
      else
        merged.back().end = std::max(merged.back().end, write.end);
    }
    for (const Range& read : each->reads) {
      auto write =
          std::partition_point(merged.begin(), merged.end(), [&](const Range& w) { return w.end <= read.begin; });
      for (; write != merged.end() && write->begin < read.end; ++write)
        if (write->block != read.block) fault(*write, read, "write and read");
    }
  }
}

// ----------------------------------------------------------------------------------------------------------- driver

enum Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  INVALID_IMAGE = 200,
  INVALID_PTX = 218,
  NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILED = 719
};

struct Module {
  Kernel* kernel = nullptr;  // null: it was loaded to be counted only, and has what it is asked for
};

struct Settings {
  bool record_only = false;
  int capability = 90, multiprocessors = 132;
  int capturing = 0;
  bool terminated = false;  // parameters end with a null pointer
  vector<s64> blocks;       // of each grid these alone; negative: from its end
  int spread = 0;           // and so many, evenly spread
  std::map<string, int> failures;
};

std::mutex launch_mutex;
Settings settings;
vector<std::unique_ptr<Kernel>> kernels;
string last_fault, counted;
thread_local int last_error = 0;
thread_local string last_text;

int fail(int error, const string& why) {
  last_error = error, last_text = why;
  return error;
}

// Whether a test has asked for this function to fail once.
int injected(const char* function) {
  if (settings.failures.empty()) return SUCCESS;  // bench/host.py counts what this takes
  auto found = settings.failures.find(function);
  if (found == settings.failures.end()) return SUCCESS;
  const int error = found->second;
  settings.failures.erase(found);
  return fail(error, text(function, " fails, as it was asked to"));
}

void run_launch(Kernel& kernel, u32 grid, u32 shared, const vector<u8>& parameters) {
  vector<u32> chosen;
  if (settings.blocks.empty() && settings.spread == 0) {
    chosen.resize(grid);
    std::iota(chosen.begin(), chosen.end(), 0);
  } else {
    for (s64 each : settings.blocks)
      if (const s64 number = each < 0 ? each + grid : each; number >= 0 && number < grid) chosen.push_back(u32(number));
    for (int i = 0; i < settings.spread; ++i)
      chosen.push_back(u32(settings.spread == 1 ? 0 : u64(grid - 1) * i / (settings.spread - 1)));
    std::sort(chosen.begin(), chosen.end());
    chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  }
  std::scoped_lock lock(memory_mutex);
  for (Instruction& in : kernel.code) in.last = nullptr;
  kernel.place_registers();
  auto machine = std::make_unique<Machine>(kernel);
  machine->grid = grid, machine->shared_bytes = shared, machine->parameters = parameters.data();
  machine->shared.resize(shared), machine->shadow.resize(shared);
  machine->record = chosen.size() > 1;
  auto clean = [&] {
    kernel.instructions += machine->executed;
    for (Allocation* each : machine->accessed) each->reads.clear(), each->writes.clear();
  };
  try {
    for (u32 each : chosen) {
      machine->block = each;
      ++kernel.blocks_run;
      machine->run_block();
    }
    machine->compare_blocks();
  } catch (...) {
    clean();
    throw;
  }
  clean();
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The memory that launches may touch.

EXPORT void emulator_add_memory(void* begin, size_t bytes, int canary) {
  std::scoped_lock lock(memory_mutex);
  const u64 from = u64(begin), to = from + bytes;
  for (auto old = freed.lower_bound(from); old != freed.end() && old->first < to;) old = freed.erase(old);
  if (auto old = freed.lower_bound(from); old != freed.begin() && std::prev(old)->second > from)
    freed.erase(std::prev(old));
  allocations[from] = {from, to, canary != 0, {}, {}};
}

EXPORT size_t emulator_remove_memory(void* begin) {
  std::scoped_lock lock(memory_mutex);
  auto found = allocations.find(u64(begin));
  if (found == allocations.end()) return 0;
  const u64 from = found->second.begin, to = found->second.end;
  allocations.erase(found);
  freed[from] = to;
  freed_first.push_back(from);
  if (freed_first.size() > 4096) freed.erase(freed_first.front()), freed_first.pop_front();
  return to - from;
}

// What tests ask for.

EXPORT void emulator_reset() {
  std::scoped_lock lock(launch_mutex);
  settings = {};
  noise = false;
  most_instructions = MOST_INSTRUCTIONS;
  last_fault.clear();
  for (auto& each : kernels) each->launches = each->blocks_run = each->instructions = 0;
}
EXPORT void emulator_set_noise(int on) { noise = on; }
EXPORT void emulator_set_limit(uint64_t instructions) { most_instructions = instructions; }
EXPORT void emulator_set_record_only(int on) { settings.record_only = on; }
EXPORT void emulator_set_device(int capability, int multiprocessors) {
  settings.capability = capability, settings.multiprocessors = multiprocessors;
}
EXPORT void emulator_set_capturing(int on) { settings.capturing = on; }
EXPORT void emulator_set_terminated(int on) { settings.terminated = on; }
EXPORT void emulator_select_blocks(const int64_t* numbers, int count, int spread) {
  settings.blocks.assign(numbers, numbers + count);
  settings.spread = spread;
}
EXPORT void emulator_fail_next(const char* function, int error) { settings.failures[function] = error; }
EXPORT const char* emulator_last_fault() { return last_fault.c_str(); }
// A line for each kernel that was launched: name, launches, blocks, instructions of blocks.
EXPORT const char* emulator_counts() {
  std::scoped_lock lock(launch_mutex);
  std::map<string, std::array<u64, 3>> sums;
  for (const auto& each : kernels) {
    if (each->launches == 0) continue;
    auto& sum = sums[each->name];
    sum[0] += each->launches, sum[1] += each->blocks_run, sum[2] += each->instructions;
  }
  counted.clear();
  for (const auto& [name, sum] : sums) counted += text(name, " ", sum[0], " ", sum[1], " ", sum[2], "\n");
  return counted.c_str();
}

// libcuda.so.1.

EXPORT int cuInit(unsigned) { return injected("cuInit"); }
EXPORT int cuDeviceGet(int* device, int number) {
  if (int error = injected("cuDeviceGet")) return error;
  if (number != 0) return fail(101, "there is one device, number 0");
  *device = 0;
  return SUCCESS;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  if (int error = injected("cuDeviceGetAttribute")) return error;
  switch (attribute) {
    case 1:  // the most threads of a block
      *value = MOST_THREADS;
      return SUCCESS;
    case 10:
      *value = WARP;
      return SUCCESS;
    case 16:
      *value = settings.multiprocessors;
      return SUCCESS;
    case 75:
      *value = settings.capability / 10;
      return SUCCESS;
    case 76:
      *value = settings.capability % 10;
      return SUCCESS;
    case 97:  // the most shared memory that a kernel can ask for
      *value = 232448;
      return SUCCESS;
    default:
      return fail(INVALID_VALUE, text("the device's attribute ", attribute, " is not known"));
  }
}
EXPORT int cuDevicePrimaryCtxRetain(void** context, int) {
  if (int error = injected("cuDevicePrimaryCtxRetain")) return error;
  *context = &settings;
  return SUCCESS;
}
namespace {
thread_local void* current_context = nullptr;
}
EXPORT int cuCtxGetCurrent(void** context) {
  if (int error = injected("cuCtxGetCurrent")) return error;
  *context = current_context;
  return SUCCESS;
}
EXPORT int cuCtxSetCurrent(void* context) {
  if (int error = injected("cuCtxSetCurrent")) return error;
  current_context = context;
  return SUCCESS;
}
EXPORT int cuModuleLoadData(void** module, const void* image) {
  std::scoped_lock lock(launch_mutex);
  if (int error = injected("cuModuleLoadData")) return error;
  if (!current_context) return fail(201, "cuModuleLoadData: the thread has no context");
  auto made = std::make_unique<Module>();
  if (!settings.record_only) {
    auto kernel = std::make_unique<Kernel>();
    kernel->ptx = static_cast<const char*>(image);
    if (kernel->ptx.find(".version") == string::npos)
      return fail(INVALID_IMAGE, "cuModuleLoadData: the image is not PTX");
    try {
      Decoder(*kernel).run();
    } catch (const Refusal& why) {
      return fail(INVALID_PTX, last_fault = why.what());
    }
    made->kernel = kernel.get();
    kernels.push_back(std::move(kernel));
  }
  *module = made.release();
  return SUCCESS;
}
EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
  std::scoped_lock lock(launch_mutex);
  if (int error = injected("cuModuleGetFunction")) return error;
  Module& in = *static_cast<Module*>(module);
  if (!in.kernel) {
    kernels.push_back(std::make_unique<Kernel>());
    in.kernel = kernels.back().get();
    in.kernel->name = name;
  }
  if (in.kernel->name != name) return fail(NOT_FOUND, text("cuModuleGetFunction: the module has no kernel ", name));
  *function = in.kernel;
  return SUCCESS;
}
EXPORT int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (int error = injected("cuFuncSetAttribute")) return error;
  if (attribute != 8) return fail(INVALID_VALUE, text("the attribute ", attribute, " of functions is not known"));
  if (value < 0 || value > 232448)
    return fail(INVALID_VALUE, text("no block can have ", value, " bytes of shared memory"));
  static_cast<Kernel*>(function)->largest_shared = u32(value);
  return SUCCESS;
}
EXPORT int cuLaunchKernel(void* function, unsigned grid, unsigned grid_y, unsigned grid_z, unsigned threads,
                          unsigned threads_y, unsigned threads_z, unsigned shared, void*, void** parameters,
                          void** extra) {
  std::scoped_lock lock(launch_mutex);
  if (int error = injected("cuLaunchKernel")) return error;
  Kernel& kernel = *static_cast<Kernel*>(function);
  ++kernel.launches;
  if (settings.record_only) return SUCCESS;
  auto refuse = [&](int error, const string& why) { return fail(error, last_fault = text(kernel.name, ": ", why)); };
  if (!current_context) return refuse(201, "the thread has no context");
  if (!kernel.decoded) return refuse(INVALID_IMAGE, "it was loaded to be counted only");
  if (grid == 0 || grid > 0x7fffffff || grid_y != 1 || grid_z != 1)
    return refuse(INVALID_VALUE, text("a grid of ", grid, " x ", grid_y, " x ", grid_z));
  if (threads != kernel.threads || threads_y != 1 || threads_z != 1)
    return refuse(INVALID_VALUE, text("a block of ", threads, " x ", threads_y, " x ", threads_z, " threads, not the ",
                                      kernel.threads, " of its PTX"));
  if (shared > kernel.largest_shared)
    return refuse(INVALID_VALUE, text(shared, " bytes of shared memory, but at most ", kernel.largest_shared));
  if (extra || (!parameters && !kernel.parameters.empty()))
    return refuse(INVALID_VALUE, "parameters come as an array of addresses");
  vector<u8> bytes(kernel.parameter_bytes + 8);
  for (size_t i = 0; i < kernel.parameters.size(); ++i) {
    const Parameter& each = kernel.parameters[i];
    if (!parameters[i])
      return refuse(INVALID_VALUE, text("parameter ", i, " of ", kernel.parameters.size(), " is missing"));
    std::memcpy(&bytes[each.offset], parameters[i], each.bytes);
  }
  if (settings.terminated && parameters[kernel.parameters.size()])
    return refuse(INVALID_VALUE, text("there are more parameters than the ", kernel.parameters.size(), " of its PTX"));
  try {
    run_launch(kernel, grid, shared, bytes);
  } catch (const Fault& why) {
    return fail(ILLEGAL_ADDRESS, last_fault = why.what());
  }
  return SUCCESS;
}
// What a thread may do while another captures changes nothing here.
EXPORT int cuThreadExchangeStreamCaptureMode(int* mode) {
  static thread_local int current = 0;
  std::swap(*mode, current);
  return injected("cuThreadExchangeStreamCaptureMode");
}

EXPORT int cuStreamIsCapturing(void*, int* status) {
  if (int error = injected("cuStreamIsCapturing")) return error;
  *status = settings.capturing;
  return SUCCESS;
}
EXPORT int cuGetErrorString(int error, const char** why) {
  if (error == SUCCESS)
    *why = "no error";
  else if (error == last_error)
    *why = last_text.c_str();
  else
    *why = "an error of the emulated GPU";
  return SUCCESS;
}
