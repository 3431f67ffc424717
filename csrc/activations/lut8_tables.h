// Written by lut8_tables.py, which says how.
#pragma once

#include "activations/lowp.h"
#include "activations/self_gated.h"
#include "activations/shrinkage.h"
#include "activations/sigmoids.h"
#include "activations/softplus.h"
#include "math/lut8.h"

namespace fastact {
namespace {

// tanh t: 0.16 ULP at most
template <>
struct Lut8<Tanh<float>> : Lut8Form<false, false> {
  static constexpr float most = 0x1.20a3d8p3f;
  static constexpr float linear = 0x1.a66666p0f, quadratic = -0x1.73bd46p-4f;
  static constexpr float centres[8] = {0x0p0f,     0x1.4c3p-1f, 0x1.5494p0f, 0x1.074ap1f,
                                       0x1.73bp1f, 0x1.ece4p1f, 0x1.4506p2f, 0x1.d87p2f};
  static constexpr float coefficients[][8] = {{0x0p0f, 0x1.24484cp-1f, 0x1.bd1a86p-1f, 0x1.ef8868p-1f, 0x1.fceebap-1f,
                                               0x1.ff8984p-1f, 0x1.fff5d4p-1f, 0x1.ffffe6p-1f},
                                              {0x1p0f, 0x1.59257ep-1f, 0x1.f4358cp-3f, 0x1.033cd6p-4f, 0x1.8775e6p-7f,
                                               0x1.d9b934p-10f, 0x1.457cccp-13f, 0x1.9f5a9ap-20f},
                                              {-0x1.524c92p-23f, -0x1.8a107ap-2f, -0x1.b2da76p-3f, -0x1.f5cc48p-5f,
                                               -0x1.851d9ep-7f, -0x1.d94cf8p-10f, -0x1.457cd6p-13f, -0x1.a5b334p-20f},
                                              {-0x1.5552d2p-2f, -0x1.48ee8p-8f, 0x1.a69ba8p-4f, 0x1.38d54ap-5f,
                                               0x1.004c12p-7f, 0x1.3af444p-10f, 0x1.b1e6cep-14f, 0x1.18aac2p-20f},
                                              {-0x1.945ce2p-13f, 0x1.0cb26ep-3f, -0x1.35ee26p-6f, -0x1.0f2a68p-6f,
                                               -0x1.f42b8ap-9f, -0x1.399646p-11f, -0x1.b09d8cp-15f, -0x1.f80076p-22f},
                                              {0x1.14a602p-3f, -0x1.dcb55ap-5f, -0x1.9ba09p-7f, 0x1.3385fep-8f,
                                               0x1.7c9d0ap-10f, 0x1.f2c924p-13f, 0x1.5a334ap-16f, 0x1.99b58cp-23f},
                                              {-0x1.f4e74ep-8f, -0x1.494ca8p-6f, 0x1.98c87cp-7f, -0x1.243f32p-12f,
                                               -0x1.cc1086p-12f, -0x1.52e49cp-14f, -0x1.ed1beap-18f, -0x1.a5be86p-24f},
                                              {-0x1.47b08p-5f, 0x1.c6d4c6p-6f, -0x1.27a68ep-8f, -0x1.13413ep-11f,
                                               0x1.92037ep-14f, 0x1.69ca36p-16f, 0x1.1553c6p-19f, 0x1.d2dbe2p-26f}};
};

// (t - tanh t) / t^3: 0.30 ULP at most
template <>
struct Lut8<Tanhshrink<float>> : Lut8Form<false, false> {
  static constexpr float most = 0x1p3f;
  static constexpr float linear = 0x1.a66666p0f, quadratic = -0x1.6cdd2ep-4f;
  static constexpr float centres[8] = {0x1.8p-3f,   0x1.4e2p-1f, 0x1.5a58p0f, 0x1.0ceep1f,
                                       0x1.762ap1f, 0x1.f3ap1f,  0x1.450cp2f, 0x1.bd52p2f};
  static constexpr float coefficients[][8] = {{0x1.5099c6p-2f, 0x1.23bc4ep-2f, 0x1.8b7718p-3f, 0x1.f347f2p-4f,
                                               0x1.3c5054p-4f, 0x1.900a62p-5f, 0x1.fe1d9cp-6f, 0x1.21c4f4p-6f},
                                              {-0x1.8e2ff4p-5f, -0x1.0352fcp-3f, -0x1.e8334ap-4f, -0x1.28eecap-4f,
                                               -0x1.450efap-5f, -0x1.53dfd6p-6f, -0x1.608d18p-7f, -0x1.31334p-8f},
                                              {-0x1.f51f4ep-4f, -0x1.479db6p-5f, 0x1.f7eee4p-6f, 0x1.b649f6p-6f,
                                               0x1.ccf94ap-7f, 0x1.a083bcp-8f, 0x1.6684bep-9f, 0x1.de241p-11f},
                                              {0x1.34e014p-5f, 0x1.f92dc6p-5f, 0x1.0d5382p-7f, -0x1.81b9d2p-8f,
                                               -0x1.ff21f2p-9f, -0x1.adc0a6p-10f, -0x1.3c0f86p-11f, -0x1.4992p-13f},
                                              {0x1.61a6f2p-5f, -0x1.ca8856p-7f, -0x1.94a29p-7f, -0x1.2b7596p-12f,
                                               0x1.a31c1ep-11f, 0x1.8046d2p-12f, 0x1.f95158p-14f, 0x1.a45122p-16f},
                                              {-0x1.605b58p-6f, -0x1.ee1eb2p-7f, 0x1.8325bep-8f, 0x1.0e2a2ep-10f,
                                               -0x1.2a4c7ap-14f, -0x1.2396eep-14f, -0x1.722a52p-16f, -0x1.f8db3cp-19f},
                                              {-0x1.c9bbccp-7f, 0x1.633ce6p-7f, -0x1.622c88p-11f, -0x1.39d1d6p-11f,
                                               -0x1.46cceep-15f, 0x1.4756bcp-17f, 0x1.f49fdp-19f, 0x1.30469ep-21f},
                                              {0x1.34407cp-7f, 0x1.c6d4c4p-11f, -0x1.2c763cp-10f, 0x1.c8b83ep-13f,
                                               0x1.ed248ap-16f, 0x1.dcec1ep-24f, -0x1.3d4a8p-21f, -0x1.748acep-24f}};
};

// (tanh t / t)^2: 0.88 ULP at most
template <>
struct Lut8<Derivative<Tanhshrink<float>>> : Lut8Form<false, false> {
  static constexpr float most = 0x1.20a3d8p3f;
  static constexpr float linear = 0x1.4p0f, quadratic = -0x1.7c327ap-5f;
  static constexpr float centres[8] = {0x1.8dep-3f, 0x1.a18p-1f, 0x1.b5b4p0f, 0x1.5754p1f,
                                       0x1.dd98p1f, 0x1.39d2p2f, 0x1.91c4p2f, 0x1.01378p3f};
  static constexpr float coefficients[][8] = {{0x1.f3632ap-1f, 0x1.5c51d2p-1f, 0x1.334a1cp-2f, 0x1.17624ap-3f,
                                               0x1.2589d8p-4f, 0x1.54a322p-5f, 0x1.9fbf02p-6f, 0x1.fb2ac6p-7f},
                                              {-0x1.fc75f8p-3f, -0x1.1f157ep-1f, -0x1.16e8f8p-2f, -0x1.8bb8a2p-4f,
                                               -0x1.37fcf2p-5f, -0x1.15936cp-6f, -0x1.08e27ep-7f, -0x1.f8c424p-9f},
                                              {-0x1.2b9c9ep-1f, 0x1.db4da4p-5f, 0x1.2df55p-3f, 0x1.89bd76p-5f,
                                               0x1.e97c98p-7f, 0x1.5253ecp-8f, 0x1.fa2442p-10f, 0x1.78c6fcp-11f},
                                              {0x1.108c38p-2f, 0x1.cf1b5ep-3f, -0x1.7a40bcp-5f, -0x1.3a7ba4p-6f,
                                               -0x1.4b2ea8p-8f, -0x1.6c1102p-10f, -0x1.ad6c22p-12f, -0x1.f3f3aep-14f},
                                              {0x1.1a1fe2p-2f, -0x1.5d67ap-3f, -0x1.d8a2dap-10f, 0x1.9350dp-8f,
                                               0x1.9070a8p-10f, 0x1.6a55ep-12f, 0x1.54a21ep-14f, 0x1.36c202p-16f},
                                              {-0x1.8a068ep-3f, 0x1.262f3ap-7f, 0x1.a07c4ap-7f, -0x1.74e8dcp-10f,
                                               -0x1.b1d026p-12f, -0x1.5313fep-14f, -0x1.024f8ep-16f, -0x1.72dc2p-19f},
                                              {-0x1.ab9dcp-4f, 0x1.031d92p-4f, -0x1.25df2ap-7f, 0x1.de4076p-15f,
                                               0x1.a25d4cp-14f, 0x1.329ffcp-16f, 0x1.8543fep-19f, 0x1.be4088p-22f},
                                              {0x1.c6fd1ap-4f, -0x1.2517fep-5f, 0x1.9ca04p-9f, 0x1.243a28p-13f,
                                               -0x1.3ffcd4p-16f, -0x1.e8bad8p-19f, -0x1.0d51d4p-21f, -0x1.f94f6cp-25f}};
};

// -f(-t): 0.17 ULP at most, down to x = -4.9
template <>
struct Lut8<GELU<float>> : Lut8Form<true, true> {
  static constexpr float least = -0x1.39999ap2f, most = 0x1.566666p2f;
  static constexpr float linear = 0x1.8p-1f, quadratic = 0x1.f2eecep-4f;
  static constexpr float centres[8] = {0x0p0f,      0x1.6574p0f, 0x1.2032p1f, 0x1.7c0cp1f,
                                       0x1.d14cp1f, 0x1.0dbbp2f, 0x1.2ff8p2f, 0x1.5181p2f};
  static constexpr float coefficients[][8] = {{0x0p0f, 0x1.d10b06p-4f, 0x1.c12a42p-6f, 0x1.2291eap-8f, 0x1.08c296p-11f,
                                               0x1.ba701cp-15f, 0x1.44f688p-18f, 0x1.7af26ap-22f},
                                              {0x1p-1f, -0x1.07db8ap-3f, -0x1.e3ab08p-5f, -0x1.a7e27cp-7f,
                                               -0x1.dd172cp-10f, -0x1.cfd05p-13f, -0x1.80983ap-16f, -0x1.f27cd8p-20f},
                                              {-0x1.988456p-2f, -0x1.f08efep-9f, 0x1.8daac6p-5f, 0x1.0f56eap-6f,
                                               0x1.8c0918p-9f, 0x1.ca3416p-12f, 0x1.b2ae4cp-15f, 0x1.3bf49cp-18f},
                                              {0x1.96bb18p-20f, 0x1.26252cp-4f, -0x1.9fea3ep-7f, -0x1.7b7d38p-7f,
                                               -0x1.8a4b96p-9f, -0x1.190378p-11f, -0x1.369cc4p-14f, -0x1.002ea6p-17f},
                                              {0x1.10445p-4f, -0x1.2c5092p-5f, -0x1.f3cdc8p-8f, 0x1.09785p-8f,
                                               0x1.fae1c8p-10f, 0x1.d8cbap-12f, 0x1.38b712p-14f, 0x1.29357ap-17f},
                                              {0x1.d7eb8ep-14f, -0x1.429e0ep-11f, 0x1.d4ce42p-8f, 0x1.402e2ep-13f,
                                               -0x1.948adcp-11f, -0x1.1a1a64p-12f, -0x1.d279cap-15f, -0x1.04f44cp-17f},
                                              {-0x1.525538p-7f, 0x1.7cc714p-8f, -0x1.da7624p-10f, -0x1.b7759ap-11f,
                                               0x1.04039ap-13f, 0x1.ccfa08p-14f, 0x1.06da32p-15f, 0x1.6be34ep-18f},
                                              {0x1.2ed238p-11f, -0x1.693736p-10f, -0x1.dd556ap-12f, 0x1.c380b2p-12f,
                                               0x1.58532cp-15f, -0x1.0d74ccp-15f, -0x1.b1d3cp-17f, -0x1.53d832p-19f},
                                              {0x1.928b1ep-11f, -0x1.aceb0ep-11f, 0x1.4e415cp-12f, 0x1.376c62p-15f,
                                               -0x1.ff2f4cp-15f, -0x1.0783fap-17f, 0x1.18b91cp-18f, 0x1.f7cdc6p-20f}};
};

// f'(-t): 0.57 ULP at most, down to x = -4.9
template <>
struct Lut8<Derivative<GELU<float>>> : Lut8Form<false, true> {
  static constexpr float least = -0x1.39999ap2f, most = 0x1.7b851ep2f;
  static constexpr float linear = 0x1p0f, quadratic = 0x1.6d837ep-5f;
  static constexpr float centres[8] = {0x1.777p-2f, 0x1.80ead2p-1f, 0x1.04dep1f, 0x1.6edcp1f,
                                       0x1.d17ep1f, 0x1.18a9p2f,    0x1.44a2p2f, 0x1.7081p2f};
  static constexpr float coefficients[][8] = {{0x1.c2f03ep-3f, -0x1.6737d8p-28f, -0x1.4c4e9ep-4f, -0x1.122ee8p-6f,
                                               -0x1.daadc6p-10f, -0x1.d10e54p-14f, -0x1.524b4p-18f, -0x1.2ebd76p-23f},
                                              {-0x1.644a3p-1f, -0x1.b9d99p-2f, 0x1.b90e2ep-4f, 0x1.4e292p-5f,
                                               0x1.8a3bfp-8f, 0x1.e0b06ep-12f, 0x1.9b0f42p-16f, 0x1.a5ddeap-21f},
                                              {0x1.0eabep-2f, 0x1.8d9a94p-2f, -0x1.005b7ap-7f, -0x1.44c0dep-5f,
                                               -0x1.269046p-7f, -0x1.d1d344p-11f, -0x1.dd5434p-15f, -0x1.1c239cp-19f},
                                              {0x1.87c9fep-3f, 0x1.2a378ep-6f, -0x1.0b070ap-4f, 0x1.f50228p-7f,
                                               0x1.f9544ap-8f, 0x1.160dd2p-10f, 0x1.5eb4e2p-14f, 0x1.eb7ca8p-19f},
                                              {-0x1.8206bp-4f, -0x1.d2fd0ep-4f, 0x1.6b08p-5f, 0x1.f58f3ep-9f,
                                               -0x1.f8cfbep-9f, -0x1.c14e4cp-11f, -0x1.6b588p-14f, -0x1.31918ep-18f},
                                              {-0x1.25a06p-5f, 0x1.e2a706p-7f, -0x1.1f9e6ap-8f, -0x1.bdb784p-8f,
                                               0x1.904396p-11f, 0x1.f5a40cp-12f, 0x1.172722p-14f, 0x1.217604p-18f},
                                              {0x1.38e7d4p-6f, 0x1.3fb626p-6f, -0x1.cd220cp-8f, 0x1.6a4254p-9f,
                                               0x1.79dad4p-12f, -0x1.6a8086p-13f, -0x1.43bb02p-15f, -0x1.b0571ap-19f},
                                              {0x1.39ce74p-7f, -0x1.1e527cp-8f, 0x1.7669b2p-9f, -0x1.5ed66ap-14f,
                                               -0x1.57e18p-12f, 0x1.ae752ep-16f, 0x1.17a7d4p-16f, 0x1.03968ap-19f},
                                              {0x1.61d748p-6f, -0x1.7813a2p-9f, 0x1.54a152p-13f, -0x1.f99c2p-12f,
                                               0x1.2a21cp-13f, 0x1.3986a8p-17f, -0x1.5c818p-18f, -0x1.b7d8eap-21f},
                                              {0x1.c72a12p-6f, 0x1.525a82p-10f, -0x1.f61038p-12f, 0x1.364d08p-15f,
                                               0x1.478b66p-15f, -0x1.cc7aeep-17f, 0x1.dca4bcp-24f, 0x1.1385d4p-21f}};
};

// -f(-t): 0.14 ULP at most, down to x = -4.9
template <>
struct Lut8<GELUTanh<float>> : Lut8Form<true, true> {
  static constexpr float least = -0x1.39999ap2f, most = 0x1.41eb86p2f;
  static constexpr float linear = 0x1.666666p-1f, quadratic = 0x1.42008ap-3f;
  static constexpr float centres[8] = {0x0p0f,      0x1.7b3cp0f, 0x1.21a8p1f, 0x1.74d6p1f,
                                       0x1.c00cp1f, 0x1.01cap2f, 0x1.2091p2f, 0x1.3eebp2f};
  static constexpr float coefficients[][8] = {{0x0p0f, 0x1.a51ce8p-4f, 0x1.b11966p-6f, 0x1.3908dp-8f, 0x1.4299a6p-11f,
                                               0x1.01ab24p-14f, 0x1.47b676p-18f, 0x1.13bac4p-22f},
                                              {0x1p-1f, -0x1.0697c4p-3f, -0x1.e0710ep-5f, -0x1.df6b52p-7f,
                                               -0x1.3d217p-9f, -0x1.3685c8p-12f, -0x1.d51bc2p-16f, -0x1.ce936p-20f},
                                              {-0x1.988456p-2f, 0x1.8a0422p-7f, 0x1.8f1514p-5f, 0x1.390cp-6f,
                                               0x1.17d5b2p-8f, 0x1.5972c2p-11f, 0x1.3b7b8p-14f, 0x1.7149e4p-18f},
                                              {0x1.98b364p-20f, 0x1.e55592p-5f, -0x1.95f4dcp-7f, -0x1.aa4df8p-7f,
                                               -0x1.1d9c48p-8f, -0x1.d0bedp-11f, -0x1.0710d4p-13f, -0x1.73b8cp-17f},
                                              {0x1.119d32p-4f, -0x1.237672p-5f, -0x1.fbbfep-8f, 0x1.fc788cp-9f,
                                               0x1.62868ep-9f, 0x1.9d6fp-11f, 0x1.2d7afcp-13f, 0x1.0721bp-16f},
                                              {0x1.df25cap-14f, 0x1.237ed2p-9f, 0x1.bdc93ap-8f, 0x1.84bb28p-11f,
                                               -0x1.d77f12p-11f, -0x1.ec5cfap-12f, -0x1.ef308ep-14f, -0x1.13c65cp-16f},
                                              {-0x1.5a09ecp-7f, 0x1.1f0df4p-8f, -0x1.980f24p-10f, -0x1.11655ep-10f,
                                               0x1.cf2d74p-19f, 0x1.61d478p-13f, 0x1.2050bap-14f, 0x1.be0566p-17f},
                                              {0x1.365b06p-11f, -0x1.1b4d78p-9f, -0x1.429f6p-12f, 0x1.90fc08p-12f,
                                               0x1.395276p-13f, -0x1.d129a6p-16f, -0x1.f4d79ap-16f, -0x1.e18f0ap-18f},
                                              {0x1.a993a2p-11f, -0x1.b77c8ep-11f, 0x1.429d16p-12f, 0x1.537f2ep-14f,
                                               -0x1.afaa0cp-15f, -0x1.fb17bep-16f, 0x1.064c24p-19f, 0x1.46e5ecp-18f}};
};

// f'(-t): 0.34 ULP at most, down to x = -4.9
template <>
struct Lut8<Derivative<GELUTanh<float>>> : Lut8Form<false, true> {
  static constexpr float least = -0x1.39999ap2f, most = 0x1.6p2f;
  static constexpr float linear = 0x1p0f, quadratic = 0x1.0eacacp-4f;
  static constexpr float centres[8] = {0x1.69ap-2f, 0x1.8142ap-1f, 0x1.ff5p0f,  0x1.60bp1f,
                                       0x1.ba08p1f, 0x1.07dfp2f,   0x1.3044p2f, 0x1.5639p2f};
  static constexpr float coefficients[][8] = {{0x1.d65d14p-3f, -0x1.4f6404p-28f, -0x1.61d95ep-4f, -0x1.630d08p-6f,
                                               -0x1.75abdep-9f, -0x1.937d76p-13f, -0x1.d7401ep-18f, -0x1.37308ap-23f},
                                              {-0x1.67afa4p-1f, -0x1.b8baccp-2f, 0x1.b9c97p-4f, 0x1.a68268p-5f,
                                               0x1.42837ap-7f, 0x1.d2b344p-11f, 0x1.5aee7ep-15f, 0x1.18e104p-20f},
                                              {0x1.0780c4p-2f, 0x1.8cd1a2p-2f, 0x1.c40772p-9f, -0x1.750d2cp-5f,
                                               -0x1.e059fap-7f, -0x1.ec746p-10f, -0x1.df842ap-14f, -0x1.e40c42p-19f},
                                              {0x1.91bbdep-3f, 0x1.02908ep-6f, -0x1.28e2a8p-4f, 0x1.76c464p-7f,
                                               0x1.7e2bd6p-7f, 0x1.344f56p-9f, 0x1.9a377ep-13f, 0x1.07ecap-17f},
                                              {-0x1.7f30c4p-4f, -0x1.d2b52ap-4f, 0x1.5c4ffcp-5f, 0x1.3888b4p-7f,
                                               -0x1.2499ccp-8f, -0x1.ed1ebap-10f, -0x1.e0e93cp-13f, -0x1.96af04p-17f},
                                              {-0x1.2e9882p-5f, 0x1.10c5c4p-6f, -0x1.270904p-9f, -0x1.1416bcp-7f,
                                               -0x1.39431p-12f, 0x1.e668f8p-11f, 0x1.91a57p-13f, 0x1.d36b64p-17f},
                                              {0x1.63bcf2p-6f, 0x1.41633ap-6f, -0x1.b8eac4p-8f, 0x1.05dd96p-9f,
                                               0x1.2cec8p-10f, -0x1.a2f2bcp-13f, -0x1.da77e6p-14f, -0x1.9b3142p-17f},
                                              {-0x1.b871a6p-9f, -0x1.62b9eep-8f, 0x1.467f32p-9f, 0x1.c3d172p-12f,
                                               -0x1.e91608p-12f, -0x1.13d494p-14f, 0x1.6a829ap-15f, 0x1.15bc26p-17f},
                                              {-0x1.76b7a2p-5f, -0x1.f7e014p-10f, 0x1.0846e2p-17f, -0x1.d31fb8p-12f,
                                               -0x1.a030acp-19f, 0x1.48388ap-14f, -0x1.262e1ap-17f, -0x1.199a1ap-18f},
                                              {-0x1.a91cap-5f, 0x1.70d8f4p-11f, -0x1.d4cfa2p-12f, -0x1.1d9748p-15f,
                                               0x1.4e1b2p-15f, -0x1.25cbeap-18f, -0x1.05486ap-17f, 0x1.ac4f38p-20f}};
};

// log(1 + e^-t): 0.47 ULP at most, down to x = -12.5
template <>
struct Lut8<UnitSoftplus<float>> : Lut8Form<false, true> {
  static constexpr float least = -0x1.9p3f, most = 0x1.ep3f;
  static constexpr float linear = 0x1.19999ap-1f, quadratic = -0x1.b57d44p-9f;
  static constexpr float centres[8] = {0x1.282p-1f, 0x1.1004p1f, 0x1.0001p2f, 0x1.7cbdp2f,
                                       0x1.fb22p2f, 0x1.3f74p3f, 0x1.8234p3f, 0x1.c81ap3f};
  static constexpr float coefficients[][8] = {{0x1.c7e42cp-2f, 0x1.ce1114p-4f, 0x1.2959b6p-6f, 0x1.556feap-9f,
                                               0x1.7b7be8p-12f, 0x1.8365d2p-15f, 0x1.80e5acp-18f, 0x1.5a92bep-21f},
                                              {-0x1.6fee6cp-2f, -0x1.b4f502p-4f, -0x1.26ab1cp-6f, -0x1.54fe2ap-9f,
                                               -0x1.7b6a54p-12f, -0x1.836388p-15f, -0x1.80e564p-18f, -0x1.5a92bep-21f},
                                              {0x1.d7761cp-4f, 0x1.865798p-5f, 0x1.215e7ap-7f, 0x1.541b0ep-10f,
                                               0x1.7b4722p-13f, 0x1.835eep-16f, 0x1.80e4bap-19f, 0x1.5a92a4p-22f},
                                              {-0x1.61c20ep-7f, -0x1.9967bcp-7f, -0x1.73f2d4p-9f, -0x1.c31d86p-12f,
                                               -0x1.f95664p-15f, -0x1.0238f6p-17f, -0x1.00978cp-20f, -0x1.ce1608p-24f},
                                              {-0x1.df4b4cp-9f, 0x1.bdf8ep-10f, 0x1.58e4ccp-11f, 0x1.be6b6ap-14f,
                                               0x1.f8a2d4p-17f, 0x1.02320ap-19f, 0x1.009c6ep-22f, 0x1.ce1ee2p-26f},
                                              {0x1.f17b6p-11f, 0x1.73964p-14f, -0x1.d4bfd4p-14f, -0x1.5da13ap-16f,
                                               -0x1.929152p-19f, -0x1.9d0cp-22f, -0x1.9aa164p-25f, -0x1.722d7ap-28f},
                                              {0x1.2d4478p-13f, -0x1.b82806p-14f, 0x1.aa84bap-17f, 0x1.bdf918p-19f,
                                               0x1.0977p-21f, 0x1.116138p-24f, 0x1.0fc37ap-27f, 0x1.e94b2ep-31f},
                                              {-0x1.2820aep-14f, 0x1.773922p-16f, -0x1.9fc458p-23f, -0x1.d48998p-22f,
                                               -0x1.2d9fbep-24f, -0x1.3861dap-27f, -0x1.38180ep-30f, -0x1.0d71ecp-33f},
                                              {0x1.1302d4p-18f, 0x1.c77866p-19f, -0x1.39f92p-21f, 0x1.952d52p-25f,
                                               0x1.74f3b2p-27f, 0x1.9d74bp-30f, 0x1.9d26aap-33f, 0x1.9f190ap-36f}};
};

// f'(-t): 0.90 ULP at most, down to x = -12.6
template <>
struct Lut8<Derivative<SiLU<float>>> : Lut8Form<false, true> {
  static constexpr float least = -0x1.933334p3f, most = 0x1.4p4f;
  static constexpr float linear = 0x1.8p-1f, quadratic = -0x1.333dbp-6f;
  static constexpr float centres[8] = {0x1.008p-1f, 0x1.474974p0f, 0x1.a388p1f, 0x1.3d28p2f,
                                       0x1.b662p2f, 0x1.2362p3f,   0x1.7e94p3f, 0x1.22974p4f};
  static constexpr float coefficients[][8] = {{0x1.09d6bp-2f, -0x1.848b9ep-29f, -0x1.415ac8p-4f, -0x1.c158fcp-6f,
                                               -0x1.95565cp-8f, -0x1.d7bc1ap-11f, -0x1.272812p-14f, -0x1.dd6356p-23f},
                                              {-0x1.c398f6p-2f, -0x1.be141p-3f, 0x1.2a3916p-5f, 0x1.487554p-6f,
                                               0x1.4f19fcp-8f, 0x1.9d6cc8p-11f, 0x1.0c361cp-14f, 0x1.c10282p-23f},
                                              {0x1.c4f6bap-4f, 0x1.2c5628p-3f, 0x1.bb5e16p-9f, -0x1.97a3bcp-8f,
                                               -0x1.083afcp-9f, -0x1.63079p-12f, -0x1.e286b8p-16f, -0x1.af25cep-24f},
                                              {0x1.c5ed74p-5f, -0x1.353d02p-6f, -0x1.0b57eap-7f, 0x1.87e01ep-11f,
                                               0x1.00533ep-11f, 0x1.8b4e5p-14f, 0x1.1dbd38p-17f, 0x1.06d6e8p-25f},
                                              {-0x1.944a46p-6f, -0x1.f2c1bcp-7f, 0x1.c5c212p-9f, 0x1.589abp-13f,
                                               -0x1.3b92ecp-14f, -0x1.3ce14cp-16f, -0x1.f389p-20f, -0x1.783c4ep-28f},
                                              {-0x1.4f5e2ep-8f, 0x1.b08ee8p-8f, -0x1.8a6d7cp-11f, -0x1.c0694ap-14f,
                                               0x1.5beb4ep-18f, 0x1.7bc4ccp-19f, 0x1.568d9cp-22f, 0x1.d7acdp-30f},
                                              {0x1.095dc8p-8f, 0x1.f5416ap-14f, 0x1.583dfap-15f, 0x1.f7fe86p-16f,
                                               0x1.dab4d6p-21f, -0x1.4d172p-22f, -0x1.7b7cf6p-25f, -0x1.ede846p-32f},
                                              {0x1.219f52p-12f, -0x1.935f54p-11f, 0x1.baeef2p-16f, -0x1.a3fdfp-18f,
                                               -0x1.3da21cp-22f, 0x1.e73a5p-26f, 0x1.3e1fdcp-28f, -0x1.9e530ep-34f},
                                              {-0x1.0eca94p-11f, 0x1.8052c6p-13f, -0x1.8fe014p-16f, 0x1.aea254p-22f,
                                               0x1.666b3p-23f, 0x1.2c1618p-28f, -0x1.7b4e6cp-31f, -0x1.4a5636p-36f}};
};

// f'(-t): 0.94 ULP at most, down to x = -4.95
template <>
struct Lut8<Derivative<QuickGELU<float>>> : Lut8Form<false, true> {
  static constexpr float least = -0x1.3cccccp2f, most = 0x1.78p3f;
  static constexpr float linear = 0x1.451eb8p0f, quadratic = -0x1.b87a08p-5f;
  static constexpr float centres[8] = {0x1.248p-2f, 0x1.80974ap-1f, 0x1.f4ap0f,  0x1.77f8p1f,
                                       0x1.0283p2f, 0x1.5825p2f,    0x1.c3d4p2f, 0x1.5632p3f};
  static constexpr float coefficients[][8] = {{0x1.108d1ep-2f, 0x1.24d84cp-28f, -0x1.39c018p-4f, -0x1.b334acp-6f,
                                               -0x1.8d054ap-8f, -0x1.c4efd2p-11f, -0x1.176e1ap-14f, -0x1.cc59c8p-23f},
                                              {-0x1.8321bcp-1f, -0x1.7b9cdap-2f, 0x1.ff82c4p-5f, 0x1.100226p-5f,
                                               0x1.179624p-7f, 0x1.521462p-10f, 0x1.b06918p-14f, 0x1.7061cp-22f},
                                              {0x1.40a368p-2f, 0x1.b30214p-2f, 0x1.a02c2cp-8f, -0x1.227bbcp-6f,
                                               -0x1.77c956p-8f, -0x1.eeacbep-11f, -0x1.4b3b9ap-14f, -0x1.2cd2e4p-22f},
                                              {0x1.1f149p-2f, -0x1.7d2a6cp-4f, -0x1.2de732p-5f, 0x1.f4455ep-9f,
                                               0x1.37173ep-9f, 0x1.d572ccp-12f, 0x1.4e20cp-15f, 0x1.3a07ccp-23f},
                                              {-0x1.a14c64p-3f, -0x1.05955ep-3f, 0x1.c1ec22p-6f, 0x1.37f6cp-10f,
                                               -0x1.48192p-11f, -0x1.40febp-13f, -0x1.f1877ep-17f, -0x1.7dfd74p-25f},
                                              {-0x1.415f96p-4f, 0x1.8226b2p-4f, -0x1.59663cp-7f, -0x1.73a1cep-10f,
                                               0x1.3e36aap-14f, 0x1.48b8d2p-15f, 0x1.22d11ep-18f, 0x1.8b8a96p-26f},
                                              {0x1.8a9b2ep-4f, 0x1.7c8d9ap-9f, 0x1.3defdep-10f, 0x1.6828a8p-11f,
                                               0x1.4c70aap-16f, -0x1.ef4e92p-18f, -0x1.153af4p-20f, -0x1.75c108p-27f},
                                              {0x1.c2cbap-7f, -0x1.0519ep-5f, 0x1.7f6cacp-11f, -0x1.0511c4p-12f,
                                               -0x1.884ef8p-17f, 0x1.35ac94p-20f, 0x1.734f58p-23f, -0x1.072966p-28f},
                                              {-0x1.04991ap-5f, 0x1.a89fb4p-7f, -0x1.b2fa78p-10f, 0x1.fd3c7p-16f,
                                               0x1.7c2ec8p-17f, 0x1.25f54p-22f, -0x1.addbb2p-25f, -0x1.604046p-30f}};
};

template <>
struct Lut8<LogSigmoid<float>> : Lut8<UnitSoftplus<float>> {
  static constexpr bool mirrored = true;
};
template <>
struct Lut8<Derivative<lowp::SiLU>> : Lut8<Derivative<SiLU<float>>> {};
template <>
struct Lut8<Derivative<lowp::QuickGELU>> : Lut8<Derivative<QuickGELU<float>>> {};
template <>
struct Lut8<Derivative<lowp::GELUTanh>> : Lut8<Derivative<GELUTanh<float>>> {};

}  // namespace
}  // namespace fastact
