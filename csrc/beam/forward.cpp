// Masses of all alignments of a lattice's labellings (Graves et al. 2006, section 4.1).
#include <algorithm>
#include <cmath>
#include <limits>

#include "beam/spellings.h"

namespace ctcspeech::beam {

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// A lattice in which each position is entered from the one before by one token, as characters give:
// its tokens. Empty for another.
std::vector<uint32_t> chain_of(const Lattice& lattice) {
  std::vector<uint32_t> tokens(1, 0);
  for (size_t q = 1; q < lattice.positions.size(); ++q) {
    const Lattice::Position& position = lattice.positions[q];
    if (position.end_arrival != position.first_arrival + 1) return {};
    const Lattice::Arrival& arrival = lattice.arrivals[position.first_arrival];
    if (arrival.end_source != arrival.first_source + 1) return {};
    if (lattice.sources[arrival.first_source] != q - 1) return {};
    tokens.push_back(arrival.token);
  }
  return tokens;
}

double forward_chain(const Lattice& lattice, const std::vector<uint32_t>& tokens,
                     const std::vector<float>& p, const Classes& classes, double negligible) {
  const size_t last = tokens.size() - 1;
  // Mass that ends in the token; in a blank (in gaps: in anything).
  std::vector<double> said(last + 1, 0), rest(last + 1, 0);
  std::vector<uint8_t> gap(last + 1), repeats(last + 1);
  for (size_t q = 0; q <= last; ++q) {
    gap[q] = lattice.positions[q].gap;
    repeats[q] = q > 1 && tokens[q] == tokens[q - 1];
  }
  rest[0] = 1;
  size_t low = 0, high = 0;
  double ln_scale = 0;
  for (const float* row = p.data(); row != p.data() + p.size(); row += classes.count) {
    double gap_p = 0;
    for (const uint32_t token : classes.separators) gap_p += row[token];
    const double blank = row[classes.blank], gap_stays = blank + gap_p;
    if (high < last) ++high;
    double sum = 0;
    for (size_t q = high; q > 0 && q >= low; --q) {  // downward: q - 1 still holds the frame before
      const double enters = rest[q - 1] + (repeats[q] ? 0 : said[q - 1]);
      if (gap[q]) {
        rest[q] = rest[q] * gap_stays + enters * gap_p;
      } else {
        rest[q] = (rest[q] + said[q]) * blank;
        said[q] = (said[q] + enters) * row[tokens[q]];
      }
      sum += rest[q] + said[q];
    }
    if (low == 0) sum += rest[0] *= gap[0] ? gap_stays : blank;
    if (sum == 0) return kNever;
    const auto drop = [&](size_t q) {
      if (said[q] + rest[q] > sum * negligible) return false;
      said[q] = rest[q] = 0;
      return true;
    };
    while (low < high && drop(low)) ++low;
    while (high > low && drop(high)) --high;
    if (sum < 1e-100) {
      for (size_t q = low; q <= high; ++q) {
        said[q] /= sum;
        rest[q] /= sum;
      }
      ln_scale += std::log(sum);
    }
  }
  double total = 0;
  for (const uint32_t end : lattice.ends) total += rest[end] + said[end];
  return std::log(total) + ln_scale;
}

// Any lattice.
double forward_any(const Lattice& lattice, const std::vector<float>& p, const Classes& classes,
                   double negligible) {
  const auto& positions = lattice.positions;
  const auto& arrivals = lattice.arrivals;
  // Mass that ends in an arrival's token; in a blank (in gaps: in anything); both at a position.
  std::vector<double> said(arrivals.size(), 0), rest(positions.size(), 0);
  rest[0] = 1;
  uint32_t low = 0, high = 0;
  double ln_scale = 0;
  for (const float* row = p.data(); row != p.data() + p.size(); row += classes.count) {
    double gap_p = 0;
    for (const uint32_t token : classes.separators) gap_p += row[token];
    uint32_t furthest = high;
    for (uint32_t q = low; q <= high; ++q) furthest = std::max(furthest, positions[q].furthest);
    high = furthest;
    double sum = 0;
    for (uint32_t q = high + 1; q-- > low;) {  // downward: sources still hold the frame before
      const Lattice::Position& position = positions[q];
      double here = rest[q], new_said = 0;
      for (uint32_t k = position.first_arrival; k < position.end_arrival; ++k) here += said[k];
      for (uint32_t k = position.first_arrival; k < position.end_arrival; ++k) {
        const Lattice::Arrival& arrival = arrivals[k];
        double enters = 0;
        for (uint32_t s = arrival.first_source; s < arrival.end_source; ++s) {
          const uint32_t from = lattice.sources[s];
          if (from < low) continue;
          enters += rest[from];
          for (uint32_t j = positions[from].first_arrival; j < positions[from].end_arrival; ++j)
            if (arrivals[j].token != arrival.token) enters += said[j];
        }
        if (position.gap) {
          new_said = enters * gap_p;
        } else {
          said[k] = (said[k] + enters) * row[arrival.token];
          new_said += said[k];
        }
      }
      if (position.gap) {
        rest[q] = here * (row[classes.blank] + gap_p) + new_said;
        sum += rest[q];
      } else {
        rest[q] = here * row[classes.blank];
        sum += rest[q] + new_said;
      }
    }
    if (sum == 0) return -std::numeric_limits<double>::infinity();
    const auto drop = [&](uint32_t q) {
      double here = rest[q];
      const Lattice::Position& position = positions[q];
      for (uint32_t k = position.first_arrival; k < position.end_arrival; ++k) here += said[k];
      if (here > sum * negligible) return false;
      rest[q] = 0;
      for (uint32_t k = position.first_arrival; k < position.end_arrival; ++k) said[k] = 0;
      return true;
    };
    while (low < high && drop(low)) ++low;
    while (high > low && drop(high)) --high;
    if (sum < 1e-100) {
      for (uint32_t q = low; q <= high; ++q) {
        rest[q] /= sum;
        for (uint32_t k = positions[q].first_arrival; k < positions[q].end_arrival; ++k)
          said[k] /= sum;
      }
      ln_scale += std::log(sum);
    }
  }
  double total = 0;
  for (const uint32_t end : lattice.ends) {
    total += rest[end];
    for (uint32_t k = positions[end].first_arrival; k < positions[end].end_arrival; ++k)
      total += said[k];
  }
  return std::log(total) + ln_scale;
}

}  // namespace

double forward(const Lattice& lattice, const std::vector<float>& p, const Classes& classes,
               double negligible) {
  const std::vector<uint32_t> tokens = chain_of(lattice);
  return tokens.empty() ? forward_any(lattice, p, classes, negligible)
                        : forward_chain(lattice, tokens, p, classes, negligible);
}

double log_forward(const Lattice& lattice, const std::vector<double>& logp,
                   const Classes& classes) {
  const auto add = [](double& a, double b) {
    const double high = std::max(a, b);
    if (high != kNever) a = high + std::log1p(std::exp(std::min(a, b) - high));
  };
  const auto& positions = lattice.positions;
  const auto& arrivals = lattice.arrivals;
  std::vector<double> said(arrivals.size(), kNever), rest(positions.size(), kNever);
  rest[0] = 0;
  for (const double* row = logp.data(); row != logp.data() + logp.size(); row += classes.count) {
    double gap_p = kNever;
    for (const uint32_t token : classes.separators) add(gap_p, row[token]);
    for (size_t q = positions.size(); q-- > 0;) {  // downward: sources still hold the frame before
      const Lattice::Position& position = positions[q];
      double stays = rest[q], comes = kNever;
      for (uint32_t k = position.first_arrival; k < position.end_arrival; ++k) add(stays, said[k]);
      for (uint32_t k = position.first_arrival; k < position.end_arrival; ++k) {
        double enters = kNever;
        for (uint32_t s = arrivals[k].first_source; s < arrivals[k].end_source; ++s) {
          const Lattice::Position& from = positions[lattice.sources[s]];
          add(enters, rest[lattice.sources[s]]);
          for (uint32_t j = from.first_arrival; j < from.end_arrival; ++j)
            if (arrivals[j].token != arrivals[k].token) add(enters, said[j]);
        }
        if (position.gap) {
          comes = enters + gap_p;
        } else {
          add(said[k], enters);
          said[k] += row[arrivals[k].token];
        }
      }
      double more = row[classes.blank];
      if (position.gap) add(more, gap_p);
      rest[q] = stays + more;
      add(rest[q], comes);
    }
  }
  double total = kNever;
  for (const uint32_t end : lattice.ends) {
    add(total, rest[end]);
    for (uint32_t k = positions[end].first_arrival; k < positions[end].end_arrival; ++k)
      add(total, said[k]);
  }
  return total;
}

namespace {

// How the best path came to a state of a frame: a position's arrival, or -1 - a position's rest.
using Link = int64_t;
constexpr Link kNone = std::numeric_limits<Link>::min();

struct Best {
  double score = kNever;
  Link from = kNone;
  void offer(double other, Link link) {
    if (other > score) {
      score = other;
      from = link;
    }
  }
};

}  // namespace

double best_path(const Lattice& lattice, const std::vector<double>& logp, const Classes& classes,
                 std::vector<uint32_t>& path) {
  const auto& positions = lattice.positions;
  const auto& arrivals = lattice.arrivals;
  const size_t frames = logp.size() / classes.count, states = arrivals.size() + positions.size();
  std::vector<double> said(arrivals.size(), kNever), rest(positions.size(), kNever);
  std::vector<Link> links(frames * states, kNone);      // of arrivals, then of rests
  std::vector<uint32_t> quiet(frames, classes.blank);   // the best of blank and separators
  rest[0] = 0;
  for (size_t t = 0; t < frames; ++t) {
    const double* row = logp.data() + t * classes.count;
    for (const uint32_t token : classes.separators)
      if (row[token] > row[quiet[t]]) quiet[t] = token;
    Link* link = links.data() + t * states;
    for (size_t q = positions.size(); q-- > 0;) {  // downward: sources still hold the frame before
      const Lattice::Position& position = positions[q];
      const Link here = -1 - static_cast<Link>(q);
      Best stay;
      stay.offer(rest[q], here);
      for (uint32_t k = position.first_arrival; k < position.end_arrival; ++k)
        stay.offer(said[k], k);
      for (uint32_t k = position.first_arrival; k < position.end_arrival; ++k) {
        Best best;
        best.offer(said[k], k);
        for (uint32_t s = arrivals[k].first_source; s < arrivals[k].end_source; ++s) {
          const uint32_t source = lattice.sources[s];
          for (uint32_t j = positions[source].first_arrival; j < positions[source].end_arrival; ++j)
            if (arrivals[j].token != arrivals[k].token) best.offer(said[j], j);
          best.offer(rest[source], -1 - static_cast<Link>(source));
        }
        said[k] = best.score + row[arrivals[k].token];
        link[k] = best.from;
      }
      rest[q] = stay.score + row[position.gap ? quiet[t] : classes.blank];
      link[arrivals.size() + q] = stay.from;
    }
  }
  Best best;
  for (const uint32_t end : lattice.ends) {
    for (uint32_t k = positions[end].first_arrival; k < positions[end].end_arrival; ++k)
      best.offer(said[k], k);
    best.offer(rest[end], -1 - static_cast<Link>(end));
  }
  path.assign(frames, classes.blank);
  Link state = best.from;
  for (size_t t = frames; t-- > 0 && state != kNone;) {
    const bool resting = state < 0;
    const size_t number = static_cast<size_t>(resting ? -1 - state : state);
    path[t] = !resting ? arrivals[number].token
                       : positions[number].gap ? quiet[t] : classes.blank;
    state = links[t * states + (resting ? arrivals.size() + number : number)];
  }
  return best.score;
}

}  // namespace ctcspeech::beam
