#pragma once
// Answers and what is right as texts that are the same where the values of JSON are: numbers by what they are and not by how they are written, objects in whatever order their
// names come. Pure functions.

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace flexgen {

/// A number of JSON. Whole ones are compared digit by digit, however many; others as doubles (0.70 and 0.69999999999999996 are 0.7), and where they have more digits than a
/// double tells apart by these.
std::string judged_number(std::string_view digits);

/// A value that was read with jinja::Digits::kAsWritten.
std::string judged_json(const jinja::Value& value);

/// The same, but as a cell has it: a text is its letters without blanks around them, null is nothing.
std::string judged_text(const jinja::Value& value);

/// Of the text of an answer, to compare with judged_json() of what is right where that is no text: judged_json() of what it says in JSON; its letters behind a blank where that is a text, or no JSON.
std::string judged_answer(const std::string& answer);

/// Without blanks at its ends.
std::string without_blanks(const std::string& text);

}  // namespace flexgen
