// The extension module ctcspeech._core. Each part binds itself in bindings/<part>.cpp.
#include "bindings/bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "base/cpu.h"

namespace nb = nanobind;

namespace ctcspeech {

void bind_cpu(nb::module_& m) {
  m.def(
      "available_isas",
      [] {
        std::vector<std::string> names;
        for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kNeon})
          if (isa_available(isa)) names.emplace_back(isa_name(isa));
        return names;
      },
      "Instruction sets that this build holds and this machine can run.");
  m.def("cuda_built", [] {
#ifdef CTCSPEECH_CUDA
    return true;
#else
    return false;
#endif
  });
}

}  // namespace ctcspeech

NB_MODULE(_core, m) {
  m.doc() = "The native core of ctcspeech. Use it through the Python modules.";
  ctcspeech::bind_align(m);
  ctcspeech::bind_beam(m);
  ctcspeech::bind_cpu(m);
  ctcspeech::bind_gru(m);
  ctcspeech::bind_ngram_estimate(m);
  ctcspeech::bind_ngram(m);
  ctcspeech::bind_neural(m);
  ctcspeech::bind_ctc(m);
  ctcspeech::bind_ctc_cuda(m);
}
