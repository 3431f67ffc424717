// Written by tables.py, which says how.
#pragma once

#include "pieces.h"
#include "self_gated.h"
#include "shrinkage.h"
#include "sigmoids.h"

namespace fastact {
namespace {

// tanh t: 0.17 ULP at most
template <>
struct Pieces<Tanh<float>> : Tabulated<false, false> {
  static constexpr float most = 0x1.20a3d8p3f, linear = 0x1.a66666p0f, quadratic = -0x1.73bd46p-4f;
  static constexpr float points[8] = {0x0p0f,     0x1.4c3p-1f, 0x1.5494p0f, 0x1.074ap1f,
                                      0x1.73bp1f, 0x1.ece4p1f, 0x1.4506p2f, 0x1.d87p2f};
  static constexpr float coefficients[][8] = {{0x0p0f, 0x1.24484cp-1f, 0x1.bd1a86p-1f, 0x1.ef8868p-1f, 0x1.fceebap-1f,
                                               0x1.ff8984p-1f, 0x1.fff5d4p-1f, 0x1.ffffe6p-1f},
                                              {0x1p0f, 0x1.59257ep-1f, 0x1.f4358cp-3f, 0x1.033cd6p-4f, 0x1.8775e6p-7f,
                                               0x1.d9b934p-10f, 0x1.457cccp-13f, 0x1.9f5a88p-20f},
                                              {-0x1.5ad388p-23f, -0x1.8a107ep-2f, -0x1.b2da76p-3f, -0x1.f5cc42p-5f,
                                               -0x1.851d9ep-7f, -0x1.d94cf8p-10f, -0x1.457cd6p-13f, -0x1.a5b312p-20f},
                                              {-0x1.5552c8p-2f, -0x1.48eb5ep-8f, 0x1.a69baep-4f, 0x1.38d524p-5f,
                                               0x1.004c12p-7f, 0x1.3af44ap-10f, 0x1.b1e6e2p-14f, 0x1.18ab32p-20f},
                                              {-0x1.9868e6p-13f, 0x1.0cb338p-3f, -0x1.35ee52p-6f, -0x1.0f2b52p-6f,
                                               -0x1.f42b82p-9f, -0x1.399642p-11f, -0x1.b09d8ap-15f, -0x1.f8003ep-22f},
                                              {0x1.14abfp-3f, -0x1.dcbdfp-5f, -0x1.9ba53cp-7f, 0x1.339bcap-8f,
                                               0x1.7c9ceap-10f, 0x1.f2c72cp-13f, 0x1.5a317p-16f, 0x1.99b10ap-23f},
                                              {-0x1.f6ec46p-8f, -0x1.49725p-6f, 0x1.98cbf4p-7f, -0x1.2336e8p-12f,
                                               -0x1.cc11d8p-12f, -0x1.52e53cp-14f, -0x1.ed1c1ap-18f, -0x1.a5bf82p-24f},
                                              {-0x1.476deap-5f, 0x1.c72d62p-6f, -0x1.277076p-8f, -0x1.1636d2p-11f,
                                               0x1.920ddep-14f, 0x1.69f09p-16f, 0x1.15686p-19f, 0x1.d2e64ep-26f}};
};

// t Phi(-t): 0.19 ULP at most
template <>
struct Pieces<GELU<float>> : Tabulated<true, true> {
  static constexpr float most = 0x1.566666p2f, linear = 0x1.666666p-1f, quadratic = 0x1.0c9b4ap-3f;
  static constexpr float points[8] = {0x0p0f,      0x1.7b2p0f,  0x1.269ap1f, 0x1.83cap1f,
                                      0x1.d3e6p1f, 0x1.0ebep2f, 0x1.3273p2f, 0x1.5181p2f};
  static constexpr float coefficients[][8] = {{0x0p0f, 0x1.a46dbp-4f, 0x1.92b768p-6f, 0x1.e6325cp-9f, 0x1.ec0416p-12f,
                                               0x1.9e0224p-15f, 0x1.0e48e8p-18f, 0x1.7af26ap-22f},
                                              {0x1p-1f, -0x1.063102p-3f, -0x1.bcac66p-5f, -0x1.6a4888p-7f,
                                               -0x1.bdda8ep-10f, -0x1.b3ab18p-13f, -0x1.428638p-16f, -0x1.f27cd8p-20f},
                                              {-0x1.988456p-2f, 0x1.a5d986p-7f, 0x1.7d3014p-5f, 0x1.dcbce2p-7f,
                                               0x1.749d08p-9f, 0x1.b03f5ap-12f, 0x1.6fd2ecp-15f, 0x1.3bf49ep-18f},
                                              {0x1.932ff2p-20f, 0x1.e6cc64p-5f, -0x1.cc3a68p-7f, -0x1.5b4ef4p-7f,
                                               -0x1.761b22p-9f, -0x1.0a69f8p-11f, -0x1.097cacp-14f, -0x1.002eap-17f},
                                              {0x1.10448ap-4f, -0x1.2983d4p-5f, -0x1.82e428p-8f, 0x1.0992dep-8f,
                                               0x1.e689fap-10f, 0x1.c2efc8p-12f, 0x1.0e5c8p-14f, 0x1.293522p-17f},
                                              {0x1.d27bd4p-14f, 0x1.182314p-9f, 0x1.b111b2p-8f, -0x1.10c18ep-13f,
                                               -0x1.8c3b12p-11f, -0x1.0f2b0cp-12f, -0x1.98d3aep-15f, -0x1.04facap-17f},
                                              {-0x1.5236cp-7f, 0x1.40cb0cp-8f, -0x1.f014c2p-10f, -0x1.673326p-11f,
                                               0x1.128204p-13f, 0x1.c15a98p-14f, 0x1.d48d9ep-16f, 0x1.6b91a8p-18f},
                                              {0x1.2c4b04p-11f, -0x1.eb7eb2p-10f, -0x1.115c2p-12f, 0x1.a93a36p-12f,
                                               0x1.20fc8ap-15f, -0x1.077906p-15f, -0x1.8a876cp-17f, -0x1.558d1ap-19f},
                                              {0x1.93d422p-11f, -0x1.a2b2a2p-11f, 0x1.6e64a2p-12f, 0x1.01ef76p-16f,
                                               -0x1.ec5cc6p-15f, -0x1.ba2fa8p-18f, 0x1.135ba4p-18f, 0x1.f48818p-20f}};
};

// t sigma(-v), with v as in GELUTanh: 0.28 ULP at most
template <>
struct Pieces<GELUTanh<float>> : Tabulated<true, true> {
  static constexpr float most = 0x1.41eb86p2f, linear = 0x1.70a3d8p-1f, quadratic = 0x1.39dbe4p-3f;
  static constexpr float points[8] = {0x0p0f,      0x1.699cp0f, 0x1.1bp1f,   0x1.7028p1f,
                                      0x1.b9bep1f, 0x1.fedep1f, 0x1.2091p2f, 0x1.3d0dp2f};
  static constexpr float coefficients[][8] = {{0x0p0f, 0x1.c96bf4p-4f, 0x1.e540c4p-6f, 0x1.5dce32p-8f, 0x1.86cb64p-11f,
                                               0x1.33515p-14f, 0x1.47b676p-18f, 0x1.4f0c8ap-22f},
                                              {0x1p-1f, -0x1.0829bp-3f, -0x1.055ddep-4f, -0x1.077778p-6f,
                                               -0x1.789832p-9f, -0x1.6d5332p-12f, -0x1.d51bc2p-16f, -0x1.1665ccp-19f},
                                              {-0x1.988456p-2f, -0x1.42596p-10f, 0x1.9dce38p-5f, 0x1.50edc6p-6f,
                                               0x1.44b064p-8f, 0x1.903f4cp-11f, 0x1.3b7b82p-14f, 0x1.b80466p-18f},
                                              {0x1.8106d8p-20f, 0x1.1b1ccap-4f, -0x1.5af94ap-7f, -0x1.bc8874p-7f,
                                               -0x1.41f67p-8f, -0x1.08841ap-10f, -0x1.0710d6p-13f, -0x1.b60edap-17f},
                                              {0x1.119ecp-4f, -0x1.27015ap-5f, -0x1.39cc04p-7f, 0x1.e7e62ep-9f,
                                               0x1.7f7d7ap-9f, 0x1.cc90a8p-11f, 0x1.2d7a12p-13f, 0x1.32511p-16f},
                                              {0x1.b929b8p-14f, 0x1.8955ep-13f, 0x1.dc4ca8p-8f, 0x1.00a3e6p-10f,
                                               -0x1.d41cep-11f, -0x1.0a26bcp-11f, -0x1.ef3e46p-14f, -0x1.3d1914p-16f},
                                              {-0x1.593228p-7f, 0x1.572424p-8f, -0x1.78a516p-10f, -0x1.2c86b2p-10f,
                                               -0x1.c97468p-15f, 0x1.6be08ep-13f, 0x1.202cd6p-14f, 0x1.f2d522p-17f},
                                              {0x1.24457p-11f, -0x1.d35626p-10f, -0x1.eb22ecp-12f, 0x1.68ec8ep-12f,
                                               0x1.568406p-13f, -0x1.71dbd6p-16f, -0x1.f541bcp-16f, -0x1.178042p-17f},
                                              {0x1.b2d61ep-11f, -0x1.c912c2p-11f, 0x1.2d292p-12f, 0x1.305c7ep-14f,
                                               -0x1.d73fcap-15f, -0x1.156028p-15f, 0x1.07bdb4p-19f, 0x1.4608f8p-18f}};
};

// (t - tanh t) / t^3: 0.31 ULP at most
template <>
struct Pieces<Tanhshrink<float>> : Tabulated<false, false> {
  static constexpr float most = 0x1p3f, linear = 0x1.a66666p0f, quadratic = -0x1.6cdd2ep-4f;
  static constexpr float points[8] = {0x1.8p-3f,   0x1.4e2p-1f, 0x1.5a58p0f, 0x1.0ceep1f,
                                      0x1.762ap1f, 0x1.f3ap1f,  0x1.450cp2f, 0x1.bd52p2f};
  static constexpr float coefficients[][8] = {{0x1.5099c6p-2f, 0x1.23bc4ep-2f, 0x1.8b7718p-3f, 0x1.f347f2p-4f,
                                               0x1.3c5054p-4f, 0x1.900a62p-5f, 0x1.fe1d9cp-6f, 0x1.21c4f4p-6f},
                                              {-0x1.8e2ff4p-5f, -0x1.0352fcp-3f, -0x1.e8334ap-4f, -0x1.28eecap-4f,
                                               -0x1.450efap-5f, -0x1.53dfd6p-6f, -0x1.608d18p-7f, -0x1.31334p-8f},
                                              {-0x1.f51f4ep-4f, -0x1.479dbep-5f, 0x1.f7eef2p-6f, 0x1.b649e8p-6f,
                                               0x1.ccf946p-7f, 0x1.a083bcp-8f, 0x1.6684c2p-9f, 0x1.de2412p-11f},
                                              {0x1.34e00cp-5f, 0x1.f92db2p-5f, 0x1.0d5328p-7f, -0x1.81ba08p-8f,
                                               -0x1.ff2208p-9f, -0x1.adc0ep-10f, -0x1.3c0f96p-11f, -0x1.4991fap-13f},
                                              {0x1.61a68ap-5f, -0x1.ca84acp-7f, -0x1.94a4b6p-7f, -0x1.2b268ep-12f,
                                               0x1.a3204ap-11f, 0x1.8047aap-12f, 0x1.f94dc8p-14f, 0x1.a4508p-16f},
                                              {-0x1.60598ap-6f, -0x1.ee157ap-7f, 0x1.833078p-8f, 0x1.0e451cp-10f,
                                               -0x1.2a192cp-14f, -0x1.2370f6p-14f, -0x1.721ecap-16f, -0x1.f8df06p-19f},
                                              {-0x1.c93f68p-7f, 0x1.6323a6p-7f, -0x1.618278p-11f, -0x1.3aa5a2p-11f,
                                               -0x1.47d494p-15f, 0x1.46c5aap-17f, 0x1.f553b2p-19f, 0x1.3052acp-21f},
                                              {0x1.35e70cp-7f, 0x1.c2c95ap-11f, -0x1.2d00e8p-10f, 0x1.c32a46p-13f,
                                               0x1.e9ae94p-16f, 0x1.5c8d46p-26f, -0x1.3eeaa4p-21f, -0x1.74420ep-24f}};
};

}  // namespace
}  // namespace fastact
