// The words of a model: growing while a file is read, and as they stand in a binary image.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ngram/hash.h"
#include "ngram/image.h"

namespace ctcspeech::ngram {

// Words get indices in the order in which they come; <unk> is 0 from the start.
class Vocabulary {
 public:
  static constexpr WordIndex kNone = kEmptySlot;
  Vocabulary();
  size_t size() const { return offsets_.size() - 1; }
  std::string_view word(WordIndex index) const {
    return {bytes_.data() + offsets_[index], offsets_[index + 1] - offsets_[index]};
  }
  WordIndex find(std::string_view word) const;  // kNone if it is not there
  // The index of a new word, or kNone if it was there already.
  WordIndex insert(std::string_view word);

  void announce(ImageBuilder& builder) const;
  void fill(ImageBuilder& builder) const;

 private:
  void grow();
  std::string bytes_;
  std::vector<uint64_t> offsets_;
  std::vector<VocabularySlot> slots_;  // a power of two
};

class VocabularyView {
 public:
  explicit VocabularyView(const Image& image);
  WordIndex index(std::string_view word) const;
  std::string_view word(WordIndex index) const;

 private:
  uint64_t size_;
  const uint64_t* offsets_;
  const char* bytes_;
  uint64_t bytes_size_;
  const VocabularySlot* slots_;
  uint64_t buckets_, extra_;
};

// <UNK> is taken for <unk>, as KenLM does.
inline bool is_unknown(std::string_view word) { return word == "<unk>" || word == "<UNK>"; }

}  // namespace ctcspeech::ngram
