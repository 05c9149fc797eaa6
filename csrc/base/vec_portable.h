// Vectors of 128 bits in the compilers' own vector notation: SSE2 on x86-64, and whatever a compiler makes
// of them elsewhere. base/vec_avx2.h, base/vec_avx512.h and base/vec_neon.h have the same members.
//
// A vector type has Real, W lanes, and:
//   load, store                 at W-aligned memory; loadu, storeu anywhere
//   load_some, store_some       the first `count` lanes, the others filled resp. left alone
//   set, add, sub, mul, fma   (float: div)     fma(a, b, c) = a b + c
//   max, min                    the second operand where either is NaN
//   shift_up(a, before)         lane i takes lane i - 1 of a, lane 0 the last lane of `before`
//   shift_down(a, after)        lane i takes lane i + 1 of a, the last lane lane 0 of `after`
//   largest, sum                over the lanes
//   Mask, store_mask, load_mask, select(mask, a, b)
// and float: kTableSize (0: none) and look_up, transpose (W x W), scale2(x, n) = x 2^n for n <= 127, 0 where
// that is below the normal range; where kSmallTable is not 0: SmallTable of at most so many entries, pick,
// fold, fma_where;
// double: pow2(n) for n <= 0, split(x, exponent).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#define CTC_OPAQUE(vector) __asm__("" : "+x"(vector))
#elif defined(__aarch64__)
#define CTC_OPAQUE(vector) __asm__("" : "+w"(vector))
#else
#define CTC_OPAQUE(vector) (void)0  // without -ffast-math no compiler reorders sums anyway
#endif

namespace ctcspeech {
namespace {

typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));
typedef double D2 __attribute__((vector_size(16)));
typedef int64_t L2 __attribute__((vector_size(16)));

struct PortableFloat {
  using Real = float;
  static constexpr int W = 4, kTableSize = 0, kSmallTable = 0;
  F4 v;

  static PortableFloat load(const float* p) { return loadu(p); }
  static PortableFloat loadu(const float* p) {
    PortableFloat r;
    std::memcpy(&r.v, p, sizeof(r.v));
    return r;
  }
  static PortableFloat load_some(const float* p, int count, float fill) {
    PortableFloat r = set(fill);
    for (int i = 0; i < count; ++i) r.v[i] = p[i];
    return r;
  }
  static PortableFloat keep_some(PortableFloat a, int count) {  // the others zero
    for (int i = count; i < W; ++i) a.v[i] = 0;
    return a;
  }
  void store(float* p) const { storeu(p); }
  void storeu(float* p) const { std::memcpy(p, &v, sizeof(v)); }
  void store_some(float* p, int count) const {
    for (int i = 0; i < count; ++i) p[i] = v[i];
  }
  static PortableFloat set(float x) { return {F4{x, x, x, x}}; }
  static PortableFloat add(PortableFloat a, PortableFloat b) { return {a.v + b.v}; }
  static PortableFloat sub(PortableFloat a, PortableFloat b) { return {a.v - b.v}; }
  static PortableFloat mul(PortableFloat a, PortableFloat b) { return {a.v * b.v}; }
  static PortableFloat div(PortableFloat a, PortableFloat b) { return {a.v / b.v}; }
  static PortableFloat fma(PortableFloat a, PortableFloat b, PortableFloat c) {
    return {a.v * b.v + c.v};
  }
  static PortableFloat max(PortableFloat a, PortableFloat b) { return choose(a.v > b.v, a, b); }
  static PortableFloat min(PortableFloat a, PortableFloat b) { return choose(a.v < b.v, a, b); }
  static PortableFloat shift_up(PortableFloat a, PortableFloat before) {
    return {__builtin_shufflevector(before.v, a.v, 3, 4, 5, 6)};
  }
  static PortableFloat shift_down(PortableFloat a, PortableFloat after) {
    return {__builtin_shufflevector(a.v, after.v, 1, 2, 3, 4)};
  }
  float largest() const {
    const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
  }
  float sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }

  using Mask = I4;
  static constexpr int kMaskBytes = 16;
  static void store_mask(char* p, const bool* lanes) {
    I4 m = {-lanes[0], -lanes[1], -lanes[2], -lanes[3]};
    std::memcpy(p, &m, sizeof(m));
  }
  static Mask load_mask(const char* p) {
    I4 m;
    std::memcpy(&m, p, sizeof(m));
    return m;
  }
  static PortableFloat select(Mask m, PortableFloat a, PortableFloat b) { return choose(m, a, b); }

  static PortableFloat round(PortableFloat a) {  // |a| < 2^22
    const F4 magic = set(0x1.8p23f).v;
    F4 shifted = a.v + magic;
    CTC_OPAQUE(shifted);  // no compiler may cancel the two
    return {shifted - magic};
  }
  static PortableFloat scale2(PortableFloat x, PortableFloat n) {
    const I4 exponent = __builtin_convertvector(max(n, set(-150)).v, I4) + 127;  // NaN: -150
    const I4 power = exponent << 23;
    const F4 factor = (F4)(power & (exponent > 0));
    return {x.v * factor};
  }
  static void transpose(PortableFloat* r) {
    const F4 a = __builtin_shufflevector(r[0].v, r[1].v, 0, 4, 1, 5);
    const F4 b = __builtin_shufflevector(r[0].v, r[1].v, 2, 6, 3, 7);
    const F4 c = __builtin_shufflevector(r[2].v, r[3].v, 0, 4, 1, 5);
    const F4 d = __builtin_shufflevector(r[2].v, r[3].v, 2, 6, 3, 7);
    r[0].v = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    r[1].v = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    r[2].v = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    r[3].v = __builtin_shufflevector(b, d, 2, 3, 6, 7);
  }

 private:
  static PortableFloat choose(I4 m, PortableFloat a, PortableFloat b) {
    return {(F4)(((I4)a.v & m) | ((I4)b.v & ~m))};
  }
};

struct PortableDouble {
  using Real = double;
  static constexpr int W = 2, kSmallTable = 0;
  D2 v;

  static PortableDouble load(const double* p) {
    PortableDouble r;
    std::memcpy(&r.v, p, sizeof(r.v));
    return r;
  }
  static PortableDouble loadu(const double* p) { return load(p); }
  static PortableDouble load_some(const double* p, int count, double fill) {
    PortableDouble r = set(fill);
    for (int i = 0; i < count; ++i) r.v[i] = p[i];
    return r;
  }
  void store(double* p) const { std::memcpy(p, &v, sizeof(v)); }
  void storeu(double* p) const { store(p); }
  void store_some(double* p, int count) const {
    for (int i = 0; i < count; ++i) p[i] = v[i];
  }
  static PortableDouble set(double x) { return {D2{x, x}}; }
  static PortableDouble add(PortableDouble a, PortableDouble b) { return {a.v + b.v}; }
  static PortableDouble sub(PortableDouble a, PortableDouble b) { return {a.v - b.v}; }
  static PortableDouble mul(PortableDouble a, PortableDouble b) { return {a.v * b.v}; }
  static PortableDouble fma(PortableDouble a, PortableDouble b, PortableDouble c) {
    return {a.v * b.v + c.v};
  }
  static PortableDouble max(PortableDouble a, PortableDouble b) { return choose(a.v > b.v, a, b); }
  static PortableDouble min(PortableDouble a, PortableDouble b) { return choose(a.v < b.v, a, b); }
  static PortableDouble shift_up(PortableDouble a, PortableDouble before) {
    return {__builtin_shufflevector(before.v, a.v, 1, 2)};
  }
  static PortableDouble shift_down(PortableDouble a, PortableDouble after) {
    return {__builtin_shufflevector(a.v, after.v, 1, 2)};
  }
  double largest() const { return v[0] > v[1] ? v[0] : v[1]; }
  double sum() const { return v[0] + v[1]; }

  using Mask = L2;
  static constexpr int kMaskBytes = 16;
  static void store_mask(char* p, const bool* lanes) {
    L2 m = {-static_cast<int64_t>(lanes[0]), -static_cast<int64_t>(lanes[1])};
    std::memcpy(p, &m, sizeof(m));
  }
  static Mask load_mask(const char* p) {
    L2 m;
    std::memcpy(&m, p, sizeof(m));
    return m;
  }
  static PortableDouble select(Mask m, PortableDouble a, PortableDouble b) {
    return choose(m, a, b);
  }

  static PortableDouble round(PortableDouble a) {  // |a| < 2^51
    const D2 magic = set(0x1.8p52).v;
    D2 shifted = a.v + magic;
    CTC_OPAQUE(shifted);
    return {shifted - magic};
  }
  static PortableDouble pow2(PortableDouble n) {
    D2 biased = max(n, set(-1023)).v + (0x1p52 + 1023);
    CTC_OPAQUE(biased);
    return {(D2)((L2)biased << 52)};
  }
  static PortableDouble split(PortableDouble x, PortableDouble& exponent) {
    typedef uint64_t U2 __attribute__((vector_size(16)));
    const U2 bits = (U2)x.v;
    const D2 biased = (D2)((bits >> 52) | (U2)set(0x1p52).v);
    exponent = {biased - (0x1p52 + 1023)};
    return {(D2)((bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL)};
  }

 private:
  static PortableDouble choose(L2 m, PortableDouble a, PortableDouble b) {
    return {(D2)(((L2)a.v & m) | ((L2)b.v & ~m))};
  }
};

}  // namespace
}  // namespace ctcspeech
