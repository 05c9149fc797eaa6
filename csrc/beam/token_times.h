// When each token of a decoded labelling was said: the best path within the frames in which the beam
// held its prefix.
#pragma once

#include <cstdint>
#include <vector>

namespace ctcspeech::beam {

struct TokenTime {
  int32_t start = 0, end = 0;  // frames, the end exclusive
  float peak = 0;              // the token's highest log-probability between them
  float doubt = 0;             // see Session::doubt()
};

// A token of the labelling and the frames in which its prefix may be the current one.
struct AlignedToken {
  uint32_t token;
  int32_t first, last;  // inclusive; ascending in `first`
};

// The best alignment (Viterbi) of `tokens` with frames begin..end-1. `logp(t)` = logp + (t - offset) *
// C. Where `anchored`, the first token is said in frame `begin`; else the path may start with blanks.
// Where paths tie, the one that stays longer in the earlier token is taken. `times` gets one entry a
// token. False if no path has a finite score within those frames.
bool align_tokens(const std::vector<AlignedToken>& tokens, bool anchored, const float* logp,
                  int32_t offset, int32_t begin, int32_t end, uint32_t num_classes, uint32_t blank,
                  std::vector<TokenTime>& times);

}  // namespace ctcspeech::beam
