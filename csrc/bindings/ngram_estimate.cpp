// Python's way to ngram/estimate/estimate.h.
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/bindings.h"
#include "ngram/estimate/estimate.h"

namespace nb = nanobind;

namespace ctcspeech {

void bind_ngram_estimate(nb::module_& m) {
  using namespace ngram;
  nb::exception<EstimateError>(m, "EstimateError");
  nb::class_<OrderStatistics>(m, "OrderStatistics")
      .def_ro("types", &OrderStatistics::types)
      .def_ro("kept", &OrderStatistics::kept)
      .def_ro("with_count", &OrderStatistics::with_count)
      .def_ro("discounts", &OrderStatistics::discounts);
  nb::class_<EstimateOptions>(m, "EstimateOptions")
      .def(nb::init<>())
      .def_rw("order", &EstimateOptions::order)
      .def_rw("prune", &EstimateOptions::prune)
      .def_rw("has_fallback", &EstimateOptions::has_fallback)
      .def_rw("fallback", &EstimateOptions::fallback)
      .def_rw("skip_symbols", &EstimateOptions::skip_symbols)
      .def_rw("vocabulary_size", &EstimateOptions::vocabulary_size)
      .def_rw("vocabulary", &EstimateOptions::vocabulary)
      .def_rw("has_vocabulary", &EstimateOptions::has_vocabulary)
      .def_rw("memory", &EstimateOptions::memory)
      .def_rw("temp_folder", &EstimateOptions::temp_folder);
  const auto release = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Estimator>(m, "Estimator")
      .def(nb::init<EstimateOptions>())
      .def("add_text",
           [](Estimator& e, nb::bytes text) {
             const char* data = text.c_str();
             const size_t size = text.size();
             nb::gil_scoped_release unlocked;
             e.add_text(data, size);
           })
      .def("finish_text", &Estimator::finish_text, release)
      .def("adjust", &Estimator::adjust, release)
      .def("normalize", &Estimator::normalize, release)
      .def("write_arpa", &Estimator::write_arpa, release)
      .def("cancel", &Estimator::cancel)
      .def_prop_ro("statistics", &Estimator::statistics)
      .def_prop_ro("sentences", &Estimator::sentences)
      .def_prop_ro("tokens", &Estimator::tokens)
      .def_prop_ro("bytes_on_disk", &Estimator::bytes_on_disk)
      .def_prop_ro("records_done", &Estimator::records_done)
      .def_prop_ro("records_total", &Estimator::records_total);
}

}  // namespace ctcspeech
