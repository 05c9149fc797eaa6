#include "beam/token_times.h"

#include <algorithm>
#include <limits>

namespace ctcspeech::beam {

namespace {

// How a state was reached, in bits: the token's own state by 1 staying, 2 from the blank before,
// 3 from the token before; the blank after it by 4 staying, 0 from the token.
constexpr uint8_t kStay = 1, kFromBlank = 2, kFromToken = 3, kWays = 3, kBlankStays = 4;
constexpr float kNever = -std::numeric_limits<float>::infinity();

// The states are counted from the blank before the first token: position 0 is that blank alone,
// position i the i-th token and the blank after it.
struct Row {
  int32_t low, high;  // positions that are open in this frame
  size_t offset;      // of its back-pointers
};

}  // namespace

bool align_tokens(const std::vector<AlignedToken>& tokens, bool anchored, const AlignedFrames& frames,
                  std::vector<TokenTime>& times) {
  const auto& [logp, offset, begin, end, num_classes, blank, separators] = frames;
  const int32_t count = static_cast<int32_t>(tokens.size());
  times.assign(tokens.size(), {});
  if (count == 0) return true;
  if (end <= begin) return false;
  std::vector<float> in_token(count + 1, kNever), in_blank(count + 1, kNever);
  std::vector<Row> rows;
  std::vector<uint8_t> ways;
  rows.reserve(end - begin);
  in_blank[0] = anchored ? kNever : 0;
  int32_t low = 0, high = 0;
  for (int32_t t = begin; t < end; ++t) {
    const float* lp = logp + static_cast<size_t>(t - offset) * num_classes;
    // A position stays open for one frame after its prefix was last held: the next one is entered from
    // it. Position 0 closes when the first token must have come.
    while (low < count && (low == 0 ? tokens[0].last < t : tokens[low - 1].last + 1 < t)) ++low;
    while (high < count && tokens[high].first <= t) ++high;
    if (low > high) return false;
    float gap = lp[blank];
    for (const uint32_t separator : separators) gap = std::max(gap, lp[separator]);
    rows.push_back({low, high, ways.size()});
    ways.resize(ways.size() + static_cast<size_t>(high - low + 1));
    uint8_t* way = ways.data() + rows.back().offset;
    for (int32_t i = high; i >= low; --i) {  // downward: i - 1 still holds the frame before
      uint8_t how = 0;
      const float stay_blank = in_blank[i], stay = in_token[i];
      if (i == 0) {
        in_blank[0] += gap;
        way[0] = kBlankStays;
        continue;
      }
      if (stay_blank >= stay) how |= kBlankStays;
      in_blank[i] = std::max(stay_blank, stay) + (tokens[i - 1].gap_after ? gap : lp[blank]);
      float best = stay;
      uint8_t from = kStay;
      if (i > low) {
        const uint32_t token = tokens[i - 1].token;
        if (i > 1 && tokens[i - 2].token != token && in_token[i - 1] > best) {
          best = in_token[i - 1];
          from = kFromToken;
        }
        if (in_blank[i - 1] > best) {
          best = in_blank[i - 1];
          from = kFromBlank;
        }
      }
      if (anchored && i == 1 && t == begin) {
        best = 0;
        from = kFromBlank;
      }
      in_token[i] = best + lp[tokens[i - 1].token];
      way[i - low] = how | from;
    }
  }
  if (high < count) return false;
  bool blank_now = in_blank[count] > in_token[count];
  if ((blank_now ? in_blank : in_token)[count] == kNever) return false;
  int32_t i = count;
  for (int32_t t = end - 1; t >= begin && i > 0; --t) {
    const Row& row = rows[t - begin];
    if (i < row.low || i > row.high) return false;
    const uint8_t way = ways[row.offset + static_cast<size_t>(i - row.low)];
    if (blank_now) {
      blank_now = (way & kBlankStays) != 0;
      continue;
    }
    TokenTime& time = times[i - 1];
    const float value = logp[static_cast<size_t>(t - offset) * num_classes + tokens[i - 1].token];
    if (time.end == 0) time = {t, t + 1, value};
    time.start = t;
    time.peak = std::max(time.peak, value);
    if ((way & kWays) != kStay) {
      blank_now = (way & kWays) == kFromBlank;
      --i;
    }
  }
  return i == 0;
}

}  // namespace ctcspeech::beam
