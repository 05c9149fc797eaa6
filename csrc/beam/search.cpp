// The search itself: one frame at a time.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/vec_exp.h"
#include "base/vec_portable.h"
#include "beam/beam.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace ctcspeech::beam {

namespace {

constexpr double kNear = 1e-3;  // how likely, against the best, a reading must be to raise doubt

// Four numbers at once, in the compilers' own vector types.
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
constexpr uint32_t kLanes = 4;

// Element i.. of a row of `num`, filled up with `fill`.
ALWAYS_INLINE Floats load(const float* row, uint32_t i, uint32_t num, float fill) {
  Floats v = {fill, fill, fill, fill};
  if (i + kLanes <= num) {
    std::memcpy(&v, row + i, sizeof(v));
  } else {
    for (uint32_t k = 0; i + k < num; ++k) v[k] = row[i + k];
  }
  return v;
}

ALWAYS_INLINE Floats choose(Ints where, Floats yes, Floats no) {
  return (Floats)((where & (Ints)yes) | (~where & (Ints)no));
}

ALWAYS_INLINE Floats exp_of_negative(Floats x) { return exp_nonpositive(PortableFloat{x}).v; }

}  // namespace

// Log-probabilities of one frame, its probabilities, and the tokens worth trying.
void Session::normalise(const float* row) {
  const uint32_t num = static_cast<uint32_t>(d_.tokens_.size());
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  Floats highest4 = {kLowest, kLowest, kLowest, kLowest};
  Ints usable4 = {-1, -1, -1, -1};
  for (uint32_t c = 0; c < num; c += kLanes) {
    const Floats v = load(row, c, num, kLowest);
    highest4 = choose(v > highest4, v, highest4);
    usable4 &= v <= FLT_MAX;  // neither NaN nor +inf
  }
  float highest = kLowest;
  bool usable = true;
  for (uint32_t k = 0; k < kLanes; ++k) {
    highest = std::max(highest, static_cast<float>(highest4[k]));
    usable &= usable4[k] != 0;
  }
  if (!usable || highest < -FLT_MAX) {
    for (uint32_t c = 0; c < num; ++c)
      if (std::isnan(row[c])) throw BadFrame(time_, "holds NaN");
    throw BadFrame(time_, usable ? "holds nothing but -inf" : "holds +inf");
  }
  float* p = p_.data();  // as long as whole vectors
  Floats sum4 = {0, 0, 0, 0};
  for (uint32_t c = 0; c < num; c += kLanes) {
    const Floats v = exp_of_negative(load(row, c, num, kLowest) - highest);
    std::memcpy(p + c, &v, sizeof(v));
    sum4 += v;
  }
  const float sum = (sum4[0] + sum4[1]) + (sum4[2] + sum4[3]);
  const float scale = 1 / sum;
  for (uint32_t c = 0; c < num; ++c) p[c] *= scale;
  if (d_.keeps_frames_) {
    const float log_sum = std::log(sum);
    const size_t offset = logp_.size();
    logp_.resize(offset + num);
    float* logp = logp_.data() + offset;
    for (uint32_t c = 0; c < num; ++c) logp[c] = (row[c] - highest) - log_sum;
  }

  begins_.clear();
  candidates_.clear();
  const uint8_t* kinds = d_.kinds_.data();
  const float minimum = d_.min_p_;
  for (uint32_t c = 0; c < num; ++c)
    if (p[c] >= minimum && kinds[c] != Decoder::kNever && p[c] > 0) take(c);
  if (begins_.empty() && candidates_.empty()) {  // then the likeliest, if it is not the blank
    uint32_t top = d_.blank_;
    for (uint32_t c = 0; c < num; ++c)
      if (p[c] > p[top] && kinds[c] != Decoder::kNever) top = c;
    if (top != d_.blank_) take(top);
  }
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.p != b.p ? a.p > b.p : a.token < b.token;
  });
}

// The probabilities of all frames that are kept.
std::vector<float> Session::probabilities() const {
  std::vector<float> p(logp_.size());
  for (size_t i = 0; i < p.size(); i += kLanes) {
    const uint32_t left = static_cast<uint32_t>(std::min<size_t>(kLanes, p.size() - i));
    const Floats v = exp_of_negative(load(logp_.data() + i, 0, left, 0));
    std::memcpy(p.data() + i, &v, left * sizeof(float));
  }
  return p;
}

// A token is worth trying in this frame.
ALWAYS_INLINE void Session::take(uint32_t token) {
  (d_.kinds_[token] == Decoder::kBegins ? begins_ : candidates_).push_back({token, p_[token]});
}

void Session::frame(const float* row) {
  normalise(row);
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

// Nothing but the blank is worth trying: the prefixes stay, and their order hardly changes.
void Session::near_certain_blank() {
  const double blank = p_[d_.blank_];
  double best = 0;
  for (const uint32_t n : active_) {
    Node& node = nodes_[n];
    const double total = node.pb + node.pnb;
    node.pnb *= node.token == kNil ? 0 : p_[node.token];
    node.pb = total * blank;
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
  if (word == kUnknown && steps_.lm() && steps_.lm()->wants_spelling())
    word = steps_.lm()->spelled(spelling(n));
  const Step& step = steps_.word(node.state, word);
  w *= step.factor;
  state = step.next;
  return true;
}

bool Session::close_last(const Node& node, uint32_t n, double& w, uint32_t& state) {
  return close_word(node, n, 0, w, state);
}

// Where `token` leads from a prefix: its place in the lexicon and the state of the language model; w is
// multiplied by their factors. False where it leads nowhere.
ALWAYS_INLINE bool Session::lead(const Node& from, uint32_t n, uint32_t token, double cut, double& w,
                                 uint32_t& trie, uint32_t& state) {
  const Trie& lexicon = *d_.trie_;
  trie = from.trie;
  state = from.state;
  const int plain = d_.plain_byte_[token];
  if (plain >= 0 && trie == kOov) {
    // stays outside
  } else if (plain >= 0) {
    const uint32_t child = lexicon.child(trie, static_cast<uint8_t>(plain));
    if (child != Trie::kNone) {
      w *= lexicon[child].ratio;
      trie = child;
    } else {
      if (!d_.open_) return false;
      w *= lexicon[trie].inverse * d_.oov_enter_;
      trie = kOov;
    }
  } else {
    const Token& piece = d_.tokens_[token];
    if (piece.begins_word) {
      if (trie != Trie::kRoot) {
        if (!close_word(from, n, cut, w, state)) return false;
      } else if (piece.text.empty() && (piece.separates || from.token != kNil)) {
        return false;  // nothing to separate: one text has one labelling
      }
      trie = Trie::kRoot;
    }
    for (const char byte : piece.text) {
      if (trie == kOov) break;
      const uint32_t child = lexicon.child(trie, static_cast<uint8_t>(byte));
      if (child != Trie::kNone) {
        w *= lexicon[child].ratio;
        trie = child;
      } else {
        if (!d_.open_) return false;
        w *= lexicon[trie].inverse * d_.oov_enter_;
        trie = kOov;
      }
    }
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
  }
  Node& node = nodes_[child];
  if (node.touched != time_) {
    node.touched = time_;
    node.next_pb = 0;
    node.next_pnb = 0;
    next_.push_back(child);
  }
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
  const double blank = p_[d_.blank_];
  next_.clear();
  best_ = 0;
  for (const uint32_t n : active_) {
    Node& node = nodes_[n];
    node.touched = time_;
    node.next_pb = (node.pb + node.pnb) * blank;
    node.next_pnb = node.token == kNil ? 0 : node.pnb * p_[node.token];
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
  const double cut = best_ * d_.threshold_;
  scored_.clear();
  for (const uint32_t n : next_) {
    Node& node = nodes_[n];
    const double score = node.next_pb + node.next_pnb;
    if (score < cut || score == 0) {
      node.pb = node.pnb = 0;
    } else {
      scored_.push_back({score, n});
    }
  }
  if (d_.use_recombination_) recombine();
  const auto better = [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.node < b.node;
  };
  const size_t beam = static_cast<size_t>(d_.options_.beam_size);
  if (scored_.size() > beam) {
    std::nth_element(scored_.begin(), scored_.begin() + static_cast<ptrdiff_t>(beam), scored_.end(),
                     better);
    for (size_t i = beam; i < scored_.size(); ++i) {
      Node& node = nodes_[scored_[i].node];
      node.pb = node.pnb = 0;
    }
    scored_.resize(beam);
  }
  // The best one first: what it leads to raises the threshold for the others.
  std::iter_swap(scored_.begin(), std::min_element(scored_.begin(), scored_.end(), better));
  const double scale = 1 / best_;
  active_.clear();
  for (const Scored& kept : scored_) {
    Node& node = nodes_[kept.node];
    node.pb = node.next_pb * scale;
    node.pnb = node.next_pnb * scale;
    active_.push_back(kept.node);
    if (node.trie != kOov) d_.trie_->prefetch_children(node.trie);
  }
  log_scale_ += std::log(best_);
}

// Of prefixes with the same future only the best stays in scored_.
void Session::recombine() {
  size_t size = slots_.size();
  while (size < scored_.size() * 2) size *= 2;
  if (size != slots_.size() || ++stamp_ == 0) {
    slots_.assign(size, {0, 0, 0});
    stamp_ = 1;
  }
  const bool spelled = steps_.lm() && steps_.lm()->wants_spelling();
  size_t kept = 0;
  for (const Scored current : scored_) {
    Node& node = nodes_[current.node];
    if (node.trie == kOov && spelled) {
      scored_[kept++] = current;
      continue;
    }
    // Outside the lexicon only the last token matters, for its repetition.
    const uint64_t place = node.trie == kOov ? 0x80000000u | node.token : node.trie;
    const uint64_t key = uint64_t{node.state} << 32 | place;
    size_t slot = (key * 0x9E3779B97F4A7C15ull) >> 20 & (size - 1);
    while (slots_[slot].stamp == stamp_ && slots_[slot].key != key) slot = (slot + 1) & (size - 1);
    if (slots_[slot].stamp != stamp_) {
      slots_[slot] = {key, stamp_, static_cast<uint32_t>(kept)};
      scored_[kept++] = current;
      continue;
    }
    Scored& other = scored_[slots_[slot].value];
    const Scored winner = current.score > other.score ? current : other;
    const Scored loser = current.score > other.score ? other : current;
    nodes_[loser.node].pb = nodes_[loser.node].pnb = 0;
    other = winner;
    if (d_.options_.word_times && winner.score > best_ * kNear)
      doubt(winner.node, loser.node, loser.score / winner.score);
    if (d_.options_.n_best > 1)
      record(winner.node, loser.node, std::log(winner.score / loser.score));
  }
  scored_.resize(kept);
}

// Notes for the confidences that another prefix, `ratio` times as likely, has other tokens than the
// winner. What both end in is not in doubt.
void Session::doubt(uint32_t winner, uint32_t loser, double ratio) {
  if (ratio < kNear) return;
  while (winner != loser && winner != root_ && loser != root_ &&
         nodes_[winner].token == nodes_[loser].token) {
    winner = nodes_[winner].parent;
    loser = nodes_[loser].parent;
  }
  while (winner != loser) {
    if (winner > loser) {
      doubts_[winner] = std::max(doubts_[winner], static_cast<float>(ratio));
      winner = nodes_[winner].parent;
    } else {
      loser = nodes_[loser].parent;
    }
  }
}

// Remembers for the n-best list that `loser` could stand in place of `winner`. The least loss counts:
// later ones come of the little that still flows in after the first recombination.
void Session::record(uint32_t winner, uint32_t loser, double loss) {
  auto& events = events_[winner];
  // An earlier one that cost no more serves wherever this one would: events come in order of time.
  for (const Event& event : events)
    if (event.loser == loser && event.loss <= loss) return;
  events.push_back({loser, time_, static_cast<float>(loss)});
}

}  // namespace ctcspeech::beam
