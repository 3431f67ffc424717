// The activations: formula, name of its op, parameters in the op's schema. Everything on the CPU side is made from
// these lists: the compiled blocks (kernels.cpp), the ops and their schemas (library.cpp), their nodes (autograd.cpp).
#define FASTACT_POINTWISE(ACTIVATION)                                \
  /* rectifiers.h */                                                 \
  ACTIVATION(ReLU, relu, "")                                         \
  ACTIVATION(LeakyReLU, leaky_relu, ", float negative_slope")        \
  ACTIVATION(RReLU, rrelu, ", float lower, float upper")             \
  ACTIVATION(Threshold, threshold, ", float threshold, float value") \
  ACTIVATION(Hardtanh, hardtanh, ", float min_val, float max_val")   \
  ACTIVATION(ReLU6, relu6, "")                                       \
  ACTIVATION(SquaredReLU, squared_relu, "")                          \
  /* exponentials.h */                                               \
  ACTIVATION(ELU, elu, ", float alpha")                              \
  ACTIVATION(SELU, selu, "")                                         \
  ACTIVATION(CELU, celu, ", float alpha")                            \
  /* sigmoids.h */                                                   \
  ACTIVATION(Sigmoid, sigmoid, "")                                   \
  ACTIVATION(Tanh, tanh, "")                                         \
  ACTIVATION(Softsign, softsign, "")                                 \
  ACTIVATION(Hardsigmoid, hardsigmoid, "")                           \
  /* self_gated.h */                                                 \
  ACTIVATION(SiLU, silu, "")                                         \
  ACTIVATION(QuickGELU, quick_gelu, "")                              \
  ACTIVATION(GELU, gelu, "")                                         \
  ACTIVATION(GELUTanh, gelu_tanh, "")                                \
  ACTIVATION(Mish, mish, "")                                         \
  ACTIVATION(Hardswish, hardswish, "")                               \
  /* shrinkage.h */                                                  \
  ACTIVATION(Hardshrink, hardshrink, ", float lambd")                \
  ACTIVATION(Softshrink, softshrink, ", float lambd")                \
  ACTIVATION(Tanhshrink, tanhshrink, "")                             \
  /* softplus.h */                                                   \
  ACTIVATION(Softplus, softplus, ", float beta, float threshold")    \
  ACTIVATION(LogSigmoid, logsigmoid, "")

// Those with learned tensors, each of one number or of one per channel: formula, name, how its op's schema spells the
// tensors, and the parameters after them.
#define FASTACT_LEARNED(ACTIVATION)                                            \
  /* rectifiers.h */                                                           \
  ACTIVATION(PReLU, prelu, ", Tensor weight", "")                              \
  ACTIVATION(StarReLU, star_relu, ", Tensor scale, Tensor bias", "")           \
  /* exponentials.h */                                                         \
  ACTIVATION(XIELU, xielu, ", Tensor alpha_p, Tensor alpha_n", ", float beta") \
  /* periodic.h */                                                             \
  ACTIVATION(Snake, snake, ", Tensor alpha", "")

// Those of a whole row along a dimension: formula, name.
#define FASTACT_SOFTMAX(ACTIVATION) \
  /* softmax.h */                   \
  ACTIVATION(Softmax, softmax)      \
  ACTIVATION(Softmin, softmin)      \
  ACTIVATION(LogSoftmax, log_softmax)

// Gated units (gated.h): formula, name.
#define FASTACT_GATED(ACTIVATION)   \
  ACTIVATION(GLU, glu)              \
  ACTIVATION(GEGLU, geglu)          \
  ACTIVATION(GEGLUTanh, geglu_tanh) \
  ACTIVATION(SwiGLU, swiglu)        \
  ACTIVATION(ReGLU, reglu)          \
  ACTIVATION(Bilinear, bilinear)
