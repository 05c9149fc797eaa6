// Emissions for the recursion: where it reads the probabilities of the utterance's own labels from, a block
// of frames at a time.
#pragma once

#include "ctc/cpu/label_table.h"
#include "ctc/cpu/softmax.h"
#include "ctc/utterance.h"

namespace ctcspeech {
namespace {

template <class Real>
struct Source {
  // Emissions of frames [first, first + count): kParts rows of table.width each frame. Null: a value is
  // below what this kind of number can hold.
  virtual const Real* rows(int64_t first, int count) = 0;
};

// Rows made beforehand.
template <class Real>
struct TableSource final : Source<Real> {
  const Real* table;
  int64_t width;
  TableSource(const Real* table, int64_t width) : table(table), width(width) {}
  const Real* rows(int64_t first, int) override { return table + first * width; }
};

// The same, for a recursion in double.
struct WideningSource final : Source<double> {
  const float* table;
  int64_t width;
  double* buffer;
  WideningSource(const float* table, int64_t width, double* buffer)
      : table(table), width(width), buffer(buffer) {}
  const double* rows(int64_t first, int count) override {
    const float* from = table + first * width;
    for (int64_t i = 0; i < count * width; ++i) buffer[i] = static_cast<double>(from[i]);
    return buffer;
  }
};

// Rows made from the logits when asked for, relative to the frame's largest own logit, in float64:
// emissions as they are, or as mantissa and exponent.
template <class Element, class N, class Real>
class LogitSource final : public Source<double> {
 public:
  // `log_sum[t]` may be null without wildcards
  LogitSource(const Utterance<Element>& u, const OwnLabels& own, const LabelTable& table,
              const FrameScales<Real>& scales, bool wildcard, double* buffer)
      : u(u), own(own), table(table), scales(scales), wildcard(wildcard), buffer(buffer) {}

  // sum over frames of the largest logit less what was subtracted here
  double shift() const { return shift_; }

  const double* rows(int64_t first, int count) override {
    for (int f = 0; f < count; ++f) {
      double* row = buffer + f * N::kParts * table.width;
      double high;
      if (!fill(first + f, row, high)) return nullptr;
      if (first + f == next_) {  // the first time
        shift_ += static_cast<double>(scales.high[first + f]) - high;
        ++next_;
      }
    }
    return buffer;
  }

 private:
  bool fill(int64_t t, double* row, double& high) {
    const Element* x = u.logits + t * u.frame_stride;
    high = -kInfinity;
    for (int64_t i = 0; i < table.width; ++i) {
      const bool here = i < own.count && own.used[i];
      row[i] = here ? static_cast<double>(to_real(x[own.classes[i]])) : -kInfinity;
      high = row[i] > high ? row[i] : high;
    }
    if (wildcard) {
      const double inverse = static_cast<double>(scales.inverse[t]);
      const double log_sum = inverse > 0 ? static_cast<double>(scales.high[t]) - std::log(inverse) : 0;
      const double emission = log_sum - u.terms.wildcard_penalty;
      row[table.wildcard] = emission;
      high = emission > high ? emission : high;
    }
    if (high == -kInfinity) high = 0;
    const double least = N::kExtended ? -1e9 : -708;
    for (int64_t i = 0; i < table.width; ++i) {
      row[i] -= high;
      if (row[i] < least && row[i] > -kInfinity) return false;
    }
    exponentiate(row);
    return true;
  }

  void exponentiate(double* row) const {
    using V = typename N::Vector;
    for (int64_t i = 0; i < table.width; i += V::W) {
      const V x = V::load(row + i);
      if constexpr (N::kExtended) {
        V n, shift;
        const V p = exp_parts(V::max(x, V::set(-2e9)), n);
        V::split(p, shift).store(row + i);
        V e = V::add(n, shift);
        alignas(64) double lanes[V::W];
        e.store(lanes);
        for (int k = 0; k < V::W; ++k)
          row[table.width + i + k] = lanes[k] < -2e9 ? N::kLowest : lanes[k];
      } else {
        exp_nonpositive(x).store(row + i);
      }
    }
  }

  const Utterance<Element>& u;
  const OwnLabels& own;
  const LabelTable& table;
  const FrameScales<Real>& scales;
  const bool wildcard;
  double* buffer;
  double shift_ = 0;
  int64_t next_ = 0;
};

}  // namespace
}  // namespace ctcspeech
