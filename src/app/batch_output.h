#pragma once
// BatchOutput: answers and errors as lines of an OpenAI batch output file. Pure functions: the same answers give the
// same bytes, so that a resumed job equals an uninterrupted one.

#include <span>
#include <string>

#include "app/batch_input.h"
#include "engine/request.h"

namespace flexgen {

/// What all records of a job share.
struct RecordContext {
  std::string model_name;
  int64_t created_s = 0;
  const Tokenizer* tokenizer = nullptr;  ///< may be null: then texts are empty
};

/// The record of a line all of whose sequences are done; completions in the order of the choices. Ends with '\n'.
std::string answer_record(const RecordContext& context, const RecordId& id, const BatchRequest& request,
                          std::span<const Completion> completions);

/// Why a line has no answer one of whose completions is kNotFinite.
LineError not_finite_error(const BatchRequest& request, const Completion& completion, int64_t choice);

/// Whether a record is the error_record() of a line without an answer for that reason.
bool is_not_finite_record(std::string_view record);

/// The record of a bad line. Ends with '\n'.
std::string error_record(const InputLine& line, const LineError& error);

}  // namespace flexgen
