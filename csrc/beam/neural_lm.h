// A neural language model over labels for the beam search: states are computed in batches, when the
// prefixes that have them go on, and kept.
#pragma once

#include <cstdint>
#include <vector>

#include "beam/lm_steps.h"
#include "neural/lstm.h"

namespace ctcspeech::beam {

// `labels` gives the model's number of each token.
class NeuralLm final : public LanguageModel {
 public:
  NeuralLm(const neural::Lstm& lstm, const std::vector<int32_t>& labels);
  uint32_t begin() override;
  double score(uint32_t state, uint32_t token, uint32_t& next) override;
  double finish(uint32_t state) override;
  void prepare(const std::vector<uint32_t>& states) override;
  size_t num_states() const override { return states_.size(); }
  size_t bytes() const override;
  void keep(const std::vector<uint32_t>& states) override;

 private:
  // A state that nothing was asked of yet is its parent and a label.
  struct State {
    uint32_t parent;
    int32_t label;
    uint32_t values;  // place in values_, kNone: not computed
  };
  static constexpr uint32_t kNone = 0xFFFFFFFFu;
  float* state_at(uint32_t place) { return values_[place].data(); }
  float* ln_p_at(uint32_t place) { return values_[place].data() + lstm_.state_size(); }
  const float* ln_p(uint32_t state);
  void compute();  // all of pending_

  const neural::Lstm& lstm_;
  const std::vector<int32_t>& labels_;
  uint32_t start_ = kNone;
  std::vector<State> states_;
  std::vector<std::vector<float>> values_;  // hidden values and cells, then ln P of each label
  std::vector<uint32_t> pending_;
};

}  // namespace ctcspeech::beam
