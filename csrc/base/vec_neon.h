// Vectors of 128 bits for 64-bit Arm: NEON. The members are described in base/vec_portable.h. Tested under
// emulation (tests/test_ctc_header.py), not yet timed on a machine.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace ctcspeech {
namespace {

struct NeonFloat {
  using Real = float;
  static constexpr int W = 4, kTableSize = 0, kSmallTable = 0;
  float32x4_t v;

  static NeonFloat load(const float* p) { return {vld1q_f32(p)}; }
  static NeonFloat loadu(const float* p) { return {vld1q_f32(p)}; }
  static NeonFloat load_some(const float* p, int count, float fill) {
    float lanes[W] = {fill, fill, fill, fill};
    std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
    return {vld1q_f32(lanes)};
  }
  static NeonFloat keep_some(NeonFloat a, int count) {  // the others zero
    static constexpr uint32_t kKept[2 * W] = {~0u, ~0u, ~0u, ~0u, 0, 0, 0, 0};
    return {vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_f32(a.v), vld1q_u32(kKept + W - count)))};
  }
  void store(float* p) const { vst1q_f32(p, v); }
  void storeu(float* p) const { vst1q_f32(p, v); }
  void store_some(float* p, int count) const {
    float lanes[W];
    vst1q_f32(lanes, v);
    std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
  }
  static NeonFloat set(float x) { return {vdupq_n_f32(x)}; }
  static NeonFloat add(NeonFloat a, NeonFloat b) { return {vaddq_f32(a.v, b.v)}; }
  static NeonFloat sub(NeonFloat a, NeonFloat b) { return {vsubq_f32(a.v, b.v)}; }
  static NeonFloat mul(NeonFloat a, NeonFloat b) { return {vmulq_f32(a.v, b.v)}; }
  static NeonFloat div(NeonFloat a, NeonFloat b) { return {vdivq_f32(a.v, b.v)}; }
  static NeonFloat fma(NeonFloat a, NeonFloat b, NeonFloat c) {
    return {vfmaq_f32(c.v, a.v, b.v)};
  }
  // Not vmaxq_f32, which gives NaN where either is NaN.
  static NeonFloat max(NeonFloat a, NeonFloat b) { return select(vcgtq_f32(a.v, b.v), a, b); }
  static NeonFloat min(NeonFloat a, NeonFloat b) { return select(vcltq_f32(a.v, b.v), a, b); }
  static NeonFloat shift_up(NeonFloat a, NeonFloat before) {
    return {vextq_f32(before.v, a.v, 3)};
  }
  static NeonFloat shift_down(NeonFloat a, NeonFloat after) {
    return {vextq_f32(a.v, after.v, 1)};
  }
  float largest() const { return vmaxnmvq_f32(v); }
  float sum() const { return vaddvq_f32(v); }

  using Mask = uint32x4_t;
  static constexpr int kMaskBytes = 16;
  static void store_mask(char* p, const bool* lanes) {
    uint32_t bits[W];
    for (int i = 0; i < W; ++i) bits[i] = lanes[i] ? ~uint32_t{0} : 0;
    std::memcpy(p, bits, sizeof(bits));
  }
  static Mask load_mask(const char* p) {
    return vreinterpretq_u32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
  }
  static NeonFloat select(Mask m, NeonFloat a, NeonFloat b) { return {vbslq_f32(m, a.v, b.v)}; }

  static NeonFloat round(NeonFloat a) { return {vrndnq_f32(a.v)}; }
  static NeonFloat scale2(NeonFloat x, NeonFloat n) {
    const int32x4_t exponent =  // of NaN: 127
        vaddq_s32(vcvtq_s32_f32(max(n, set(-150)).v), vdupq_n_s32(127));
    const int32x4_t power = vshlq_n_s32(vmaxq_s32(exponent, vdupq_n_s32(0)), 23);
    return {vmulq_f32(x.v, vreinterpretq_f32_s32(power))};
  }
  static void transpose(NeonFloat* r) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0].v, r[1].v));  // 00 10 02 12
    const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(r[0].v, r[1].v));  // 01 11 03 13
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2].v, r[3].v));
    const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(r[2].v, r[3].v));
    r[0].v = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1].v = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2].v = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3].v = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
  }
};

struct NeonDouble {
  using Real = double;
  static constexpr int W = 2, kSmallTable = 0;
  float64x2_t v;

  static NeonDouble load(const double* p) { return {vld1q_f64(p)}; }
  static NeonDouble loadu(const double* p) { return {vld1q_f64(p)}; }
  static NeonDouble load_some(const double* p, int count, double fill) {
    double lanes[W] = {fill, fill};
    std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(double));
    return {vld1q_f64(lanes)};
  }
  void store(double* p) const { vst1q_f64(p, v); }
  void storeu(double* p) const { vst1q_f64(p, v); }
  void store_some(double* p, int count) const {
    double lanes[W];
    vst1q_f64(lanes, v);
    std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(double));
  }
  static NeonDouble set(double x) { return {vdupq_n_f64(x)}; }
  static NeonDouble add(NeonDouble a, NeonDouble b) { return {vaddq_f64(a.v, b.v)}; }
  static NeonDouble sub(NeonDouble a, NeonDouble b) { return {vsubq_f64(a.v, b.v)}; }
  static NeonDouble mul(NeonDouble a, NeonDouble b) { return {vmulq_f64(a.v, b.v)}; }
  static NeonDouble fma(NeonDouble a, NeonDouble b, NeonDouble c) {
    return {vfmaq_f64(c.v, a.v, b.v)};
  }
  static NeonDouble max(NeonDouble a, NeonDouble b) { return select(vcgtq_f64(a.v, b.v), a, b); }
  static NeonDouble min(NeonDouble a, NeonDouble b) { return select(vcltq_f64(a.v, b.v), a, b); }
  static NeonDouble shift_up(NeonDouble a, NeonDouble before) {
    return {vextq_f64(before.v, a.v, 1)};
  }
  static NeonDouble shift_down(NeonDouble a, NeonDouble after) {
    return {vextq_f64(a.v, after.v, 1)};
  }
  double largest() const { return vmaxnmvq_f64(v); }
  double sum() const { return vaddvq_f64(v); }

  using Mask = uint64x2_t;
  static constexpr int kMaskBytes = 16;
  static void store_mask(char* p, const bool* lanes) {
    const uint64_t bits[W] = {lanes[0] ? ~uint64_t{0} : 0, lanes[1] ? ~uint64_t{0} : 0};
    std::memcpy(p, bits, sizeof(bits));
  }
  static Mask load_mask(const char* p) {
    return vreinterpretq_u64_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
  }
  static NeonDouble select(Mask m, NeonDouble a, NeonDouble b) {
    return {vbslq_f64(m, a.v, b.v)};
  }

  static NeonDouble round(NeonDouble a) { return {vrndnq_f64(a.v)}; }
  static NeonDouble pow2(NeonDouble n) {
    const int64x2_t exponent = vcvtq_s64_f64(max(n, set(-1023)).v);
    return {vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(exponent, vdupq_n_s64(1023)), 52))};
  }
  static NeonDouble split(NeonDouble x, NeonDouble& exponent) {
    const uint64x2_t bits = vreinterpretq_u64_f64(x.v);
    exponent = sub({vcvtq_f64_u64(vshrq_n_u64(bits, 52))}, set(1023));
    const uint64x2_t mantissa = vandq_u64(bits, vdupq_n_u64(0x000fffffffffffffULL));
    return {vreinterpretq_f64_u64(vorrq_u64(mantissa, vdupq_n_u64(0x3ff0000000000000ULL)))};
  }
};

}  // namespace
}  // namespace ctcspeech
