#include "ngram/vocabulary.h"

#include <algorithm>

#include "ngram/hash.h"

namespace ctcspeech::ngram {

Vocabulary::Vocabulary() : offsets_{0}, slots_(1024, VocabularySlot{0, kEmptySlot}) {
  insert("<unk>");
}

WordIndex Vocabulary::find(std::string_view word) const {
  const uint64_t hash = hash_bytes(word.data(), word.size());
  const uint64_t mask = slots_.size() - 1;
  for (uint64_t at = hash >> 32;; ++at) {
    const VocabularySlot slot = slots_[at & mask];
    if (slot.index == kEmptySlot) return kNone;
    if (slot.tag == static_cast<uint32_t>(hash) && this->word(slot.index) == word)
      return slot.index;
  }
}

WordIndex Vocabulary::insert(std::string_view word) {
  if (offsets_.size() > 1 && find(word) != kNone) return kNone;
  if (size() + 2 >= kEmptySlot) throw Error("more than 4294967293 words");
  const WordIndex index = static_cast<WordIndex>(size());
  bytes_.append(word);
  offsets_.push_back(bytes_.size());
  if (size() * 2 > slots_.size()) {
    grow();
    return index;
  }
  const uint64_t hash = hash_bytes(word.data(), word.size());
  const uint64_t mask = slots_.size() - 1;
  uint64_t at = hash >> 32;
  while (slots_[at & mask].index != kEmptySlot) ++at;
  slots_[at & mask] = {static_cast<uint32_t>(hash), index};
  return index;
}

void Vocabulary::grow() {
  slots_.assign(slots_.size() * 2, VocabularySlot{0, kEmptySlot});
  const uint64_t mask = slots_.size() - 1;
  for (WordIndex index = 0; index < size(); ++index) {
    const std::string_view w = word(index);
    const uint64_t hash = hash_bytes(w.data(), w.size());
    uint64_t at = hash >> 32;
    while (slots_[at & mask].index != kEmptySlot) ++at;
    slots_[at & mask] = {static_cast<uint32_t>(hash), index};
  }
}

namespace {

uint64_t vocabulary_buckets(uint64_t words) { return words * 2; }

std::vector<uint64_t> word_hashes(const Vocabulary& vocabulary) {
  std::vector<uint64_t> hashes(vocabulary.size());
  for (WordIndex i = 0; i < hashes.size(); ++i) {
    const std::string_view w = vocabulary.word(i);
    hashes[i] = hash_bytes(w.data(), w.size());
  }
  return hashes;
}

}  // namespace

void Vocabulary::announce(ImageBuilder& builder) const {
  const uint64_t buckets = vocabulary_buckets(size());
  const uint64_t extra = overflow_slots(word_hashes(*this), buckets);
  builder.announce(kVocabularyOffsets, 0, (size() + 1) * sizeof(uint64_t));
  builder.announce(kVocabularyBytes, 0, bytes_.size());
  builder.announce(kVocabularyTable, 0, (buckets + extra) * sizeof(VocabularySlot), extra);
}

void Vocabulary::fill(ImageBuilder& builder) const {
  std::copy(offsets_.begin(), offsets_.end(), builder.section_as<uint64_t>(kVocabularyOffsets));
  std::copy(bytes_.begin(), bytes_.end(), builder.section_as<char>(kVocabularyBytes));
  const std::vector<uint64_t> hashes = word_hashes(*this);
  const uint64_t buckets = vocabulary_buckets(size());
  const uint64_t slots = buckets + overflow_slots(hashes, buckets);
  VocabularySlot* table = builder.section_as<VocabularySlot>(kVocabularyTable);
  std::fill(table, table + slots, VocabularySlot{0, kEmptySlot});
  for (WordIndex i = 0; i < hashes.size(); ++i) {
    uint64_t at = bucket_of(hashes[i], buckets);
    while (table[at].index != kEmptySlot) ++at;
    table[at] = {static_cast<uint32_t>(hashes[i]), i};
  }
}

VocabularyView::VocabularyView(const Image& image) : size_(image.header().vocabulary_size) {
  offsets_ = image.section(kVocabularyOffsets, 0, (size_ + 1) * 8).as<uint64_t>();
  const Section bytes = image.section(kVocabularyBytes);
  bytes_ = bytes.as<char>();
  bytes_size_ = bytes.size;
  const Section table = image.section(kVocabularyTable);
  slots_ = table.as<VocabularySlot>();
  extra_ = table.extra;
  const uint64_t slots = table.count<VocabularySlot>();
  if (slots == 0 || extra_ >= slots) throw Error("the table of the vocabulary is damaged");
  buckets_ = slots - extra_;
}

std::string_view VocabularyView::word(WordIndex index) const {
  if (index >= size_) index = 0;
  const uint64_t begin = offsets_[index], end = offsets_[index + 1];
  if (begin > end || end > bytes_size_) return {};  // a damaged section
  return {bytes_ + begin, end - begin};
}

WordIndex VocabularyView::index(std::string_view word) const {
  const uint64_t hash = hash_bytes(word.data(), word.size());
  const uint64_t first = bucket_of(hash, buckets_);
  for (uint64_t at = first; at <= first + extra_; ++at) {
    const VocabularySlot slot = slots_[at];
    if (slot.index >= size_) return 0;  // empty
    if (slot.tag == static_cast<uint32_t>(hash) && this->word(slot.index) == word)
      return slot.index;
  }
  return 0;
}

}  // namespace ctcspeech::ngram
