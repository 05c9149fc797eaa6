// One frame: its probabilities, and the tokens worth trying in it.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/vec_exp.h"
#include "base/vec_portable.h"
#include "beam/beam.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace ctcspeech::beam {

namespace {

// Four numbers at once, in the compilers' own vector types.
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
constexpr uint32_t kLanes = 4;

// Element i.. of a row of `num`, filled up with `fill`.
ALWAYS_INLINE Floats load(const float* row, uint32_t i, uint32_t num, float fill) {
  Floats v = {fill, fill, fill, fill};
  if (i + kLanes <= num) {
    std::memcpy(&v, row + i, sizeof(v));
  } else {
    for (uint32_t k = 0; i + k < num; ++k) v[k] = row[i + k];
  }
  return v;
}

ALWAYS_INLINE Floats choose(Ints where, Floats yes, Floats no) {
  return (Floats)((where & (Ints)yes) | (~where & (Ints)no));
}

ALWAYS_INLINE Floats exp_of_negative(Floats x) { return exp_nonpositive(PortableFloat{x}).v; }

}  // namespace

// Log-probabilities of one frame, its probabilities, and the tokens worth trying.
void Session::normalise(const float* row) {
  const uint32_t num = static_cast<uint32_t>(d_.tokens_.size());
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  Floats highest4 = {kLowest, kLowest, kLowest, kLowest};
  Ints usable4 = {-1, -1, -1, -1};
  for (uint32_t c = 0; c < num; c += kLanes) {
    const Floats v = load(row, c, num, kLowest);
    highest4 = choose(v > highest4, v, highest4);
    usable4 &= v <= FLT_MAX;  // neither NaN nor +inf
  }
  float highest = kLowest;
  bool usable = true;
  for (uint32_t k = 0; k < kLanes; ++k) {
    highest = std::max(highest, static_cast<float>(highest4[k]));
    usable &= usable4[k] != 0;
  }
  if (!usable || highest < -FLT_MAX) {
    for (uint32_t c = 0; c < num; ++c)
      if (std::isnan(row[c])) throw BadFrame(time_, "holds NaN");
    throw BadFrame(time_, usable ? "holds nothing but -inf" : "holds +inf");
  }
  float* p = p_.data();  // as long as whole vectors
  Floats sum4 = {0, 0, 0, 0};
  for (uint32_t c = 0; c < num; c += kLanes) {
    const Floats v = exp_of_negative(load(row, c, num, kLowest) - highest);
    std::memcpy(p + c, &v, sizeof(v));
    sum4 += v;
  }
  const float sum = (sum4[0] + sum4[1]) + (sum4[2] + sum4[3]);
  const float scale = 1 / sum;
  for (uint32_t c = 0; c < num; ++c) p[c] *= scale;
  if (d_.keeps_frames_) {
    const float log_sum = std::log(sum);
    const size_t offset = logp_.size();
    logp_.resize(offset + num);
    float* logp = logp_.data() + offset;
    for (uint32_t c = 0; c < num; ++c) logp[c] = (row[c] - highest) - log_sum;
  }

  if (d_.options_.strict_minimum) {
    const float top = *std::max_element(p, p + num);
    for (uint32_t c = 0; c < num; ++c)
      if (p[c] < d_.min_p_ && p[c] < top) p[c] = 0;
  }
  begins_.clear();
  candidates_.clear();
  const uint8_t* kinds = d_.kinds_.data();
  const auto take = [&](uint32_t c) {
    (kinds[c] == Decoder::kBegins ? begins_ : candidates_).push_back({c, p[c]});
  };
  const float minimum = d_.min_p_;
  for (uint32_t c = 0; c < num; ++c)
    if (p[c] >= minimum && kinds[c] < Decoder::kSeparates && p[c] > 0) take(c);
  const std::vector<uint32_t>& separators = d_.spellings_->separators();
  separators_p_ = 0;
  for (const uint32_t c : separators) separators_p_ += p[c];
  bool separate = separators_p_ >= minimum && separators_p_ > 0;
  if (begins_.empty() && candidates_.empty() && !separate) {  // then the likeliest, if not the blank
    uint32_t top = d_.blank_;
    for (uint32_t c = 0; c < num; ++c)
      if (p[c] > p[top] && kinds[c] != Decoder::kNever) top = c;
    separate = kinds[top] == Decoder::kSeparates;
    if (top != d_.blank_ && !separate) take(top);
  }
  if (separate) begins_.push_back({separators[0], separators_p_});
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.p != b.p ? a.p > b.p : a.token < b.token;
  });
}

// The probabilities of all frames that are kept.
std::vector<float> Session::probabilities() const {
  std::vector<float> p(logp_.size());
  for (size_t i = 0; i < p.size(); i += kLanes) {
    const uint32_t left = static_cast<uint32_t>(std::min<size_t>(kLanes, p.size() - i));
    const Floats v = exp_of_negative(load(logp_.data() + i, 0, left, 0));
    std::memcpy(p.data() + i, &v, left * sizeof(float));
  }
  return p;
}

}  // namespace ctcspeech::beam
