// The largest errors of the float32 kernels over a range of bit patterns, those of all instruction sets at once, with
// the float64 kernels as the truth: 6 to 20 nanoseconds for each pattern. bench/exhaustive.py builds and calls it:
//
//     exhaustive NAME forward|derivative key=number,number… …
//
// and writes a line for each instruction set: its name, the largest error, the pattern where it is, the result there
// and the true one, and the largest difference from the widest set's results.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "runtime/instruction_sets.h"
#include "simd/flush_to_zero.h"

namespace fastact {
namespace {

constexpr int64_t kCount = kBlock / 4;  // all the buffers here together stay in L1

struct Arguments {
  std::map<std::string, std::vector<double>> given;
  std::vector<double> list(const char* key) const { return given.count(key) ? given.at(key) : std::vector<double>(); }
  double number(const char* key, double otherwise) const { return given.count(key) ? given.at(key)[0] : otherwise; }
};

// One op in one direction, as a function of one variable: gated units have a value of 1, and give the gate's gradient.
struct Function {
  int which = -1;
  bool derivative;
  std::vector<double> scalars, weights;

  Function(const std::string& name, bool derivative, const Arguments& arguments)
      : derivative(derivative), scalars(arguments.list("scalars")), weights(arguments.list("weights")) {
    for (int i = 0; i < kElementwiseCount; ++i)
      if (name == kOps[i].name) which = i;
  }

  template <class T>
  void operator()(const InstructionSet& set, const std::vector<T>& x, std::vector<T>& result) const {
    constexpr int type = sizeof(T) == 8;
    static const std::vector<T> ones(kCount, 1);
    static std::vector<T> y(kCount), rest[most(Kind::kChannel) + 1];
    static std::vector<uint8_t> mask(kCount / 8);
    const Op& op = kOps[which];
    const Call call = {scalars.data()};
    const std::vector<T> numbers(weights.begin(), weights.end());
    std::vector<const void*> operands = {x.data()};
    if (op.count(Kind::kTile) == 2) operands.insert(operands.begin(), ones.data());
    for (const T& number : numbers) operands.push_back(&number);
    if (!derivative || op.saved != Saved::kInputs) {
      void* outputs[] = {derivative ? y.data() : result.data(), op.saved == Saved::kMask ? mask.data() : nullptr};
      set.forward[which][type](operands.data(), outputs, kCount, 0, call);
    }
    if (!derivative) return;
    if (op.saved == Saved::kMask) operands = {mask.data()};
    if (op.saved == Saved::kOutput) operands = {y.data()};
    operands.insert(operands.begin(), ones.data());
    std::vector<void*> outputs = {result.data()};
    for (auto& other : rest) {
      other.resize(kCount);
      outputs.push_back(other.data());
    }
    if (op.count(Kind::kTile) == 2) std::swap(outputs[0], outputs[1]);
    set.backward[which][type](operands.data(), outputs.data(), kCount, 0, call);
  }
};

// What errors are divided by; see fastact/tools/accuracy.py, whose rules these numbers are.
struct Unit {
  double absolute, least, term_at_0, term_at_1, limit, radius, zero_below;
  bool difference;  // see fastact/tools/accuracy.py
  std::vector<double> points;

  explicit Unit(const Arguments& arguments)
      : absolute(arguments.number("absolute", 0)),
        least(arguments.number("least", 0)),
        term_at_0(arguments.number("term_at_0", 0)),
        term_at_1(arguments.number("term_at_1", 0)),
        limit(arguments.number("limit", std::numeric_limits<double>::infinity())),
        radius(arguments.number("radius", 0)),
        zero_below(arguments.number("zero_below", -std::numeric_limits<double>::infinity())),
        difference(arguments.number("difference", 0) != 0),
        points(arguments.list("points")) {}

  void operator()(const std::vector<double>& x, const std::vector<double>& truth, std::vector<double>& unit) const {
    for (int64_t i = 0; i < kCount; ++i) {
      double term = std::fabs(term_at_0 + (term_at_1 - term_at_0) * x[i]), size = std::fabs(truth[i]);
      size = term > size ? term : size;
      int64_t bits;
      std::memcpy(&bits, &size, 8);
      bits &= 0x7ff0000000000000;
      std::memcpy(&size, &bits, 8);
      size = size > 0x1p-126 ? size : 0x1p-126;
      size = size < 0x1p127 ? size : 0x1p127;  // of infinity and NaN too: an infinite unit is for what is not judged
      size = absolute > 0 ? absolute : size * 0x1p-23;
      unit[i] = std::fabs(x[i]) > limit ? std::numeric_limits<double>::infinity() : size;
    }
    for (double point : points)
      for (int64_t i = 0; i < kCount; ++i) {
        double raised = unit[i] > least ? unit[i] : least;
        unit[i] = std::fabs(x[i] - point) < radius ? raised : unit[i];
      }
  }
};

// Whether a zero is right; see `flushed` in fastact/tools/accuracy.py.
bool is_flushed(double result, double truth, float x, const Unit& unit) {
  constexpr double smallest = 0x1p-126 * (1 + 0x1p-21);
  bool right_sign = unit.difference ? !std::signbit(result) : std::signbit(result) == std::signbit(truth);
  bool vanishes = std::fabs(truth) < smallest || x < unit.zero_below;
  return result == 0 && ((vanishes && right_sign) || std::fabs(x) < smallest);
}

double error(float result, double truth, double unit) {
  if (std::isinf(unit) || result == truth || (std::isnan(result) && std::isnan(truth))) return 0;
  if (std::isinf(result) && result == static_cast<float>(truth)) return 0;
  double wrong = std::fabs(result - truth) / unit;
  return std::isnan(wrong) ? std::numeric_limits<double>::infinity() : wrong;
}

struct Worst {
  const InstructionSet* set;
  double error = 0, difference = 0;
  uint32_t pattern = 0;
  float result = 0;
  double truth = 0;

  // Whether a look at each element is due: there is a larger one, or an infinity or NaN, which may be right.
  bool is_exceeded(const std::vector<float>& result, const std::vector<float>& widest, const std::vector<double>& truth,
                   const std::vector<double>& unit) const {
    int64_t any = 0;
    for (int64_t i = 0; i < kCount; ++i) {
      double wrong = std::fabs(result[i] - truth[i]), apart = std::fabs(static_cast<double>(result[i]) - widest[i]);
      any |= !((wrong <= error * unit[i]) & (apart <= difference * unit[i]));
    }
    return any;
  }
};

void run(const Function& function, const Unit& unit_of, uint64_t first, uint64_t last) {
  std::vector<Worst> worst;
  for (const InstructionSet* set : instruction_sets()) worst.push_back({set});
  const InstructionSet& widest_set = *worst[0].set;
  std::vector<float> x(kCount), result(kCount), widest(kCount);
  std::vector<double> wide(kCount), truth(kCount), unit(kCount);
  for (uint64_t start = first; start + kCount <= last; start += kCount) {
    for (int64_t i = 0; i < kCount; ++i) {
      auto pattern = static_cast<uint32_t>(start + i);
      std::memcpy(&x[i], &pattern, 4);
      wide[i] = x[i];
    }
    // Patterns of one sign are in order of |x|, and NaN is not beyond anything.
    if (std::fabs(wide.front()) > unit_of.limit && std::fabs(wide.back()) > unit_of.limit) continue;
    {
      FlushToZero flush;
      function(widest_set, wide, truth);
    }
    unit_of(wide, truth, unit);
    for (Worst& each : worst) {
      {
        FlushToZero flush;
        function(*each.set, x, result);
      }
      if (each.set == &widest_set) widest = result;
      if (!each.is_exceeded(result, widest, truth, unit)) continue;
      for (int64_t i = 0; i < kCount; ++i) {
        const bool flushed = is_flushed(result[i], truth[i], x[i], unit_of);
        if (!flushed && !is_flushed(widest[i], truth[i], x[i], unit_of))
          each.difference = std::max(each.difference, error(result[i], widest[i], unit[i]));
        if (flushed) continue;
        if (double found = error(result[i], truth[i], unit[i]); found > each.error) {
          auto pattern = static_cast<uint32_t>(start + i);
          each = {each.set, found, each.difference, pattern, result[i], truth[i]};
        }
      }
    }
  }
  for (const Worst& each : worst)
    std::printf("%s %.17g %u %.9g %.17g %.17g\n", each.set->name, each.error, each.pattern, each.result, each.truth,
                each.difference);
}

}  // namespace
}  // namespace fastact

int main(int count, char** arguments) {
  using namespace fastact;
  if (count < 3) return 2;
  Arguments given;
  for (int i = 3; i < count; ++i) {
    std::string text = arguments[i];
    size_t end = text.find('=');
    std::vector<double>& numbers = given.given[text.substr(0, end)];
    while (end != std::string::npos) {
      numbers.push_back(std::stod(text.substr(end + 1)));
      end = text.find(',', end + 1);
    }
  }
  Function function(arguments[1], std::string(arguments[2]) == "derivative", given);
  if (function.which < 0) return 2;
  run(function, Unit(given), static_cast<uint64_t>(given.number("first", 0)),
      static_cast<uint64_t>(given.number("last", 0x1p32)));
}
