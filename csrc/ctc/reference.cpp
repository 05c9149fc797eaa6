// CTC by the textbook: Graves et al. 2006, equations 5 to 16, in logarithms and float64. The extended
// label sequence has S = 2 L + 1 states; state s is the blank when even, label (s - 1) / 2 when odd.
#include <algorithm>

#include "ctc/utterance.h"

namespace ctcspeech {
namespace {

double log_add(double a, double b) {
  const double high = std::max(a, b), low = std::min(a, b);
  if (low == -kInfinity) return high;
  return high + std::log1p(std::exp(low - high));
}

// alpha is kept at every K-th frame and computed again from there, segment by segment, on the way back.
int64_t checkpoint_distance(int64_t T) {
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(T)))));
}

struct Memory {
  double *log_sum, *checkpoints, *segment, *beta, *next_beta, *emission, *row;

  Memory(Arena& arena, int64_t T, int64_t C, int64_t L, bool with_gradient) {
    const int64_t S = 2 * L + 1, K = checkpoint_distance(T);
    log_sum = arena.take<double>(T);
    checkpoints = arena.take<double>(with_gradient ? (T / K + 1) * S : 0);
    segment = arena.take<double>((with_gradient ? K : 2) * S);
    beta = arena.take<double>(S);
    next_beta = arena.take<double>(S);
    emission = arena.take<double>(S);
    row = arena.take<double>(C);
  }
};

template <class Element>
class Reference {
 public:
  Reference(const Utterance<Element>& u, const Memory& memory) : u(u), m(memory), S(2 * u.L + 1) {}

  // ln sum_c exp(x_c) of every frame. NaN if a frame holds NaN or +inf.
  bool normalise() {
    bool finite = true;
    for (int64_t t = 0; t < u.T; ++t) {
      const Element* x = u.logits + t * u.frame_stride;
      double high = -kInfinity;
      for (int64_t c = 0; c < u.C; ++c) {
        const double value = to_real(x[c]);
        if (std::isnan(value) || value == kInfinity) finite = false;
        high = std::max(high, value);
      }
      double sum = 0;
      if (high > -kInfinity)
        for (int64_t c = 0; c < u.C; ++c) sum += std::exp(to_real(x[c]) - high);
      m.log_sum[t] = sum > 0 ? high + std::log(sum) : 0;  // a frame of -inf throughout: every p is 0
    }
    return finite;
  }

  int64_t label(int64_t s) const { return s % 2 == 0 ? u.blank : u.labels[s / 2]; }

  // ln p(label of s | frame t) for every state, less the largest of them, which is returned: sums of
  // logarithms stay small, however unlikely the whole.
  double emit(int64_t t) {
    double high = -kInfinity;
    for (int64_t s = 0; s < S; ++s) {
      const int64_t c = label(s);
      m.emission[s] = c == CTCSPEECH_WILDCARD
                          ? -u.terms.wildcard_penalty
                          : to_real(u.logits[t * u.frame_stride + c]) - m.log_sum[t];
      high = std::max(high, m.emission[s]);
    }
    if (high == -kInfinity) return 0;
    for (int64_t s = 0; s < S; ++s) m.emission[s] -= high;
    return high;
  }

  // The log-weight of going into state s at frame t from a state before it.
  double enter(int64_t t, int64_t s) const {
    if (s % 2 == 0) return 0;
    return u.terms.delay_penalty * (static_cast<double>(u.T - 1) / 2 - static_cast<double>(t));
  }

  bool may_skip_blank_before(int64_t s) const {
    return s % 2 == 1 && s >= 3 &&
           (label(s) != label(s - 2) || label(s) == CTCSPEECH_WILDCARD);
  }

  // Returns what emit returns.
  double alpha_step(int64_t t, const double* before, double* alpha) {
    const double high = emit(t);
    for (int64_t s = 0; s < S; ++s) {
      double sum;
      if (t == 0) {
        sum = s <= 1 ? enter(0, s) : -kInfinity;
      } else {
        double entering = s >= 1 ? before[s - 1] : -kInfinity;
        if (may_skip_blank_before(s)) entering = log_add(entering, before[s - 2]);
        sum = log_add(before[s], entering + enter(t, s));
      }
      alpha[s] = m.emission[s] + sum;
    }
    return high;
  }

  // beta at t - 1 from beta at t; beta leaves out the emission of its own frame
  void beta_step(int64_t t) {
    emit(t);
    for (int64_t s = 0; s < S; ++s) m.beta[s] += m.emission[s];
    for (int64_t s = 0; s < S; ++s) {
      double sum = m.beta[s];
      if (s + 1 < S) sum = log_add(sum, enter(t, s + 1) + m.beta[s + 1]);
      if (s + 2 < S && may_skip_blank_before(s + 2))
        sum = log_add(sum, enter(t, s + 2) + m.beta[s + 2]);
      m.next_beta[s] = sum;
    }
    std::swap(m.beta, m.next_beta);
  }

  double total(const double* last_alpha) const {
    return S > 1 ? log_add(last_alpha[S - 1], last_alpha[S - 2]) : last_alpha[0];
  }

  double loss_alone() {
    double log_scale = 0;
    for (int64_t t = 0; t < u.T; ++t)
      log_scale += alpha_step(t, m.segment + ((t + 1) & 1) * S, m.segment + (t & 1) * S);
    return -(total(m.segment + ((u.T - 1) & 1) * S) + log_scale);
  }

  // alpha of frames first .. last - 1 into m.segment, from the checkpoint at `first`
  void fill_segment(int64_t first, int64_t last) {
    const double* checkpoint = m.checkpoints + first / checkpoint_distance(u.T) * S;
    std::copy(checkpoint, checkpoint + S, m.segment);
    for (int64_t t = first + 1; t < last; ++t)
      alpha_step(t, m.segment + (t - 1 - first) * S, m.segment + (t - first) * S);
  }

  double loss_and_gradient(double* gamma, int64_t gamma_stride) {
    const int64_t K = checkpoint_distance(u.T);
    double* even = m.segment;
    double* odd = m.next_beta;  // free until the way back
    double log_scale = 0;
    for (int64_t t = 0; t < u.T; ++t) {
      log_scale += alpha_step(t, even, odd);
      std::swap(even, odd);
      if (t % K == 0) std::copy(even, even + S, m.checkpoints + t / K * S);
    }
    const double loss = -(total(even) + log_scale);
    if (loss == kInfinity) return loss;

    std::fill(m.beta, m.beta + S, -kInfinity);
    m.beta[S - 1] = 0;
    if (S > 1) m.beta[S - 2] = 0;
    for (int64_t first = (u.T - 1) / K * K; first >= 0; first -= K) {
      const int64_t last = std::min(u.T, first + K);
      fill_segment(first, last);
      for (int64_t t = last - 1; t >= first; --t) {
        double* occupation = m.segment + (t - first) * S;
        occupy(occupation);
        if (gamma) std::copy(occupation, occupation + S, gamma + t * gamma_stride);
        if (u.gradient) write_gradient(t, occupation);
        if (t > 0) beta_step(t);
      }
    }
    return loss;
  }

 private:
  // gamma(t, s) in place of alpha(t, s), normalised by the frame's own sum
  void occupy(double* alpha) {
    double sum = -kInfinity;
    for (int64_t s = 0; s < S; ++s) sum = log_add(sum, alpha[s] += m.beta[s]);
    for (int64_t s = 0; s < S; ++s) alpha[s] = std::exp(alpha[s] - sum);
  }

  // softmax - gamma, equation 16; what a wildcard takes up asks nothing of the frame's softmax
  void write_gradient(int64_t t, const double* gamma) {
    double known = 1;
    for (int64_t s = 1; s < S; s += 2)
      if (label(s) == CTCSPEECH_WILDCARD) known -= gamma[s];
    const Element* x = u.logits + t * u.frame_stride;
    for (int64_t c = 0; c < u.C; ++c) m.row[c] = known * std::exp(to_real(x[c]) - m.log_sum[t]);
    for (int64_t s = 0; s < S; ++s)
      if (label(s) != CTCSPEECH_WILDCARD) m.row[label(s)] -= gamma[s];
    Element* g = u.gradient + t * u.gradient_frame_stride;
    for (int64_t c = 0; c < u.C; ++c) from_real(u.weight * m.row[c], g[c]);
  }

  const Utterance<Element>& u;
  Memory m;
  const int64_t S;
};

void fill_gamma(double* gamma, int64_t stride, int64_t T, int64_t S, double value) {
  for (int64_t t = 0; gamma && t < T; ++t) std::fill(gamma + t * stride, gamma + t * stride + S, value);
}

}  // namespace

size_t reference_workspace(int64_t T, int64_t C, int64_t L, bool with_gradient) {
  Arena arena(nullptr);
  Memory(arena, T, C, L, with_gradient);
  return arena.used();
}

template <class Element>
double reference_loss(const Utterance<Element>& u, void* workspace, double* gamma,
                      int64_t gamma_stride) {
  double loss, filling = 0;
  if (u.T == 0) {
    return u.L == 0 ? 0 : kInfinity;
  } else if (frames_needed(u.labels, u.L) > u.T) {
    loss = kInfinity;
  } else {
    const bool way_back = u.gradient || gamma;
    Arena arena(workspace);
    Reference<Element> reference(u, Memory(arena, u.T, u.C, u.L, way_back));
    if (!reference.normalise())
      loss = filling = std::numeric_limits<double>::quiet_NaN();
    else
      loss = way_back ? reference.loss_and_gradient(gamma, gamma_stride) : reference.loss_alone();
  }
  if (!(loss < kInfinity)) {
    if (u.gradient) fill_gradient(u, filling);
    fill_gamma(gamma, gamma_stride, u.T, 2 * u.L + 1, filling);
  }
  return loss;
}

template double reference_loss(const Utterance<float>&, void*, double*, int64_t);
template double reference_loss(const Utterance<double>&, void*, double*, int64_t);
template double reference_loss(const Utterance<Half>&, void*, double*, int64_t);
template double reference_loss(const Utterance<BFloat16>&, void*, double*, int64_t);

}  // namespace ctcspeech
