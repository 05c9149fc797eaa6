// Reading the binaries that KenLM's build_binary writes (format version 5): probing and trie,
// quantised or not, with pointers in one piece or split.
//
// Nothing is used in place: every n-gram is read, checked, and laid out anew, so that a damaged file
// is an error here and the searches know one format each. What is known of the layout was read off
// files made by build_binary. All numbers are little-endian; nothing is aligned but where it is said.
//
//   52 bytes   "mmap lm http://kheafield.com/code format version 5\n\0", then zeros up to 56
//   32 bytes   float 0, 1, -0.5; uint32 1, 0xFFFFFFFF; 4 bytes; uint64 1: the writer's arithmetic
//   20 bytes   uint8 order, 3 bytes; float buckets to an n-gram; uint32 kind; uint8 whether the words
//              follow at the end, 3 bytes; uint32 version of the search (0 probing, 1 trie)
//   uint64[order]  the number of n-grams; then zeros up to a multiple of 8
//   kind 0, probing
//     uint32 0; uint32 words, <unk> included, where the count of the header may leave it out;
//       {uint64 hash, uint32 word}[buckets] of the words
//     {float probability, float backoff}[count + 1]
//     for 2 <= n < order: {uint64 key, float probability, float backoff}[buckets]
//     {uint64 key, float probability}[buckets]
//     buckets = max(entries + 1, entries * (buckets to an n-gram)). Key 0: empty. The key of "a b c" is
//     ((c * A) ^ ((b + 1) * B)) * A ^ ((a + 1) * B), with the two constants of kenlm_extend_key. The
//     sign of a probability is clear where a longer n-gram ends in this one
//   kinds 2 to 5, trie; 3 and 5 quantised, 4 and 5 with split pointers
//     uint64 hashes in use; uint64[words] hashes, sorted
//     quantised: uint8 2, bits of a probability, bits of a backoff, 5 bytes; then for 2 <= n < order
//       float[2^bits] probabilities, float[2^bits] backoffs; float[2^bits] of the longest
//     {float probability, float backoff, uint64 first_child}[words + 2]
//     for 2 <= n < order: records of word, probability (31 bits without its sign), backoff (32 bits)
//       or of word, code of the backoff, code of the probability; then first_child. One more record
//       than n-grams, and 8 bytes. Words have the bits that their number needs, first_child those that
//       the number of n-grams of order n + 1 needs
//     records of the longest: word, probability; one more and 8 bytes here too
//     split pointers, before the records of an order: uint8 0, uint8 most bits to be split off; at the
//       next multiple of 8 but 8 bytes: uint64 first record whose first_child has high bits k, for each
//       k; up to a multiple of 8 and 7 bytes in all. The records hold the low bits alone
//   the words, each ended by a zero byte, by number
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "ngram/image.h"
#include "ngram/table.h"

namespace ctcspeech::ngram {

bool is_kenlm(std::string_view head);  // the first bytes of a file

// A model has one of the two: a trie lists its n-grams, a probing table keeps hashes only.
struct KenlmModel {
  std::unique_ptr<Table> table;
  std::unique_ptr<Image> image;
  int probability_bits = 0, backoff_bits = 0;  // 0: not quantised
};

// Throws Error where the file is damaged, or of a kind or version that is not known.
KenlmModel read_kenlm(const std::string& path);

}  // namespace ctcspeech::ngram
