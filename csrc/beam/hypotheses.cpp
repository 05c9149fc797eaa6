// From the prefixes of the last frame to hypotheses: n-best, text, words with times, score parts.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <queue>
#include <set>
#include <unordered_set>

#include "beam/beam.h"

namespace ctcspeech::beam {

namespace {

constexpr size_t kSpareReadings = 3;  // looked at beyond n_best, since their order is a guess at first
constexpr double kNegligible = 1e-40;  // of all mass in a frame

// ln of the mass of all alignments of `tokens` with the frames of `p`, (T, C) probabilities (Graves et
// al. 2006, section 4.1). Position i has said i tokens: said[i] ends in the last of them, gap[i] in the
// blank. Only the positions between which the mass lies are looked at: those at either end that hold
// less than `negligible` of it are left out.
double forward(const std::vector<float>& p, size_t classes, uint32_t blank,
               const std::vector<uint32_t>& tokens, double negligible) {
  const size_t last = tokens.size();
  std::vector<double> said(last + 1, 0), gap(last + 1, 0);
  gap[0] = 1;
  size_t low = 0, high = 0;
  double ln_scale = 0;
  for (const float* row = p.data(); row != p.data() + p.size(); row += classes) {
    if (high < last) ++high;
    double sum = 0;
    for (size_t i = high; i > 0 && i >= low; --i) {  // downward: i - 1 still holds the frame before
      const uint32_t token = tokens[i - 1];
      const bool repeats = i > 1 && tokens[i - 2] == token;
      const double enters = gap[i - 1] + (repeats ? 0 : said[i - 1]);
      gap[i] = (gap[i] + said[i]) * row[blank];
      said[i] = (said[i] + enters) * row[token];
      sum += gap[i] + said[i];
    }
    if (low == 0) sum += gap[0] *= row[blank];
    if (sum == 0) return -std::numeric_limits<double>::infinity();
    const auto drop = [&](size_t i) {
      if (said[i] + gap[i] > sum * negligible) return false;
      said[i] = gap[i] = 0;
      return true;
    };
    while (low < high && drop(low)) ++low;
    while (high > low && drop(high)) --high;
    if (sum < 1e-100) {
      for (size_t i = low; i <= high; ++i) {
        said[i] /= sum;
        gap[i] /= sum;
      }
      ln_scale += std::log(sum);
    }
  }
  return std::log(said[last] + gap[last]) + ln_scale;
}

}  // namespace

// The prefixes between the root and `node`, in order.
std::vector<uint32_t> Session::trace(uint32_t node) const {
  std::vector<uint32_t> path;
  for (; node != root_; node = nodes_[node].parent) path.push_back(node);
  std::reverse(path.begin(), path.end());
  return path;
}

// The letters of the word that `node` is in.
std::string Session::spelling(uint32_t node) const {
  std::vector<uint32_t> tokens;
  for (uint32_t n = node; n != root_ && tokens.size() < nodes_.size(); n = nodes_[n].parent) {
    tokens.push_back(nodes_[n].token);
    if (d_.tokens_[nodes_[n].token].begins_word) break;
  }
  const bool whole = !tokens.empty() && d_.tokens_[tokens.back()].begins_word;
  if (!whole && d_.options_.n_best == 1) {  // the word began in the committed part
    for (size_t i = committed_.size(); i-- > 0;) {
      tokens.push_back(committed_[i]);
      if (d_.tokens_[committed_[i]].begins_word) break;
    }
  }
  std::string text;
  for (size_t i = tokens.size(); i-- > 0;) text += d_.tokens_[tokens[i]].text;
  return text;
}

// Ways to end with the active prefixes, best first. `whole`: the last word must be complete and the
// sentence ends.
std::vector<Session::Final> Session::finals(bool whole) {
  std::vector<Final> out;
  for (const uint32_t n : active_) {
    const Node node = nodes_[n];
    double w = node.pb + node.pnb;
    uint32_t state = node.state;
    const bool in_word = node.trie != Trie::kRoot;
    if (whole) {
      if (in_word && !close_last(node, n, w, state)) continue;
      w *= steps_.finish(state, d_.options_.end_of_sentence).factor;
    } else if (in_word) {
      w *= node.trie == kOov ? d_.oov_exit_ : (*d_.trie_)[node.trie].inverse;
    }
    if (w > 0) out.push_back({std::log(w), n, {}, {}});
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const Final& a, const Final& b) { return a.score > b.score; });
  return out;
}

// Adds to `finals` what recombinations put aside, likeliest first, until there are `wanted` different
// texts, and gives all their paths and texts. Their order is a guess: what flowed into a winner after
// it won counts for what it won over, too. A text may come twice, in different tokens.
void Session::expand(std::vector<Final>& finals, size_t wanted) const {
  struct Link {  // what follows a prefix: a chain, shared by the readings that have it
    uint32_t node, next;
  };
  struct Reading {
    double score;
    uint32_t node;   // goes on from this prefix
    int32_t before;  // only recombinations before this frame may replace it
    uint32_t rest;   // first link, kNil none
    size_t order;
  };
  const auto worse = [](const Reading& a, const Reading& b) {
    return a.score != b.score ? a.score < b.score : a.order > b.order;  // else the one found first
  };
  std::priority_queue<Reading, std::vector<Reading>, decltype(worse)> queue(worse);
  std::vector<Link> links;
  size_t found = 0;
  for (const Final& final : finals) queue.push({final.score, final.node, time_ + 1, kNil, found++});
  finals.clear();
  std::unordered_set<std::string> texts;
  std::set<std::vector<uint32_t>> known;
  for (size_t tries = 0; !queue.empty() && texts.size() < wanted && finals.size() < 2 * wanted &&
                         tries < 1000 + 100 * wanted;
       ++tries) {
    const Reading top = queue.top();
    queue.pop();
    std::vector<uint32_t> path = trace(top.node), tokens;
    for (uint32_t i = top.rest; i != kNil; i = links[i].next) path.push_back(links[i].node);
    for (const uint32_t n : path) tokens.push_back(nodes_[n].token);
    Hypothesis written;
    write_words(tokens, {}, written);
    if (known.insert(std::move(tokens)).second) {
      texts.insert(written.text);
      finals.push_back({top.score, top.node, std::move(path), std::move(written.text)});
    }
    uint32_t rest = top.rest;
    int32_t before = top.before;
    for (uint32_t n = top.node;; n = nodes_[n].parent) {
      const auto events = events_.find(n);
      if (events != events_.end()) {
        for (const Event& event : events->second)
          if (event.frame < before)
            queue.push({top.score - event.loss, event.loser, event.frame, rest, found++});
      }
      if (n == root_) break;
      links.push_back({n, rest});
      rest = static_cast<uint32_t>(links.size()) - 1;
      before = nodes_[n].created;  // the path left the parent then: what came later is not of it
    }
  }
}

// Gives readings the mass of all their alignments (Graves et al. 2006, section 4.1) in place of what
// the search followed of it, and orders them anew. The first stays first: the search chose it, and a
// stream has told its beginning. Of readings with one text the best stays; those that the frames are
// too few for are dropped.
void Session::rescore(std::vector<Final>& finals) {
  const std::vector<float> p = probabilities();
  const size_t classes = d_.tokens_.size();
  for (Final& final : finals) {
    std::vector<uint32_t> tokens;
    for (const uint32_t n : final.path) tokens.push_back(nodes_[n].token);
    double ln_p = forward(p, classes, d_.blank_, tokens, kNegligible);
    if (ln_p == -std::numeric_limits<double>::infinity())
      ln_p = forward(p, classes, d_.blank_, tokens, 0);
    double lm_score;
    const double score = lm_parts(tokens, true, lm_score) + ln_p - log_scale_;
    if (std::isfinite(score) || &final != &finals.front()) final.score = score;
  }
  std::stable_sort(finals.begin() + 1, finals.end(),
                   [](const Final& a, const Final& b) { return a.score > b.score; });
  std::unordered_set<std::string> texts;
  finals.erase(std::remove_if(finals.begin(), finals.end(),
                              [&](const Final& final) {
                                return !std::isfinite(final.score) || !texts.insert(final.text).second;
                              }),
               finals.end());
}

std::vector<Hypothesis> Session::finish() {
  const size_t wanted = static_cast<size_t>(d_.options_.n_best);
  std::vector<Final> ends;
  if (!dead_) ends = finals(true);
  for (size_t i = 1; d_.options_.word_times && i < ends.size(); ++i)
    doubt(ends[0].node, ends[i].node, std::exp(ends[i].score - ends[0].score));
  Ending ending = Ending::kWhole;
  if (ends.empty()) {  // no prefix ends in a complete word
    ends = finals(false);
    ending = d_.open_ ? Ending::kOpen : Ending::kCut;
  }
  if (wanted > 1 && ending == Ending::kWhole) {
    expand(ends, wanted + std::min(wanted, kSpareReadings));
    rescore(ends);
    if (ends.size() > wanted) ends.resize(wanted);
  } else {
    ends.resize(1);
    ends[0].path = trace(ends[0].node);
  }
  std::vector<Hypothesis> out;
  for (const Final& end : ends) out.push_back(describe(end, ending));
  if (dead_) {
    constexpr double kImpossible = -std::numeric_limits<double>::infinity();
    out[0].score = out[0].ctc_score = kImpossible;
  }
  return out;
}

Partial Session::partial() {
  Partial out;
  std::vector<Final> ends = finals(false);
  ends.resize(1);
  ends[0].path = trace(ends[0].node);
  out.best = describe(ends[0], Ending::kOpen);
  std::vector<uint32_t> shared;
  if (d_.options_.n_best == 1) shared = committed_;
  for (const uint32_t n : trace(common_ancestor())) shared.push_back(nodes_[n].token);
  if (d_.marked_words_) drop_partial_word(shared);
  Hypothesis stable;
  write_words(shared, {}, stable);
  out.final_bytes = stable.text.size();
  return out;
}

// Cuts tokens back to the end of the last complete word.
void Session::drop_partial_word(std::vector<uint32_t>& tokens) const {
  if (d_.tokens_are_words_) return;
  while (!tokens.empty()) {
    const Token& last = d_.tokens_[tokens.back()];
    if (last.begins_word && last.text.empty()) return;
    tokens.pop_back();
    if (last.begins_word) return;
  }
}

Hypothesis Session::describe(const Final& final, Ending ending) {
  std::vector<uint32_t> path = final.path, tokens;
  const size_t known = committed_.size();
  bool through_anchor = true;
  if (d_.options_.n_best > 1) {  // then the path begins at the start, and may go another way
    const std::vector<uint32_t> shared = trace(anchor_);
    through_anchor = path.size() >= known && std::equal(shared.begin(), shared.end(), path.begin());
    if (through_anchor) path.erase(path.begin(), path.begin() + static_cast<ptrdiff_t>(known));
  }
  if (through_anchor) tokens = committed_;
  for (const uint32_t n : path) tokens.push_back(nodes_[n].token);

  std::vector<TokenTime> times;
  if (d_.options_.word_times && through_anchor) {
    times = committed_times_;
    std::vector<TokenTime> rest = times_of(path, kept_from_ + static_cast<int32_t>(
                                                     logp_.size() / d_.tokens_.size()));
    if (known > 0) times.pop_back();
    times.insert(times.end(), rest.begin(), rest.end());
  } else if (d_.options_.word_times) {
    std::vector<AlignedToken> aligned;
    for (const uint32_t token : tokens) aligned.push_back({token, 0, time_});
    align_tokens(aligned, false, logp_.data(), 0, 0, time_, static_cast<uint32_t>(d_.num_tokens()),
                 d_.blank_, times);
  }

  Hypothesis out;
  out.score = final.score + log_scale_;
  const double lm_part = lm_parts(tokens, ending == Ending::kWhole, out.lm_score);
  out.ctc_score = out.score - lm_part;
  if (ending == Ending::kCut) {
    drop_partial_word(tokens);
    times.resize(std::min(times.size(), tokens.size()));
  }
  out.tokens.assign(tokens.begin(), tokens.end());
  write_words(tokens, times, out);
  return out;
}

// The text of tokens and, where `times` are given, the times of its words.
void Session::write_words(const std::vector<uint32_t>& tokens, const std::vector<TokenTime>& times,
                          Hypothesis& out) const {
  bool in_word = false;
  float peaks = 0, doubt = 0;
  int count = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Token& token = d_.tokens_[tokens[i]];
    if (token.begins_word) in_word = false;
    if (token.text.empty()) continue;
    if (!in_word) {
      if (d_.marked_words_ && !out.text.empty()) out.text += ' ';
      const uint32_t begin = static_cast<uint32_t>(out.text.size());
      out.words.push_back({begin, begin, 0, 0, 0});
      if (!times.empty()) out.words.back().start_frame = static_cast<float>(times[i].start);
      in_word = true;
      peaks = doubt = 0;
      count = 0;
    }
    out.text += token.text;
    WordResult& word = out.words.back();
    word.end = static_cast<uint32_t>(out.text.size());
    if (!times.empty()) {
      word.end_frame = static_cast<float>(times[i].end);
      peaks += times[i].peak;
      doubt = std::max(doubt, times[i].doubt);
      ++count;
      // How much the best other reading weighs, flattened by a half: fitted to simulated emissions.
      // Without recombinations other readings are not seen; then what the network said of the tokens.
      word.confidence = d_.use_recombination_ ? 1 / (1 + 0.83f * std::sqrt(doubt + 1e-4f))
                                              : std::exp(peaks / static_cast<float>(count));
    }
  }
}

// ln of all that language model, word score and hot words give these tokens; lm_score is the language
// model's own part, unweighted.
double Session::lm_parts(const std::vector<uint32_t>& tokens, bool whole, double& lm_score) {
  uint32_t state = start_state_, trie = Trie::kRoot;
  std::string word;
  double total = 0;
  lm_score = 0;
  const auto take = [&](const Step& step) {
    total += std::log(step.factor);
    lm_score += step.ln_lm;
    state = step.next;
  };
  const auto close = [&] {
    if (trie == Trie::kRoot) return;
    uint32_t number = trie == kOov ? kNoWord : (*d_.trie_)[trie].word;
    if (number == kNoWord) {
      const bool spelled = steps_.lm() && steps_.lm()->wants_spelling();
      number = spelled ? steps_.lm()->spelled(word) : kUnknown;
    }
    take(steps_.word(state, number));
  };
  for (const uint32_t number : tokens) {
    const Token& token = d_.tokens_[number];
    if (token.begins_word) {
      close();
      trie = Trie::kRoot;
      word.clear();
    }
    for (const char byte : token.text) {
      word += byte;
      if (trie != kOov) trie = d_.trie_->child(trie, static_cast<uint8_t>(byte));
      if (trie == Trie::kNone) trie = kOov;
    }
    if (steps_.lm_over_tokens()) take(steps_.token(state, number));
  }
  if (whole) {
    close();
    take(steps_.finish(state, d_.options_.end_of_sentence));
  }
  return total;
}

}  // namespace ctcspeech::beam
