// The readings that recombinations put aside, for n-best lists.
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

constexpr double kNegligible = 1e-40;  // of all mass in a frame

}  // namespace

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
    int64_t before;  // only events before this one may replace it
    uint32_t rest;   // first link, kNil none
    size_t order;
  };
  const auto worse = [](const Reading& a, const Reading& b) {
    return a.score != b.score ? a.score < b.score : a.order > b.order;  // else the one found first
  };
  std::priority_queue<Reading, std::vector<Reading>, decltype(worse)> queue(worse);
  std::vector<Link> links;
  size_t found = 0;
  for (const Final& final : finals) queue.push({final.score, final.node, first_event_of(time_ + 1), kNil, found++});
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
    if (!path.empty() && is_superfluous_last(nodes_[path.back()].token)) path.pop_back();
    for (const uint32_t n : path) tokens.push_back(nodes_[n].token);
    Hypothesis written;
    write_words(tokens, {}, written);
    const bool alike = !steps_.lm_over_tokens() && texts.count(written.text) > 0;
    if (!alike && known.insert(std::move(tokens)).second) {
      texts.insert(written.text);
      finals.push_back({top.score, top.node, 0, std::move(path), std::move(written.text)});
    }
    uint32_t rest = top.rest;
    int64_t before = top.before;
    for (uint32_t n = top.node;; n = nodes_[n].parent) {
      const auto events = events_.find(text_key(n));
      if (events != events_.end()) {
        for (const Event& event : events->second)
          if (event.order < before)
            queue.push({top.score - event.loss, event.loser, event.order, rest, found++});
      }
      if (n == root_) break;
      links.push_back({n, rest});
      rest = static_cast<uint32_t>(links.size()) - 1;
      before = std::min(before, first_event_of(entered_[n]));  // the path left the parent then
    }
  }
}

// Gives readings the mass of all their alignments (Graves et al. 2006, section 4.1), in all labellings
// of their texts, in place of what the search followed of it, and orders them anew. Of readings with one
// text the best stays; those that the frames are too few for are dropped.
void Session::rescore(std::vector<Final>& finals) {
  const std::vector<float> p = probabilities();
  const Classes classes = d_.classes();
  for (Final& final : finals) {
    std::vector<uint32_t> tokens;
    for (const uint32_t n : final.path) tokens.push_back(nodes_[n].token);
    const Lattice lattice = d_.spellings_->lattice(tokens);
    double ln_p = forward(lattice, p, classes, kNegligible);
    if (ln_p == -std::numeric_limits<double>::infinity())
      ln_p = forward(lattice, p, classes, 0);
    double lm_score;
    const double score = lm_parts(tokens, true, lm_score) + ln_p - log_scale_;
    if (std::isfinite(score) || &final != &finals.front()) final.score = score;
  }
  std::stable_sort(finals.begin(), finals.end(),
                   [](const Final& a, const Final& b) { return a.score > b.score; });
  std::unordered_set<std::string> texts;
  finals.erase(std::remove_if(finals.begin(), finals.end(),
                              [&](const Final& final) {
                                return !std::isfinite(final.score) || !texts.insert(final.text).second;
                              }),
               finals.end());
}

}  // namespace ctcspeech::beam
