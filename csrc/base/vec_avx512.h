// Vectors of 512 bits: AVX-512 F, BW, DQ, VL. The members are described in base/vec_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace ctcspeech {
namespace {

struct Avx512Float {
  using Real = float;
  static constexpr int W = 16, kTableSize = 64, kSmallTable = 32;
  __m512 v;

  static __mmask16 first_lanes(int count) {
    return static_cast<__mmask16>((1u << count) - 1);
  }
  static Avx512Float load(const float* p) { return {_mm512_load_ps(p)}; }
  static Avx512Float loadu(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Avx512Float load_some(const float* p, int count, float fill) {
    return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(count), p)};
  }
  static Avx512Float keep_some(Avx512Float a, int count) {  // the others zero
    return {_mm512_maskz_mov_ps(first_lanes(count), a.v)};
  }
  void store(float* p) const { _mm512_store_ps(p, v); }
  void storeu(float* p) const { _mm512_storeu_ps(p, v); }
  void store_some(float* p, int count) const { _mm512_mask_storeu_ps(p, first_lanes(count), v); }
  static Avx512Float set(float x) { return {_mm512_set1_ps(x)}; }
  static Avx512Float add(Avx512Float a, Avx512Float b) { return {_mm512_add_ps(a.v, b.v)}; }
  static Avx512Float sub(Avx512Float a, Avx512Float b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static Avx512Float mul(Avx512Float a, Avx512Float b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static Avx512Float div(Avx512Float a, Avx512Float b) { return {_mm512_div_ps(a.v, b.v)}; }
  static Avx512Float fma(Avx512Float a, Avx512Float b, Avx512Float c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  }
  static Avx512Float max(Avx512Float a, Avx512Float b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Avx512Float min(Avx512Float a, Avx512Float b) { return {_mm512_min_ps(a.v, b.v)}; }
  static Avx512Float shift_up(Avx512Float a, Avx512Float before) {
    return {_mm512_castsi512_ps(
        _mm512_alignr_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(before.v), 15))};
  }
  static Avx512Float shift_down(Avx512Float a, Avx512Float after) {
    return {_mm512_castsi512_ps(
        _mm512_alignr_epi32(_mm512_castps_si512(after.v), _mm512_castps_si512(a.v), 1))};
  }
  float largest() const { return _mm512_reduce_max_ps(v); }
  float sum() const { return _mm512_reduce_add_ps(v); }

  using Mask = __mmask16;
  static constexpr int kMaskBytes = 2;
  static void store_mask(char* p, const bool* lanes) {
    uint16_t bits = 0;
    for (int i = 0; i < W; ++i) bits = static_cast<uint16_t>(bits | lanes[i] << i);
    std::memcpy(p, &bits, sizeof(bits));
  }
  static Mask load_mask(const char* p) {
    uint16_t bits;
    std::memcpy(&bits, p, sizeof(bits));
    return bits;
  }
  static Avx512Float select(Mask m, Avx512Float a, Avx512Float b) {
    return {_mm512_mask_blend_ps(m, b.v, a.v)};
  }

  static Avx512Float round(Avx512Float a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static Avx512Float scale2(Avx512Float x, Avx512Float n) {
    const __mmask16 normal = _mm512_cmp_ps_mask(n.v, _mm512_set1_ps(-126), _CMP_NLT_UQ);
    return {_mm512_maskz_scalef_ps(normal, x.v, n.v)};
  }
  static void transpose(Avx512Float* r) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
      a[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
      a[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
    }
    for (int i = 0; i < 16; i += 4) {
      b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
      b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xEE);
      b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
      b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; ++i) {  // now the 4 x 4 pattern of 128-bit pieces
      const __m512 p = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
      const __m512 q = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xDD);
      const __m512 s = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
      const __m512 t = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xDD);
      r[i].v = _mm512_shuffle_f32x4(p, s, 0x88);
      r[i + 4].v = _mm512_shuffle_f32x4(q, t, 0x88);
      r[i + 8].v = _mm512_shuffle_f32x4(p, s, 0xDD);
      r[i + 12].v = _mm512_shuffle_f32x4(q, t, 0xDD);
    }
  }

  // A table of at most 32 entries, looked up in one instruction.
  struct SmallTable {
    __m512 low, high;
    explicit SmallTable(const float* table)
        : low(_mm512_load_ps(table)), high(_mm512_load_ps(table + 16)) {}
    Avx512Float at(const int32_t* place) const {
      return {_mm512_permutex2var_ps(low, _mm512_loadu_si512(place), high)};
    }
  };

  // a b + c where m, else c
  static Avx512Float fma_where(Mask m, Avx512Float a, Avx512Float b, Avx512Float c) {
    return {_mm512_mask3_fmadd_ps(a.v, b.v, c.v, m)};
  }

  // Lane i is a's lane lanes[i]; 0 where that is W.
  static Avx512Float pick(Avx512Float a, const int32_t* lanes) {
    return {_mm512_permutex2var_ps(a.v, _mm512_loadu_si512(lanes), _mm512_setzero_ps())};
  }

  // Lane f is op over the lanes of r[f].
  template <class Op>
  static Avx512Float fold(const Avx512Float* r, Op op) {
    Avx512Float a[8], b[4];
    for (int i = 0; i < 8; ++i)
      a[i] = op(Avx512Float{_mm512_unpacklo_ps(r[2 * i].v, r[2 * i + 1].v)},
                Avx512Float{_mm512_unpackhi_ps(r[2 * i].v, r[2 * i + 1].v)});
    for (int i = 0; i < 4; ++i)
      b[i] = op(Avx512Float{_mm512_shuffle_ps(a[2 * i].v, a[2 * i + 1].v, 0x44)},
                Avx512Float{_mm512_shuffle_ps(a[2 * i].v, a[2 * i + 1].v, 0xEE)});
    const auto halves = [&](Avx512Float x, Avx512Float y) {  // of the four 128-bit pieces of each
      return op(Avx512Float{_mm512_shuffle_f32x4(x.v, y.v, 0x88)},
                Avx512Float{_mm512_shuffle_f32x4(x.v, y.v, 0xDD)});
    };
    return halves(halves(b[0], b[1]), halves(b[2], b[3]));
  }

  // out[i] = table[place[i]], `blocks` vectors of them, from a table of at most 64.
  static void look_up(const float* table, int64_t size, const int32_t* place, int64_t blocks,
                      float* out) {
    const __m512 zero = _mm512_setzero_ps();
    const __m512 a = _mm512_load_ps(table), b = size > 16 ? _mm512_load_ps(table + 16) : zero;
    if (size <= 32) {
      for (int64_t k = 0; k < blocks; ++k)
        _mm512_store_ps(out + k * 16,
                        _mm512_permutex2var_ps(a, _mm512_loadu_si512(place + k * 16), b));
      return;
    }
    const __m512 c = _mm512_load_ps(table + 32), d = size > 48 ? _mm512_load_ps(table + 48) : zero;
    for (int64_t k = 0; k < blocks; ++k) {
      const __m512i index = _mm512_loadu_si512(place + k * 16);
      const __mmask16 upper = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
      _mm512_store_ps(out + k * 16,
                      _mm512_mask_blend_ps(upper, _mm512_permutex2var_ps(a, index, b),
                                           _mm512_permutex2var_ps(c, index, d)));
    }
  }
};

struct Avx512Double {
  using Real = double;
  static constexpr int W = 8, kSmallTable = 0;
  __m512d v;

  static __mmask8 first_lanes(int count) { return static_cast<__mmask8>((1u << count) - 1); }
  static Avx512Double load(const double* p) { return {_mm512_load_pd(p)}; }
  static Avx512Double loadu(const double* p) { return {_mm512_loadu_pd(p)}; }
  static Avx512Double load_some(const double* p, int count, double fill) {
    return {_mm512_mask_loadu_pd(_mm512_set1_pd(fill), first_lanes(count), p)};
  }
  void store(double* p) const { _mm512_store_pd(p, v); }
  void storeu(double* p) const { _mm512_storeu_pd(p, v); }
  void store_some(double* p, int count) const { _mm512_mask_storeu_pd(p, first_lanes(count), v); }
  static Avx512Double set(double x) { return {_mm512_set1_pd(x)}; }
  static Avx512Double add(Avx512Double a, Avx512Double b) { return {_mm512_add_pd(a.v, b.v)}; }
  static Avx512Double sub(Avx512Double a, Avx512Double b) { return {_mm512_sub_pd(a.v, b.v)}; }
  static Avx512Double mul(Avx512Double a, Avx512Double b) { return {_mm512_mul_pd(a.v, b.v)}; }
  static Avx512Double fma(Avx512Double a, Avx512Double b, Avx512Double c) {
    return {_mm512_fmadd_pd(a.v, b.v, c.v)};
  }
  static Avx512Double max(Avx512Double a, Avx512Double b) { return {_mm512_max_pd(a.v, b.v)}; }
  static Avx512Double min(Avx512Double a, Avx512Double b) { return {_mm512_min_pd(a.v, b.v)}; }
  static Avx512Double shift_up(Avx512Double a, Avx512Double before) {
    return {_mm512_castsi512_pd(
        _mm512_alignr_epi64(_mm512_castpd_si512(a.v), _mm512_castpd_si512(before.v), 7))};
  }
  static Avx512Double shift_down(Avx512Double a, Avx512Double after) {
    return {_mm512_castsi512_pd(
        _mm512_alignr_epi64(_mm512_castpd_si512(after.v), _mm512_castpd_si512(a.v), 1))};
  }
  double largest() const { return _mm512_reduce_max_pd(v); }
  double sum() const { return _mm512_reduce_add_pd(v); }

  using Mask = __mmask8;
  static constexpr int kMaskBytes = 1;
  static void store_mask(char* p, const bool* lanes) {
    unsigned bits = 0;
    for (int i = 0; i < W; ++i) bits |= static_cast<unsigned>(lanes[i]) << i;
    *p = static_cast<char>(bits);
  }
  static Mask load_mask(const char* p) { return static_cast<Mask>(*p); }
  static Avx512Double select(Mask m, Avx512Double a, Avx512Double b) {
    return {_mm512_mask_blend_pd(m, b.v, a.v)};
  }

  static Avx512Double round(Avx512Double a) {
    return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static Avx512Double pow2(Avx512Double n) {
    const __m512d biased =
        _mm512_add_pd(_mm512_max_pd(n.v, _mm512_set1_pd(-1023)), _mm512_set1_pd(0x1p52 + 1023));
    return {_mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(biased), 52))};
  }
  static Avx512Double split(Avx512Double x, Avx512Double& exponent) {
    exponent = {_mm512_getexp_pd(x.v)};
    return {_mm512_getmant_pd(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src)};
  }
};

}  // namespace
}  // namespace ctcspeech
