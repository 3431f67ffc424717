// What ops are made of: operand kinds, and an op as a list of them.
#pragma once

namespace fastact {

// What an op takes.
enum class Kind {
  kTile,      // a tensor of the op's shape and dtype
  kSeed,      // one int64 on the CPU, which determines a random number for each element
  kChannel,   // a tensor of one weight, or of one for each channel (dimension 1 of the first tile)
  kResidual,  // a tile or nothing, added to the output; its gradient is the output's, so backward does not take it
  kScalar,    // a number
};

struct Operand {
  Kind kind;
  const char* name;
};

// What an op saves for backward, beside channelwise operands, seed and scalars. Backward takes it and the output's
// gradient, and returns a gradient for each tile and, summed over each channel, for each channelwise operand.
enum class Saved {
  kMask,    // one bit for each element
  kOutput,  // the output
  kInputs,  // all tiles
};

struct Op {
  const char* name;
  const char* module;  // the class, here or in torch.nn, that names the autograd node
  Saved saved;
  const Operand* operands;
  int operand_count;

  constexpr int count(Kind kind) const {
    int found = 0;
    for (int i = 0; i < operand_count; ++i) found += operands[i].kind == kind;
    return found;
  }
  constexpr bool is_random() const { return count(Kind::kSeed) > 0; }
  // Whether the op has one tile and nothing per channel beside it. Such ops also run in place.
  constexpr bool is_pointwise() const { return count(Kind::kTile) == 1 && count(Kind::kChannel) == 0; }
};

}  // namespace fastact
