// Codebooks for the trie: few bits in place of a float.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <vector>

namespace ctcspeech::ngram {

// At most `codes` ascending centres for the values: the values themselves if they are few enough, else
// the means of bins of (nearly) equal count (Federico and Bertoldi 2006).
inline std::vector<float> bin_centres(std::vector<float> values, uint64_t codes) {
  std::sort(values.begin(), values.end());
  std::vector<float> centres;
  std::unique_copy(values.begin(), values.end(), std::back_inserter(centres));
  if (centres.size() <= codes) return centres;
  centres.clear();
  for (uint64_t bin = 0; bin < codes; ++bin) {
    const size_t begin = values.size() * bin / codes, end = values.size() * (bin + 1) / codes;
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += values[i];
    centres.push_back(static_cast<float>(sum / static_cast<double>(end - begin)));
  }
  return centres;
}

class Codebook {
 public:
  // A probability of zero (-inf) has a code of its own, the last.
  static Codebook of_probabilities(const std::vector<float>& log10, int bits) {
    std::vector<float> finite;
    std::copy_if(log10.begin(), log10.end(), std::back_inserter(finite),
                 [](float v) { return std::isfinite(v); });
    const bool zero = finite.size() < log10.size();
    Codebook book;
    book.codes_ = bin_centres(std::move(finite), (1ull << bits) - (zero ? 1 : 0));
    book.end_ = book.codes_.size();
    book.codes_.resize(1ull << bits, -INFINITY);
    return book;
  }

  // Codes 0 and 1 are the two zeros (ngram/format.h), which no other weight may become.
  static Codebook of_backoffs(const std::vector<float>& weights, int bits) {
    std::vector<float> others;
    std::copy_if(weights.begin(), weights.end(), std::back_inserter(others),
                 [](float v) { return v != 0.0f; });
    Codebook book;
    book.zeros_ = true;
    book.begin_ = 2;
    book.codes_ = {-0.0f, 0.0f};
    const std::vector<float> centres = bin_centres(std::move(others), (1ull << bits) - 2);
    book.codes_.insert(book.codes_.end(), centres.begin(), centres.end());
    book.end_ = book.codes_.size();
    book.codes_.resize(1ull << bits, 0.0f);
    return book;
  }

  const std::vector<float>& codes() const { return codes_; }

  uint64_t encode(float value) const {
    if (zeros_ && value == 0.0f) return std::signbit(value) ? 0 : 1;
    if (!std::isfinite(value)) return codes_.size() - 1;
    const float *begin = codes_.data() + begin_, *end = codes_.data() + end_;
    const float* above = std::lower_bound(begin, end, value);
    if (above == end || (above > begin && value - above[-1] < above[0] - value)) --above;
    return static_cast<uint64_t>(above - codes_.data());
  }

 private:
  std::vector<float> codes_;
  size_t begin_ = 0, end_ = 0;  // the centres among the codes
  bool zeros_ = false;
};

}  // namespace ctcspeech::ngram
