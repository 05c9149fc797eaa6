#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "base/vec_avx512.h"

#include "ctc/cpu/fast_loss.h"

namespace ctcspeech {

FastPath ctc_avx512() { return make_fast_path<Avx512Float, Avx512Double>(); }

}  // namespace ctcspeech
