// N-gram language models: reading (ARPA, own binary) and querying. Building is in ngram_estimate.*.
//
//   std::unique_ptr<Model> model = Model::load("lm.bin");
//   State state = model->begin_state(), next;
//   float log10_probability = model->score(state, model->index("hello"), next);
//
// A model is immutable after loading: any number of threads may query it at once. Probabilities and
// back-off weights are base-10 logarithms, as in the ARPA format. Sources: Katz 1987 (back-off);
// Heafield 2011 (the reversed probing and trie layouts, minimal states).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace ctcspeech::ngram {

using WordIndex = uint32_t;  // 0 is <unk>
constexpr int kMaxOrder = 12;
constexpr float kDefaultUnknown = -100.0f;  // log10 P(<unk>) of a model that lists no <unk>

// A file is damaged or of an unknown kind, or it cannot be read or written. The message names the
// file, and the line of a text file.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What later scores can depend on: the last `length` words, newest first, with the back-off weight of
// the n-gram that each completes. Words which can change no later score are left out, so that equal
// states mean equal futures.
struct State {
  WordIndex words[kMaxOrder - 1];
  float backoff[kMaxOrder - 1];
  uint8_t length = 0;

  bool operator==(const State& other) const {
    return length == other.length &&
           std::memcmp(words, other.words, length * sizeof(WordIndex)) == 0;
  }
  bool operator!=(const State& other) const { return !(*this == other); }
};

inline uint64_t hash_value(const State& state) {
  uint64_t h = 0x9E3779B97F4A7C15ull + state.length;
  for (int i = 0; i < state.length; ++i) {
    h = (h ^ state.words[i]) * 0xD6E8FEB86659FD93ull;
    h ^= h >> 32;
  }
  return h;
}

struct WordScore {
  float log10;  // of P(word | state)
  int order;    // length of the n-gram whose probability was used, 1 for a unigram
};

enum class Kind { kProbing = 1, kTrie = 2 };

class Image;           // ngram/image.h: the sections of a binary model, in memory or mapped
class VocabularyView;  // ngram/vocabulary.h
struct ProbingView;    // ngram/probing.h
struct TrieView;       // ngram/trie.h

class Model {
 public:
  // Reads a plain ARPA file, a binary of this package, or one of KenLM, told apart by content. Throws
  // Error. A binary of this package is mapped and only its header is read: see verify().
  // `unknown` is log10 P(<unk>) for an ARPA file that has no <unk>.
  static std::unique_ptr<Model> load(const std::string& path, float unknown = kDefaultUnknown);
  // Takes a binary image. `name` stands in error messages for the file.
  static std::unique_ptr<Model> from_image(std::unique_ptr<Image> image, const std::string& name);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  int order() const { return order_; }
  Kind kind() const { return kind_; }
  size_t vocab_size() const { return vocab_size_; }  // <unk>, <s> and </s> included
  size_t ngram_count(int order) const;               // order in [1, order()]
  const Image& image() const { return *image_; }

  WordIndex index(std::string_view word) const;  // 0 where the word is not in the vocabulary
  std::string_view word(WordIndex index) const;  // "<unk>" for 0 and for indices out of range
  WordIndex bos() const { return bos_; }         // <s>
  WordIndex eos() const { return eos_; }         // </s>

  State begin_state() const { return begin_state_; }  // after <s>
  State null_state() const { return State{}; }        // no context

  // log10 P(word | in), and the state after it. `out` must not be `in`. A word index out of range is
  // taken for <unk>.
  float score(const State& in, WordIndex word, State& out) const {
    return full_score(in, word, out).log10;
  }
  WordScore full_score(const State& in, WordIndex word, State& out) const;

  // Reads all of it: throws Error where a checksum is wrong, a probability is above 0 or no number,
  // or a back-off weight is not finite.
  void verify() const;

 private:
  Model();
  static std::unique_ptr<Model> load_kenlm(const std::string& path);

  std::unique_ptr<Image> image_;
  std::unique_ptr<VocabularyView> vocabulary_;
  std::unique_ptr<ProbingView> probing_;  // one of the two is set
  std::unique_ptr<TrieView> trie_;
  Kind kind_ = Kind::kProbing;
  int order_ = 0;
  size_t vocab_size_ = 0;
  WordIndex bos_ = 0, eos_ = 0;
  State begin_state_;
};

}  // namespace ctcspeech::ngram
