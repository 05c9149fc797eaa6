// The search itself: one frame at a time.
#include <algorithm>
#include <cmath>

#include "beam/beam.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace ctcspeech::beam {

void Session::frame(const float* row) {
  normalise(row);
  gap_p_ = p_[d_.blank_] + separators_p_;
  start_p_ = d_.spellings_->trims() ? gap_p_ : p_[d_.blank_];
  if (begins_.empty() && candidates_.empty() && p_[d_.blank_] > 0) {
    near_certain_blank();
  } else {
#if defined(__x86_64__)
    static const bool popcnt = __builtin_cpu_supports("popcnt");
    popcnt ? search_popcnt() : search();
#else
    search();
#endif
  }
}

// What a prefix holds after a frame that adds no token to it. In a gap between words, and before the
// first one, separators change nothing: they count as blanks do.
ALWAYS_INLINE void Session::stay(const Node& node, double blank, double& pb, double& pnb) const {
  const double total = node.pb + node.pnb;
  if (node.trie == Trie::kRoot) {
    pb = total * (node.token == kNil ? start_p_ : gap_p_);
    pnb = 0;
  } else {
    pb = total * blank;
    pnb = node.pnb * p_[node.token];
  }
}

// Nothing but the blank is worth trying: the prefixes stay, and their order hardly changes.
void Session::near_certain_blank() {
  const double blank = p_[d_.blank_];
  double best = 0;
  for (const uint32_t n : active_) {
    Node& node = nodes_[n];
    stay(node, blank, node.pb, node.pnb);
    node.touched = time_;
    best = std::max(best, node.pb + node.pnb);
  }
  const double scale = 1 / best;
  for (const uint32_t n : active_) {
    nodes_[n].pb *= scale;
    nodes_[n].pnb *= scale;
  }
  log_scale_ += std::log(best);
}

// The word that ends with this prefix: its factor replaces the look-ahead. False if the lexicon has no
// such word, or the mass falls below `cut`.
ALWAYS_INLINE bool Session::close_word(const Node& node, uint32_t n, double cut, double& w,
                                       uint32_t& state) {
  uint32_t word = kUnknown;
  if (node.trie == kOov) {
    w *= d_.oov_exit_;
  } else {
    const TrieNode& place = (*d_.trie_)[node.trie];
    word = place.word;
    if (word == kNoWord) {
      if (!d_.open_) return false;
      word = kUnknown;
    }
    w *= place.inverse;
  }
  if (w * d_.word_gain_ < cut) return false;  // P_lm is at most 1: no need to ask for it
  if (word == kUnknown && steps_.wants_spelling())
    word = steps_.lm()->spelled(spelling(n));
  const Step& step = steps_.word(node.state, word);
  w *= step.factor;
  state = step.next;
  return true;
}

bool Session::close_last(const Node& node, uint32_t n, double& w, uint32_t& state) {
  return close_word(node, n, 0, w, state);
}

// Goes on in the lexicon by a byte, or leaves it. False where neither is allowed.
ALWAYS_INLINE bool Session::descend(uint8_t byte, double& w, uint32_t& trie) {
  const Trie& lexicon = *d_.trie_;
  if (trie == kOov) return true;
  const uint32_t child = lexicon.child(trie, byte);
  if (child != Trie::kNone) {
    w *= lexicon[child].ratio;
    trie = child;
    return true;
  }
  if (!d_.open_) return false;
  w *= lexicon[trie].inverse * d_.oov_enter_;
  trie = kOov;
  return true;
}

// Where `token` leads from a prefix: its place in the lexicon and the state of the language model; w is
// multiplied by their factors. False where it leads nowhere.
ALWAYS_INLINE bool Session::lead(const Node& from, uint32_t n, uint32_t token, double cut, double& w,
                                 uint32_t& trie, uint32_t& state) {
  trie = from.trie;
  state = from.state;
  const int plain = d_.plain_byte_[token];
  if (plain >= 0) {
    if (!descend(static_cast<uint8_t>(plain), w, trie)) return false;
  } else {
    const Token& piece = d_.tokens_[token];
    if (piece.begins_word) {
      if (trie != Trie::kRoot) {
        if (!close_word(from, n, cut, w, state)) return false;
      } else if (piece.text.empty() && (d_.spellings_->trims() || from.token != kNil)) {
        return false;  // nothing to separate: the prefix stays as it is
      }
      trie = Trie::kRoot;
    }
    for (const char byte : piece.text)
      if (!descend(static_cast<uint8_t>(byte), w, trie)) return false;
  }
  if (steps_.lm_over_tokens()) {
    if (w < cut) return false;
    const Step& step = steps_.token(state, token);
    w *= step.factor;
    state = step.next;
  }
  return true;
}

// Gives the prefix `from` + `token` mass w, ending in its token.
ALWAYS_INLINE void Session::add(uint32_t from, uint32_t token, uint32_t trie, uint32_t state,
                                double w) {
  uint32_t child = nodes_[from].child;
  while (child != kNil && nodes_[child].token != token) child = nodes_[child].sibling;
  if (child == kNil) {
    child = static_cast<uint32_t>(nodes_.size());
    nodes_.push_back({0, 0, 0, 0, from, trie, state, kNil, nodes_[from].child, token, time_, -1});
    nodes_[from].child = child;
    doubts_.push_back(0);
    if (d_.merges_texts_) texts_.push_back(text_after(from, token));
    if (lists_) entered_.push_back(time_);
  }
  Node& node = nodes_[child];
  if (node.touched != time_) {
    node.touched = time_;
    node.next_pb = 0;
    node.next_pnb = 0;
    next_.push_back(child);
  }
  if (lists_ && w > node.next_pb + node.next_pnb) entered_[child] = time_;
  node.next_pnb += w;
  best_ = std::max(best_, node.next_pb + node.next_pnb);
}

ALWAYS_INLINE void Session::extend_all(double& cut) {
  const double threshold = d_.threshold_;
  uint32_t trie, state;
  for (const uint32_t n : active_) {
    const Node from = nodes_[n];  // a copy: new nodes move the others
    const double total = from.pb + from.pnb;
    for (const Candidate& candidate : begins_) {
      double w = (candidate.token == from.token ? from.pb : total) * candidate.p;
      if (w <= 0 || !lead(from, n, candidate.token, cut, w, trie, state)) continue;
      if (w < cut || w == 0) continue;
      add(n, candidate.token, trie, state, w);
      cut = std::max(cut, best_ * threshold);
    }
    for (const Candidate& candidate : candidates_) {
      if (total * candidate.p * d_.gain_ < cut) break;  // the next ones are less likely still
      double w = (candidate.token == from.token ? from.pb : total) * candidate.p;
      if (w <= 0 || !lead(from, n, candidate.token, cut, w, trie, state)) continue;
      if (w < cut || w == 0) continue;
      add(n, candidate.token, trie, state, w);
      cut = std::max(cut, best_ * threshold);
    }
  }
}

ALWAYS_INLINE void Session::search_body() {
  if (steps_.has_neural()) {
    asked_.clear();
    for (const uint32_t n : active_) asked_.push_back(nodes_[n].state);
    steps_.prepare(asked_);
  }
  const double blank = p_[d_.blank_];
  next_.clear();
  best_ = 0;
  for (const uint32_t n : active_) {
    Node& node = nodes_[n];
    node.touched = time_;
    stay(node, blank, node.next_pb, node.next_pnb);
    best_ = std::max(best_, node.next_pb + node.next_pnb);
    next_.push_back(n);
  }
  double cut = best_ * d_.threshold_;
  extend_all(cut);
  if (best_ == 0) {
    dead_ = true;
    return;
  }
  prune();
}

void Session::search() { search_body(); }

#if defined(__x86_64__)
__attribute__((target("popcnt"))) void Session::search_popcnt() { search_body(); }
#endif

void Session::prune() {
  select();
  const auto better = [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.node < b.node;
  };
  const size_t beam = static_cast<size_t>(d_.options_.beam_size);
  if (scored_.size() > beam) {
    std::nth_element(scored_.begin(), scored_.begin() + static_cast<ptrdiff_t>(beam), scored_.end(),
                     better);
    for (size_t i = beam; i < scored_.size(); ++i) drop(scored_[i]);
    scored_.resize(beam);
  }
  // The best one first: what it leads to raises the threshold for the others.
  std::iter_swap(scored_.begin(), std::min_element(scored_.begin(), scored_.end(), better));
  const double scale = 1 / best_;
  active_.clear();
  const auto keep = [&](uint32_t n) {
    Node& node = nodes_[n];
    node.pb = node.next_pb * scale;
    node.pnb = node.next_pnb * scale;
    active_.push_back(n);
  };
  for (const Scored& kept : scored_) {
    keep(kept.node);
    for (uint32_t i = kept.others; i != kNil; i = members_[i].next) keep(members_[i].node);
    const uint32_t place = nodes_[kept.node].trie;
    if (place != kOov) d_.trie_->prefetch_children(place);
  }
  log_scale_ += std::log(best_);
}

// A prefix goes no further.
void Session::drop(const Scored& scored) {
  nodes_[scored.node].pb = nodes_[scored.node].pnb = 0;
  for (uint32_t i = scored.others; i != kNil; i = members_[i].next) {
    Node& other = nodes_[members_[i].node];
    other.pb = other.pnb = 0;
  }
}

}  // namespace ctcspeech::beam
