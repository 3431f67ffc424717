// What ops are made of: operand kinds, and an op as a list of them.
#pragma once

namespace fastact {

// What an op takes.
enum class Kind {
  kTile,      // a tensor of the op's shape and dtype
  kSeed,      // one int64 on the CPU, from which a random number is drawn for each element
  kChannel,   // a tensor of one weight, or of one for each channel (dimension 1 of the first tile)
  kResidual,  // a tile or nothing, added to the output: backward does not take it, since its gradient is the output's
  kScalar,    // a number
};

struct Operand {
  Kind kind;
  const char* name;
};

// What an op keeps for its backward beside the channelwise operands, the seed and the scalars. Backward takes that and
// the output's gradient, and gives a gradient for each tile and, summed over each channel, for each channelwise
// operand.
enum class Saved {
  kMask,    // one bit for each element
  kOutput,  // the output
  kInputs,  // all tiles
};

struct Op {
  const char* name;
  const char* module;  // of the class in torch.nn or here, after which the autograd node is named
  Saved saved;
  const Operand* operands;
  int operand_count;

  constexpr int count(Kind kind) const {
    int found = 0;
    for (int i = 0; i < operand_count; ++i) found += operands[i].kind == kind;
    return found;
  }
  constexpr int saved_tiles() const {
    return saved == Saved::kMask ? 0 : saved == Saved::kOutput ? 1 : count(Kind::kTile);
  }
  constexpr bool is_random() const { return count(Kind::kSeed) > 0; }
  // The ops with one tile and nothing but scalars beside it run in place too.
  constexpr bool is_pointwise() const { return count(Kind::kTile) == 1 && count(Kind::kChannel) == 0; }
};

}  // namespace fastact
