// 64-bit Arm, where NEON is part of the baseline. Empty elsewhere.
#if defined(__aarch64__)
#include "base/vec_neon.h"

#include "align/align_step.h"

namespace ctcspeech {

AlignTable align_neon() { return make_align_table<NeonFloat, NeonDouble>(); }

}  // namespace ctcspeech
#endif
