#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "vec_avx2.h"

#include "ctc_fast.h"

namespace ctcspeech {

FastPath ctc_avx2() { return make_fast_path<Avx2Float, Avx2Double>(); }

}  // namespace ctcspeech
