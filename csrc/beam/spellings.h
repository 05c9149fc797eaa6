// All labellings of a text: a reader drops separators at either end and takes several in a row for
// one, and pieces may write a word in more than one way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "beam/lexicon.h"

namespace ctcspeech::beam {

// What a token adds to the text.
struct Token {
  std::string text;          // bytes
  bool begins_word = false;  // a piece marked as a word's first; also a separator, which has no text
  bool separates = false;    // it stands between words, never before the first
  bool skipped = false;      // never hypothesised (<unk>, <s>)
};

// The labellings of one text, as positions between tokens: to come to a position, one of its arrivals'
// tokens is said at one of the arrival's sources. In a gap, separators may go on. Sources have lower
// numbers than where they lead; position 0 is the start, a gap.
struct Lattice {
  struct Arrival {
    uint32_t token;
    uint32_t first_source, end_source;  // in `sources`
  };
  struct Position {
    uint32_t first_arrival, end_arrival;  // in `arrivals`; those of a gap stand for all separators
    uint32_t furthest;                    // the highest number that it leads to
    bool gap;
  };
  std::vector<Position> positions;
  std::vector<Arrival> arrivals;
  std::vector<uint32_t> sources;
  std::vector<uint32_t> ends;  // where the text is complete; empty if the tokens cannot write it
};

// A network's tokens, and how they write texts.
class Spellings {
 public:
  // `by_token`: a labelling is told from another by its tokens, not by its text (a language model
  // scores the tokens); only superfluous separators make no difference.
  Spellings(const std::vector<Token>& tokens, uint32_t blank, bool by_token);

  // A text may be written by labellings that differ in more than separators.
  bool ambiguous() const { return ambiguous_; }
  // Tokens without text that end a word; the first one stands for all in hypotheses.
  const std::vector<uint32_t>& separators() const { return separators_; }
  bool is_separator(uint32_t token) const {
    return tokens_[token].begins_word && tokens_[token].text.empty() && !tokens_[token].skipped;
  }
  // Separators before the first and after the last word make no difference.
  bool trims() const { return trims_; }

  // The labellings that read alike with `tokens`, which no superfluous separators are among.
  Lattice lattice(const std::vector<uint32_t>& tokens) const;

 private:
  Lattice of_text(const std::string& text) const;
  Lattice of_tokens(const std::vector<uint32_t>& tokens) const;
  std::string text_of(const std::vector<uint32_t>& tokens) const;

  const std::vector<Token>& tokens_;
  bool by_token_, ambiguous_ = false, trims_ = true;
  std::vector<uint32_t> separators_;
  std::unique_ptr<Trie> texts_;                 // of the tokens
  std::vector<std::vector<uint32_t>> of_word_;  // the tokens that have the trie's word for a text
};

// What the columns of emissions are.
struct Classes {
  size_t count;
  uint32_t blank;
  const std::vector<uint32_t>& separators;
};

// ln of the mass of all alignments of a lattice with the frames of `p`, (T, C) probabilities (Graves et
// al. 2006, section 4.1, with a lattice in place of a labelling). Positions at either end of those that
// hold the mass are left out where they hold less than `negligible` of it.
double forward(const Lattice& lattice, const std::vector<float>& p, const Classes& classes,
               double negligible);

// The same in logarithms, all positions, in double precision: `logp` is (T, C).
double log_forward(const Lattice& lattice, const std::vector<double>& logp, const Classes& classes);

// ln of the best alignment (Viterbi), and its class in each frame. Where the alignments tie, the one
// that stays longer in the earlier token is taken.
double best_path(const Lattice& lattice, const std::vector<double>& logp, const Classes& classes,
                 std::vector<uint32_t>& path);

}  // namespace ctcspeech::beam
