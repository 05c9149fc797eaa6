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
  int32_t first, last;     // inclusive; ascending in `first`
  bool gap_after = false;  // superfluous separators may be said after it, as well as blanks
};

// Frames begin..end-1 of the log-probabilities: those of frame t are logp + (t - offset) * num_classes.
struct AlignedFrames {
  const float* logp;
  int32_t offset, begin, end;
  uint32_t num_classes, blank;
  const std::vector<uint32_t>& separators;
};

// The best alignment (Viterbi) of `tokens` with the frames. Where `anchored`, the first token is said in
// the first frame; else the path may start with blanks and separators. Where paths tie, the one that
// stays longer in the earlier token is taken. `times` gets one entry a token. False if no path has a
// finite score within those frames.
bool align_tokens(const std::vector<AlignedToken>& tokens, bool anchored, const AlignedFrames& frames,
                  std::vector<TokenTime>& times);

}  // namespace ctcspeech::beam
