// Rows of logits: their softmax. V is a float vector for float32, float16 and bfloat16 logits, a double one
// for float64.
#pragma once

#include "base/compiler.h"
#include "base/vec_exp.h"
#include "ctc/cpu/by_label.h"
#include "ctc/utterance.h"

namespace ctcspeech {
namespace {

// ---- one row --------------------------------------------------------------------------------------

template <class V>
constexpr typename V::Real kMinusInfinity = -std::numeric_limits<typename V::Real>::infinity();

template <class V>
inline typename V::Real largest_of(const typename V::Real* x, int64_t C) {
  constexpr int W = V::W;
  V a = V::set(kMinusInfinity<V>), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * W <= C; i += 4 * W) {
    a = V::max(a, V::loadu(x + i));
    b = V::max(b, V::loadu(x + i + W));
    c = V::max(c, V::loadu(x + i + 2 * W));
    d = V::max(d, V::loadu(x + i + 3 * W));
  }
  for (; i + W <= C; i += W) a = V::max(a, V::loadu(x + i));
  if (i < C) b = V::max(b, V::load_some(x + i, static_cast<int>(C - i), kMinusInfinity<V>));
  return V::max(V::max(a, b), V::max(c, d)).largest();
}

// sum exp(x - high), and with kStore the terms themselves.
template <class V, bool kStore>
inline typename V::Real exp_row(const typename V::Real* x, int64_t C, typename V::Real high,
                                typename V::Real* out) {
  constexpr int W = V::W;
  const V shift = V::set(high);
  V sum_a = V::set(0), sum_b = sum_a;
  int64_t i = 0;
  for (; i + 2 * W <= C; i += 2 * W) {
    const V a = exp_nonpositive(V::sub(V::loadu(x + i), shift));
    const V b = exp_nonpositive(V::sub(V::loadu(x + i + W), shift));
    if constexpr (kStore) {
      a.storeu(out + i);
      b.storeu(out + i + W);
    }
    sum_a = V::add(sum_a, a);
    sum_b = V::add(sum_b, b);
  }
  for (; i < C; i += W) {
    const int count = static_cast<int>(C - i < W ? C - i : W);
    const V a = exp_nonpositive(V::sub(V::load_some(x + i, count, kMinusInfinity<V>), shift));
    if constexpr (kStore) a.store_some(out + i, count);
    sum_a = V::add(sum_a, a);
  }
  return V::add(sum_a, sum_b).sum();
}

// The same, and meanwhile the largest of the next row, a call for the one after it, and a claim on the
// row where the next will be written: the one waits for arithmetic, the others for memory.
template <class V, bool kStore>
inline typename V::Real exp_row_ahead(const typename V::Real* x, int64_t C, typename V::Real high,
                                      typename V::Real* out, const typename V::Real* next,
                                      const typename V::Real* far, const typename V::Real* next_out,
                                      typename V::Real& next_high) {
  constexpr int W = V::W;
  const V shift = V::set(high);
  V sum_a = V::set(0), sum_b = sum_a;
  V high_a = V::set(kMinusInfinity<V>), high_b = high_a;
  int64_t i = 0;
  for (; i + 2 * W <= C; i += 2 * W) {
    for (int64_t line = i; line < i + 2 * W; line += 64 / static_cast<int64_t>(sizeof(*x))) {
      __builtin_prefetch(far + line, 0, 2);
      if constexpr (kStore) __builtin_prefetch(next_out + line, 1, 2);
    }
    high_a = V::max(high_a, V::loadu(next + i));
    high_b = V::max(high_b, V::loadu(next + i + W));
    const V a = exp_nonpositive(V::sub(V::loadu(x + i), shift));
    const V b = exp_nonpositive(V::sub(V::loadu(x + i + W), shift));
    if constexpr (kStore) {
      a.storeu(out + i);
      b.storeu(out + i + W);
    }
    sum_a = V::add(sum_a, a);
    sum_b = V::add(sum_b, b);
  }
  for (; i < C; i += W) {
    const int count = static_cast<int>(C - i < W ? C - i : W);
    high_a = V::max(high_a, V::load_some(next + i, count, kMinusInfinity<V>));
    const V a = exp_nonpositive(V::sub(V::load_some(x + i, count, kMinusInfinity<V>), shift));
    if constexpr (kStore) a.store_some(out + i, count);
    sum_a = V::add(sum_a, a);
  }
  next_high = V::max(high_a, high_b).largest();
  return V::add(sum_a, sum_b).sum();
}

template <class V>
inline void scale_row(typename V::Real* x, int64_t C, typename V::Real factor) {
  constexpr int W = V::W;
  const V f = V::set(factor);
  int64_t i = 0;
  for (; i + W <= C; i += W) V::mul(V::loadu(x + i), f).storeu(x + i);
  if (i < C) {
    const int count = static_cast<int>(C - i);
    V::mul(V::load_some(x + i, count, 0), f).store_some(x + i, count);
  }
}

// The row as Reals: itself, or converted into `scratch`.
inline const float* as_reals(const float* x, int64_t, float*) { return x; }
inline const double* as_reals(const double* x, int64_t, double*) { return x; }
template <class Element>
inline const float* as_reals(const Element* x, int64_t C, float* scratch) {
  for (int64_t c = 0; c < C; ++c) scratch[c] = to_real(x[c]);
  return scratch;
}

template <bool kWrite, class Element>
inline void prefetch_row(const Element* row, int64_t C) {
  const char* last = reinterpret_cast<const char*>(row + C) - 1;
  for (const char* p = reinterpret_cast<const char*>(row); p < last; p += 64)
    __builtin_prefetch(p, kWrite, 3);
  __builtin_prefetch(last, kWrite, 3);
}

// ---- the softmax of an utterance --------------------------------------------------------------------

// What happens to the softmax of a frame until gamma is there to be subtracted.
enum class Keep {
  kRows,      // few classes: exp(x - max) is kept, and is the table of emissions as well
  kWritten,   // many: it goes into the gradient at once, own labels are written again later
  kNothing,   // computed again
};

// The different labels of an utterance; place u of the emission table is class classes[u].
struct OwnLabels {
  int64_t count;
  const int32_t* classes;
  const bool* used;  // in the target, or the blank
};

template <class Real>
struct FrameScales {
  Real* high;      // the largest logit
  Real* inverse;   // 1 / sum exp(x - high), 0 for a frame of -inf throughout
  Real* own;       // kWritten: softmax of a class = emission in the table times this
  double log_sums;   // sum over frames of ln sum exp(x - high)
  double own_highs;  // kWritten, kNothing: sum over frames of (largest own logit - high)
  bool underflow;    // an own label's emission is below the normal range but not zero
};

template <class Element, class V>
class Softmax {
  using Real = typename V::Real;

 public:
  Softmax(const Utterance<Element>& u, const OwnLabels& own, Keep keep, int64_t width, Real* table,
          Real* scratch, FrameScales<Real>& scales)
      : u(u), own(own), keep(keep), width(width), table(table), scratch(scratch), scales(scales) {}

  // False: the utterance holds NaN or +inf.
  bool run() {
    scales.log_sums = scales.own_highs = 0;
    scales.underflow = false;
    if constexpr (sizeof(Real) == 4)
      if (keep == Keep::kRows) return keep_rows();
    double product = 1;
    Real next_high = largest_of<V>(row_of(0), u.C);
    for (int64_t t = 0; t < u.T; ++t) {
      const Real* x = row_of(t);
      const Real high = next_high == kMinusInfinity<V> ? 0 : next_high;
      if (keep == Keep::kWritten) gather_own(t, x);
      const Real sum = pass_row(t, x, high, next_high);
      if (!(sum <= std::numeric_limits<Real>::max())) return false;
      scales.high[t] = high;
      scales.inverse[t] = sum > 0 ? 1 / sum : 0;
      if (sum > 0) product *= static_cast<double>(sum);
      if (product > 1e200) {
        scales.log_sums += std::log(product);
        product = 1;
      }
      if (keep == Keep::kWritten) {
        if (u.gradient) write_row(t, static_cast<Real>(u.weight) * scales.inverse[t]);
        own_emissions(t, high);
      }
    }
    scales.log_sums += std::log(product);
    return true;
  }

 private:
  bool keep_rows() {
    switch ((u.C + V::W - 1) / V::W) {  // a row of so few vectors is unrolled
      case 1: return keep_rows_of<1>();
      case 2: return keep_rows_of<2>();
      case 3: return keep_rows_of<3>();
      case 4: return keep_rows_of<4>();
      default: return keep_rows_of<0>();
    }
  }

  // W frames at a time, so that the reductions over a row's lanes are done for all of them at once.
  // kVectors vectors a row, 0: any number.
  template <int kVectors>
  bool keep_rows_of() {
    constexpr int W = V::W;
    const int64_t vectors = kVectors ? kVectors : (u.C + W - 1) / W, table_vectors = width / W;
    const int rest = static_cast<int>(u.C - (vectors - 1) * W);  // in the last one
    alignas(64) Real lanes[W * W], high[W], sum[W], inverse[W];
    double product[4] = {1, 1, 1, 1};  // of the sums, in four chains to hide a multiplication's latency
    V deepest = V::set(0);
    for (int64_t first = 0; first < u.T; first += W) {
      const int count = static_cast<int>(first + W < u.T ? W : u.T - first);
      prefetch_rows(u.logits, u.frame_stride, first + W, u.T);
      for (int f = 0; f < count; ++f) {
        const Real* x = row_of(first + f);
        V largest = V::load_some(x + (vectors - 1) * W, rest, kMinusInfinity<V>);
        CTC_UNROLL
        for (int64_t i = 0; i < vectors - 1; ++i) largest = V::max(largest, V::loadu(x + i * W));
        largest.store(lanes + f * W);
      }
      for (int f = count; f < W; ++f) V::set(0).store(lanes + f * W);
      largest_of_rows<V>(lanes).store(high);
      for (int f = 0; f < count; ++f) {
        if (high[f] == kMinusInfinity<V>) high[f] = 0;
        const Real* x = row_of(first + f);
        Real* row = table + (first + f) * width;
        const V shift = V::set(high[f]);
        // 0 behind the last class, for `deepest`; then cleared
        const V d = V::sub(V::load_some(x + (vectors - 1) * W, rest, high[f]), shift);
        V total = V::keep_some(exp_nonpositive(d), rest);
        deepest = V::min(deepest, d);
        total.store(row + (vectors - 1) * W);
        CTC_UNROLL
        for (int64_t i = 0; i < vectors - 1; ++i) {
          const V e = V::sub(V::loadu(x + i * W), shift), p = exp_nonpositive(e);
          p.store(row + i * W);
          total = V::add(total, p);
          deepest = V::min(deepest, e);
        }
        for (int64_t i = vectors; i < table_vectors; ++i) V::set(0).store(row + i * W);
        total.store(lanes + f * W);
      }
      const V sums = sums_of_rows<V>(lanes);
      sums.store(sum);
      V::div(V::set(1), sums).store(inverse);
      for (int f = 0; f < count; ++f) {
        if (!(sum[f] <= std::numeric_limits<Real>::max())) return false;
        if (sum[f] == 0) {  // a frame of -inf throughout
          inverse[f] = 0;
          sum[f] = 1;
        }
        product[f % 4] *= static_cast<double>(sum[f]);
      }
      std::memcpy(scales.high + first, high, count * sizeof(Real));
      std::memcpy(scales.inverse + first, inverse, count * sizeof(Real));
      if (first % (16 * W) == 0) take_logs(product);  // 62^64 before that at most
    }
    take_logs(product);
    find_underflow(deepest);
    return true;
  }

  void take_logs(double* product) {
    for (int i = 0; i < 4; ++i) {
      scales.log_sums += std::log(product[i]);
      product[i] = 1;
    }
  }

  // A batch of utterances has this one's rows far apart, where no hardware foresees them.
  void prefetch_rows(const Element* rows, int64_t stride, int64_t first, int64_t end) const {
    if (end > first + V::W) end = first + V::W;
    for (int64_t t = first; t < end; ++t) prefetch_row<false>(rows + t * stride, u.C);
  }

  // Row t as Reals. With 16-bit logits a conversion each time it is asked for.
  const Real* row_of(int64_t t) const {
    return as_reals(u.logits + t * u.frame_stride, u.C, scratch);
  }

  // exp(x - high) into the gradient, or only summed; the largest of the next row
  Real pass_row(int64_t t, const Real* x, Real high, Real& next_high) {
    const bool store = u.gradient && keep == Keep::kWritten;
    const int64_t next = t + 1 < u.T ? t + 1 : t;
    if constexpr (sizeof(Element) == sizeof(Real)) {
      const Real *ahead = row_of(next), *far = row_of(t + 2 < u.T ? t + 2 : next);
      if (!store)
        return exp_row_ahead<V, false>(x, u.C, high, nullptr, ahead, far, nullptr, next_high);
      return exp_row_ahead<V, true>(x, u.C, high, gradient_row(t), ahead, far, gradient_row(next),
                                    next_high);
    } else {  // one scratch row: no looking ahead but for memory
      prefetch_row<false>(u.logits + (t + 2 < u.T ? t + 2 : next) * u.frame_stride, u.C);
      if (store) prefetch_row<true>(u.gradient + t * u.gradient_frame_stride, u.C);
      const Real sum = store ? exp_row<V, true>(x, u.C, high, scratch + u.C)
                             : exp_row<V, false>(x, u.C, high, nullptr);
      next_high = largest_of<V>(row_of(next), u.C);
      return sum;
    }
  }
  void write_row(int64_t t, Real factor) {
    if constexpr (sizeof(Element) == sizeof(Real)) {
      scale_row<V>(gradient_row(t), u.C, factor);
    } else {
      Element* g = u.gradient + t * u.gradient_frame_stride;
      for (int64_t c = 0; c < u.C; ++c) from_real(scratch[u.C + c] * factor, g[c]);
    }
  }
  Real* gradient_row(int64_t t) {
    return reinterpret_cast<Real*>(u.gradient + t * u.gradient_frame_stride);
  }

  void gather_own(int64_t t, const Real* x) {
    Real* row = table + t * width;
    for (int64_t i = 0; i < own.count; ++i) row[i] = x[own.classes[i]];
    for (int64_t i = own.count; i < width; ++i) row[i] = kMinusInfinity<V>;
  }

  // exp(x - largest own x) of the own labels in place of their logits
  void own_emissions(int64_t t, Real high) {
    Real* row = table + t * width;
    Real own_high = largest_of<V>(row, width);
    if (own_high == kMinusInfinity<V>) own_high = high;
    int low = 0;
    for (int64_t i = 0; i < width; ++i)
      low += static_cast<int>(row[i] - own_high < kDeepest) & static_cast<int>(row[i] > kMinusInfinity<V>);
    scales.underflow |= low > 0;
    exp_row<V, true>(row, width, own_high, row);
    const double below = static_cast<double>(own_high) - static_cast<double>(high);
    scales.own[t] = (below == 0 ? 1 : static_cast<Real>(std::exp(below))) * scales.inverse[t];
    scales.own_highs += below;
  }

  void find_underflow(V deepest) {
    alignas(64) Real lanes[V::W];
    deepest.store(lanes);
    bool suspect = false;
    for (Real lane : lanes) suspect |= !(lane >= kDeepest);
    if (!suspect) return;  // else it may be -inf, or of a class that is not its own
    for (int64_t t = 0; t < u.T; ++t)
      for (int64_t i = 0; i < own.count; ++i) {
        const Real x = to_real(u.logits[t * u.frame_stride + own.classes[i]]);
        scales.underflow |=
            own.used[i] && x - scales.high[t] < kDeepest && x > kMinusInfinity<V>;
      }
  }

  static constexpr Real kDeepest = sizeof(Real) == 4 ? Real(-87) : Real(-708);

  const Utterance<Element>& u;
  const OwnLabels& own;
  const Keep keep;
  const int64_t width;
  Real* table;
  Real* scratch;  // 2 C
  FrameScales<Real>& scales;
};

// sum exp(x - high) of a row beyond the terms that are 1, and how many those are
template <class V>
inline double rest_of_row(const typename V::Real* x, int64_t C, typename V::Real high, double& ones) {
  constexpr int W = V::W;
  const V shift = V::set(high), one = V::set(1), minus = V::set(-1), far = V::set(0x1p100f);
  V rest = V::set(0), count = rest;
  for (int64_t i = 0; i < C; i += W) {
    const int here = static_cast<int>(C - i < W ? C - i : W);
    const V d = V::sub(V::load_some(x + i, here, kMinusInfinity<V>), shift);
    const V largest = V::add(one, V::max(V::mul(d, far), minus));  // 1 where d is 0, else 0
    rest = V::add(rest, V::sub(exp_nonpositive(d), largest));
    count = V::add(count, largest);
  }
  ones = static_cast<double>(count.sum());
  return static_cast<double>(rest.sum());
}

// FrameScales::log_sums once more: each row's sum in double, of exponentials in float.
template <class Element, class V>
double exact_log_sums(const Utterance<Element>& u, Keep keep, const typename V::Real* table,
                      int64_t width, typename V::Real* scratch,
                      const FrameScales<typename V::Real>& scales) {
  double log_sums = 0, product = 1;
  for (int64_t t = 0; t < u.T; ++t) {
    double sum[4] = {0, 0, 0, 0};
    if (keep == Keep::kRows) {
      for (int64_t c = 0; c < width; c += 4)  // whole vectors, a multiple of 4; zeros behind C
        for (int i = 0; i < 4; ++i) sum[i] += static_cast<double>(table[t * width + c + i]);
    } else {
      const auto* x = as_reals(u.logits + t * u.frame_stride, u.C, scratch);
      sum[0] = rest_of_row<V>(x, u.C, scales.high[t], sum[1]);
    }
    const double total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    if (total > 0) product *= total;
    if (product > 1e200) {
      log_sums += std::log(product);
      product = 1;
    }
  }
  return log_sums + std::log(product);
}

}  // namespace
}  // namespace ctcspeech
