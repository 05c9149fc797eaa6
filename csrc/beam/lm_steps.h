// What the beam search asks of a language model, and the memory of what it answered.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "beam/hot_words.h"
#include "ngram/ngram.h"

namespace ctcspeech::beam {

// Word numbers with the highest bit set are words outside the lexicon.
constexpr uint32_t kUnknown = 0xFFFFFFFEu;
inline bool is_unknown(uint32_t word) { return word >> 31 != 0; }

// A language model that numbers its states. Each decoding session has its own; not for several
// threads. Probabilities are natural logarithms.
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual uint32_t begin() = 0;  // the state at the start of a sentence
  // ln P(word | state) and the state after it. `word` is a number of the lexicon (or of a token,
  // where the model is one over tokens), kUnknown, or what `spelled` answered.
  virtual double score(uint32_t state, uint32_t word, uint32_t& next) = 0;
  virtual double finish(uint32_t state) = 0;  // ln P(end of sentence | state)
  // The number (highest bit set) of a word outside the lexicon, for models that care for its spelling.
  virtual bool wants_spelling() const { return false; }
  virtual uint32_t spelled(const std::string&) { return kUnknown; }
  // These states will be asked for scores: a model that computes in batches does so now.
  virtual void prepare(const std::vector<uint32_t>&) {}
  virtual size_t num_states() const = 0;
  virtual size_t bytes() const { return num_states() * (sizeof(ngram::State) + sizeof(uint32_t)); }
  // Forgets all states but these (ascending); states[i] is henceforth number i.
  virtual void keep(const std::vector<uint32_t>& states) = 0;
};

// An n-gram model; `indices` gives the model's number of each word of the lexicon (or token).
class NgramModel final : public LanguageModel {
 public:
  NgramModel(const ngram::Model& model, const std::vector<ngram::WordIndex>& indices);
  uint32_t begin() override { return intern(model_.begin_state()); }
  double score(uint32_t state, uint32_t word, uint32_t& next) override;
  double finish(uint32_t state) override;
  size_t num_states() const override { return states_.size(); }
  void keep(const std::vector<uint32_t>& states) override;

 private:
  uint32_t intern(const ngram::State& state);
  void rehash(size_t slots);

  const ngram::Model& model_;
  const std::vector<ngram::WordIndex>& indices_;
  std::vector<ngram::State> states_;
  std::vector<uint32_t> slots_;  // open addressing: number of a state + 1, 0 empty
};

// One step of the search in the language model.
struct Step {
  double factor = 1;  // what it multiplies the prefix's mass by
  double ln_lm = 0;   // the language model's own part, unweighted
  uint32_t next = 0;  // state after it
};

struct Weights {
  double lm_weight = 0, word_score = 0, unk_score = 0, neural_weight = 0;
};

// Steps from state to state by words and tokens: language model, neural language model over tokens,
// word score and hot words together, each computed once and remembered. Without any of them there is
// one state, 0.
class Steps {
 public:
  Steps(std::unique_ptr<LanguageModel> lm, bool lm_over_tokens,
        std::unique_ptr<LanguageModel> neural, const HotWords* hot, const Weights& weights);

  uint32_t begin();
  const Step& word(uint32_t state, uint32_t word) { return find(state, word, 0); }
  const Step& token(uint32_t state, uint32_t token) { return find(state, token, kTokenBit); }
  Step finish(uint32_t state, bool end_of_sentence);
  LanguageModel* lm() { return lm_.get(); }
  bool lm_over_tokens() const { return scores_tokens_; }  // one of the models is
  bool wants_spelling() const { return wants_spelling_; }  // the language model does
  bool has_neural() const { return neural_ != nullptr; }
  // The neural model's part of these states is computed together. Changes `states`.
  void prepare(std::vector<uint32_t>& states);

  size_t num_states() const;
  size_t bytes() const;
  // Forgets all states but these (ascending); states[i] is henceforth number i.
  void keep(const std::vector<uint32_t>& states);

 private:
  static constexpr uint64_t kTokenBit = 1ull << 63, kEmpty = ~0ull;
  struct Entry {
    uint64_t key = kEmpty;
    Step step;
  };
  struct Parts {
    uint32_t lm, hot, neural;
    bool operator==(const Parts& o) const {
      return lm == o.lm && hot == o.hot && neural == o.neural;
    }
  };

  const Step& find(uint32_t state, uint32_t item, uint64_t kind);
  Step compute(uint32_t state, uint32_t item, bool is_token);
  double weighted(double ln_lm) const;
  bool joined() const { return hot_ || neural_; }
  Parts parts(uint32_t state) const { return joined() ? joined_[state] : Parts{state, 0, 0}; }
  uint32_t join(const Parts& parts);
  static uint64_t hash(const Parts& parts);
  void grow();

  std::unique_ptr<LanguageModel> lm_;
  bool lm_over_tokens_;
  std::unique_ptr<LanguageModel> neural_;  // null: none
  bool scores_tokens_, wants_spelling_;
  const HotWords* hot_;  // null: none
  Weights weights_;
  std::vector<Entry> cache_;
  size_t used_ = 0;
  std::vector<Parts> joined_;  // where a state is several states
  std::vector<uint32_t> joined_slots_;
};

}  // namespace ctcspeech::beam
