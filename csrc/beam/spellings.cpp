#include "beam/spellings.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace ctcspeech::beam {

namespace {

constexpr uint32_t kNowhere = 0xFFFFFFFFu;

// Builds a lattice position by position, in the order of their numbers.
class Builder {
 public:
  explicit Builder(bool gap_at_start) { add(gap_at_start); }

  uint32_t add(bool gap) {
    const uint32_t arrivals = static_cast<uint32_t>(lattice_.arrivals.size());
    lattice_.positions.push_back({arrivals, arrivals, 0, gap});
    return static_cast<uint32_t>(lattice_.positions.size()) - 1;
  }
  // To the newest position by `token` from those of `from` that there are.
  void arrive(uint32_t token, std::initializer_list<uint32_t> from) {
    const uint32_t first = static_cast<uint32_t>(lattice_.sources.size());
    const uint32_t here = static_cast<uint32_t>(lattice_.positions.size()) - 1;
    for (const uint32_t source : from) {
      if (source == kNowhere) continue;
      lattice_.sources.push_back(source);
      lattice_.positions[source].furthest = here;
    }
    const uint32_t end = static_cast<uint32_t>(lattice_.sources.size());
    if (first == end) return;
    lattice_.arrivals.push_back({token, first, end});
    lattice_.positions.back().end_arrival = static_cast<uint32_t>(lattice_.arrivals.size());
  }
  // Takes the newest position back if nothing leads to it.
  bool keep() {
    const Lattice::Position& last = lattice_.positions.back();
    if (last.first_arrival != last.end_arrival) return true;
    lattice_.positions.pop_back();
    return false;
  }
  Lattice finish(std::initializer_list<uint32_t> ends) {
    for (const uint32_t end : ends)
      if (end != kNowhere) lattice_.ends.push_back(end);
    return std::move(lattice_);
  }

 private:
  Lattice lattice_;
};

}  // namespace

Spellings::Spellings(const std::vector<Token>& tokens, uint32_t blank, bool by_token)
    : tokens_(tokens), by_token_(by_token) {
  std::vector<std::string> codes, texts;
  bool pieces = false;
  for (uint32_t c = 0; c < tokens.size(); ++c) {
    const Token& token = tokens[c];
    if (c == blank || token.skipped) continue;
    if (is_separator(c)) {
      separators_.insert(token.separates ? separators_.begin() : separators_.end(), c);
    } else {
      pieces |= token.begins_word;
      texts.push_back(token.text);
    }
    codes.push_back(token.begins_word ? " " + token.text : token.text);
  }
  trims_ = !by_token || (!separators_.empty() && tokens[separators_[0]].separates);
  if (by_token) return;
  // A prefix code is decoded in one way only: characters are one, pieces are not.
  std::sort(codes.begin(), codes.end());
  ambiguous_ = pieces;
  for (size_t i = 1; i < codes.size(); ++i)
    if (codes[i - 1] != " " || codes[i] != " ")
      ambiguous_ |= codes[i].compare(0, codes[i - 1].size(), codes[i - 1]) == 0;
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  texts_ = std::make_unique<Trie>(texts);
  of_word_.resize(texts.size());
  for (uint32_t c = 0; c < tokens.size(); ++c) {
    if (c == blank || tokens[c].skipped || tokens[c].text.empty()) continue;
    const auto place = std::lower_bound(texts.begin(), texts.end(), tokens[c].text);
    of_word_[static_cast<size_t>(place - texts.begin())].push_back(c);
  }
}

Lattice Spellings::lattice(const std::vector<uint32_t>& tokens) const {
  return by_token_ ? of_tokens(tokens) : of_text(text_of(tokens));
}

std::string Spellings::text_of(const std::vector<uint32_t>& tokens) const {
  std::string text;
  bool gap = false;
  for (const uint32_t number : tokens) {
    const Token& token = tokens_[number];
    gap |= token.begins_word;
    if (token.text.empty()) continue;
    if (gap && !text.empty()) text += ' ';
    text += token.text;
    gap = false;
  }
  return text;
}

// A position stands behind i bytes of the text, and another one, a gap, where there a word ends and
// a separator was said.
Lattice Spellings::of_text(const std::string& text) const {
  struct Step {  // `token` leads from byte `begin` of the text to where the list is
    uint32_t token;
    size_t begin;
  };
  std::vector<std::vector<Step>> to(text.size() + 1);
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t place = Trie::kRoot;
    for (size_t end = i; end < text.size(); ++end) {
      place = texts_->child(place, static_cast<uint8_t>(text[end]));
      if (place == Trie::kNone) break;
      const uint32_t word = (*texts_)[place].word;
      if (word == kNoWord) continue;
      for (const uint32_t token : of_word_[word]) to[end + 1].push_back({token, i});
    }
  }
  Builder lattice(true);
  std::vector<uint32_t> behind(text.size() + 1, kNowhere), gap(text.size() + 1, kNowhere);
  gap[0] = 0;
  for (size_t i = 1; i <= text.size(); ++i) {
    const uint32_t here = lattice.add(false);
    for (const auto& [token, begin] : to[i]) {
      const bool starts = begin == 0 || text[begin - 1] == ' ';
      const size_t before = begin == 0 ? 0 : begin - 1;  // the end of the word before
      const uint32_t after_gap = starts ? gap[before] : kNowhere;
      if (tokens_[token].begins_word) {
        lattice.arrive(token, {starts ? behind[before] : kNowhere, after_gap});
      } else {
        lattice.arrive(token, {behind[begin], after_gap});
      }
    }
    if (!lattice.keep()) continue;
    behind[i] = here;
    if (separators_.empty() || (i < text.size() && text[i] != ' ')) continue;
    gap[i] = lattice.add(true);
    lattice.arrive(separators_[0], {here});
  }
  return lattice.finish({behind.back(), gap.back()});
}

Lattice Spellings::of_tokens(const std::vector<uint32_t>& tokens) const {
  Builder lattice(trims_);
  uint32_t here = 0;
  for (const uint32_t token : tokens) {
    const uint32_t next = lattice.add(is_separator(token));
    lattice.arrive(token, {here});
    here = next;
  }
  if (tokens.empty() || separators_.empty() || !trims_) return lattice.finish({here});
  const uint32_t after = lattice.add(true);
  lattice.arrive(separators_[0], {here});
  return lattice.finish({here, after});
}

}  // namespace ctcspeech::beam
