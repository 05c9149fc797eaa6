// The binary format of n-gram models, version 1. All numbers are little-endian; floats are IEEE 754.
//
// A file is a header, a table of sections, a checksum of both, and the sections. Every section starts
// at a multiple of 64 bytes, so that the file can be mapped and used in place. A reader MUST refuse
// another magic, version or byte order, a header checksum that does not match, a section that does
// not lie within the file, and a section whose size does not follow from the header. It MAY leave the
// sections' checksums unchecked; then every value read from a section MUST be checked before it is
// used as an index.
//
//   Header          184 bytes, below
//   SectionEntry    40 bytes each, `section_count` of them, sorted by (id, order)
//   uint64          checksum (ngram/hash.h) of everything before it
//   sections        zero bytes between them
//
// Sections of both kinds
//   kVocabularyOffsets   uint64[V + 1]: where each word starts in kVocabularyBytes; the last is its end
//   kVocabularyBytes     the words, UTF-8, end to end. Word 0 is <unk>
//   kVocabularyTable     hash table of words: {uint32 tag, uint32 index}[buckets + extra], linear
//                        probing from the bucket of hash_bytes(word); tag = low half of the hash;
//                        index 0xFFFFFFFF: empty. `extra` = slots after the last bucket, at least the
//                        longest probe, so that probing never wraps around
// Kind 1, probing
//   kUnigrams            {float probability, float backoff}[V]
//   kProbing, n >= 2     {uint64 key, float probability, float backoff}[buckets + extra] for
//                        n < order, {uint64 key, float probability} for n = order (12 bytes, packed).
//                        key = the n words hashed newest first (with KenLM's hash if flags say so,
//                        for models that were such binaries); 0: empty. Buckets and `extra` as above
// Kind 2, trie
//   kUnigrams            {float probability, float backoff, uint64 first_child}[V + 1]; the children
//                        of word i are the entries [first_child of i, first_child of i + 1) of order 2
//   kTrie, n >= 2        bit-packed records, sorted; the path of an entry reads an n-gram from its
//                        newest word to its oldest. A record is, from its low bits: the oldest word
//                        (word_bits), the probability and, for n < order, the backoff and first_child
//                        (pointer_bits; into order n + 1). One more record than entries for n < order,
//                        of which only first_child counts. `extra` = word_bits | pointer_bits << 8.
//                        8 bytes of padding at the end, so that any record can be read 8 bytes at once
//   kProbabilityCodes    float[2^probability_bits] for each n >= 2, if probability_bits > 0; then a
//                        record holds the code in place of the float
//   kBackoffCodes        float[2^backoff_bits] for each 2 <= n < order, likewise
//
// A probability is stored as its absolute value (no log-probability is positive); in kind 1 its sign
// bit is set if a longer n-gram ends in this one, i.e. if looking further can succeed. A backoff of
// -0.0 says that no longer n-gram starts with this one and that its weight is 0: the context can be
// forgotten. +0.0 says that the weight is 0 but a longer n-gram exists.
#pragma once

#include <cmath>
#include <cstdint>

#include "ngram/ngram.h"

namespace ctcspeech::ngram {

constexpr unsigned char kMagic[8] = {0x89, 'C', 'L', 'M', '\r', '\n', 0x1A, '\n'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kByteOrder = 0x01020304;
constexpr uint64_t kAlignment = 64;

struct Header {
  unsigned char magic[8];
  uint32_t version;
  uint32_t byte_order;
  uint32_t kind;
  uint32_t order;
  uint32_t section_count;
  WordIndex bos;
  WordIndex eos;
  uint32_t flags;  // kHasUnknown, kKenlmKeys; a reader MUST refuse others
  uint64_t file_size;
  uint64_t vocabulary_size;  // V, with <unk>
  uint64_t seed;             // of the keys of kind 1
  uint64_t counts[kMaxOrder];
  uint8_t probability_bits;  // 0: not quantised
  uint8_t backoff_bits;
  uint8_t reserved[22];
};
static_assert(sizeof(Header) == 184, "the header has no padding");

constexpr uint32_t kHasUnknown = 1;  // the source listed <unk>; else its probability is a default
constexpr uint32_t kKenlmKeys = 2;   // of kind 1: keys grow by kenlm_extend_key

enum SectionId : uint32_t {
  kVocabularyOffsets = 1,
  kVocabularyBytes = 2,
  kVocabularyTable = 3,
  kUnigrams = 4,
  kProbing = 5,
  kTrie = 6,
  kProbabilityCodes = 7,
  kBackoffCodes = 8,
};

struct SectionEntry {
  uint32_t id;
  uint32_t order;  // 0 where the section is not of one order
  uint64_t offset;
  uint64_t size;
  uint64_t extra;
  uint64_t checksum;
};
static_assert(sizeof(SectionEntry) == 40, "no padding");

struct UnigramRecord {
  float probability;
  float backoff;
};
struct TrieUnigramRecord {
  float probability;
  float backoff;
  uint64_t first_child;
};
struct ProbingRecord {
  uint64_t key;
  float probability;
  float backoff;
};
constexpr uint64_t kLongestRecordSize = 12;  // key and probability
struct VocabularySlot {
  uint32_t tag;
  uint32_t index;
};

// Of stored values, as a model's file may hold them.
inline void check_probability(float log10) {
  if (!(log10 <= 0)) throw Error("a log10 probability is above 0 or not a number");
}
inline void check_backoff(float log10) {
  if (!std::isfinite(log10)) throw Error("a log10 back-off weight is not finite");
}

constexpr uint32_t kEmptySlot = 0xFFFFFFFFu;

}  // namespace ctcspeech::ngram
