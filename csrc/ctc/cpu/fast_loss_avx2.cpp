#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "base/vec_avx2.h"

#include "ctc/cpu/fast_loss.h"

namespace ctcspeech {

FastPath ctc_avx2() { return make_fast_path<Avx2Float, Avx2Double>(); }

}  // namespace ctcspeech
