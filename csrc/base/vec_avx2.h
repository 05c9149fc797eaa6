// Vectors of 256 bits: AVX2 and FMA. The members are described in base/vec_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace ctcspeech {
namespace {

struct Avx2Float {
  using Real = float;
  static constexpr int W = 8, kTableSize = 0, kSmallTable = 0;
  __m256 v;

  static __m256i first_lanes(int count) {
    alignas(32) static constexpr int32_t kOnes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnes + 8 - count));
  }
  static Avx2Float load(const float* p) { return {_mm256_load_ps(p)}; }
  static Avx2Float loadu(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Avx2Float load_some(const float* p, int count, float fill) {
    const __m256i lanes = first_lanes(count);
    return {_mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, lanes),
                             _mm256_castsi256_ps(lanes))};
  }
  static Avx2Float keep_some(Avx2Float a, int count) {  // the others zero
    return {_mm256_and_ps(a.v, _mm256_castsi256_ps(first_lanes(count)))};
  }
  void store(float* p) const { _mm256_store_ps(p, v); }
  void storeu(float* p) const { _mm256_storeu_ps(p, v); }
  void store_some(float* p, int count) const { _mm256_maskstore_ps(p, first_lanes(count), v); }
  static Avx2Float set(float x) { return {_mm256_set1_ps(x)}; }
  static Avx2Float add(Avx2Float a, Avx2Float b) { return {_mm256_add_ps(a.v, b.v)}; }
  static Avx2Float sub(Avx2Float a, Avx2Float b) { return {_mm256_sub_ps(a.v, b.v)}; }
  static Avx2Float mul(Avx2Float a, Avx2Float b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Avx2Float div(Avx2Float a, Avx2Float b) { return {_mm256_div_ps(a.v, b.v)}; }
  static Avx2Float fma(Avx2Float a, Avx2Float b, Avx2Float c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
  }
  static Avx2Float max(Avx2Float a, Avx2Float b) { return {_mm256_max_ps(a.v, b.v)}; }
  static Avx2Float min(Avx2Float a, Avx2Float b) { return {_mm256_min_ps(a.v, b.v)}; }
  static Avx2Float shift_up(Avx2Float a, Avx2Float before) {
    const __m256 turned = _mm256_permutevar8x32_ps(a.v, _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6));
    const __m256 carry =
        _mm256_permutevar8x32_ps(before.v, _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6));
    return {_mm256_blend_ps(turned, carry, 0x01)};
  }
  static Avx2Float shift_down(Avx2Float a, Avx2Float after) {
    const __m256i index = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0);
    return {_mm256_permutevar8x32_ps(_mm256_blend_ps(a.v, after.v, 0x01), index)};
  }
  float largest() const {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
  }
  float sum() const {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
  }

  using Mask = __m256;
  static constexpr int kMaskBytes = 32;
  static void store_mask(char* p, const bool* lanes) {
    for (int i = 0; i < W; ++i) reinterpret_cast<int32_t*>(p)[i] = -static_cast<int32_t>(lanes[i]);
  }
  static Mask load_mask(const char* p) { return _mm256_load_ps(reinterpret_cast<const float*>(p)); }
  static Avx2Float select(Mask m, Avx2Float a, Avx2Float b) {
    return {_mm256_blendv_ps(b.v, a.v, m)};
  }

  static Avx2Float round(Avx2Float a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static Avx2Float scale2(Avx2Float x, Avx2Float n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    const __m256i normal = _mm256_cmpgt_epi32(exponent, _mm256_setzero_si256());
    const __m256i power = _mm256_and_si256(_mm256_slli_epi32(exponent, 23), normal);
    return {_mm256_mul_ps(x.v, _mm256_castsi256_ps(power))};
  }
  static void transpose(Avx2Float* r) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
      a[i] = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
      a[i + 1] = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
    }
    for (int i = 0; i < 8; i += 4) {
      b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
      b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
      b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
      b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
      r[i].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
      r[i + 4].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
  }
};

struct Avx2Double {
  using Real = double;
  static constexpr int W = 4, kSmallTable = 0;
  __m256d v;

  static __m256i first_lanes(int count) {
    alignas(32) static constexpr int64_t kOnes[8] = {-1, -1, -1, -1};
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnes + 4 - count));
  }
  static Avx2Double load(const double* p) { return {_mm256_load_pd(p)}; }
  static Avx2Double loadu(const double* p) { return {_mm256_loadu_pd(p)}; }
  static Avx2Double load_some(const double* p, int count, double fill) {
    const __m256i lanes = first_lanes(count);
    return {_mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_maskload_pd(p, lanes),
                             _mm256_castsi256_pd(lanes))};
  }
  void store(double* p) const { _mm256_store_pd(p, v); }
  void storeu(double* p) const { _mm256_storeu_pd(p, v); }
  void store_some(double* p, int count) const { _mm256_maskstore_pd(p, first_lanes(count), v); }
  static Avx2Double set(double x) { return {_mm256_set1_pd(x)}; }
  static Avx2Double add(Avx2Double a, Avx2Double b) { return {_mm256_add_pd(a.v, b.v)}; }
  static Avx2Double sub(Avx2Double a, Avx2Double b) { return {_mm256_sub_pd(a.v, b.v)}; }
  static Avx2Double mul(Avx2Double a, Avx2Double b) { return {_mm256_mul_pd(a.v, b.v)}; }
  static Avx2Double fma(Avx2Double a, Avx2Double b, Avx2Double c) {
    return {_mm256_fmadd_pd(a.v, b.v, c.v)};
  }
  static Avx2Double max(Avx2Double a, Avx2Double b) { return {_mm256_max_pd(a.v, b.v)}; }
  static Avx2Double min(Avx2Double a, Avx2Double b) { return {_mm256_min_pd(a.v, b.v)}; }
  static Avx2Double shift_up(Avx2Double a, Avx2Double before) {
    return {_mm256_blend_pd(_mm256_permute4x64_pd(a.v, 0x93),
                            _mm256_permute4x64_pd(before.v, 0x93), 0x1)};
  }
  static Avx2Double shift_down(Avx2Double a, Avx2Double after) {
    return {_mm256_permute4x64_pd(_mm256_blend_pd(a.v, after.v, 0x1), 0x39)};
  }
  double largest() const {
    const __m128d a = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(a, _mm_unpackhi_pd(a, a)));
  }
  double sum() const {
    const __m128d a = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(a, _mm_unpackhi_pd(a, a)));
  }

  using Mask = __m256d;
  static constexpr int kMaskBytes = 32;
  static void store_mask(char* p, const bool* lanes) {
    for (int i = 0; i < W; ++i) reinterpret_cast<int64_t*>(p)[i] = -static_cast<int64_t>(lanes[i]);
  }
  static Mask load_mask(const char* p) {
    return _mm256_load_pd(reinterpret_cast<const double*>(p));
  }
  static Avx2Double select(Mask m, Avx2Double a, Avx2Double b) {
    return {_mm256_blendv_pd(b.v, a.v, m)};
  }

  static Avx2Double round(Avx2Double a) {
    return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static Avx2Double pow2(Avx2Double n) {
    const __m256d biased =
        _mm256_add_pd(_mm256_max_pd(n.v, _mm256_set1_pd(-1023)), _mm256_set1_pd(0x1p52 + 1023));
    return {_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(biased), 52))};
  }
  static Avx2Double split(Avx2Double x, Avx2Double& exponent) {
    const __m256i bits = _mm256_castpd_si256(x.v);
    const __m256d biased = _mm256_castsi256_pd(
        _mm256_or_si256(_mm256_srli_epi64(bits, 52), _mm256_castpd_si256(_mm256_set1_pd(0x1p52))));
    exponent = {_mm256_sub_pd(biased, _mm256_set1_pd(0x1p52 + 1023))};
    const __m256i mantissa = _mm256_and_si256(bits, _mm256_set1_epi64x(0x000fffffffffffffLL));
    return {_mm256_castsi256_pd(
        _mm256_or_si256(mantissa, _mm256_set1_epi64x(0x3ff0000000000000LL)))};
  }
};

}  // namespace
}  // namespace ctcspeech
