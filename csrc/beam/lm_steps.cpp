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

Steps::Steps(std::unique_ptr<LanguageModel> lm, bool lm_over_tokens, const HotWords* hot,
             const Weights& weights)
    : lm_(std::move(lm)),
      lm_over_tokens_(lm_over_tokens),
      hot_(hot),
      weights_(weights),
      cache_(1 << 10),
      pair_slots_(hot ? 256 : 0, 0) {}

uint32_t Steps::begin() {
  const uint32_t lm = lm_ ? lm_->begin() : 0;
  return hot_ ? join(lm, 0) : lm;
}

size_t Steps::num_states() const {
  return std::max(lm_ ? lm_->num_states() : size_t{1}, pairs_.size());
}

size_t Steps::bytes() const {
  const size_t state = sizeof(ngram::State) + 3 * sizeof(uint32_t);
  return cache_.capacity() * sizeof(Entry) + num_states() * state;
}

uint32_t Steps::join(uint32_t lm, uint32_t hot) {
  if (pairs_.size() * 2 >= pair_slots_.size()) {
    pair_slots_.assign(pair_slots_.size() * 2, 0);
    for (size_t i = 0; i < pairs_.size(); ++i) {
      size_t slot = mix(uint64_t{pairs_[i].lm} << 32 | pairs_[i].hot) & (pair_slots_.size() - 1);
      while (pair_slots_[slot] != 0) slot = (slot + 1) & (pair_slots_.size() - 1);
      pair_slots_[slot] = static_cast<uint32_t>(i) + 1;
    }
  }
  size_t slot = mix(uint64_t{lm} << 32 | hot) & (pair_slots_.size() - 1);
  while (pair_slots_[slot] != 0) {
    const Pair& pair = pairs_[pair_slots_[slot] - 1];
    if (pair.lm == lm && pair.hot == hot) return pair_slots_[slot] - 1;
    slot = (slot + 1) & (pair_slots_.size() - 1);
  }
  pairs_.push_back({lm, hot});
  pair_slots_[slot] = static_cast<uint32_t>(pairs_.size());
  return static_cast<uint32_t>(pairs_.size()) - 1;
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
  uint32_t lm = hot_ ? pairs_[state].lm : state, hot = hot_ ? pairs_[state].hot : 0;
  Step step;
  double ln = 0;
  if (lm_ && is_token == lm_over_tokens_) {
    uint32_t next;
    step.ln_lm = lm_->score(lm, item, next);
    lm = next;
    ln = weighted(step.ln_lm);
  }
  if (!is_token) {
    ln += weights_.word_score;
    if (is_unknown(item)) ln += weights_.unk_score;
    if (hot_) {
      double bonus;
      hot = hot_->step(hot, item, bonus);
      ln += bonus;
    }
  }
  step.factor = std::exp(std::min(ln, kMostGain));
  step.next = hot_ ? join(lm, hot) : lm;
  return step;
}

Step Steps::finish(uint32_t state, bool end_of_sentence) {
  Step step;
  double ln = 0;
  if (lm_ && end_of_sentence) {
    step.ln_lm = lm_->finish(hot_ ? pairs_[state].lm : state);
    ln = weighted(step.ln_lm);
  }
  if (hot_) ln += hot_->finish(pairs_[state].hot);
  step.factor = std::exp(std::min(ln, kMostGain));
  step.next = state;
  return step;
}

void Steps::keep(const std::vector<uint32_t>& states) {
  if (hot_) {
    std::vector<uint32_t> lm_states;
    std::vector<Pair> kept;
    for (uint32_t state : states) {
      kept.push_back(pairs_[state]);
      lm_states.push_back(pairs_[state].lm);
    }
    if (lm_) {
      std::sort(lm_states.begin(), lm_states.end());
      lm_states.erase(std::unique(lm_states.begin(), lm_states.end()), lm_states.end());
      lm_->keep(lm_states);
    }
    pairs_.clear();
    pair_slots_.assign(256, 0);
    for (Pair pair : kept) {
      if (lm_) {
        pair.lm = static_cast<uint32_t>(
            std::lower_bound(lm_states.begin(), lm_states.end(), pair.lm) - lm_states.begin());
      }
      join(pair.lm, pair.hot);
    }
  } else if (lm_) {
    lm_->keep(states);
  }
  cache_.assign(1 << 10, Entry{});
  cache_.shrink_to_fit();
  used_ = 0;
}

}  // namespace ctcspeech::beam
