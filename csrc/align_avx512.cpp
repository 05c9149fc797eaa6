#include "align_step.h"

namespace ctcspeech {

CTCSPEECH_DEFINE_ALIGN_STEP(align_step_avx512)
CTCSPEECH_INSTANTIATE_ALIGN_STEP(align_step_avx512)
CTCSPEECH_DEFINE_FRAME_NORM(frame_norm_avx512)
CTCSPEECH_INSTANTIATE_FRAME_NORM(frame_norm_avx512)

}  // namespace ctcspeech
