#include "base/vec_avx2.h"

#include "align/align_step.h"

namespace ctcspeech {

AlignTable align_avx2() { return make_align_table<Avx2Float, Avx2Double>(); }

}  // namespace ctcspeech
