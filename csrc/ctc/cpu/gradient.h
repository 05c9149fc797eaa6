// Where the recursion's gamma goes: the gradient, softmax - gamma.
#pragma once

#include <type_traits>

#include "ctc/cpu/label_table.h"
#include "ctc/cpu/softmax.h"
#include "ctc/utterance.h"

namespace ctcspeech {
namespace {

template <class Real>
struct Sink {
  // gamma of the same frames: `width` places each, times the frame's scale.
  virtual void take(int64_t first, int count, const Real* gamma, const Real* scale) = 0;
  // The same by columns: gamma of place c at frame first + f is columns[c * W + f] scale[f], W the lanes
  // of the vector. False: it wants rows.
  virtual bool take_columns(int64_t, int, const Real*, const Real*) { return false; }
  virtual void prepare(int64_t first, int count) = 0;  // they will come soon
};

// weight (softmax - gamma) into the gradient, from gamma of places in Reals `Gamma`.
template <class Element, class V, class Gamma>
class GradientSink final : public Sink<Gamma> {
  using Real = typename V::Real;

 public:
  GradientSink(const Utterance<Element>& u, const OwnLabels& own, const LabelTable& labels,
               Keep keep, const Real* table, Real* scratch, const FrameScales<Real>& scales)
      : u(u), own(own), labels(labels), keep(keep), table(table), scratch(scratch), scales(scales),
        weight(static_cast<Real>(u.weight)) {}

  void prepare(int64_t first, int count) override {
    for (int f = 0; f < count; ++f) {
      const Element* row = row_of(first + f);
      if (keep == Keep::kRows)
        prefetch_row<true>(row, u.C);
      else if (keep == Keep::kWritten)
        for (int64_t i = 0; i < own.count; ++i) __builtin_prefetch(row + own.classes[i], 1, 2);
    }
  }

  // Columns to rows in registers, and the row of the gradient written at once.
  bool take_columns(int64_t first, int count, const Gamma* columns, const Gamma* scale) override {
    if constexpr (std::is_same_v<Element, float> && std::is_same_v<Gamma, float>) {
      if (keep != Keep::kRows) return false;
      constexpr int W = V::W;
      const V each = V::load(scale), minus = V::set(-weight);  // their product may underflow
      alignas(64) Real factor[W];
      for (int f = 0; f < count; ++f) factor[f] = weight * scales.inverse[first + f];
      V r[W];
      for (int64_t c = 0; c < u.C; c += W) {
        for (int i = 0; i < W; ++i) r[i] = V::mul(minus, V::mul(each, V::load(columns + (c + i) * W)));
        V::transpose(r);
        const int rest = static_cast<int>(u.C - c);
        const Real* p = table + first * labels.width + c;
        for (int f = 0; f < count; ++f, p += labels.width) {
          const V g = V::fma(V::load(p), V::set(factor[f]), r[f]);
          if (rest >= W)
            g.storeu(row_of(first + f) + c);
          else
            g.store_some(row_of(first + f) + c, rest);
        }
      }
      return true;
    }
    return false;
  }

  void take(int64_t first, int count, const Gamma* gamma, const Gamma* scale) override {
    for (int f = 0; f < count; ++f) {
      const Gamma* own_gamma = gamma + f * labels.width;
      if (keep == Keep::kRows)
        from_kept_row(first + f, own_gamma, scale[f]);
      else if (keep == Keep::kWritten)
        over_written_row(first + f, own_gamma, scale[f]);
      else
        computed_again(first + f, own_gamma, scale[f]);
    }
  }

 private:
  Element* row_of(int64_t t) const { return u.gradient + t * u.gradient_frame_stride; }

  // Here places are classes.
  void from_kept_row(int64_t t, const Gamma* gamma, Gamma scale) {
    const Real* p = table + t * labels.width;
    if constexpr (sizeof(Gamma) == sizeof(Real)) {
      const V factor = V::set(weight * scales.inverse[t]), minus = V::set(-weight);
      const V each = V::set(scale);  // times the weight it may underflow
      Real* out = scratch;
      if constexpr (sizeof(Element) == sizeof(Real)) out = row_of(t);
      for (int64_t c = 0; c < u.C; c += V::W) {
        const V g = V::fma(V::load(p + c), factor, V::mul(V::mul(V::load(gamma + c), each), minus));
        if (c + V::W <= u.C)
          g.storeu(out + c);
        else
          g.store_some(out + c, static_cast<int>(u.C - c));
      }
    } else {
      for (int64_t c = 0; c < u.C; ++c)
        scratch[c] = weight * (p[c] * scales.inverse[t] - static_cast<Real>(gamma[c] * scale));
    }
    if constexpr (sizeof(Gamma) != sizeof(Real) || sizeof(Element) != sizeof(Real))
      for (int64_t c = 0; c < u.C; ++c) from_real(scratch[c], row_of(t)[c]);
  }

  void over_written_row(int64_t t, const Gamma* gamma, Gamma scale) {
    const Real* p = table + t * labels.width;
    Element* g = row_of(t);
    for (int64_t i = 0; i < own.count; ++i) {
      const auto occupied = static_cast<Real>(gamma[i] * scale);
      from_real(weight * (p[i] * scales.own[t] - occupied), g[own.classes[i]]);
    }
  }

  // What a wildcard takes up asks nothing of the frame's softmax.
  void computed_again(int64_t t, const Gamma* gamma, Gamma scale) {
    const Real* x = as_reals(u.logits + t * u.frame_stride, u.C, scratch);
    Real* row = scratch + u.C;
    exp_row<V, true>(x, u.C, scales.high[t], row);
    const auto known = static_cast<Real>(1 - gamma[labels.wildcard] * scale);
    scale_row<V>(row, u.C, known * scales.inverse[t]);
    for (int64_t i = 0; i < own.count; ++i)
      row[own.classes[i]] -= static_cast<Real>(gamma[i] * scale);
    for (int64_t c = 0; c < u.C; ++c) from_real(weight * row[c], row_of(t)[c]);
  }

  const Utterance<Element>& u;
  const OwnLabels& own;
  const LabelTable& labels;
  const Keep keep;
  const Real* table;
  Real* scratch;  // 2 C
  const FrameScales<Real>& scales;
  const Real weight;
};

}  // namespace
}  // namespace ctcspeech
