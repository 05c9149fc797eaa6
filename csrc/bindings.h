// The Python face of the core, one bind function for each part. Only bindings*.cpp include this.
#pragma once

#include <nanobind/nanobind.h>

namespace ctcspeech {

void bind_align(nanobind::module_& m);  // bindings_align.cpp
void bind_beam(nanobind::module_& m);   // bindings_beam.cpp
void bind_cpu(nanobind::module_& m);    // bindings.cpp
void bind_gru(nanobind::module_& m);    // bindings_gru.cpp
void bind_ngram(nanobind::module_& m);  // bindings_ngram.cpp
void bind_ctc(nanobind::module_& m);    // bindings_ctc.cpp
void bind_ctc_cuda(nanobind::module_& m);  // bindings_ctc_cuda.cpp
void bind_ngram_estimate(nanobind::module_& m);  // bindings_ngram_estimate.cpp

}  // namespace ctcspeech
