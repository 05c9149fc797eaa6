#include "align/align_step.h"

namespace ctcspeech {

CTCSPEECH_DEFINE_ALIGN_STEP(align_step_avx2)
CTCSPEECH_INSTANTIATE_ALIGN_STEP(align_step_avx2)
CTCSPEECH_DEFINE_FRAME_NORM(frame_norm_avx2)
CTCSPEECH_INSTANTIATE_FRAME_NORM(frame_norm_avx2)

}  // namespace ctcspeech
