// The pointwise activations: formula, name of its op, parameters in the op's schema. Everything on the CPU side is made
// from this list: the compiled blocks (kernels.cpp), the ops and their schemas (library.cpp).
#define FASTACT_POINTWISE(ACTIVATION)                         \
  /* rectifiers.h */                                          \
  ACTIVATION(ReLU, relu, "")                                  \
  ACTIVATION(LeakyReLU, leaky_relu, ", float negative_slope") \
  ACTIVATION(RReLU, rrelu, ", float lower, float upper")      \
  /* exponentials.h */                                        \
  ACTIVATION(ELU, elu, ", float alpha")                       \
  /* sigmoids.h */                                            \
  ACTIVATION(Sigmoid, sigmoid, "")                            \
  ACTIVATION(Tanh, tanh, "")                                  \
  ACTIVATION(Softsign, softsign, "")
