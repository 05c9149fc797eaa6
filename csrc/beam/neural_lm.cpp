#include "beam/neural_lm.h"

namespace ctcspeech::beam {

NeuralLm::NeuralLm(const neural::Lstm& lstm, const std::vector<int32_t>& labels)
    : lstm_(lstm), labels_(labels) {}

uint32_t NeuralLm::begin() {
  // The first state is the one after the end of the sentence before.
  if (start_ == kNone) {
    start_ = static_cast<uint32_t>(states_.size());
    states_.push_back({kNone, neural::kEnd, kNone});
  }
  return start_;
}

double NeuralLm::score(uint32_t state, uint32_t token, uint32_t& next) {
  const int32_t label = labels_[token];
  const double ln = static_cast<double>(ln_p(state)[label]);
  next = static_cast<uint32_t>(states_.size());
  states_.push_back({state, label, kNone});
  return ln;
}

double NeuralLm::finish(uint32_t state) { return static_cast<double>(ln_p(state)[neural::kEnd]); }

const float* NeuralLm::ln_p(uint32_t state) {
  if (states_[state].values == kNone) {
    pending_.assign(1, state);
    compute();
  }
  return ln_p_at(states_[state].values);
}

void NeuralLm::prepare(const std::vector<uint32_t>& states) {
  pending_.clear();
  for (const uint32_t state : states)
    if (states_[state].values == kNone) pending_.push_back(state);
  compute();
}

// A state's parent was asked for the state's score: it is computed.
void NeuralLm::compute() {
  const size_t size = static_cast<size_t>(lstm_.state_size() + lstm_.shape().labels);
  std::vector<const float*> from;
  std::vector<int32_t> labels;
  std::vector<float*> next, ln_p;
  for (const uint32_t state : pending_) {
    State& s = states_[state];
    if (s.values != kNone) continue;  // twice in the list
    s.values = static_cast<uint32_t>(values_.size());
    values_.emplace_back(size);
    from.push_back(s.parent == kNone ? nullptr : state_at(states_[s.parent].values));
    labels.push_back(s.label);
  }
  for (size_t place = values_.size() - labels.size(); place < values_.size(); ++place) {
    next.push_back(state_at(static_cast<uint32_t>(place)));
    ln_p.push_back(ln_p_at(static_cast<uint32_t>(place)));
  }
  if (!labels.empty())
    lstm_.step(from.data(), labels.data(), static_cast<int64_t>(labels.size()), next.data(),
               ln_p.data());
  pending_.clear();
}

size_t NeuralLm::bytes() const {
  const size_t size = static_cast<size_t>(lstm_.state_size() + lstm_.shape().labels);
  return states_.size() * sizeof(State) + values_.size() * size * sizeof(float);
}

void NeuralLm::keep(const std::vector<uint32_t>& states) {
  prepare(states);  // their parents go
  std::vector<State> kept;
  std::vector<std::vector<float>> values;
  uint32_t start = kNone;
  for (const uint32_t state : states) {
    if (state == start_) start = static_cast<uint32_t>(kept.size());
    kept.push_back({kNone, states_[state].label, static_cast<uint32_t>(values.size())});
    values.push_back(std::move(values_[states_[state].values]));
  }
  start_ = start;
  states_ = std::move(kept);
  values_ = std::move(values);
}

}  // namespace ctcspeech::beam
