// The labels of one utterance, numbered by the rows of the tables of its emissions.
#pragma once

#include <cmath>
#include <cstdint>

namespace ctcspeech {
namespace {

// The utterance's labels as places in a table of the different ones among them.
struct LabelTable {
  int64_t T, L;
  int64_t width;         // of a table row, padded to whole vectors
  int32_t blank;         // place of the blank
  int32_t nothing;       // place whose emission is always 0
  int32_t wildcard;      // place of the wildcard: nothing + 1
  const int32_t* place;  // of label j; `nothing` beyond L, up to a whole number of vectors
  const bool* differs;   // m_j
  double tilt;
  double delay_penalty;

  double enter(int64_t t) const {  // lambda d_t
    if (delay_penalty == 0) return tilt;
    const double middle = static_cast<double>(T - 1) / 2;
    return tilt * std::exp(delay_penalty * (middle - static_cast<double>(t)));
  }
};

}  // namespace
}  // namespace ctcspeech
