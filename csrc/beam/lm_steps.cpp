#include "beam/lm_steps.h"

#include <algorithm>
#include <cmath>

namespace ctcspeech::beam {

namespace {

constexpr double kLn10 = 2.302585092994046;
constexpr double kMostGain = 300;  // of one step, so that no weight makes a mass infinite

inline uint64_t mix(uint64_t key) {
  key *= 0x9E3779B97F4A7C15ull;
  return key ^ (key >> 29);
}

}  // namespace

NgramModel::NgramModel(const ngram::Model& model, const std::vector<ngram::WordIndex>& indices)
    : model_(model), indices_(indices), slots_(256, 0) {}

double NgramModel::score(uint32_t state, uint32_t word, uint32_t& next) {
  ngram::State after;
  const ngram::WordIndex index = word < indices_.size() ? indices_[word] : 0;
  const float log10 = model_.score(states_[state], index, after);
  next = intern(after);
  return kLn10 * log10;
}

double NgramModel::finish(uint32_t state) {
  ngram::State after;
  return kLn10 * model_.score(states_[state], model_.eos(), after);
}

uint32_t NgramModel::intern(const ngram::State& state) {
  if (states_.size() * 2 >= slots_.size()) rehash(slots_.size() * 2);
  size_t slot = mix(ngram::hash_value(state)) & (slots_.size() - 1);
  while (slots_[slot] != 0) {
    if (states_[slots_[slot] - 1] == state) return slots_[slot] - 1;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  states_.push_back(state);
  slots_[slot] = static_cast<uint32_t>(states_.size());
  return static_cast<uint32_t>(states_.size()) - 1;
}

void NgramModel::rehash(size_t slots) {
  slots_.assign(slots, 0);
  for (size_t i = 0; i < states_.size(); ++i) {
    size_t slot = mix(ngram::hash_value(states_[i])) & (slots - 1);
    while (slots_[slot] != 0) slot = (slot + 1) & (slots - 1);
    slots_[slot] = static_cast<uint32_t>(i) + 1;
  }
}

void NgramModel::keep(const std::vector<uint32_t>& states) {
  for (size_t i = 0; i < states.size(); ++i) states_[i] = states_[states[i]];
  states_.resize(states.size());
  size_t slots = 256;
  while (slots <= states.size() * 2) slots *= 2;
  rehash(slots);
}

Steps::Steps(std::unique_ptr<LanguageModel> lm, bool lm_over_tokens,
             std::unique_ptr<LanguageModel> neural, const HotWords* hot, const Weights& weights)
    : lm_(std::move(lm)),
      lm_over_tokens_(lm_over_tokens),
      neural_(std::move(neural)),
      scores_tokens_(lm_over_tokens_ || neural_),
      wants_spelling_(lm_ && lm_->wants_spelling()),
      hot_(hot),
      weights_(weights),
      cache_(1 << 10),
      joined_slots_(joined() ? 256 : 0, 0) {}

uint32_t Steps::begin() {
  const uint32_t lm = lm_ ? lm_->begin() : 0;
  return joined() ? join({lm, 0, neural_ ? neural_->begin() : 0}) : lm;
}

size_t Steps::num_states() const {
  return std::max(lm_ ? lm_->num_states() : size_t{1}, joined_.size());
}

size_t Steps::bytes() const {
  return cache_.capacity() * sizeof(Entry) + joined_.size() * (sizeof(Parts) + sizeof(uint32_t)) +
         (lm_ ? lm_->bytes() : 0) + (neural_ ? neural_->bytes() : 0);
}

uint64_t Steps::hash(const Parts& parts) {
  return mix((uint64_t{parts.lm} << 32 | parts.hot) ^ mix(parts.neural));
}

uint32_t Steps::join(const Parts& parts) {
  if (joined_.size() * 2 >= joined_slots_.size()) {
    joined_slots_.assign(joined_slots_.size() * 2, 0);
    for (size_t i = 0; i < joined_.size(); ++i) {
      size_t slot = hash(joined_[i]) & (joined_slots_.size() - 1);
      while (joined_slots_[slot] != 0) slot = (slot + 1) & (joined_slots_.size() - 1);
      joined_slots_[slot] = static_cast<uint32_t>(i) + 1;
    }
  }
  size_t slot = hash(parts) & (joined_slots_.size() - 1);
  while (joined_slots_[slot] != 0) {
    if (joined_[joined_slots_[slot] - 1] == parts) return joined_slots_[slot] - 1;
    slot = (slot + 1) & (joined_slots_.size() - 1);
  }
  joined_.push_back(parts);
  joined_slots_[slot] = static_cast<uint32_t>(joined_.size());
  return static_cast<uint32_t>(joined_.size()) - 1;
}

void Steps::prepare(std::vector<uint32_t>& states) {
  for (uint32_t& state : states) state = joined_[state].neural;
  neural_->prepare(states);
}

const Step& Steps::find(uint32_t state, uint32_t item, uint64_t kind) {
  const uint64_t key = kind | uint64_t{state} << 32 | item;
  size_t slot = mix(key) & (cache_.size() - 1);
  while (cache_[slot].key != kEmpty) {
    if (cache_[slot].key == key) return cache_[slot].step;
    slot = (slot + 1) & (cache_.size() - 1);
  }
  const Step step = compute(state, item, kind != 0);
  if (used_ * 2 >= cache_.size()) {
    grow();
    slot = mix(key) & (cache_.size() - 1);
    while (cache_[slot].key != kEmpty) slot = (slot + 1) & (cache_.size() - 1);
  }
  ++used_;
  cache_[slot] = {key, step};
  return cache_[slot].step;
}

void Steps::grow() {
  std::vector<Entry> old(cache_.size() * 2);
  old.swap(cache_);
  for (const Entry& entry : old) {
    if (entry.key == kEmpty) continue;
    size_t slot = mix(entry.key) & (cache_.size() - 1);
    while (cache_[slot].key != kEmpty) slot = (slot + 1) & (cache_.size() - 1);
    cache_[slot] = entry;
  }
}

// What is impossible to a language model stays so for any weight but 0.
double Steps::weighted(double ln_lm) const {
  if (weights_.lm_weight == 0) return 0;
  return std::isinf(ln_lm) ? -HUGE_VAL : weights_.lm_weight * ln_lm;
}

Step Steps::compute(uint32_t state, uint32_t item, bool is_token) {
  Parts at = parts(state);
  Step step;
  double ln = 0;
  if (lm_ && is_token == lm_over_tokens_) {
    uint32_t next;
    step.ln_lm = lm_->score(at.lm, item, next);
    at.lm = next;
    ln = weighted(step.ln_lm);
  }
  if (neural_ && is_token) {
    uint32_t next;
    ln += weights_.neural_weight * neural_->score(at.neural, item, next);
    at.neural = next;
  }
  if (!is_token) {
    ln += weights_.word_score;
    if (is_unknown(item)) ln += weights_.unk_score;
    if (hot_) {
      double bonus;
      at.hot = hot_->step(at.hot, item, bonus);
      ln += bonus;
    }
  }
  step.factor = std::exp(std::min(ln, kMostGain));
  step.next = joined() ? join(at) : at.lm;
  return step;
}

Step Steps::finish(uint32_t state, bool end_of_sentence) {
  const Parts at = parts(state);
  Step step;
  double ln = 0;
  if (lm_ && end_of_sentence) {
    step.ln_lm = lm_->finish(at.lm);
    ln = weighted(step.ln_lm);
  }
  if (neural_ && end_of_sentence) ln += weights_.neural_weight * neural_->finish(at.neural);
  if (hot_) ln += hot_->finish(at.hot);
  step.factor = std::exp(std::min(ln, kMostGain));
  step.next = state;
  return step;
}

namespace {

// One model forgets all states but those in a column of the parts, which are numbered anew.
template <class Column>
void keep_column(LanguageModel* model, std::vector<Column>& kept, uint32_t Column::*column) {
  if (!model) return;
  std::vector<uint32_t> states;
  for (const Column& parts : kept) states.push_back(parts.*column);
  std::sort(states.begin(), states.end());
  states.erase(std::unique(states.begin(), states.end()), states.end());
  model->keep(states);
  for (Column& parts : kept)
    parts.*column = static_cast<uint32_t>(
        std::lower_bound(states.begin(), states.end(), parts.*column) - states.begin());
}

}  // namespace

void Steps::keep(const std::vector<uint32_t>& states) {
  if (joined()) {
    std::vector<Parts> kept;
    for (const uint32_t state : states) kept.push_back(joined_[state]);
    keep_column(lm_.get(), kept, &Parts::lm);
    keep_column(neural_.get(), kept, &Parts::neural);
    joined_.clear();
    joined_slots_.assign(256, 0);
    for (const Parts& parts : kept) join(parts);
  } else if (lm_) {
    lm_->keep(states);
  }
  cache_.assign(1 << 10, Entry{});
  cache_.shrink_to_fit();
  used_ = 0;
}

}  // namespace ctcspeech::beam
