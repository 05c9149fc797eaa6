#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "base/vec_avx512.h"

#include "align/align_step.h"

namespace ctcspeech {
namespace {

void few_step(const AlignRow<float>& from, const AlignRow<float>& to,
              const int32_t* classes, const float* skip, const float* scores,
              float blank_score, int64_t first, int64_t last) {
  const __m512 low = _mm512_loadu_ps(scores), high = _mm512_loadu_ps(scores + 16);
  const __m512 blank = _mm512_set1_ps(blank_score);
  for (int64_t j = first; j <= last; j += 16) {
    const int64_t left = last - j + 1;
    const __mmask16 valid = left >= 16 ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
    const __m512 A = _mm512_maskz_loadu_ps(valid, from.labels + j);
    const __m512 B = _mm512_maskz_loadu_ps(valid, from.blanks + j);
    const __m512 before = _mm512_maskz_loadu_ps(valid, from.labels + j - 1);
    const __m512 skipped = _mm512_add_ps(before, _mm512_maskz_loadu_ps(valid, skip + j));
    const __m512 best = _mm512_max_ps(_mm512_max_ps(A, B), skipped);
    const __m512i index = _mm512_maskz_loadu_epi32(valid, classes + j);
    const __m512 label = _mm512_permutex2var_ps(low, index, high);
    _mm512_mask_storeu_ps(to.blanks + j, valid, _mm512_add_ps(blank, _mm512_max_ps(B, before)));
    _mm512_mask_storeu_ps(to.labels + j, valid, _mm512_add_ps(label, best));
  }
}

}  // namespace

AlignTable align_avx512() {
  AlignTable table = make_align_table<Avx512Float, Avx512Double>();
  table.float32.few_step = few_step;
  return table;
}

}  // namespace ctcspeech
