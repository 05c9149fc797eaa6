// The CTC loss on 64-bit Arm, where NEON is part of the baseline. Empty elsewhere.
#if defined(__aarch64__)
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "base/vec_neon.h"

#include "ctc/cpu/fast_loss.h"

namespace ctcspeech {

FastPath ctc_neon() { return make_fast_path<NeonFloat, NeonDouble>(); }

}  // namespace ctcspeech
#endif
